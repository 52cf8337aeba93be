//! quinn, on tokio's two runtimes and on smol.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use polyquic_bench::{
    impl_quinn_names,
    peer::{self, Peer},
    settings::Settings,
    stack::Stack,
};

impl_quinn_names!(quinn);

fn main() -> ExitCode {
    peer::main(&[
        ("quinn-tokio", tokio_current_thread),
        ("quinn-tokio-multi", tokio_multi_thread),
        // How many threads smol's global executor has is decided by SMOL_THREADS.
        ("quinn-smol", smol_global),
        ("quinn-smol-multi", smol_global),
    ])
}

fn tokio_current_thread(peer: Peer) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(peer.run(Tokio))
}

fn tokio_multi_thread(peer: Peer) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(peer.options.workers)
        .enable_all()
        .build()?;
    // Off the main thread, which is not a worker: a task that is woken from there costs more.
    let task = runtime.spawn(peer.run(Tokio));
    runtime.block_on(task)?
}

fn smol_global(peer: Peer) -> Result<()> {
    smol::block_on(smol::spawn(peer.run(Smol)))
}

#[derive(Clone)]
struct Tokio;

impl Stack for Tokio {
    type Endpoint = QuinnNames;

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn server(&self, settings: &Settings, listen: SocketAddr) -> Result<QuinnNames> {
        server(settings, listen, Arc::new(quinn::TokioRuntime))
    }

    fn client(&self, settings: &Settings) -> Result<QuinnNames> {
        client(settings, Arc::new(quinn::TokioRuntime))
    }
}

#[derive(Clone)]
struct Smol;

impl Stack for Smol {
    type Endpoint = QuinnNames;

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        smol::spawn(task).detach();
    }

    async fn sleep(&self, duration: Duration) {
        smol::Timer::after(duration).await;
    }

    fn server(&self, settings: &Settings, listen: SocketAddr) -> Result<QuinnNames> {
        server(settings, listen, Arc::new(quinn::SmolRuntime))
    }

    fn client(&self, settings: &Settings) -> Result<QuinnNames> {
        client(settings, Arc::new(quinn::SmolRuntime))
    }
}

fn server(
    settings: &Settings,
    listen: SocketAddr,
    runtime: Arc<dyn quinn::Runtime>,
) -> Result<QuinnNames> {
    let socket = settings.socket(listen)?;
    let config = Some(server_config(settings)?);
    Ok(QuinnNames(quinn::Endpoint::new(
        endpoint_config(settings)?,
        config,
        socket,
        runtime,
    )?))
}

fn client(settings: &Settings, runtime: Arc<dyn quinn::Runtime>) -> Result<QuinnNames> {
    let socket = settings.socket("127.0.0.1:0".parse()?)?;
    let mut endpoint = quinn::Endpoint::new(endpoint_config(settings)?, None, socket, runtime)?;
    endpoint.set_default_client_config(client_config(settings)?);
    Ok(QuinnNames(endpoint))
}

/// The cryptography that quinn takes when it is not told otherwise.
fn own_provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
