//! One simulation from beginning to end.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use polyquic::Runtime;
use polyquic::sim::{Access, Host, Interface, Internet, Nat, NatConfig, Router, Sim};

use crate::Options;
use crate::app::App;
use crate::model::{Model, Side};
use crate::plan::links::LinkPlan;
use crate::plan::{Fault, HostPlan, Kind, Node, Place, Plan, What};
use crate::{amplify, check, client, fairness, server};

/// How long links stay as planned after the last fault.
const STILL_BAD: Duration = Duration::from_secs(60);

/// How long everything may take to finish when nothing is wrong any more. A probe timeout that
/// backed off during a cut is as long as the cut (up to two minutes), and a sequence of connections
/// may meet that several times.
const FINISHES_WITHIN: Duration = Duration::from_secs(1200);

/// How long it may take until nothing is left, when everything was closed: three probe timeouts of
/// the slowest path, or the idle timeout of whoever did not hear of it.
const GONE_WITHIN: Duration = Duration::from_secs(300);

/// A simulation with what its plan says.
pub(crate) struct World {
    pub(crate) sim: Rc<Sim>,
    pub(crate) plan: Rc<Plan>,
    pub(crate) model: Rc<Model>,
    pub(crate) servers: Vec<Host>,
    clients: Vec<Host>,
    interfaces: Vec<Rc<Vec<Interface>>>,
    routers: Vec<Router>,
    nats: Vec<Nat>,
}

fn set(access: &Access, link: &(LinkPlan, LinkPlan)) {
    access.set_up(link.0.build());
    access.set_down(link.1.build());
}

impl World {
    pub(crate) fn new(plan: &Plan, options: &Options<'_>) -> Self {
        let plan = Rc::new(plan.clone());
        let sim = Rc::new(Sim::new(plan.seed));
        if options.capture.is_some() {
            sim.capture();
        }
        sim.set_time_limit(Duration::from_secs(30 * 24 * 3600));
        let clock = sim.host("observer").clock();
        let key_log = options.capture.map(|_| sim.key_log());
        let model = Model::new(&plan, clock, key_log, options);
        model.meters.start(&sim);
        let mut routers: Vec<Router> = Vec::new();
        for (n, link) in plan.routers.iter().enumerate() {
            let (name, first) = (format!("router {n}"), routers.first());
            let router = match first.filter(|_| plan.more.stacked) {
                Some(first) => sim.router_below(&name, first, link.0.build()),
                None => sim.router(&name, link.0.build()),
            };
            set(&router.access(), link);
            routers.push(router);
        }
        let nats: Vec<_> = plan
            .nats
            .iter()
            .enumerate()
            .map(|(n, nat)| {
                let mut config = NatConfig::default().timeout(nat.timeout);
                if nat.cone {
                    config = config.full_cone();
                }
                let (name, link) = (format!("nat {n}"), nat.link.0.build());
                let made = match nat.router {
                    Some(router) => sim.nat_below(&name, &routers[router], config, link),
                    None => sim.nat(&name, config, link),
                };
                set(&made.access(), &nat.link);
                made
            })
            .collect();
        let place = |name: String, plan: &HostPlan| {
            let link = plan.link.0.build();
            let host = match plan.place {
                Place::Internet => sim.host_below(&name, Internet, link),
                Place::Router(n) => sim.host_below(&name, &routers[n], link),
                Place::Nat(n) => sim.host_below(&name, &nats[n], link),
            };
            set(&host.access(), &plan.link);
            host.set_segments(plan.segments.0, plan.segments.1);
            if let Some(bytes) = plan.send_buffer {
                host.set_send_buffer(bytes);
            }
            host.set_timer_slack(plan.slack);
            host.set_clock_rate(plan.ppm);
            host
        };
        let servers: Vec<_> = plan
            .servers
            .iter()
            .enumerate()
            .map(|(n, it)| {
                let host = place(format!("server {n}"), &it.host);
                // Each packet may have been doubled on the way, at every step of it.
                let duplicates = plan.duplicates();
                amplify::watch(&host.access(), &model, duplicates);
                host
            })
            .collect();
        let (mut clients, mut interfaces) = (Vec::new(), Vec::new());
        for (n, it) in plan.clients.iter().enumerate() {
            let host = place(format!("client {n}"), &it.host);
            let mut all = vec![host.interface()];
            if let Some(link) = &it.host.second {
                let second = host.add_interface(Internet, link.0.build());
                set(&second.access(), link);
                all.push(second);
            }
            clients.push(host);
            interfaces.push(Rc::new(all));
        }
        Self {
            sim,
            plan,
            model,
            servers,
            clients,
            interfaces,
            routers,
            nats,
        }
    }

    fn app(&self, side: Side, index: usize) -> App {
        App {
            model: self.model.clone(),
            plan: self.plan.clone(),
            host: match side {
                Side::Client => self.clients[index].clone(),
                Side::Server => self.servers[index].clone(),
            },
            side,
            clients: Rc::new(self.clients.iter().map(|it| it.addr(9)).collect()),
        }
    }

    fn start(&self, side: Side, index: usize) {
        let app = self.app(side, index);
        match side {
            Side::Server => server::start(&app, index),
            Side::Client => {
                let addrs = self.servers.iter().map(|it| [it.ip(), it.ipv6()]);
                let interfaces = self.interfaces[index].clone();
                client::start(&app, index, Rc::new(addrs.collect()), interfaces);
            }
        }
    }

