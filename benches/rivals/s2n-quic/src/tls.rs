//! The two TLS providers, with the settings that all stacks have.

use std::sync::Arc;

use anyhow::Result;
use polyquic_bench::settings::Settings;
use rustls::crypto::CryptoProvider;
use s2n_quic::provider::tls::rustls as provider;

/// Which TLS library a subject uses.
#[derive(Clone)]
pub(crate) enum Provider {
    /// With the configuration that all stacks on rustls get.
    Rustls,
    /// With its own reading of the same certificate.
    #[cfg(feature = "s2n-tls")]
    S2n(Pem),
}

pub(crate) fn rustls_server(settings: &Settings) -> Result<provider::Server> {
    Ok(settings.server_tls(own_provider())?.into())
}

pub(crate) fn rustls_client(settings: &Settings) -> Result<provider::Client> {
    Ok(settings.client_tls(own_provider())?.into())
}

/// The cryptography that s2n-quic's rustls provider takes when it makes the configuration.
fn own_provider() -> Arc<CryptoProvider> {
    #[expect(deprecated, reason = "the list is available in no other way")]
    let cipher_suites = provider::DEFAULT_CIPHERSUITES.to_vec();
    Arc::new(CryptoProvider {
        cipher_suites,
        ..rustls::crypto::aws_lc_rs::default_provider()
    })
}

#[cfg(feature = "s2n-tls")]
pub(crate) use with_s2n_tls::{POLICY, Pem};

#[cfg(feature = "s2n-tls")]
mod with_s2n_tls {
    use std::fs;

    use anyhow::{Context, Result, ensure};
    use polyquic_bench::{
        options::Options,
        settings::{OWN_DEFAULTS, Settings},
    };
    use s2n_quic::provider::tls::s2n_tls as provider;
    use s2n_tls::security::Policy;

    /// TLS 1.3 with AES-256-GCM, which the other stacks prefer, and certificates on P-256.
    pub(crate) const POLICY: &str = "20250414";

    /// Certificate and key in the form that s2n-tls reads.
    #[derive(Clone)]
    pub(crate) struct Pem {
        certificate: String,
        key: String,
    }

    impl Pem {
        /// Reads what [`Settings::load`] has made.
        pub(crate) fn load(options: &Options) -> Result<Self> {
            ensure!(
                options.provider == "aws-lc-rs" || options.provider == OWN_DEFAULTS,
                "s2n-tls is built with aws-lc"
            );
            let read = |name: &str, tag: &str| {
                let file = options.identity.join(name);
                let der =
                    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                anyhow::Ok(pem::encode(&pem::Pem::new(tag, der)))
            };
            Ok(Self {
                certificate: read("certificate.der", "CERTIFICATE")?,
                key: read("key.der", "PRIVATE KEY")?,
            })
        }

        pub(crate) fn server(&self, settings: &Settings) -> Result<provider::Server> {
            let mut builder = provider::Server::builder()
                .with_application_protocols(["bench"])?
                .with_certificate(&*self.certificate, &*self.key)?;
            if !settings.own_defaults {
                builder
                    .config_mut()
                    .set_security_policy(&Policy::from_version(POLICY)?)?;
            }
            Ok(builder.build()?)
        }

        pub(crate) fn client(&self, settings: &Settings) -> Result<provider::Client> {
            let mut builder = provider::Client::builder()
                .with_application_protocols(["bench"])?
                .with_empty_trust_store()?
                .with_certificate(&*self.certificate)?;
            if !settings.own_defaults {
                builder
                    .config_mut()
                    .set_security_policy(&Policy::from_version(POLICY)?)?;
            }
            Ok(builder.build()?)
        }
    }
}
