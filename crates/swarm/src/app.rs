//! What client and server have in common.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use futures::future::{Either, select};
use polyquic::sim::Host;
use polyquic::{Connection, RecvStream, SendStream, timeout};

use crate::dice::Dice;
use crate::half::Half;
use crate::model::{Conn, Key, Model, Side};
use crate::plan::Plan;
use crate::plan::transport::TransportPlan;
use crate::plan::work::{End, StreamPlan, TaskPlan};
use crate::plant::Plant;
use crate::streams::{identify, patiently, pause, read, write};

/// Bytes of a datagram before its contents.
const DATAGRAM_HEADER: usize = 17;

/// An application on a host.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) model: Rc<Model>,
    pub(crate) plan: Rc<Plan>,
    pub(crate) host: Host,
    pub(crate) side: Side,
    /// For [`Plant::Amplify`].
    pub(crate) clients: Rc<Vec<std::net::SocketAddr>>,
}

impl App {
    /// Start a task, which the model knows of until it ends.
    pub(crate) fn spawn(&self, what: String, future: impl Future<Output = ()> + 'static) {
        let going = self.model.begin(self.side, what);
        self.host.spawn(async move {
            let _going = going;
            future.await;
        });
    }

    /// Start a task that holds a handle to a connection: it ends when a client lets go of that in haste.
    fn spawn_on(&self, conn: &Rc<Conn>, what: String, future: impl Future<Output = ()> + 'static) {
        if self.side != Side::Client || !conn.hasty.get() {
            return self.spawn(what, future);
        }
        let conn = conn.clone();
        self.spawn(what, async move {
            unless(Some(&conn), future).await;
        });
    }

    fn transport(&self, conn: &Conn, side: Side) -> &TransportPlan {
        match side {
            Side::Client => &self.plan.clients[conn.client].host.transport,
            Side::Server => &self.plan.servers[conn.server].host.transport,
        }
    }

    /// Open a stream as planned, and leave it to tasks.
    pub(crate) async fn open(&self, conn: &Connection, record: &Rc<Conn>, plan: StreamPlan) {
        let mut dice = Dice::new(self.model.seed, format_args!("opens {}", record.id));
        let mut cancels = plan.open_cancels;
        let both = plan.back.is_some();
        let streams: (SendStream, Option<RecvStream>) = loop {
            self.model.operation();
            let cancel = if cancels > 0 { 1.0 } else { 0.0 };
            cancels = cancels.saturating_sub(1);
            let opened = if both {
                let opened =
                    patiently(&self.model, &self.host, &mut dice, cancel, conn.open_bi()).await;
                opened.map(|it| it.map(|(send, recv)| (send, Some(recv))))
            } else {
                let opened =
                    patiently(&self.model, &self.host, &mut dice, cancel, conn.open_uni()).await;
                opened.map(|it| it.map(|send| (send, None)))
            };
            match opened {
                None => {}
                Some(Ok(streams)) => break streams,
                Some(Err(_)) => return,
            }
        };
        let (send, recv) = streams;
        self.check_limit(record, both);
        let mut plan = plan;
        if !record.established.get() {
            // Only so is it told, should that be rejected.
            plan.there.confirm = true;
            // After a Retry, quinn-proto does not send the end of an empty early stream again.
            plan.there.size = plan.there.size.max(8);
            plan.there.write_end = match plan.there.write_end {
                End::Code(0) => End::Code(8),
                End::Drop(0) => End::Drop(8),
                end => end,
            };
        }
        let (ours, theirs) = (
            self.transport(record, self.side),
            self.transport(record, self.side.other()),
        );
        let make = |from, plan, pushes, bounds| {
            let half = Half::new(&self.model, record, from, plan, pushes, bounds);
            half.id.set(Some(send.id()));
            half
        };
        let bounds = |reader: &TransportPlan, writer: &TransportPlan| {
            let (stream, all) = (reader.stream_window, reader.window);
            (stream + writer.send_window, all + writer.send_window)
        };
        let there = make(self.side, plan.there, plan.pushes, bounds(theirs, ours));
        let name = format!("{there}");
        if let (Some(plan), Some(recv)) = (plan.back, recv) {
            let back = make(self.side.other(), plan, Vec::new(), bounds(ours, theirs));
            *there.back.borrow_mut() = Some(back.clone());
            let reading = read(self.model.clone(), self.host.clone(), back, recv);
            self.spawn_on(record, format!("reads the answer to {name}"), reading);
        }
        let writing = write(self.model.clone(), self.host.clone(), there, send);
        self.spawn_on(record, format!("writes {name}"), writing);
        pause(&self.host, plan.gap).await;
    }

