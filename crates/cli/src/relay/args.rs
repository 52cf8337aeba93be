//! The command line of `polyquic relay`.

// The comments are what `--help` prints, where brackets are no links.
#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls,
    rustdoc::invalid_html_tags
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::args::{EXIT_CODES, ExecutorArgs, seconds};
use crate::relay::allow::Rule;

/// Carry datagrams between WebSockets or WebTransport and UDP, for browsers, which have no UDP.
///
/// A client opens ws://ADDR:PORT/udp?target=HOST:PORT with the subprotocol polyquic-relay.v1; from
/// then on each binary message is one UDP datagram, either way. What passes is encrypted from end
/// to end by QUIC: the relay can neither read nor change it, only drop it.
///
/// Nothing may be reached that --allow does not name. Give each rule as HOST:PORT, HOST:*, or
/// NETWORK/PREFIX:PORT (10.0.0.0/8:4433, [fd00::/8]:*). A host's name may lead to public addresses
/// only, and localhost to this machine: for any other address, allow the address or its network.
/// A network that is not wholly special (private, loopback, link-local) lets only public addresses
/// through.
///
/// The first SIGINT or SIGTERM tells all clients that the relay goes away; the exit code is 0.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct RelayArgs {
    /// Address and port to listen on; repeat for several. Port 0 takes any free port [default:
    /// 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Vec<SocketAddr>,

    /// Target that clients may reach; repeat for several. Nothing is allowed by default
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) allow: Vec<Rule>,

    /// Web site whose pages may use this relay, as in https://example.org; repeat for several.
    /// Programs that are no browsers say no origin, and are not held up by this [default: any]
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    pub(crate) origin: Vec<String>,

    /// Certificate chain, PEM, the relay's own first: clients then use wss://
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,

    /// Private key of the certificate, PEM (PKCS#8, SEC1 or PKCS#1)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,

    /// Address and UDP port to listen on for WebTransport, the shorter way for browsers that speak it;
    /// repeat for several. Needs --cert
    #[arg(long, value_name = "ADDR:PORT", requires = "cert")]
    pub(crate) webtransport: Vec<SocketAddr>,

    /// Serve the files of this directory by HTTP on the same port, to everybody; on a loopback address
    /// under names of this machine, and of the sites of --origin, only
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,

    /// Print no line for each client that has gone
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) executor: ExecutorArgs,
}

/// How much clients may ask of the relay.
#[derive(Debug, Clone, Args)]
pub(crate) struct LimitArgs {
    /// Most clients at a time
    #[arg(long, default_value = "256", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_clients: u32,

    /// Most clients at a time from one address (IPv6: from one /64)
    #[arg(long, default_value = "16", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_clients_per_address: u32,

    /// Bytes per second that a client may send, and as many that it is sent; with k, M, G (powers of
    /// 1000) or Ki, Mi, Gi (of 1024). What is over is dropped [default: unlimited]
    #[arg(long, value_name = "BYTES", value_parser = positive_bytes)]
    pub(crate) rate: Option<u64>,

    /// Datagrams per second that a client may send, and as many that it is sent [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) datagram_rate: Option<u64>,

    /// Bytes that may come for one connection of a client in all, from it and from its target
    /// together, dropped or not; then it is cut off [default: unlimited]
    #[arg(long, value_name = "BYTES", value_parser = positive_bytes)]
    pub(crate) max_bytes: Option<u64>,

    /// Seconds without a datagram either way, or without a sign of life from the client, after which
    /// it is cut off
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) idle: Duration,

    /// Bytes that wait for a client who reads slowly; datagrams that find no room are dropped
    #[arg(long, default_value = "256Ki", value_name = "BYTES", value_parser = queue_bytes)]
    pub(crate) max_queue: usize,
}

/// A number of bytes: digits, perhaps with a fraction, and perhaps a unit.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    const HINT: &str = "expected bytes, as in 500000, 500k, 1.5M or 64Ki";
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "" | "B" => 1,
        "k" | "K" | "kB" | "KB" => 1000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        _ => return Err(format!("unknown unit {unit:?}: {HINT}")),
    };
    let value: f64 = number
        .parse()
        .map_err(|_| format!("not a number: {HINT}"))?;
    let product = value * unit as f64;
    // Exact in an f64, and far beyond what any machine carries.
    if product > 1e15 {
        return Err("must be at most 1e15 bytes".into());
    }
    Ok(product as u64)
}

fn positive_bytes(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("must be more than 0".into()),
        value => Ok(value),
    }
}

/// Bounds of `--max-queue`: the largest datagram must fit, and a client must not fill the memory.
fn queue_bytes(text: &str) -> Result<usize, String> {
    let value = bytes(text)?;
    if !(64 << 10..=1 << 30).contains(&value) {
        return Err("must be between 64Ki and 1Gi".into());
    }
    Ok(value as usize)
}

/// An origin as browsers write it: scheme and host, lower case, no path.
fn origin(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('/').unwrap_or(&text);
    match text.split_once("://") {
        Some((scheme, host))
            if !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '*', '@']) =>
        {
            Ok(text.to_owned())
        }
        // What pages without an origin say, such as files.
        None if text == "null" => Ok(text.to_owned()),
        _ => Err("expected scheme and host, as in https://example.org".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_bytes_are_told_apart() {
        for (text, value) in [
            ("0", 0),
            ("1500", 1500),
            ("10k", 10_000),
            ("1.5M", 1_500_000),
            ("2G", 2_000_000_000),
            ("64Ki", 65_536),
            ("1MiB", 1 << 20),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for text in [
            "", "k", "-1", "1 k", "10Mbit", "1e9", "1..5", "nan", "9999999G",
        ] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(positive_bytes("0").is_err());
        assert!(queue_bytes("1k").is_err());
    }

    #[test]
    fn origins_are_normalised() {
        assert_eq!(
            origin("https://Example.org/"),
            Ok("https://example.org".into())
        );
        assert_eq!(
            origin("http://localhost:8080"),
            Ok("http://localhost:8080".into())
        );
        for text in ["example.org", "https://", "https://a/b", "https://*.a", "*"] {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
