//! `polyquic perf client`.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{Either, select};
use polyquic::{ClientConfig, Connection, sleep, timeout};

use super::report::Report;
use super::worker::{self, Tally};
use super::{ALPN, echo};
use crate::args::{PerfClientArgs, PerfTest};
use crate::connect::{ConfigFactory, Dialer, resolve};
use crate::exec::{self, App, Native};
use crate::failure::{Exit, Failure, connection_reason};
use crate::signals::{self, Signals};
use crate::stats::Histogram;
use crate::tls::{ClientTls, Trust};
use crate::transport::TransportFactory;

/// How much longer than asked for a measurement may take before it is given up.
const GRACE: Duration = Duration::from_secs(10);

/// Handshakes at a time while many connections are being opened.
const OPENING: usize = 64;

/// Largest request, in bytes: it is held in memory.
const MAX_REQUEST_BYTES: u64 = 64 << 20;

/// Run the command.
pub(crate) fn run(args: PerfClientArgs) -> Result<(), Failure> {
    if args.request_size > MAX_REQUEST_BYTES {
        return Err(Failure::usage(format!(
            "--request-size is at most {MAX_REQUEST_BYTES} bytes"
        )));
    }
    let trust = Trust::from_args(&args.client)?;
    let mut tls = ClientTls::new(&trust, polyquic::crypto_provider(), &[ALPN])?;
    // Each handshake is a full one.
    tls.config.resumption = polyquic::rustls::client::Resumption::disabled();
    let config = ClientConfig::new(tls.quic()?);
    let mut transport = TransportFactory::new(&args.client.transport, 0)?;
    if args.test == PerfTest::Connections {
        transport = transport.keep_alive()?;
    }
    let signals = Signals::install().map_err(|e| Failure::io("cannot wait for signals", &e))?;
    let executor = args.executor.executor;
    let client = PerfClient {
        config: Arc::new(move || {
            let mut config = config.clone();
            config.transport_config(transport.one("client"));
            config
        }),
        args,
        signals,
    };
    exec::run(executor, client)
}

struct PerfClient {
    args: PerfClientArgs,
    config: Arc<dyn ConfigFactory>,
    signals: Signals,
}

impl App for PerfClient {
    type Output = ();

    async fn run<R: Native>(self, rt: R) -> Result<Self::Output, Failure> {
        let limit = self.args.client.connect_timeout;
        let url = &self.args.url;
        let addresses = resolve(&rt, url, limit).await?;
        let dialer = Arc::new(Dialer::new(rt.clone(), &addresses)?);
        // The first connection finds out which address answers, the others go there.
        let first = dialer.dial(url, &addresses, &*self.config, limit).await?;
        let link = Link {
            address: first.connection.remote_address(),
            first: first.connection,
            dialer,
        };
        let result = {
            let measurement = pin!(self.measure(&rt, &link));
            let interrupted = pin!(self.signals.nth(1));
            match select(measurement, interrupted).await {
                Either::Left((result, _)) => result,
                Either::Right((signal, _)) => Err(Failure::new(
                    Exit::Signal(signal),
                    format!("ended by {}", signals::name(signal)),
                )),
            }
        };
        if let Ok(report) = &result {
            report.print(self.args.json);
        }
        drop(link.first);
        // The workers have returned theirs, unless they were cut off.
        if let Some(dialer) = Arc::into_inner(link.dialer) {
            dialer.close().await;
        }
        result
            .map(|_| ())
            .map_err(|failure| failure.context(url.authority()))
    }
}

/// The way to the server.
struct Link<R> {
    dialer: Arc<Dialer<R>>,
    address: SocketAddr,
    first: Connection,
}

impl PerfClient {
    fn connections(&self) -> u32 {
        self.args.connections.unwrap_or(match self.args.test {
            PerfTest::Handshakes => 16,
            PerfTest::Connections => 100,
            _ => 1,
        })
    }

    fn streams(&self) -> u32 {
        self.args.streams.unwrap_or(1)
    }

    fn report(&self, elapsed: Duration) -> Report {
        let test = test_name(self.args.test);
        let mut report = Report::new(test, self.args.executor.executor.name(), elapsed);
        report.connections = self.connections();
        report
    }

    async fn measure<R: Native>(&self, rt: &R, link: &Link<R>) -> Result<Report, Failure> {
        match self.args.test {
            PerfTest::Handshakes => self.handshakes(rt, link).await,
            PerfTest::Connections => self.many_connections(rt, link).await,
            _ => self.transfers(rt, link).await,
        }
    }

    /// The connection at hand and as many more as were asked for, with what it took to open those.
    async fn open<R: Native>(
        &self,
        link: &Link<R>,
    ) -> Result<(Vec<Connection>, Histogram), Failure> {
        let mut latency = Histogram::new();
        let mut connections = vec![link.first.clone()];
        let limit = self.args.client.connect_timeout;
        let address = [link.address];
        let mut opening = futures::stream::iter(1..self.connections())
            .map(|_| {
                link.dialer
                    .dial(&self.args.url, &address, &*self.config, limit)
            })
            .buffer_unordered(OPENING);
        while let Some(connected) = opening.next().await {
            let connected = connected?;
            latency.record(connected.handshake.unwrap_or_default());
            connections.push(connected.connection);
        }
        Ok((connections, latency))
    }

