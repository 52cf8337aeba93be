//! What this project wants to reach, as data; the page says what of it is reached.

use super::{
    BASELINE, OURS_PREFIX,
    page::readable,
    report::{Case, Spread, figure},
    results::{Results, Row},
};

/// Who has to reach it, and what is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    /// The best of ours, as a ratio to quinn-tokio in the same rounds.
    Best,
    /// The best of ours with several threads, as a ratio to quinn-tokio-multi.
    BestMulti,
    /// The best of ours, as an absolute figure that must not be exceeded.
    AtMost,
    /// The best of ours with the largest packets, to quinn-tokio with the usual ones.
    LargestPackets,
}

/// One target.
struct Target {
    workload: &'static str,
    metric: &'static str,
    measure: Measure,
    value: f64,
}

const fn target(
    workload: &'static str,
    metric: &'static str,
    measure: Measure,
    value: f64,
) -> Target {
    Target {
        workload,
        metric,
        measure,
        value,
    }
}

/// Ratios are above 1 for better, whatever the metric: half the processor time is 2.
const TARGETS: &[Target] = &[
    target("download", "throughput", Measure::Best, 1.6),
    target("upload", "throughput", Measure::Best, 1.6),
    target("connections", "throughput", Measure::Best, 1.6),
    target("requests", "rate", Measure::Best, 1.25),
    target("requests", "rate", Measure::BestMulti, 3.0),
    target("handshakes", "rate", Measure::Best, 1.55),
    target("memory", "server_memory", Measure::AtMost, 12.0),
    target("memory", "client_memory", Measure::AtMost, 12.0),
    target("idle", "server_cpu_per_1000", Measure::Best, 2.0),
    target("idle", "client_cpu_per_1000", Measure::Best, 2.0),
    target("latency", "p50", Measure::Best, 1.25),
    target("download", "throughput", Measure::LargestPackets, 2.0),
    target("loss", "throughput", Measure::Best, 1.0),
];

/// The adapter that must be close to the best one, as long as that is not multi-threaded.
const COMPANION: &str = "polyquic-tokio";
/// How close.
const COMPANION_SHARE: f64 = 0.85;
/// With the cryptography that targets refer to.
const PROVIDER: &str = "aws-lc-rs";
const PACKET_BYTES: u16 = 1452;

/// What was found for a target.
struct Found<'a> {
    file: &'a str,
    subject: &'a str,
    value: Spread,
    unit: &'a str,
    reached: bool,
    /// The companion's share of the best.
    companion: Option<f64>,
}

/// The table of targets, in Markdown.
pub(super) fn markdown(files: &[Results]) -> String {
    let mut text = String::from(
        "| Workload | Metric | Target | Measured | Best of ours | `polyquic-tokio` | |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for target in TARGETS {
        let (workload, metric) = (target.workload, readable(target.metric));
        let wanted = match target.measure {
            Measure::Best => format!("≥ {} ×", target.value),
            Measure::BestMulti => format!("≥ {} × quinn on several threads", target.value),
            Measure::AtMost => format!("≤ {}", target.value),
            Measure::LargestPackets => format!(
                "≥ {} × with the largest packets, to quinn with {PACKET_BYTES} bytes",
                target.value
            ),
        };
        let found = files.iter().find_map(|results| look(target, results));
        let Some(found) = found else {
            text += &format!("| {workload} | {metric} | {wanted} | not measured | | | |\n");
            continue;
        };
        let Spread { median, min, max } = found.value;
        let unit = if target.measure == Measure::AtMost {
            format!("{} {}", wanted, found.unit)
        } else {
            wanted
        };
        let companion = found.companion.map_or(String::new(), |share| {
            let verdict = if share >= COMPANION_SHARE {
                ""
            } else {
                ", behind"
            };
            format!("{:.0} % of it{verdict}", share * 100.0)
        });
        let verdict = if found.reached {
            "reached"
        } else {
            "**behind**"
        };
        text += &format!(
            "| {workload} | {metric} | {unit} | **{}** ({}–{}) | `{}` ({}) | {companion} | {verdict} |\n",
            figure(median),
            figure(min),
            figure(max),
            found.subject,
            found.file,
        );
    }
    text
}

