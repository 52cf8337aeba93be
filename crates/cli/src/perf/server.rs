//! `polyquic perf server`.

use std::time::Duration;

use bytes::Bytes;
use polyquic::{Connection, RecvStream, SendStream, WriteError, spawn};

use super::ALPN;
use crate::args::PerfServerArgs;
use crate::exec::{self, App, Native};
use crate::failure::Failure;
use crate::gate::Gate;
use crate::server::{self, ServerSetup};
use crate::signals::Signals;

/// Streams that one client may have open.
const MAX_STREAMS: u32 = 10_000;

/// What responses are made of; cloning it copies nothing.
static PAYLOAD: Bytes = Bytes::from_static(&[0; 256 * 1024]);

/// Run the command.
pub(crate) fn run(args: &PerfServerArgs) -> Result<(), Failure> {
    let setup = ServerSetup::new(&args.server, ALPN, MAX_STREAMS)?;
    let signals = Signals::install().map_err(|e| Failure::io("cannot wait for signals", &e))?;
    exec::run(args.executor.executor, PerfServer { setup, signals })
}

struct PerfServer {
    setup: ServerSetup,
    signals: Signals,
}

impl App for PerfServer {
    type Output = ();

    async fn run<R: Native>(self, rt: R) -> Result<Self::Output, Failure> {
        let endpoints = self.setup.listen(&rt)?;
        // Nothing enters it: a measurement that is cut off is no loss.
        let gate = Gate::new(1);
        for endpoint in &endpoints {
            let handler = {
                let rt = rt.clone();
                move |connection| answer(rt.clone(), connection)
            };
            self.setup.start(&rt, endpoint, &gate, handler)?;
        }
        server::announce(&endpoints, "polyquic-perf");
        server::until_signal(
            &rt,
            &self.setup,
            &endpoints,
            &gate,
            &self.signals,
            Duration::from_secs(1),
        )
        .await
    }
}

/// Answer one client until its connection ends.
async fn answer<R: Native>(rt: R, connection: Connection) {
    let datagrams = connection.clone();
    spawn(&rt, async move {
        while let Ok(datagram) = datagrams.read_datagram().await {
            // Datagrams may be lost; a full buffer is one of the reasons.
            let _ = datagrams.send_datagram(datagram);
        }
    });
    while let Ok((send, recv)) = connection.accept_bi().await {
        spawn(&rt, async move {
            if let Err(reason) = respond(send, recv).await {
                tracing::debug!("a stream ended early: {reason}");
            }
        });
    }
}

async fn respond(mut send: SendStream, mut recv: RecvStream) -> Result<(), String> {
    let mut length = [0; 8];
    recv.read_exact(&mut length)
        .await
        .map_err(|e| e.to_string())?;
    while recv
        .read_chunk(usize::MAX, true)
        .await
        .map_err(|e| e.to_string())?
        .is_some()
    {}
    let mut rest = u64::from_be_bytes(length);
    while rest > 0 {
        let chunk = match usize::try_from(rest) {
            Ok(rest) if rest < PAYLOAD.len() => PAYLOAD.slice(..rest),
            _ => PAYLOAD.clone(),
        };
        rest -= chunk.len() as u64;
        match send.write_chunk(chunk).await {
            Ok(()) => {}
            // The client has enough.
            Err(WriteError::Stopped(_)) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
    }
    send.finish().map_err(|e| e.to_string())
}
