//! `polyquic get`: parallel downloads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::{Either, join_all, select};
use polyquic::{ClientConfig, Connection, Endpoint, ReadError, WriteError, crypto, offload};

use crate::args::GetArgs;
use crate::connect::{Connected, Dialer, EarlyOutcome, resolve};
use crate::exec::{self, App, Native};
use crate::failure::{Exit, Failure, read_reason, write_reason};
use crate::files::{ChunkWriter, PartialFile};
use crate::hq;
use crate::out::{complain, say};
use crate::progress::Progress;
use crate::server;
use crate::sessions::SessionCache;
use crate::signals::{self, Signals};
use crate::stats::{bit_rate, bytes, ms, rate};
use crate::tls::{ClientTls, Trust, Verifier};
use crate::transport::TransportFactory;
use crate::url::Url;

/// How much one read may bring.
const READ_BYTES: usize = 1024 * 1024;

/// Run the command.
pub(crate) fn run(args: GetArgs) -> Result<(), Failure> {
    let origins = plan(&args.urls)?;
    std::fs::create_dir_all(&args.output)
        .map_err(|e| Failure::io(format!("cannot make {}", args.output.display()), &e))?;
    let trust = Trust::from_args(&args.client)?;
    let cache = args
        .session_cache
        .as_deref()
        .map(SessionCache::open)
        .transpose()?;
    let signals = Signals::install().map_err(|e| Failure::io("cannot wait for signals", &e))?;
    let transport = TransportFactory::new(&args.client.transport, 0)?;
    let executor = args.executor.executor;
    let app = Get {
        progress: Progress::start(!args.quiet, args.urls.len()),
        args,
        origins,
        trust,
        transport,
        cache: cache.clone(),
        signals,
        endpoints: Mutex::default(),
    };
    let result = exec::run(executor, app);
    // Saved even after a failure: a session made before it is good.
    if let Some(cache) = cache {
        cache.save()?;
    }
    result
}

/// The files to fetch from one host.
struct Origin {
    files: Vec<Wanted>,
}

struct Wanted {
    url: Url,
    name: String,
}

/// Sort the URLs by host and find the file names; refuse what cannot be saved.
fn plan(urls: &[Url]) -> Result<Vec<Origin>, Failure> {
    let mut origins: Vec<Origin> = Vec::new();
    let mut names: HashMap<String, &Url> = HashMap::new();
    for url in urls {
        let name = url.file_name().ok_or_else(|| {
            Failure::usage(format!(
                "{url}: the last part of the path is no usable file name"
            ))
        })?;
        if let Some(other) = names.insert(name.clone(), url) {
            return Err(Failure::usage(format!(
                "{other} and {url} would both be saved as {name}"
            )));
        }
        let wanted = Wanted {
            url: url.clone(),
            name,
        };
        let same = |o: &&mut Origin| o.files[0].url.authority() == url.authority();
        match origins.iter_mut().find(same) {
            Some(origin) => origin.files.push(wanted),
            None => origins.push(Origin {
                files: vec![wanted],
            }),
        }
    }
    Ok(origins)
}

struct Get {
    args: GetArgs,
    origins: Vec<Origin>,
    trust: Trust,
    transport: TransportFactory,
    cache: Option<Arc<SessionCache>>,
    signals: Signals,
    progress: Progress,
    /// To be closed if a signal ends the downloads.
    endpoints: Mutex<Vec<Endpoint>>,
}

impl App for Get {
    type Output = ();

    async fn run<R: Native>(self, rt: R) -> Result<Self::Output, Failure> {
        let outcome = {
            let work = pin!(join_all(
                self.origins
                    .iter()
                    .map(|origin| self.fetch_origin(&rt, origin))
            ));
            let interrupted = pin!(self.signals.nth(1));
            match select(work, interrupted).await {
                Either::Left((results, _)) => Ok(results),
                Either::Right((signal, _)) => Err(signal),
            }
            // Dropping the downloads removes the partial files.
        };
        let results: Vec<_> = match outcome {
            Ok(results) => results.into_iter().flatten().collect(),
            Err(signal) => {
                let endpoints = std::mem::take(&mut *lock(&self.endpoints));
                server::close(&rt, &endpoints, b"interrupted").await;
                return Err(Failure::new(
                    Exit::Signal(signal),
                    format!("ended by {}", signals::name(signal)),
                ));
            }
        };
        let total = results.len();
        let failures: Vec<Failure> = results.into_iter().filter_map(Result::err).collect();
        let Some(exit) = failures.iter().map(|f| f.exit).reduce(Exit::worst) else {
            return Ok(());
        };
        if let ([failure], 1) = (&failures[..], total) {
            return Err(failure.clone());
        }
        // A host that cannot be reached fails all of its files for one reason: say it once.
        let mut said = Vec::new();
        for failure in &failures {
            let text = failure.to_string();
            if !said.contains(&text) {
                complain!("{text}");
                said.push(text);
            }
        }
        Err(Failure::new(
            exit,
            format!("{} of {total} downloads failed", failures.len()),
        ))
    }
}