fn look<'a>(target: &Target, results: &'a Results) -> Option<Found<'a>> {
    let at_usual = |case: &&Case| case.packet_size == PACKET_BYTES;
    let is_wanted = |case: &&Case| case.workload == target.workload && case.provider == PROVIDER;
    let mut cases = results.cases.iter().filter(is_wanted);
    let usual = cases.clone().find(at_usual);
    let case = match target.measure {
        Measure::LargestPackets => cases.max_by_key(|case| case.packet_size),
        _ => cases.find(at_usual),
    }?;
    let baseline = match target.measure {
        Measure::LargestPackets if case.packet_size == PACKET_BYTES => return None,
        Measure::LargestPackets => Some(results.row(usual?, BASELINE, target.metric)?.absolute),
        _ => None,
    };
    let value = |row: &Row| -> Option<Spread> {
        match target.measure {
            Measure::Best => row.ratio,
            Measure::BestMulti => row.ratio_multi,
            Measure::AtMost => Some(row.absolute),
            // Not measured in the same rounds, so that the extremes are those of either.
            Measure::LargestPackets => baseline.map(|baseline| Spread {
                median: row.absolute.median / baseline.median,
                min: row.absolute.min / baseline.max,
                max: row.absolute.max / baseline.min,
            }),
        }
    };
    let less = target.measure == Measure::AtMost;
    let score = |spread: Spread| if less { -spread.median } else { spread.median };
    let ours = results
        .of_case(case)
        .filter(|row| row.metric == target.metric && row.subject.starts_with(OURS_PREFIX));
    let (row, best) = ours
        .filter_map(|row| Some((row, value(row)?)))
        .max_by(|a, b| score(a.1).total_cmp(&score(b.1)))?;
    let companion = match target.measure {
        Measure::BestMulti => None,
        _ => results.row(case, COMPANION, target.metric).and_then(value),
    };
    Some(Found {
        file: &results.name,
        subject: &row.subject,
        value: best,
        unit: &row.unit,
        reached: if less {
            best.median <= target.value
        } else {
            best.median >= target.value
        },
        companion: companion.map(|it| {
            if less {
                best.median / it.median
            } else {
                it.median / best.median
            }
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::example;
    use super::*;

    fn line(files: &[Results], start: &str) -> String {
        let text = markdown(files);
        let line = text.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("{start} in {text}"))
            .to_owned()
    }

    #[test]
    fn a_target_is_reached_or_behind() {
        let start = "| download | throughput | ≥ 1.6 ×";
        assert!(line(&[example(1.7)], start).ends_with("| reached |"));
        assert!(line(&[example(1.5)], start).ends_with("| **behind** |"));
        assert!(line(&[example(1.7)], start).contains("`polyquic-smol` (example)"));
    }

    #[test]
    fn what_was_not_measured_is_not_reached() {
        assert!(line(&[example(9.0)], "| handshakes").contains("not measured"));
        assert!(line(&[], "| download").contains("not measured"));
    }

    #[test]
    fn the_largest_packets_refer_to_quinn_with_the_usual_ones() {
        let mut results = example(1.5);
        let large = Case {
            packet_size: 65_507,
            ..results.cases[0].clone()
        };
        for index in 0..2 {
            let mut row = results.rows[index].clone();
            row.case = large.clone();
            for value in [
                &mut row.absolute.median,
                &mut row.absolute.min,
                &mut row.absolute.max,
            ] {
                *value *= 1.4;
            }
            results.rows.push(row);
        }
        results.cases.push(large);
        let start = "| download | throughput | ≥ 2 × with the largest";
        assert!(line(&[results], start).contains("**2.10** (1.90–2.32)"));
        assert!(line(&[example(3.0)], start).contains("not measured"));
    }
}
