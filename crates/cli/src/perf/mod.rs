//! `polyquic perf`: what a pair of machines, a network and an executor can do.
//!
//! # The protocol
//!
//! ALPN `polyquic-perf`. On every bidirectional stream that the client opens, it sends the number of
//! bytes that it wants back, as 8 bytes, most significant first; then as many bytes as it likes, and
//! finishes. The server throws the latter away, then sends that many bytes (of any value) and
//! finishes. So one exchange is a download, an upload, a request with its response, or a round trip,
//! depending on its sizes. A client that has enough stops the stream; the server then takes the
//! next. Every datagram (RFC 9221) comes back as it is.
//!
//! (The layout is that of the IETF's draft-banks-quic-performance; the name differs because this
//! program has not been tested against other implementations of it.)

mod client;
mod report;
mod server;
mod worker;

use std::time::{Duration, Instant};

use polyquic::Connection;

use crate::args::PerfCommand;
use crate::failure::{Failure, connection_reason, write_reason};

/// What both sides name in the TLS handshake.
pub(crate) const ALPN: &[u8] = b"polyquic-perf";

/// Run the command.
pub(crate) fn run(command: PerfCommand) -> Result<(), Failure> {
    match command {
        PerfCommand::Server(args) => server::run(&args),
        PerfCommand::Client(args) => client::run(args),
    }
}

/// The time that a small request and a response of `bytes` take.
pub(crate) async fn echo(connection: &Connection, bytes: u64) -> Result<Duration, Failure> {
    let start = Instant::now();
    exchange(connection, &bytes::Bytes::new(), bytes).await?;
    Ok(start.elapsed())
}

/// One request and its whole response.
async fn exchange(
    connection: &Connection,
    request: &bytes::Bytes,
    response_bytes: u64,
) -> Result<(), Failure> {
    let (mut send, mut recv) = connection
        .open_bi()
        .await
        .map_err(|e| Failure::transfer(connection_reason(&e)))?;
    let lost = |e| Failure::transfer(write_reason(&e));
    send.write_all(&response_bytes.to_be_bytes())
        .await
        .map_err(lost)?;
    if !request.is_empty() {
        send.write_chunk(request.clone()).await.map_err(lost)?;
    }
    let _ = send.finish();
    let mut received = 0;
    while let Some(chunk) = recv
        .read_chunk(usize::MAX, true)
        .await
        .map_err(|e| Failure::transfer(crate::failure::read_reason(&e)))?
    {
        received += chunk.bytes.len() as u64;
    }
    if received == response_bytes {
        Ok(())
    } else {
        Err(Failure::transfer(format!(
            "the server sent {received} bytes instead of {response_bytes}"
        )))
    }
}
