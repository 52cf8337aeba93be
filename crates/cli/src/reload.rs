//! New certificates for a server that goes on: SIGHUP has it read its files again.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use polyquic::crypto::rustls::QuicServerConfig;
use polyquic::{Endpoint, offload};

use crate::args::ServerArgs;
use crate::certs::{Identity, load_identity};
use crate::exec::Native;
use crate::failure::Failure;
use crate::out::{complain, say};
use crate::server::ServerSetup;
use crate::signals::Signals;
use crate::tls;

/// The files of a server that was given some.
#[derive(Debug, Clone)]
pub(crate) struct Reload {
    cert: PathBuf,
    key: PathBuf,
    alpn: &'static [u8],
    hang_ups: Signals,
}

impl Reload {
    /// Take over SIGHUP, if there are files to read again: a development certificate has none, and
    /// the signal keeps its usual meaning.
    pub(crate) fn new(args: &ServerArgs, alpn: &'static [u8]) -> Result<Option<Self>, Failure> {
        let (Some(cert), Some(key)) = (&args.cert, &args.key) else {
            return Ok(None);
        };
        let hang_ups =
            Signals::hang_ups().map_err(|e| Failure::io("cannot wait for signals", &e))?;
        Ok(Some(Self {
            cert: cert.clone(),
            key: key.clone(),
            alpn,
            hang_ups,
        }))
    }

    /// Read the files at each SIGHUP, forever. If they are no good, the old certificate stays.
    pub(crate) async fn run<R: Native>(
        self,
        rt: &R,
        setup: &ServerSetup,
        endpoints: &[Endpoint],
    ) -> Infallible {
        let mut nth = 0;
        loop {
            nth += 1;
            self.hang_ups.nth(nth).await;
            let files = self.clone();
            let read = offload(rt, move || files.read()).await;
            let abandoned = |error: polyquic::Abandoned| Failure::local(error.to_string());
            match read.map_err(abandoned).and_then(|read| read) {
                Ok((identity, crypto)) => {
                    setup.change_identity(endpoints, &identity, crypto);
                    say!("SIGHUP: new certificate from {}", self.cert.display());
                }
                Err(failure) => complain!("SIGHUP: the old certificate stays in use: {failure}"),
            }
        }
    }

    fn read(&self) -> Result<(Identity, Arc<QuicServerConfig>), Failure> {
        let identity = load_identity(&self.cert, &self.key)?;
        let crypto = tls::server(&identity, self.alpn)?;
        Ok((identity, crypto))
    }
}
