//! Transport configuration from the command line, and qlog files.

use std::sync::Arc;

use polyquic::{IdleTimeout, TransportConfig, VarInt, congestion};

use crate::args::{CongestionControl, TransportArgs};
use crate::failure::Failure;

/// Makes the transport configuration of each connection.
///
/// One per connection rather than one for all, because a qlog file belongs to one connection.
#[derive(Debug, Clone)]
pub(crate) struct TransportFactory {
    args: TransportArgs,
    max_streams: u32,
    keep_alive: bool,
    shared: Arc<TransportConfig>,
}

impl TransportFactory {
    /// Check the arguments; `max_streams` is what a peer may open of bidirectional streams.
    pub(crate) fn new(args: &TransportArgs, max_streams: u32) -> Result<Self, Failure> {
        #[cfg(feature = "qlog")]
        if let Some(dir) = &args.qlog_dir {
            std::fs::create_dir_all(dir)
                .map_err(|e| Failure::io(format!("cannot make {}", dir.display()), &e))?;
        }
        let mut factory = Self {
            args: args.clone(),
            max_streams,
            keep_alive: false,
            shared: Arc::default(),
        };
        factory.shared = Arc::new(factory.build()?);
        Ok(factory)
    }

    /// Keep connections alive that have nothing to say.
    pub(crate) fn keep_alive(mut self) -> Result<Self, Failure> {
        self.keep_alive = true;
        self.shared = Arc::new(self.build()?);
        Ok(self)
    }

    /// Whether each connection needs a configuration of its own.
    pub(crate) fn per_connection(&self) -> bool {
        #[cfg(feature = "qlog")]
        return self.args.qlog_dir.is_some();
        #[cfg(not(feature = "qlog"))]
        false
    }

    /// The configuration of connections that need none of their own.
    pub(crate) fn shared(&self) -> Arc<TransportConfig> {
        self.shared.clone()
    }

    /// The configuration of one connection; `name` tells its qlog file from others.
    pub(crate) fn one(&self, name: &str) -> Arc<TransportConfig> {
        #[cfg(feature = "qlog")]
        if let Some(dir) = &self.args.qlog_dir {
            // Built successfully once, so the arguments are fine.
            if let Ok(mut config) = self.build() {
                config.qlog_stream(qlog_stream(dir, name));
                return Arc::new(config);
            }
        }
        let _ = name;
        self.shared()
    }

    fn build(&self) -> Result<TransportConfig, Failure> {
        let mut config = TransportConfig::default();
        let idle = IdleTimeout::try_from(self.args.idle_timeout)
            .map_err(|_| Failure::usage("--idle-timeout is too long"))?;
        config
            .max_idle_timeout(Some(idle))
            .max_concurrent_bidi_streams(VarInt::from_u32(self.max_streams))
            // No protocol of this program uses unidirectional streams.
            .max_concurrent_uni_streams(VarInt::from_u32(0));
        if self.keep_alive {
            config.keep_alive_interval(Some(self.args.idle_timeout / 3));
        }
        match self.args.cc {
            CongestionControl::Cubic => {
                config.congestion_controller_factory(Arc::new(congestion::CubicConfig::default()))
            }
            CongestionControl::Newreno => {
                config.congestion_controller_factory(Arc::new(congestion::NewRenoConfig::default()))
            }
            CongestionControl::Bbr => {
                config.congestion_controller_factory(Arc::new(congestion::BbrConfig::default()))
            }
        };
        Ok(config)
    }
}

/// A qlog file in `dir`. A connection is not refused because its log cannot be written.
#[cfg(feature = "qlog")]
fn qlog_stream(dir: &std::path::Path, name: &str) -> Option<polyquic::QlogStream> {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{SystemTime, UNIX_EPOCH};

    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let file_name = format!("{}-{n}-{name}.sqlog", since_epoch.as_millis());
    let path = dir.join(file_name);
    let file = match std::fs::File::create_new(&path) {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!("no qlog for a connection: {}: {error}", path.display());
            return None;
        }
    };
    let mut qlog = polyquic::QlogConfig::default();
    qlog.writer(Box::new(std::io::BufWriter::new(file)))
        .title(Some(format!("polyquic {name}")));
    qlog.into_stream()
}
