//! Plans in words.

use std::fmt;

use super::{Fault, HostPlan, Kind, Part, Place, Plan, What};

fn host(f: &mut fmt::Formatter<'_>, plan: &HostPlan) -> fmt::Result {
    match plan.place {
        Place::Internet => {}
        Place::Router(n) => write!(f, " below router {n}")?,
        Place::Nat(n) => write!(f, " below NAT {n}")?,
    }
    writeln!(f)?;
    writeln!(f, "    up   {}", plan.link.0)?;
    writeln!(f, "    down {}", plan.link.1)?;
    if let Some((up, down)) = &plan.second {
        writeln!(f, "    second interface: up   {up}")?;
        writeln!(f, "    second interface: down {down}")?;
    }
    writeln!(
        f,
        "    segments {:?}, send buffer {:?}, timers late by up to {:?}, clock {} ppm",
        plan.segments, plan.send_buffer, plan.slack, plan.ppm
    )?;
    writeln!(f, "    {:?}", plan.transport)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:?}: ", self.at)?;
        match &self.what {
            What::Link(node, both) => {
                let (up, down) = &**both;
                write!(f, "link of {node:?} becomes: up {up}; down {down}")?;
            }
            What::Cut(node, up, down) => write!(f, "cut of {node:?}, up {up}, down {down}")?,
            What::Rebind(n) => return write!(f, "NAT {n} forgets its mappings"),
            What::Pause(node) => write!(f, "{node:?} pauses")?,
            What::Crash(node) => write!(f, "{node:?} crashes")?,
            What::Clock(node, ppm) => write!(f, "the clock of {node:?} is off by {ppm} ppm")?,
        }
        write!(f, "; for {:?}", self.lasts)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calm = if self.calm { "calm" } else { "rough" };
        let kind = match self.kind {
            Kind::Mixed => "mixed",
            Kind::FairStreams => "fairness between streams",
            Kind::FairConnections => "fairness between connections",
        };
        writeln!(f, "seed {}: {kind}, {calm}", self.seed)?;
        writeln!(f, "  {:?}", self.more)?;
        for (n, (up, down)) in self.routers.iter().enumerate() {
            writeln!(f, "  router {n}\n    up   {up}\n    down {down}")?;
        }
        for (n, nat) in self.nats.iter().enumerate() {
            let (up, down) = &nat.link;
            writeln!(
                f,
                "  NAT {n} below router {:?}, forgets after {:?}, open to all: {}\n    up   {up}\n    \
                 down {down}",
                nat.router, nat.timeout, nat.cone
            )?;
        }
        for (n, server) in self.servers.iter().enumerate() {
            write!(f, "  server {n}")?;
            host(f, &server.host)?;
            writeln!(
                f,
                "    retry {}, offload {}, migration {}, refuses {}, ignores {}, closes its endpoint {}",
                server.retry,
                server.offload,
                server.migration,
                server.refuse,
                server.ignore,
                server.closes_endpoint
            )?;
        }
        for (n, client) in self.clients.iter().enumerate() {
            write!(f, "  client {n}")?;
            host(f, &client.host)?;
            let (dual, closes) = (client.dual, client.closes_endpoint);
            writeln!(f, "    dual stack {dual}, closes its endpoint {closes}")?;
            for (l, lane) in client.lanes.iter().enumerate() {
                if !self.has(Part::Lane(n, l)) {
                    continue;
                }
                for (k, connection) in lane.iter().enumerate() {
                    if !self.has(Part::Connection(n, l, k)) {
                        continue;
                    }
                    writeln!(
                        f,
                        "    connection {n}.{l}.{k} to server {} after {:?}, IPv6 {}, early {}, patience \
                         {:?}, ends {:?}, hasty {:?}, the server updates keys after {:?}, datagrams are \
                         read every {:?}",
                        connection.server,
                        connection.after,
                        connection.ipv6,
                        connection.early,
                        connection.patience,
                        connection.ending,
                        connection.hasty,
                        connection.server_key_updates,
                        connection.slow_datagrams,
                    )?;
                    for (t, (removed, task)) in connection.tasks.iter().enumerate() {
                        if !removed {
                            writeln!(f, "      task {t}: {task:?}")?;
                        }
                    }
                }
            }
        }
        for (n, fault) in self.faults.iter().enumerate() {
            if self.has(Part::Fault(n)) {
                writeln!(f, "  fault {n}: {fault}")?;
            }
        }
        Ok(())
    }
}