impl Get {
    /// Fetch the files of one host, with one result for each.
    async fn fetch_origin<R: Native>(&self, rt: &R, origin: &Origin) -> Vec<Result<(), Failure>> {
        let failed = |failure: Failure| vec![Err(failure); origin.files.len()];
        let tls = match self.tls(origin) {
            Ok(tls) => tls,
            Err(failure) => return failed(failure),
        };
        let (dialer, connected) = match self.connect(rt, &origin.files[0].url, &tls).await {
            Ok(connected) => connected,
            Err(failure) => return failed(failure),
        };
        let start = Instant::now();
        let before = self.progress.bytes();
        let connection = &connected.connection;
        let early = connected.early.as_ref();
        // Collected before they are run: the compiler cannot see that a stream which makes them
        // one by one is `Send`.
        let downloads: Vec<_> = origin
            .files
            .iter()
            .map(|wanted| self.fetch_file(rt, connection, early, wanted))
            .collect();
        let results: Vec<_> = futures::stream::iter(downloads)
            .buffer_unordered(self.args.parallel.into())
            .collect()
            .await;
        if !self.args.quiet && results.iter().any(Result::is_ok) {
            let url = &origin.files[0].url;
            say!(
                "{}",
                self.summary(url, &connected, &tls, before, start.elapsed())
                    .await
            );
        }
        if let Some(cache) = &self.cache {
            cache.remember_address(&origin.files[0].url, connection.remote_address());
        }
        dialer.close().await;
        results
    }

    /// TLS towards one host, with its sessions out of the cache.
    fn tls(&self, origin: &Origin) -> Result<OriginTls, Failure> {
        let provider = match &self.cache {
            Some(cache) => cache.provider(),
            None => polyquic::crypto_provider(),
        };
        let mut tls = ClientTls::new(&self.trust, provider, &[hq::ALPN])?;
        let verifier = tls.verifier.clone();
        let url = &origin.files[0].url;
        let mut token_store = None;
        let crypto: Arc<dyn crypto::ClientConfig> = match &self.cache {
            Some(cache) => {
                tls.config.enable_early_data = self.args.zero_rtt;
                let session = cache.attach(&mut tls, url, &self.trust.fingerprint)?;
                token_store = Some(cache.token_store(url));
                session.wrap(tls.quic()?)
            }
            None => tls.quic()?,
        };
        let mut client = ClientConfig::new(crypto);
        if let Some(store) = token_store {
            client.token_store(store);
        }
        Ok(OriginTls { client, verifier })
    }

    async fn connect<R: Native>(
        &self,
        rt: &R,
        url: &Url,
        tls: &OriginTls,
    ) -> Result<(Dialer<R>, Connected), Failure> {
        let limit = self.args.client.connect_timeout;
        let start = Instant::now();
        let mut addresses = resolve(rt, url, limit).await?;
        // Where it worked the last time first; that is where the session is good for 0-RTT.
        if let Some(known) = self
            .cache
            .as_ref()
            .and_then(|cache| cache.known_address(url))
        {
            addresses.sort_by_key(|address| *address != known);
        }
        let dialer = Dialer::new(rt.clone(), &addresses)?;
        lock(&self.endpoints).extend(dialer.endpoints());
        let config = || {
            let mut config = tls.client.clone();
            config.transport_config(self.transport.one("client"));
            config
        };
        let rest = limit.saturating_sub(start.elapsed());
        let connected = if self.args.zero_rtt {
            let first = dialer.dial_early(url, addresses[0], &config, rest).await;
            match first {
                Err(_) if addresses.len() > 1 => {
                    let rest = limit
                        .saturating_sub(start.elapsed())
                        .max(Duration::from_secs(1));
                    dialer.dial(url, &addresses[1..], &config, rest).await?
                }
                first => first?,
            }
        } else {
            dialer.dial(url, &addresses, &config, rest).await?
        };
        Ok((dialer, connected))
    }

    async fn fetch_file<R: Native>(
        &self,
        rt: &R,
        connection: &Connection,
        early: Option<&EarlyOutcome>,
        wanted: &Wanted,
    ) -> Result<(), Failure> {
        let target = Target {
            dir: self.args.output.clone(),
            name: wanted.name.clone(),
            durable: true,
        };
        let result = download(
            rt,
            connection,
            early,
            &wanted.url.path,
            &target,
            &self.progress,
        );
        result
            .await
            .map_err(|failure| failure.context(&wanted.url))?;
        self.progress.file_done();
        Ok(())
    }

