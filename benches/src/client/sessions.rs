//! Workloads in which clients come back.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::{Either, select};
use serde_json::Value;

use crate::{
    server::{REQUEST_BYTES, RESPONSE_BYTES},
    stack::{Connection, Endpoint, RecvStream, SendStream, Stack},
};

use super::{Client, Tasks, latencies};

/// How long a client that has never met the server waits for its first ticket.
const TICKET_PATIENCE: Duration = Duration::from_secs(5);

impl<S: Stack> Client<S> {
    pub(super) async fn resumed(&self, concurrency: usize) -> Result<Value> {
        let acquaintances = self.acquaintances(concurrency).await?;
        let before = self.settings.full_handshakes();
        // A stack with TLS of its own has to answer for each connection itself.
        let unproven = before == 0;
        let mut tasks = Tasks::new(&self.stack);
        for mut previous in acquaintances {
            let (endpoint, server) = (self.endpoint.clone(), self.server);
            let (probe, tickets) = (self.probe.clone(), self.settings.tickets().clone());
            tasks.spawn(async move {
                let mut durations = Vec::new();
                while !probe.stopped() {
                    endpoint.ticket(&tickets).await?;
                    previous.close();
                    let start = Instant::now();
                    previous = endpoint.connect(server).await?;
                    if probe.measuring() {
                        durations.push(start.elapsed());
                    }
                    ensure!(
                        previous.resumed().unwrap_or(!unproven),
                        "a handshake was a full one, or the stack does not tell"
                    );
                    probe.completed();
                }
                // Its tickets may be those that others still wait for, so it stays open.
                Ok(vec![(durations, previous)])
            });
        }
        self.probe.start_clock(self.warmup, self.duration);
        let ended = tasks.join().await?;
        self.check_resumed(before)?;
        Ok(latencies(
            ended
                .into_iter()
                .flat_map(|(durations, _)| durations)
                .collect(),
        ))
    }

    pub(super) async fn zero_rtt(&self, concurrency: usize) -> Result<Value> {
        static REQUEST: [u8; REQUEST_BYTES] = [0x5a; REQUEST_BYTES];
        let acquaintances = self.acquaintances(concurrency).await?;
        let before = self.settings.full_handshakes();
        // A stack with TLS of its own has to answer for each connection itself.
        let unproven = before == 0;
        let mut tasks = Tasks::new(&self.stack);
        for mut previous in acquaintances {
            let (endpoint, server) = (self.endpoint.clone(), self.server);
            let (probe, tickets) = (self.probe.clone(), self.settings.tickets().clone());
            tasks.spawn(async move {
                let mut durations = Vec::new();
                while !probe.stopped() {
                    endpoint.ticket(&tickets).await?;
                    previous.close();
                    let start = Instant::now();
                    let (connection, accepted) = endpoint.connect_early(server).await?;
                    let (mut send, mut recv) = connection.open_bi().await?;
                    send.write_all(&REQUEST).await?;
                    send.finish()?;
                    let response = recv.read_to_end(RESPONSE_BYTES).await;
                    let elapsed = start.elapsed();
                    // Asked first: it is why there is no response.
                    ensure!(accepted.await, "the server rejected 0-RTT");
                    ensure!(
                        connection.resumed().unwrap_or(!unproven),
                        "0-RTT without a resumed session, or the stack does not tell"
                    );
                    let response = response.context("the answer to a request in 0-RTT")?;
                    ensure!(
                        response.len() == RESPONSE_BYTES,
                        "a response of {} bytes",
                        response.len()
                    );
                    if probe.measuring() {
                        durations.push(elapsed);
                    }
                    probe.completed();
                    previous = connection;
                }
                // Its tickets may be those that others still wait for, so it stays open.
                Ok(vec![(durations, previous)])
            });
        }
        self.probe.start_clock(self.warmup, self.duration);
        let ended = tasks.join().await?;
        self.check_resumed(before)?;
        Ok(latencies(
            ended
                .into_iter()
                .flat_map(|(durations, _)| durations)
                .collect(),
        ))
    }

    /// Connections with full handshakes, the first of which has brought a ticket.
    async fn acquaintances(
        &self,
        count: usize,
    ) -> Result<Vec<<S::Endpoint as Endpoint>::Connection>> {
        let mut connections = Vec::with_capacity(count);
        // One less, as there will be that which uses the first ticket.
        for _ in 1..count {
            connections.push(self.endpoint.connect(self.server).await?);
        }
        let ticket = pin!(async {
            self.endpoint.ticket(self.settings.tickets()).await?;
            // Used up, so that none stays reserved for nobody.
            self.endpoint.connect(self.server).await
        });
        let patience = pin!(self.stack.sleep(TICKET_PATIENCE));
        match select(ticket, patience).await {
            Either::Left((first, _)) => connections.push(first?),
            Either::Right(_) => bail!("no session ticket came from the server"),
        }
        Ok(connections)
    }

    /// Fails unless every handshake since there were `before` full ones resumed a session.
    fn check_resumed(&self, before: u64) -> Result<()> {
        let full = self.settings.full_handshakes() - before;
        ensure!(
            full == 0,
            "{full} of {} handshakes were full ones",
            self.probe.snapshot().operations
        );
        Ok(())
    }
}
