//! From what two processes counted to figures that can be compared.

use anyhow::{Context, Result, bail, ensure};

use super::{
    pair::{Measurement, Snapshot},
    report::Case,
};

/// What leaves each stack its own packet size.
const OWN_DEFAULTS: &str = "own-defaults";
/// A relay that lost less or more of a download's datagrams than that did not do its part; it is
/// meant to lose 1 %, and a few hundred datagrams may have more or less luck.
const PLAUSIBLE_LOSS: std::ops::RangeInclusive<f64> = 0.002..=0.05;
/// Too few to have had any loss.
const MIN_RELAYED: f64 = 200.0;

/// One kind of figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) more_is_better: bool,
}

impl Metric {
    const fn more(name: &'static str, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            more_is_better: true,
        }
    }

    const fn less(name: &'static str, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            more_is_better: false,
        }
    }

    /// How much better `value` is than `baseline`; above 1 is better.
    pub(super) fn ratio(&self, value: f64, baseline: f64) -> f64 {
        if self.more_is_better {
            value / baseline
        } else {
            baseline / value
        }
    }

    /// The best of several.
    pub(super) fn best(&self, values: impl Iterator<Item = f64>) -> Option<f64> {
        values.reduce(if self.more_is_better {
            f64::max
        } else {
            f64::min
        })
    }
}

impl Measurement {
    /// The figures of this workload, the most telling one first.
    pub(super) fn metrics(&self, case: &Case) -> Result<Vec<(Metric, f64)>> {
        let (server, client) = (&self.server, &self.client);
        // The two intervals differ by the moment that it takes to ask the server, so processor
        // time is compared as a share of each side's own interval.
        let cpu_per = |rate: f64| {
            (
                server.cpu / server.elapsed / rate,
                client.cpu / client.elapsed / rate,
            )
        };
        let of_client = |name: &str| {
            self.done[name]
                .as_f64()
                .with_context(|| format!("no {name} from the client"))
        };
        match &*case.workload {
            "download" | "upload" | "download-streams" | "upload-streams" | "connections"
            | "loss" => {
                // Whoever receives knows what has arrived.
                let (receiver, sender) = if case.workload.starts_with("upload") {
                    (server, client)
                } else {
                    (client, server)
                };
                // Loss may well make a stack think that its packets are too large.
                if case.workload != "loss" {
                    self.check_packet_size(sender, case)?;
                }
                let rate = receiver.bytes / receiver.elapsed;
                ensure!(rate > 0.0, "nothing was transferred");
                let (server_cpu, client_cpu) = cpu_per(rate);
                // What loss leaves of a fast network is better said in smaller units.
                let throughput = if case.workload == "loss" {
                    (Metric::more("throughput", "Mbit/s"), rate * 8.0 / 1e6)
                } else {
                    (Metric::more("throughput", "Gbit/s"), rate * 8.0 / 1e9)
                };
                let mut metrics = vec![
                    throughput,
                    (Metric::less("server_cpu_per_byte", "ns"), server_cpu * 1e9),
                    (Metric::less("client_cpu_per_byte", "ns"), client_cpu * 1e9),
                ];
                if case.workload == "loss" {
                    metrics.push((Metric::less("lost", "%"), self.lost_share()? * 100.0));
                }
                Ok(metrics)
            }
            "requests"
            | "requests-connections"
            | "latency"
            | "handshakes"
            | "resumed"
            | "zero-rtt" => {
                let rate = client.operations / client.elapsed;
                ensure!(rate > 0.0, "nothing was completed");
                let (server_cpu, client_cpu) = cpu_per(rate);
                let percentiles = [
                    (Metric::less("p50", "µs"), of_client("p50")?),
                    (Metric::less("p99", "µs"), of_client("p99")?),
                ];
                let (server_name, client_name) = match &*case.workload {
                    "handshakes" | "resumed" => {
                        ("server_cpu_per_handshake", "client_cpu_per_handshake")
                    }
                    "zero-rtt" => ("server_cpu_per_connection", "client_cpu_per_connection"),
                    _ => ("server_cpu_per_request", "client_cpu_per_request"),
                };
                let costs = [
                    (Metric::less(server_name, "µs"), server_cpu * 1e6),
                    (Metric::less(client_name, "µs"), client_cpu * 1e6),
                ];
                let rate = [(Metric::more("rate", "1/s"), rate)];
                Ok(match &*case.workload {
                    "latency" => [&percentiles[..], &costs].concat(),
                    _ => [&rate[..], &percentiles, &costs].concat(),
                })
            }
            "storm" | "storm-rsa" => {
                let storm = of_client("storm_rate")?;
                ensure!(storm > 0.0, "no handshake of the storm was completed");
                // No processor time: the server's would be that of the handshakes.
                Ok(vec![
                    (Metric::less("p99", "µs"), of_client("p99")?),
                    (Metric::less("p50", "µs"), of_client("p50")?),
                    (Metric::more("storm_rate", "1/s"), storm),
                ])
            }
            "datagrams" => {
                self.check_packet_size(client, case)?;
                let rate = server.operations / server.elapsed;
                ensure!(rate > 0.0, "nothing arrived");
                let (server_cpu, client_cpu) = cpu_per(rate);
                // Of all that were sent, not only of those in the interval: this is exact.
                let arrived = of_client("arrived")? / of_client("sent")?;
                Ok(vec![
                    (Metric::more("rate", "1/s"), rate),
                    // Not the share that was lost, which has no ratio when nothing was.
                    (Metric::more("delivered", "%"), arrived * 100.0),
                    (
                        Metric::less("server_cpu_per_datagram", "µs"),
                        server_cpu * 1e6,
                    ),
                    (
                        Metric::less("client_cpu_per_datagram", "µs"),
                        client_cpu * 1e6,
                    ),
                ])
            }
            "idle" => {
                let thousands = of_client("connections")? / 1e3;
                let per_thousand = |side: &Snapshot| side.cpu / side.elapsed * 1e3 / thousands;
                let (server, client) = (per_thousand(server), per_thousand(client));
                Ok(vec![
                    (Metric::less("cpu_per_1000", "ms/s"), server + client),
                    (Metric::less("server_cpu_per_1000", "ms/s"), server),
                    (Metric::less("client_cpu_per_1000", "ms/s"), client),
                ])
            }
            "memory" => {
                let connections = of_client("connections")?;
                let per_connection =
                    |bytes: f64| (bytes / 1024.0 / connections).max(f64::MIN_POSITIVE);
                let server = per_connection(server.resident_bytes);
                let client = per_connection(client.resident_bytes);
                Ok(vec![
                    (Metric::less("memory", "KiB"), server.max(client)),
                    (Metric::less("server_memory", "KiB"), server),
                    (Metric::less("client_memory", "KiB"), client),
                ])
            }
            other => bail!("no figures are known for {other}"),
        }
    }
}

