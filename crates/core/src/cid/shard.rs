//! Which shard a connection id, or a datagram, belongs to; also as a program for the kernel.

/// How many bytes of an id the mix takes, its first.
const MIXED_BYTES: usize = 8;
/// Bit of a packet's first byte that says whether its header is long (RFC 8999 section 5).
const LONG_HEADER: u8 = 0x80;
/// Where a long header has the length of the destination id, in bytes.
const LONG_ID_LENGTH_AT: usize = 5;
/// Where a long header has the destination id.
const LONG_ID_AT: usize = 6;
/// Where a short header has the destination id.
const SHORT_ID_AT: usize = 1;

/// The secret by which a connection id's shard can be computed.
///
/// The shard is a keyed mix of the id's two 32-bit words, in 32-bit arithmetic that a classic BPF
/// filter has as well (multiply, add, exclusive or, shift, modulo), so that a kernel can steer
/// datagrams to the right socket. Ids are drawn at random until the mix names the wanted shard;
/// whoever lacks the key sees only uniformly random bytes. The first eight bytes of an id count, so
/// that longer ids and those that clients choose for their first packets name a shard as well. This
/// hides the shard from an observer;
/// it is no authentication, and a forged id only reaches a shard that does not know it.
///
/// ```
/// use polyquic_core::{ShardKey, ShardedCidGenerator};
/// # use quinn_proto::ConnectionIdGenerator;
/// let key = ShardKey::new([1, 2, 3]);
/// let mut generator = ShardedCidGenerator::new(key, 4, 2, [0; 32]);
/// let cid = generator.generate_cid();
/// assert_eq!(key.shard_of(&cid, 4), Some(2));
/// ```
#[derive(Clone, Copy)]
pub struct ShardKey {
    multipliers: [u32; 2],
    offset: u32,
}

// Not derived: keys do not belong into logs.
impl std::fmt::Debug for ShardKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShardKey(..)")
    }
}

impl ShardKey {
    /// A key from three secret words.
    pub const fn new(words: [u32; 3]) -> Self {
        // Odd multipliers are invertible modulo 2^32, so that no bit of the id is lost.
        Self {
            multipliers: [words[0] | 1, words[1] | 1],
            offset: words[2],
        }
    }

    /// Which of `shards` the id belongs to; `None` when it is shorter than 8 bytes, as none of ours
    /// is.
    pub fn shard_of(&self, cid: &[u8], shards: u16) -> Option<u16> {
        let (first, rest) = cid.split_first_chunk()?;
        let second = rest.first_chunk()?;
        let mut x = u32::from_be_bytes(*first)
            .wrapping_mul(self.multipliers[0])
            .wrapping_add(self.offset);
        x ^= x >> 15;
        x = x
            .wrapping_add(u32::from_be_bytes(*second))
            .wrapping_mul(self.multipliers[1]);
        x ^= x >> 16;
        Some((x % u32::from(shards.max(1))) as u16)
    }

    /// Which of `shards` a UDP payload belongs to, by the destination id of its first packet.
    ///
    /// Shard 0 when there is no such id: the datagram is cut short, or the id of a long header has
    /// fewer than 8 bytes (RFC 9000 section 7.2 asks for 8 in a client's first packet). Agrees with
    /// [`filter`](Self::filter) on every input.
    pub fn shard_of_datagram(&self, datagram: &[u8], shards: u16) -> u16 {
        let shard = || {
            let at = if datagram.first()? & LONG_HEADER == 0 {
                SHORT_ID_AT
            } else if usize::from(*datagram.get(LONG_ID_LENGTH_AT)?) >= MIXED_BYTES {
                LONG_ID_AT
            } else {
                return None;
            };
            self.shard_of(datagram.get(at..)?, shards)
        };
        shard().unwrap_or(0)
    }

