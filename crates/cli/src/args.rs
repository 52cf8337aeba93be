//! The command line.

// The comments are what `--help` prints, where brackets are no links.
#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls,
    rustdoc::invalid_html_tags
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exec::ExecutorKind;
use crate::relay::args::RelayArgs;
use crate::url::Url;

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    everything asked for was done
  1    a transfer, a measurement or a cell of the demo failed
  2    the command line cannot be carried out as written
  3    no connection: name resolution, handshake, certificate verification
  4    this machine: unreadable files, mismatched keys, ports in use, full disks
  128+N  ended by signal N (130 for Ctrl-C, 143 for SIGTERM)

Environment:
  RUST_LOG       log filter, for example polyquic=debug (the log goes to stderr)
  SSLKEYLOGFILE  file that the TLS secrets are appended to, for Wireshark and the like";

/// Serve and get files over QUIC, measure, and try every executor.
///
/// Start with `polyquic demo`. Every command runs on the executor that --executor names; the
/// protocol underneath is the same.
#[derive(Debug, Parser)]
#[command(name = "polyquic", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

// The text of each is the documentation of its arguments: a comment here would replace it.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(DemoArgs),
    Serve(ServeArgs),
    Get(GetArgs),
    Ping(PingArgs),
    #[command(subcommand)]
    Perf(PerfCommand),
    Relay(RelayArgs),
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct ExecutorArgs {
    /// Executor to run on
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    pub(crate) executor: ExecutorKind,
}

/// Transfer a file between every pair of executors and show how it went.
///
/// For each pair, a server and a client are started in this process, each on an executor of its
/// own. They talk over UDP sockets on the loopback interface, with TLS 1.3, and the client verifies
/// the server's certificate against a CA made for the occasion. The copy's SHA-256 must equal the
/// original's.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DemoArgs {
    /// File to transfer [default: 64 MiB of random bytes]
    pub(crate) file: Option<PathBuf>,

    /// Use only this executor; repeat for several [default: all]
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) executor: Vec<ExecutorKind>,

    /// Seconds after which a pair counts as failed
    #[arg(long, default_value = "120", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) time_limit: Duration,
}

/// Serve the files of a directory by hq-interop.
///
/// hq-interop is HTTP/0.9 over QUIC: the client sends `GET /path`, the server answers with the
/// bytes of the file, or resets the stream: code 1 for a request it does not understand, 2 for no
/// such file, 3 for a file it cannot read, 4 while shutting down. A directory is answered with its
/// index.html. Nothing outside DIR is ever read: neither `..`, nor absolute paths, nor encoded
/// slashes, nor symbolic links lead out.
///
/// 0-RTT requests are answered: a GET may be replayed without harm.
///
/// The first SIGINT or SIGTERM drains: no new connections or requests, open transfers are finished,
/// within --drain-timeout; the exit code is 0 if all were. A second signal closes at once.
///
/// With --cert and --key, SIGHUP reads both files again, for the connections to come; those that
/// there are go on. If the files are no good, the old certificate stays in use.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ServeArgs {
    /// Directory to serve
    pub(crate) dir: PathBuf,

    #[command(flatten)]
    pub(crate) server: ServerArgs,

    /// Seconds that open transfers get to finish after a signal
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) drain_timeout: Duration,

    #[command(flatten)]
    pub(crate) executor: ExecutorArgs,
}

/// What every server takes.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Address and port to listen on; repeat for several. [::]:PORT takes IPv4 as well, port 0
    /// takes any free port [default: [::]:4433]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Vec<SocketAddr>,

    /// Certificate chain, PEM, the server's own first. Without it, a development certificate is
    /// made up for localhost and the listen addresses
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,

    /// Private key of the certificate, PEM (PKCS#8, SEC1 or PKCS#1)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,

    /// Write the CA of the development certificate to this file, for `polyquic get --ca`
    #[arg(long, value_name = "FILE", conflicts_with = "cert")]
    pub(crate) ca_out: Option<PathBuf>,

    /// Another name or address that the development certificate is for; repeat for several
    #[arg(long, value_name = "NAME", conflicts_with = "cert")]
    pub(crate) name: Vec<String>,

    /// Let clients prove their address by a Retry packet before any state is kept for them
    #[arg(long)]
    pub(crate) retry: bool,

    /// Sockets on each address, which the kernel spreads connections over; each is served by itself,
    /// on a core of its own where the executor has several [default: 1, with glommio one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) shards: Option<u16>,

    #[command(flatten)]
    pub(crate) transport: TransportArgs,
}

