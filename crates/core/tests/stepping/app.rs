//! The application on a connection: writes what it was given, collects what comes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use polyquic_core::{
    Connection, ConnectionError, Dir, Event, FinishError, Instant, ReadError, StreamEvent,
    StreamId, VarInt, WriteError,
};

#[derive(Default)]
pub(crate) struct App {
    /// How often it was said that what was negotiated is known.
    pub(crate) data_ready: usize,
    pub(crate) connected: Option<Instant>,
    pub(crate) lost: Option<(Instant, ConnectionError)>,
    /// What is yet to be written.
    writing: BTreeMap<StreamId, Bytes>,
    pub(crate) received: BTreeMap<StreamId, Received>,
    pub(crate) datagrams: Vec<Bytes>,
    /// Streams of which the peer acknowledged everything.
    pub(crate) finished: BTreeSet<StreamId>,
    pub(crate) stopped: BTreeMap<StreamId, VarInt>,
    /// Send what was received on a bidirectional stream back, once it is complete.
    pub(crate) echo: bool,
    /// Read nothing.
    pub(crate) lazy: bool,
}

/// What came in on a stream.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) data: Vec<u8>,
    pub(crate) finished: bool,
    pub(crate) reset: Option<VarInt>,
}

impl App {
    /// Write all of `data`, now and when there is room, then finish.
    pub(crate) fn write(&mut self, machine: &mut Connection, id: StreamId, data: Bytes) {
        self.writing.insert(id, data);
        self.go_on_writing(machine, id);
    }

    /// Whether everything was written.
    pub(crate) fn is_done_writing(&self) -> bool {
        self.writing.is_empty()
    }

    /// React to an event; whether anything was done to the machine.
    pub(crate) fn handle(&mut self, now: Instant, machine: &mut Connection, event: Event) -> bool {
        match event {
            Event::HandshakeDataReady => {
                assert!(machine.crypto_session().handshake_data().is_some());
                self.data_ready += 1;
                return false;
            }
            Event::Connected => {
                assert!(self.connected.is_none(), "connected twice");
                self.connected = Some(now);
                return false;
            }
            Event::ConnectionLost { reason } => {
                assert!(self.lost.is_none(), "lost twice");
                self.lost = Some((now, reason));
                return false;
            }
            Event::Stream(StreamEvent::Opened { dir }) => {
                while let Some(id) = machine.streams().accept(dir) {
                    self.read(machine, id);
                }
            }
            Event::Stream(StreamEvent::Readable { id }) => self.read(machine, id),
            Event::Stream(StreamEvent::Writable { id }) => self.go_on_writing(machine, id),
            Event::Stream(StreamEvent::Finished { id }) => {
                self.finished.insert(id);
            }
            Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                self.writing.remove(&id);
                self.stopped.insert(id, error_code);
            }
            Event::Stream(StreamEvent::Available { .. }) => {}
            Event::DatagramReceived => {
                while let Some(datagram) = machine.datagrams().recv() {
                    self.datagrams.push(datagram);
                }
            }
            Event::DatagramsUnblocked => {}
        }
        true
    }

    fn go_on_writing(&mut self, machine: &mut Connection, id: StreamId) {
        let Some(data) = self.writing.get_mut(&id) else {
            return;
        };
        let mut stream = machine.send_stream(id);
        while !data.is_empty() {
            match stream.write_chunks(std::slice::from_mut(data)) {
                Ok(written) => assert!(written.bytes > 0),
                Err(WriteError::Blocked) => return,
                // Told by an event as well.
                Err(WriteError::Stopped(_)) => return,
                Err(WriteError::ClosedStream) => panic!("{id} is closed"),
            }
        }
        match stream.finish() {
            Ok(()) | Err(FinishError::Stopped(_)) => {}
            Err(FinishError::ClosedStream) => panic!("{id} was finished before"),
        }
        self.writing.remove(&id);
    }

    /// Read whatever there is. Also for streams of ours, whose other half is the peer's.
    pub(crate) fn read(&mut self, machine: &mut Connection, id: StreamId) {
        let received = self.received.entry(id).or_insert_with(|| Received {
            data: Vec::new(),
            finished: false,
            reset: None,
        });
        if self.lazy || received.finished || received.reset.is_some() {
            return;
        }
        let mut stream = machine.recv_stream(id);
        let mut chunks = stream.read(true).unwrap();
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    assert_eq!(chunk.offset, received.data.len() as u64, "a gap in {id}");
                    received.data.extend_from_slice(&chunk.bytes);
                }
                Ok(None) => {
                    received.finished = true;
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(code)) => {
                    received.reset = Some(code);
                    break;
                }
            }
        }
        // The machine is driven after this in any case.
        let _ = chunks.finalize();
        if received.finished && self.echo && id.dir() == Dir::Bi && id.initiator().is_client() {
            let data = Bytes::from(received.data.clone());
            self.write(machine, id, data);
        }
    }
}
