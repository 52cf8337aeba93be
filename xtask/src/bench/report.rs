//! What was measured, for people and for programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

use serde_json::{Map, Value, json};

use super::{BASELINE, BASELINE_MULTI, metrics::Metric, options::Options, private};

/// One table: a workload under one set of conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) workload: String,
    pub(super) provider: String,
    pub(super) packet_size: u16,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}, {} B)",
            self.workload, self.provider, self.packet_size
        )
    }
}

/// The figures of one metric of one subject, by round.
struct Row {
    case: Case,
    subject: String,
    metric: Metric,
    values: BTreeMap<usize, f64>,
}

/// Something that was wanted and is not there.
struct Missing {
    case: Option<Case>,
    subject: String,
    reason: String,
    times: usize,
}

/// Everything that was measured.
pub(super) struct Report {
    cases: Vec<Case>,
    subjects: Vec<String>,
    /// Whether there is nothing left to measure.
    pub(super) complete: bool,
    conditions: Value,
    machine: Value,
    /// Each way in which peers were configured, and by whom.
    settings: Vec<(Value, BTreeSet<String>)>,
    rows: Vec<Row>,
    missing: Vec<Missing>,
}

/// Median and extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            count if count % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Self {
            median,
            min: values[0],
            max: values[values.len() - 1],
        })
    }
}

