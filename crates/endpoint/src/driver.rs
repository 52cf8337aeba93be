//! The future that moves datagrams, timers and wake-ups of one endpoint.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use polyquic_core::{
    ConnectionHandle, DatagramEvent, DeadlineGrid, EcnCodepoint, EndpointEvent, Instant,
    TimerQueue, Transmit,
};
use polyquic_runtime::{DatagramSocket, Ecn, Received, RecvBatch, RecvMeta, Runtime, Timer};

use crate::connection::{self, ConnectionInner};
use crate::offload::Handshakes;
use crate::outbox::{Outbox, Posted};
use crate::shards::{Handed, Orphan, Sorted};
use crate::shared::{Rebind, Shared, State, lock, respond, wake_all};
use crate::sync::MutexGuard;
use crate::wake::cause;

/// Datagrams to take in before the application gets to run and answers are sent.
///
/// Small steps keep both peers busy at once; large ones make them take turns, each asleep while the
/// other works. A kernel that coalesces (GRO) may exceed it by one message.
const RECV_STEP_DATAGRAMS: usize = 64;

/// Most messages to ask the socket for at once.
const RECV_STEP_MESSAGES: usize = 32;

/// Datagrams to send before looking at the socket again.
const SEND_STEP_DATAGRAMS: usize = 128;

/// Sends for one connection before it is the next one's turn.
const SENDS_PER_CONNECTION: usize = 2;

/// Moves the datagrams of one endpoint: the only future that touches its socket.
///
/// Made by [`Endpoint`](crate::Endpoint) and spawned through [`Spawn`](polyquic_runtime::Spawn). It
/// is `Send` when the runtime's handle, timer and socket are; nothing here demands it.
///
/// # What a poll does
///
/// 1. Send for the connections that have something to send: those that handles wrote to, those that
///    received something in the poll before, those whose deadline has passed.
/// 2. Receive a step's worth of datagrams, feed the machines, and wake who waits for them.
/// 3. If anybody was woken, yield: what they write travels with the acknowledgements. Otherwise
///    acknowledge at once.
///
/// It knows why it was woken, receives only when the socket said that there is something, and
/// re-arms the timer only for an earlier deadline. There is no task per connection, no channel, and
/// one lock for all datagrams of a connection that arrive in a row.
///
/// It completes when all handles and connections are gone, or when the socket fails. Dropping it
/// fails every connection.
#[must_use = "an endpoint does nothing unless its driver is run"]
pub struct Driver<R: Runtime> {
    rt: R,
    shared: Arc<Shared>,
    io: Io<R>,
    timer: Pin<Box<R::Timer>>,
    /// What the timer is set to.
    armed: Option<Instant>,
    /// Causes put off to the next poll.
    deferred: u8,
    /// Whether the poll before this one only put things off.
    yielded: bool,
    timers: TimerQueue,
    grid: DeadlineGrid,
    /// Connections to look at; each is flagged dirty.
    queue: VecDeque<Arc<ConnectionInner>>,
    /// Tasks to wake when no lock is held. Kept for its allocation.
    woken: Vec<Waker>,
    /// Kept for its allocation.
    endpoint_events: Vec<EndpointEvent>,
    /// What other shards handed over and was not looked at yet.
    handed: VecDeque<Handed>,
    /// What was received and is this shard's. Kept for its allocation.
    own: Vec<Received>,
    handshakes: Handshakes,
    wakers: Wakers,
    /// Whether it ended because there was nothing left to do.
    done: bool,
}

/// The socket and what belongs to it.
struct Io<R: Runtime> {
    socket: R::Socket,
    /// The socket before a rebind, until something arrives at the new one.
    old_socket: Option<R::Socket>,
    /// The socket may have something to receive.
    readable: bool,
    old_readable: bool,
    /// How many messages to ask for, so that a step stays a step when the kernel coalesces.
    recv_messages: usize,
    batch: RecvBatch,
    outbox: Outbox,
}

struct Wakers {
    readable: Waker,
    old_readable: Waker,
    writable: Waker,
    timer: Waker,
}

