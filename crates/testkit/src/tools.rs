//! Small things that tests are made of.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use polyquic_core::VarInt;
use polyquic_endpoint::{Connection, RecvStream, SendStream};
use polyquic_runtime::{Spawn, Task};
use sha2::{Digest, Sha256};

/// `len` bytes that nothing else looks like: made from `seed` and their position.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    // xorshift64*, seeded so that neighbouring seeds have nothing in common.
    let mut state = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A code for streams and connections.
pub fn code(value: u32) -> VarInt {
    VarInt::from_u32(value)
}

/// Write all of `data` and finish.
pub async fn send_all(mut stream: SendStream, data: &[u8]) {
    stream.write_all(data).await.expect("the stream is open");
    stream.finish().expect("nobody finished it before");
}

/// Read everything.
pub async fn read_all(mut stream: RecvStream) -> Vec<u8> {
    stream
        .read_to_end(usize::MAX)
        .await
        .expect("the peer finishes the stream")
}

/// Send `data` from one end to the other on a stream of its own, and check that it arrives.
pub async fn check_transfer(from: &Connection, to: &Connection, data: &[u8]) {
    let sending = async {
        let stream = from.open_uni().await.expect("the connection is open");
        send_all(stream, data).await;
    };
    let receiving = async {
        let stream = to.accept_uni().await.expect("the connection is open");
        read_all(stream).await
    };
    let ((), received) = futures::join!(sending, receiving);
    assert!(received == data, "what arrived is not what was sent");
}

/// Check that data still passes both ways.
pub async fn check_alive(a: &Connection, b: &Connection) {
    check_transfer(a, b, b"to and").await;
    check_transfer(b, a, b"fro").await;
}

/// Send back whatever arrives on bidirectional streams, until the connection ends.
pub async fn echo(connection: Connection) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
            if send.write_chunk(chunk.bytes).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }
}

/// Have `data` sent back by an [`echo`] at the other end.
pub async fn check_echo(connection: &Connection, data: &[u8]) {
    let (send, recv) = connection.open_bi().await.expect("the connection is open");
    let ((), echoed) = futures::join!(send_all(send, data), read_all(recv));
    assert!(echoed == data, "what came back is not what was sent");
}

/// Write `len` bytes of `seed`'s pattern over and over, and finish; returns their hash.
///
/// Not all at once: what is sent may be larger than what should be in memory.
pub async fn send_hashed(mut stream: SendStream, seed: u64, len: usize) -> [u8; 32] {
    let block = Bytes::from(pattern(seed, len.min(1 << 20)));
    let mut hash = Sha256::new();
    let mut left = len;
    while left > 0 {
        let piece = block.slice(..left.min(block.len()));
        hash.update(&piece);
        left -= piece.len();
        stream.write_chunk(piece).await.expect("the stream is open");
    }
    stream.finish().expect("nobody finished it before");
    hash.finalize().into()
}

/// Read everything; returns its length and hash.
pub async fn read_hashed(mut stream: RecvStream) -> (usize, [u8; 32]) {
    let mut hash = Sha256::new();
    let mut len = 0;
    while let Some(chunk) = stream
        .read_chunk(usize::MAX, true)
        .await
        .expect("the peer finishes the stream")
    {
        len += chunk.bytes.len();
        hash.update(&chunk.bytes);
    }
    (len, hash.finalize().into())
}

/// Run `future` as a task of the executor; the future that is returned yields its result.
pub fn task<R, F>(rt: &R, future: F) -> impl Future<Output = F::Output> + Send + 'static + use<R, F>
where
    R: Spawn<Task>,
    F: Future<Output: Send> + Send + 'static,
{
    let (send, receive) = futures::channel::oneshot::channel();
    rt.spawn(Box::pin(async move {
        // Nobody may want to know.
        let _ = send.send(future.await);
    }));
    async move { receive.await.expect("the task panicked or was dropped") }
}

/// Run `job` on a thread of its own; the future that is returned yields its result.
pub fn spawn_thread<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> + Send + 'static {
    let (send, receive) = futures::channel::oneshot::channel();
    std::thread::spawn(move || {
        let _ = send.send(job());
    });
    async move { receive.await.expect("the thread panicked") }
}

/// Poll `future` once.
pub async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Let other tasks run.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            Poll::Ready(())
        } else {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Check that `future` waits; it is polled a few times, while others run in between.
pub async fn check_pending<F: Future>(future: F) {
    let mut future = std::pin::pin!(future);
    for _ in 0..10 {
        assert!(
            poll_once(future.as_mut()).await.is_pending(),
            "ready, though there is nothing to be had"
        );
        yield_now().await;
    }
}

/// Run `future` on the calling thread, which need not belong to any executor.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let unpark = Arc::new(Unpark {
        thread: std::thread::current(),
        woken: AtomicBool::new(false),
    });
    let waker = Waker::from(unpark.clone());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !unpark.woken.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}

struct Unpark {
    thread: std::thread::Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Poll a future once and drop it, several times over, others running in between; then wait for one.
///
/// Takes the expression that makes the future, and yields its output. A future that takes something
/// and then waits, or that takes somebody's waker along when it is dropped, does not survive this.
#[macro_export]
macro_rules! cancelling {
    ($future:expr) => {{
        let mut output = ::core::option::Option::None;
        for _ in 0..$crate::tools::CANCELLATIONS {
            let polled = $crate::tools::poll_once(::core::pin::pin!($future)).await;
            if let ::core::task::Poll::Ready(ready) = polled {
                output = ::core::option::Option::Some(ready);
                break;
            }
            $crate::tools::yield_now().await;
        }
        match output {
            ::core::option::Option::Some(output) => output,
            ::core::option::Option::None => $future.await,
        }
    }};
}

/// How often [`cancelling!`](crate::cancelling) drops a future before it waits for one.
pub const CANCELLATIONS: usize = 3;