    async fn summary(
        &self,
        url: &Url,
        connected: &Connected,
        tls: &OriginTls,
        bytes_before: u64,
        elapsed: Duration,
    ) -> String {
        let count = self.progress.bytes() - bytes_before;
        let early = match &connected.early {
            Some(outcome) => Some(outcome.clone().await),
            None => None,
        };
        let handshake = match (connected.handshake, early) {
            (_, Some(true)) => "0-RTT accepted".into(),
            (_, Some(false)) => "0-RTT rejected".into(),
            (Some(time), None) => format!("handshake {:.1} ms", ms(time)),
            (None, None) => String::new(),
        };
        let session = if tls.verifier.full_handshakes() == 0 {
            "session resumed"
        } else {
            "new session"
        };
        format!(
            "{}: {} in {:.3} s ({}), {handshake}, {session}, {} packets lost",
            url.authority(),
            bytes(count),
            elapsed.as_secs_f64(),
            bit_rate(rate(count, elapsed)),
            connected.connection.stats().path.lost_packets,
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct OriginTls {
    client: ClientConfig,
    verifier: Arc<Verifier>,
}

/// Where a download goes.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
    /// Wait until the file has reached the disk.
    pub(crate) durable: bool,
}

/// Fetch `path` into a file; nothing is left of it unless all of it arrived.
pub(crate) async fn download<R: Native>(
    rt: &R,
    connection: &Connection,
    early: Option<&EarlyOutcome>,
    path: &str,
    target: &Target,
    progress: &Progress,
) -> Result<(), Failure> {
    match attempt(rt, connection, path, target, progress).await {
        Err(Undone::ZeroRttRejected) => {
            // The server has forgotten the session. The handshake goes on without, and streams
            // opened after it are as good as any.
            if let Some(outcome) = early {
                outcome.clone().await;
            }
            attempt(rt, connection, path, target, progress)
                .await
                .map_err(Undone::into_failure)
        }
        result => result.map_err(Undone::into_failure),
    }
}

enum Undone {
    ZeroRttRejected,
    Failed(Failure),
}

impl Undone {
    fn into_failure(self) -> Failure {
        match self {
            Self::ZeroRttRejected => Failure::transfer("0-RTT rejected"),
            Self::Failed(failure) => failure,
        }
    }
}

impl From<Failure> for Undone {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

async fn attempt<R: Native>(
    rt: &R,
    connection: &Connection,
    path: &str,
    target: &Target,
    progress: &Progress,
) -> Result<(), Undone> {
    let (mut send, mut recv) = connection
        .open_bi()
        .await
        .map_err(|e| Failure::transfer(crate::failure::connection_reason(&e)))?;
    send.write_all(&hq::request(path))
        .await
        .map_err(|error| match error {
            WriteError::ZeroRttRejected => Undone::ZeroRttRejected,
            error => Failure::transfer(write_reason(&error)).into(),
        })?;
    // Fails only if the server stopped the stream; then reading says why.
    let _ = send.finish();

    let undone = |error: ReadError| match error {
        ReadError::ZeroRttRejected => Undone::ZeroRttRejected,
        error => Failure::transfer(read_reason(&error)).into(),
    };
    // The file is started only when there is an answer, so that a refusal touches nothing.
    let mut chunk = recv.read_chunk(READ_BYTES, true).await.map_err(undone)?;
    let shown = target.dir.join(&target.name);
    let local = |error: std::io::Error| cannot_write(&shown, &error);
    let partial = {
        let Target { dir, name, .. } = target.clone();
        offload(rt, move || PartialFile::create(&dir, &name)).await
    };
    let partial = partial.map_err(|e| local(e.into()))?.map_err(local)?;
    let mut writer = ChunkWriter::new(rt.clone(), partial);
    while let Some(received) = chunk {
        progress.add_bytes(received.bytes.len());
        writer.push(received.bytes).await.map_err(local)?;
        chunk = recv.read_chunk(READ_BYTES, true).await.map_err(undone)?;
    }
    writer.finish(target.durable).await.map_err(local)?;
    Ok(())
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::io(format!("cannot write {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &[&str]) -> Vec<Url> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn files_of_one_host_share_a_connection() {
        let list = urls(&["hq://a/1", "hq://b/2", "https://a:443/3", "hq://a:444/4"]);
        let origins = plan(&list).unwrap();
        let names: Vec<Vec<_>> = origins
            .iter()
            .map(|o| o.files.iter().map(|f| f.name.as_str()).collect())
            .collect();
        assert_eq!(names, [vec!["1", "3"], vec!["2"], vec!["4"]]);
    }

    #[test]
    fn what_cannot_be_saved_is_refused_before_anything_is_fetched() {
        let clash = plan(&urls(&["hq://a/x", "hq://b/y/x"])).err().unwrap();
        assert_eq!(clash.exit, Exit::Usage);
        assert!(clash.to_string().contains("both be saved as x"), "{clash}");
        let unsafe_name = plan(&urls(&["hq://a/..%2fx"])).err().unwrap();
        assert_eq!(unsafe_name.exit, Exit::Usage);
    }
}
