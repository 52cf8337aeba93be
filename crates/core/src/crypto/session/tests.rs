//! Sessions of ours against quinn-proto's own, so that nothing cancels out.

use bytes::BytesMut;
use quinn_proto::crypto::rustls as quinn;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::version::TLS13;

use super::super::{ClientConfig as _, ServerConfig as _, Session, rustls as ours};
use super::*;

const VERSION: u32 = 1;

struct Identity {
    client: rustls::ClientConfig,
    server: rustls::ServerConfig,
}

/// `hash_len` picks the cipher suite.
fn identity(hash_len: usize) -> Identity {
    let mut provider = rustls::crypto::CryptoProvider::clone(&crate::crypto_provider());
    // The suite of Initial packets has to stay, but not as the preferred one.
    provider.cipher_suites.sort_by_key(|suite| {
        let hash = suite.tls13().unwrap().common.hash_provider;
        hash.output_len() != hash_len
    });
    let provider = Arc::new(provider);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.into()], key.into())
        .unwrap();
    server.alpn_protocols = vec![b"a".to_vec(), b"b".to_vec()];
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"b".to_vec()];
    Identity { client, server }
}

fn params() -> TransportParameters {
    // Nothing but defaults.
    TransportParameters::read(Side::Client, &mut Cursor::new([])).unwrap()
}

/// A client of ours, to look inside.
fn client(identity: &Identity) -> TlsSession {
    let tls = rustls::quic::ClientConnection::new(
        Arc::new({
            let mut tls = identity.client.clone();
            tls.key_log = Arc::new(exporter::SecretTap::new(tls.key_log));
            tls
        }),
        Version::V1,
        "localhost".try_into().unwrap(),
        Vec::new(),
    )
    .unwrap();
    TlsSession::new(Connection::Client(tls), Version::V1, suite(), None)
}