impl Report {
    pub(super) fn new(options: &Options, machine: Value) -> Self {
        Self {
            cases: options.cases(),
            subjects: options.subjects.clone(),
            complete: false,
            conditions: json!({
                "rounds": options.rounds,
                "seconds": options.duration.as_secs_f64(),
                "warmup": options.warmup.as_secs_f64(),
                "workers": options.workers,
                "server_cores": options.server_cores,
                "client_cores": options.client_cores,
            }),
            machine,
            settings: Vec::new(),
            rows: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Keeps what a stack says that it is configured with, so that one can see that it is the
    /// same for all.
    pub(super) fn settings(&mut self, subject: &str, settings: &Value) {
        let known = self
            .settings
            .iter_mut()
            .find(|(known, _)| known == settings);
        match known {
            Some((_, subjects)) => {
                subjects.insert(subject.into());
            }
            None => self
                .settings
                .push((settings.clone(), BTreeSet::from([subject.into()]))),
        }
    }

    pub(super) fn add(
        &mut self,
        case: &Case,
        subject: &str,
        round: usize,
        metrics: Vec<(Metric, f64)>,
    ) {
        for (metric, value) in metrics {
            let known = self
                .rows
                .iter_mut()
                .find(|row| row.case == *case && row.subject == subject && row.metric == metric);
            match known {
                Some(row) => {
                    row.values.insert(round, value);
                }
                None => self.rows.push(Row {
                    case: case.clone(),
                    subject: subject.into(),
                    metric,
                    values: BTreeMap::from([(round, value)]),
                }),
            }
        }
    }

    pub(super) fn missing(&mut self, case: Option<&Case>, subject: &str, reason: &str) {
        let same = self
            .missing
            .iter_mut()
            .find(|it| it.case.as_ref() == case && it.subject == subject && it.reason == reason);
        match same {
            Some(missing) => missing.times += 1,
            None => self.missing.push(Missing {
                case: case.cloned(),
                subject: subject.into(),
                reason: reason.into(),
                times: 1,
            }),
        }
    }

    pub(super) fn missing_subjects(&self) -> impl Iterator<Item = &str> {
        self.missing.iter().map(|missing| &*missing.subject)
    }

    fn row(&self, like: &Row, subject: &str) -> Option<&Row> {
        self.rows.iter().find(|row| {
            row.case == like.case && row.metric == like.metric && row.subject == subject
        })
    }

    /// Round by round against another subject, and the best against the best.
    fn ratio(&self, row: &Row, baseline: &str) -> Option<(Spread, f64)> {
        let baseline = self.row(row, baseline)?;
        let ratios = row.values.iter().filter_map(|(round, value)| {
            Some(row.metric.ratio(*value, *baseline.values.get(round)?))
        });
        let best = |row: &Row| row.metric.best(row.values.values().copied());
        Some((
            Spread::of(ratios)?,
            row.metric.ratio(best(row)?, best(baseline)?),
        ))
    }

    /// The form that other programs read.
    pub(super) fn json(&self) -> Value {
        let rows = self.rows.iter().filter_map(|row| {
            let spread = Spread::of(row.values.values().copied())?;
            let mut fields = Map::new();
            let mut set = |name: &str, value: Value| {
                fields.insert(name.into(), value);
            };
            set("workload", row.case.workload.clone().into());
            set("subject", row.subject.clone().into());
            set("provider", row.case.provider.clone().into());
            set("packet_size", row.case.packet_size.into());
            set("metric", row.metric.name.into());
            set("unit", row.metric.unit.into());
            let more = row.metric.more_is_better;
            set("better", if more { "more" } else { "less" }.into());
            set("median", spread.median.into());
            set("min", spread.min.into());
            set("max", spread.max.into());
            let (ratio, best) = self.ratio(row, BASELINE).unzip();
            set("ratio", ratio.map(|it| it.median).into());
            set("ratio_min", ratio.map(|it| it.min).into());
            set("ratio_max", ratio.map(|it| it.max).into());
            set("ratio_best", best.into());
            if super::is_multi(&row.subject) {
                let (ratio, best) = self.ratio(row, BASELINE_MULTI).unzip();
                set("ratio_multi", ratio.map(|it| it.median).into());
                set("ratio_multi_min", ratio.map(|it| it.min).into());
                set("ratio_multi_max", ratio.map(|it| it.max).into());
                set("ratio_multi_best", best.into());
            }
            set(
                "values",
                row.values.values().copied().collect::<Vec<_>>().into(),
            );
            Some(Value::Object(fields))
        });
        let cases = self.cases.iter().map(|case| {
            json!({
                "workload": case.workload,
                "provider": case.provider,
                "packet_size": case.packet_size,
            })
        });
        let missing = self.missing.iter().map(|missing| {
            json!({
                "workload": missing.case.as_ref().map(|case| &case.workload),
                "provider": missing.case.as_ref().map(|case| &case.provider),
                "packet_size": missing.case.as_ref().map(|case| case.packet_size),
                "subject": missing.subject,
                "reason": private::redacted(&missing.reason),
                "times": missing.times,
            })
        });
        let settings = self
            .settings
            .iter()
            .map(|(settings, subjects)| json!({ "subjects": subjects, "settings": settings }));
        json!({
            "machine": self.machine,
            "conditions": self.conditions,
            "cases": cases.collect::<Vec<_>>(),
            "subjects": self.subjects,
            "settings": settings.collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(),
            "missing": missing.collect::<Vec<_>>(),
            "complete": self.complete,
        })
    }

    /// The form that people read.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        self.write_table(&mut text)
            .expect("a string takes everything");
        text
    }

    fn write_table(&self, text: &mut String) -> fmt::Result {
        let settings = self.settings.iter().map(|(settings, subjects)| {
            let subjects: Vec<_> = subjects.iter().map(String::as_str).collect();
            (format!("settings of {}", subjects.join(", ")), settings)
        });
        let facts = [
            ("machine".to_owned(), &self.machine),
            ("run".to_owned(), &self.conditions),
        ];
        for (title, value) in facts.into_iter().chain(settings) {
            writeln!(text, "{title}")?;
            for (name, value) in value.as_object().into_iter().flatten() {
                let shown = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                writeln!(text, "  {name:24} {shown}")?;
            }
        }
        let mut seen: Vec<(&Case, Metric)> = Vec::new();
        for first in &self.rows {
            if seen.contains(&(&first.case, first.metric)) {
                continue;
            }
            seen.push((&first.case, first.metric));
            let direction = if first.metric.more_is_better {
                "more"
            } else {
                "less"
            };
            let Metric { name, unit, .. } = first.metric;
            writeln!(
                text,
                "\n{}: {name} in {unit}, {direction} is better",
                first.case
            )?;
            writeln!(
                text,
                "  {:22}{:>9}  {:17} {:>7}  {:13} {:>6}  × {BASELINE_MULTI}",
                "", "median", "min – max", "ratio", "min – max", "best"
            )?;
            let same = |row: &&Row| row.case == first.case && row.metric == first.metric;
            for row in self.rows.iter().filter(same) {
                let Some(spread) = Spread::of(row.values.values().copied()) else {
                    continue;
                };
                let range = format!("{} – {}", figure(spread.min), figure(spread.max));
                write!(
                    text,
                    "  {:22}{:>9}  {range:17}",
                    row.subject,
                    figure(spread.median)
                )?;
                if let Some((ratio, best)) = self.ratio(row, BASELINE) {
                    let range = format!("{:.2} – {:.2}", ratio.min, ratio.max);
                    write!(text, " {:>7.2}  {range:13} {best:>6.2}", ratio.median)?;
                }
                if super::is_multi(&row.subject)
                    && let Some((ratio, _)) = self.ratio(row, BASELINE_MULTI)
                {
                    write!(
                        text,
                        "  {:.2} ({:.2} – {:.2})",
                        ratio.median, ratio.min, ratio.max
                    )?;
                }
                writeln!(text)?;
            }
        }
        if !self.missing.is_empty() {
            writeln!(text, "\nMISSING")?;
        }
        for missing in &self.missing {
            let case = missing
                .case
                .as_ref()
                .map_or("everything".to_owned(), Case::to_string);
            let Missing {
                subject,
                reason,
                times,
                ..
            } = missing;
            writeln!(text, "  {subject}, {case}, {times} times: {reason}")?;
        }
        writeln!(
            text,
            "\nA ratio is to {BASELINE} in the same rounds, above 1 is better whatever the metric; \
             `best` compares the best rounds."
        )
    }
}

/// A figure with three digits that matter, and thousands apart.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => {
            let digits = format!("{:.0}", value.abs());
            let mut text = String::from(if value < 0.0 { "-" } else { "" });
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let options = Options::parse(&[]).unwrap().unwrap();
        let mut report = Report::new(&options, json!({}));
        let case = Case {
            workload: "requests".into(),
            provider: "p".into(),
            packet_size: 1452,
        };
        let rate = Metric {
            name: "rate",
            unit: "1/s",
            more_is_better: true,
        };
        let p50 = Metric {
            name: "p50",
            unit: "µs",
            more_is_better: false,
        };
        // The machine gets slower from round to round; the ratio does not.
        for (round, speed) in [4.0, 2.0, 1.0].into_iter().enumerate() {
            report.add(
                &case,
                BASELINE,
                round,
                vec![(rate, speed), (p50, 1.0 / speed)],
            );
            report.add(
                &case,
                "polyquic-smol",
                round,
                vec![(rate, 1.5 * speed), (p50, 0.5 / speed)],
            );
        }
        report.missing(Some(&case), "polyquic-tokio", "it crashed");
        report.missing(Some(&case), "polyquic-tokio", "it crashed");
        report
    }

    fn row<'a>(json: &'a Value, subject: &str, metric: &str) -> &'a Value {
        let rows = json["rows"].as_array().unwrap();
        rows.iter()
            .find(|row| row["subject"] == subject && row["metric"] == metric)
            .unwrap()
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        let json = report().json();
        for (metric, ratio) in [("rate", 1.5), ("p50", 2.0)] {
            let row = row(&json, "polyquic-smol", metric);
            for name in ["ratio", "ratio_min", "ratio_max", "ratio_best"] {
                assert_eq!(row[name], ratio, "{metric} {name}");
            }
        }
        let rate = row(&json, "polyquic-smol", "rate");
        assert_eq!(
            (&rate["median"], &rate["min"], &rate["max"]),
            (&json!(3.0), &json!(1.5), &json!(6.0))
        );
    }

    /// The schema is a promise to other programs.
    #[test]
    fn the_json_has_the_fields_that_others_read() {
        let json = report().json();
        assert!(json["machine"].is_object());
        for row in json["rows"].as_array().unwrap() {
            for name in [
                "workload", "subject", "provider", "metric", "unit", "better",
            ] {
                assert!(row[name].is_string(), "{name} in {row}");
            }
            assert!(row["packet_size"].is_u64(), "{row}");
            for name in ["median", "min", "max", "ratio", "ratio_min", "ratio_max"] {
                assert!(row[name].is_number(), "{name} in {row}");
            }
        }
        // What this module writes, the other one reads.
        let read = super::super::results::Results::parse("x", &json).unwrap();
        assert_eq!(read.rows.len(), 4);
        assert!(!read.complete);
        assert_eq!(read.missing.len(), 1);
    }

    #[test]
    fn what_failed_is_said() {
        let report = report();
        assert_eq!(report.json()["missing"][0]["times"], 2);
        assert!(
            report
                .table()
                .contains("polyquic-tokio, requests (p, 1452 B), 2 times: it crashed")
        );
        assert_eq!(
            report.missing_subjects().collect::<Vec<_>>(),
            ["polyquic-tokio"]
        );
    }

    #[test]
    fn figures_are_short() {
        for (value, shown) in [
            (0.3333, "0.33"),
            (12.25, "12.2"),
            (123.4, "123"),
            (-1_234.0, "-1,234"),
            (1_234_567.8, "1,234,568"),
        ] {
            assert_eq!(figure(value), shown);
        }
    }

    #[test]
    fn medians_of_even_counts_lie_between() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0].into_iter()).unwrap();
        assert_eq!(
            spread,
            Spread {
                median: 2.5,
                min: 1.0,
                max: 4.0
            }
        );
        assert_eq!(Spread::of([].into_iter()), None);
    }
}
