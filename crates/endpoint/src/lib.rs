//! QUIC endpoints on any executor: the [`Driver`] that does the work, and the handles through which
//! applications see it.
//!
//! Everything here is written once. The executor is a type parameter of the [`Driver`] and of the
//! functions that start one; [`Endpoint`], [`Connection`] and the streams have none, and work from
//! any thread, whichever executor drives them.
//!
//! Names and meanings follow quinn's, so that moving from quinn is a change of imports plus naming
//! an executor once. The differences are deliberate:
//!
//! | | quinn | here |
//! |---|---|---|
//! | dropping an unfinished [`SendStream`] | finishes it: the peer takes a truncated stream for a complete one | resets it |
//! | [`Endpoint::close`], or dropping the last handle of a connection | abandons what is not delivered | delivers finished streams first, for up to three seconds |
//! | futures dropped while waiting | documented in part | every `async` method says whether it is cancel-safe |
//! | QUIC versions | 1 and drafts | 1 |

#![forbid(unsafe_code)]

mod builder;
mod connection;
mod driver;
mod endpoint;
mod error;
mod executor;
mod incoming;
mod offload;
mod outbox;
mod recv_stream;
mod send_stream;
mod shards;
mod shared;
mod sync;
mod wake;

pub use builder::EndpointBuilder;
pub use connection::{
    AcceptBi, AcceptUni, Closed, Connecting, Connection, OpenBi, OpenUni, ReadDatagram,
    SendDatagramWait, ZeroRttAccepted,
};
pub use driver::Driver;
pub use endpoint::{Accept, Endpoint};
pub use error::{
    ReadError, ReadExactError, ReadToEndError, ResetError, SendDatagramError, StoppedError,
    WriteError,
};
pub use executor::{Elapsed, Executor, Sleep, sleep, spawn, spawn_on_shards, timeout};
pub use incoming::{Incoming, IncomingFuture, RetryError};
pub use offload::{Abandoned, Offloaded, offload};
pub use recv_stream::RecvStream;
pub use send_stream::SendStream;
