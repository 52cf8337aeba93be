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
            polyquic::smol::run(1, |rt| peer.run(On::new(rt)))?
        }),
        ("polyquic-smol-busy", |peer| {
            // What an application would choose that cares for latency more than for its processor.
            let busy = std::time::Duration::from_micros(100);
            polyquic::smol::Builder::new()
                .busy_poll(busy)
                .run(|rt| peer.run(On::new(rt)))?
        }),
        ("polyquic-smol-multi", |peer| {
            polyquic::smol::run(peer.options.workers, |rt| peer.run(On::new(rt)))?
        }),
        ("polyquic-smol-multi-shards", |peer| {
            let count = peer.options.workers;
            polyquic::smol::run(count, |rt| peer.run(On::new(rt.with_shards(count))))?
        }),
        ("polyquic-tokio", |peer| {
            let flavor = polyquic::tokio::Flavor::CurrentThread;
            polyquic::tokio::run(flavor, |rt| peer.run(On::new(rt)))?
        }),
        ("polyquic-tokio-multi", |peer| {
            let flavor = polyquic::tokio::Flavor::MultiThread(peer.options.workers);
            polyquic::tokio::run(flavor, |rt| peer.run(On::new(rt)))?
        }),
        ("polyquic-tokio-multi-shards", |peer| {
            let count = peer.options.workers;
            let flavor = polyquic::tokio::Flavor::MultiThread(count);
            polyquic::tokio::run(flavor, |rt| peer.run(On::new(rt.with_shards(count))))?
        }),
        ("polyquic-tokio-multi-handover", |peer| {
            let count = peer.options.workers;
            let flavor = polyquic::tokio::Flavor::MultiThread(count);
            polyquic::tokio::run(flavor, |rt| {
                peer.run(On {
                    rt: rt.with_shards(count),
                    kernel_steering: false,
                })
            })?
        }),
        ("polyquic-blocking", |peer| {
            polyquic::blocking::run(|rt| peer.run(On::new(rt)))?
        }),
        #[cfg(target_os = "linux")]
        ("polyquic-glommio", |peer| {
            polyquic::glommio::run(1, |rt| peer.run(On::new(rt)))?
        }),
        #[cfg(target_os = "linux")]
        ("polyquic-glommio-multi", |peer| {
            // With a shard on each core.
            polyquic::glommio::run(peer.options.workers, |rt| peer.run(On::new(rt)))?
        }),
    ])
}

/// Any executor; the tasks of `blocking` are threads that wait for their futures.
#[derive(Clone)]
struct On<R> {
    rt: R,
    /// Where there are several shards: whether the kernel is asked to find the right one.
    kernel_steering: bool,
}

impl<R: Executor> On<R> {
    fn new(rt: R) -> Self {
        Self {
            rt,
            kernel_steering: true,
        }
    }

    /// With several shards, which bind sockets of their own. These have buffers as large as those of
    /// [`Settings::socket`].
    fn sharded(
        &self,
        config: polyquic::EndpointConfig,
        server: Option<polyquic::ServerConfig>,
        addr: SocketAddr,
    ) -> Result<polyquic::Endpoint> {
        let mut builder = polyquic::Endpoint::builder()
            .config(config)
            .kernel_steering(self.kernel_steering);
        if let Some(server) = server {
            builder = builder.server_config(server);
        }
        Ok(builder.bind(&self.rt, addr)?)
    }
}

impl<R: Executor<Timer: Send> + Send + Sync> Stack for On<R> {
    type Endpoint = QuinnNames;

    // The limit itself is the same; how much of it a peer is told of at once is a property of
    // the library that users get, and the difference in memory is one of its points.
    const DIFFERS_BY: &'static str =
        "the limit on concurrent streams is granted as they are used, not at once";

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        polyquic::spawn(&self.rt, task);
    }

    async fn sleep(&self, duration: Duration) {
        polyquic::sleep(&self.rt, duration).await;
    }

    fn server(&self, settings: &Settings, listen: SocketAddr) -> Result<QuinnNames> {
        let (config, mut server) = (endpoint_config(settings)?, server_config(settings)?);
        // As `with_single_cert` decides by itself.
        server.offload_handshakes(settings.has_rsa_key());
        if self.rt.default_shards().get() > 1 {
            return Ok(QuinnNames(self.sharded(config, Some(server), listen)?));
        }
        let socket = settings.socket(listen)?;
        Ok(QuinnNames(polyquic::Endpoint::new(
            &self.rt,
            config,
            Some(server),
            socket,
        )?))
    }

    fn client(&self, settings: &Settings) -> Result<QuinnNames> {
        let local: SocketAddr = "127.0.0.1:0".parse()?;
        let config = endpoint_config(settings)?;
        let mut endpoint = if self.rt.default_shards().get() > 1 {
            self.sharded(config, None, local)?
        } else {
            polyquic::Endpoint::new(&self.rt, config, None, settings.socket(local)?)?
        };
        endpoint.set_default_client_config(client_config(settings)?);
        Ok(QuinnNames(endpoint))
    }
}

/// The cryptography that polyquic takes when it is not told otherwise.
fn own_provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    polyquic::crypto_provider()
}
