//! The cache against a real TLS server, without any network.

use polyquic::rustls::quic::{ClientConnection, ServerConnection, Version};

use super::capture::MessageReader;
use super::*;
use crate::tls::Trust;

#[test]
fn tickets_are_found_however_the_bytes_are_cut() {
    let other = [11, 0, 0, 3, 1, 2, 3];
    let empty = [14, 0, 0, 0];
    let ticket = [4, 0, 0, 2, 8, 9];
    let stream = [&other[..], &ticket, &empty, &ticket, &other, &ticket].concat();
    for size in 1..=stream.len() {
        let mut reader = MessageReader::default();
        let found: Vec<_> = stream
            .chunks(size)
            .flat_map(|chunk| reader.push(chunk))
            .collect();
        assert_eq!(found, vec![ticket.to_vec(); 3], "in pieces of {size}");
    }
}

#[test]
fn a_message_that_claims_to_be_huge_is_not_collected() {
    let mut reader = MessageReader::default();
    assert!(reader.push(&[4, 0xff, 0xff, 0xff]).is_empty());
    for _ in 0..1000 {
        assert!(reader.push(&[0; 1000]).is_empty());
    }
}

#[test]
fn hexadecimal_goes_both_ways() {
    let text = String::from(Hex(vec![0, 0xab, 0xff]));
    assert_eq!(text, "00abff");
    assert_eq!(Hex::try_from(text).unwrap().0, [0, 0xab, 0xff]);
    assert!(Hex::try_from("abc".to_owned()).is_err());
    assert!(Hex::try_from("zz".to_owned()).is_err());
}

