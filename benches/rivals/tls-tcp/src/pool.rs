//! Kept connections, and the exchanges that use them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Result, bail};
use polyquic_bench::stack;
use tokio::{
    io::{self, AsyncReadExt, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::message::{Reader, Writer};

pub(crate) type Tls = TlsStream<TcpStream>;

/// Makes further connections to the same server.
pub(crate) struct Dialer {
    connector: TlsConnector,
    server: SocketAddr,
}

impl Dialer {
    pub(crate) fn new(connector: TlsConnector, server: SocketAddr) -> Self {
        Self { connector, server }
    }

    pub(crate) async fn dial(&self) -> Result<Tls> {
        let stream = crate::socket()?.connect(self.server).await?;
        stream.set_nodelay(true)?;
        let stream = self
            .connector
            .connect("localhost".try_into()?, stream)
            .await?;
        Ok(TlsStream::Client(stream))
    }
}

/// A connection between exchanges.
pub(crate) struct Idle {
    reader: Reader,
    writer: Writer,
}

impl From<Tls> for Idle {
    fn from(stream: Tls) -> Self {
        let (read, write): (ReadHalf<Tls>, WriteHalf<Tls>) = io::split(stream);
        Self {
            reader: Reader::new(read),
            writer: Writer::new(write),
        }
    }
}

/// On a client, connections to one server; on a server, one connection.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Pool>);

struct Pool {
    state: Mutex<State>,
    /// Told when a connection comes back or is lost.
    changed: Notify,
    /// `None` on a server.
    dialer: Option<Dialer>,
}

struct State {
    idle: Vec<Idle>,
    /// Connections that are in use.
    busy: usize,
    closed: bool,
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can stop halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    pub(crate) fn accepted(stream: Tls) -> Self {
        Self::new(stream, None)
    }

    pub(crate) fn dialed(first: Tls, dialer: Dialer) -> Self {
        Self::new(first, Some(dialer))
    }

    fn new(stream: Tls, dialer: Option<Dialer>) -> Self {
        Self(Arc::new(Pool {
            state: Mutex::new(State {
                idle: vec![stream.into()],
                busy: 0,
                closed: false,
            }),
            changed: Notify::new(),
            dialer,
        }))
    }

    fn take(&self) -> Option<Idle> {
        let mut state = self.0.state();
        let idle = state.idle.pop()?;
        state.busy += 1;
        Some(idle)
    }

    /// An exchange on a connection that was idle.
    fn exchange(&self, idle: Idle) -> (SendStream, RecvStream) {
        let exchange = Arc::new(Exchange {
            pool: self.0.clone(),
            back: Mutex::default(),
        });
        let send = SendStream {
            writer: Some(idle.writer),
            messages: 0,
            finished: false,
            exchange: exchange.clone(),
        };
        let recv = RecvStream {
            reader: Some(idle.reader),
            whole: false,
            exchange,
        };
        (send, recv)
    }
}

impl stack::Connection for Connection {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    async fn open_bi(&self) -> Result<(SendStream, RecvStream)> {
        if let Some(idle) = self.take() {
            return Ok(self.exchange(idle));
        }
        let Some(dialer) = &self.0.dialer else {
            bail!("a server does not open connections");
        };
        let stream = dialer.dial().await?;
        self.0.state().busy += 1;
        Ok(self.exchange(stream.into()))
    }

    async fn accept_bi(&self) -> Result<(SendStream, RecvStream)> {
        loop {
            if let Some(idle) = self.take() {
                return Ok(self.exchange(idle));
            }
            if self.0.state().busy == 0 {
                bail!("the connection is lost");
            }
            self.0.changed.notified().await;
        }
    }

    fn close(&self) {
        let mut state = self.0.state();
        state.closed = true;
        state.idle.clear();
    }

    async fn closed(&self) {
        while let Some(Idle { reader, writer }) = self.take() {
            let mut read = reader.into_inner();
            // Nothing is expected but the end.
            while read.read_u8().await.is_ok() {}
            drop(writer);
            self.0.state().busy -= 1;
        }
    }
}

/// What the two halves of a stream have in common.
struct Exchange {
    pool: Arc<Pool>,
    back: Mutex<Back>,
}

/// What has come back of the connection.
#[derive(Default)]
struct Back {
    reader: Option<Reader>,
    writer: Option<Writer>,
}

impl Exchange {
    fn give_back(&self, part: impl FnOnce(&mut Back)) {
        let mut back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
        part(&mut back);
        if let Back {
            reader: Some(_),
            writer: Some(_),
        } = &*back
            && let Back {
                reader: Some(reader),
                writer: Some(writer),
            } = std::mem::take(&mut *back)
        {
            let mut state = self.pool.state();
            if !state.closed {
                state.idle.push(Idle { reader, writer });
            }
        }
    }
}

impl Drop for Exchange {
    /// After both halves, of which each has come back or is lost.
    fn drop(&mut self) {
        self.pool.state().busy -= 1;
        self.pool.changed.notify_one();
    }
}

pub(crate) struct SendStream {
    writer: Option<Writer>,
    messages: usize,
    finished: bool,
    exchange: Arc<Exchange>,
}

impl SendStream {
    pub(crate) fn message(&mut self) -> Result<&mut Writer> {
        self.messages += 1;
        match &mut self.writer {
            Some(writer) if !self.finished => Ok(writer),
            _ => bail!("the stream has ended"),
        }
    }

    /// The receiver knows the end of a message from its length: there is nothing to send.
    pub(crate) fn end(&mut self) -> Result<()> {
        if self.messages != 1 {
            bail!(
                "a stream that ends is one message here, not {}",
                self.messages
            );
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if self.finished {
            let writer = self.writer.take();
            self.exchange.give_back(|back| back.writer = writer);
        }
    }
}

pub(crate) struct RecvStream {
    reader: Option<Reader>,
    /// Whether all of a message that ends the stream has been read.
    whole: bool,
    exchange: Arc<Exchange>,
}

impl RecvStream {
    pub(crate) fn reader(&mut self) -> Result<&mut Reader> {
        match &mut self.reader {
            Some(reader) if !self.whole => Ok(reader),
            _ => bail!("the stream has ended"),
        }
    }

    pub(crate) fn end(&mut self) {
        self.whole = true;
    }

    /// Nothing tells a TCP peer to stop but the end of the connection.
    pub(crate) fn abandon(&mut self) {
        self.reader = None;
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if self.whole {
            let reader = self.reader.take();
            self.exchange.give_back(|back| back.reader = reader);
        }
    }
}