/// How to go on after a poll.
enum Next {
    /// There is more to do, but others should run first.
    Yield,
    /// Wait to be woken.
    Wait,
    /// Nothing will ever come again.
    Done,
}

impl<R: Runtime> Driver<R> {
    pub(crate) fn new(rt: R, socket: R::Socket, shared: Arc<Shared>) -> Self {
        let signal = &shared.signal;
        Self {
            timer: Box::pin(rt.timer()),
            rt,
            io: Io {
                socket,
                old_socket: None,
                // Asking is how the waker gets registered.
                readable: true,
                old_readable: false,
                recv_messages: RECV_STEP_MESSAGES,
                batch: RecvBatch::new(RECV_STEP_MESSAGES),
                outbox: Outbox::default(),
            },
            armed: None,
            deferred: 0,
            yielded: false,
            timers: TimerQueue::default(),
            grid: DeadlineGrid::new(shared.clock.now()),
            queue: VecDeque::new(),
            woken: Vec::new(),
            endpoint_events: Vec::new(),
            handed: VecDeque::new(),
            own: Vec::new(),
            done: false,
            handshakes: Handshakes::new(signal.clone()),
            wakers: Wakers {
                readable: signal.waker(cause::READABLE),
                old_readable: signal.waker(cause::OLD_READABLE),
                writable: signal.waker(cause::WRITABLE),
                timer: signal.waker(cause::TIMER),
            },
            shared,
        }
    }

    fn run(&mut self, causes: u8) -> io::Result<Next> {
        let now = self.shared.clock.now();
        self.io.readable |= causes & cause::READABLE != 0;
        self.io.old_readable |= causes & cause::OLD_READABLE != 0;
        if causes & cause::WRITABLE != 0 {
            self.io.send_rest(&self.wakers)?;
        }
        if causes & cause::HANDLE != 0 {
            self.shared.drain_dirty(&mut self.queue);
        }
        // Answers may have been waiting for room as well.
        if causes & (cause::HANDLE | cause::WRITABLE) != 0 {
            self.handle_requests()?;
        }
        if causes & cause::HANDED != 0
            && let Some(place) = &self.shared.place
        {
            place.take_handed(&mut self.handed);
        }
        if causes & cause::OFFLOAD != 0 {
            self.resume_handshakes(now);
        }
        self.expire_timers(causes & cause::TIMER != 0, now);
        self.flush(now)?;
        self.receive()?;
        let woke = !self.woken.is_empty();
        wake_all(&mut self.woken);
        if !woke && !self.queue.is_empty() {
            self.flush(self.shared.clock.now())?;
            wake_all(&mut self.woken);
        }
        self.arm_timer();

        let sending = !self.queue.is_empty() && !self.io.outbox.is_blocked();
        if sending || self.io.readable || self.io.old_readable || !self.handed.is_empty() {
            return Ok(Next::Yield);
        }
        if !self.shared.has_handles() {
            let state = self.shared.lock();
            if state.is_idle() && state.responses.is_empty() && !self.io.outbox.is_blocked() {
                return Ok(Next::Done);
            }
        }
        Ok(Next::Wait)
    }

    /// Stateless answers, and changes of the socket.
    fn handle_requests(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        if let Some(rebind) = state.rebind.take() {
            // The system may take its time, and a rebind of all shards locks the others.
            drop(state);
            let socket = self.new_socket(rebind);
            state = shared.lock();
            self.change_socket(&mut state, socket);
        }
        while !self.io.outbox.is_blocked() {
            let Some((transmit, data)) = state.responses.pop_front() else {
                break;
            };
            self.io.outbox.fresh().extend_from_slice(&data);
            self.io.post(transmit, 1, &self.wakers)?;
        }
        Ok(())
    }

    fn new_socket(&self, rebind: Rebind) -> io::Result<(SocketAddr, R::Socket)> {
        let socket = match rebind {
            Rebind::Socket(socket) => self.rt.adopt(socket),
            Rebind::Address(addr) => self.rt.bind(addr),
            Rebind::Group(addr, shards) => {
                let place = self.shared.place.as_ref().expect("one of several shards");
                let sockets = place.siblings.bind(&self.rt, addr)?.sockets;
                let mut own = None;
                for (shard, socket) in shards.iter().zip(sockets) {
                    if Arc::ptr_eq(shard, &self.shared) {
                        own = Some(socket);
                    } else if let Err(error) = shard.start_rebind(Rebind::Socket(socket)) {
                        tracing::debug!(%error, "a shard stays behind");
                    }
                }
                self.rt.adopt(own.expect("a socket for each shard"))
            }
        }?;
        Ok((socket.local_addr()?, socket))
    }

