//! polyquic, on each of its executors.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Result;
use polyquic::Executor;
use polyquic_bench::{impl_quinn_names, peer, settings::Settings, stack::Stack};

impl_quinn_names!(polyquic);

fn main() -> ExitCode {
    peer::main(&[
        ("polyquic-smol", |peer| {
            polyquic::smol::run(1, |rt| peer.run(On(rt)))?
        }),
        ("polyquic-smol-busy", |peer| {
            // What an application would choose that cares for latency more than for its processor.
            let busy = std::time::Duration::from_micros(100);
            polyquic::smol::Builder::new()
                .busy_poll(busy)
                .run(|rt| peer.run(On(rt)))?
        }),
        ("polyquic-smol-multi", |peer| {
            polyquic::smol::run(peer.options.workers, |rt| peer.run(On(rt)))?
        }),
        ("polyquic-tokio", |peer| {
            let flavor = polyquic::tokio::Flavor::CurrentThread;
            polyquic::tokio::run(flavor, |rt| peer.run(On(rt)))?
        }),
        ("polyquic-tokio-multi", |peer| {
            let flavor = polyquic::tokio::Flavor::MultiThread(peer.options.workers);
            polyquic::tokio::run(flavor, |rt| peer.run(On(rt)))?
        }),
        ("polyquic-blocking", |peer| {
            polyquic::blocking::run(|rt| peer.run(On(rt)))?
        }),
    ])
}

/// Any executor; the tasks of `blocking` are threads that wait for their futures.
#[derive(Clone)]
struct On<R>(R);

impl<R: Executor<Timer: Send> + Send + Sync> Stack for On<R> {
    type Endpoint = QuinnNames;

    // The limit itself is the same; how much of it a peer is told of at once is a property of
    // the library that users get, and the difference in memory is one of its points.
    const DIFFERS_BY: &'static str =
        "the limit on concurrent streams is granted as they are used, not at once";

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        polyquic::spawn(&self.0, task);
    }

    async fn sleep(&self, duration: Duration) {
        polyquic::sleep(&self.0, duration).await;
    }

    fn server(&self, settings: &Settings, listen: SocketAddr) -> Result<QuinnNames> {
        let socket = settings.socket(listen)?;
        let (config, mut server) = (endpoint_config(settings)?, server_config(settings)?);
        // As `with_single_cert` decides by itself.
        server.offload_handshakes(settings.has_rsa_key());
        let server = Some(server);
        Ok(QuinnNames(polyquic::Endpoint::new(
            &self.0, config, server, socket,
        )?))
    }

    fn client(&self, settings: &Settings) -> Result<QuinnNames> {
        let socket = settings.socket("127.0.0.1:0".parse()?)?;
        let config = endpoint_config(settings)?;
        let mut endpoint = polyquic::Endpoint::new(&self.0, config, None, socket)?;
        endpoint.set_default_client_config(client_config(settings)?);
        Ok(QuinnNames(endpoint))
    }
}

/// The cryptography that polyquic takes when it is not told otherwise.
fn own_provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    polyquic::crypto_provider()
}