    /// [`shard_of_datagram`](Self::shard_of_datagram) as a program in classic BPF, for
    /// `SO_ATTACH_REUSEPORT_CBPF` and its like. It contains the key.
    ///
    /// The program runs on the UDP payload and returns the shard's number. A load from beyond the
    /// end of the datagram ends it with 0, which is what classic BPF defines.
    pub fn filter(&self, shards: u16) -> Vec<BpfInstruction> {
        use op::*;
        let [first, second] = self.multipliers;
        let plain = |code, operand| BpfInstruction {
            code,
            jump_true: 0,
            jump_false: 0,
            operand,
        };
        let jump = |code, operand, jump_true, jump_false| BpfInstruction {
            code,
            jump_true,
            jump_false,
            operand,
        };
        vec![
            // X: where the id begins.
            plain(LOAD_BYTE, 0),
            jump(JUMP_IF_BITS, LONG_HEADER.into(), 2, 0),
            plain(LOAD_X, SHORT_ID_AT as u32),
            jump(JUMP, 4, 0, 0),
            plain(LOAD_BYTE, LONG_ID_LENGTH_AT as u32),
            jump(JUMP_IF_AT_LEAST, MIXED_BYTES as u32, 1, 0),
            plain(RETURN, 0),
            plain(LOAD_X, LONG_ID_AT as u32),
            // The mix, as in `shard_of`.
            plain(LOAD_WORD_AT_X, 4),
            plain(STORE, 0),
            plain(LOAD_WORD_AT_X, 0),
            plain(MULTIPLY, first),
            plain(ADD, self.offset),
            plain(COPY_TO_X, 0),
            plain(SHIFT_RIGHT, 15),
            plain(XOR_X, 0),
            plain(RESTORE_X, 0),
            plain(ADD_X, 0),
            plain(MULTIPLY, second),
            plain(COPY_TO_X, 0),
            plain(SHIFT_RIGHT, 16),
            plain(XOR_X, 0),
            plain(MODULO, shards.max(1).into()),
            plain(RETURN_A, 0),
        ]
    }
}

/// One instruction of classic BPF, in the terms of the system call that takes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BpfInstruction {
    /// Operation.
    pub code: u16,
    /// How many instructions to skip if a condition holds.
    pub jump_true: u8,
    /// How many to skip if not.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

// Not derived: operands are the key.
impl std::fmt::Debug for BpfInstruction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BpfInstruction")
            .field("code", &self.code)
            .finish_non_exhaustive()
    }
}

