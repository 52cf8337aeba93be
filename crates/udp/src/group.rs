//! Several UDP sockets on one address.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use polyquic_runtime::{SocketGroup, SteeringFilter};
use quinn_udp::{UdpSockRef, UdpSocketState};

use crate::bind;

/// Bind `count` UDP sockets to one address, each the way [`bind`] does it.
///
/// Several sockets share the port by `SO_REUSEPORT`. The kernel spreads what arrives by `filter`, or
/// by addresses and ports where it takes no such program, which
/// [`steered`](SocketGroup::steered) tells. Before the last socket is bound and the filter in place,
/// datagrams may arrive at any of them.
///
/// The filter's numbers are those of the open sockets: when one is closed, the last takes its
/// number. So close all or none.
///
/// The port is taken from others like any port. While the group is open, a process of the same user
/// can join it if it says `SO_REUSEPORT` itself, which a second call of this does not.
///
/// # Errors
///
/// What the platform reports, the address being named in the message; for more than one socket,
/// [`io::ErrorKind::Unsupported`] anywhere but on Linux, as other systems spread nothing among
/// sockets of one address, or have other ways to ask for it.
pub fn bind_group(
    addr: SocketAddr,
    count: NonZeroUsize,
    filter: Option<&SteeringFilter>,
) -> io::Result<SocketGroup> {
    let (sockets, steered) = if count == NonZeroUsize::MIN {
        // Nothing to steer. Nor does anybody else get the port.
        (vec![bind(addr)?], false)
    } else {
        shared::bind(addr, count, filter)?
    };
    // quinn-udp finds out while it sets a socket up. It is set up again when it is adopted.
    let may_fragment = UdpSocketState::new(UdpSockRef::from(&sockets[0]))?.may_fragment();
    Ok(SocketGroup::new(sockets, may_fragment).with_steered(steered))
}

#[cfg(target_os = "linux")]
mod shared {
    use std::io;
    use std::net::{SocketAddr, UdpSocket};
    use std::num::NonZeroUsize;
    use std::os::fd::AsRawFd;

    use polyquic_runtime::SteeringFilter;
    use socket2::SockRef;

    use crate::socket::bind_with;

