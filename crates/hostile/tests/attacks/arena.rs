//! A live endpoint, an innocent client, and room for attackers.
//!
//! [`attack`] runs a script against a server of the handles, with an ordinary application, while an
//! innocent client transfers through the same endpoint. Afterwards it asserts what must hold after
//! every attack; the script asserts what is particular to its own.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::join;
use polyquic_core::{EndpointStats, ServerConfig, TransportConfig, rustls};
use polyquic_endpoint::{Connecting, Connection, Endpoint, Incoming};
use polyquic_hostile::{Params, Peer};
use polyquic_testkit::fixtures::{
    Certificates, client_config, client_tls, server_config, server_tls,
};
use polyquic_testkit::tools::{check_echo, pattern};

use crate::heap::{Work, allocated, live_bytes};
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

/// What a datagram may cost, all parties together but the attackers: measured, about three allocations,
/// the network's included.
const USUAL_WORK: Work = Work {
    allocations: 5,
    bytes: 5_000,
};

/// The same for what attackers do once: a few handshakes, and what follows them.
const BEYOND: Work = Work {
    allocations: 4_000,
    bytes: 3_000_000,
};

/// How much may be alive that was not before, a minute after the attack: room in tables that have grown,
/// and for each address of an attacker what the arena itself knows of it. A connection is 20 times that.
const LEFT_BYTES: isize = 250_000;
const LEFT_FOR_ADDRESS_BYTES: isize = 1_500;

/// Between samples, while there is an innocent transfer, and afterwards.
const BUSY_SAMPLE: Duration = Duration::from_millis(1);
const IDLE_SAMPLE: Duration = Duration::from_millis(10);

/// More are not taken: room for them is made before anything is counted.
const MAX_SAMPLES: usize = 20_000;

/// How far the same moment may be apart in two runs, besides what the transfer is late.
const APART: Duration = Duration::from_millis(20);

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
    /// It does not decide about attackers; their attempts are in [`Arena::undecided`].
    Hoard,
}

