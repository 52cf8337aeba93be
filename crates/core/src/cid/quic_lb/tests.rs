use std::collections::HashSet;

use super::*;

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn key(digits: &str) -> [u8; 16] {
    hex(digits).try_into().unwrap()
}

/// Encode and decode one of the draft's examples, all of which have the length in the first octet.
fn check(config_id: u8, server_id: &str, nonce: &str, key: Option<[u8; 16]>, cid: &str) {
    let (server_id, nonce, cid) = (hex(server_id), hex(nonce), hex(cid));
    let mut config = QuicLbConfig::new(config_id, &server_id, nonce.len())
        .unwrap()
        .length_in_first_octet(true);
    if let Some(key) = key {
        config = config.key(key);
    }
    let made = config.cid(&nonce, &mut StdRng::from_seed([0; 32]));
    assert_eq!(made[..], cid);
    assert_eq!(config.server_id_of(&cid), Some(server_id));
}

/// Appendix B.1 of draft-ietf-quic-load-balancers-21. The other example there has a nonce of nine
/// digits, and an id that is half a byte off for it.
#[test]
fn the_drafts_plain_example() {
    check(0, "c4605e", "4504cc4f", None, "07c4605e4504cc4f");
}

/// Appendix B.2 of draft-ietf-quic-load-balancers-21. The last one is listed there with configuration
/// id 3, while its first octet has 0.
#[test]
fn the_drafts_encrypted_examples() {
    let key = Some(key("8f95f09245765f80256934e50c66207f"));
    check(0, "ed793a", "ee080dbf", key, "0720b1d07b359d3c");
    check(
        1,
        "ed793a51d49b8f5fab65",
        "ee080dbf48",
        key,
        "2fcc381bc74cb4fbad2823a3d1f8fed2",
    );
    check(
        2,
        "ed793a51d49b8f5f",
        "ee080dbf48c0d1e5",
        key,
        "504dd2d05a7b0de9b2b9907afb5ecf8cc3",
    );
    check(
        0,
        "ed793a51d49b8f5fab",
        "ee080dbf48c0d1e55d",
        key,
        "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc",
    );
}

/// The worked example of section 5.4.2.4.
#[test]
fn the_drafts_worked_example() {
    let key = Some(key("fdf726a9893ec05c0632d3956680baf0"));
    check(0, "31441a", "9c69c275", key, "0767947d29be054a");
}

#[test]
fn every_length_can_be_read() {
    for server_id_length in 1..=15 {
        for nonce_length in 4..=19 - server_id_length {
            for encrypted in [false, true] {
                for self_describing in [false, true] {
                    let server_id: Vec<u8> = (0..server_id_length as u8).map(|i| i * 17).collect();
                    let mut config = QuicLbConfig::new(5, &server_id, nonce_length)
                        .unwrap()
                        .length_in_first_octet(self_describing);
                    if encrypted {
                        config = config.key([9; 16]);
                    }
                    let mut generator = QuicLbCidGenerator::new(config.clone(), [4; 32]);
                    for _ in 0..20 {
                        let cid = generator.generate_cid();
                        assert_eq!(cid.len(), generator.cid_len());
                        assert_eq!(cid[0] >> 5, 5);
                        if self_describing {
                            assert_eq!(usize::from(cid[0] & 0x1f), cid.len() - 1);
                        }
                        assert_eq!(config.server_id_of(&cid).as_ref(), Some(&server_id));
                        assert!(generator.validate(&cid).is_ok());
                    }
                }
            }
        }
    }
}

#[test]
fn impossible_configurations_are_refused() {
    let error = |config_id, server_id: usize, nonce| {
        QuicLbConfig::new(config_id, &vec![1; server_id], nonce).unwrap_err()
    };
    assert_eq!(error(7, 1, 4), QuicLbError::ConfigId);
    assert_eq!(error(0, 0, 4), QuicLbError::ServerIdLength);
    assert_eq!(error(0, 16, 4), QuicLbError::ServerIdLength);
    assert_eq!(error(0, 1, 3), QuicLbError::NonceLength);
    assert_eq!(error(0, 1, 19), QuicLbError::NonceLength);
    assert_eq!(error(0, 15, 5), QuicLbError::NonceLength);
    assert!(QuicLbConfig::new(6, &[1; 15], 4).is_ok());
    assert!(QuicLbConfig::new(6, &[1], 18).is_ok());
}

#[test]
fn foreign_ids_belong_to_nobody() {
    let config = QuicLbConfig::new(3, &[1, 2], 6).unwrap().key([7; 16]);
    let mut generator = QuicLbCidGenerator::new(config.clone(), [0; 32]);
    let cid = generator.generate_cid();
    // Of another configuration, and too short.
    let mut other = cid.to_vec();
    other[0] ^= 0x20;
    assert_eq!(config.server_id_of(&other), None);
    assert!(generator.validate(&ConnectionId::new(&other)).is_err());
    assert_eq!(config.server_id_of(&cid[..8]), None);
    assert_eq!(config.server_id_of(&[]), None);
    // Of another server of the same configuration.
    let neighbour = QuicLbConfig::new(3, &[1, 3], 6).unwrap().key([7; 16]);
    let mut neighbour = QuicLbCidGenerator::new(neighbour, [0; 32]);
    let cid = neighbour.generate_cid();
    assert_eq!(config.server_id_of(&cid), Some(vec![1, 3]));
    assert!(generator.validate(&cid).is_err());
}

