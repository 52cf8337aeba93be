//! What the types promise about threads, checked by the compiler.

use polyquic::{
    Connecting, Connection, Driver, Endpoint, Executor, Incoming, RecvStream, SendStream, Spawn,
    Task,
};

use crate::adapter::Local;

fn send_and_sync<T: Send + Sync>() {}
fn send<T: Send>() {}
fn send_value<T: Send>(_: &T) {}
fn executor<R: Executor>() {}

/// Fails to compile if `$type` implements `$trait`: the call is ambiguous then.
macro_rules! does_not_implement {
    ($type:ty: $trait:path) => {
        const _: fn() = || {
            trait Either<Which> {
                fn either() {}
            }
            struct Implements;
            impl<T: ?Sized> Either<()> for T {}
            impl<T: ?Sized + $trait> Either<Implements> for T {}
            let _ = <$type as Either<_>>::either;
        };
    };
}

#[test]
fn handles_go_anywhere() {
    send_and_sync::<Endpoint>();
    send_and_sync::<Incoming>();
    send_and_sync::<Connecting>();
    send_and_sync::<Connection>();
    send_and_sync::<SendStream>();
    send_and_sync::<RecvStream>();
}

/// Whatever an application awaits may be part of a task that moves between threads.
#[test]
fn futures_go_anywhere() {
    // Never called: the compiler has seen it, which is all that counts.
    let _ = async |endpoint: Endpoint,
                   incoming: Incoming,
                   mut connecting: Connecting,
                   connection: Connection,
                   mut send: SendStream,
                   mut recv: RecvStream| {
        send_value(&endpoint.accept());
        send_value(&endpoint.wait_idle());
        send_value(&endpoint.rebind_addr(([0; 4], 0).into()));
        send_value(&incoming.into_future());
        send_value(&connecting.handshake_data());
        send_value(&connecting);
        send_value(&connection.open_bi());
        send_value(&connection.open_uni());
        send_value(&connection.accept_bi());
        send_value(&connection.accept_uni());
        send_value(&connection.read_datagram());
        send_value(&connection.send_datagram_wait(bytes::Bytes::new()));
        send_value(&connection.closed());
        send_value(&send.write_all(b""));
        send_value(&send.stopped());
        send_value(&recv.read_to_end(0));
        send_value(&recv.received_reset());
    };
}

/// The driver is `Send` when the adapter's own parts are, and only then.
#[test]
fn the_driver_follows_its_adapter() {
    #[cfg(feature = "smol")]
    send::<Driver<polyquic::smol::SmolRuntime>>();
    #[cfg(feature = "tokio")]
    send::<Driver<polyquic::tokio::TokioRuntime>>();
    #[cfg(feature = "blocking")]
    send::<Driver<polyquic::blocking::BlockingRuntime>>();
    does_not_implement!(Driver<Local>: Send);
    does_not_implement!(Local: Send);
}

/// Every adapter is what an application asks for.
#[test]
fn adapters_are_executors() {
    executor::<Local>();
    #[cfg(feature = "smol")]
    executor::<polyquic::smol::SmolRuntime>();
    #[cfg(feature = "tokio")]
    executor::<polyquic::tokio::TokioRuntime>();
    #[cfg(all(feature = "glommio", target_os = "linux"))]
    {
        executor::<polyquic::glommio::GlommioRuntime>();
        send_and_sync::<polyquic::glommio::GlommioRuntime>();
        send::<polyquic::glommio::GlommioTimer>();
    }
    #[cfg(feature = "blocking")]
    executor::<polyquic::blocking::BlockingRuntime>();
}

/// A task that must not move is refused by executors that move tasks, by the compiler.
#[test]
fn tasks_that_must_not_move_are_refused_where_tasks_move() {
    type Pinned = std::pin::Pin<Box<dyn Future<Output = ()>>>;

    fn spawns<F, R: Spawn<F>>() {}
    spawns::<Pinned, Local>();
    spawns::<Task, Local>();
    #[cfg(feature = "smol")]
    does_not_implement!(polyquic::smol::SmolRuntime: Spawn<Pinned>);
    #[cfg(feature = "tokio")]
    does_not_implement!(polyquic::tokio::TokioRuntime: Spawn<Pinned>);
    #[cfg(feature = "blocking")]
    does_not_implement!(polyquic::blocking::BlockingRuntime: Spawn<Pinned>);
}

/// Code that gives nothing away about its executor can still demand that a task may move.
#[test]
fn generic_futures_are_send_on_executors_that_are() {
    async fn generic<R: Executor>(rt: R) -> R {
        polyquic::sleep(&rt, std::time::Duration::ZERO).await;
        rt
    }
    #[cfg(feature = "smol")]
    send_value(&generic(polyquic::smol::SmolRuntime::global()));
    // Not polled: it need not run to have a type.
    let _ = generic::<Local>;
}
