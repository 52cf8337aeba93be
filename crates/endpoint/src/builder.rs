//! Making endpoints.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use polyquic_core::{self as core, EndpointConfig, ServerConfig, SocketTraits};
use polyquic_runtime::{Runtime, Spawn};

use crate::shards::{Place, Siblings};
use crate::shared::{EndpointRef, Shared, dated, wake_all};
use crate::{Driver, Endpoint};

/// Most shards of an endpoint. Beyond the cores of a machine they only cost.
const MAX_SHARDS: usize = 1024;

/// Makes an [`Endpoint`] with settings of its own; from [`Endpoint::builder`].
///
/// ```no_run
/// # use polyquic_endpoint::{Endpoint, Executor};
/// # use polyquic_core::ServerConfig;
/// # fn serve<R: Executor>(rt: R, config: ServerConfig) -> std::io::Result<()> {
/// let endpoint = Endpoint::builder()
///     .server_config(config)
///     .shards(4)
///     .bind(&rt, ([0, 0, 0, 0], 4433).into())?;
/// assert_eq!(endpoint.shards(), 4);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "an endpoint is made by `bind`"]
pub struct EndpointBuilder {
    config: EndpointConfig,
    server_config: Option<ServerConfig>,
    shards: Option<usize>,
    kernel_steering: bool,
}

impl Default for EndpointBuilder {
    fn default() -> Self {
        Self {
            config: EndpointConfig::default(),
            server_config: None,
            shards: None,
            kernel_steering: true,
        }
    }
}

impl EndpointBuilder {
    /// What holds for the endpoint as a whole.
    pub fn config(mut self, config: EndpointConfig) -> Self {
        self.config = config;
        self
    }

    /// Accept connections, with this configuration. Default: none are accepted.
    pub fn server_config(mut self, config: ServerConfig) -> Self {
        self.server_config = Some(config);
        self
    }

    /// How many sockets to have on the address, each with a driver and connections of its own, on a
    /// core of its own where the runtime has cores. Default: what the runtime says, see
    /// [`Runtime::default_shards`].
    ///
    /// What a configuration limits for an endpoint (attempts that wait for a decision, say) it
    /// limits for each shard.
    pub fn shards(mut self, count: usize) -> Self {
        self.shards = Some(count);
        self
    }

    /// Whether to ask the operating system to deliver each datagram to the shard that its connection
    /// id names. Default: true. Without it, or where the system does not do it, shards hand over
    /// what is not theirs; [`EndpointStats`](core::EndpointStats) counts how much.
    pub fn kernel_steering(mut self, on: bool) -> Self {
        self.kernel_steering = on;
        self
    }

    /// Bind to `addr` and start the drivers.
    ///
    /// # Errors
    ///
    /// The socket cannot be bound; or, with several shards, the runtime cannot bind several sockets
    /// to an address ([`io::ErrorKind::Unsupported`]), their number is 0 or above 1024, or the
    /// configuration has a connection-id generator of its own ([`io::ErrorKind::InvalidInput`]).
    pub fn bind<R>(self, rt: &R, addr: SocketAddr) -> io::Result<Endpoint>
    where
        R: Runtime + Spawn<Driver<R>>,
    {
        let count = self.shards.unwrap_or_else(|| rt.default_shards().get());
        match count {
            1 => Endpoint::with_socket(rt, self.config, self.server_config, rt.bind(addr)?),
            2..=MAX_SHARDS => self.bind_shards(rt, addr, count as u16),
            _ => Err(invalid(format!(
                "an endpoint has 1 to {MAX_SHARDS} shards, not {count}"
            ))),
        }
    }

    fn bind_shards<R>(mut self, rt: &R, addr: SocketAddr, count: u16) -> io::Result<Endpoint>
    where
        R: Runtime + Spawn<Driver<R>>,
    {
        if let Some(seed) = rt.seed() {
            self.config.seed_if_none(seed);
        }
        let clock = rt.clock();
        let (key, configs) = self.config.split(count).map_err(invalid)?;
        let signals: Vec<_> = (0..count).map(|_| Arc::default()).collect();
        let siblings = Siblings::new(key, signals.clone(), self.kernel_steering);
        let group = siblings.bind(rt, addr)?;
        let server_config = self
            .server_config
            .map(|config| Arc::new(dated(config, &clock)));
        let mut shards = Vec::with_capacity(group.sockets.len());
        for (((socket, config), signal), index) in group
            .sockets
            .into_iter()
            .zip(&configs)
            .zip(signals)
            .zip(0..)
        {
            let local_addr = socket.local_addr()?;
            let traits = SocketTraits {
                ipv6: local_addr.is_ipv6(),
                may_fragment: group.may_fragment,
            };
            let core = core::Endpoint::new(config, server_config.clone(), traits);
            let place = Place {
                siblings: siblings.clone(),
                index,
            };
            let shared = Shared::new(core, local_addr, clock.clone(), signal, Some(place));
            // Counted before the driver runs: it ends when there is no handle.
            shards.push(EndpointRef::new(shared.clone()));
            let unstarted = Unstarted(Some(shared));
            rt.place(
                index.into(),
                Box::new(move |rt: R| unstarted.start(rt, socket)),
            )?;
        }
        Ok(Endpoint::of(shards))
    }
}

/// A shard whose driver does not run yet. Dropped without being started, it is a lost one, lest
/// somebody wait for it.
struct Unstarted(Option<Arc<Shared>>);

impl Unstarted {
    fn start<R>(mut self, rt: R, socket: std::net::UdpSocket)
    where
        R: Runtime + Spawn<Driver<R>>,
    {
        match rt.adopt(socket) {
            Ok(socket) => {
                if let Some(shared) = self.0.take() {
                    rt.spawn(Driver::new(rt.clone(), socket, shared));
                }
            }
            Err(error) => tracing::error!(%error, "cannot start a shard: its socket is refused"),
        }
    }
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            let mut woken = Vec::new();
            shared.driver_gone(false, &mut woken);
            wake_all(&mut woken);
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
