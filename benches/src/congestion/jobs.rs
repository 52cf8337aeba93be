//! What is on the page: which simulations, and which figures are made of each.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Controller,
    network::Network,
    transfer::{Accident, ENTRY, Flow, Seen, Transfer, WINDOW_BYTES},
};

/// Seeds of a whole run.
pub const SEEDS: &[u64] = &[1, 2, 3, 4, 5];
/// As many do where nothing is left to chance but the order in which tasks run.
const ENOUGH: usize = 3;
/// Simulations at the same time.
const THREADS: usize = 2;
/// Sizes of downloads, with the names of their times in results.
const DOWNLOADS: [(u64, &str); 3] = [
    (100_000, "time_100k"),
    (1_000_000, "time_1m"),
    (10_000_000, "time_10m"),
];
/// Where an outage happens, and when.
const OUTAGES: [(&str, u64); 3] = [("dsl", 6), ("lte", 6), ("satellite", 30)];
/// How long it is.
const OUTAGE: Duration = Duration::from_secs(2);
/// Share of the goodput before an accident at which a transfer has recovered.
const RECOVERED: f64 = 0.8;
/// Stream receive windows that are compared; `None` is the default.
///
/// More yet is what the links are measured with.
const WINDOWS: [(&str, Option<u32>); 3] = [
    ("1250000", None),
    ("2500000", Some(2_500_000)),
    ("5000000", Some(5_000_000)),
];
/// From when on two transfers are compared.
const SETTLED: Duration = Duration::from_secs(10);
/// When a late comer comes.
const LATE: Duration = Duration::from_secs(15);

/// A simulation, and where its figures belong.
#[derive(Debug, Clone)]
pub struct Job {
    /// A table of the page.
    pub group: &'static str,
    /// A row of it.
    pub scenario: String,
    /// Those of its flows.
    pub controllers: Vec<Controller>,
    /// What is simulated.
    pub transfer: Transfer,
    /// What is made of what was seen.
    measure: Measure,
}

#[derive(Debug, Clone, Copy)]
enum Measure {
    /// Goodput, waiting and losses of one transfer.
    Bulk,
    /// How long it took.
    Time(&'static str),
    /// How long until it was as before.
    Recovery(Duration, Duration),
    /// How two transfers share, from then on.
    Share(Duration),
    /// How the second of two transfers gets its share.
    Late,
}

/// Figures of a job by their names.
pub type Figures = Vec<(&'static str, f64)>;

/// Everything on the page for these seeds: all of them where they make a difference, and some where
/// they make next to none.
pub fn all(seeds: &[u64]) -> Vec<Job> {
    let of = |(index, &seed): (usize, &u64)| {
        let mut jobs = of(seed);
        jobs.retain(|job| index < ENOUGH || job.varies());
        jobs
    };
    seeds.iter().enumerate().flat_map(of).collect()
}

/// Everything on the page for one seed.
pub fn of(seed: u64) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut add = |group, scenario: &str, controllers: &[Controller], transfer, measure| {
        jobs.push(Job {
            group,
            scenario: scenario.into(),
            controllers: controllers.into(),
            transfer,
            measure,
        });
    };
    for network in Network::all() {
        for controller in Controller::ALL {
            let bulk = Transfer::single(seed, network.clone(), controller);
            for (bytes, name) in DOWNLOADS {
                let mut download = bulk.clone();
                download.bytes = Some(bytes);
                download.watched = Duration::from_secs(120);
                let measure = Measure::Time(name);
                add("link", network.name, &[controller], download, measure);
            }
            add("link", network.name, &[controller], bulk, Measure::Bulk);
        }
    }
    for (name, at) in OUTAGES {
        let mut network = Network::named(name).expect("it is one of them");
        // What comes back shall be comparable with what was.
        network.walks = false;
        for controller in Controller::ALL {
            let mut cut = Transfer::single(seed, network.clone(), controller);
            let at = Duration::from_secs(at);
            cut.accident = Some((at, Accident::Outage(OUTAGE)));
            cut.watched = at + Duration::from_secs(if name == "satellite" { 40 } else { 14 });
            let measure = Measure::Recovery(at, at + OUTAGE);
            add("outage", name, &[controller], cut, measure);
        }
    }
    for controller in Controller::ALL {
        let mut network = Network::named("loss-1").expect("it is one of them");
        network.down = network.down.loss(0.0);
        let mut hole = Transfer::single(seed, network, controller);
        let at = Duration::from_secs(6);
        hole.accident = Some((at, Accident::SmallerMtu(1300)));
        hole.watched = Duration::from_secs(20);
        add(
            "mtu",
            "1300",
            &[controller],
            hole,
            Measure::Recovery(at, at),
        );
    }
    for (name, window) in WINDOWS {
        for controller in Controller::ALL {
            let network = Network::named("satellite").expect("it is one of them");
            let mut bulk = Transfer::single(seed, network, controller);
            bulk.window = window;
            add("window", name, &[controller], bulk, Measure::Bulk);
        }
    }
    let shared = |name: &str, flows: [Flow; 2], seconds| Transfer {
        seed,
        network: Network::shared(name).expect("it is one of them"),
        flows: flows.into(),
        bytes: None,
        window: Some(WINDOW_BYTES),
        watched: Duration::from_secs(seconds),
        accident: None,
    };
    let flow = |controller, millis| Flow {
        round_trip: Duration::from_millis(millis),
        ..Flow::new(controller)
    };
    for name in ["1bdp", "5bdp", "codel"] {
        for (index, &a) in Controller::ALL.iter().enumerate() {
            for &b in &Controller::ALL[index..] {
                let both = shared(name, [flow(a, 40), flow(b, 40)], 40);
                add("pair", name, &[a, b], both, Measure::Share(SETTLED));
            }
        }
        for controller in Controller::ALL {
            let two = [controller; 2];
            let mut late = shared(name, [flow(controller, 40), flow(controller, 40)], 45);
            late.flows[1].start = LATE;
            add("late", name, &two, late, Measure::Late);
            let unequal = shared(name, [flow(controller, 20), flow(controller, 80)], 40);
            add("rtt", name, &two, unequal, Measure::Share(SETTLED));
        }
    }
    jobs
}

impl Job {
    /// Whether its network does something by chance, or two transfers compete.
    fn varies(&self) -> bool {
        let lossy = ["lte", "wifi", "loss-0.1", "loss-1", "loss-3"].contains(&&*self.scenario);
        self.transfer.flows.len() > 1 || self.group == "link" && lossy
    }