/// What every connection is configured by.
#[derive(Debug, Clone, Args)]
pub(crate) struct TransportArgs {
    /// Congestion controller
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    pub(crate) cc: CongestionControl,

    /// Seconds without a word from the peer after which a connection is given up
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) idle_timeout: Duration,

    /// Directory to write one qlog file per connection into
    #[cfg(feature = "qlog")]
    #[arg(long, value_name = "DIR")]
    pub(crate) qlog_dir: Option<PathBuf>,
}

/// Congestion controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum CongestionControl {
    /// RFC 9438
    #[default]
    Cubic,
    /// RFC 9002
    Newreno,
    /// BBR version 1 (experimental)
    Bbr,
}

/// What every client takes.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// Trust the CAs in this PEM file, and no others [default: the CAs of the system]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) ca: Option<PathBuf>,

    /// Do not verify certificates at all: anybody in between can read and change everything
    #[arg(long)]
    pub(crate) insecure: bool,

    /// Seconds that resolving the name and the handshake may take
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) connect_timeout: Duration,

    #[command(flatten)]
    pub(crate) transport: TransportArgs,
}

/// Download files from an hq-interop server.
///
/// A URL is https://host[:port]/path (or hq://...); the port is 443 if none is given. All files of
/// one host are fetched in parallel over one connection. A file is saved under the last part of its
/// path, and appears under that name only when it is complete; a file of the same name is replaced.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct GetArgs {
    /// What to download
    #[arg(required = true, value_name = "URL")]
    pub(crate) urls: Vec<Url>,

    /// Directory to save into; it is made if it does not exist
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    pub(crate) output: PathBuf,

    /// Most downloads at a time on one connection
    #[arg(long, default_value = "16", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) parallel: u16,

    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Resume TLS sessions kept in this file, and keep new ones in it. It holds secrets, and is
    /// readable by you only. A session is resumed only under the same --ca as it was made under
    #[arg(long, value_name = "FILE")]
    pub(crate) session_cache: Option<PathBuf>,

    /// Send the requests with the very first packet if a session can be resumed. Somebody who
    /// records these packets can replay the requests
    #[arg(long = "0rtt", requires = "session_cache")]
    pub(crate) zero_rtt: bool,

    /// Print nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) executor: ExecutorArgs,
}

/// Measure handshake and round-trip times.
///
/// Against `polyquic perf server`, a round trip is a small request and its small response. Against
/// `polyquic serve`, or any other hq-interop server, it is a GET of the URL's path until the first
/// byte of the answer or its refusal, so that it includes the server's work to find the file; the
/// rest of the file is not transferred.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct PingArgs {
    /// Server to measure
    pub(crate) url: Url,

    /// Number of round trips
    #[arg(short, long, default_value = "10", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,

    /// Seconds between two round trips
    #[arg(short, long, default_value = "0.1", value_name = "SECONDS", value_parser = seconds_or_zero)]
    pub(crate) interval: Duration,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) client: ClientArgs,

    #[command(flatten)]
    pub(crate) executor: ExecutorArgs,
}

/// Measure throughput, requests and handshakes, between `perf server` and `perf client`.
#[derive(Debug, Subcommand)]
pub(crate) enum PerfCommand {
    Server(PerfServerArgs),
    Client(PerfClientArgs),
}

