//! Servers.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use futures::future::{Either, select};
use polyquic::crypto::rustls::QuicServerConfig;
use polyquic::sim::identity;
use polyquic::{
    Clock, Connection, ConnectionError, Endpoint, EndpointConfig, Incoming, ServerConfig, VarInt,
    rustls, timeout,
};
use rustls::pki_types::UnixTime;

use crate::app::{App, key};
use crate::dice::Dice;
use crate::half::mix;
use crate::keys::Keys;
use crate::model::{Conn, SHUTDOWN, Side};
use crate::plan::transport::TransportPlan;
use crate::plant::Plant;
use crate::streams::yield_now;

/// The port of all servers.
pub(crate) const PORT: u16 = 443;

/// The calendar of a simulation, for TLS.
#[derive(Debug)]
pub(crate) struct Calendar(pub(crate) Clock);

impl rustls::time_provider::TimeProvider for Calendar {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.0.calendar()?;
        let since = now.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

fn config(app: &App, index: usize) -> ServerConfig {
    let plan = &app.plan.servers[index];
    let (certificate, key) = identity();
    let provider = polyquic::crypto_provider();
    let clock = polyquic::Runtime::clock(&app.host);
    let mut tls = rustls::ServerConfig::builder_with_details(provider, Arc::new(Calendar(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they belong together");
    tls.max_early_data_size = u32::MAX;
    if let Some(key_log) = &app.model.key_log {
        tls.key_log = key_log.clone();
    }
    let crypto = QuicServerConfig::try_from(tls).expect("it is for QUIC");
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(planted(app, &plan.host.transport).build())
        .migration(plan.migration)
        .offload_handshakes(plan.offload);
    if app.plan.more.keeps_keys {
        config.token_key(Arc::new(Keys(mix(app.model.seed) ^ index as u64)));
    }
    config
}

/// A plan, or what it becomes by a fault that is planted.
pub(crate) fn planted(app: &App, plan: &TransportPlan) -> TransportPlan {
    let (mut plan, model) = (plan.clone(), &app.model);
    if model.has(Plant::Windows) {
        (plan.stream_window, plan.window) = (plan.stream_window * 4, plan.window * 4);
        plan.send_window *= 4;
    }
    if model.has(Plant::Streams) {
        (plan.streams_bi, plan.streams_uni) = (plan.streams_bi * 4, plan.streams_uni * 4);
    }
    if model.has(Plant::Idle) {
        plan.idle = None;
    }
    plan
}

/// What goes on at a server although nobody planned it.
async fn plant(app: &App) {
    match app.model.plant {
        Some(Plant::Task) => app.spawn("is never done".into(), std::future::pending()),
        Some(Plant::Storm) => {
            for _ in 0..5_000 {
                yield_now().await;
            }
        }
        Some(Plant::Amplify) => {
            if let Ok(socket) = app.host.udp(app.host.addr(0)) {
                for client in app.clients.iter() {
                    let _ = socket.send_to(&[0; 1200], *client);
                }
            }
        }
        Some(Plant::Panic) => panic!("this was planted"),
        Some(Plant::Hang) => loop {
            std::thread::sleep(std::time::Duration::from_millis(10));
        },
        _ => {}
    }
}

/// Serve until everything is over.
pub(crate) async fn serve(app: App, index: usize) {
    let plan = &app.plan.servers[index];
    let addr = ([0_u16; 8], PORT).into();
    let endpoint = match app.plan.more.keeps_keys {
        false => Endpoint::server(&app.host, config(&app, index), addr),
        true => {
            let mut keys = EndpointConfig::default();
            keys.reset_key(Arc::new(Keys(app.model.seed ^ mix(index as u64))));
            let builder = Endpoint::builder().config(keys);
            builder
                .server_config(config(&app, index))
                .bind(&app.host, addr)
        }
    };
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(error) => {
            app.model
                .violation("progress", format_args!("server {index}: {error}"));
            return;
        }
    };
    let mut dice = Dice::new(app.model.seed, format_args!("accepts {index}"));
    plant(&app).await;
    let shutting = || app.model.shutdown.get();
    loop {
        app.model.operation();
        let over = pin!(app.model.shutting.until(shutting));
        let incoming = match select(endpoint.accept(), over).await {
            Either::Left((Some(incoming), _)) => incoming,
            Either::Left((None, _)) => {
                app.model
                    .violation("progress", "an endpoint closed by itself");
                break;
            }
            Either::Right(_) => break,
        };
        if plan.retry && !incoming.remote_address_validated() {
            if incoming.retry().is_err() {
                app.model
                    .violation("progress", "no Retry for an address that is not validated");
            }
        } else if dice.chance(plan.refuse) {
            app.model.refused.set(true);
            incoming.refuse();
        } else if dice.chance(plan.ignore) {
            incoming.ignore();
        } else {
            let this = app.clone();
            app.spawn(format!("connection at server {index}"), async move {
                this.attend(incoming).await;
            });
        }
    }
    if plan.closes_endpoint {
        endpoint.close(VarInt::from_u32(SHUTDOWN as u32), b"over");
        endpoint.wait_idle().await;
        if endpoint.open_connections() != 0 {
            app.model.violation("closing", "idle, with connections");
        }
    }
}

impl App {
    async fn attend(&self, incoming: Incoming) {
        let conn = match incoming.await {
            Ok(conn) => conn,
            Err(error) => {
                self.model
                    .log(|| format!("a handshake failed at the server: {error}"));
                // So it calls a first packet that was damaged on its way, and one that comes late, for
                // a connection that is over or went with a crash: it has other keys.
                let unreadable = matches!(&error, ConnectionError::TransportError(it) if it.reason == "authentication failed");
                if matches!(error, ConnectionError::TransportError(_)) && !unreadable {
                    let what = format_args!("a handshake: {error}");
                    self.model.violation("errors", what);
                }
                return;
            }
        };
        let Some(key) = key(&conn) else {
            return self.model.violation("errors", "a handshake without keys");
        };
        self.model.attended.borrow_mut().insert(key);
        let record = self.model.by_key(&key);
        if let Some(record) = &record {
            record.attended.set(true);
            self.plan_key_updates(&conn, record);
        }
        match self.model.plant {
            Some(Plant::Memory) => self.model.hoard.borrow_mut().push(vec![1; 256 << 20]),
            Some(Plant::Leak) => std::mem::forget(vec![1_u8; 1 << 20]),
            _ => {}
        }
        self.accept_all(&conn, None, key);
        let error = self.watch(&conn, key).await;
        if let Some(record) = self.model.by_key(&key) {
            self.model.log(|| format!("{record}: {:?}", conn.stats()));
            self.model.connection_ended(&record, Side::Server, &error);
        }
    }

    /// Update keys as planned.
    fn plan_key_updates(&self, conn: &Connection, record: &Rc<Conn>) {
        let updates = record.key_updates.borrow().clone();
        // Where a client may offer 0-RTT, quinn-proto forgets the keys from before an update together
        // with those of 0-RTT (see `docs/TESTING.md`).
        let known = self.model.connections.borrow().iter().any(|it| {
            let same = it.client == record.client && it.server == record.server;
            same && it.id < record.id && it.established.get()
        });
        if updates.is_empty() || known {
            return;
        }
        let (this, conn, record) = (self.clone(), conn.clone(), record.clone());
        self.spawn(format!("updates keys of {record}"), async move {
            for after in updates {
                if timeout(&this.host, after, conn.closed()).await.is_ok() {
                    return;
                }
                this.model.count("cancelled futures");
                this.update_keys(&conn, &record);
            }
        });
    }

    /// Until the connection ended, by whomever.
    async fn watch(&self, conn: &Connection, key: crate::model::Key) -> ConnectionError {
        let model = self.model.clone();
        let close = || {
            let record = model.by_key(&key);
            model.shutdown.get() || record.is_some_and(|it| it.please_close.get())
        };
        let asked = pin!(model.shutting.until(close));
        if let Either::Left((error, _)) = select(conn.closed(), asked).await {
            return error;
        }
        let record = model.by_key(&key);
        let asked = record.filter(|it| it.please_close.get());
        let code = asked.as_ref().map_or(SHUTDOWN, |it| 20_000 + it.id);
        if let Some(record) = &asked {
            record.closes(Side::Server, code);
        }
        self.model.operation();
        let code = code + u64::from(self.model.has(Plant::Close));
        conn.close(VarInt::from_u32(code as u32), b"closed by the server");
        conn.closed().await
    }
}

/// Start a server on its host.
pub(crate) fn start(app: &App, index: usize) {
    let this = app.clone();
    let app = Rc::new(app.clone());
    app.spawn(format!("server {index}"), serve(this, index));
}
