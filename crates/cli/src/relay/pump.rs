//! One client: datagrams from its WebSocket, or what passes for one, to its UDP socket, and back.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_tungstenite::tungstenite::{Bytes, Error, Message};
use futures::{Sink, Stream};
use polyquic::Timer;

use crate::exec::Native;
use crate::relay::args::LimitArgs;
use crate::relay::end::{Counters, End};
use crate::relay::limits::{Budget, Leave, Meter};
use crate::relay::udp::{MAX_DATAGRAM_BYTES, Sent, Udp};

/// What a client is connected by. Datagrams are binary messages.
pub(crate) trait Wire:
    Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Unpin + Send
{
    /// The largest datagram that can be sent to the client now.
    fn max_datagram_bytes(&self) -> usize;

    /// Ends it, once everything has been sent.
    fn finish<R: Native>(&mut self, rt: &R) -> impl Future<Output = ()> + Send;
}

/// What is written to a WebSocket before it is flushed.
const WRITE_BYTES: usize = 64 * 1024;

/// Messages from a client, and receives from its target, before other clients get their turn.
const STEP_MESSAGES: usize = 256;
const STEP_RECEIVES: usize = 8;

/// Most that is handed to the kernel at once, as segments of equal size.
const BATCH_BYTES: usize = 60_000;
const BATCH_DATAGRAMS: usize = 64;

/// Middleboxes forget a connection on which nothing passes after a minute or so.
const MAX_PING_INTERVAL: Duration = Duration::from_secs(20);

/// Datagrams of equal size on their way to the kernel; the last may be shorter.
#[derive(Debug, Default)]
struct Batch {
    contents: Vec<u8>,
    segment: usize,
    count: usize,
    /// Nothing may follow a shorter one.
    complete: bool,
}

impl Batch {
    /// Add a datagram; `false` if it does not fit in.
    fn push(&mut self, datagram: &[u8], most: usize) -> bool {
        if self.count == 0 {
            self.segment = datagram.len();
        } else if self.complete
            || self.count >= most.min(BATCH_DATAGRAMS)
            || datagram.len() > self.segment
            || self.contents.len() + datagram.len() > BATCH_BYTES
        {
            return false;
        }
        self.complete = datagram.len() < self.segment;
        self.contents.extend_from_slice(datagram);
        self.count += 1;
        true
    }

    fn clear(&mut self) {
        self.contents.clear();
        self.count = 0;
        self.complete = false;
    }
}

/// How far a step got.
enum Step {
    /// There is nothing to do until a waker fires.
    Waits,
    /// There may be more to do.
    More,
}

/// What carries the datagrams of one client.
pub(crate) struct Pump<'a, R: Native, W> {
    rt: R,
    socket: &'a mut W,
    udp: Udp,
    leave: Arc<Leave>,
    limits: LimitArgs,
    up: Meter,
    down: Meter,
    budget: Budget,
    counters: &'a mut Counters,
    batch: Batch,
    /// Did not fit into the batch.
    held: Option<Bytes>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// Handed to the WebSocket since it was last flushed.
    unflushed_bytes: usize,
    unflushed: bool,
    last_datagram: Instant,
    last_heard: Instant,
    last_ping: Instant,
    ping_interval: Duration,
    timer: Pin<Box<R::Timer>>,
    armed: Option<Instant>,
}

impl<'a, R: Native, W: Wire> Pump<'a, R, W> {
    pub(crate) fn new(
        rt: &R,
        socket: &'a mut W,
        udp: Udp,
        leave: Arc<Leave>,
        limits: &LimitArgs,
        counters: &'a mut Counters,
    ) -> Self {
        let now = rt.clock().now();
        let largest = MAX_DATAGRAM_BYTES as u64;
        let meter = || Meter::new(limits.rate, limits.datagram_rate, largest, now);
        Self {
            rt: rt.clone(),
            socket,
            udp,
            leave,
            up: meter(),
            down: meter(),
            budget: Budget::new(limits.max_bytes),
            counters,
            batch: Batch::default(),
            held: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            unflushed_bytes: 0,
            unflushed: false,
            last_datagram: now,
            last_heard: now,
            last_ping: now,
            ping_interval: (limits.idle / 3).min(MAX_PING_INTERVAL),
            timer: Box::pin(rt.timer()),
            armed: None,
            limits: limits.clone(),
        }
    }