/// Answer the measurements of perf clients, until SIGINT or SIGTERM.
///
/// Anybody who can reach the port can make it send as much as the line carries: not for the open
/// Internet.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct PerfServerArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,

    #[command(flatten)]
    pub(crate) executor: ExecutorArgs,
}

/// Measure a perf server.
///
/// Uploads and downloads count payload. Requests follow one another on each of --streams; so do
/// handshakes on each of --connections, where nothing is resumed. Every measurement ends shortly
/// after --duration, or fails.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct PerfClientArgs {
    /// Server to measure, https://host:port
    pub(crate) url: Url,

    /// What to measure
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    pub(crate) test: PerfTest,

    /// Seconds to measure for
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) duration: Duration,

    /// Streams at a time on each connection; for datagrams, how many are on their way [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) streams: Option<u32>,

    /// Connections at a time [default: 1; handshakes 16; connections 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) connections: Option<u32>,

    /// Bytes of a request (requests), or of a datagram (datagrams)
    #[arg(long, default_value = "128", value_name = "BYTES")]
    pub(crate) request_size: u64,

    /// Bytes of a response (requests)
    #[arg(long, default_value = "1024", value_name = "BYTES")]
    pub(crate) response_size: u64,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) client: ClientArgs,

    #[command(flatten)]
    pub(crate) executor: ExecutorArgs,
}

/// Measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum PerfTest {
    /// Bytes per second from the server
    #[default]
    Download,
    /// Bytes per second to the server
    Upload,
    /// Requests per second, and how long each takes
    Requests,
    /// Handshakes per second, each a full one and followed by a small request
    Handshakes,
    /// Open many connections, keep them, and report the time and memory that each takes
    Connections,
    /// Datagrams (RFC 9221) that come back, and how long that takes
    Datagrams,
}

/// A positive number of seconds, with a fraction if need be.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let duration = seconds_or_zero(text)?;
    if duration.is_zero() {
        return Err("must be more than 0".into());
    }
    Ok(duration)
}

/// A number of seconds. Bounded, so that no sum of times can overflow.
fn seconds_or_zero(text: &str) -> Result<Duration, String> {
    const MAX_SECONDS: f64 = 7.0 * 24.0 * 3600.0;
    let value: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    if !(0.0..=MAX_SECONDS).contains(&value) {
        return Err(format!("must be between 0 and {MAX_SECONDS}"));
    }
    Ok(Duration::from_secs_f64(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn combinations_that_make_no_sense_are_refused() {
        for line in [
            "serve",
            "serve dir --cert a",
            "serve dir --key a",
            "serve dir --cert a --key b --ca-out c",
            "serve dir --listen nonsense",
            "serve dir --idle-timeout 0",
            "serve dir --idle-timeout nan",
            "serve dir --cc reno2",
            "get",
            "get ftp://h/x",
            "get https://h/x --0rtt",
            "get https://h/x --ca a --insecure",
            "get https://h/x --parallel 0",
            "ping https://h/x -c 0",
            "perf",
            "perf client https://h --duration -1",
            "demo --executor nonsense",
            "relay --allow nonsense",
            "relay --allow a:1 --rate 10Mbit",
            "relay --allow a:1 --origin example.org",
            "relay --allow a:1 --cert a",
            "relay --allow a:1 --idle 0",
            "relay --allow a:1 --max-queue 1",
        ] {
            let words = std::iter::once("polyquic").chain(line.split(' '));
            let error = Cli::try_parse_from(words).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn the_usual_lines_are_understood() {
        for line in [
            "demo",
            "demo file --time-limit 1.5",
            "serve dir --listen 127.0.0.1:0 --listen [::1]:0 --retry --cc bbr",
            "get https://h/x hq://h:1/y -o dir --insecure",
            "get https://h/x --session-cache f --0rtt",
            "ping https://h -c 3 -i 0",
            "perf client https://h --test requests --streams 64 --json",
            "relay --allow a:1 --allow 10.0.0.0/8:* --rate 1.5M --origin https://a --files . -q",
        ] {
            let words = std::iter::once("polyquic").chain(line.split(' '));
            Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
