//! `polyquic serve`: files by hq-interop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use polyquic::{Connection, ReadError, RecvStream, SendStream, VarInt, spawn, timeout};

use crate::args::ServeArgs;
use crate::exec::{self, App, Native, offload};
use crate::failure::{Failure, connection_reason};
use crate::files::ChunkReader;
use crate::gate::Gate;
use crate::hq::{self, MAX_REQUEST_BYTES, Refusal};
use crate::sandbox::Sandbox;
use crate::server::{self, ServerSetup};
use crate::signals::Signals;

/// Streams that one client may have open.
pub(crate) const MAX_STREAMS: u32 = 256;

/// Transfers at a time, over all clients: each has an open file and half a megabyte of buffers.
pub(crate) const MAX_TRANSFERS: usize = 1000;

/// How long a request may take to arrive.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Run the command.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let sandbox = Sandbox::new(&args.dir)
        .map_err(|e| Failure::io(format!("cannot serve {}", args.dir.display()), &e))?;
    let setup = ServerSetup::new(&args.server, hq::ALPN, MAX_STREAMS)?;
    let signals = Signals::install().map_err(|e| Failure::io("cannot wait for signals", &e))?;
    let app = Serve {
        sandbox: Arc::new(sandbox),
        setup,
        signals,
        drain_timeout: args.drain_timeout,
    };
    exec::run(args.executor.executor, app)
}

struct Serve {
    sandbox: Arc<Sandbox>,
    setup: ServerSetup,
    signals: Signals,
    drain_timeout: Duration,
}

impl App for Serve {
    type Output = ();

    async fn run<R: Native>(self, rt: R) -> Result<Self::Output, Failure> {
        let endpoints = self.setup.listen(&rt)?;
        let gate = Gate::new(MAX_TRANSFERS);
        for endpoint in &endpoints {
            let files = Files::new(rt.clone(), self.sandbox.clone(), gate.clone());
            let handler = move |connection| files.clone().serve(connection);
            self.setup.start(&rt, endpoint, &gate, handler)?;
        }
        server::announce(
            &endpoints,
            &format!("hq-interop, {}", display(self.sandbox.root())),
        );
        server::until_signal(
            &rt,
            &self.setup,
            &endpoints,
            &gate,
            &self.signals,
            self.drain_timeout,
        )
        .await
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

/// Answers the requests of connections out of a directory.
#[derive(Clone)]
pub(crate) struct Files<R> {
    rt: R,
    sandbox: Arc<Sandbox>,
    gate: Gate,
}

impl<R: Native> Files<R> {
    /// Serve what is in `sandbox`; every transfer goes through `gate`.
    pub(crate) fn new(rt: R, sandbox: Arc<Sandbox>, gate: Gate) -> Self {
        Self { rt, sandbox, gate }
    }

    /// Answer the requests of one connection until it ends.
    pub(crate) async fn serve(self, connection: Connection) {
        let peer = connection.remote_address();
        tracing::debug!(%peer, "connected");
        let reason = loop {
            match connection.accept_bi().await {
                Ok((send, recv)) => {
                    let files = self.clone();
                    spawn(&self.rt, async move {
                        let outcome = files.answer(send, recv).await;
                        tracing::info!(%peer, "{outcome}");
                    });
                }
                Err(error) => break error,
            }
        };
        tracing::debug!(%peer, "{}", connection_reason(&reason));
    }

    /// Answer one request, and say in words how that went.
    async fn answer(self, mut send: SendStream, mut recv: RecvStream) -> String {
        let request = match timeout(&self.rt, REQUEST_LIMIT, read_request(&mut recv)).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => {
                refuse(&mut send, &mut recv, Refusal::BadRequest);
                return format!("no request: {error}");
            }
            Err(_) => {
                refuse(&mut send, &mut recv, Refusal::BadRequest);
                return "no request in time".into();
            }
        };
        let path = match hq::parse_request(&request) {
            Ok(path) => path.to_owned(),
            Err(refusal) => {
                refuse(&mut send, &mut recv, refusal);
                return "malformed request".into();
            }
        };
        // What the client says after its request is of no interest; it may have finished by now.
        let _ = recv.stop(VarInt::from_u32(0));
        let Some(_transfer) = self.gate.enter().await else {
            refuse(&mut send, &mut recv, Refusal::ShuttingDown);
            return format!("GET {path}: shutting down");
        };
        match self.send_file(&mut send, &path).await {
            Ok(bytes) => format!("GET {path}: {bytes} bytes"),
            Err(Unsent::Refused(refusal)) => {
                refuse(&mut send, &mut recv, refusal);
                format!("GET {path}: {refusal}")
            }
            Err(Unsent::Lost(reason)) => format!("GET {path}: not delivered: {reason}"),
        }
    }

    /// Send the file and wait until the client has all of it.
    async fn send_file(&self, send: &mut SendStream, path: &str) -> Result<u64, Unsent> {
        let (sandbox, name) = (self.sandbox.clone(), path.to_owned());
        let file = offload(&self.rt, move || sandbox.open(&name))
            .await
            .map_err(|_| Unsent::Refused(Refusal::Unreadable))?
            .map_err(Unsent::Refused)?;
        let mut reader = ChunkReader::new(self.rt.clone(), file);
        let mut sent = 0;
        loop {
            let chunk = match reader.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!("cannot read {path}: {error}");
                    return Err(Unsent::Refused(Refusal::Unreadable));
                }
            };
            sent += chunk.len() as u64;
            send.write_chunk(chunk)
                .await
                .map_err(|e| Unsent::Lost(e.to_string()))?;
        }
        send.finish().map_err(|e| Unsent::Lost(e.to_string()))?;
        // A transfer counts as open until it has been acknowledged: draining waits for that.
        match send.stopped().await {
            Ok(None) => Ok(sent),
            Ok(Some(code)) => Err(Unsent::Lost(format!("stopped by the client (code {code})"))),
            Err(error) => Err(Unsent::Lost(error.to_string())),
        }
    }
}

/// Why a file did not reach its client.
enum Unsent {
    /// The client is to be told.
    Refused(Refusal),
    /// The client is gone, or wants no more.
    Lost(String),
}

fn refuse(send: &mut SendStream, recv: &mut RecvStream, refusal: Refusal) {
    // Both fail only when the stream is closed already; then there is nobody to tell.
    let _ = send.reset(refusal.code());
    let _ = recv.stop(refusal.code());
}

/// What the client sends up to the first line end, or until it finishes, or until it is too long.
async fn read_request(recv: &mut RecvStream) -> Result<Vec<u8>, ReadError> {
    let mut request = Vec::new();
    while let Some(chunk) = recv.read_chunk(MAX_REQUEST_BYTES, true).await? {
        request.extend_from_slice(&chunk.bytes);
        if request.contains(&b'\n') {
            break;
        }
        if request.len() > MAX_REQUEST_BYTES {
            // Refused as malformed.
            request.clear();
            break;
        }
    }
    Ok(request)
}