#[test]
fn a_file_that_is_not_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes");
    for text in ["my notes", "{}", r#"{"format":"other","servers":{}}"#] {
        std::fs::write(&path, text).unwrap();
        let failure = SessionCache::open(&path).unwrap_err();
        assert!(
            failure.to_string().contains("not a session cache"),
            "{failure}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[cfg(unix)]
#[test]
fn the_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    SessionCache::open(&path).unwrap().save().unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

#[test]
fn tokens_survive_and_are_used_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    std::fs::write(&path, "").unwrap();
    let url: Url = "hq://h:1/".parse().unwrap();
    let cache = SessionCache::open(&path).unwrap();
    cache
        .token_store(&url)
        .insert("h", Bytes::from_static(b"token"));
    cache.save().unwrap();

    let cache = SessionCache::open(&path).unwrap();
    let elsewhere: Url = "hq://h:2/".parse().unwrap();
    assert_eq!(cache.token_store(&elsewhere).take("h"), None);
    assert_eq!(
        cache.token_store(&url).take("h").as_deref(),
        Some(&b"token"[..])
    );
    assert_eq!(cache.token_store(&url).take("h"), None);
    cache.save().unwrap();
    let cache = SessionCache::open(&path).unwrap();
    assert_eq!(cache.token_store(&url).take("h"), None);
}

/// A TLS server with a development certificate, and the file of the CA to trust.
struct Fixture {
    dir: tempfile::TempDir,
    server: Arc<rustls::ServerConfig>,
    url: Url,
}

#[derive(Debug)]
struct One(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for One {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let identity = crate::certs::development_identity(&[], &[]).unwrap();
    std::fs::write(dir.path().join("ca"), identity.dev_ca_pem.as_ref().unwrap()).unwrap();
    let mut server = rustls::ServerConfig::builder_with_provider(polyquic::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(One(identity.certified)));
    server.alpn_protocols = vec![b"test".to_vec()];
    server.max_early_data_size = u32::MAX;
    Fixture {
        dir,
        server: Arc::new(server),
        url: "hq://localhost:1/".parse().unwrap(),
    }
}

/// How one handshake went.
#[derive(Debug, PartialEq)]
struct Outcome {
    resumed: bool,
    early_data_accepted: bool,
    remembered_parameters: Option<Vec<u8>>,
    identity: usize,
}

impl Fixture {
    fn cache(&self) -> Arc<SessionCache> {
        SessionCache::open(&self.dir.path().join("cache")).unwrap()
    }

    fn trust(&self) -> Trust {
        Trust::ca_file(&self.dir.path().join("ca")).unwrap()
    }

    /// What a process does: open the cache, connect, save the cache.
    fn process(&self, trust: &Trust) -> Outcome {
        let cache = self.cache();
        let mut tls = ClientTls::new(trust, cache.provider(), &[b"test"]).unwrap();
        tls.config.enable_early_data = true;
        let _ = cache
            .attach(&mut tls, &self.url, &trust.fingerprint)
            .unwrap();
        let verifier = tls.verifier.clone();
        let outcome = self.connect(tls);
        assert_eq!(verifier.full_handshakes() == 0, outcome.resumed);
        cache.save().unwrap();
        outcome
    }

    fn connect(&self, tls: ClientTls) -> Outcome {
        let name = "localhost".try_into().unwrap();
        let config = Arc::new(tls.config);
        let mut client =
            ClientConnection::new(config, Version::V1, name, b"client".to_vec()).unwrap();
        let server = self.server.clone();
        let mut server = ServerConnection::new(server, Version::V1, b"server".to_vec()).unwrap();
        let remembered_parameters = client.quic_transport_parameters().map(<[u8]>::to_vec);
        let mut reader = MessageReader::default();
        for _ in 0..8 {
            for message in revive::flight(|buf| client.write_hs(buf).is_some()) {
                server.read_hs(&message).unwrap();
            }
            for message in revive::flight(|buf| server.write_hs(buf).is_some()) {
                // What `ListeningSession` does, which needs a whole QUIC connection to be driven.
                let tickets = reader.push(&message);
                let identity = client.peer_certificates().unwrap_or_default();
                let identity = identity.iter().map(|c| c.to_vec()).collect();
                capture::stage(tickets, identity);
                client.read_hs(&message).unwrap();
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Outcome {
            resumed: client.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            early_data_accepted: client.is_early_data_accepted(),
            remembered_parameters,
            identity: client.peer_certificates().unwrap_or_default().len(),
        }
    }
}

#[test]
fn a_session_outlives_its_process_and_carries_0rtt() {
    let f = fixture();
    let trust = f.trust();
    let first = f.process(&trust);
    assert_eq!((first.resumed, first.early_data_accepted), (false, false));
    for _ in 0..3 {
        let next = f.process(&trust);
        let expected = Outcome {
            resumed: true,
            early_data_accepted: true,
            remembered_parameters: Some(b"server".to_vec()),
            identity: 1,
        };
        assert_eq!(next, expected);
    }
}

#[test]
fn a_session_is_not_resumed_under_another_trust() {
    let f = fixture();
    f.process(&f.trust());
    // The same server is trusted, by way of a file that holds one CA more.
    let other = crate::certs::development_identity(&[], &[]).unwrap();
    let both = std::fs::read_to_string(f.dir.path().join("ca")).unwrap()
        + other.dev_ca_pem.as_deref().unwrap();
    std::fs::write(f.dir.path().join("both"), both).unwrap();
    let trust = Trust::ca_file(&f.dir.path().join("both")).unwrap();
    assert!(!f.process(&trust).resumed);
}

#[test]
fn a_session_whose_certificate_is_not_trusted_any_more_is_not_revived() {
    let f = fixture();
    let trust = f.trust();
    f.process(&trust);
    // The trust changes behind the fingerprint's back, as the system's may.
    let other = crate::certs::development_identity(&[], &[]).unwrap();
    std::fs::write(
        f.dir.path().join("ca"),
        other.dev_ca_pem.as_deref().unwrap(),
    )
    .unwrap();
    let stranger = f.trust();
    let cache = f.cache();
    let mut tls = ClientTls::new(&stranger, cache.provider(), &[b"test"]).unwrap();
    let _ = cache.attach(&mut tls, &f.url, &trust.fingerprint).unwrap();
    let name = "localhost".try_into().unwrap();
    let client = ClientConnection::new(Arc::new(tls.config), Version::V1, name, vec![]).unwrap();
    assert!(client.zero_rtt_keys().is_none());
    assert!(client.quic_transport_parameters().is_none());
}

#[test]
fn a_ticket_that_the_server_does_not_know_falls_back_to_a_full_handshake() {
    let f = fixture();
    let trust = f.trust();
    f.process(&trust);
    let cache = f.cache();
    for server in cache.lock().servers.values_mut() {
        for session in &mut server.sessions {
            // Ten bytes of extensions come after the ticket proper, the nonce before it.
            let within = session.ticket.0.len() - 20;
            session.ticket.0[within] ^= 1;
        }
    }
    cache.save().unwrap();
    assert!(!f.process(&trust).resumed);
}

#[test]
fn a_session_is_used_once() {
    let f = fixture();
    let trust = f.trust();
    f.process(&trust);
    let count = |f: &Fixture| {
        let cache = f.cache();
        let contents = cache.lock();
        contents.servers["localhost:1"].sessions.len()
    };
    let before = count(&f);
    assert!(before > 0);
    let cache = f.cache();
    let mut tls = ClientTls::new(&trust, cache.provider(), &[b"test"]).unwrap();
    let _ = cache.attach(&mut tls, &f.url, &trust.fingerprint).unwrap();
    cache.save().unwrap();
    assert_eq!(count(&f), before - 1);
}

#[test]
fn expired_sessions_are_forgotten() {
    let f = fixture();
    f.process(&f.trust());
    let cache = f.cache();
    for server in cache.lock().servers.values_mut() {
        for session in &mut server.sessions {
            session.made_at -= 8 * 24 * 3600;
        }
    }
    cache.save().unwrap();
    assert!(f.cache().lock().servers["localhost:1"].sessions.is_empty());
    assert!(!f.process(&f.trust()).resumed);
}
