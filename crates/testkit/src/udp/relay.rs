//! A network between a client and a server, which can be made to misbehave.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a thread waits for a datagram before it looks whether it should stop.
const TICK: Duration = Duration::from_millis(10);

/// Which way a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What becomes of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They pass.
    Pass,
    /// They vanish.
    Vanish,
    /// They are kept until [`Relay::release`].
    Hold,
    /// One in so many vanishes, one in so many comes twice, one in so many comes late.
    Shake(u64),
}

/// Passes datagrams between clients, which talk to [`addr`](Self::addr), and a server.
///
/// Two threads of plain blocking sockets; knows one client at a time, the one heard of last.
#[derive(Debug)]
pub struct Relay {
    /// Where clients find the server.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Towards the client.
    front: UdpSocket,
    state: Mutex<State>,
    stop: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// Towards the server.
    back: Arc<UdpSocket>,
    server: SocketAddr,
    client: Option<SocketAddr>,
    fates: [Fate; 2],
    held: Vec<(Way, Vec<u8>)>,
    count: u64,
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback can be bound");
    socket
        .set_read_timeout(Some(TICK))
        .expect("a timeout can be set");
    socket
}

impl Relay {
    /// A relay to `server`.
    pub fn new(server: SocketAddr) -> Self {
        let front = socket();
        let addr = front.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            front,
            state: Mutex::new(State {
                back: Arc::new(socket()),
                server,
                client: None,
                fates: [Fate::Pass; 2],
                held: Vec::new(),
                count: 0,
            }),
            stop: AtomicBool::new(false),
        });
        let threads = [Way::Up, Way::Down]
            .map(|way| {
                let shared = shared.clone();
                std::thread::spawn(move || shared.run(way))
            })
            .into();
        Self {
            addr,
            shared,
            threads,
        }
    }

    /// Decide what becomes of datagrams from now on.
    pub fn set(&self, way: Way, fate: Fate) {
        self.shared.lock().fates[way as usize] = fate;
    }

    /// The same for both ways.
    pub fn set_both(&self, fate: Fate) {
        self.shared.lock().fates = [fate; 2];
    }

    /// Let everything pass again, first of all what was held.
    pub fn release(&self) {
        let mut state = self.shared.lock();
        state.fates = [Fate::Pass; 2];
        for (way, datagram) in std::mem::take(&mut state.held) {
            self.shared.send(&state, way, &datagram);
        }
    }

    /// Pass datagrams on to another server.
    pub fn set_server(&self, server: SocketAddr) {
        self.shared.lock().server = server;
    }

    /// Talk to the server from another port, as a NAT does that has forgotten the old one.
    pub fn rebind(&self) {
        self.shared.lock().back = Arc::new(socket());
    }

    /// The address from which the server is talked to.
    pub fn back_addr(&self) -> SocketAddr {
        let back = self.shared.lock().back.clone();
        back.local_addr().expect("it is bound")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, way: Way) {
        let mut buf = vec![0; 1 << 16];
        while !self.stop.load(Ordering::Relaxed) {
            let received = match way {
                Way::Up => self.front.recv_from(&mut buf),
                Way::Down => {
                    let back = self.lock().back.clone();
                    back.recv_from(&mut buf)
                }
            };
            match received {
                Ok((len, from)) => self.relay(way, from, &buf[..len]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                // Somebody's port is closed. That shows elsewhere.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn relay(&self, way: Way, from: SocketAddr, datagram: &[u8]) {
        let mut state = self.lock();
        if way == Way::Up {
            state.client = Some(from);
        }
        match state.fates[way as usize] {
            Fate::Pass => self.send(&state, way, datagram),
            Fate::Vanish => {}
            Fate::Hold => state.held.push((way, datagram.to_vec())),
            Fate::Shake(one_in) => {
                state.count += 1;
                match state.count % one_in {
                    0 => {}
                    1 => {
                        self.send(&state, way, datagram);
                        self.send(&state, way, datagram);
                    }
                    2 => state.held.push((way, datagram.to_vec())),
                    _ => self.send(&state, way, datagram),
                }
                if state.held.len() > 3 {
                    let (way, late) = state.held.remove(0);
                    self.send(&state, way, &late);
                }
            }
        }
    }

    fn send(&self, state: &State, way: Way, datagram: &[u8]) {
        // What cannot be sent is lost, as in any network.
        let _ = match (way, state.client) {
            (Way::Up, _) => state.back.send_to(datagram, state.server),
            (Way::Down, Some(client)) => self.front.send_to(datagram, client),
            (Way::Down, None) => return,
        };
    }
}