fn suite() -> Suite {
    let provider = crate::crypto_provider();
    let mut suites = provider.cipher_suites.iter().filter_map(|it| it.tls13());
    let suite = suites.find(|it| it.common.suite == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    suite.unwrap().quic_suite().unwrap()
}

fn our_server(identity: &Identity) -> Box<dyn Session> {
    let config = ours::QuicServerConfig::try_from(identity.server.clone()).unwrap();
    Arc::new(config).start_session(VERSION, &params())
}

fn our_client(identity: &Identity) -> Box<dyn Session> {
    let config = ours::QuicClientConfig::try_from(identity.client.clone()).unwrap();
    let config = Arc::new(config);
    config
        .start_session(VERSION, "localhost", &params())
        .unwrap()
}

fn quinn_server(identity: &Identity) -> Box<dyn Session> {
    let config = quinn::QuicServerConfig::try_from(identity.server.clone()).unwrap();
    Arc::new(config).start_session(VERSION, &params())
}

fn quinn_client(identity: &Identity) -> Box<dyn Session> {
    let config = quinn::QuicClientConfig::try_from(identity.client.clone()).unwrap();
    let config = Arc::new(config);
    config
        .start_session(VERSION, "localhost", &params())
        .unwrap()
}

/// Carries what `from` has to say to `to`; returns the keys of packets if that made them known.
fn carry(from: &mut dyn Session, to: &mut dyn Session) -> (bool, Option<Keys>) {
    let (mut carried, mut last) = (false, None);
    loop {
        let mut bytes = Vec::new();
        let keys = from.write_handshake(&mut bytes);
        if keys.is_none() && bytes.is_empty() {
            return (carried, last);
        }
        last = keys.or(last);
        if !bytes.is_empty() {
            carried = true;
            to.read_handshake(&bytes).unwrap();
        }
    }
}

/// A handshake up to the last byte. Returns the keys of 1-RTT packets.
fn shake(client: &mut dyn Session, server: &mut dyn Session) -> (Keys, Keys) {
    let (mut of_client, mut of_server) = (None, None);
    loop {
        let (there, keys) = carry(client, server);
        of_client = keys.or(of_client);
        let (back, keys) = carry(server, client);
        of_server = keys.or(of_server);
        if !there && !back {
            return (of_client.unwrap(), of_server.unwrap());
        }
    }
}

fn exported(session: &dyn Session) -> [u8; 70] {
    let mut output = [0; 70];
    session
        .export_keying_material(&mut output, b"label", b"context")
        .unwrap();
    output
}

/// What one side seals the other opens, and with the keys of no other update.
fn assert_match(sealing: &dyn PacketKey, opening: &dyn PacketKey, other: &dyn PacketKey) {
    let header = b"header";
    let mut packet = [&header[..], b"payload", &[0; 16]].concat();
    assert_eq!(sealing.tag_len(), 16);
    assert_eq!(
        sealing.confidentiality_limit(),
        opening.confidentiality_limit()
    );
    assert_eq!(sealing.integrity_limit(), opening.integrity_limit());
    sealing.encrypt(7, &mut packet, header.len());
    let sealed = BytesMut::from(&packet[header.len()..]);
    assert!(other.decrypt(7, header, &mut sealed.clone()).is_err());
    let mut opened = sealed;
    opening.decrypt(7, header, &mut opened).unwrap();
    assert_eq!(&opened[..], b"payload");
}

#[test]
fn handshakes_with_quinn_in_both_roles_and_three_key_updates() {
    for hash_len in [32, 48] {
        let identity = identity(hash_len);
        for (mut client, mut server) in [
            (our_client(&identity), quinn_server(&identity)),
            (quinn_client(&identity), our_server(&identity)),
            (our_client(&identity), our_server(&identity)),
        ] {
            let (client, server) = (&mut *client, &mut *server);
            let (of_client, of_server) = shake(client, server);
            let (mut of_client, mut of_server) = (of_client.packet, of_server.packet);
            assert_eq!(exported(client), exported(server));
            for _ in 0..3 {
                let next_client = client.next_1rtt_keys().unwrap();
                let next_server = server.next_1rtt_keys().unwrap();
                assert_match(&*of_client.local, &*of_server.remote, &*next_server.remote);
                assert_match(&*of_server.local, &*of_client.remote, &*next_client.remote);
                (of_client, of_server) = (next_client, next_server);
            }
        }
    }
}

#[test]
fn keys_that_were_never_used_do_not_break_the_chain() {
    let identity = identity(32);
    let (mut client, mut server) = (our_client(&identity), quinn_server(&identity));
    shake(&mut *client, &mut *server);
    assert!(client.next_1rtt_keys().is_some() && server.next_1rtt_keys().is_some());
    let (first, other) = (
        client.next_1rtt_keys().unwrap(),
        server.next_1rtt_keys().unwrap(),
    );
    let later = server.next_1rtt_keys().unwrap();
    assert_match(&*first.local, &*other.remote, &*later.remote);
}

#[test]
fn exports_what_rustls_exports() {
    for hash_len in [32, 48] {
        let identity = identity(hash_len);
        let (mut client, mut server) = (client(&identity), our_server(&identity));
        assert!(client.export_keying_material(&mut [0], b"", b"").is_err());
        // Up to the client's Finished, but without the server's tickets: rustls is still there.
        carry(&mut client, &mut *server);
        carry(&mut *server, &mut client);
        carry(&mut client, &mut *server);
        let Stage::Live(tls) = &client.stage else {
            panic!("released before any ticket");
        };
        for (label, context, len) in [
            (&b"EXPORTER-Token-Binding"[..], &b""[..], 32),
            (b"x", b"some context", 200),
        ] {
            let expected = tls.export_keying_material(vec![0; len], label, Some(context));
            let mut output = vec![0; len];
            let result = client.export_keying_material(&mut output, label, context);
            assert_eq!((output, result), (expected.unwrap(), Ok(())));
        }
        let mut too_long = vec![0; 255 * hash_len + 1];
        assert!(
            client
                .export_keying_material(&mut too_long, b"x", b"")
                .is_err()
        );
        let long_label = [b'x'; 250];
        assert!(
            client
                .export_keying_material(&mut [0], &long_label, b"")
                .is_err()
        );
    }
}

#[test]
fn answers_the_same_after_rustls_is_gone() {
    let identity = identity(32);
    let (mut client, mut server) = (client(&identity), our_server(&identity));
    carry(&mut client, &mut *server);
    carry(&mut *server, &mut client);
    let answers = |session: &TlsSession| {
        let data = session.handshake_data().unwrap();
        let data = data.downcast::<HandshakeData>().unwrap();
        let peer = session.peer_identity().unwrap();
        let peer = peer.downcast::<Vec<CertificateDer<'static>>>().unwrap();
        let early = session.early_data_accepted();
        (
            data.protocol,
            data.server_name,
            peer,
            early,
            exported(session),
        )
    };
    let before = answers(&client);
    assert!(matches!(client.stage, Stage::Live(_)));
    carry(&mut client, &mut *server);
    let mut tickets = Vec::new();
    server.write_handshake(&mut tickets);
    // As quinn-proto does: what comes after the handshake is read, and no answer asked for.
    let (first, second) = tickets.split_at(10);
    client.read_handshake(first).unwrap();
    assert!(matches!(client.stage, Stage::Live(_)), "half a ticket");
    client.read_handshake(second).unwrap();
    assert!(matches!(client.stage, Stage::Done(_)), "tickets have come");
    assert_eq!(answers(&client), before);
    assert_eq!(before.0.as_deref(), Some(&b"b"[..]));
    assert!(!client.is_handshaking());
    let data = server.handshake_data().unwrap();
    let data = data.downcast::<HandshakeData>().unwrap();
    assert_eq!(data.server_name.as_deref(), Some("localhost"));
    assert!(server.peer_identity().is_none());
}

#[test]
fn only_tickets_may_follow() {
    let identity = identity(32);
    let (mut client, mut server) = (client(&identity), our_server(&identity));
    shake(&mut client, &mut *server);
    let ticket = [NEW_SESSION_TICKET, 0, 0, 2, 1, 2];
    // In parts, as it may arrive.
    for part in [&ticket[..1], &ticket[1..5], &ticket[5..], &ticket] {
        assert_eq!(client.read_handshake(part), Ok(false));
    }
    let key_update = [24, 0, 0, 1, 0];
    let unexpected = TransportErrorCode::crypto(10);
    for bytes in [[&ticket[..], &key_update].concat(), key_update.to_vec()] {
        let error = client.read_handshake(&bytes).unwrap_err();
        assert_eq!(error.code, unexpected);
    }
    for bytes in [&ticket[..], &key_update] {
        assert_eq!(server.read_handshake(bytes).unwrap_err().code, unexpected);
    }
}

#[test]
fn initial_keys_are_there_for_the_second_user_only() {
    let cache = InitialKeysCache::default();
    let cid = |number: u8| ConnectionId::new(&[number; 8]);
    let first = cache.derive(&suite(), Version::V1, &cid(0));
    let client = boxed(suite().keys(&cid(0), rustls::Side::Client, Version::V1));
    let second = cache.take(Version::V1, &cid(0)).unwrap();
    let other = boxed(suite().keys(&cid(1), rustls::Side::Client, Version::V1));
    for keys in [&first, &second] {
        assert_match(
            &*keys.packet.local,
            &*client.packet.remote,
            &*other.packet.remote,
        );
        let mut ours = [0x5a; 40];
        let mut theirs = ours;
        keys.header.local.encrypt(10, &mut ours);
        client.header.remote.encrypt(10, &mut theirs);
        assert_eq!(ours, theirs);
    }
    assert!(cache.take(Version::V1, &cid(0)).is_none());
    // A flood pushes the oldest out, and no more than that is kept.
    for number in 0..=255 {
        cache.derive(&suite(), Version::V1, &cid(number));
    }
    let left = (0..=255).filter(|number| cache.take(Version::V1, &cid(*number)).is_some());
    assert_eq!(left.count(), 32);
}

#[test]
fn retry_tags_of_quinn_are_valid() {
    let identity = identity(32);
    let server = quinn::QuicServerConfig::try_from(identity.server.clone()).unwrap();
    let client = our_client(&identity);
    let cid = ConnectionId::new(b"original");
    let (header, token) = (b"header", b"token");
    let tag = server.retry_tag(VERSION, &cid, &[&header[..], token].concat());
    let payload = [&token[..], &tag].concat();
    assert!(client.is_valid_retry(&cid, header, &payload));
    assert!(!client.is_valid_retry(&ConnectionId::new(b"another"), header, &payload));
    assert!(!client.is_valid_retry(&cid, header, &payload[..15]));
}