    /// One more stream was opened: so many must be allowed.
    fn check_limit(&self, record: &Conn, both: bool) {
        let theirs = self.transport(record, self.side.other());
        let limit = if both {
            theirs.streams_bi
        } else {
            theirs.streams_uni
        };
        let halves = record.halves.borrow();
        let open = halves
            .iter()
            .filter(|it| it.from == self.side && it.is_opener() && it.is_both() == both)
            .filter(|it| it.is_open())
            .count() as u64
            + 1;
        // What was allowed before counts as long as nobody knows what is allowed now, and which streams
        // were rejected.
        if record.early.get() && !record.established.get() {
            return;
        }
        self.model.count("checks: stream limits");
        if open > limit {
            self.model.violation(
                "stream limits",
                format_args!(
                    "{record}: {open} open from the {:?}, allowed {limit}",
                    self.side
                ),
            );
        }
    }

    /// Accept everything that the peer opens and sends, until the connection ends.
    pub(crate) fn accept_all(&self, conn: &Connection, record: Option<&Rc<Conn>>, key: Key) {
        for both in [true, false] {
            let (this, conn, record) = (self.clone(), conn.clone(), record.cloned());
            let what = format!("accepts at the {:?}", self.side);
            self.spawn(what, async move {
                let accepting = this.accept(&conn, key, both);
                unless(record.as_ref(), accepting).await;
            });
        }
        let (this, conn, record) = (self.clone(), conn.clone(), record.cloned());
        let what = format!("receives datagrams at the {:?}", self.side);
        self.spawn(what, async move {
            unless(record.as_ref(), this.receive_datagrams(&conn, key)).await;
        });
    }

    async fn accept(&self, conn: &Connection, key: Key, both: bool) {
        let mut dice = Dice::new(self.model.seed, format_args!("accepts {key:?}"));
        // Give up early a few times.
        let mut cancels = dice.range(0, 4);
        loop {
            self.model.operation();
            let accepting = async {
                match both {
                    true => conn
                        .accept_bi()
                        .await
                        .map(|(send, recv)| (Some(send), recv)),
                    false => conn.accept_uni().await.map(|recv| (None, recv)),
                }
            };
            let accepted = if cancels > 0 {
                cancels -= 1;
                match timeout(&self.host, dice.span(1, 50), accepting).await {
                    Ok(accepted) => accepted,
                    Err(_) => {
                        self.model.count("cancelled futures");
                        continue;
                    }
                }
            } else {
                accepting.await
            };
            let Ok((send, recv)) = accepted else { return };
            let (this, conn) = (self.clone(), conn.clone());
            let id = recv.id();
            let what = format!("serves {id} at the {:?}", self.side);
            let serving = async move { this.serve(conn, key, send, recv).await };
            match self.model.by_key(&key) {
                Some(record) => self.spawn_on(&record, what, serving),
                None => self.spawn(what, serving),
            }
        }
    }

    async fn serve(
        &self,
        conn: Connection,
        key: Key,
        send: Option<SendStream>,
        mut recv: RecvStream,
    ) {
        let Some(half) = identify(&self.model, key, self.side.other(), &mut recv).await else {
            return;
        };
        if let Some(send) = send {
            let back = half.back.borrow().clone();
            match back {
                Some(back) => {
                    let name = format!("answers {half}");
                    let writing = write(self.model.clone(), self.host.clone(), back, send);
                    self.spawn_on(&half.conn, name, writing);
                }
                None => {
                    let what = format_args!("{half} was not opened for both directions");
                    self.model.violation("streams", what);
                }
            }
        }
        if !half.pushes.is_empty() {
            let record = half.conn.clone();
            record.pushes.set(record.pushes.get() + half.pushes.len());
            let (this, pushes) = (self.clone(), half.pushes.clone());
            self.spawn(format!("pushes because of {half}"), async move {
                for plan in pushes {
                    this.open(&conn, &record, plan).await;
                    record.pushes.set(record.pushes.get() - 1);
                    record.changed.notify();
                }
            });
        } else {
            drop(conn);
        }
        read(self.model.clone(), self.host.clone(), half, recv).await;
    }

    /// Update keys, unless the other side does so on this connection, or nothing was sent and
    /// acknowledged since the last time: quinn-proto would all the same, and then the sides may lose
    /// each other (see `docs/TESTING.md`).
    pub(crate) fn update_keys(&self, conn: &Connection, record: &Conn) {
        let stats = conn.stats();
        let (sent, acked) = (stats.udp_tx.datagrams, stats.frame_rx.acks);
        let may = record
            .updated
            .get()
            .is_none_or(|(side, sent_then, acked_then)| {
                side == self.side && sent > sent_then && acked > acked_then + 1
            });
        if !may {
            return;
        }
        record.updated.set(Some((self.side, sent, acked)));
        self.model.count("key updates");
        conn.force_key_update();
    }

