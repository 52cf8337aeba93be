//! The suite on executors that are not ours, to keep it usable for others: one whose futures stay
//! on their thread and need not be `Send`, and one whose handle can be sent but not shared.
//!
//! Both borrow clock, timers and sockets from the smol adapter, and only spawn by themselves.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;

use polyquic_runtime::{Job, Runtime, SocketGroup, Spawn, SteeringFilter};
use polyquic_smol::{SmolRuntime, SmolSocket, SmolTimer};
use smol::{Executor, LocalExecutor};

/// What both have in common.
macro_rules! borrow_runtime {
    ($name:ident) => {
        impl Runtime for $name {
            type Timer = SmolTimer;
            type Socket = SmolSocket;

            fn timer(&self) -> SmolTimer {
                SmolRuntime::global().timer()
            }

            fn bind(&self, addr: SocketAddr) -> io::Result<SmolSocket> {
                SmolRuntime::global().bind(addr)
            }

            fn adopt(&self, socket: UdpSocket) -> io::Result<SmolSocket> {
                SmolRuntime::global().adopt(socket)
            }

            fn offload(&self, job: Job) {
                SmolRuntime::global().offload(job);
            }

            fn bind_group(
                &self,
                addr: SocketAddr,
                count: NonZeroUsize,
                filter: Option<&SteeringFilter>,
            ) -> io::Result<SocketGroup> {
                SmolRuntime::global().bind_group(addr, count, filter)
            }
        }
    };
}

/// Futures need not be `Send`, and the handle is not.
#[derive(Clone)]
struct Local(Rc<LocalExecutor<'static>>);

borrow_runtime!(Local);

impl<F: Future<Output = ()> + 'static> Spawn<F> for Local {
    fn spawn(&self, future: F) {
        self.0.spawn(future).detach();
    }
}

mod local {
    use super::*;

    // Tasks hold the handle, which holds the executor: they are never dropped.
    polyquic_testkit::conformance!(
        |app| {
            let executor = Rc::new(LocalExecutor::new());
            smol::block_on(executor.run(app(Local(executor.clone()))));
        },
        except: [shutdown]
    );
}

/// Futures must be `Send`, and the handle is not `Sync`.
#[derive(Clone)]
struct NotSync(Arc<Executor<'static>>, PhantomData<Cell<()>>);

borrow_runtime!(NotSync);

impl<F: Future<Output = ()> + Send + 'static> Spawn<F> for NotSync {
    fn spawn(&self, future: F) {
        self.0.spawn(future).detach();
    }
}

fn run_as_task<Fut>(app: impl FnOnce(NotSync) -> Fut)
where
    Fut: Future<Output = ()> + Send + 'static,
{
    let executor = Arc::new(Executor::new());
    let task = executor.spawn(app(NotSync(executor.clone(), PhantomData)));
    smol::block_on(executor.run(task));
}

mod not_sync {
    use super::*;

    // As above.
    polyquic_testkit::conformance!(|app| run_as_task(app), except: [shutdown]);
}