impl Measurement {
    /// Which share of the datagrams the relay lost, in both directions.
    fn lost_share(&self) -> Result<f64> {
        let relay = self.relay.as_ref().context("no word from the relay")?;
        ensure!(
            relay.begun >= MIN_RELAYED,
            "only {} datagrams came to the relay",
            relay.begun
        );
        let share = 1.0 - relay.operations / relay.begun;
        ensure!(
            PLAUSIBLE_LOSS.contains(&share),
            "the relay lost {share} of {} datagrams",
            relay.begun
        );
        Ok(share)
    }
}

impl Measurement {
    /// Fails if the sender went on with smaller packets: another thing was measured then than what
    /// the table says. It also fails if nobody knows, except where the settings say that the stack
    /// does not tell.
    fn check_packet_size(&self, sender: &Snapshot, case: &Case) -> Result<()> {
        if case.provider == OWN_DEFAULTS {
            return Ok(());
        }
        let Some(size) = sender.packet_size else {
            ensure!(
                self.settings["packet_size_check"] != "on",
                "the sender did not tell the size of its packets"
            );
            return Ok(());
        };
        ensure!(
            size == u64::from(case.packet_size),
            "the sender went from packets of {} bytes to {size}",
            case.packet_size
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn measurement() -> Measurement {
        Measurement {
            settings: json!({}),
            server: Snapshot {
                elapsed: 2.1,
                cpu: 1.05,
                bytes: 2.1e9,
                begun: 0.0,
                operations: 2_100.0,
                resident_bytes: 20_480_000.0,
                packet_size: Some(1452),
            },
            client: Snapshot {
                elapsed: 2.0,
                cpu: 2.0,
                bytes: 1e9,
                begun: 0.0,
                operations: 1_000.0,
                resident_bytes: 10_240_000.0,
                packet_size: None,
            },
            relay: Some(Snapshot {
                begun: 1_000.0,
                operations: 990.0,
                ..Snapshot::default()
            }),
            done: json!({
                "p50": 3.0,
                "p99": 4.0,
                "connections": 2_000,
                "sent": 2_000,
                "arrived": 1_900,
                "storm_rate": 490.0,
            }),
        }
    }

    fn case(workload: &str) -> Case {
        Case {
            workload: workload.into(),
            provider: "p".into(),
            packet_size: 1452,
        }
    }

    fn metric(workload: &str, name: &str) -> f64 {
        let metrics = measurement().metrics(&case(workload)).unwrap();
        let found = metrics.iter().find(|(metric, _)| metric.name == name);
        found
            .unwrap_or_else(|| panic!("no {name} in {metrics:?}"))
            .1
    }

    fn assert_close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9 * b.abs(), "{a} is not {b}");
    }

