//! What the adapters have in common that learn of a socket's readiness and then do the I/O
//! themselves (smol, tokio, blocking; not those that complete operations, such as io_uring).
//!
//! - [`UdpIo`]: a non-blocking UDP socket with everything QUIC wants of one: segmentation offload in
//!   both directions, several messages per system call, ECN, the local address of each datagram. The
//!   system calls are [quinn-udp]'s.
//! - [`bind_group`]: several such sockets on one address, and a filter that steers between them.
//! - [`RecvPool`]: receive buffers that travel to the application without being copied, and come
//!   back by themselves.
//! - [`Reactor`]: readiness and timers for adapters whose executor brings none, or a slow one;
//! - [`ReactorSocket`]: the two put together.
//!
//! [quinn-udp]: https://docs.rs/quinn-udp

mod group;
mod pool;
mod reactor;
mod reactor_socket;
mod socket;

pub use group::bind_group;
pub use pool::RecvPool;
pub use reactor::{IoSource, Leader, LoopWaker, Reactor, ReactorTimer};
pub use reactor_socket::ReactorSocket;
pub use socket::{Drained, SOCKET_BUFFER_BYTES, UdpIo, bind};
