//! Steps that a network may fail, and commands that may hang: neither may cost a whole run.

use std::{
    io::{self, IsTerminal, Read},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::command;

/// How long to wait before a step is tried again, each time that it is.
const PAUSES: &[Duration] = &[Duration::from_secs(5), Duration::from_secs(30)];

/// How often a command is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Takes a step that needs a network, a few times if need be. The error is the last one.
pub(crate) fn retry<T>(what: &str, step: impl FnMut() -> Result<T>) -> Result<T> {
    retry_after(PAUSES, what, step)
}

fn retry_after<T>(
    pauses: &[Duration],
    what: &str,
    mut step: impl FnMut() -> Result<T>,
) -> Result<T> {
    for pause in pauses {
        match step() {
            Ok(done) => return Ok(done),
            Err(error) => println!("{what}: {error:#}; again in {}", command::seconds(*pause)),
        }
        thread::sleep(*pause);
    }
    step().with_context(|| format!("{what}, tried {} times", pauses.len() + 1))
}

/// Runs a command with its output going where ours goes; an error unless it succeeds within `limit`.
pub(crate) fn run_within(mut command: Command, limit: Duration) -> Result<()> {
    let status = Running::start(&mut command)?.wait(limit)?;
    if !status.success() {
        bail!("{}: {status}", command::name(&command));
    }
    Ok(())
}

/// How a command ended, and what it wrote to standard error; an error if it takes longer than `limit`.
pub(crate) fn errors_within(mut command: Command, limit: Duration) -> Result<(ExitStatus, String)> {
    command.stderr(Stdio::piped());
    let mut running = Running::start(&mut command)?;
    let pipe = running.child.stderr.take();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What there is up to an error is what there is to say.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let ended = running.wait(limit);
    let said = reader.join().unwrap_or_default();
    match ended {
        Ok(status) => Ok((status, said)),
        Err(error) => Err(error.context(format!("it said {said:?}"))),
    }
}

/// A command with everything that it started.
struct Running {
    child: Child,
    shown: String,
    /// Whether it leads a process group, by which all of it can be ended.
    leads: bool,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        // On a terminal, ctrl-c must reach it as well. Elsewhere nobody is there to end what it leaves
        // behind, which would keep our output open for whoever reads that.
        let leads = cfg!(unix) && !io::stdout().is_terminal();
        #[cfg(unix)]
        if leads {
            std::os::unix::process::CommandExt::process_group(command, 0);
        }
        command.stdin(Stdio::null());
        let shown = command::name(command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {shown}"))?;
        Ok(Self {
            child,
            shown,
            leads,
        })
    }

    /// Waits for its end, and ends what it has left behind.
    fn wait(mut self, limit: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        let ended = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Ok(None) if started.elapsed() < limit => thread::sleep(POLL_INTERVAL),
                Ok(None) => {
                    let limit = command::seconds(limit);
                    break Err(anyhow::anyhow!("{} takes longer than {limit}", self.shown));
                }
                Err(error) => break Err(error.into()),
            }
        };
        if self.leads {
            let mut kill = Command::new("kill");
            kill.args(["-s", "KILL", "--", &format!("-{}", self.child.id())]);
            // That nothing is left is no error.
            let _ = kill.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_tried_again_and_its_last_error_told() {
        let mut tries = 0;
        let done = retry_after(&[Duration::ZERO; 2], "a step", || {
            tries += 1;
            anyhow::ensure!(tries == 3, "try {tries}");
            Ok(tries)
        });
        assert_eq!(done.unwrap(), 3);
        let mut tries = 0;
        let failed = retry_after(&[Duration::ZERO], "a step", || {
            tries += 1;
            bail!("try {tries}")
        });
        let error: Result<()> = failed;
        let text = format!("{:#}", error.unwrap_err());
        assert_eq!(text, "a step, tried 2 times: try 2");
    }

    #[cfg(unix)]
    #[test]
    fn a_command_that_hangs_is_ended_with_what_it_started() {
        if io::stdout().is_terminal() {
            // There it leads no group.
            return;
        }
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & sleep 1000"]);
        let running = Running::start(&mut command).unwrap();
        let error = running.wait(Duration::from_millis(200)).unwrap_err();
        assert!(error.to_string().contains("longer than 0.2 s"), "{error}");
        // Whoever is left has the pipe open, so that reading it would not end.
        let mut command = Command::new("sh");
        command.args(["-c", "echo hello >&2; sleep 1000 & exit 3"]);
        let (status, said) = errors_within(command, Duration::from_secs(60)).unwrap();
        assert_eq!((status.code(), said.as_str()), (Some(3), "hello\n"));
    }
}
