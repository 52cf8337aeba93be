//! Clients.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use polyquic::crypto::rustls::QuicClientConfig;
use polyquic::sim::{Interface, identity};
use polyquic::{
    ClientConfig, Connection, Endpoint, VarInt, ZeroRttAccepted, rustls, sleep, timeout,
};

use crate::app::{App, key, unless};
use crate::half::{ReaderEnd, WriterEnd};
use crate::model::{Conn, Event, Side};
use crate::plan::more::Hasty;
use crate::plan::work::{ConnectionPlan, Ending, TaskPlan};
use crate::plan::{Kind, Part};
use crate::plant::Plant;
use crate::server::{Calendar, PORT, planted};
use crate::streams::pause;

/// How often a connection is tried.
const ATTEMPTS: u32 = 3;

fn config(app: &App, index: usize) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity().0).expect("a certificate");
    let provider = polyquic::crypto_provider();
    let clock = polyquic::Runtime::clock(&app.host);
    let mut tls = rustls::ClientConfig::builder_with_details(provider, Arc::new(Calendar(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.enable_early_data = true;
    if let Some(key_log) = &app.model.key_log {
        tls.key_log = key_log.clone();
    }
    let crypto = QuicClientConfig::try_from(tls).expect("it is for QUIC");
    let mut config = ClientConfig::new(Arc::new(crypto));
    let plan = &app.plan.clients[index];
    config.transport_config(planted(app, &plan.host.transport).build());
    config
}

/// Where a client binds to.
fn local(app: &App, index: usize) -> std::net::SocketAddr {
    match app.plan.clients[index].dual {
        true => ([0_u16; 8], 0).into(),
        false => ([0_u8; 4], 0).into(),
    }
}

fn endpoint(app: &App, index: usize) -> Option<Endpoint> {
    match Endpoint::client(&app.host, local(app, index)) {
        Ok(endpoint) => Some(endpoint),
        Err(error) => {
            app.model.violation("progress", error);
            None
        }
    }
}

/// A client with all its connections.
#[derive(Clone)]
struct Client {
    app: App,
    index: usize,
    endpoint: Endpoint,
    /// By server, with sessions of their own: who remembers the transport parameters of one server
    /// and meets another one, which rejects 0-RTT and has smaller windows, overruns these
    /// (quinn-proto).
    configs: Rc<Vec<ClientConfig>>,
    addrs: Rc<Vec<[std::net::IpAddr; 2]>>,
    interfaces: Rc<Vec<Interface>>,
}

/// Start a client on its host. `addrs` are the servers', for IPv4 and IPv6.
pub(crate) fn start(
    app: &App,
    index: usize,
    addrs: Rc<Vec<[std::net::IpAddr; 2]>>,
    interfaces: Rc<Vec<Interface>>,
) {
    let this = app.clone();
    app.spawn(format!("client {index}"), async move {
        let plan = this.plan.clone();
        let Some(endpoint) = endpoint(&this, index) else {
            return;
        };
        let client = Client {
            configs: Rc::new(plan.servers.iter().map(|_| config(&this, index)).collect()),
            app: this.clone(),
            index,
            endpoint: endpoint.clone(),
            addrs,
            interfaces,
        };
        let done = Rc::new((Cell::new(0), Event::default()));
        let lanes = plan.clients[index].lanes.len();
        for lane in 0..lanes {
            let (client, done) = (client.clone(), done.clone());
            this.spawn(format!("lane {index}.{lane}"), async move {
                client.lane(lane).await;
                drop(client);
                done.0.set(done.0.get() + 1);
                done.1.notify();
            });
        }
        drop(client);
        done.1.until(|| done.0.get() == lanes).await;
        if plan.clients[index].closes_endpoint {
            endpoint.close(VarInt::from_u32(0), b"over");
            endpoint.wait_idle().await;
        }
    });
}

impl Client {
    async fn lane(&self, lane: usize) {
        let plan = self.app.plan.clone();
        if !plan.has(Part::Lane(self.index, lane)) {
            return;
        }
        for (number, connection) in plan.clients[self.index].lanes[lane].iter().enumerate() {
            if plan.has(Part::Connection(self.index, lane, number)) {
                match connection.hasty {
                    None => self.connection(connection).await,
                    Some(_) => {
                        // What it closes is nobody else's.
                        let Some(endpoint) = endpoint(&self.app, self.index) else {
                            return;
                        };
                        let own = Self {
                            endpoint,
                            ..self.clone()
                        };
                        own.connection(connection).await;
                    }
                }
            }
        }
    }

    async fn connection(&self, plan: &ConnectionPlan) {
        let (app, model) = (&self.app, &self.app.model);
        pause(&app.host, plan.after).await;
        let ip = self.addrs[plan.server][usize::from(plan.ipv6)];
        for attempt in 0..ATTEMPTS {
            let record = model.connect(self.index, plan.server);
            record.pauses.set(plan.longest_pause());
            record.key_updates.replace(plan.server_key_updates.clone());
            record.slow_datagrams.set(plan.slow_datagrams);
            record.hasty.set(plan.hasty.is_some());
            model.operation();
            model.log(|| format!("{record}: client connects, attempt {attempt}"));
            let connecting = self.endpoint.connect_with(
                self.configs[plan.server].clone(),
                (ip, PORT).into(),
                "localhost",
            );
            let mut connecting = match connecting {
                Ok(connecting) => connecting,
                Err(error) => return model.violation("progress", error),
            };
            if plan.early {
                match connecting.into_0rtt() {
                    Ok((conn, accepted)) => {
                        record.early.set(true);
                        self.early(&conn, &record, accepted);
                        return self.work(conn, record, plan).await;
                    }
                    Err(back) => connecting = back,
                }
            }
            let patience = plan.patience.filter(|_| attempt == 0);
            let result = match patience {
                None => connecting.await,
                Some(patience) => {
                    record.closes(Side::Client, 0);
                    match timeout(&app.host, patience, connecting).await {
                        Ok(result) => result,
                        Err(_) => {
                            model.count("cancelled futures");
                            continue;
                        }
                    }
                }
            };
            match result {
                Ok(conn) => {
                    let Some(key) = key(&conn) else {
                        return model.violation("errors", "a handshake without keys");
                    };
                    model.register(key, &record);
                    app.accept_all(&conn, Some(&record), key);
                    return self.work(conn, record, plan).await;
                }
                Err(error) => {
                    model.connection_ended(&record, Side::Client, &error);
                    sleep(&app.host, Duration::from_secs(1)).await;
                }
            }
        }
        if model.calm && !model.refused.get() && plan.patience.is_none() {
            model.violation(
                "progress",
                format_args!("no connection in {ATTEMPTS} attempts"),
            );
        }
    }

    /// Begin to accept when the handshake is complete.
    fn early(&self, conn: &Connection, record: &Rc<Conn>, accepted: ZeroRttAccepted) {
        let (app, conn, record) = (self.app.clone(), conn.clone(), record.clone());
        self.app.spawn(format!("{record}: 0-RTT"), async move {
            let accepted = unless(Some(&record), accepted).await;
            app.model
                .log(|| format!("{record}: 0-RTT accepted: {accepted:?}"));
            match accepted {
                Some(true) => app.model.count("0-RTT accepted"),
                Some(false) => app.model.count("0-RTT rejected"),
                None => {}
            }
            record.rejected.set(accepted == Some(false));
            record.changed.notify();
            if let (Some(_), Some(key)) = (accepted, key(&conn)) {
                app.model.register(key, &record);
                app.accept_all(&conn, Some(&record), key);
            }
        });
    }

    async fn work(&self, conn: Connection, record: Rc<Conn>, plan: &ConnectionPlan) {
        let (app, model) = (&self.app, &self.app.model);
        {
            let (app, conn, record) = (app.clone(), conn.clone(), record.clone());
            self.app.spawn(format!("{record}: watched"), async move {
                if let Some(error) = unless(Some(&record), conn.closed()).await {
                    app.model.log(|| format!("{record}: {:?}", conn.stats()));
                    app.model.connection_ended(&record, Side::Client, &error);
                }
            });
        }
        let left = Rc::new(Cell::new(0_u32));
        for (removed, task) in &plan.tasks {
            if *removed {
                continue;
            }
            left.set(left.get() + 1);
            let (this, task, left) = (self.clone(), task.clone(), left.clone());
            let (conn, record) = (conn.clone(), record.clone());
            app.spawn(format!("{record}: task"), async move {
                this.task(&conn, &record, task).await;
                drop(conn);
                left.set(left.get() - 1);
                record.changed.notify();
            });
        }
        if let Some(hasty) = plan.hasty {
            return self.hurry(conn, &record, &left, hasty).await;
        }
        let done = || record.end(Side::Client).is_some() || (left.get() == 0 && record.is_quiet());
        let code = 10_000 + record.id;
        if let Ending::Abrupt(after) = plan.ending {
            let _ = timeout(&app.host, after, record.changed.until(done)).await;
        } else {
            record.changed.until(done).await;
        }
        model.operation();
        match (record.end(Side::Client), plan.ending) {
            // Already looked at.
            (Some(_), _) => {}
            (None, Ending::Drop) => {
                record.closes(Side::Client, 0);
                record.letting_go.set(true);
                record.changed.notify();
            }
            (None, Ending::ServerCloses) if record.established.get() => {
                record.please_close.set(true);
                model.shutting.notify();
                conn.closed().await;
            }
            (None, _) => {
                record.closes(Side::Client, code);
                let code = code + u64::from(model.has(Plant::Close));
                conn.close(VarInt::from_u32(code as u32), b"closed by the client");
                conn.closed().await;
            }
        }
    }

    /// End a connection as soon as everything that the client writes is finished: that must be
    /// delivered all the same.
    async fn hurry(&self, conn: Connection, record: &Rc<Conn>, left: &Cell<u32>, hasty: Hasty) {
        let (app, model) = (&self.app, &self.app.model);
        let written = || {
            let halves = record.halves.borrow();
            let mut ours = halves.iter().filter(|it| it.from == Side::Client);
            left.get() == 0 && ours.all(|it| it.writer.get() != WriterEnd::Open)
        };
        let done = || record.end(Side::Client).is_some() || written();
        record.changed.until(done).await;
        model.operation();
        if record.end(Side::Client).is_some() {
            return;
        }
        model.owe(record);
        let halves = record.halves.borrow().clone();
        match hasty {
            Hasty::Drop => {
                model.count("hasty drops");
                record.closes(Side::Client, 0);
                // A drop tells the peer to stop.
                for half in halves {
                    if half.from == Side::Server && half.reader.get() == ReaderEnd::Open {
                        half.reader_ends(model, ReaderEnd::Dropped);
                    }
                }
                if model.has(Plant::Haste) {
                    conn.close(VarInt::from_u32(0), b"");
                }
                record.letting_go.set(true);
                record.changed.notify();
            }
            Hasty::Close => {
                model.count("hasty closes");
                let code = 10_000 + record.id;
                record.closes(Side::Client, code);
                if model.has(Plant::Haste) {
                    conn.close(VarInt::from_u32(code as u32), b"");
                }
                self.endpoint
                    .close(VarInt::from_u32(code as u32), b"in haste");
                drop(conn);
                self.endpoint.wait_idle().await;
                if self.endpoint.open_connections() != 0 {
                    app.model.violation("closing", "idle, with connections");
                }
            }
        }
    }

    async fn task(&self, conn: &Connection, record: &Rc<Conn>, task: TaskPlan) {
        let host = &self.app.host;
        match task {
            TaskPlan::Streams(streams) => {
                if self.app.model.has(Plant::Unfair) && self.app.plan.kind != Kind::Mixed {
                    // Until the shares were looked at, for the first of those that share.
                    let late = self.index == 0 && record.late.replace(false);
                    sleep(host, Duration::from_secs(if late { 12 } else { 0 })).await;
                }
                for stream in streams {
                    self.app.open(conn, record, stream).await;
                }
            }
            TaskPlan::Datagrams { .. } => self.app.send_datagrams(conn, record, &task).await,
            TaskPlan::KeyUpdate(after) => {
                sleep(host, after).await;
                if conn.close_reason().is_none() && record.established.get() {
                    self.app.update_keys(conn, record);
                }
            }
            TaskPlan::Move(after) => {
                sleep(host, after).await;
                let current = host.ip();
                if let Some(other) = self.interfaces.iter().find(|it| it.ip() != current) {
                    host.prefer(other);
                }
                self.app
                    .model
                    .log(|| format!("client {} moves", self.index));
                self.app.model.moves(self.index);
                let local = local(&self.app, self.index);
                if let Err(error) = self.endpoint.rebind_addr(local).await {
                    let what = format_args!("rebinding: {error}");
                    self.app.model.violation("progress", what);
                }
            }
        }
    }
}
