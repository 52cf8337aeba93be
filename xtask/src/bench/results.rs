//! A file of results as it is read back: for comparisons, plots and the page.
//!
//! A run that has just ended goes the same way as one of last year, through its JSON, so that
//! nothing can be shown that is not in the file.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::report::{Case, Spread};

/// Everything that one file says.
#[derive(Clone, Debug)]
pub(super) struct Results {
    /// The file's name without its extension.
    pub(super) name: String,
    pub(super) machine: Value,
    pub(super) conditions: Value,
    /// Who was configured how.
    pub(super) settings: Vec<(Vec<String>, Value)>,
    pub(super) cases: Vec<Case>,
    pub(super) subjects: Vec<String>,
    pub(super) rows: Vec<Row>,
    pub(super) missing: Vec<Missing>,
    /// Whether the run came to its end.
    pub(super) complete: bool,
}

/// One metric of one subject in one case.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) case: Case,
    pub(super) subject: String,
    pub(super) metric: String,
    pub(super) unit: String,
    pub(super) more_is_better: bool,
    pub(super) absolute: Spread,
    /// To the baseline in the same rounds.
    pub(super) ratio: Option<Spread>,
    /// To the multi-threaded baseline, for multi-threaded subjects.
    pub(super) ratio_multi: Option<Spread>,
}

/// Something that was wanted and could not be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// `None` if it is missing altogether.
    pub(super) case: Option<Case>,
    pub(super) subject: String,
    pub(super) reason: String,
}

impl Results {
    pub(super) fn read(file: &Path) -> Result<Self> {
        let parse = || {
            let json = serde_json::from_str(&fs::read_to_string(file)?)?;
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            Self::parse(&name, &json)
        };
        parse().with_context(|| format!("{}", file.display()))
    }

    pub(super) fn parse(name: &str, json: &Value) -> Result<Self> {
        let rows: Vec<Row> = list(json, "rows")?
            .iter()
            .enumerate()
            .map(|(index, row)| Row::parse(row).with_context(|| format!("row {index}")))
            .collect::<Result<_>>()?;
        let settings = list(json, "settings")?
            .iter()
            .map(|entry| Ok((texts(&entry["subjects"])?, entry["settings"].clone())));
        let missing = list(json, "missing")?.iter().map(|entry| {
            Ok(Missing {
                case: match &entry["workload"] {
                    Value::Null => None,
                    _ => Some(case(entry)?),
                },
                subject: text(entry, "subject")?,
                reason: text(entry, "reason")?,
            })
        });
        Ok(Self {
            name: name.to_owned(),
            machine: json["machine"].clone(),
            conditions: json["conditions"].clone(),
            settings: settings.collect::<Result<_>>()?,
            cases: list(json, "cases")?
                .iter()
                .map(case)
                .collect::<Result<_>>()?,
            subjects: texts(&json["subjects"]).context("subjects")?,
            rows,
            missing: missing.collect::<Result<_>>()?,
            complete: json["complete"].as_bool().context("no `complete`")?,
        })
    }

    /// The rows of one case, in the order in which they were measured.
    pub(super) fn of_case<'a>(&'a self, case: &Case) -> impl Iterator<Item = &'a Row> {
        let case = case.clone();
        self.rows.iter().filter(move |row| row.case == case)
    }

    /// The metrics of one case, the most telling one first.
    pub(super) fn metrics<'a>(&'a self, case: &Case) -> Vec<&'a Row> {
        let mut metrics: Vec<&Row> = Vec::new();
        for row in self.of_case(case) {
            if metrics.iter().all(|known| known.metric != row.metric) {
                metrics.push(row);
            }
        }
        metrics
    }

    pub(super) fn row<'a>(&'a self, case: &Case, subject: &str, metric: &str) -> Option<&'a Row> {
        self.of_case(case)
            .find(|row| row.subject == subject && row.metric == metric)
    }
}