    /// Simulates it; figures, and series if they are wanted.
    pub fn run(&self) -> (Figures, Option<Value>) {
        let seen = self.transfer.run();
        // What is plotted.
        let series = match self.group {
            "pair" => self.scenario != "codel",
            "late" | "rtt" => self.scenario == "1bdp",
            group => matches!(group, "outage" | "mtu"),
        };
        let series = series && self.transfer.seed == SEEDS[0];
        (self.figures(&seen), series.then(|| self.series(&seen)))
    }

    /// What this is made of what was seen.
    pub fn figures(&self, seen: &Seen) -> Figures {
        let entries = |from: Duration, to: Duration| -> Range<usize> {
            let entry = |at: Duration| (at.as_millis() / ENTRY.as_millis()) as usize;
            entry(from)..entry(to)
        };
        let end = self.transfer.watched;
        let rate = |index: usize, from, to: Duration| {
            seen.flows[index].bytes(entries(from, to)) as f64 * 8e-6 / (to - from).as_secs_f64()
        };
        let waits = [
            ("wait_mean", seen.wait_mean),
            ("wait_p95", seen.wait_p95),
            ("wait_longest", seen.wait_longest),
        ];
        let first = &seen.flows[0];
        match self.measure {
            Measure::Bulk => {
                let goodput = rate(0, Duration::ZERO, end);
                let capacity = seen.capacity * 1e-6 / end.as_secs_f64();
                let resent = 100.0 * first.lost as f64 / first.packets.max(1) as f64;
                let mut figures = vec![
                    ("goodput", goodput),
                    ("share", 100.0 * goodput / capacity),
                    ("resent", resent),
                    ("marked", seen.marked as f64),
                ];
                figures.extend(waits);
                let mut rates = first.rates.clone();
                if !rates.is_empty() {
                    rates.sort_unstable();
                    figures.push(("asked_rate", rates[rates.len() / 2] as f64 * 1e-6));
                }
                figures
            }
            // What is not done is the whole time, and shown as such.
            Measure::Time(name) => {
                let took = first.done.unwrap_or(end).as_secs_f64() * 1e3;
                vec![(name, took)]
            }
            Measure::Recovery(from, to) => {
                let before = rate(0, from - Duration::from_secs(3), from);
                let window = Duration::from_millis(500);
                let since = entries(to, end);
                let recovered = since.clone().find(|&it| {
                    let at = ENTRY * it as u32;
                    at + window <= end && rate(0, at, at + window) >= before * RECOVERED
                });
                let recovered = recovered.unwrap_or(since.end) - since.start;
                let arrivals = since.map(|it| first.bytes(it..it + 1));
                let (mut silence, mut length) = (0, 0);
                for bytes in arrivals {
                    length = if bytes == 0 { length + 1 } else { 0 };
                    silence = silence.max(length);
                }
                vec![
                    ("before", before),
                    ("silent", silence as f64 * ENTRY.as_secs_f64()),
                    ("recovery", recovered as f64 * ENTRY.as_secs_f64()),
                ]
            }
            Measure::Share(from) => {
                let (a, b) = (rate(0, from, end), rate(1, from, end));
                let mut figures = vec![
                    ("goodput_a", a),
                    ("goodput_b", b),
                    ("share_a", 100.0 * a / (a + b)),
                    ("jain", jain(a, b)),
                    (
                        "used",
                        100.0 * (a + b) * 1e6 / self.transfer.network.rate as f64,
                    ),
                ];
                figures.extend(waits);
                figures
            }
            Measure::Late => {
                let second = Duration::from_secs(1);
                let mut figures = Vec::new();
                let late = |from, to| {
                    let (a, b) = (rate(0, from, to), rate(1, from, to));
                    100.0 * b / (a + b)
                };
                let ten = 10 * second;
                figures.push(("share_first_10s", late(LATE, LATE + ten)));
                figures.push(("share_last_10s", late(end - ten, end)));
                let fair = entries(LATE, end - second).find(|&it| {
                    let at = ENTRY * it as u32;
                    late(at, at + second) >= 40.0
                });
                let fair = fair.map_or(end, |it| ENTRY * it as u32);
                figures.push(("until_40_percent", (fair - LATE).as_secs_f64()));
                figures.extend(waits);
                figures
            }
        }
    }

