//! Event logs of connections, in virtual time.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use quinn_proto::{QlogConfig, QlogStream};

use crate::world::World;

/// What was logged, by name.
#[derive(Default)]
pub(crate) struct Logs(RefCell<Vec<(String, Log)>>);

impl Logs {
    pub(crate) fn all(&self) -> Vec<(String, Vec<u8>)> {
        let logs = self.0.borrow();
        let copied = logs.iter().map(|(name, log)| (name.clone(), log.bytes()));
        copied.collect()
    }
}

/// Outlives the connections that write to it, on whatever thread they are dropped.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn bytes(&self) -> Vec<u8> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn stream(world: &World, name: &str) -> Option<QlogStream> {
    world.trace.borrow().capture.as_ref()?;
    let log = Log::default();
    let mut config = QlogConfig::default();
    // Its default is the real time, of which the simulation's is not a part.
    config
        .start_time(world.base)
        .title(Some(name.into()))
        .writer(Box::new(log.clone()));
    let stream = config.into_stream()?;
    let mut logs = world.qlogs.0.borrow_mut();
    let unique = (2..)
        .map(|number| format!("{name}-{number}"))
        .find(|it| logs.iter().all(|(other, _)| other != it));
    let name = match logs.iter().any(|(other, _)| other == name) {
        true => unique.expect("numbers do not end"),
        false => name.into(),
    };
    logs.push((name, log));
    Some(stream)
}
