//! Peers that vanish, and peers that come back without their memory.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use polyquic_core::crypto::{CryptoError, HmacKey};
use polyquic_core::{Blame, ConnectionError, EndpointConfig, blame};
use polyquic_endpoint::{Connection, Endpoint, Executor, ReadError, WriteError};
use sha2::{Digest, Sha256};

use super::relay::{Fate, Relay};
use crate::fixtures::{
    Certificates, Ends, SERVER_NAME, Setup, give_up_early, idle_timeout, server_config, server_tls,
};
use crate::tools::{check_alive, pattern, yield_now};

/// Both ends, connected through a relay.
async fn connect_through(ends: &Ends, relay: &Relay) -> (Connection, Connection) {
    let connecting = ends.client.connect(relay.addr, SERVER_NAME).unwrap();
    let accepting = async { ends.server.accept().await.unwrap().await };
    let (client, server) = futures::join!(connecting, accepting);
    (client.unwrap(), server.unwrap())
}

/// A key for reset tokens that a server can have again after a restart. Not an HMAC, but as good
/// for a test, and independent of which cryptography is compiled in.
struct ResetKey(u8);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        let hash = Sha256::new_with_prefix([self.0]).chain_update(data);
        signature.copy_from_slice(&hash.finalize());
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut expected = [0; 32];
        self.sign(data, &mut expected);
        if signature == expected {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}

fn with_reset_key(key: u8) -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.reset_key(Arc::new(ResetKey(key)));
    config
}

/// The server is replaced by one that knows nothing; how the client's connection ends.
async fn restart<R: Executor>(rt: R, key_before: u8, key_after: u8) -> ConnectionError {
    let ends = Setup::new()
        .client_transport(|transport| idle_timeout(transport, Duration::from_millis(600)))
        .with(|setup| setup.server_endpoint = with_reset_key(key_before))
        .start(&rt);
    let relay = Relay::new(ends.addr);
    let (client, server) = connect_through(&ends, &relay).await;
    check_alive(&client, &server).await;

    let socket = rt.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let config = server_config(server_tls(&Certificates::get().server, false));
    let restarted =
        Endpoint::with_socket(&rt, with_reset_key(key_after), Some(config), socket).unwrap();
    relay.set_server(restarted.local_addr().unwrap());

    // Larger than the answer, lest two resets answer each other for ever (RFC 9000 section 10.3.3).
    let mut stream = client.open_uni().await.unwrap();
    stream.write_all(&pattern(1, 5000)).await.unwrap();
    let error = client.closed().await;
    assert_eq!(
        stream.write(b"x").await,
        Err(WriteError::ConnectionLost(error.clone()))
    );
    // The server is there for those who connect anew.
    let mut ends = ends;
    ends.server = restarted;
    let (client, server) = connect_through(&ends, &relay).await;
    check_alive(&client, &server).await;
    ends.finish().await;
    error
}

/// A server that restarts and has kept its key tells its clients at once that they are forgotten.
pub async fn a_server_restart_resets<R: Executor>(rt: R) {
    let error = restart(rt, 1, 1).await;
    assert_eq!(error, ConnectionError::Reset);
    assert_eq!(blame(&error), Blame::Network);
}

/// Without the key it has nothing to prove it with, and clients time out.
pub async fn a_server_restart_without_its_key_times_out<R: Executor>(rt: R) {
    assert_eq!(restart(rt, 1, 2).await, ConnectionError::TimedOut);
}

/// A client that restarts and gets its old address again can connect.
pub async fn a_client_restart_on_the_same_address<R: Executor>(rt: R) {
    let ends = Setup::new()
        .server_transport(|transport| idle_timeout(transport, Duration::from_millis(600)))
        .start(&rt);
    let relay = Relay::new(ends.addr);
    let (lost, server) = connect_through(&ends, &relay).await;
    check_alive(&lost, &server).await;
    let seen = server.remote_address();
    // It dies without a word.
    relay.set_both(Fate::Vanish);
    lost.close(0u32.into(), b"");
    drop(lost);
    ends.client.wait_idle().await;
    relay.set_both(Fate::Pass);
    // As the server sees it, the new one comes from where the old one was.
    let (client, new) = connect_through(&ends, &relay).await;
    assert_eq!(new.remote_address(), seen);
    check_alive(&client, &new).await;
    // Whatever its server sends it is answered by a reset, and if it sends nothing, time runs out.
    let old = server.closed().await;
    assert!(
        matches!(old, ConnectionError::Reset | ConnectionError::TimedOut),
        "{old:?}"
    );
    // The end of the old one did not touch the new one.
    check_alive(&client, &new).await;
    ends.finish().await;
}

/// A peer that vanishes in the middle of a transfer shows as an error, to whoever reads or writes.
pub async fn a_vanished_peer_times_out<R: Executor>(rt: R) {
    let ends = Setup::new()
        .transport(|transport| idle_timeout(transport, Duration::from_millis(500)))
        .start(&rt);
    let relay = Relay::new(ends.addr);
    let (client, server) = connect_through(&ends, &relay).await;
    let (mut send, _recv) = client.open_bi().await.unwrap();
    send.write_all(b"x").await.unwrap();
    let (_send, mut recv) = server.accept_bi().await.unwrap();
    let writing = async {
        let block = pattern(1, 100_000);
        loop {
            if let Err(error) = send.write_all(&block).await {
                break error;
            }
        }
    };
    let reading = async {
        let mut buf = vec![0; 10_000];
        loop {
            match recv.read(&mut buf).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a vanished peer has finished nothing"),
                Err(error) => break error,
            }
        }
    };
    let vanishing = async {
        while server.stats().udp_rx.bytes < 1 << 20 {
            yield_now().await;
        }
        relay.set_both(Fate::Vanish);
    };
    let ((written, read), ()) = join(join(writing, reading), vanishing).await;
    assert_eq!(
        written,
        WriteError::ConnectionLost(ConnectionError::TimedOut)
    );
    assert_eq!(read, ReadError::ConnectionLost(ConnectionError::TimedOut));
    ends.finish().await;
}

/// A server that is not there at all.
pub async fn connecting_to_nobody_times_out<R: Executor>(rt: R) {
    let ends = Setup::new().client_transport(give_up_early).start(&rt);
    // Bound, so that nobody else has it, and never read from.
    let nobody = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let addr = nobody.local_addr().unwrap();
    let silent = ends.client.connect(addr, SERVER_NAME).unwrap();
    assert_eq!(silent.await.err(), Some(ConnectionError::TimedOut));
    // An unreachable port makes the system report errors, which must not harm the endpoint.
    drop(nobody);
    let refused = ends.client.connect(addr, SERVER_NAME).unwrap();
    assert_eq!(refused.await.err(), Some(ConnectionError::TimedOut));
    let (client, server) = ends.connect().await;
    check_alive(&client, &server).await;
    ends.finish().await;
}