    /// Run it, and check everything.
    pub(crate) fn run(&self) {
        self.sim.run(async {
            for index in 0..self.servers.len() {
                self.start(Side::Server, index);
            }
            for index in 0..self.clients.len() {
                self.start(Side::Client, index);
            }
            if self.plan.kind != Kind::Mixed {
                fairness::watch(self).await;
            }
            self.timeline().await;
            self.finish().await;
        });
        check::at_the_end(self);
    }

    fn access(&self, node: Node) -> Access {
        match node {
            Node::Server(n) => self.servers[n].access(),
            Node::Client(n) => self.interfaces[n][0].access(),
            Node::Router(n) => self.routers[n].access(),
            Node::Nat(n) => self.nats[n].access(),
        }
    }

    fn link(&self, node: Node) -> &(LinkPlan, LinkPlan) {
        match node {
            Node::Server(n) => &self.plan.servers[n].host.link,
            Node::Client(n) => &self.plan.clients[n].host.link,
            Node::Router(n) => &self.plan.routers[n],
            Node::Nat(n) => &self.plan.nats[n].link,
        }
    }

    fn host(&self, node: Node) -> Option<(&Host, Side, usize)> {
        match node {
            Node::Server(n) => Some((&self.servers[n], Side::Server, n)),
            Node::Client(n) => Some((&self.clients[n], Side::Client, n)),
            Node::Router(_) | Node::Nat(_) => None,
        }
    }

    /// What goes wrong, and is mended.
    async fn timeline(&self) {
        let mut steps: BTreeMap<(Duration, bool, usize), &Fault> = BTreeMap::new();
        for (index, fault) in self.plan.faults().enumerate() {
            steps.insert((fault.at, true, index), fault);
            steps.insert((fault.at + fault.lasts, false, index), fault);
        }
        let mut crashed = BTreeMap::new();
        for ((at, begins, _), fault) in steps {
            let now = self.sim.elapsed();
            self.sim.sleep(at.saturating_sub(now)).await;
            let what = if begins { "begins" } else { "ends" };
            self.model.log(|| format!("{what}: {fault}"));
            self.step(fault, begins, &mut crashed);
        }
    }

    fn step(&self, fault: &Fault, begins: bool, crashed: &mut BTreeMap<Node, u32>) {
        match &fault.what {
            What::Link(node, both) => {
                let access = self.access(*node);
                match begins {
                    true => set(&access, both),
                    false => set(&access, self.link(*node)),
                }
            }
            What::Cut(node, up, down) => {
                if !begins {
                    check::dead_paths(&self.model, fault);
                }
                let access = self.access(*node);
                if *up {
                    access.cut_up(begins);
                }
                if *down {
                    access.cut_down(begins);
                }
            }
            What::Rebind(nat) if begins => self.nats[*nat].rebind(),
            What::Rebind(_) => {}
            What::Pause(node) => {
                let (host, ..) = self.host(*node).expect("hosts pause");
                if begins { host.pause() } else { host.resume() }
            }
            What::Crash(node) => {
                let (host, side, index) = self.host(*node).expect("hosts crash");
                let down = crashed.entry(*node).or_default();
                if begins {
                    *down += 1;
                    host.crash();
                    self.model.crashed(side, index);
                } else {
                    *down -= 1;
                    if *down == 0 {
                        self.model.count("restarts");
                        self.start(side, index);
                    }
                }
            }
            What::Clock(node, ppm) => {
                let (host, ..) = self.host(*node).expect("hosts have clocks");
                let usual = match node {
                    Node::Server(n) => self.plan.servers[*n].host.ppm,
                    Node::Client(n) => self.plan.clients[*n].host.ppm,
                    _ => 0,
                };
                host.set_clock_rate(if begins { *ppm } else { usual });
            }
        }
    }

    /// Wait until clients are done, at first on links as planned, then on good ones.
    async fn finish(&self) {
        let busy = || self.model.is_busy(Side::Client);
        self.wait(STILL_BAD, busy).await;
        let clean = (LinkPlan::clean(), LinkPlan::clean());
        for interface in self.interfaces.iter().flat_map(|it| it.iter()) {
            set(&interface.access(), &clean);
        }
        let hosts = self.servers.iter().map(|it| it.access());
        let between = self.routers.iter().map(Router::access);
        let between = between.chain(self.nats.iter().map(Nat::access));
        for access in hosts.chain(between) {
            set(&access, &clean);
        }
        self.model.log(|| "all links are good now".into());
        self.model.good_since.set(Some(self.model.now()));
        if !self.wait(FINISHES_WITHIN, busy).await {
            let going = self.model.going().join("; ");
            let what = format_args!("not done within {FINISHES_WITHIN:?}: {going}");
            self.model.violation("progress", what);
        }
        self.model.log(|| "servers are to end".into());
        self.model.shutdown.set(true);
        self.model.shutting.notify();
        let tasks = || self.sim.tasks() > 0;
        if !self.wait(GONE_WITHIN, tasks).await {
            let (tasks, going) = (self.sim.tasks(), self.model.going().join("; "));
            let what = format_args!("{tasks} tasks are left after {GONE_WITHIN:?}: {going}");
            self.model.violation("leaks", what);
        }
    }

    /// While `busy`; returns false if it still is after `limit`.
    async fn wait(&self, limit: Duration, busy: impl Fn() -> bool) -> bool {
        let deadline = self.sim.elapsed() + limit;
        let mut nap = Duration::from_millis(10);
        while busy() {
            if self.sim.elapsed() >= deadline {
                return false;
            }
            self.sim.sleep(nap).await;
            nap = (nap * 2).min(Duration::from_secs(5));
        }
        true
    }
}
