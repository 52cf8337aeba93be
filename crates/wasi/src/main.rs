//! Fetches a file by QUIC and writes it to standard output, from within WASI or anywhere else.
//!
//! The executor is the one of `docs/ADAPTERS.md`: one thread, and UDP sockets of the standard library,
//! which WASI 0.2 has. The application names no executor. `cargo xtask wasm --test` builds it for
//! `wasm32-wasip2` and runs it in Node, against `polyquic serve`.

#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use polyquic::crypto::rustls::QuicClientConfig;
use polyquic::rustls::pki_types::{CertificateDer, pem::PemObject};
use polyquic::{ClientConfig, Endpoint, Executor, rustls};

#[path = "../../polyquic/examples/own_adapter/adapter.rs"]
mod adapter;

/// The certificate itself, since a component has no files but those that it was given.
const USAGE: &str = "usage: polyquic-wasi ADDRESS:PORT \"$(cat CA.pem)\" /PATH";

/// The protocol of `polyquic serve`: `GET /path` on a stream, and the bytes of the file come back.
const ALPN: &[u8] = b"hq-interop";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [server, ca, path] = &arguments[..] else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match adapter::run(|rt| get(rt, server, ca, path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{server}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn get<R: Executor>(rt: R, server: &str, ca: &str, path: &str) -> Result<(), Box<dyn Error>> {
    let server: SocketAddr = server.parse()?;
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let mut endpoint = Endpoint::client(&rt, local)?;
    endpoint.set_default_client_config(config(ca)?);
    let connection = endpoint.connect(server, &server.ip().to_string())?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(format!("GET {path}\r\n").as_bytes()).await?;
    send.finish()?;
    let mut output = io::stdout().lock();
    let mut buffer = vec![0; 64 << 10];
    while let Some(len) = recv.read(&mut buffer).await? {
        output.write_all(&buffer[..len])?;
    }
    output.flush()?;
    connection.close(0u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok(())
}

fn config(ca: &str) -> Result<ClientConfig, Box<dyn Error>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    let mut tls = rustls::ClientConfig::builder_with_provider(polyquic::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Ok(ClientConfig::new(Arc::new(QuicClientConfig::try_from(
        tls,
    )?)))
}
