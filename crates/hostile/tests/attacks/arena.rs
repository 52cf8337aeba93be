//! A live endpoint, an innocent client, and room for attackers.
//!
//! [`attack`] runs a script against a server of the handles, with an ordinary application, while an
//! innocent client transfers through the same endpoint. Afterwards it asserts what must hold after
//! every attack; the script asserts what is particular to its own.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use futures::join;
use polyquic_core::{EndpointStats, ServerConfig, TransportConfig, rustls};
use polyquic_endpoint::{Connecting, Connection, Endpoint};
use polyquic_hostile::{Params, Peer};
use polyquic_testkit::fixtures::{
    Certificates, client_config, client_tls, server_config, server_tls,
};
use polyquic_testkit::tools::{check_echo, pattern};

use crate::heap::live_bytes;
use crate::net::{Socket, World};

/// How long the innocent transfer may take, in percent of its time without an attack.
const USUAL_PERCENT: u32 = 110;

/// Bytes that the innocent client has sent back to it, one after another.
const INNOCENT_BYTES: [usize; 12] = [300_000; 12];

/// Bytes that a connection and its attempts cost, with what the attacker itself keeps for scripts:
/// what every attack with a handful of connections may add.
const USUAL_HEAP_BYTES: isize = 400_000;

/// Polls of tasks that a datagram may cost, all parties together: the driver receives, yields to
/// the application, and flushes; now and then a timer.
const POLLS_FOR_DATAGRAM: u64 = 6;

/// Where everybody is who is not an attacker.
const PORT: u16 = 443;

/// What the server's application does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum App {
    /// It sends back what arrives on bidirectional streams.
    Echo,
    /// It accepts connections and does not look at them again.
    Sleep,
    /// It has addresses proved first, and then echoes.
    Retry,
}

/// What an attack is allowed.
pub(crate) struct Terms {
    /// Bytes that may be alive beyond what is without the attack.
    pub(crate) heap: isize,
    /// How long the innocent transfer may take, in percent of its time without the attack.
    pub(crate) percent: u32,
    /// Datagrams that attackers may be sent for each of theirs, beyond 50 altogether.
    pub(crate) answers: f64,
    pub(crate) app: App,
    pub(crate) transport: fn(&mut TransportConfig),
    pub(crate) server: fn(&mut ServerConfig),
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            heap: USUAL_HEAP_BYTES,
            percent: USUAL_PERCENT,
            answers: 1.5,
            app: App::Echo,
            transport: |_| {},
            server: |_| {},
        }
    }
}

/// The place of an attack.
pub(crate) struct Arena {
    pub(crate) world: World,
    /// Serves everybody.
    pub(crate) server: Endpoint,
    /// Makes all innocent connections, and those to attackers.
    pub(crate) client: Endpoint,
    attackers: RefCell<Vec<SocketAddr>>,
    names: Cell<u32>,
    peak: Cell<isize>,
}

impl Arena {
    fn new(terms: &Terms) -> Self {
        let world = World::new();
        let mut config = server_config(server_tls(&Certificates::get().server, false));
        let mut transport = TransportConfig::default();
        (terms.transport)(&mut transport);
        config.transport_config(Arc::new(transport));
        (terms.server)(&mut config);
        let server = Endpoint::server(&world.server, config, world.server.addr(PORT)).unwrap();
        let mut client = Endpoint::client(&world.client, world.client.addr(PORT)).unwrap();
        client.set_default_client_config(client_config(client_tls(None)));
        let serve = serve(world.clone(), server.clone(), terms.app);
        world.server.spawn(serve);
        Self {
            world,
            server,
            client,
            attackers: RefCell::default(),
            names: Cell::new(0),
            peak: Cell::new(isize::MIN),
        }
    }

    /// A number that nobody else has.
    pub(crate) fn name(&self) -> u32 {
        self.names.set(self.names.get() + 1);
        self.names.get()
    }

    /// An address that is an attacker's, or that it pretends to have.
    pub(crate) fn address(&self) -> SocketAddr {
        let port = 1000 + u16::try_from(self.name()).expect("attackers are few");
        let addr = self.world.evil_addr(port);
        self.attackers.borrow_mut().push(addr);
        addr
    }

    pub(crate) fn server_addr(&self) -> SocketAddr {
        self.world.server.addr(PORT)
    }