    fn change_socket(
        &mut self,
        state: &mut MutexGuard<'_, State>,
        socket: io::Result<(SocketAddr, R::Socket)>,
    ) {
        state.rebind_result = Some(match socket {
            Ok((addr, socket)) => {
                let old = std::mem::replace(&mut self.io.socket, socket);
                self.io.old_socket = Some(old);
                self.io.old_readable = true;
                self.io.readable = true;
                self.io.outbox.clear();
                state.local_addr = addr;
                state.core.set_ipv6(addr.is_ipv6());
                for connection in state.connections() {
                    let mut connection_state = lock(&connection.state);
                    connection_state.machine.local_address_changed();
                    enqueue(&mut self.queue, connection, &mut connection_state);
                }
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "cannot change to another socket, keeping the old one");
                state.core.stats_mut().rebind_failures += 1;
                Err(error)
            }
        });
        state.rebinding.drain(&mut self.woken);
    }

    /// Have the connections go on whose TLS was done elsewhere.
    fn resume_handshakes(&mut self, now: Instant) {
        for connection in self.handshakes.take_done(&self.rt) {
            let mut state = self.shared.lock();
            let mut connection_state = lock(&connection.state);
            state.core.resume(now, &mut connection_state.machine);
            enqueue(&mut self.queue, &connection, &mut connection_state);
        }
    }

    /// Put connections whose deadline has passed into the queue.
    fn expire_timers(&mut self, fired: bool, now: Instant) {
        if fired {
            let mut cx = Context::from_waker(&self.wakers.timer);
            if self.timer.as_mut().poll_expired(&mut cx).is_ready() {
                self.armed = None;
            }
        }
        if self
            .timers
            .next_deadline()
            .is_none_or(|deadline| deadline > now)
        {
            return;
        }
        let state = self.shared.lock();
        while let Some(slot) = self.timers.pop_expired(now) {
            if let Some(connection) = state.connection(ConnectionHandle(slot)) {
                enqueue(&mut self.queue, connection, &mut lock(&connection.state));
            }
        }
    }

    fn arm_timer(&mut self) {
        let Some(deadline) = self.timers.next_deadline() else {
            return;
        };
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        self.timer.as_mut().reset(deadline);
        self.armed = Some(deadline);
        let mut cx = Context::from_waker(&self.wakers.timer);
        if self.timer.as_mut().poll_expired(&mut cx).is_ready() {
            self.armed = None;
            self.shared.signal.raise(cause::TIMER);
        }
    }

    /// Send for the connections in the queue, a step's worth.
    fn flush(&mut self, now: Instant) -> io::Result<()> {
        let mut budget = SEND_STEP_DATAGRAMS;
        while budget > 0 && !self.io.outbox.is_blocked() {
            let Some(connection) = self.queue.pop_front() else {
                break;
            };
            self.flush_connection(connection, now, &mut budget)?;
        }
        if !self.io.outbox.is_blocked() {
            self.io.send_rest(&self.wakers)?;
        }
        Ok(())
    }

    fn flush_connection(
        &mut self,
        connection: Arc<ConnectionInner>,
        now: Instant,
        budget: &mut usize,
    ) -> io::Result<()> {
        let mut state = lock(&connection.state);
        if !state.machine.is_closed() && is_due(&mut state, now) {
            state.machine.handle_timeout(now);
        }
        // First, because it may end a wait for delivery and so let a close go out.
        state.handle_events(&mut self.woken);
        state.advance_close(now);

        let max_segments = match state.machine.segmentation_offload() {
            true => self.io.socket.capabilities().max_send_segments,
            false => 1,
        };
        let mut sends = 0;
        let more = loop {
            if sends == SENDS_PER_CONNECTION || *budget == 0 {
                break true;
            }
            let buf = self.io.outbox.fresh();
            let transmit = state.machine.poll_transmit(now, max_segments, buf);
            let Some(transmit) = transmit else {
                // Not before: on a short path the closing period is over in a millisecond or two,
                // and a busy machine may take longer to get here. The peer would hear nothing.
                if state.machine.is_closed() && is_due(&mut state, now) {
                    state.machine.handle_timeout(now);
                    continue;
                }
                break false;
            };
            let datagrams = transmit
                .segment_size
                .map_or(1, |size| transmit.size.div_ceil(size));
            *budget = budget.saturating_sub(datagrams);
            sends += 1;
            if self.io.post(transmit, max_segments, &self.wakers)? == Posted::Blocked {
                break true;
            }
        };
        while let Some(event) = state.machine.poll_endpoint_events() {
            self.endpoint_events.push(event);
        }
        state.handle_events(&mut self.woken);
        if let Some(deadline) = state.next_deadline() {
            let deadline = self.grid.at_or_after(deadline, now);
            self.timers.schedule(connection.handle.0, deadline);
        }
        state.dirty = more;
        let job = state.machine.take_handshake_job();
        drop(state);

        if let Some(job) = job {
            self.handshakes.start(&self.rt, &connection, job);
        }
        if !self.endpoint_events.is_empty() {
            self.forward_endpoint_events(&connection);
        }
        if more {
            self.queue.push_back(connection);
        }
        Ok(())
    }

    /// Pass what a connection says to the endpoint, and the answers back.
    fn forward_endpoint_events(&mut self, connection: &Arc<ConnectionInner>) {
        let mut state = self.shared.lock();
        for event in self.endpoint_events.drain(..) {
            let drained = event.is_drained();
            let answer = state.core.handle_event(connection.handle, event);
            if drained {
                self.timers.cancel(connection.handle.0);
                state.remove(connection.handle, &mut self.woken);
                // For good: whatever handles still do to it, it never enters a queue again.
                lock(&connection.state).dirty = true;
            }
            if let Some(answer) = answer {
                let mut connection_state = lock(&connection.state);
                connection_state.machine.handle_event(answer);
                enqueue(&mut self.queue, connection, &mut connection_state);
            }
        }
    }

    /// Receive a step's worth.
    fn receive(&mut self) -> io::Result<()> {
        if self.io.old_readable {
            self.receive_old();
        }
        let mut datagrams = self.handle_handed();
        while self.io.readable && datagrams < RECV_STEP_DATAGRAMS {
            let io = &mut self.io;
            io.batch.set_limit(io.recv_messages);
            let mut cx = Context::from_waker(&self.wakers.readable);
            match io.socket.poll_recv(&mut cx, &mut io.batch) {
                Poll::Pending => io.readable = false,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) => {
                    let messages = io.batch.len();
                    let (received, routed) = self.handle_batch();
                    datagrams += received;
                    let io = &mut self.io;
                    if let Some(each) = received.checked_div(messages) {
                        io.recv_messages =
                            (RECV_STEP_DATAGRAMS / each.max(1)).clamp(1, RECV_STEP_MESSAGES);
                    }
                    if routed {
                        io.old_socket = None;
                        io.old_readable = false;
                    }
                }
            }
        }
        Ok(())
    }

    /// The same for the socket before a rebind, whose errors no longer matter.
    fn receive_old(&mut self) {
        let io = &mut self.io;
        let Some(socket) = &mut io.old_socket else {
            io.old_readable = false;
            return;
        };
        io.batch.set_limit(RECV_STEP_MESSAGES);
        let mut cx = Context::from_waker(&self.wakers.old_readable);
        match socket.poll_recv(&mut cx, &mut io.batch) {
            Poll::Pending => io.old_readable = false,
            Poll::Ready(Ok(())) => {
                self.handle_batch();
            }
            Poll::Ready(Err(_)) => {
                io.old_socket = None;
                io.old_readable = false;
            }
        }
    }

    /// Look at what other shards handed over, a step's worth. Returns how many datagrams there were.
    fn handle_handed(&mut self) -> usize {
        let mut datagrams = 0;
        while datagrams < RECV_STEP_DATAGRAMS {
            match self.handed.pop_front() {
                Some(Handed::Datagrams(received)) => {
                    datagrams += received.data.len().div_ceil(received.meta.stride.max(1));
                    self.own.push(received);
                }
                Some(Handed::Orphan(data, meta)) => {
                    datagrams += 1;
                    self.handle_orphan(data, meta);
                }
                None => break,
            }
        }
        self.handle_own(&Sorted::default());
        datagrams
    }

    /// Look whether this is a stateless reset of a connection of this shard's. It has been answered.
    fn handle_orphan(&mut self, data: BytesMut, meta: RecvMeta) {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let mut unsent = Vec::new();
        let event = state
            .core
            .handle(now, meta.peer, meta.local_ip, None, data, &mut unsent);
        if let Some(DatagramEvent::ConnectionEvent(handle, event)) = event
            && let Some(connection) = state.connection(handle)
        {
            let mut connection_state = lock(&connection.state);
            connection_state.machine.handle_event(event);
            connection_state.handle_events(&mut self.woken);
            enqueue(&mut self.queue, connection, &mut connection_state);
        }
    }

    /// Feed what is in the batch to the machines, other shards' to these. Returns how many datagrams
    /// there were, and whether any belonged to a connection.
    fn handle_batch(&mut self) -> (usize, bool) {
        let mut sorted = Sorted::default();
        match &self.shared.place {
            None => self.own.extend(self.io.batch.drain()),
            Some(place) => {
                for received in self.io.batch.drain() {
                    place.sort(received, &mut self.own, &mut sorted);
                }
            }
        }
        let (own, routed) = self.handle_own(&sorted);
        let others = sorted.handed_over + sorted.dropped;
        // What is another shard's shows as well that the socket is in use.
        (own + others as usize, routed || sorted.handed_over > 0)
    }

    /// Feed this shard's datagrams, in `own`, to its machines.
    fn handle_own(&mut self, sorted: &Sorted) -> (usize, bool) {
        if self.own.is_empty() && *sorted == Sorted::default() {
            return (0, false);
        }
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let State {
            core,
            connections,
            incoming,
            responses,
            accepting,
            closing,
            ..
        } = &mut *state;
        sorted.count(core.stats_mut());
        let mut response = Vec::new();
        let mut orphans = Vec::new();
        let mut datagrams = 0;
        let mut routed = false;
        // Datagrams come in runs for the same connection: keep its lock from one to the next.
        let mut current: Option<(&Arc<ConnectionInner>, MutexGuard<'_, connection::State>)> = None;
        for Received { mut data, meta } in self.own.drain(..) {
            let ecn = meta.ecn.map(proto_ecn);
            while !data.is_empty() {
                let datagram = data.split_to(meta.stride.clamp(1, data.len()));
                datagrams += 1;
                let orphan = match &self.shared.place {
                    Some(_) => Orphan::of(&datagram),
                    None => None,
                };
                let event =
                    core.handle(now, meta.peer, meta.local_ip, ecn, datagram, &mut response);
                if let Some(orphan) = orphan
                    && !matches!(event, Some(DatagramEvent::ConnectionEvent(..)))
                {
                    orphans.push((orphan, meta));
                }
                match event {
                    Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                        routed = true;
                        if current
                            .as_ref()
                            .is_none_or(|(current, _)| current.handle != handle)
                        {
                            if let Some((connection, mut state)) = current.take() {
                                state.handle_events(&mut self.woken);
                                enqueue(&mut self.queue, connection, &mut state);
                            }
                            current = connections
                                .get(handle.0)
                                .and_then(Option::as_ref)
                                .map(|connection| (connection, lock(&connection.state)));
                        }
                        if let Some((_, state)) = &mut current {
                            state.machine.handle_event(event);
                        }
                    }
                    Some(DatagramEvent::NewConnection(attempt)) => {
                        if closing.is_some() {
                            let transmit = core.refuse(attempt, &mut response);
                            respond(core, responses, transmit, &mut response);
                        } else {
                            incoming.push_back(attempt);
                            accepting.drain(&mut self.woken);
                        }
                    }
                    Some(DatagramEvent::Response(transmit)) => {
                        respond(core, responses, transmit, &mut response);
                    }
                    None => {}
                }
            }
        }
        if let Some((connection, mut state)) = current.take() {
            state.handle_events(&mut self.woken);
            enqueue(&mut self.queue, connection, &mut state);
        }
        if !responses.is_empty() {
            // Sent at the start of the next poll.
            self.shared.signal.raise(cause::HANDLE);
        }
        drop(current);
        drop(state);
        // Wakes other shards, so not while holding a lock.
        if let Some(place) = &self.shared.place {
            for (orphan, meta) in &orphans {
                place.offer_orphan(orphan, *meta);
            }
        }
        (datagrams, routed)
    }
}

