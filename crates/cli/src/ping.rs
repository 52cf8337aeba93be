//! `polyquic ping`: handshake and round-trip times.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use polyquic::crypto::rustls::HandshakeData;
use polyquic::{ClientConfig, Connection, ReadError, VarInt, sleep};
use serde::Serialize;

use crate::args::PingArgs;
use crate::connect::connect;
use crate::exec::{self, App, Native};
use crate::failure::{Failure, connection_reason, read_reason, write_reason};
use crate::out::say;
use crate::signals::Signals;
use crate::stats::{Summary, ms};
use crate::tls::{ClientTls, Trust};
use crate::transport::TransportFactory;
use crate::{hq, perf};

/// Bytes that a perf server sends back.
const ECHO_BYTES: u64 = 32;

/// Run the command.
pub(crate) fn run(args: PingArgs) -> Result<(), Failure> {
    let trust = Trust::from_args(&args.client)?;
    let tls = ClientTls::new(&trust, polyquic::crypto_provider(), &[perf::ALPN, hq::ALPN])?;
    let config = ClientConfig::new(tls.quic()?);
    let transport = TransportFactory::new(&args.client.transport, 0)?;
    // An interval longer than the idle timeout is not the server's fault.
    let transport = transport.keep_alive()?;
    let signals = Signals::install().map_err(|e| Failure::io("cannot wait for signals", &e))?;
    exec::run(
        args.executor.executor,
        Ping {
            args,
            config,
            transport,
            signals,
        },
    )
}

struct Ping {
    args: PingArgs,
    config: ClientConfig,
    transport: TransportFactory,
    signals: Signals,
}

/// The result, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    address: String,
    protocol: String,
    handshake_ms: f64,
    round_trips: Option<Summary>,
    samples_ms: Vec<f64>,
    quic_rtt_ms: f64,
    quic_min_rtt_ms: f64,
    lost_packets: u64,
}

impl App for Ping {
    type Output = ();

    async fn run<R: Native>(self, rt: R) -> Result<Self::Output, Failure> {
        let url = &self.args.url;
        let config = || {
            let mut config = self.config.clone();
            config.transport_config(self.transport.one("client"));
            config
        };
        let limit = self.args.client.connect_timeout;
        let (dialer, connected) = connect(&rt, url, &config, limit).await?;
        let connection = &connected.connection;
        let protocol = negotiated(connection);
        let handshake = connected.handshake.unwrap_or_default();
        if !self.args.json {
            say!(
                "connected to {} ({}) in {:.3} ms, {protocol}",
                url.authority(),
                connection.remote_address(),
                ms(handshake)
            );
        }
        let mut samples = Vec::new();
        let outcome = {
            let work = pin!(self.round_trips(&rt, connection, &protocol, &mut samples));
            let interrupted = pin!(self.signals.nth(1));
            match select(work, interrupted).await {
                Either::Left((result, _)) => result,
                // As with other pings, Ctrl-C ends the measurement, not the report.
                Either::Right(_) => Ok(()),
            }
        };
        let stats = connection.stats();
        let report = Report {
            address: connection.remote_address().to_string(),
            protocol,
            handshake_ms: ms(handshake),
            samples_ms: samples.iter().copied().map(ms).collect(),
            round_trips: Summary::of(samples),
            quic_rtt_ms: ms(stats.path.rtt),
            quic_min_rtt_ms: ms(connection.min_rtt()),
            lost_packets: stats.path.lost_packets,
        };
        self.print(&report);
        dialer.close().await;
        outcome.map_err(|failure| failure.context(url.authority()))
    }
}

impl Ping {
    async fn round_trips<R: Native>(
        &self,
        rt: &R,
        connection: &Connection,
        protocol: &str,
        samples: &mut Vec<Duration>,
    ) -> Result<(), Failure> {
        for n in 1..=self.args.count {
            let time = if protocol.as_bytes() == perf::ALPN {
                perf::echo(connection, ECHO_BYTES).await?
            } else {
                first_byte(connection, &self.args.url.path).await?
            };
            samples.push(time);
            if !self.args.json {
                say!("{n}: {:.3} ms", ms(time));
            }
            if n < self.args.count && !self.args.interval.is_zero() {
                sleep(rt, self.args.interval).await;
            }
        }
        Ok(())
    }

    fn print(&self, report: &Report) {
        if self.args.json {
            // Numbers and strings only: this cannot fail.
            say!(
                "{}",
                serde_json::to_string_pretty(report).unwrap_or_default()
            );
            return;
        }
        if let Some(summary) = &report.round_trips {
            say!("{} round trips: {summary}", summary.count);
        }
        say!(
            "QUIC's own estimate: {:.3} ms, at least {:.3} ms; {} packets lost",
            report.quic_rtt_ms,
            report.quic_min_rtt_ms,
            report.lost_packets
        );
    }
}

/// The application protocol that the server chose.
fn negotiated(connection: &Connection) -> String {
    connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok())
        .and_then(|data| data.protocol)
        .map_or_else(
            || "no application protocol".into(),
            |protocol| String::from_utf8_lossy(&protocol).into_owned(),
        )
}

/// Time from a GET to the first byte of the answer, or to its end or refusal.
async fn first_byte(connection: &Connection, path: &str) -> Result<Duration, Failure> {
    let start = Instant::now();
    let (mut send, mut recv) = connection
        .open_bi()
        .await
        .map_err(|e| Failure::transfer(connection_reason(&e)))?;
    send.write_all(&hq::request(path))
        .await
        .map_err(|e| Failure::transfer(write_reason(&e)))?;
    // Fails only if the server stopped the stream; then reading says why.
    let _ = send.finish();
    match recv.read_chunk(1, true).await {
        Ok(_) | Err(ReadError::Reset(_)) => {}
        Err(error) => return Err(Failure::transfer(read_reason(&error))),
    }
    let time = start.elapsed();
    // The rest of the file is of no interest.
    let _ = recv.stop(VarInt::from_u32(0));
    Ok(time)
}