    /// A client that has said nothing yet.
    pub(crate) fn stranger_with(&self, params: &Params) -> Evil<'_> {
        self.stranger_as(Arc::new(client_tls(None)), params)
    }

    /// A client with a TLS configuration of its own.
    pub(crate) fn stranger_of(&self, tls: Arc<rustls::ClientConfig>) -> Evil<'_> {
        self.stranger_as(tls, &Params::default())
    }

    fn stranger_as(&self, tls: Arc<rustls::ClientConfig>, params: &Params) -> Evil<'_> {
        let addr = self.address();
        let name = self.name().to_be_bytes();
        let dcid = [&b"evil"[..], &name[..], &name].concat();
        let peer = Peer::client(tls, "localhost", &[9; 8], &dcid, params);
        Evil {
            arena: self,
            socket: self.world.evil_socket(addr),
            to: self.server_addr(),
            peer,
        }
    }

    /// A client that has said nothing yet.
    pub(crate) fn stranger(&self) -> Evil<'_> {
        self.stranger_with(&Params::default())
    }

    /// A client that has completed its handshake.
    pub(crate) async fn connect_with(&self, params: &Params) -> Evil<'_> {
        let mut evil = self.stranger_with(params);
        evil.start();
        evil.until(Peer::is_confirmed).await;
        evil.run(12).await;
        evil
    }

    /// A client that has completed its handshake.
    pub(crate) async fn connect(&self) -> Evil<'_> {
        self.connect_with(&Params::default()).await
    }

    /// A server to which the client begins to connect; the future says what became of it.
    pub(crate) fn lure_with(&self, params: &Params) -> (Evil<'_>, Connecting) {
        self.lure_to(&[7; 8], params)
    }

    /// A server that has an address, and no connection id.
    pub(crate) fn lure_without_cid(&self) -> (Evil<'_>, Connecting) {
        self.lure_to(&[], &Params::default())
    }

    fn lure_to(&self, cid: &[u8], params: &Params) -> (Evil<'_>, Connecting) {
        let addr = self.address();
        let tls = Arc::new(server_tls(&Certificates::get().server, false));
        let evil = Evil {
            arena: self,
            socket: self.world.evil_socket(addr),
            to: self.client_addr(),
            peer: Peer::server(tls, cid, params),
        };
        let connecting = self.client.connect(addr, "localhost").unwrap();
        (evil, connecting)
    }

    /// A server with which the client has completed a handshake.
    pub(crate) async fn lure(&self) -> (Evil<'_>, Connection) {
        let (mut evil, connecting) = self.lure_with(&Params::default());
        evil.until(Peer::is_confirmed).await;
        evil.run(12).await;
        (evil, connecting.await.expect("it was let in"))
    }

    /// The client's address.
    pub(crate) fn client_addr(&self) -> SocketAddr {
        self.world.client.addr(PORT)
    }

    pub(crate) fn stats(&self) -> EndpointStats {
        self.server.stats()
    }

    /// Note how many bytes are alive at the ends of the network.
    fn sample(&self) {
        let live = live_bytes() - self.world.under_way_bytes() as isize;
        self.peak.set(self.peak.get().max(live));
    }

    /// Datagrams and bytes from the attackers, and to them.
    pub(crate) fn attack_traffic(&self) -> [(u64, u64); 2] {
        let attackers = self.attackers.borrow();
        let sum = |between: fn(SocketAddr, SocketAddr) -> (SocketAddr, SocketAddr)| {
            let victims = [self.server_addr(), self.client_addr()];
            let pairs = attackers
                .iter()
                .flat_map(|it| victims.map(|victim| between(*it, victim)));
            let all = pairs.map(|(from, to)| self.world.traffic(from, to));
            all.fold((0, 0), |sum, it| (sum.0 + it.datagrams, sum.1 + it.bytes))
        };
        [
            sum(|attacker, victim| (attacker, victim)),
            sum(|attacker, victim| (victim, attacker)),
        ]
    }
}

async fn serve(world: World, server: Endpoint, app: App) {
    while let Some(incoming) = server.accept().await {
        if app == App::Retry && !incoming.remote_address_validated() {
            let _ = incoming.retry();
            continue;
        }
        let client = world.client.addr(PORT);
        let session = async move {
            let Ok(connection) = incoming.await else {
                return;
            };
            let innocent = connection.remote_address() == client;
            if app != App::Sleep || innocent {
                polyquic_testkit::tools::echo(connection.clone()).await;
            }
            connection.closed().await;
        };
        world.server.spawn(session);
    }
}

/// An ordinary client; how long its transfers took.
async fn innocent(arena: &Arena, sizes: &[usize]) -> Duration {
    let world = &arena.world;
    let connecting = arena
        .client
        .connect(arena.server_addr(), "localhost")
        .unwrap();
    let begun = world.elapsed();
    let connection = connecting.await.expect("an innocent client is served");
    for (seed, len) in sizes.iter().enumerate() {
        check_echo(&connection, &pattern(seed as u64, *len)).await;
    }
    let took = world.elapsed() - begun;
    connection.close(0u32.into(), b"thanks");
    took
}

