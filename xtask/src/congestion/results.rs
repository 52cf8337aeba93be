//! Results as `bench-congestion` writes them.

use anyhow::{Context, Result};
use serde_json::Value;

/// Median of the seeds, the lowest and the highest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    fn of(values: &Value) -> Option<Self> {
        let mut values: Vec<f64> = values
            .as_array()?
            .iter()
            .filter_map(Value::as_f64)
            .collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: *values.get(values.len() / 2)?,
            min: *values.first()?,
            max: *values.last()?,
        })
    }
}

/// A bottleneck on which one transfer was measured.
pub(super) struct Network {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) about: String,
}

/// What one flow did, every 100 ms.
pub(super) struct Line {
    pub(super) goodput: Vec<f64>,
    pub(super) window: Vec<f64>,
}

/// A file of results.
pub(super) struct Results {
    json: Value,
    pub(super) networks: Vec<Network>,
}

impl Results {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text)?;
        let networks = json["networks"].as_array().context("no networks")?;
        let networks = networks
            .iter()
            .map(|it| {
                let field = |name: &str| Some(it[name].as_str()?.to_owned());
                Some(Network {
                    name: field("name")?,
                    title: field("title")?,
                    about: field("about")?,
                })
            })
            .collect::<Option<_>>()
            .context("a network without a description")?;
        Ok(Self { json, networks })
    }

    fn find<'a>(
        &'a self,
        list: &'a str,
        group: &'a str,
        scenario: &'a str,
        controllers: &'a [&'a str],
    ) -> Option<&'a Value> {
        self.json[list].as_array()?.iter().find(|it| {
            it["group"] == group
                && it["scenario"] == scenario
                && it["controllers"].as_array().is_some_and(|names| {
                    names
                        .iter()
                        .map(Value::as_str)
                        .eq(controllers.iter().map(|it| Some(*it)))
                })
        })
    }

    /// A figure.
    pub(super) fn get(
        &self,
        group: &str,
        scenario: &str,
        controllers: &[&str],
        metric: &str,
    ) -> Result<Spread> {
        self.find("records", group, scenario, controllers)
            .and_then(|it| Spread::of(&it["metrics"][metric]))
            .with_context(|| format!("no {metric} of {group} {scenario} {controllers:?}"))
    }

    /// A series of each flow.
    pub(super) fn series(
        &self,
        group: &str,
        scenario: &str,
        controllers: &[&str],
    ) -> Result<Vec<Line>> {
        let numbers = |value: &Value| -> Vec<f64> {
            let items = value.as_array().into_iter().flatten();
            items.filter_map(Value::as_f64).collect()
        };
        let flows = self
            .find("series", group, scenario, controllers)
            .and_then(|it| it["flows"].as_array())
            .with_context(|| format!("no series of {group} {scenario} {controllers:?}"))?;
        Ok(flows
            .iter()
            .map(|it| Line {
                goodput: numbers(&it["goodput_mbps"]),
                window: numbers(&it["window_kb"]),
            })
            .collect())
    }
}