/// What an attack is allowed.
pub(crate) struct Terms {
    /// Bytes that may be alive beyond what is without the attack.
    pub(crate) heap: isize,
    /// How long the innocent transfer may take, in percent of its time without the attack.
    pub(crate) percent: u32,
    /// Datagrams that attackers may be sent for each of theirs, beyond 50 altogether.
    pub(crate) answers: f64,
    /// What a datagram of an attacker may cost.
    pub(crate) work: Work,
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
            work: USUAL_WORK,
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
    /// Bytes alive, by time since the transfer began.
    samples: RefCell<Vec<(Duration, isize)>>,
    begun: Cell<Duration>,
    transferring: Cell<bool>,
    /// Attempts of attackers that [`App::Hoard`] has heard of.
    pub(crate) undecided: Rc<RefCell<Vec<Incoming>>>,
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
        let undecided = Rc::<RefCell<Vec<Incoming>>>::default();
        let serve = serve(world.clone(), server.clone(), terms.app, undecided.clone());
        world.server.spawn(serve);
        Self {
            world,
            server,
            client,
            attackers: RefCell::default(),
            names: Cell::new(0),
            samples: RefCell::new(Vec::with_capacity(MAX_SAMPLES)),
            begun: Cell::default(),
            transferring: Cell::new(true),
            undecided,
        }
    }

    /// Wait until the innocent transfer is over, and nothing is left of its connection.
    pub(crate) async fn alone(&self) {
        while self.transferring.get() || self.server.open_connections() > 0 {
            self.world.sleep(Duration::from_millis(10)).await;
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

    /// A client that makes up this id for the server.
    pub(crate) fn stranger_who_names(&self, dcid: &[u8]) -> Evil<'_> {
        self.stranger_named(Arc::new(client_tls(None)), &Params::default(), dcid)
    }

    fn stranger_as(&self, tls: Arc<rustls::ClientConfig>, params: &Params) -> Evil<'_> {
        let name = self.name().to_be_bytes();
        let dcid = [&b"evil"[..], &name[..], &name].concat();
        self.stranger_named(tls, params, &dcid)
    }

    fn stranger_named(
        &self,
        tls: Arc<rustls::ClientConfig>,
        params: &Params,
        dcid: &[u8],
    ) -> Evil<'_> {
        let addr = self.address();
        let peer = Peer::client(tls, "localhost", &[9; 8], dcid, params);
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

    /// Put what a peer has said on the wire, in the name of `from`.
    pub(crate) fn say_as(&self, from: SocketAddr, peer: &mut Peer) {
        while let Some(datagram) = peer.poll_transmit() {
            self.world.send(from, self.server_addr(), &datagram);
        }
    }

    pub(crate) fn stats(&self) -> EndpointStats {
        self.server.stats()
    }

    /// Note how many bytes are alive at the ends of the network.
    pub(crate) fn sample(&self) {
        let live = live_bytes() - self.world.under_way_bytes() as isize;
        let at = self.world.elapsed() - self.begun.get();
        let mut samples = self.samples.borrow_mut();
        match samples.last_mut() {
            Some(last) if last.0 == at => last.1 = last.1.max(live),
            _ => {
                assert!(samples.len() < MAX_SAMPLES, "the attack takes too long");
                samples.push((at, live));
            }
        }
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

async fn serve(world: World, server: Endpoint, app: App, undecided: Rc<RefCell<Vec<Incoming>>>) {
    while let Some(incoming) = server.accept().await {
        if app == App::Hoard && incoming.remote_address() != world.client.addr(PORT) {
            undecided.borrow_mut().push(incoming);
            continue;
        }
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

/// Run a future, and add what it allocates itself to `own`.
async fn apart<T>(future: impl Future<Output = T>, own: &Cell<Work>) -> T {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let before = allocated();
        let polled = future.as_mut().poll(cx);
        own.set(own.get() + (allocated() - before));
        polled
    })
    .await
}

struct Run {
    took: Duration,
    /// Bytes alive beyond those at the beginning, by time since then.
    grew: Vec<(Duration, isize)>,
    /// The same a minute after everything.
    left: isize,
    polls: u64,
    /// Without what scripts allocate themselves.
    work: Work,
}

fn run(terms: &Terms, script: impl AsyncFn(&Arena), check: impl FnOnce(&Arena)) -> Run {
    let arena = Arena::new(terms);
    arena.world.clone().run(async {
        // What is made once and kept.
        innocent(&arena, &[100]).await;
        arena.begun.set(arena.world.elapsed());
        let before = live_bytes();
        let polls = arena.world.polls();
        let (work, own) = (allocated(), Cell::default());
        let attacking = Cell::new(true);
        let sampling = async {
            while arena.transferring.get() || attacking.get() {
                arena.sample();
                let pause = match arena.transferring.get() {
                    true => BUSY_SAMPLE,
                    false => IDLE_SAMPLE,
                };
                arena.world.sleep(pause).await;
            }
        };
        let transfer = async {
            let took = innocent(&arena, &INNOCENT_BYTES).await;
            arena.transferring.set(false);
            took
        };
        let scripted = async {
            script(&arena).await;
            attacking.set(false);
        };
        let (took, (), ()) = join!(transfer, apart(sampling, &own), apart(scripted, &own));
        let polls = arena.world.polls() - polls;
        let work = allocated() - work - own.get();
        // The endpoint is of use afterwards.
        innocent(&arena, &[10_000]).await;
        check(&arena);
        // Whatever waits for a timeout is over by then.
        arena.world.sleep(Duration::from_secs(60)).await;
        let samples = arena.samples.borrow();
        Run {
            took,
            grew: samples.iter().map(|it| (it.0, it.1 - before)).collect(),
            left: live_bytes() - before,
            polls,
            work,
        }
    })
}

impl Run {
    /// What was alive around some moment of a run that is a little slower.
    fn alive_around(&self, at: Duration, percent: u32) -> isize {
        let (from, to) = ((at * 100 / percent).saturating_sub(APART), at + APART);
        let around = self.grew.iter().filter(|it| from <= it.0 && it.0 <= to);
        let resting = self.grew.last().expect("there is a sample").1;
        around.map(|it| it.1).max().unwrap_or(resting)
    }
}

/// What an attack cost those who were attacked.
pub(crate) struct Cost {
    datagrams: u64,
    work: Work,
}

/// Run an attack of two lengths: what it costs more when it is longer grows no faster than the datagrams.
pub(crate) fn costs_the_same_however_long(attack: impl Fn(u64) -> Cost) {
    let (short, long) = (attack(20), attack(80));
    let datagrams = long.datagrams - short.datagrams;
    let more = long.work - short.work;
    println!("{more:?} for {datagrams} datagrams more");
    assert!(more.allocations <= 3 * datagrams && more.bytes <= 4_000 * datagrams);
}

/// Run `script` against the arena, and check what must hold whatever it does.
pub(crate) fn attack(terms: &Terms, script: impl AsyncFn(&Arena)) -> Cost {
    // Until nothing of the transfer is left.
    let rest = async |arena: &Arena| arena.world.sleep(Duration::from_secs(10)).await;
    let control = run(terms, rest, |_| {});
    let (mut sent, mut addresses) = (0, 0);
    let attacked = run(terms, script, |arena| {
        let [(from, from_bytes), (to, to_bytes)] = arena.attack_traffic();
        println!("attackers sent {from} datagrams ({from_bytes} B), got {to} ({to_bytes} B)");
        let allowed = 50 + (from as f64 * terms.answers) as u64;
        assert!(to <= allowed, "{to} answers to {from} datagrams");
        sent = arena.world.evil_datagrams();
        addresses = arena.attackers.borrow().len() as isize;
    });
    let more = (attacked.grew.iter())
        .map(|(at, grew)| (grew - control.alive_around(*at, terms.percent), *at))
        .max();
    let (more, at) = more.expect("there is a sample");
    let work = attacked.work - control.work;
    let left = attacked.left - control.left;
    println!(
        "innocent: {:?} against {:?}; {more} bytes more at {at:?}, {left} at last; {} against {} polls; {work:?}",
        attacked.took, control.took, attacked.polls, control.polls
    );
    assert!(
        attacked.took * 100 <= control.took * terms.percent,
        "the innocent client took {:?} instead of {:?}",
        attacked.took,
        control.took
    );
    assert!(
        more <= terms.heap,
        "{more} bytes more are alive than without the attack, at {at:?}"
    );
    assert!(
        left <= LEFT_BYTES + addresses * LEFT_FOR_ADDRESS_BYTES,
        "{left} bytes are left of the attack"
    );
    let polls = attacked.polls.saturating_sub(control.polls);
    assert!(
        polls <= 500 + sent * POLLS_FOR_DATAGRAM,
        "{polls} polls more for {sent} datagrams"
    );
    let allowed = |beyond, each| beyond + sent * each;
    assert!(
        work.allocations <= allowed(BEYOND.allocations, terms.work.allocations)
            && work.bytes <= allowed(BEYOND.bytes, terms.work.bytes),
        "{work:?} more for {sent} datagrams"
    );
    Cost {
        datagrams: sent,
        work,
    }
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
