//! Encrypted packets on a UDP socket, as many as possible with each call of the kernel.
//!
//! A packet is a number of eight bytes, the nonce's variable part, then the encrypted payload and
//! its tag.

use std::{
    io::IoSliceMut,
    net::{SocketAddr, UdpSocket},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, anyhow, ensure};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::{Bytes, BytesMut};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

/// Both sides have it; see the description of this program.
const KEY: [u8; 16] = [0x42; 16];
const NUMBER_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
/// The largest UDP payload over IPv4, which a batch for segmentation offload must not exceed.
const MAX_BATCH_BYTES: usize = 65_507;
/// As much as the kernel ever hands over at once.
const RECEIVE_BYTES: usize = 65_536;

pub(crate) struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    packet_size: usize,
    segments: usize,
    key: LessSafeKey,
    /// Of the packet that is sent next.
    number: AtomicU64,
}

impl Socket {
    pub(crate) fn new(socket: UdpSocket, packet_size: u16) -> Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        // That has made it non-blocking.
        socket.set_nonblocking(false)?;
        let packet_size = usize::from(packet_size);
        ensure!(
            packet_size > NUMBER_BYTES + TAG_BYTES,
            "a packet has room for data"
        );
        let key = UnboundKey::new(&AES_128_GCM, &KEY).map_err(|_| anyhow!("a key is refused"))?;
        Ok(Self {
            segments: usize::from(state.max_gso_segments()).min(MAX_BATCH_BYTES / packet_size),
            socket,
            state,
            packet_size,
            key: LessSafeKey::new(key),
            number: AtomicU64::new(0),
        })
    }

    pub(crate) fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    pub(crate) fn packet_size(&self) -> usize {
        self.packet_size
    }
}

fn nonce(number: [u8; NUMBER_BYTES]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - NUMBER_BYTES..].copy_from_slice(&number);
    Nonce::assume_unique_for_key(nonce)
}

pub(crate) struct Sender {
    socket: Arc<Socket>,
    peer: SocketAddr,
    /// Whole packets, the last without its tag while there is room in it.
    batch: Vec<u8>,
    /// Where the last packet begins, if it is not complete.
    open: Option<usize>,
}

impl Sender {
    pub(crate) fn new(socket: Arc<Socket>, peer: SocketAddr) -> Self {
        Self {
            batch: Vec::with_capacity(MAX_BATCH_BYTES),
            socket,
            peer,
            open: None,
        }
    }

    /// Sends all of `data`; the last, incomplete batch only if `flush` says so.
    pub(crate) fn write(&mut self, mut data: &[u8], flush: bool) -> Result<()> {
        while !data.is_empty() {
            let start = match self.open {
                Some(start) => start,
                None => {
                    let start = self.batch.len();
                    let number = self.socket.number.fetch_add(1, Ordering::Relaxed);
                    self.batch.extend_from_slice(&number.to_be_bytes());
                    self.open = Some(start);
                    start
                }
            };
            let room = self.socket.packet_size - TAG_BYTES - (self.batch.len() - start);
            let (now, later) = data.split_at(room.min(data.len()));
            self.batch.extend_from_slice(now);
            data = later;
            if now.len() == room {
                self.seal()?;
                if self.batch.len() == self.socket.segments * self.socket.packet_size {
                    self.send()?;
                }
            }
        }
        if flush {
            self.seal()?;
            self.send()?;
        }
        Ok(())
    }

    /// Completes the last packet.
    fn seal(&mut self) -> Result<()> {
        let Some(start) = self.open.take() else {
            return Ok(());
        };
        let payload = start + NUMBER_BYTES;
        let number = self.batch[start..payload].try_into()?;
        let tag = self
            .socket
            .key
            .seal_in_place_separate_tag(nonce(number), Aad::empty(), &mut self.batch[payload..])
            .map_err(|_| anyhow!("cannot encrypt"))?;
        self.batch.extend_from_slice(tag.as_ref());
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let transmit = Transmit {
            destination: self.peer,
            ecn: None,
            contents: &self.batch,
            segment_size: (self.batch.len() > self.socket.packet_size)
                .then_some(self.socket.packet_size),
            src_ip: None,
        };
        self.socket
            .state
            .try_send((&self.socket.socket).into(), &transmit)?;
        self.batch.clear();
        Ok(())
    }
}

pub(crate) struct Receiver {
    socket: Arc<Socket>,
    /// What the kernel has filled last, given out in slices and used again when they are gone.
    buffer: Bytes,
    /// Where in it the next packets are.
    left: Range<usize>,
    stride: usize,
    from: Option<SocketAddr>,
}

impl Receiver {
    pub(crate) fn new(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            buffer: Bytes::new(),
            left: 0..0,
            stride: 0,
            from: None,
        }
    }

    pub(crate) fn last_sender(&self) -> Option<SocketAddr> {
        self.from
    }

    /// The payload of the next packet; waits until there is one.
    pub(crate) fn next(&mut self) -> Result<Bytes> {
        if self.left.is_empty() {
            self.receive()?;
        }
        let start = self.left.start;
        let end = (start + self.stride).min(self.left.end);
        self.left.start = end;
        Ok(self.buffer.slice(start + NUMBER_BYTES..end - TAG_BYTES))
    }

    /// Waits for packets and decrypts them all.
    fn receive(&mut self) -> Result<()> {
        let mut buffer = match std::mem::take(&mut self.buffer).try_into_mut() {
            Ok(buffer) if buffer.len() == RECEIVE_BYTES => buffer,
            // At first, or if the application still has some of it.
            _ => BytesMut::zeroed(RECEIVE_BYTES),
        };
        let mut meta = [RecvMeta::default()];
        // One message, or the call would wait for more than there may be.
        self.socket.state.recv(
            (&self.socket.socket).into(),
            &mut [IoSliceMut::new(&mut buffer)],
            &mut meta,
        )?;
        let [meta] = meta;
        ensure!(meta.stride > 0, "an empty packet");
        for packet in buffer[..meta.len].chunks_mut(meta.stride) {
            let (number, payload) = packet
                .split_first_chunk_mut::<NUMBER_BYTES>()
                .context("a packet without a number")?;
            self.socket
                .key
                .open_in_place(nonce(*number), Aad::empty(), payload)
                .map_err(|_| anyhow!("a packet that cannot be decrypted"))?;
        }
        self.buffer = buffer.freeze();
        self.left = 0..meta.len;
        self.stride = meta.stride;
        self.from = Some(meta.addr);
        Ok(())
    }
}
