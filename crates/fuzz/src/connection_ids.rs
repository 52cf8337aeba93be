//! Connection ids that name shards and servers.

use polyquic_core::{
    BpfInstruction, ConnectionIdGenerator, QuicLbCidGenerator, QuicLbConfig, ShardKey,
    ShardedCidGenerator,
};

use crate::cursor::Cursor;

/// The kernel's filter says what user space says, ids name their shard and their server, and junk is
/// only junk.
pub fn connection_ids(data: &[u8]) {
    let mut c = Cursor::new(data);
    let words = [(); 3].map(|()| u32::from_be_bytes(c.array()));
    let key = ShardKey::new(words);
    let shards = match c.byte() {
        few @ 0..=200 => u16::from(few) + 1,
        _ => c.u16() % 1024 + 1,
    };
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&c.array::<4>());

    // Rejection sampling takes as many draws as there are shards.
    let few = shards.min(64);
    let shard = u16::from(c.byte()) % few;
    let mut generator = ShardedCidGenerator::new(key, few, shard, seed);
    let cid = generator.generate_cid();
    assert_eq!(cid.len(), generator.cid_len());
    assert_eq!(key.shard_of(&cid, few), Some(shard));
    // In either header.
    let mut short = vec![0x40 | c.byte() & 0x3f];
    short.extend_from_slice(&cid);
    let mut long = vec![0x80 | c.byte(), 0, 0, 0, 1, cid.len() as u8];
    long.extend_from_slice(&cid);
    for mut header in [short, long] {
        header.extend_from_slice(c.take(4));
        assert_eq!(both(&key, &header, few), shard);
    }

    let length = usize::from(c.byte() % 20);
    let server_id = c.take(length);
    if let Ok(config) = QuicLbConfig::new(c.byte() % 9, server_id, c.below(24)) {
        let config = config.length_in_first_octet(c.flag());
        let config = if c.flag() {
            config.key(c.array())
        } else {
            config
        };
        let shards = if config.check_shards(few).is_ok() {
            few
        } else {
            1
        };
        let shard = shard % shards;
        let generator = QuicLbCidGenerator::new(config.clone(), seed).shard(key, shards, shard);
        let mut generator = generator.expect("checked");
        for _ in 0..2 {
            let cid = generator.generate_cid();
            assert_eq!(cid.len(), config.cid_length());
            assert_eq!(generator.cid_len(), cid.len());
            // An id that names no server is for generators that have used up their nonces.
            assert_eq!(config.server_id_of(&cid).as_deref(), Some(server_id));
            assert!(shards == 1 || key.shard_of(&cid, shards) == Some(shard));
            assert!(generator.validate(&cid).is_ok());
        }
        let junk = c.take(20);
        let _ = config.server_id_of(junk);
        assert!(
            config
                .server_id_of(junk)
                .is_none_or(|id| id.len() == server_id.len())
        );
    }
    both(&key, c.rest(), shards);
}

/// The shard according to the kernel and to user space.
fn both(key: &ShardKey, datagram: &[u8], shards: u16) -> u16 {
    let shard = key.shard_of_datagram(datagram, shards);
    assert!(shard < shards);
    assert_eq!(
        run(&key.filter(shards), datagram),
        u32::from(shard),
        "{datagram:x?}"
    );
    shard
}

/// Run a filter as a kernel does: `linux/bpf_common.h`.
fn run(program: &[BpfInstruction], datagram: &[u8]) -> u32 {
    let load = |at: u32, bytes: usize| {
        let word = datagram.get(at as usize..at as usize + bytes)?;
        Some(word.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)))
    };
    let (mut a, mut x, mut cells, mut at) = (0u32, 0u32, [0u32; 16], 0);
    loop {
        let instruction: &BpfInstruction = &program[at];
        let (code, k) = (instruction.code, instruction.operand);
        at += 1;
        let source = if code & 0x08 == 0 { k } else { x };
        match code & 0x07 {
            0x00 => {
                let base = if code & 0xe0 == 0x40 {
                    x.wrapping_add(k)
                } else {
                    k
                };
                let bytes = [4, 2, 1][usize::from(code >> 3 & 3)];
                match load(base, bytes) {
                    Some(value) => a = value,
                    None => return 0,
                }
            }
            0x01 => {
                x = if code & 0xe0 == 0x60 {
                    cells[k as usize]
                } else {
                    k
                }
            }
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
                let (yes, no) = (instruction.jump_true, instruction.jump_false);
                at += usize::from(if holds { yes } else { no });
            }
            0x06 => return if code & 0x18 == 0x10 { a } else { k },
            _ => x = a,
        }
    }
}