struct Run {
    took: Duration,
    grew: isize,
    polls: u64,
}

fn run(terms: &Terms, script: impl AsyncFn(&Arena), check: impl FnOnce(&Arena)) -> Run {
    let arena = Arena::new(terms);
    arena.world.clone().run(async {
        // What is made once and kept.
        innocent(&arena, &[100]).await;
        let before = live_bytes();
        let polls = arena.world.polls();
        // At the same moments with and without an attack, which samples in addition.
        let transferring = Cell::new(true);
        let sampling = async {
            while transferring.get() {
                arena.sample();
                arena.world.sleep(Duration::from_millis(1)).await;
            }
        };
        let transfer = async {
            let took = innocent(&arena, &INNOCENT_BYTES).await;
            transferring.set(false);
            took
        };
        let (took, (), ()) = join!(transfer, sampling, script(&arena));
        let polls = arena.world.polls() - polls;
        // The endpoint is of use afterwards.
        innocent(&arena, &[10_000]).await;
        check(&arena);
        Run {
            took,
            grew: arena.peak.get() - before,
            polls,
        }
    })
}

/// Run `script` against the arena, and check what must hold whatever it does.
pub(crate) fn attack(terms: &Terms, script: impl AsyncFn(&Arena)) {
    let control = run(terms, async |_| {}, |_| {});
    let mut sent = 0;
    let attacked = run(terms, script, |arena| {
        let [(from, from_bytes), (to, to_bytes)] = arena.attack_traffic();
        println!("attackers sent {from} datagrams ({from_bytes} B), got {to} ({to_bytes} B)");
        let allowed = 50 + (from as f64 * terms.answers) as u64;
        assert!(to <= allowed, "{to} answers to {from} datagrams");
        sent = from;
    });
    println!(
        "innocent: {:?} against {:?}; heap {} against {} bytes; {} against {} polls",
        attacked.took, control.took, attacked.grew, control.grew, attacked.polls, control.polls
    );
    assert!(
        attacked.took * 100 <= control.took * terms.percent,
        "the innocent client took {:?} instead of {:?}",
        attacked.took,
        control.took
    );
    let more = attacked.grew - control.grew;
    assert!(
        more <= terms.heap,
        "{more} bytes more are alive than without the attack"
    );
    let polls = attacked.polls.saturating_sub(control.polls);
    assert!(
        polls <= 500 + sent * POLLS_FOR_DATAGRAM,
        "{polls} polls more for {sent} datagrams"
    );
}

/// An attacker: a peer on a socket. Whatever a [`Peer`] does, it does.
pub(crate) struct Evil<'a> {
    arena: &'a Arena,
    pub(crate) socket: Socket,
    pub(crate) to: SocketAddr,
    pub(crate) peer: Peer,
}

impl Deref for Evil<'_> {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.peer
    }
}

impl DerefMut for Evil<'_> {
    fn deref_mut(&mut self) -> &mut Peer {
        &mut self.peer
    }
}

impl Evil<'_> {
    /// Put on the wire what the peer has said, and take in what has arrived.
    pub(crate) fn exchange(&mut self) {
        while let Some((from, datagram)) = self.socket.try_recv() {
            if from == self.to {
                self.peer.handle_datagram(&datagram);
            }
        }
        while let Some(datagram) = self.peer.poll_transmit() {
            self.socket.send(self.to, &datagram);
        }
    }

    /// Let this many milliseconds pass.
    pub(crate) async fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.exchange();
            self.arena.world.sleep(Duration::from_millis(1)).await;
        }
        self.exchange();
        self.arena.sample();
    }

    /// Let answers to what was said arrive, delayed acknowledgements included.
    pub(crate) async fn rest(&mut self) {
        self.run(40).await;
    }

    /// Go on until the peer is in some state.
    pub(crate) async fn until(&mut self, done: impl Fn(&Peer) -> bool) {
        for _ in 0..5000 {
            if done(&self.peer) {
                return;
            }
            self.run(1).await;
        }
        panic!("it never came to that: {:?}", self.peer);
    }

    /// Have the victim close with this code.
    pub(crate) async fn closed_with(&mut self, code: u64) {
        self.until(|peer| peer.close().is_some()).await;
        assert_eq!(self.close_code(), Some(code), "{:?}", self.close());
    }

    /// Check that the victim did not close, and still answers.
    pub(crate) async fn still_open(&mut self) {
        self.rest().await;
        assert_eq!(self.close(), None);
        let before = self.counters().datagrams_in;
        self.peer.send([polyquic_hostile::Frame::Ping]);
        self.rest().await;
        assert_eq!(self.close(), None);
        assert!(self.counters().datagrams_in > before, "it does not answer");
    }
}
