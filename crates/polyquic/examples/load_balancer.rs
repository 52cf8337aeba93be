//! Two servers behind a load balancer, and clients that change their address.
//!
//! Each client asks through the balancer who answers, changes its port several times, and asks again
//! on the same connection. That works if the balancer finds the server by the connection id; by
//! address and port, half of the changes end the connection. `docs/LOAD-BALANCING.md` has a balancer
//! to run it with:
//!
//! ```text
//! cargo run -p polyquic --features quic-lb --example load_balancer -- plain
//! ```
//!
//! or `single-pass`, `four-pass`, and `none` for ordinary connection ids.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use polyquic::rustls::RootCertStore;
use polyquic::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use polyquic::smol::SmolRuntime;
use polyquic::{
    ClientConfig, Connection, Endpoint, EndpointConfig, QuicLbConfig, ServerConfig, spawn, timeout,
};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const BALANCER: u16 = 4433;
const SERVERS: [u16; 2] = [5001, 5002];
const CLIENTS: u8 = 20;
const MOVES: usize = 5;
/// A connection that has not answered by then is lost.
const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let mode = std::env::args().nth(1).unwrap_or_default();
    polyquic::smol::run(1, |rt| run(rt, mode))?
}

/// What server number `server` is called in its connection ids; as in `quic_lb_config.js`.
fn quic_lb(mode: &str, server: u8) -> Result<Option<QuicLbConfig>> {
    let key = |hex| u128::from_str_radix(hex, 16).map(u128::to_be_bytes);
    Ok(Some(match mode {
        "none" => return Ok(None),
        "plain" => QuicLbConfig::new(0, &[0x00, server], 8)?,
        "single-pass" => {
            QuicLbConfig::new(1, &[0xa0, server], 14)?.key(key("8f95f09245765f80256934e50c66207f")?)
        }
        "four-pass" => {
            QuicLbConfig::new(2, &[0xb0, server], 5)?.key(key("fdf726a9893ec05c0632d3956680baf0")?)
        }
        other => {
            let modes = "none, plain, single-pass or four-pass";
            return Err(format!("no mode {other:?}: say {modes}").into());
        }
    }))
}

async fn run(rt: SmolRuntime, mode: String) -> Result<()> {
    let (server_config, client_config) = configs()?;
    for (number, port) in (1u8..).zip(SERVERS) {
        let mut config = EndpointConfig::default();
        if let Some(quic_lb) = quic_lb(&mode, number)? {
            config.quic_lb(quic_lb)?;
        }
        let socket = UdpSocket::bind(localhost(port))?;
        let server = Endpoint::new(&rt, config, Some(server_config.clone()), socket)?;
        let name = format!("server {number}");
        spawn(&rt, serve(rt.clone(), server, name));
    }

    let mut by_server = [0; SERVERS.len()];
    let (mut moves, mut lost) = (0, 0);
    for number in 1..=CLIENTS {
        let local = client_addr(number);
        let mut client = Endpoint::client(&rt, local)?;
        client.set_default_client_config(client_config.clone());
        let connecting = client.connect(localhost(BALANCER), "localhost")?;
        let connection = timeout(&rt, PATIENCE, connecting)
            .await
            .map_err(|_| "no answer: does the balancer run?")??;
        let name = ask(&connection).await?;
        let at = (1..=SERVERS.len()).find(|number| name == format!("server {number}"));
        by_server[at.ok_or("a stranger answered")? - 1] += 1;
        for _ in 0..MOVES {
            let from = client.local_addr()?;
            let to = client.rebind_addr(local).await?;
            moves += 1;
            match timeout(&rt, PATIENCE, ask(&connection)).await {
                Ok(Ok(again)) if again == name => {}
                Ok(Ok(again)) => return Err(format!("{again} answered for {name}").into()),
                Ok(Err(_)) | Err(_) => {
                    println!("lost: a connection to {name}, between {from} and {to}");
                    lost += 1;
                    break;
                }
            }
        }
        connection.close(0u32.into(), b"done");
    }
    println!(
        "{mode}: {CLIENTS} connections, {} and {} to each server; {moves} changes of address, {lost} \
         connections lost",
        by_server[0], by_server[1]
    );
    Ok(())
}

/// Tell everyone who asks the name of this server.
async fn serve(rt: SmolRuntime, endpoint: Endpoint, name: String) {
    while let Some(incoming) = endpoint.accept().await {
        let name = name.clone();
        spawn(&rt, async move {
            let Ok(connection) = incoming.await else {
                return;
            };
            while let Ok((mut send, _)) = connection.accept_bi().await {
                if send.write_all(name.as_bytes()).await.is_err() || send.finish().is_err() {
                    return;
                }
            }
        });
    }
}

async fn ask(connection: &Connection) -> Result<String> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"who are you?").await?;
    send.finish()?;
    Ok(String::from_utf8(recv.read_to_end(100).await?)?)
}

fn localhost(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// An address of its own for each client, of those that Linux has for loopback. A balancer remembers
/// where it sent what came from an address and port, and errs if another connection takes them over.
fn client_addr(number: u8) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    (Ipv4Addr::new(127, high, low, number), 0).into()
}

/// A certificate made on the spot, which all servers have and the client is told to trust.
fn configs() -> Result<(ServerConfig, ClientConfig)> {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()])?;
    let cert = CertificateDer::from(cert);
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let server = ServerConfig::with_single_cert(vec![cert.clone()], key.into())?;
    let mut roots = RootCertStore::empty();
    roots.add(cert)?;
    let client = ClientConfig::with_root_certificates(Arc::new(roots))?;
    Ok((server, client))
}