/// The operations of classic BPF that the filter uses. `A` is the accumulator, `X` the index
/// register, `k` the operand; memory has 32-bit cells.
mod op {
    /// `A` = the byte at `k`.
    pub(super) const LOAD_BYTE: u16 = 0x30;
    /// `A` = the big-endian word at `X + k`.
    pub(super) const LOAD_WORD_AT_X: u16 = 0x40;
    /// `X` = `k`.
    pub(super) const LOAD_X: u16 = 0x01;
    /// `X` = memory cell `k`.
    pub(super) const RESTORE_X: u16 = 0x61;
    /// Memory cell `k` = `A`.
    pub(super) const STORE: u16 = 0x02;
    /// `A` += `k`.
    pub(super) const ADD: u16 = 0x04;
    /// `A` += `X`.
    pub(super) const ADD_X: u16 = 0x0c;
    /// `A` *= `k`.
    pub(super) const MULTIPLY: u16 = 0x24;
    /// `A` >>= `k`.
    pub(super) const SHIFT_RIGHT: u16 = 0x74;
    /// `A` %= `k`.
    pub(super) const MODULO: u16 = 0x94;
    /// `A` ^= `X`.
    pub(super) const XOR_X: u16 = 0xac;
    /// Skip `k` instructions.
    pub(super) const JUMP: u16 = 0x05;
    /// Skip by whether `A >= k`.
    pub(super) const JUMP_IF_AT_LEAST: u16 = 0x35;
    /// Skip by whether `A & k` is not 0.
    pub(super) const JUMP_IF_BITS: u16 = 0x45;
    /// End with `k`.
    pub(super) const RETURN: u16 = 0x06;
    /// End with `A`.
    pub(super) const RETURN_A: u16 = 0x16;
    /// `X` = `A`.
    pub(super) const COPY_TO_X: u16 = 0x07;
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    /// Run a filter as a kernel does: by the numbers of the operations, not by the names that the
    /// filter was written with.
    fn run(program: &[BpfInstruction], datagram: &[u8]) -> u32 {
        let load = |at: u32, bytes: usize| {
            let word = datagram.get(at as usize..at as usize + bytes)?;
            Some(word.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)))
        };
        let (mut a, mut x, mut cells, mut at) = (0u32, 0u32, [0u32; 16], 0usize);
        loop {
            let BpfInstruction {
                code,
                jump_true,
                jump_false,
                operand: k,
            } = program[at];
            at += 1;
            // Class, size or operation, mode or source: linux/bpf_common.h.
            let source = if code & 0x08 == 0 { k } else { x };
            match code & 0x07 {
                0x00 => {
                    let base = match code & 0xe0 {
                        0x20 => k,
                        0x40 => x.wrapping_add(k),
                        mode => panic!("load mode {mode:#x}"),
                    };
                    let bytes = match code & 0x18 {
                        0x00 => 4,
                        0x08 => 2,
                        0x10 => 1,
                        size => panic!("load size {size:#x}"),
                    };
                    match load(base, bytes) {
                        Some(value) => a = value,
                        None => return 0,
                    }
                }
                0x01 => match code & 0xe0 {
                    0x00 => x = k,
                    0x60 => x = cells[k as usize],
                    mode => panic!("load mode {mode:#x} into X"),
                },
                0x02 => cells[k as usize] = a,
                0x04 => {
                    a = match code & 0xf0 {
                        0x00 => a.wrapping_add(source),
                        0x20 => a.wrapping_mul(source),
                        0x70 => a >> source,
                        0x90 => a % source,
                        0xa0 => a ^ source,
                        operation => panic!("arithmetic {operation:#x}"),
                    }
                }
                0x05 => {
                    let holds = match code & 0xf0 {
                        0x00 => {
                            at += k as usize;
                            continue;
                        }
                        0x30 => a >= source,
                        0x40 => a & source != 0,
                        operation => panic!("jump {operation:#x}"),
                    };
                    at += usize::from(if holds { jump_true } else { jump_false });
                }
                0x06 => return if code & 0x18 == 0x10 { a } else { k },
                0x07 if code & 0xf8 == 0 => x = a,
                _ => panic!("operation {code:#x}"),
            }
        }
    }

    fn random_key(rng: &mut StdRng) -> ShardKey {
        ShardKey::new(rng.random())
    }

    fn assert_agree(key: &ShardKey, datagram: &[u8], shards: u16) -> u16 {
        let shard = key.shard_of_datagram(datagram, shards);
        assert_eq!(
            run(&key.filter(shards), datagram),
            u32::from(shard),
            "{datagram:x?} among {shards}"
        );
        assert!(shard < shards);
        shard
    }

    #[test]
    fn the_filter_agrees_on_random_datagrams() {
        let mut rng = StdRng::seed_from_u64(1);
        for shards in 1..=16 {
            let key = random_key(&mut rng);
            for _ in 0..200 {
                let mut datagram = vec![0; rng.random_range(0..1500)];
                rng.fill_bytes(&mut datagram);
                assert_agree(&key, &datagram, shards);
            }
        }
    }

    #[test]
    fn the_filter_agrees_on_every_length() {
        let mut rng = StdRng::seed_from_u64(2);
        for shards in 1..=16 {
            let key = random_key(&mut rng);
            for length in 0..40 {
                for id_length in 0..=20 {
                    for header in [0x00, 0x40, 0x7f, 0x80, 0xc0, 0xff] {
                        let mut datagram = vec![0; length];
                        rng.fill_bytes(&mut datagram);
                        if let Some(byte) = datagram.get_mut(0) {
                            *byte = header;
                        }
                        if let Some(byte) = datagram.get_mut(5) {
                            *byte = id_length;
                        }
                        let shard = assert_agree(&key, &datagram, shards);
                        let id = if header < 0x80 {
                            datagram.get(1..)
                        } else {
                            datagram.get(6..).filter(|_| id_length >= 8)
                        };
                        let named = id.and_then(|id| key.shard_of(id, shards));
                        assert_eq!(shard, named.unwrap_or(0));
                    }
                }
            }
        }
    }

    /// Shards get about the same number of ids that strangers draw.
    #[test]
    fn strangers_are_spread() {
        let mut rng = StdRng::seed_from_u64(3);
        for shards in [2, 3, 7, 16] {
            let key = random_key(&mut rng);
            let mut counts = vec![0u32; usize::from(shards)];
            let each = 2000;
            for _ in 0..each * u32::from(shards) {
                let shard = key.shard_of(&rng.random::<[u8; 8]>(), shards).unwrap();
                counts[usize::from(shard)] += 1;
            }
            // Six standard deviations.
            let slack = 6 * f64::from(each).sqrt() as u32;
            assert!(
                counts.iter().all(|count| count.abs_diff(each) < slack),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn the_first_eight_bytes_of_an_id_count() {
        let key = ShardKey::new([1, 2, 3]);
        let id: [u8; 20] = std::array::from_fn(|index| index as u8 * 7);
        for length in 0..8 {
            assert_eq!(key.shard_of(&id[..length], 4), None);
        }
        for length in 8..=20 {
            assert_eq!(key.shard_of(&id[..length], 4), key.shard_of(&id[..8], 4));
        }
    }

    #[test]
    fn neither_key_nor_filter_is_printed() {
        let key = ShardKey::new([0x1234_5678, 0x1234_5678, 0x1234_5678]);
        let printed = format!("{key:?} {:?}", key.filter(4));
        assert!(!printed.contains(&0x1234_5678.to_string()), "{printed}");
    }
}
