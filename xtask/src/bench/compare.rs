//! What a change did: two files of results side by side.
//!
//! Where the baseline was measured in both, ratios to it are compared, so that a machine which is
//! faster or busier today cancels out; absolute figures are compared otherwise. A row counts as
//! better or worse only if the ranges over all rounds do not overlap.

use std::fmt::Write;

use super::{
    BASELINE,
    report::{Case, Spread, figure},
    results::{Results, Row},
};

/// What became of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Better,
    Worse,
    /// The ranges overlap.
    Noise,
    /// A row of the baseline itself, which says how the machine was, not what the change did.
    Machine,
}

/// One row in both files.
pub(super) struct Change {
    case: Case,
    subject: String,
    metric: String,
    /// `None` for ratios.
    unit: Option<String>,
    old: Spread,
    new: Spread,
    /// How many times as good; above 1 is better.
    pub(super) factor: f64,
    pub(super) verdict: Verdict,
}

/// Two files, row by row.
pub(super) struct Comparison {
    pub(super) changes: Vec<Change>,
    /// What one file has and the other has not.
    only: Vec<String>,
}

impl Comparison {
    pub(super) fn of(old: &Results, new: &Results) -> Self {
        let find = |results: &Results, row: &Row| -> Option<Row> {
            results.row(&row.case, &row.subject, &row.metric).cloned()
        };
        let mut only = Vec::new();
        let mut changes = Vec::new();
        for before in &old.rows {
            match find(new, before) {
                Some(after) => changes.push(change(before, &after)),
                None => only.push(format!("only in the old file: {}", name(before))),
            }
        }
        for after in &new.rows {
            if find(old, after).is_none() {
                only.push(format!("only in the new file: {}", name(after)));
            }
        }
        Self { changes, only }
    }

    /// The worst factor among the rows that got worse.
    pub(super) fn worst(&self) -> Option<f64> {
        let worse = self
            .changes
            .iter()
            .filter(|change| change.verdict == Verdict::Worse);
        worse.map(|change| change.factor).reduce(f64::min)
    }

    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let mut case: Option<&Case> = None;
        for change in &self.changes {
            if case != Some(&change.case) {
                case = Some(&change.case);
                text += &format!("\n{}\n", change.case);
                text += &format!(
                    "  {:22}{:26}{:>24}{:>24}{:>8}\n",
                    "", "", "before", "after", "change"
                );
            }
            let unit = change.unit.as_deref();
            let metric = format!("{}, {}", change.metric, unit.unwrap_or("ratio"));
            let verdict = match change.verdict {
                Verdict::Better => "better",
                Verdict::Worse => "WORSE",
                Verdict::Noise => "noise",
                Verdict::Machine => "the machine",
            };
            let _ = writeln!(
                text,
                "  {:22}{metric:26}{:>24}{:>24}{:>8.3}  {verdict}",
                change.subject,
                range(change.old),
                range(change.new),
                change.factor,
            );
        }
        if !self.only.is_empty() {
            text += "\nNot compared\n";
            for line in &self.only {
                text += &format!("  {line}\n");
            }
        }
        let count = |verdict| {
            let same = self
                .changes
                .iter()
                .filter(|change| change.verdict == verdict);
            same.count()
        };
        let _ = writeln!(
            text,
            "\n{} better, {} worse, {} within the noise. A change above 1 is better, whatever the \
             metric. Ratios are\nto {BASELINE} in the same rounds; rows with a unit are absolute. \
             Better and worse: the ranges of all\nrounds do not overlap.",
            count(Verdict::Better),
            count(Verdict::Worse),
            count(Verdict::Noise),
        );
        text
    }
}

fn name(row: &Row) -> String {
    format!("{}, {}, {}", row.case, row.subject, row.metric)
}

fn range(spread: Spread) -> String {
    format!(
        "{} ({} – {})",
        figure(spread.median),
        figure(spread.min),
        figure(spread.max)
    )
}

fn change(before: &Row, after: &Row) -> Change {
    let is_baseline = before.subject == BASELINE;
    let (old, new, more_is_better, unit) = match (before.ratio, after.ratio) {
        (Some(old), Some(new)) if !is_baseline => (old, new, true, None),
        _ => (
            before.absolute,
            after.absolute,
            before.more_is_better,
            Some(before.unit.clone()),
        ),
    };
    let verdict = if is_baseline {
        Verdict::Machine
    } else if new.min <= old.max && old.min <= new.max {
        Verdict::Noise
    } else if (new.min > old.max) == more_is_better {
        Verdict::Better
    } else {
        Verdict::Worse
    };
    Change {
        case: before.case.clone(),
        subject: before.subject.clone(),
        metric: before.metric.clone(),
        unit,
        old,
        new,
        factor: if more_is_better {
            new.median / old.median
        } else {
            old.median / new.median
        },
        verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::example;
    use super::*;

    fn verdicts(old: &Results, new: &Results) -> Vec<Verdict> {
        let changes = Comparison::of(old, new).changes;
        changes.iter().map(|change| change.verdict).collect()
    }

    #[test]
    fn ranges_that_overlap_are_noise() {
        use Verdict::{Better, Machine, Noise, Worse};
        let old = example(1.5);
        let same = [Machine, Noise, Noise, Machine, Noise, Noise];
        assert_eq!(verdicts(&old, &example(1.51)), same);
        let better = [Machine, Better, Better, Machine, Better, Better];
        assert_eq!(verdicts(&old, &example(1.8)), better);
        let worse = [Machine, Worse, Worse, Machine, Worse, Worse];
        assert_eq!(verdicts(&old, &example(1.2)), worse);
        let comparison = Comparison::of(&old, &example(1.2));
        assert!((comparison.worst().unwrap() - 0.8).abs() < 1e-9);
        assert_eq!(Comparison::of(&old, &example(1.8)).worst(), None);
    }

    /// A machine of half the speed changes every absolute figure and no ratio.
    #[test]
    fn a_slower_machine_is_not_a_change() {
        let old = example(1.5);
        let mut new = example(1.5);
        for row in &mut new.rows {
            let scale = if row.more_is_better { 0.5 } else { 2.0 };
            for value in [
                &mut row.absolute.median,
                &mut row.absolute.min,
                &mut row.absolute.max,
            ] {
                *value *= scale;
            }
        }
        assert!(
            verdicts(&old, &new)
                .iter()
                .all(|it| matches!(it, Verdict::Noise | Verdict::Machine))
        );
        let drift = &Comparison::of(&old, &new).changes[0];
        assert!((drift.factor - 0.5).abs() < 1e-9);

        // Without the baseline there is nothing better than the absolute figures.
        for row in &mut new.rows {
            row.ratio = None;
        }
        let changes = Comparison::of(&old, &new).changes;
        assert_eq!(changes[1].verdict, Verdict::Worse);
        // Less is better there, and it got more.
        assert_eq!(changes[4].verdict, Verdict::Worse);
        assert!((changes[4].factor - 0.5).abs() < 1e-9);
    }

    #[test]
    fn what_is_only_on_one_side_is_said() {
        let old = example(1.5);
        let mut new = example(1.5);
        new.rows.remove(1);
        let table = Comparison::of(&old, &new).table();
        let line = "only in the old file: download (aws-lc-rs, 1452 B), polyquic-smol, throughput";
        assert!(table.contains(line), "{table}");
        let table = Comparison::of(&new, &old).table();
        assert!(table.contains("only in the new file"), "{table}");
    }
}