/// Ids of one server name it only to those who have the key, and its nonces do not repeat.
#[test]
fn encrypted_ids_look_random() {
    let config = QuicLbConfig::new(0, &[0, 0], 6).unwrap().key([3; 16]);
    let mut generator = QuicLbCidGenerator::new(config, [1; 32]);
    const IDS: u32 = 4000;
    let mut ones = [0u32; 9 * 8];
    let mut bodies = HashSet::new();
    for _ in 0..IDS {
        let cid = generator.generate_cid();
        assert!(bodies.insert(cid[1..].to_vec()));
        for (bit, count) in ones.iter_mut().enumerate() {
            *count += u32::from(cid[bit / 8] >> (bit % 8) & 1);
        }
    }
    // Six standard deviations of a fair coin. The three bits of the configuration are fixed.
    let slack = 6 * (f64::from(IDS).sqrt() / 2.0) as u32;
    for (bit, count) in ones.into_iter().enumerate() {
        if !(5..8).contains(&bit) {
            assert!(count.abs_diff(IDS / 2) < slack, "bit {bit}: {count}");
        }
    }
}

#[test]
fn when_nonces_are_used_up_ids_name_no_server() {
    let config = QuicLbConfig::new(2, &[9, 9, 9], 4).unwrap().key([3; 16]);
    let mut generator = QuicLbCidGenerator::new(config.clone(), [1; 32]);
    let first = generator.generate_cid();
    // Skip all but the last three of 2^32.
    let nonce = u32::from_be_bytes(generator.first_nonce[..4].try_into().unwrap());
    generator.next_nonce[..4].copy_from_slice(&nonce.wrapping_sub(3).to_be_bytes());
    for _ in 0..3 {
        let cid = generator.generate_cid();
        assert_ne!(cid, first);
        assert_eq!(config.server_id_of(&cid), Some(vec![9, 9, 9]));
    }
    let mut seen = HashSet::new();
    for _ in 0..100 {
        let cid = generator.generate_cid();
        assert_eq!((cid.len(), cid[0]), (8, 0xe7));
        assert_eq!(config.server_id_of(&cid), None);
        assert!(generator.validate(&cid).is_ok());
        assert!(seen.insert(cid));
    }
}

#[test]
fn ids_name_server_and_shard() {
    let shard_key = ShardKey::new([11, 22, 33]);
    let plain = QuicLbConfig::new(1, &[1, 2, 3], 4).unwrap();
    let configs = [
        plain.clone(),
        plain.key([5; 16]),
        QuicLbConfig::new(1, &[4; 8], 8).unwrap().key([5; 16]),
        QuicLbConfig::new(1, &[4; 15], 4)
            .unwrap()
            .key([5; 16])
            .length_in_first_octet(true),
    ];
    for config in configs {
        for shards in [2, 3, 16] {
            for shard in 0..shards {
                let mut generator = QuicLbCidGenerator::new(config.clone(), [1; 32])
                    .shard(shard_key, shards, shard)
                    .unwrap();
                for _ in 0..20 {
                    let cid = generator.generate_cid();
                    assert_eq!(shard_key.shard_of(&cid, shards), Some(shard));
                    assert_eq!(config.server_id_of(&cid).as_ref(), Some(&config.server_id));
                }
            }
        }
    }
}

/// Shards count through the same nonces here, and none uses what another one does.
#[test]
fn shards_share_no_nonce() {
    let config = QuicLbConfig::new(1, &[1, 2, 3], 4).unwrap().key([5; 16]);
    let mut bodies = HashSet::new();
    for shard in 0..4 {
        let mut generator = QuicLbCidGenerator::new(config.clone(), [1; 32])
            .shard(ShardKey::new([11, 22, 33]), 4, shard)
            .unwrap();
        for _ in 0..500 {
            assert!(bodies.insert(generator.generate_cid()[1..].to_vec()));
        }
    }
}

#[test]
fn ids_that_cannot_name_a_shard_are_refused() {
    let short = QuicLbConfig::new(0, &[1, 2], 4).unwrap();
    assert_eq!(short.check_shards(1), Ok(()));
    assert_eq!(short.check_shards(2), Err(QuicLbError::TooShortForShards));
    let alike = QuicLbConfig::new(0, &[1; 4], 8).unwrap();
    assert_eq!(alike.check_shards(1), Ok(()));
    assert_eq!(
        alike.check_shards(2),
        Err(QuicLbError::ServerIdTooLongForShards)
    );
    assert_eq!(alike.key([0; 16]).check_shards(2), Ok(()));
}

#[test]
fn the_key_is_not_printed() {
    let config = QuicLbConfig::new(0, &[1], 4).unwrap().key([0xab; 16]);
    let printed = format!("{config:?}");
    assert!(
        !printed.contains("171") && !printed.contains("ab"),
        "{printed}"
    );
}