    pub(super) fn bind(
        addr: SocketAddr,
        count: NonZeroUsize,
        filter: Option<&SteeringFilter>,
    ) -> io::Result<(Vec<UdpSocket>, bool)> {
        // The first is bound without SO_REUSEPORT, and so gets the port only if nobody has it, not
        // even another group: all sockets of a port must have the option when one more is bound. The
        // others may join it from then on.
        let first = crate::bind(addr)?;
        SockRef::from(&first).set_reuse_port(true)?;
        let addr = first.local_addr()?;
        let mut sockets = vec![first];
        for _ in 1..count.get() {
            sockets.push(bind_with(addr, |socket| socket.set_reuse_port(true))?);
        }
        // Of the group: which of them it is attached to makes no difference.
        let steered = filter.is_some_and(|filter| match attach(&sockets[0], filter) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "datagrams are not steered");
                false
            }
        });
        Ok((sockets, steered))
    }

    fn attach(socket: &UdpSocket, filter: &SteeringFilter) -> io::Result<()> {
        let mut program: Vec<libc::sock_filter> = (filter.0.iter())
            .map(|instruction| libc::sock_filter {
                code: instruction.code,
                jt: instruction.jump_true,
                jf: instruction.jump_false,
                k: instruction.operand,
            })
            .collect();
        let Ok(len) = program.len().try_into() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let program = libc::sock_fprog {
            len,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: the descriptor is open, the option takes a `sock_fprog` of the size given, and this
        // one points to `len` instructions; the kernel copies them during the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod shared {
    use std::io;
    use std::net::{SocketAddr, UdpSocket};
    use std::num::NonZeroUsize;

    use polyquic_runtime::SteeringFilter;

    pub(super) fn bind(
        addr: SocketAddr,
        count: NonZeroUsize,
        _: Option<&SteeringFilter>,
    ) -> io::Result<(Vec<UdpSocket>, bool)> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "cannot bind {count} UDP sockets to {addr}: this system does not spread datagrams \
                 among them; use one shard"
            ),
        ))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv6Addr, UdpSocket};
    use std::time::{Duration, Instant};

    use polyquic_runtime::FilterInstruction;
    use socket2::SockRef;

    use super::*;
    use crate::UdpIo;

    const SENDERS: u8 = 32;

    fn count(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    fn loopback() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    /// Returns byte 1 modulo `sockets`.
    fn by_second_byte(sockets: u32) -> SteeringFilter {
        let instruction = |code, operand| FilterInstruction {
            code,
            jump_true: 0,
            jump_false: 0,
            operand,
        };
        SteeringFilter(vec![
            instruction(0x30, 1),       // load the byte at 1
            instruction(0x94, sockets), // modulo
            instruction(0x16, 0),       // return
        ])
    }

    /// Send `[sender, n]` from many ports for each `n` below `kinds`, and return what each socket of
    /// the group got of it.
    fn spread(group: &SocketGroup, to: SocketAddr, kinds: u8) -> Vec<Vec<[u8; 2]>> {
        for sender in 0..SENDERS {
            let local: SocketAddr = if to.is_ipv4() {
                loopback()
            } else {
                (Ipv6Addr::LOCALHOST, 0).into()
            };
            let socket = UdpSocket::bind(local).unwrap();
            for kind in 0..kinds {
                socket.send_to(&[sender, kind], to).unwrap();
            }
        }
        let mut received = vec![Vec::new(); group.sockets.len()];
        let total = usize::from(SENDERS) * usize::from(kinds);
        let deadline = Instant::now() + Duration::from_secs(5);
        while received.iter().map(Vec::len).sum::<usize>() < total && Instant::now() < deadline {
            for (socket, received) in group.sockets.iter().zip(&mut received) {
                socket.set_nonblocking(true).unwrap();
                let mut datagram = [0; 2];
                while socket.recv_from(&mut datagram).is_ok() {
                    received.push(datagram);
                }
            }
        }
        assert_eq!(received.iter().map(Vec::len).sum::<usize>(), total);
        received
    }

    fn assert_steered(group: &SocketGroup, to: SocketAddr) {
        assert!(group.steered);
        let kinds = 2 * group.sockets.len() as u8;
        for (index, received) in spread(group, to, kinds).iter().enumerate() {
            assert_eq!(received.len(), 2 * usize::from(SENDERS));
            for [sender, kind] in received {
                assert_eq!(
                    usize::from(*kind) % group.sockets.len(),
                    index,
                    "sender {sender}"
                );
            }
        }
    }

    #[test]
    fn the_filter_names_the_socket() {
        for sockets in 2..=5 {
            let filter = by_second_byte(sockets as u32);
            let group = bind_group(loopback(), count(sockets), Some(&filter)).unwrap();
            assert_eq!(group.sockets.len(), sockets);
            assert_steered(&group, group.sockets[0].local_addr().unwrap());
        }
    }

    #[test]
    fn the_filter_names_the_socket_in_either_ip_version() {
        let any = (Ipv6Addr::UNSPECIFIED, 0).into();
        let group = bind_group(any, count(3), Some(&by_second_byte(3))).unwrap();
        let port = group.sockets[0].local_addr().unwrap().port();
        assert_steered(&group, (Ipv6Addr::LOCALHOST, port).into());
        assert_steered(&group, ([127, 0, 0, 1], port).into());
    }

    #[test]
    fn steering_survives_adoption() {
        let filter = by_second_byte(2);
        let group = bind_group(loopback(), count(2), Some(&filter)).unwrap();
        let ios: Vec<_> = (group.sockets.iter())
            .map(|socket| UdpIo::new(socket.try_clone().unwrap()).unwrap())
            .collect();
        for io in &ios {
            assert_eq!(io.capabilities().may_fragment, group.may_fragment);
        }
        assert_steered(&group, group.sockets[0].local_addr().unwrap());
    }

    #[test]
    fn without_a_filter_all_arrives_somewhere() {
        let group = bind_group(loopback(), count(3), None).unwrap();
        assert!(!group.steered);
        spread(&group, group.sockets[0].local_addr().unwrap(), 4);
    }

    #[test]
    fn a_filter_that_the_kernel_refuses_is_no_error() {
        // No instructions; one that is none; and too many.
        let nonsense = FilterInstruction {
            code: 0xffff,
            jump_true: 0,
            jump_false: 0,
            operand: 0,
        };
        for filter in [vec![], vec![nonsense], vec![nonsense; 70_000]] {
            let group = bind_group(loopback(), count(2), Some(&SteeringFilter(filter))).unwrap();
            assert!(!group.steered);
            spread(&group, group.sockets[0].local_addr().unwrap(), 2);
        }
    }

    #[test]
    fn all_share_the_port() {
        let group = bind_group(loopback(), count(4), None).unwrap();
        let addr = group.sockets[0].local_addr().unwrap();
        assert_ne!(addr.port(), 0);
        for socket in &group.sockets {
            assert_eq!(socket.local_addr().unwrap(), addr);
        }
    }

    fn assert_occupied(addr: SocketAddr) {
        for sockets in [1, 2] {
            let error = bind_group(addr, count(sockets), None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            assert!(error.to_string().contains(&addr.to_string()), "{error}");
        }
        assert_eq!(bind(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn an_occupied_port_is_named() {
        let socket = bind(loopback()).unwrap();
        assert_occupied(socket.local_addr().unwrap());
        let group = bind_group(loopback(), count(1), None).unwrap();
        assert_occupied(group.sockets[0].local_addr().unwrap());
    }

    /// Two groups of one user must not share a port silently.
    #[test]
    fn a_groups_port_is_occupied() {
        let group = bind_group(loopback(), count(2), None).unwrap();
        let addr = group.sockets[0].local_addr().unwrap();
        assert_occupied(addr);
        drop(group);
        bind_group(addr, count(2), None).unwrap();
    }

    #[test]
    fn one_socket_shares_with_nobody() {
        let group = bind_group(loopback(), count(1), Some(&by_second_byte(1))).unwrap();
        assert!(!group.steered);
        assert!(!SockRef::from(&group.sockets[0]).reuse_port().unwrap());
    }
}
