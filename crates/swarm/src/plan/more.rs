//! What was added to plans after seeds had found bugs. It is drawn apart from the rest, and left out of
//! half of the plans, so that those seeds keep their meaning ([`Plan::basic`]).

use std::time::Duration;

use super::links::LinkPlan;
use super::work::{Ending, HalfPlan, StreamPlan, TaskPlan};
use super::{Fault, Kind, Node, Plan, What};
use crate::dice::Dice;

/// Additions that hold for a plan as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct More {
    /// The second router is below the first one.
    pub(crate) stacked: bool,
    /// Servers keep their keys for stateless resets and tokens over a crash.
    pub(crate) keeps_keys: bool,
}

/// How a client ends a connection that it has an endpoint of its own for, when all it wrote is finished,
/// and nobody knows yet whether it was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hasty {
    /// It drops all handles.
    Drop,
    /// It closes the endpoint.
    Close,
}

impl Plan {
    pub(super) fn draw_more(&mut self) {
        let mut dice = Dice::new(self.seed, "more");
        if self.kind != Kind::Mixed || dice.chance(0.5) {
            return;
        }
        self.more = More {
            stacked: self.routers.len() > 1 && dice.chance(0.5),
            keeps_keys: dice.chance(0.6),
        };
        if dice.chance(0.35) {
            self.draw_near(&mut dice);
        }
        let (calm, seed) = (self.calm, self.seed);
        for (c, client) in self.clients.iter_mut().enumerate() {
            for (l, lane) in client.lanes.iter_mut().enumerate() {
                for (k, plan) in lane.iter_mut().enumerate() {
                    let mut dice = Dice::new(seed, format_args!("more {c}.{l}.{k}"));
                    for _ in 0..dice.maybe(0.4, |it| it.scale(1, 6)).unwrap_or(0) {
                        let task = TaskPlan::KeyUpdate(dice.span(1, 5_000));
                        plan.tasks.push((false, task));
                    }
                    plan.server_key_updates =
                        (0..dice.range(0, 3)).map(|_| dice.span(1, 5_000)).collect();
                    // Shorter than what applications pause for anyway, where nothing may fail.
                    plan.slow_datagrams = dice.maybe(0.2, |it| it.span(50, 3_000));
                    let hasty = [Hasty::Drop, Hasty::Close];
                    let unhurried = matches!(plan.ending, Ending::Close | Ending::Drop);
                    plan.hasty = dice.maybe(0.4, |it| it.pick(&hasty)).filter(|_| unhurried);
                    // Who is given up early cannot tell what was delivered.
                    if plan.hasty.is_some() {
                        plan.early = false;
                    }
                    for (_, task) in &mut plan.tasks {
                        if let TaskPlan::Streams(streams) = task {
                            streams
                                .iter_mut()
                                .for_each(|it| it.draw_more(&mut dice, calm));
                        }
                    }
                }
            }
        }
    }
}

impl Plan {
    /// Short links that lose nothing: how soon something must happen can be told closely.
    fn draw_near(&mut self, dice: &mut Dice) {
        let mut near = || (LinkPlan::near(dice), LinkPlan::near(dice));
        for link in &mut self.routers {
            *link = near();
        }
        for nat in &mut self.nats {
            nat.link = near();
        }
        let clients = self.clients.iter_mut().map(|it| &mut it.host);
        for host in clients.chain(self.servers.iter_mut().map(|it| &mut it.host)) {
            host.link = near();
            host.second = host.second.take().map(|_| near());
        }
        if self.calm || dice.chance(0.5) {
            return;
        }
        // A cut that outlasts idle timeouts.
        let mut nodes: Vec<_> = (0..self.servers.len()).map(Node::Server).collect();
        nodes.extend((0..self.clients.len()).map(Node::Client));
        nodes.extend((0..self.routers.len()).map(Node::Router));
        let (up, down) = dice.pick(&[(true, true), (true, false), (false, true)]);
        self.faults.push(Fault {
            at: dice.span(10, 2_000),
            lasts: dice.span(30_000, 200_000),
            what: What::Cut(dice.pick(&nodes), up, down),
        });
    }
}

impl StreamPlan {
    fn draw_more(&mut self, dice: &mut Dice, calm: bool) {
        self.there.draw_more(dice, calm);
        if let Some(back) = &mut self.back {
            back.draw_more(dice, calm);
        }
        for push in &mut self.pushes {
            push.draw_more(dice, calm);
        }
    }
}

impl HalfPlan {
    fn draw_more(&mut self, dice: &mut Dice, calm: bool) {
        let longest = if calm { 3_000 } else { 10_000 };
        self.read_stop = dice
            .maybe(0.15, |it| it.span(500, longest))
            .unwrap_or(Duration::ZERO);
        self.stopped_cancels = dice.maybe(0.3, |it| it.range(1, 3)).unwrap_or(0) as u32;
        self.exact = dice.chance(0.15);
    }
}