impl Row {
    fn parse(row: &Value) -> Result<Self> {
        let spread = |names: [&str; 3]| -> Result<Option<Spread>> {
            let [median, min, max] = names.map(|name| row[name].as_f64());
            match (median, min, max) {
                (None, None, None) => Ok(None),
                (Some(median), Some(min), Some(max)) => {
                    ensure!(min <= median && median <= max, "{names:?} are not in order");
                    Ok(Some(Spread { median, min, max }))
                }
                _ => anyhow::bail!("some of {names:?} are missing"),
            }
        };
        Ok(Self {
            case: case(row)?,
            subject: text(row, "subject")?,
            metric: text(row, "metric")?,
            unit: text(row, "unit")?,
            more_is_better: match &*text(row, "better")? {
                "more" => true,
                "less" => false,
                other => anyhow::bail!("`better` is {other:?}"),
            },
            absolute: spread(["median", "min", "max"])?.context("no median")?,
            ratio: spread(["ratio", "ratio_min", "ratio_max"])?,
            ratio_multi: spread(["ratio_multi", "ratio_multi_min", "ratio_multi_max"])?,
        })
    }
}

fn case(value: &Value) -> Result<Case> {
    Ok(Case {
        workload: text(value, "workload")?,
        provider: text(value, "provider")?,
        packet_size: value["packet_size"]
            .as_u64()
            .and_then(|bytes| bytes.try_into().ok())
            .context("no `packet_size`")?,
    })
}

fn text(value: &Value, name: &str) -> Result<String> {
    let text = value[name].as_str();
    Ok(text.with_context(|| format!("no `{name}`"))?.to_owned())
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a [Value]> {
    let list = value[name].as_array();
    Ok(list.with_context(|| format!("no list `{name}`"))?)
}

fn texts(value: &Value) -> Result<Vec<String>> {
    let list = value.as_array().context("not a list")?;
    let texts = list.iter().map(|it| it.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().context("not a text")
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// Results with one case per workload, of quinn and two of ours; `speed` is that of ours.
    pub(in super::super) fn example(speed: f64) -> Results {
        Results::parse("example", &example_json(speed)).unwrap()
    }

    pub(in super::super) fn example_json(speed: f64) -> Value {
        let mut rows = Vec::new();
        for (workload, metric, unit, better) in [
            ("download", "throughput", "Gbit/s", "more"),
            ("latency", "p50", "µs", "less"),
        ] {
            for (subject, factor) in [
                ("quinn-tokio", 1.0),
                ("polyquic-smol", speed),
                ("polyquic-tokio-multi", speed * 0.9),
            ] {
                let value = if better == "more" {
                    8.0 * factor
                } else {
                    50.0 / factor
                };
                let mut row = json!({
                    "workload": workload, "provider": "aws-lc-rs", "packet_size": 1452,
                    "subject": subject, "metric": metric, "unit": unit, "better": better,
                    "median": value, "min": value * 0.95, "max": value * 1.05,
                    "ratio": factor, "ratio_min": factor * 0.97, "ratio_max": factor * 1.03,
                });
                if crate::bench::is_multi(subject) {
                    for (name, scale) in [("", 1.0), ("_min", 0.97), ("_max", 1.03)] {
                        row[format!("ratio_multi{name}")] = (factor * 2.0 * scale).into();
                    }
                }
                rows.push(row);
            }
        }
        let case = |workload: &str| json!({ "workload": workload, "provider": "aws-lc-rs", "packet_size": 1452 });
        json!({
            "machine": { "processor": "one & only", "rustc": "rustc 1", "date": "today" },
            "conditions": { "rounds": 5, "seconds": 1.0 },
            "cases": [case("download"), case("latency")],
            "subjects": ["quinn-tokio", "polyquic-smol", "polyquic-tokio-multi", "gone"],
            "settings": [
                { "subjects": ["quinn-tokio"], "settings": { "tls": "t", "differs_by": "" } },
                { "subjects": ["polyquic-smol"], "settings": { "tls": "t", "differs_by": "d" } },
            ],
            "rows": rows,
            "missing": [{
                "workload": null, "provider": null, "packet_size": null,
                "subject": "gone", "reason": "does not build", "times": 1,
            }],
            "complete": true,
        })
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let error = |json: Value| format!("{:#}", Results::parse("x", &json).unwrap_err());
        assert_eq!(error(json!({})), "no list `rows`");
        let row = json!({ "workload": "w", "provider": "p", "packet_size": 70_000 });
        assert_eq!(error(json!({ "rows": [row] })), "row 0: no `packet_size`");
        let row = json!({
            "workload": "w", "provider": "p", "packet_size": 7, "subject": "s", "metric": "m",
            "unit": "u", "better": "more", "median": 3.0, "min": 4.0, "max": 5.0,
        });
        assert!(error(json!({ "rows": [row] })).contains("not in order"));
    }
}