    /// Carry datagrams until the end, for which there are many reasons.
    pub(crate) async fn run(mut self) -> End {
        std::future::poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(Err(end)) => Poll::Ready(end),
            Poll::Ready(Ok(never)) => match never {},
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<std::convert::Infallible, End>> {
        let now = self.rt.clock().now();
        if self.leave.asked(cx) {
            return Poll::Ready(Err(End::Leaving));
        }
        let up = self.step_up(cx, now)?;
        let down = self.step_down(cx, now)?;
        if self.budget.is_used_up() {
            return Poll::Ready(Err(End::UsedUp));
        }
        self.check_time(cx, now)?;
        if matches!(up, Step::More) || matches!(down, Step::More) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// From the client to its target.
    fn step_up(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Step, End> {
        for _ in 0..STEP_MESSAGES {
            let datagram = match self.held.take() {
                Some(datagram) => datagram,
                None => match self.poll_message(cx, now) {
                    Ok(Poll::Ready(Some(datagram))) => datagram,
                    Ok(Poll::Ready(None)) => continue,
                    Ok(Poll::Pending) => {
                        // What does not go now goes when the socket is writable.
                        let _ = self.poll_batch(cx);
                        return Ok(Step::Waits);
                    }
                    Err(end) => {
                        // The last words of a QUIC connection come right before the WebSocket's.
                        let _ = self.poll_batch(cx);
                        return Err(end);
                    }
                },
            };
            if !self.batch.push(&datagram, self.udp.max_segments()) {
                self.held = Some(datagram);
                if self.poll_batch(cx).is_pending() {
                    // TCP holds the client back.
                    return Ok(Step::Waits);
                }
            }
        }
        let _ = self.poll_batch(cx);
        Ok(Step::More)
    }

    /// The next datagram from the client; `None` for a message that is none, or may not pass.
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Result<Poll<Option<Bytes>>, End> {
        let message = match Pin::new(&mut *self.socket).poll_next(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(message) => message,
        };
        let message = message
            .ok_or(End::Closed)?
            .map_err(|error| end_of(&error))?;
        self.last_heard = now;
        match message {
            Message::Binary(datagram) => {
                self.last_datagram = now;
                if datagram.is_empty() {
                    return Ok(Poll::Ready(None));
                }
                // Before anything else: what is dropped has come, too.
                self.charge(datagram.len())?;
                if !self.up.admits(datagram.len(), now) {
                    self.counters.over_rate += 1;
                    return Ok(Poll::Ready(None));
                }
                Ok(Poll::Ready(Some(datagram)))
            }
            Message::Text(_) => Err(End::NotBinary),
            Message::Close(_) => Err(End::Closed),
            // Pings have been answered by the library.
            Message::Ping(payload) | Message::Pong(payload) => {
                self.charge(payload.len())?;
                Ok(Poll::Ready(None))
            }
            Message::Frame(_) => Ok(Poll::Ready(None)),
        }
    }

    fn charge(&mut self, length: usize) -> Result<(), End> {
        match self.budget.take(length) {
            true => Ok(()),
            false => Err(End::UsedUp),
        }
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.batch.count == 0 {
            return Poll::Ready(());
        }
        let count = self.batch.count as u64;
        let batch = &self.batch;
        match ready!(self.udp.poll_send(cx, &batch.contents, batch.segment)) {
            Sent::Yes => {
                self.counters.up_datagrams += count;
                self.counters.up_bytes += batch.contents.len() as u64;
            }
            Sent::No => self.counters.unsendable += count,
        }
        self.batch.clear();
        Poll::Ready(())
    }

    /// From the target to the client.
    fn step_down(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Step, End> {
        for _ in 0..STEP_RECEIVES {
            match self.receive(cx, now)? {
                Poll::Ready(()) => {}
                Poll::Pending => {
                    let _ = self.poll_feed(cx)?;
                    return Ok(Step::Waits);
                }
            }
            // Whether that waits or not: what the target sends is received, and if need be dropped,
            // lest the kernel keeps what is too old to be of use.
            let _ = self.poll_feed(cx)?;
        }
        Ok(Step::More)
    }

    fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Poll<()>, End> {
        let (counters, down, queue) = (&mut *self.counters, &mut self.down, &mut self.queue);
        let (queued, last) = (&mut self.queued_bytes, &mut self.last_datagram);
        let budget = &mut self.budget;
        let mut used_up = false;
        let room = self.limits.max_queue.saturating_sub(self.unflushed_bytes);
        let result = self.udp.poll_recv(cx, |bytes, stride| {
            *last = now;
            for datagram in bytes.chunks(stride) {
                if !budget.take(datagram.len()) {
                    used_up = true;
                } else if !down.admits(datagram.len(), now) {
                    counters.over_rate += 1;
                } else if *queued + datagram.len() > room {
                    counters.queue_full += 1;
                } else {
                    *queued += datagram.len();
                    queue.push_back(Bytes::copy_from_slice(datagram));
                }
            }
        });
        match result {
            Poll::Ready(Ok(())) if used_up => Err(End::UsedUp),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Ready(Err(error)) => Err(End::Local(crate::failure::io_reason(&error))),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// From the queue into the WebSocket, as far as the client reads.
    fn poll_feed(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        loop {
            while let Some(datagram) = self.queue.front() {
                let length = datagram.len();
                if self.unflushed_bytes > 0 && self.unflushed_bytes + length > WRITE_BYTES {
                    break;
                }
                if Pin::new(&mut *self.socket)
                    .poll_ready(cx)
                    .map_err(|error| end_of(&error))?
                    .is_pending()
                {
                    return Ok(Poll::Pending);
                }
                let datagram = self.queue.pop_front().expect("there is a front");
                if length > self.socket.max_datagram_bytes() {
                    self.queued_bytes -= length;
                    self.counters.unsendable += 1;
                    continue;
                }
                match Pin::new(&mut *self.socket).start_send(Message::Binary(datagram)) {
                    Ok(()) => {}
                    // Full of answers to pings that are not read.
                    Err(Error::WriteBufferFull(message)) => {
                        if let Message::Binary(datagram) = *message {
                            self.queue.push_front(datagram);
                        }
                        break;
                    }
                    Err(error) => return Err(end_of(&error)),
                }
                self.queued_bytes -= length;
                self.unflushed_bytes += length;
                self.unflushed = true;
                self.counters.down_datagrams += 1;
                self.counters.down_bytes += length as u64;
            }
            if !self.unflushed && self.queue.is_empty() {
                return Ok(Poll::Ready(()));
            }
            let flushed = Pin::new(&mut *self.socket).poll_flush(cx);
            if flushed.map_err(|error| end_of(&error))?.is_pending() {
                return Ok(Poll::Pending);
            }
            self.unflushed = false;
            self.unflushed_bytes = 0;
        }
    }

    /// Pings, and the end of patience.
    fn check_time(&mut self, cx: &mut Context<'_>, mut now: Instant) -> Result<(), End> {
        loop {
            let idle = self.limits.idle;
            if now >= self.last_datagram + idle {
                return Err(End::Idle(idle));
            }
            if now >= self.last_heard + idle {
                return Err(End::Silent(idle));
            }
            if now >= self.last_ping + self.ping_interval {
                self.last_ping = now;
                self.ping(cx)?;
            }
            let deadline = (self.last_datagram.min(self.last_heard) + idle)
                .min(self.last_ping + self.ping_interval);
            // Later is fine: it is looked at again when the timer fires.
            if self.armed.is_none_or(|armed| deadline < armed) {
                self.timer.as_mut().reset(deadline);
                self.armed = Some(deadline);
            }
            if self.timer.as_mut().poll_expired(cx).is_pending() {
                return Ok(());
            }
            self.armed = None;
            now = self.rt.clock().now();
        }
    }

    fn ping(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        // A client that leaves things unread will not see a ping either.
        if self.unflushed {
            return Ok(());
        }
        match Pin::new(&mut *self.socket).start_send(Message::Ping(Bytes::new())) {
            Ok(()) => self.unflushed = true,
            Err(Error::WriteBufferFull(_)) => return Ok(()),
            Err(error) => return Err(end_of(&error)),
        }
        let _ = self.poll_feed(cx)?;
        Ok(())
    }
}

/// What an error of the WebSocket means.
fn end_of(error: &Error) -> End {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => End::Closed,
        Error::Io(error) => End::Lost(crate::failure::io_reason(error)),
        Error::Capacity(_) => End::TooBig,
        Error::Protocol(
            async_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => End::Lost("it closed the connection without a word".into()),
        other => End::Protocol(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_equal_sizes_and_one_shorter_at_the_end() {
        let mut batch = Batch::default();
        assert!(batch.push(&[1; 1200], 64));
        assert!(batch.push(&[2; 1200], 64));
        assert!(!batch.push(&[3; 1201], 64), "larger");
        assert!(batch.push(&[3; 1199], 64));
        assert!(!batch.push(&[4; 1199], 64), "nothing after a shorter one");
        assert_eq!((batch.contents.len(), batch.segment), (3599, 1200));
        batch.clear();
        assert!(batch.push(&[1; 9], 1));
        assert!(!batch.push(&[1; 9], 1), "no segmentation here");
        batch.clear();
        assert!(batch.push(&[1; MAX_DATAGRAM_BYTES], 64));
        assert!(!batch.push(&[1; 9], 64), "too many bytes");
    }
}
