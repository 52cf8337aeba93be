//! Captures, as tshark sees them.

use std::process::Command;
use std::sync::Arc;

use polyquic_core::crypto::rustls::QuicClientConfig;
use polyquic_core::rustls::{self, RootCertStore};
use polyquic_core::{ClientConfig, crypto_provider};
use polyquic_endpoint::Endpoint;
use polyquic_sim::{Link, Sim, identity};
use polyquic_testkit::tools::check_transfer;

use super::quic::configs;

/// Names of the blocks of a pcapng file, after checking their lengths.
fn blocks(mut file: &[u8]) -> Vec<u32> {
    let word = |at: &[u8]| u32::from_le_bytes(at[..4].try_into().unwrap());
    let mut kinds = Vec::new();
    while !file.is_empty() {
        let len = word(&file[4..]) as usize;
        assert_eq!(len % 4, 0);
        assert_eq!(word(&file[len - 4..]) as usize, len);
        kinds.push(word(file));
        file = &file[len..];
    }
    kinds
}

/// A connection over IPv6 and one over IPv4, captured with their secrets.
fn captured() -> Vec<u8> {
    let sim = Sim::new(4);
    sim.capture();
    let server = sim.host("server");
    let client = sim.host_with("client", Link::dsl());
    let (server_config, _) = configs(|_| {});
    let mut roots = RootCertStore::empty();
    roots.add(identity().0).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.key_log = sim.key_log();
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    sim.run(async {
        for ip in [server.ip(), server.ipv6()] {
            let listening =
                Endpoint::server(&server, server_config.clone(), (ip, 443).into()).unwrap();
            let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let endpoint = Endpoint::client(&client, any.parse().unwrap()).unwrap();
            let connecting = endpoint
                .connect_with(config.clone(), (ip, 443).into(), "localhost")
                .unwrap();
            let accepting = async { listening.accept().await.unwrap().await };
            let (ours, theirs) = futures::join!(connecting, accepting);
            check_transfer(&ours.unwrap(), &theirs.unwrap(), b"seen by tshark").await;
        }
    });
    sim.pcapng()
}

#[test]
fn captures_are_well_formed() {
    let kinds = blocks(&captured());
    // A section, two hosts, secrets, and packets.
    assert_eq!(kinds[..4], [0x0A0D_0D0A, 1, 1, 10]);
    assert!(kinds.len() > 20 && kinds[4..].iter().all(|&kind| kind == 6));
    assert!(
        Sim::new(1).pcapng().is_empty(),
        "nobody asked for a capture"
    );
}

/// Needs tshark, which `.ci/run` installs.
#[test]
fn tshark_reads_and_decrypts_captures() {
    let file = std::env::temp_dir().join(format!("polyquic-sim-{}.pcapng", std::process::id()));
    std::fs::write(&file, captured()).unwrap();
    let output = Command::new("tshark")
        .arg("-r")
        .arg(&file)
        .args([
            "-o",
            "udp.check_checksum:TRUE",
            "-o",
            "ip.check_checksum:TRUE",
        ])
        .args(["-T", "fields", "-e", "frame.interface_name"])
        .args(["-e", "quic.stream_data", "-e", "_ws.malformed"])
        .args(["-e", "udp.checksum.status", "-e", "ip.checksum.status"])
        .output();
    std::fs::remove_file(&file).unwrap();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            assert!(
                std::env::var_os("CI").is_none(),
                "tshark is missing: apt-get install tshark"
            );
            eprintln!("tshark is missing: the test did not run");
            return;
        }
        output => output.unwrap(),
    };
    assert!(output.status.success());
    let lines = String::from_utf8_lossy(&output.stdout);
    let hex: String = b"seen by tshark"
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect();
    // Sent and received, over IPv4 and over IPv6.
    assert_eq!(lines.matches(&hex).count(), 4, "{lines}");
    for line in lines.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        assert!(["server", "client"].contains(&fields[0]), "{line}");
        assert_eq!(fields[2], "", "malformed: {line}");
        assert_eq!(fields[3], "1", "a wrong UDP checksum: {line}");
        assert!(
            ["", "1"].contains(&fields[4]),
            "a wrong IP checksum: {line}"
        );
    }
}