    #[test]
    fn throughput_is_the_receivers() {
        assert_close(metric("download", "throughput"), 4.0);
        assert_close(metric("download", "server_cpu_per_byte"), 1.0);
        assert_close(metric("download", "client_cpu_per_byte"), 2.0);
        assert_close(metric("upload", "throughput"), 8.0);
    }

    #[test]
    fn rates_are_the_clients() {
        assert_close(metric("requests", "rate"), 500.0);
        assert_close(metric("requests", "server_cpu_per_request"), 1_000.0);
        assert_close(metric("handshakes", "client_cpu_per_handshake"), 2_000.0);
        assert_close(metric("latency", "p99"), 4.0);
    }

    #[test]
    fn memory_is_that_of_the_larger_side() {
        assert_close(metric("memory", "memory"), 10.0);
        assert_close(metric("memory", "client_memory"), 5.0);
    }

    #[test]
    fn datagrams_are_those_that_arrived() {
        assert_close(metric("datagrams", "rate"), 1_000.0);
        assert_close(metric("datagrams", "delivered"), 95.0);
        assert_close(metric("datagrams", "server_cpu_per_datagram"), 500.0);
        assert_close(metric("datagrams", "client_cpu_per_datagram"), 1_000.0);
    }

    #[test]
    fn idle_is_per_second_and_thousand() {
        assert_close(metric("idle", "server_cpu_per_1000"), 250.0);
        assert_close(metric("idle", "client_cpu_per_1000"), 500.0);
        assert_close(metric("idle", "cpu_per_1000"), 750.0);
    }

    #[test]
    fn other_packets_than_asked_for_are_a_failure() {
        let mut reduced = measurement();
        reduced.server.packet_size = Some(1200);
        assert!(reduced.metrics(&case("download")).is_err());
        assert!(reduced.metrics(&case("upload")).is_ok());
        assert!(reduced.metrics(&case("loss")).is_ok());
    }

    #[test]
    fn a_stack_that_tells_the_size_of_its_packets_has_to() {
        let mut silent = measurement();
        silent.server.packet_size = None;
        assert!(silent.metrics(&case("download")).is_ok());
        silent.settings["packet_size_check"] = json!("on");
        assert!(silent.metrics(&case("download")).is_err());
    }

    #[test]
    fn loss_without_loss_is_a_failure() {
        assert_close(metric("loss", "throughput"), 4_000.0);
        assert!((metric("loss", "lost") - 1.0).abs() < 1e-9);
        let mut none = measurement();
        none.relay.as_mut().unwrap().operations = 1_000.0;
        assert!(none.metrics(&case("loss")).is_err());
        none.relay = None;
        assert!(none.metrics(&case("loss")).is_err());
    }

    #[test]
    fn more_than_one_is_better_whatever_the_direction() {
        assert_close(Metric::more("", "").ratio(3.0, 2.0), 1.5);
        assert_close(Metric::less("", "").ratio(2.0, 3.0), 1.5);
    }
}
