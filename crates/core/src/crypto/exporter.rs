//! Keying material for applications (RFC 8446 section 7.5) without keeping rustls' state.
//!
//! rustls keeps the exporter's secret in a connection's state and has no way to hand it out alone.
//! But it logs it, like the other secrets of a connection, where key logs are written: on the thread
//! and within the call that derives it. [`SecretTap`] stands there and keeps it for the session.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use rustls::crypto::tls13::OkmBlock;
use rustls::{KeyLog, Tls13CipherSuite};

use super::ExportKeyingMaterialError;

/// The name of the secret in key logs.
const EXPORTER_SECRET: &str = "EXPORTER_SECRET";

thread_local! {
    /// The exporter's secret that was derived last on this thread.
    static TAPPED: RefCell<Option<OkmBlock>> = const { RefCell::new(None) };
}

/// Runs `f`, and returns the exporter's secret if it derived one.
pub(super) fn tap<T>(f: impl FnOnce() -> T) -> (T, Option<OkmBlock>) {
    // A verifier of the application's may connect somewhere itself, right here.
    let outer = TAPPED.take();
    let result = f();
    (result, TAPPED.replace(outer))
}

/// A key log that keeps the exporter's secret for [`tap`] and passes the rest on.
pub(super) struct SecretTap(Arc<dyn KeyLog>);

impl SecretTap {
    pub(super) fn new(inner: Arc<dyn KeyLog>) -> Self {
        Self(inner)
    }
}

impl KeyLog for SecretTap {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if label == EXPORTER_SECRET {
            TAPPED.set(Some(OkmBlock::new(secret)));
        }
        if self.0.will_log(label) {
            self.0.log(label, client_random, secret);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == EXPORTER_SECRET || self.0.will_log(label)
    }
}

impl fmt::Debug for SecretTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// TLS-Exporter.
pub(super) fn export(
    suite: &Tls13CipherSuite,
    secret: &OkmBlock,
    output: &mut [u8],
    label: &[u8],
    context: &[u8],
) -> Result<(), ExportKeyingMaterialError> {
    let hash = |bytes: &[u8]| suite.common.hash_provider.hash(bytes);
    let output_len = u16::try_from(output.len()).map_err(|_| ExportKeyingMaterialError)?;
    let expander = suite.hkdf_provider.expander_for_okm(secret);
    let hash_len = expander.hash_len();
    let mut derived = [0; OkmBlock::MAX_LEN];
    let derived = &mut derived[..hash_len];
    let empty = hash(&[]);
    let mut expand = HkdfLabel::new(hash_len as u16, label, empty.as_ref())?;
    expand.expand(&*expander, derived)?;
    let expander = suite
        .hkdf_provider
        .expander_for_okm(&OkmBlock::new(derived));
    let context = hash(context);
    expand = HkdfLabel::new(output_len, b"exporter", context.as_ref())?;
    expand.expand(&*expander, output)
}

/// What HKDF-Expand-Label adds to the secret (RFC 8446 section 7.1).
struct HkdfLabel<'a> {
    output_len: [u8; 2],
    label_len: [u8; 1],
    label: &'a [u8],
    context_len: [u8; 1],
    context: &'a [u8],
}

impl<'a> HkdfLabel<'a> {
    fn new(
        output_len: u16,
        label: &'a [u8],
        context: &'a [u8],
    ) -> Result<Self, ExportKeyingMaterialError> {
        let len = |bytes: usize| u8::try_from(bytes).map_err(|_| ExportKeyingMaterialError);
        Ok(Self {
            output_len: output_len.to_be_bytes(),
            label_len: [len(PREFIX.len() + label.len())?],
            label,
            context_len: [len(context.len())?],
            context,
        })
    }

    fn expand(
        &self,
        expander: &dyn rustls::crypto::tls13::HkdfExpander,
        output: &mut [u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let info = [
            &self.output_len[..],
            &self.label_len,
            PREFIX,
            self.label,
            &self.context_len,
            self.context,
        ];
        expander
            .expand_slice(&info, output)
            .map_err(|_| ExportKeyingMaterialError)
    }
}

/// What every label begins with.
const PREFIX: &[u8] = b"tls13 ";