    /// Send datagrams as planned.
    pub(crate) async fn send_datagrams(&self, conn: &Connection, record: &Conn, plan: &TaskPlan) {
        let TaskPlan::Datagrams {
            count,
            size,
            gap,
            wait,
            echo,
        } = *plan
        else {
            return;
        };
        let mut dice = Dice::new(self.model.seed, format_args!("datagrams {}", record.id));
        for _ in 0..count {
            let Some(max) = conn.max_datagram_size() else {
                return;
            };
            if max < DATAGRAM_HEADER {
                return;
            }
            let size = (size as usize).min(max);
            let data = self.datagram(record, size, dice.chance(echo));
            self.model.operation();
            if wait {
                let sent = timeout(&self.host, dice.span(1, 500), conn.send_datagram_wait(data));
                let _ = sent.await;
            } else {
                let _ = conn.send_datagram(data);
            }
            pause(&self.host, gap).await;
        }
    }

    /// Number, connection, whether to answer, contents.
    fn datagram(&self, record: &Conn, size: usize, echo: bool) -> Bytes {
        let size = size.max(DATAGRAM_HEADER);
        let number = record.sends_datagram(self.side, size);
        let mut data = vec![0; size];
        data[..8].copy_from_slice(&number.to_le_bytes());
        data[8..16].copy_from_slice(&record.id.to_le_bytes());
        data[16] = echo.into();
        Half::content(self.model.seed, number, 8, &mut data[DATAGRAM_HEADER..]);
        data.into()
    }

    async fn receive_datagrams(&self, conn: &Connection, key: Key) {
        let mut dice = Dice::new(self.model.seed, format_args!("datagrams {key:?}"));
        loop {
            self.model.operation();
            let slow = self
                .model
                .by_key(&key)
                .and_then(|it| it.slow_datagrams.get());
            let cancel = if slow.is_some() { 0.3 } else { 0.0 };
            let reading = conn.read_datagram();
            let read = patiently(&self.model, &self.host, &mut dice, cancel, reading).await;
            let data = match read {
                None => continue,
                Some(Err(_)) => return,
                Some(Ok(data)) => data,
            };
            self.model.count("datagrams");
            if self.model.has(Plant::Datagram) {
                let _ = self.datagram_arrived(conn, key, &data);
            }
            if let Some(slow) = slow {
                self.model.count("slow readers");
                pause(&self.host, slow).await;
            }
            if let Err(what) = self.datagram_arrived(conn, key, &data) {
                self.model.violation("datagrams", what);
            }
        }
    }

    fn datagram_arrived(&self, conn: &Connection, key: Key, data: &[u8]) -> Result<(), String> {
        let (Some((number, rest)), from) = (data.split_first_chunk(), self.side.other()) else {
            return Err(format!("{} bytes", data.len()));
        };
        let Some((id, [echo, contents @ ..])) = rest.split_first_chunk() else {
            return Err(format!("{} bytes", data.len()));
        };
        let (number, id) = (u64::from_le_bytes(*number), u64::from_le_bytes(*id));
        let record = self.model.connections.borrow().get(id as usize).cloned();
        let record = record.ok_or(format!("of connection {id}"))?;
        let elsewhere = self.model.by_key(&key);
        if elsewhere.is_some_and(|it| !Rc::ptr_eq(&it, &record)) {
            return Err(format!("of {record} on another one"));
        }
        record.datagram_arrived(from, number, data.len())?;
        let mut expected = vec![0; contents.len()];
        Half::content(self.model.seed, number, 8, &mut expected);
        if expected != contents {
            return Err(format!("{record}: datagram {number} is not what was sent"));
        }
        if *echo != 0 {
            let _ = conn.send_datagram(self.datagram(&record, data.len(), false));
        }
        Ok(())
    }
}

/// What both sides of a connection know, and nobody else.
pub(crate) fn key(conn: &Connection) -> Option<Key> {
    let mut key = Key::default();
    conn.export_keying_material(&mut key, b"swarm", b"").ok()?;
    Some(key)
}

/// `future`, unless the client lets go of the connection before.
pub(crate) async fn unless<T>(
    record: Option<&Rc<Conn>>,
    future: impl Future<Output = T>,
) -> Option<T> {
    let Some(record) = record else {
        return Some(future.await);
    };
    let letting_go = pin!(record.changed.until(|| record.letting_go.get()));
    match select(pin!(future), letting_go).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}
