//! The loops that a perf client runs, many at a time.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::channel::oneshot;
use polyquic::{Connection, ReadError, SendDatagramError, VarInt, WriteError, spawn, timeout};

use super::exchange;
use crate::connect::{ConfigFactory, Dialer};
use crate::exec::Native;
use crate::failure::{Failure, connection_reason, read_reason, write_reason};
use crate::stats::Histogram;
use crate::url::Url;

/// What one write hands over.
static PAYLOAD: Bytes = Bytes::from_static(&[0; 64 * 1024]);

/// How long a datagram may take before it counts as lost.
const DATAGRAM_LIMIT: Duration = Duration::from_secs(1);

/// What was counted.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) bytes: u64,
    pub(super) lost: u64,
    pub(super) latency: Histogram,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            bytes: 0,
            lost: 0,
            latency: Histogram::new(),
        }
    }

    fn merge(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.lost += other.lost;
        self.latency.merge(&other.latency);
    }
}

/// Run all workers, each as a task of its own, and add up what they counted.
///
/// Fails when one of them does.
pub(super) async fn run_all<R, F>(rt: &R, workers: Vec<F>) -> Result<Tally, Failure>
where
    R: Native,
    F: Future<Output = Result<Tally, Failure>> + Send + 'static,
{
    let running: Vec<_> = workers
        .into_iter()
        .map(|worker| {
            let (sender, receiver) = oneshot::channel();
            spawn(rt, async move {
                let _ = sender.send(worker.await);
            });
            receiver
        })
        .collect();
    let mut total = Tally::new();
    for worker in running {
        let tally = worker
            .await
            .map_err(|_| Failure::transfer("a worker ended unexpectedly"))??;
        total.merge(&tally);
    }
    Ok(total)
}

/// Receive until `deadline`.
pub(super) async fn download(connection: Connection, deadline: Instant) -> Result<Tally, Failure> {
    let mut tally = Tally::new();
    let (mut send, mut recv) = connection
        .open_bi()
        .await
        .map_err(|e| Failure::transfer(connection_reason(&e)))?;
    send.write_all(&u64::MAX.to_be_bytes())
        .await
        .map_err(|e| lost_write(&e))?;
    let _ = send.finish();
    while Instant::now() < deadline {
        match recv
            .read_chunk(usize::MAX, true)
            .await
            .map_err(|e| lost_read(&e))?
        {
            Some(chunk) => tally.bytes += chunk.bytes.len() as u64,
            None => return Err(Failure::transfer("the server ended the download")),
        }
    }
    let _ = recv.stop(VarInt::from_u32(0));
    Ok(tally)
}

/// Send until `deadline`, then wait until the server has all of it.
pub(super) async fn upload(connection: Connection, deadline: Instant) -> Result<Tally, Failure> {
    let mut tally = Tally::new();
    let (mut send, mut recv) = connection
        .open_bi()
        .await
        .map_err(|e| Failure::transfer(connection_reason(&e)))?;
    send.write_all(&1u64.to_be_bytes())
        .await
        .map_err(|e| lost_write(&e))?;
    while Instant::now() < deadline {
        send.write_chunk(PAYLOAD.clone())
            .await
            .map_err(|e| lost_write(&e))?;
        tally.bytes += PAYLOAD.len() as u64;
    }
    let _ = send.finish();
    // The server answers once it has read everything.
    match recv.read_chunk(1, true).await.map_err(|e| lost_read(&e))? {
        Some(_) => Ok(tally),
        None => Err(Failure::transfer("the server did not confirm the upload")),
    }
}

/// Send requests, one after the other, until `deadline`.
pub(super) async fn requests(
    connection: Connection,
    request: Bytes,
    response_bytes: u64,
    deadline: Instant,
) -> Result<Tally, Failure> {
    let mut tally = Tally::new();
    loop {
        let start = Instant::now();
        if start >= deadline {
            return Ok(tally);
        }
        exchange(&connection, &request, response_bytes).await?;
        tally.latency.record(start.elapsed());
        tally.bytes += request.len() as u64 + response_bytes;
    }
}

/// Connect, ask for a byte, close, until `deadline`. The latency is that of the handshake.
pub(super) async fn handshakes<R: Native>(
    dialer: Arc<Dialer<R>>,
    url: Url,
    address: std::net::SocketAddr,
    config: Arc<dyn ConfigFactory>,
    limit: Duration,
    deadline: Instant,
) -> Result<Tally, Failure> {
    let mut tally = Tally::new();
    while Instant::now() < deadline {
        let connected = dialer.dial(&url, &[address], &*config, limit).await?;
        exchange(&connected.connection, &Bytes::new(), 1).await?;
        connected.connection.close(VarInt::from_u32(0), b"done");
        tally
            .latency
            .record(connected.handshake.unwrap_or_default());
    }
    Ok(tally)
}

/// Keep `window` datagrams of `size` bytes on their way until `deadline`.
pub(super) async fn datagrams<R: Native>(
    rt: R,
    connection: Connection,
    size: usize,
    window: u32,
    deadline: Instant,
) -> Result<Tally, Failure> {
    let max = connection
        .max_datagram_size()
        .ok_or_else(|| Failure::transfer("the server takes no datagrams"))?;
    if !(8..=max).contains(&size) {
        return Err(Failure::usage(format!(
            "--request-size must be between 8 and {max} for datagrams on this path"
        )));
    }
    let lost = |e: polyquic::ConnectionError| Failure::transfer(connection_reason(&e));
    let epoch = Instant::now();
    let mut tally = Tally::new();
    let mut outstanding = 0;
    while Instant::now() < deadline {
        while outstanding < window {
            // Each carries the time at which it was sent.
            let mut datagram = vec![0; size];
            let nanos = epoch.elapsed().as_nanos() as u64;
            datagram[..8].copy_from_slice(&nanos.to_be_bytes());
            match connection.send_datagram_wait(datagram.into()).await {
                Ok(()) => outstanding += 1,
                Err(SendDatagramError::ConnectionLost(error)) => return Err(lost(error)),
                Err(error) => return Err(Failure::transfer(error.to_string())),
            }
        }
        match timeout(&rt, DATAGRAM_LIMIT, connection.read_datagram()).await {
            Ok(Ok(datagram)) => {
                // One that was given up may arrive after all.
                outstanding = outstanding.saturating_sub(1);
                if let Some(Ok(nanos)) = datagram.get(..8).map(<[u8; 8]>::try_from) {
                    let sent = Duration::from_nanos(u64::from_be_bytes(nanos));
                    tally.latency.record(epoch.elapsed().saturating_sub(sent));
                    tally.bytes += datagram.len() as u64;
                }
            }
            Ok(Err(error)) => return Err(lost(error)),
            Err(_) => {
                tally.lost += u64::from(outstanding);
                outstanding = 0;
            }
        }
    }
    Ok(tally)
}

fn lost_write(error: &WriteError) -> Failure {
    Failure::transfer(write_reason(error))
}

fn lost_read(error: &ReadError) -> Failure {
    Failure::transfer(read_reason(error))
}