    fn series(&self, seen: &Seen) -> Value {
        let entries = (self.transfer.watched.as_millis() / ENTRY.as_millis()) as usize;
        let flows: Vec<_> = seen
            .flows
            .iter()
            .map(|flow| {
                let goodput: Vec<_> = (0..entries)
                    .map(|it| flow.bytes(it..it + 1) as f64 * 8e-6 / ENTRY.as_secs_f64())
                    .map(|it| (it * 10.0).round() / 10.0)
                    .collect();
                let window = flow.windows.iter().take(entries);
                let window: Vec<_> = window.map(|it| it / 1000).collect();
                json!({ "goodput_mbps": goodput, "window_kb": window })
            })
            .collect();
        json!({
            "group": self.group,
            "scenario": self.scenario,
            "controllers": self.names(),
            "entry_ms": ENTRY.as_millis() as u64,
            "flows": flows,
        })
    }

    fn names(&self) -> Vec<&'static str> {
        self.controllers.iter().map(|it| it.name()).collect()
    }
}

/// Jain's index of fairness: 1 if both get the same, 0.5 if one gets all.
fn jain(a: f64, b: f64) -> f64 {
    let squares = 2.0 * (a * a + b * b);
    if squares == 0.0 {
        return 1.0;
    }
    (a + b) * (a + b) / squares
}

/// As many digits as results have: four that count.
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    let factor = 10f64.powi(digits.clamp(0, 12));
    (value * factor).round() / factor
}

/// Runs them all, two at a time, and makes results of them. `progress` is told how many are done.
pub fn results(jobs: &[Job], progress: &(dyn Fn(usize, &Job) + Sync)) -> Value {
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((index, job)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(index).map(|job| (index, job))
                } {
                    let outcome = job.run();
                    let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    outcomes.insert(index, outcome);
                    drop(outcomes);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, job);
                }
            });
        }
    });
    let outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);

    let mut records: Vec<(&Job, BTreeMap<&str, Vec<f64>>)> = Vec::new();
    let mut series = Vec::new();
    for (index, (figures, of_job)) in outcomes {
        let job = &jobs[index];
        let same = |it: &(&Job, _)| {
            let it = it.0;
            it.group == job.group
                && it.scenario == job.scenario
                && it.controllers == job.controllers
        };
        let at = records.iter().position(same).unwrap_or_else(|| {
            records.push((job, BTreeMap::new()));
            records.len() - 1
        });
        for (name, value) in figures {
            records[at].1.entry(name).or_default().push(rounded(value));
        }
        series.extend(of_job);
    }
    let records: Vec<_> = records
        .into_iter()
        .map(|(job, metrics)| {
            json!({
                "group": job.group,
                "scenario": job.scenario,
                "controllers": job.names(),
                "metrics": metrics,
            })
        })
        .collect();
    let described = |network: &Network| {
        json!({
            "name": network.name,
            "title": network.title,
            "about": network.about,
            "rate_mbps": network.rate as f64 / 1e6,
            "watched_s": network.watched.as_secs(),
        })
    };
    let mut seeds: Vec<_> = jobs.iter().map(|it| it.transfer.seed).collect();
    seeds.dedup();
    json!({
        "seeds": seeds,
        "networks": Network::all().iter().map(described).collect::<Vec<_>>(),
        "records": records,
        "series": series,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_one_for_equals_and_half_for_all_or_nothing() {
        assert_eq!(jain(5.0, 5.0), 1.0);
        assert_eq!(jain(5.0, 0.0), 0.5);
        assert_eq!(jain(0.0, 0.0), 1.0);
    }

    #[test]
    fn four_digits_remain() {
        assert_eq!(rounded(123_456.0), 123_456.0);
        assert_eq!(rounded(48.123_456), 48.12);
        assert_eq!(rounded(0.001_234_56), 0.001_235);
        assert_eq!(rounded(0.0), 0.0);
    }
}