    /// Upload, download, requests and datagrams: many workers on many connections.
    async fn transfers<R: Native>(&self, rt: &R, link: &Link<R>) -> Result<Report, Failure> {
        let (connections, _) = self.open(link).await?;
        let start = Instant::now();
        let deadline = start + self.args.duration;
        let size = self.args.request_size;
        let request = Bytes::from(vec![0; size as usize]);
        let (test, streams) = (self.args.test, self.streams());
        let response_bytes = self.args.response_size;
        // Datagrams have no streams; the number is how many are on their way.
        let workers_each = if test == PerfTest::Datagrams {
            1
        } else {
            streams
        };
        let workers: Vec<_> = connections
            .iter()
            .flat_map(|connection| (0..workers_each).map(move |_| connection.clone()))
            .map(|connection| {
                let (rt, request) = (rt.clone(), request.clone());
                async move {
                    match test {
                        PerfTest::Upload => worker::upload(connection, deadline).await,
                        PerfTest::Requests => {
                            worker::requests(connection, request, response_bytes, deadline).await
                        }
                        PerfTest::Datagrams => {
                            worker::datagrams(rt, connection, size as usize, streams, deadline)
                                .await
                        }
                        _ => worker::download(connection, deadline).await,
                    }
                }
            })
            .collect();
        let tally = self.bounded(rt, worker::run_all(rt, workers)).await?;
        let mut report = self.report(start.elapsed());
        report.streams = Some(streams);
        report.bytes(&tally);
        if matches!(test, PerfTest::Requests | PerfTest::Datagrams) {
            report.operations(&tally);
        }
        if test == PerfTest::Datagrams {
            report.datagrams_lost = Some(tally.lost);
        }
        report.packets_lost = connections
            .iter()
            .map(|c| c.stats().path.lost_packets)
            .sum();
        Ok(report)
    }

    async fn handshakes<R: Native>(&self, rt: &R, link: &Link<R>) -> Result<Report, Failure> {
        let start = Instant::now();
        let deadline = start + self.args.duration;
        let workers: Vec<_> = (0..self.connections())
            .map(|_| {
                worker::handshakes(
                    link.dialer.clone(),
                    self.args.url.clone(),
                    link.address,
                    self.config.clone(),
                    self.args.client.connect_timeout,
                    deadline,
                )
            })
            .collect();
        let tally = self.bounded(rt, worker::run_all(rt, workers)).await?;
        let mut report = self.report(start.elapsed());
        report.operations(&tally);
        Ok(report)
    }

    /// Open connections, keep them for the duration, and see that they are still good.
    async fn many_connections<R: Native>(&self, rt: &R, link: &Link<R>) -> Result<Report, Failure> {
        let before = resident_bytes();
        let start = Instant::now();
        let (connections, latency) = self.open(link).await?;
        let elapsed = start.elapsed();
        let after = resident_bytes();
        sleep(rt, self.args.duration).await;
        for connection in &connections {
            if let Some(error) = connection.close_reason() {
                return Err(Failure::transfer(format!(
                    "a connection was lost while idle: {}",
                    connection_reason(&error)
                )));
            }
            self.bounded(rt, echo(connection, 1)).await?;
        }
        let mut report = self.report(elapsed);
        let opened = latency.count();
        let tally = Tally {
            latency,
            ..Tally::new()
        };
        report.operations(&tally);
        report.memory_bytes_per_connection = match (before, after) {
            (Some(before), Some(after)) if opened > 0 => {
                Some(after.saturating_sub(before) / opened)
            }
            _ => None,
        };
        report.packets_lost = connections
            .iter()
            .map(|c| c.stats().path.lost_packets)
            .sum();
        Ok(report)
    }

    /// Give up when a measurement does not end by itself.
    async fn bounded<R: Native, T>(
        &self,
        rt: &R,
        measurement: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match timeout(rt, self.args.duration + GRACE, measurement).await {
            Ok(result) => result,
            Err(_) => Err(Failure::transfer("the measurement did not come to an end")),
        }
    }
}

/// The name of a test in reports.
fn test_name(test: PerfTest) -> &'static str {
    match test {
        PerfTest::Download => "download",
        PerfTest::Upload => "upload",
        PerfTest::Requests => "requests",
        PerfTest::Handshakes => "handshakes",
        PerfTest::Connections => "connections",
        PerfTest::Datagrams => "datagrams",
    }
}

/// Memory of this process that is really there, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn reports_use_the_names_of_the_command_line() {
        for test in PerfTest::value_variants() {
            let name = test.to_possible_value().unwrap();
            assert_eq!(name.get_name(), test_name(*test));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_known_on_linux() {
        assert!(resident_bytes().unwrap() > 100_000);
    }
}
