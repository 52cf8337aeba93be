//! The contract of an adapter, over a perfect network and over bad ones.

/// Left out are the groups that need sockets of the operating system (`udp`, whose promises are kept
/// by tests of this crate's own in `network.rs`), several sockets on one address (`shards`), and
/// other threads (`threads`).
mod perfect {
    polyquic_testkit::conformance!(
        |app| polyquic_sim::run(1, app),
        except: [udp, shards, threads]
    );
}
