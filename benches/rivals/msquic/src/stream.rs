//! A stream of msquic's: what its callback says, and what may be asked of it.

use std::{
    ffi::c_void,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use anyhow::{Result, anyhow, ensure};
use bytes::{Bytes, BytesMut};
use msquic::{
    BufferRef, SendFlags, Status, StatusCode, StreamEvent, StreamRef, StreamShutdownFlags,
};
use polyquic_bench::{settings::STREAM_RECEIVE_WINDOW_BYTES, stack};

/// What the callback and the application share.
#[derive(Default)]
pub(crate) struct Stream {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` before it is opened and after its last event.
    handle: Option<Arc<msquic::Stream>>,
    /// Received and not yet taken; until then msquic brings no more.
    received: Option<Bytes>,
    /// The peer has sent everything.
    ended: bool,
    /// Something is lost: nothing more will come.
    receive_failed: bool,
    /// Nothing more will go.
    send_failed: bool,
    /// Bytes that msquic still needs.
    sending: usize,
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

/// What msquic needs until it says that it does not.
struct Sending {
    /// Points into `data`, whose bytes stay where they are.
    buffer: [BufferRef; 1],
    data: Bytes,
}

impl Stream {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that the peer has started, from the connection's callback.
    pub(crate) fn accepted(stream: &StreamRef) -> Arc<Self> {
        let shared = Arc::new(Self::default());
        // SAFETY: msquic hands the stream over to the application with the event that this is
        // called from, and nobody else closes it.
        shared.open(unsafe { msquic::Stream::from_raw(stream.as_raw()) });
        stream.set_callback_handler(Self::callback(&shared));
        shared
    }

    /// Tells it what it is about, before the first event.
    pub(crate) fn open(&self, handle: msquic::Stream) {
        self.state().handle = Some(Arc::new(handle));
    }

    /// The handle, for a call: never with the state locked, as a call may call back.
    pub(crate) fn handle(&self) -> Result<Arc<msquic::Stream>> {
        let handle = self.state().handle.clone();
        handle.ok_or_else(|| anyhow!("the stream is closed"))
    }

    /// The callback of a stream.
    pub(crate) fn callback(
        shared: &Arc<Self>,
    ) -> impl FnMut(StreamRef, StreamEvent<'_>) -> Result<(), Status> + 'static {
        let shared = shared.clone();
        // The clone is there after the last event, which frees this closure.
        move |_, event| shared.clone().event(event)
    }

    /// What the stream calls back; its last event frees the caller, so nothing follows this.
    fn event(&self, event: StreamEvent<'_>) -> Result<(), Status> {
        let mut state = self.state();
        let mut last = None;
        let mut result = Ok(());
        match event {
            StreamEvent::Receive {
                total_buffer_length,
                buffers,
                ..
            } => {
                if *total_buffer_length == 0 {
                    return Ok(());
                }
                let mut data = BytesMut::with_capacity(buffers.iter().map(length).sum());
                for buffer in buffers {
                    data.extend_from_slice(buffer.as_bytes());
                }
                state.received = Some(data.freeze());
                // The window opens when the application has taken it.
                result = Err(StatusCode::QUIC_STATUS_PENDING.into());
            }
            StreamEvent::SendComplete { client_context, .. } => {
                // SAFETY: this is what `send` gave away, and it comes back once.
                let sent = unsafe { Box::from_raw(client_context as *mut Sending) };
                state.sending -= sent.data.len();
            }
            StreamEvent::PeerSendShutdown => state.ended = true,
            StreamEvent::PeerSendAborted { .. } => state.receive_failed = true,
            StreamEvent::PeerReceiveAborted { .. } => state.send_failed = true,
            StreamEvent::ShutdownComplete { .. } => {
                state.receive_failed = true;
                state.send_failed = true;
                last = state.handle.take();
            }
            _ => return Ok(()),
        }
        let waiting = [state.receiver.take(), state.sender.take()];
        drop(state);
        waiting.into_iter().flatten().for_each(Waker::wake);
        drop(last);
        result
    }

    fn poll_receive(&self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let mut state = self.state();
        if let Some(data) = state.received.take() {
            drop(state);
            if let Ok(handle) = self.handle() {
                handle.receive_complete(data.len() as u64);
            }
            return Poll::Ready(Ok(Some(data)));
        }
        if state.ended {
            return Poll::Ready(Ok(None));
        }
        if state.receive_failed {
            return Poll::Ready(Err(anyhow!("the stream is lost")));
        }
        state.receiver = Some(context.waker().clone());
        Poll::Pending
    }

    /// Waits until msquic does not have more than others may keep.
    fn poll_room(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut state = self.state();
        if state.send_failed {
            return Poll::Ready(Err(anyhow!("the stream is lost")));
        }
        if state.sending < STREAM_RECEIVE_WINDOW_BYTES as usize {
            return Poll::Ready(Ok(()));
        }
        state.sender = Some(context.waker().clone());
        Poll::Pending
    }

    async fn send(&self, data: Bytes) -> Result<()> {
        poll_fn(|context| self.poll_room(context)).await?;
        let handle = self.handle()?;
        self.state().sending += data.len();
        let buffer = [BufferRef::from(&*data)];
        let sending = Box::into_raw(Box::new(Sending { buffer, data }));
        // SAFETY: what is sent stays where it is until `SendComplete` brings it back.
        let sent = unsafe {
            handle.send(
                &(*sending).buffer,
                SendFlags::NONE,
                sending as *const c_void,
            )
        };
        if let Err(error) = sent {
            // SAFETY: msquic did not take it.
            let sending = unsafe { Box::from_raw(sending) };
            self.state().sending -= sending.data.len();
            return Err(error.into());
        }
        Ok(())
    }

    /// An error says that the stream is over, and so has no direction left to end.
    fn shutdown(&self, how: StreamShutdownFlags) -> Result<()> {
        Ok(self.handle()?.shutdown(how, 0)?)
    }
}

fn length(buffer: &BufferRef) -> usize {
    buffer.as_bytes().len()
}

pub(crate) fn halves(stream: Arc<Stream>) -> (Outgoing, Incoming) {
    let outgoing = Outgoing {
        stream: stream.clone(),
        finished: false,
    };
    (outgoing, Incoming { stream })
}

/// The sending half.
pub(crate) struct Outgoing {
    stream: Arc<Stream>,
    finished: bool,
}

impl stack::SendStream for Outgoing {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<()> {
        self.stream.send(chunk).await
    }

    async fn write_all(&mut self, data: &[u8]) -> Result<()> {
        self.stream.send(Bytes::copy_from_slice(data)).await
    }

    fn finish(&mut self) -> Result<()> {
        self.finished = true;
        self.stream.shutdown(StreamShutdownFlags::GRACEFUL)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.shutdown(StreamShutdownFlags::ABORT_SEND);
        }
    }
}

/// The receiving half.
pub(crate) struct Incoming {
    stream: Arc<Stream>,
}

impl stack::RecvStream for Incoming {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|context| self.stream.poll_receive(context)).await
    }

    async fn read_to_end(&mut self, limit_bytes: usize) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        while let Some(chunk) = self.read_chunk().await? {
            ensure!(
                data.len() + chunk.len() <= limit_bytes,
                "more than asked for"
            );
            data.extend_from_slice(&chunk);
        }
        Ok(data)
    }

    fn stop(&mut self) {
        let _ = self.stream.shutdown(StreamShutdownFlags::ABORT_RECEIVE);
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.stream.state().ended {
            let _ = self.stream.shutdown(StreamShutdownFlags::ABORT_RECEIVE);
        }
    }
}