/// Whether the machine has something to do by now.
fn is_due(state: &mut connection::State, now: Instant) -> bool {
    state
        .machine
        .poll_timeout()
        .is_some_and(|deadline| deadline <= now)
}

/// Put a connection into the driver's queue unless it is in one.
fn enqueue(
    queue: &mut VecDeque<Arc<ConnectionInner>>,
    connection: &Arc<ConnectionInner>,
    state: &mut connection::State,
) {
    if !state.dirty {
        state.dirty = true;
        queue.push_back(connection.clone());
    }
}

impl<R: Runtime> Io<R> {
    fn post(
        &mut self,
        transmit: Transmit,
        max_segments: usize,
        wakers: &Wakers,
    ) -> io::Result<Posted> {
        let mut cx = Context::from_waker(&wakers.writable);
        self.outbox
            .post(&mut self.socket, &mut cx, transmit, max_segments)
    }

    /// Send what was put off, for lack of room or for company.
    fn send_rest(&mut self, wakers: &Wakers) -> io::Result<Posted> {
        let mut cx = Context::from_waker(&wakers.writable);
        self.outbox.flush(&mut self.socket, &mut cx)
    }
}

impl<R: Runtime> Future for Driver<R> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.shared.signal.register(cx.waker());
        let causes = this.shared.signal.take() | std::mem::take(&mut this.deferred);
        if causes == cause::HANDLE && !this.yielded {
            // Only handles have something for us, and more tasks may be about to: let them, so that
            // what they write shares packets and system calls. Some executors (tokio's
            // multi-threaded one) run a woken task next, ahead of those that were woken before.
            this.yielded = true;
            this.deferred = causes;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.yielded = false;
        // A bug in one endpoint, or in a congestion controller of the application's, shall not take
        // an executor with all its other tasks along. Nothing of this driver is used afterwards, and
        // handles expect that it may be gone.
        let run = AssertUnwindSafe(|| this.run(causes));
        match std::panic::catch_unwind(run) {
            Ok(Ok(Next::Wait)) => Poll::Pending,
            Ok(Ok(Next::Yield)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(Ok(Next::Done)) => {
                this.done = true;
                Poll::Ready(())
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the endpoint's socket failed");
                Poll::Ready(())
            }
            Err(_) => {
                let shard = this.shared.place.as_ref().map_or(0, |place| place.index);
                tracing::error!(
                    shard,
                    "the endpoint's driver panicked; its connections are lost"
                );
                Poll::Ready(())
            }
        }
    }
}

// No field is pinned in place: the timer is boxed, the socket is used through `&mut`.
impl<R: Runtime> Unpin for Driver<R> {}

impl<R: Runtime> Drop for Driver<R> {
    fn drop(&mut self) {
        let mut woken = std::mem::take(&mut self.woken);
        self.shared.driver_gone(self.done, &mut woken);
        // Queued connections refer to `shared`, which would keep both alive.
        self.shared.drain_dirty(&mut self.queue);
        wake_all(&mut woken);
    }
}

impl<R: Runtime> std::fmt::Debug for Driver<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("queue", &self.queue.len())
            .finish_non_exhaustive()
    }
}

fn proto_ecn(ecn: Ecn) -> EcnCodepoint {
    match ecn {
        Ecn::Ect0 => EcnCodepoint::Ect0,
        Ecn::Ect1 => EcnCodepoint::Ect1,
        Ecn::Ce => EcnCodepoint::Ce,
    }
}
