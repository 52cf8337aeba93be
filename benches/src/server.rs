//! The server's part of each workload.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    options::Options,
    probe::{Probe, emit},
    settings::Settings,
    stack::{Connection, Endpoint, RecvStream, SendStream, Stack},
    workload::Workload,
};

/// What one write of a bulk transfer hands over.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
/// Size of a request of [`Workload::Requests`].
pub(crate) const REQUEST_BYTES: usize = 128;
/// Size of the answer to it.
pub(crate) const RESPONSE_BYTES: usize = 1_024;
/// Size of a message of [`Workload::Latency`], each way.
pub(crate) const PING_BYTES: usize = 64;

/// Serves whoever connects, until the process is ended.
pub(crate) async fn run<S: Stack>(
    stack: S,
    options: &Options,
    settings: &Settings,
    described: Value,
    probe: Arc<Probe>,
    listen: SocketAddr,
) -> Result<()> {
    let workload = options.workload;
    let endpoint = stack
        .server(settings, listen)
        .context("starting the server")?;
    let address = endpoint.local_addr()?;
    emit(
        "ready",
        json!({ "address": address.to_string(), "settings": described }),
    );
    while let Some(incoming) = endpoint.accept().await {
        let (tasks, probe) = (stack.clone(), probe.clone());
        stack.spawn(async move {
            // A client that goes away ends its connection; what it measured is its own affair.
            let accepted = if matches!(workload, Workload::ZeroRtt { .. }) {
                <S::Endpoint as Endpoint>::handshake_early(incoming).await
            } else {
                <S::Endpoint as Endpoint>::handshake(incoming).await
            };
            let Ok(connection) = accepted else {
                return;
            };
            probe.completed();
            serve(tasks, connection, workload, probe).await;
        });
    }
    Ok(())
}

async fn serve<S: Stack, C: Connection>(
    stack: S,
    connection: C,
    workload: Workload,
    probe: Arc<Probe>,
) {
    if matches!(
        workload,
        Workload::Handshakes { .. }
            | Workload::Resumed { .. }
            | Workload::Memory { .. }
            | Workload::Idle { .. }
    ) {
        connection.closed().await;
        return;
    }
    if matches!(workload, Workload::Download { .. }) {
        let connection = connection.clone();
        probe.watch_packet_size(move || connection.packet_size());
    }
    let datagrams = Arc::new(AtomicU64::new(0));
    if matches!(workload, Workload::Datagrams) {
        let (connection, count, probe) = (connection.clone(), datagrams.clone(), probe.clone());
        stack.spawn(async move {
            while let Ok(datagram) = connection.read_datagram().await {
                probe.received(datagram.len());
                probe.completed();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Ok((send, recv)) = connection.accept_bi().await {
        let probe = probe.clone();
        match workload {
            Workload::Download { .. } | Workload::Loss => stack.spawn(ended(source(send, recv))),
            Workload::Upload { .. } => stack.spawn(ended(sink(recv, probe))),
            Workload::Requests { .. } | Workload::ZeroRtt { .. } => {
                stack.spawn(ended(respond(send, recv, probe)));
            }
            Workload::Datagrams => stack.spawn(ended(tell(send, datagrams.clone()))),
            _ => stack.spawn(ended(echo(send, recv))),
        }
    }
}

/// A stream that fails has lost its client, which will say so if that was unexpected.
async fn ended(stream: impl Future<Output = Result<()>>) {
    let _ = stream.await;
}

async fn source(mut send: impl SendStream, _recv: impl RecvStream) -> Result<()> {
    let chunk = Bytes::from(vec![0x5a; CHUNK_BYTES]);
    loop {
        send.write_chunk(chunk.clone()).await?;
    }
}

async fn sink(mut recv: impl RecvStream, probe: Arc<Probe>) -> Result<()> {
    while let Some(chunk) = recv.read_chunk().await? {
        probe.received(chunk.len());
    }
    Ok(())
}

async fn respond(
    mut send: impl SendStream,
    mut recv: impl RecvStream,
    probe: Arc<Probe>,
) -> Result<()> {
    static RESPONSE: [u8; RESPONSE_BYTES] = [0x5a; RESPONSE_BYTES];
    let request = recv.read_to_end(REQUEST_BYTES).await?;
    ensure!(
        request.len() == REQUEST_BYTES,
        "a request of {} bytes",
        request.len()
    );
    send.write_all(&RESPONSE).await?;
    send.finish()?;
    probe.completed();
    Ok(())
}

/// How many datagrams have come on this connection.
async fn tell(mut send: impl SendStream, count: Arc<AtomicU64>) -> Result<()> {
    send.write_all(&count.load(Ordering::Relaxed).to_be_bytes())
        .await?;
    send.finish()
}

async fn echo(mut send: impl SendStream, mut recv: impl RecvStream) -> Result<()> {
    while let Some(ping) = recv.read_chunk().await? {
        send.write_all(&ping).await?;
    }
    Ok(())
}
