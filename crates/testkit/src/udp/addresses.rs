//! IPv4, IPv6, and both at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use polyquic_core::EndpointConfig;
use polyquic_endpoint::{Endpoint, Executor};

use crate::fixtures::Setup;
use crate::tools::check_alive;

const IPV4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const IPV6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const ANY_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Whether this machine has IPv6 at all; many containers do not.
fn has_ipv6() -> bool {
    let has = UdpSocket::bind((IPV6, 0)).is_ok();
    if !has {
        eprintln!("skipped: no IPv6 on this machine");
    }
    has
}

/// A server that listens on `listen` is reached at `at` by a client bound to `from`.
async fn check_reachable<R: Executor>(rt: R, listen: IpAddr, at: IpAddr, from: IpAddr) {
    let mut ends = Setup::new()
        .with(|setup| {
            setup.server_addr = SocketAddr::new(listen, 0);
            setup.client_addr = SocketAddr::new(from, 0);
        })
        .start(&rt);
    assert_eq!(ends.addr.ip(), listen);
    assert_ne!(ends.addr.port(), 0);
    ends.addr.set_ip(at);
    let (client, server) = ends.connect().await;
    check_alive(&client, &server).await;
    assert_eq!(client.remote_address().ip().to_canonical(), at);
    assert_eq!(client.remote_address().port(), ends.addr.port());
    let client_port = ends.client.local_addr().unwrap().port();
    assert_eq!(server.remote_address().port(), client_port);
    assert!(server.remote_address().ip().to_canonical().is_loopback());
    if let Some(local) = server.local_ip() {
        assert_eq!(local.to_canonical(), at);
    }
    ends.finish().await;
}

/// IPv4.
pub async fn ipv4<R: Executor>(rt: R) {
    check_reachable(rt.clone(), IPV4, IPV4, IPV4).await;
    check_reachable(rt, ANY_IPV4, IPV4, ANY_IPV4).await;
}

/// IPv6.
pub async fn ipv6<R: Executor>(rt: R) {
    if has_ipv6() {
        check_reachable(rt.clone(), IPV6, IPV6, IPV6).await;
        check_reachable(rt, ANY_IPV6, IPV6, ANY_IPV6).await;
    }
}

/// A server on `[::]` serves clients of either family.
pub async fn dual_stack_servers<R: Executor>(rt: R) {
    if has_ipv6() {
        check_reachable(rt.clone(), ANY_IPV6, IPV4, IPV4).await;
        check_reachable(rt, ANY_IPV6, IPV6, IPV6).await;
    }
}

/// A client on `[::]` reaches servers of either family.
pub async fn dual_stack_clients<R: Executor>(rt: R) {
    if has_ipv6() {
        check_reachable(rt.clone(), IPV4, IPV4, ANY_IPV6).await;
        check_reachable(rt, IPV6, IPV6, ANY_IPV6).await;
    }
}

/// Endpoints take sockets of the standard library, however these are set up.
pub async fn sockets_of_the_standard_library<R: Executor>(rt: R) {
    let Setup { server, client, .. } = Setup::new();
    let socket = || UdpSocket::bind((IPV4, 0)).unwrap();
    let (server_socket, client_socket) = (socket(), socket());
    client_socket.set_nonblocking(true).unwrap();
    let addr = server_socket.local_addr().unwrap();
    let config = EndpointConfig::default;
    let server = Endpoint::new(&rt, config(), Some(server), server_socket).unwrap();
    let mut endpoint = Endpoint::new(&rt, config(), None, client_socket).unwrap();
    endpoint.set_default_client_config(client);
    let ends = crate::fixtures::Ends {
        server,
        client: endpoint,
        addr,
    };
    assert_eq!(ends.server.local_addr().unwrap(), addr);
    let (client, server) = ends.connect().await;
    check_alive(&client, &server).await;
    ends.finish().await;
}
