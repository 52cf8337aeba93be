//! Many clients that arrive at a server while one connection wants its answers.
//!
//! What is measured is how long the server lets an established connection wait while it is busy
//! with handshakes. So the arriving clients must not be where the waiting happens: they are a
//! process of their own, started by the client that measures, on its processors but with a lower
//! priority, so that an answer never waits for a handshake of that side. Each arrives at its time,
//! whether or not those before it are done, is closed as soon as its handshake is complete, and
//! comes from the same address.
//!
//! That such a process keeps to its rate is checked; how many handshakes the server completes is
//! reported, as a server may well keep its latency by neglecting them.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    options::Options,
    probe::Probe,
    settings::Settings,
    stack::{Connection, Endpoint, Stack},
};

/// More than that at a time are not begun: the server is overwhelmed, and that is what the report
/// will say.
const MAX_UNDER_WAY: usize = 1_000;
/// Less of the wanted rate than that is not the load that was asked for.
const MIN_SHARE_OF_RATE: f64 = 0.8;
/// A shorter interval says nothing about the rate.
const MIN_SECONDS: f64 = 0.3;

/// Handshakes at `rate` in each second, until the process is ended.
pub(crate) async fn run<S: Stack>(
    stack: S,
    settings: &Settings,
    probe: Arc<Probe>,
    server: SocketAddr,
    rate: u32,
) -> Result<()> {
    let endpoint = stack.client(settings).context("starting the client")?;
    let under_way = Arc::new(AtomicUsize::new(0));
    let interval = Duration::from_secs(1) / rate;
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if next > now {
            stack.sleep(next - now).await;
        }
        next += interval;
        if under_way.load(Ordering::Relaxed) >= MAX_UNDER_WAY {
            continue;
        }
        under_way.fetch_add(1, Ordering::Relaxed);
        probe.began();
        let (endpoint, probe, under_way) = (endpoint.clone(), probe.clone(), under_way.clone());
        stack.spawn(async move {
            // One that fails is one that was not completed.
            if let Ok(connection) = endpoint.connect(server).await {
                connection.close();
                probe.completed();
            }
            under_way.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// The process of the arriving clients, as the client that measures sees it. It ends with this
/// value, or with this process.
#[derive(Debug)]
pub(crate) struct Storm {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    rate: u32,
}

impl Storm {
    /// Starts this program once more, with what it was started with.
    pub(crate) fn start(options: &Options, server: SocketAddr, rate: u32) -> Result<Self> {
        let program = env::current_exe().context("this program's name")?;
        let mut command = Command::new(program);
        command.args(["storm", "--connect", &server.to_string()]);
        command.args(options.common_arguments());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the process of the arriving clients")?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
            rate,
        })
    }

    /// Asks for what was done so far; [`finish`](Self::finish) takes the answers.
    pub(crate) fn ask(&mut self) -> Result<()> {
        writeln!(self.stdin, "snapshot").context("the arriving clients are gone")
    }

    /// From the first two answers, the handshakes that were completed in each second.
    pub(crate) fn finish(mut self) -> Result<f64> {
        let (begin, end) = (self.answer()?, self.answer()?);
        let change = |name: &str| {
            let value = |of: &Value| of["snapshot"][name].as_f64().context("no such count");
            anyhow::Ok(value(&end)? - value(&begin)?)
        };
        let elapsed = change("elapsed")?;
        let (begun, completed) = (change("begun")?, change("operations")?);
        let wanted = f64::from(self.rate) * elapsed;
        ensure!(
            elapsed < MIN_SECONDS || begun >= wanted * MIN_SHARE_OF_RATE,
            "the arriving clients began {begun:.0} handshakes instead of {wanted:.0}"
        );
        Ok(completed / elapsed)
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)
            .with_context(|| format!("the arriving clients said {line:?}"))?;
        if let Some(error) = answer["error"].as_str() {
            bail!("the arriving clients: {error}");
        }
        Ok(answer)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
