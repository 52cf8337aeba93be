//! The code of the book in `docs/book`, chapter by chapter. `snippets` checks that the book shows
//! what is here.

mod certificates;
mod closing;
mod coming_from_quinn;
mod every_core;
mod executors;
mod getting_started;
#[cfg(all(feature = "sim", feature = "aws-lc-rs"))]
mod simulation;
mod streams;
mod zero_rtt;

use std::net::Ipv4Addr;

use polyquic::{Connection, Endpoint, Executor};

use crate::app::{Result, configs};

/// Run generic applications, each on every executor there is.
macro_rules! on_every_executor {
    ($($app:ident),* $(,)?) => {
        mod own {
            $(#[test]
            fn $app() {
                crate::adapter::run(super::$app).unwrap();
            })*
        }

        #[cfg(feature = "smol")]
        mod smol {
            $(#[test]
            fn $app() {
                polyquic::smol::run(2, super::$app).unwrap().unwrap();
            })*
        }

        #[cfg(feature = "tokio")]
        mod tokio {
            $(#[test]
            fn $app() {
                let flavor = polyquic::tokio::Flavor::MultiThread(2);
                polyquic::tokio::run(flavor, super::$app).unwrap().unwrap();
            })*
        }

        #[cfg(all(feature = "glommio", target_os = "linux"))]
        mod glommio {
            $(#[test]
            fn $app() {
                // On several cores, a handshake can be over before the application looks.
                polyquic::glommio::run(1, super::$app).unwrap().unwrap();
            })*
        }

        #[cfg(feature = "sim")]
        mod sim {
            $(#[test]
            fn $app() {
                polyquic::sim::run(1, super::$app).unwrap();
            })*
        }

        #[cfg(feature = "blocking")]
        mod blocking {
            $(#[test]
            fn $app() {
                polyquic::blocking::run(super::$app).unwrap().unwrap();
            })*
        }
    };
}
use on_every_executor;

/// A client and a server that are connected.
struct Pair {
    client: Connection,
    server: Connection,
    client_endpoint: Endpoint,
    server_endpoint: Endpoint,
}

async fn pair<R: Executor>(rt: R) -> Result<Pair> {
    let (server_config, client_config) = configs()?;
    let server_endpoint = Endpoint::server(&rt, server_config, (Ipv4Addr::LOCALHOST, 0).into())?;
    let mut client_endpoint = Endpoint::client(&rt, (Ipv4Addr::LOCALHOST, 0).into())?;
    client_endpoint.set_default_client_config(client_config);
    let connecting = client_endpoint.connect(server_endpoint.local_addr()?, "localhost")?;
    let accepting = async {
        let incoming = server_endpoint.accept().await.expect("it is open");
        incoming.await
    };
    let (client, server) = futures::future::try_join(connecting, accepting).await?;
    Ok(Pair {
        client,
        server,
        client_endpoint,
        server_endpoint,
    })
}
