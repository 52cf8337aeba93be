//! Several sockets on one address.

use std::net::UdpSocket;

/// Sockets that share an address, see [`Runtime::bind_group`](crate::Runtime::bind_group).
#[derive(Debug)]
#[non_exhaustive]
pub struct SocketGroup {
    /// One for each shard, in the order of the numbers that a [`SteeringFilter`] returns.
    pub sockets: Vec<UdpSocket>,
    /// Whether the system runs the filter. If not, it spreads by addresses and ports, and shards
    /// hand over what is not theirs.
    pub steered: bool,
    /// As [`Capabilities::may_fragment`](crate::Capabilities::may_fragment), of each of them.
    pub may_fragment: bool,
}

impl SocketGroup {
    /// A group of sockets that the system spreads datagrams among in a way of its own.
    pub fn new(sockets: Vec<UdpSocket>, may_fragment: bool) -> Self {
        Self {
            sockets,
            steered: false,
            may_fragment,
        }
    }

    /// Set [`steered`](Self::steered).
    pub fn with_steered(mut self, steered: bool) -> Self {
        self.steered = steered;
        self
    }
}

/// A program in classic BPF that names the socket for a datagram.
///
/// It runs on the UDP payload (byte 0 is the first after the UDP header) and returns the number of
/// a socket in its group. Reading past the end of the datagram ends it with 0, as classic BPF does.
#[derive(Clone, PartialEq, Eq)]
pub struct SteeringFilter(pub Vec<FilterInstruction>);

// Not derived: the operands are the key by which connection ids hide their shards.
impl std::fmt::Debug for SteeringFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SteeringFilter({} instructions)", self.0.len())
    }
}

/// One instruction of classic BPF, laid out as the system call wants it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct FilterInstruction {
    /// Operation.
    pub code: u16,
    /// How many instructions to skip if a condition holds.
    pub jump_true: u8,
    /// How many to skip if not.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}
