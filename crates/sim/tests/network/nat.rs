//! Network address translation.

use std::time::Duration;

use polyquic_sim::{Host, Link, Nat, NatConfig, RawSocket, Sim};

use super::millis;

struct Home {
    sim: Sim,
    nat: Nat,
    inside: RawSocket,
    outside: RawSocket,
    stranger: RawSocket,
    server: Host,
}

fn home(config: NatConfig) -> Home {
    let sim = Sim::new(3);
    let nat = sim.nat("nat", config, Link::new());
    let client = sim.host_below("client", &nat, Link::new());
    let server = sim.host("server");
    let stranger = sim.host("stranger");
    Home {
        inside: client.udp(client.addr(5000)).unwrap(),
        outside: server.udp(server.addr(443)).unwrap(),
        stranger: stranger.udp(stranger.addr(9)).unwrap(),
        sim,
        nat,
        server,
    }
}

impl Home {
    /// Send something out; returns where it seems to come from.
    fn call(&self) -> std::net::SocketAddr {
        let dst = self.server.addr(443);
        self.inside.send_to(b"hello", dst).unwrap();
        self.sim.run(self.outside.recv()).unwrap().src
    }

    fn reaches(&self, from: &RawSocket, dst: std::net::SocketAddr) -> bool {
        from.send_to(b"answer", dst).unwrap();
        self.sim.run(self.sim.sleep(millis(1)));
        self.inside.try_recv().is_some()
    }
}

#[test]
fn inside_has_another_address_outside() {
    let home = home(NatConfig::default());
    let seen = home.call();
    assert_eq!(seen.ip(), home.nat.ip());
    assert_ne!(seen.port(), 5000);
    assert_eq!(home.call(), seen, "a mapping lasts");
    assert!(home.reaches(&home.outside, seen));
    assert!(!home.reaches(&home.stranger, seen), "it was not sent to");
    let real = home.inside.local_addr().unwrap();
    assert!(!home.reaches(&home.outside, real), "hidden");
}

#[test]
fn a_full_cone_lets_strangers_in() {
    let home = home(NatConfig::default().full_cone());
    let seen = home.call();
    assert!(home.reaches(&home.stranger, seen));
}

#[test]
fn mappings_are_forgotten() {
    let home = home(NatConfig::default().timeout(Duration::from_secs(30)));
    let seen = home.call();
    home.sim.run(home.sim.sleep(Duration::from_secs(29)));
    assert!(home.reaches(&home.outside, seen));
    home.sim.run(home.sim.sleep(Duration::from_secs(31)));
    assert!(!home.reaches(&home.outside, seen));
    let again = home.call();
    assert_ne!(again, seen);
    home.nat.rebind();
    assert!(!home.reaches(&home.outside, again));
    assert_ne!(home.call(), again);
}
