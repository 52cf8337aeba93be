//! msquic, which runs on threads of its own: as many as the process has processors. The tasks of
//! the workloads run on them too, see [`task`].

mod connection;
mod stream;
mod task;

use std::{
    collections::VecDeque,
    ffi::{c_int, c_void},
    fs,
    future::poll_fn,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{self, ExitCode},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    task::{Poll, Waker},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures_executor::block_on;
use msquic::{
    Addr, AllowedCipherSuiteFlags, Api, BufferRef, CertificateFile, Configuration, Credential,
    CredentialConfig, CredentialFlags, Listener, ListenerEvent, Registration, RegistrationConfig,
    ffi,
};
use polyquic_bench::{
    options::Options,
    peer::{self, Peer},
    settings::{IDLE_TIMEOUT, STREAM_RECEIVE_WINDOW_BYTES, STREAMS, Settings},
    stack::{self, Stack, Value},
};

use connection::{Connection, Inner};

/// What msquic counts as part of a packet's size and the other stacks do not: the headers of IPv4
/// and UDP.
pub(crate) const HEADER_BYTES: u16 = 28;
/// As the other stacks' but a power of two, as msquic wants it.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// More than all streams together may use.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;

fn main() -> ExitCode {
    peer::main(&[("msquic", run)])
}

fn run(peer: Peer) -> Result<()> {
    ensure!(
        peer.options.provider != "ring",
        "msquic is built with OpenSSL"
    );
    choose_processors(&peer.options)?;
    leave_at_once();
    let stack = MsQuic {
        shared: Arc::new(Shared {
            registration: Registration::new(&RegistrationConfig::default())?,
            files: PemFiles::write(&peer.options.identity)?,
        }),
    };
    block_on(peer.run(stack))
}

/// Lets the process end without msquic taking itself apart: it does so while its threads still use
/// what is taken, and a client ends under load.
fn leave_at_once() {
    // SAFETY: these are the declarations of the C library.
    unsafe extern "C" {
        fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
        fn _exit(status: c_int) -> !;
    }
    extern "C" fn leave(status: c_int, _: *mut c_void) {
        // SAFETY: it takes any status, and nothing that follows is wanted.
        unsafe { _exit(status) }
    }
    // Without room for it, the process would only end less cleanly.
    // SAFETY: the function and the C library live as long as the process. It comes after msquic
    // in the list of those to be called, and so before it when they are.
    let _ = unsafe { on_exit(leave, std::ptr::null_mut()) };
}

/// msquic starts a thread for each processor of the machine, unless it is told which to use.
fn choose_processors(options: &Options) -> Result<()> {
    let [core] = *options.cores else {
        ensure!(
            options.cores.is_empty(),
            "msquic is pinned to one processor here, or to none"
        );
        return Ok(());
    };
    let config = ffi::QUIC_GLOBAL_EXECUTION_CONFIG {
        // Or its threads would run anywhere, whatever this process has been pinned to.
        Flags: ffi::QUIC_GLOBAL_EXECUTION_CONFIG_FLAGS_QUIC_GLOBAL_EXECUTION_CONFIG_FLAG_AFFINITIZE,
        PollingIdleTimeoutUs: 0,
        ProcessorCount: 1,
        ProcessorList: [core.try_into()?],
    };
    Api::get_ffi();
    // SAFETY: the pointer is to a structure of the type and size that belong to the parameter.
    unsafe {
        Api::set_param(
            std::ptr::null_mut(),
            ffi::QUIC_PARAM_GLOBAL_EXECUTION_CONFIG,
            size_of_val(&config).try_into()?,
            (&raw const config).cast::<c_void>(),
        )
    }
    .context("choosing msquic's processor")
}

/// Certificate and key in files that OpenSSL reads.
struct PemFiles {
    certificate: String,
    key: String,
}

impl PemFiles {
    /// Both processes write the same, and each puts whole files into place.
    fn write(identity: &Path) -> Result<Self> {
        let convert = |name: &str, tag: &str| {
            let der = fs::read(identity.join(name).with_extension("der"))?;
            let file = identity.join(name).with_extension("pem");
            let partial = identity.join(format!("{name}.{}", process::id()));
            fs::write(&partial, pem::encode(&pem::Pem::new(tag, der)))?;
            fs::rename(partial, &file)?;
            let file = file.into_os_string().into_string();
            file.map_err(|_| anyhow::anyhow!("a path that is not UTF-8"))
        };
        Ok(Self {
            certificate: convert("certificate", "CERTIFICATE")?,
            key: convert("key", "PRIVATE KEY")?,
        })
    }
}

struct Shared {
    registration: Registration,
    files: PemFiles,
}

#[derive(Clone)]
struct MsQuic {
    shared: Arc<Shared>,
}

impl Stack for MsQuic {
    type Endpoint = Endpoint;

    const DIFFERS_BY: &'static str = "TLS and AEAD by OpenSSL (quictls), AES-256-GCM only; stream \
        receive window 1 MiB, as it must be a power of two, and connection window 1 GiB; it copies \
        what is sent, as it does by default, and the program what is received; socket buffers of \
        its own choice; one processor means one thread, on which the application runs too";

    fn correct(&self, settings: &Settings, described: &mut Value) {
        described["socket_buffers"] = "its own choice".into();
        if settings.own_defaults {
            described["tls"] = "OpenSSL (quictls), cipher suites in its own order".into();
            described["packet_size"] = "its own path MTU discovery".into();
            described["transport"] =
                format!("its own defaults, but {STREAMS} streams, as it permits none").into();
            return;
        }
        described["tls"] = "OpenSSL (quictls), AES-256-GCM only".into();
        described["stream_receive_window"] = STREAM_WINDOW_BYTES.into();
        described["receive_window"] = CONNECTION_WINDOW_BYTES.into();
        described["send_window"] = format!("{STREAM_RECEIVE_WINDOW_BYTES} per stream").into();
        described["datagram_buffers"] = "no datagrams here".into();
        described["congestion_control"] = "cubic, paced".into();
        described["initial_window"] = "its own".into();
        described["ack_frequency"] = "its own".into();
        described["segmentation_offload"] = "on, where it finds it".into();
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        task::spawn(work);
    }

    /// Only the main thread sleeps, and nothing else runs on it.
    async fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }

    fn server(&self, settings: &Settings, listen: SocketAddr) -> Result<Endpoint> {
        let files = &self.shared.files;
        let file = CertificateFile::new(files.key.clone(), files.certificate.clone());
        let credential = CredentialConfig::new().set_credential(Credential::CertificateFile(file));
        let configuration = self.configuration(settings, None, credential)?;
        let accepted = Arc::new(Accepted::default());
        let queue = accepted.clone();
        let listener = Listener::open(&self.shared.registration, move |_, event| {
            if let ListenerEvent::NewConnection { connection, .. } = event {
                connection.set_configuration(&configuration)?;
                let inner = Arc::new(Inner::default());
                connection.set_callback_handler(connection::callback(&inner));
                // SAFETY: msquic hands the connection over to the application that accepts it,
                // and nobody else closes it.
                inner.open(unsafe { msquic::Connection::from_raw(connection.as_raw()) });
                queue.push(inner);
            }
            Ok(())
        })?;
        listener.start(&[BufferRef::from("bench")], Some(&listen.into()))?;
        let address = listener.get_local_addr()?.as_socket();
        Ok(Endpoint(Arc::new(Kind::Server {
            address: address.context("an address that is neither IPv4 nor IPv6")?,
            accepted,
            _listener: listener,
        })))
    }

    fn client(&self, settings: &Settings) -> Result<Endpoint> {
        let credential = CredentialConfig::new_client()
            .set_credential_flags(CredentialFlags::USE_TLS_BUILTIN_CERTIFICATE_VALIDATION)
            .set_ca_certificate_file(self.shared.files.certificate.clone());
        let dialer = Dialer {
            // A port for all connections, which msquic binds itself.
            address: UdpSocket::bind("127.0.0.1:0")?.local_addr()?,
            configuration: self.configuration(settings, settings.keep_alive, credential)?,
            shared: self.shared.clone(),
        };
        let address = dialer.address;
        let (wishes, received) = mpsc::channel::<Wish>();
        // Ends with the endpoint.
        thread::spawn(move || {
            for (inner, server) in received {
                if let Err(error) = dialer.dial(&inner, server) {
                    inner.fail(format!("{error:#}"));
                }
            }
        });
        Ok(Endpoint(Arc::new(Kind::Client { address, wishes })))
    }
}

impl MsQuic {
    fn configuration(
        &self,
        settings: &Settings,
        keep_alive: Option<Duration>,
        mut credential: CredentialConfig,
    ) -> Result<Configuration> {
        let mut msquic = msquic::Settings::new();
        if let Some(interval) = keep_alive {
            msquic = msquic.set_KeepAliveIntervalMs(interval.as_millis().try_into()?);
        }
        if settings.own_defaults {
            // It lets the peer open none by default.
            msquic = msquic.set_PeerBidiStreamCount(STREAMS.try_into()?);
        } else {
            let size = settings
                .packet_size
                .checked_add(HEADER_BYTES)
                .context("a packet size beyond UDP's")?;
            msquic = msquic
                .set_MinimumMtu(size)
                .set_MaximumMtu(size)
                .set_PeerBidiStreamCount(STREAMS.try_into()?)
                .set_PeerUnidiStreamCount(STREAMS.try_into()?)
                .set_IdleTimeoutMs(IDLE_TIMEOUT.as_millis().try_into()?)
                .set_StreamRecvWindowDefault(STREAM_WINDOW_BYTES)
                .set_ConnFlowControlWindow(CONNECTION_WINDOW_BYTES)
                .set_CongestionControlAlgorithm(
                    ffi::QUIC_CONGESTION_CONTROL_ALGORITHM_QUIC_CONGESTION_CONTROL_ALGORITHM_CUBIC
                        .try_into()?,
                )
                .set_PacingEnabled();
            credential =
                credential.set_allowed_cipher_suites(AllowedCipherSuiteFlags::AES_256_GCM_SHA384);
        }
        let alpn = [BufferRef::from("bench")];
        let configuration = Configuration::open(&self.shared.registration, &alpn, Some(&msquic))?;
        configuration.load_credential(&credential)?;
        Ok(configuration)
    }
}

#[derive(Clone)]
struct Endpoint(Arc<Kind>);

enum Kind {
    Server {
        address: SocketAddr,
        accepted: Arc<Accepted>,
        /// Goes on until it is dropped.
        _listener: Listener,
    },
    Client {
        address: SocketAddr,
        wishes: mpsc::Sender<Wish>,
    },
}

/// A connection to be made, and with whom.
type Wish = (Arc<Inner>, SocketAddr);

/// Makes connections, on a thread of its own: to give a connection its addresses waits for one of
/// msquic's threads, and so cannot be done on one.
struct Dialer {
    address: SocketAddr,
    configuration: Configuration,
    shared: Arc<Shared>,
}

impl Dialer {
    /// Starts the handshake; the connection's callback tells how it goes on.
    fn dial(&self, inner: &Arc<Inner>, server: SocketAddr) -> Result<()> {
        let callback = connection::callback(inner);
        let handle = msquic::Connection::open(&self.shared.registration, callback)?;
        set_param(&handle, ffi::QUIC_PARAM_CONN_SHARE_UDP_BINDING, &1u8)?;
        let addresses = [
            (ffi::QUIC_PARAM_CONN_LOCAL_ADDRESS, self.address),
            // Instead of what the name resolves to.
            (ffi::QUIC_PARAM_CONN_REMOTE_ADDRESS, server),
        ];
        for (parameter, address) in addresses {
            set_param(&handle, parameter, &Addr::from(address))?;
        }
        inner.open(handle);
        let handle = inner.handle()?;
        Ok(handle.start(&self.configuration, "localhost", server.port())?)
    }
}

/// Connections that nobody has asked for yet.
#[derive(Default)]
struct Accepted(Mutex<(VecDeque<Arc<Inner>>, Option<Waker>)>);

impl Accepted {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<Arc<Inner>>, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, inner: Arc<Inner>) {
        let mut state = self.lock();
        state.0.push_back(inner);
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl stack::Endpoint for Endpoint {
    type Incoming = Connection;
    type Connection = Connection;

    fn local_addr(&self) -> Result<SocketAddr> {
        let (Kind::Server { address, .. } | Kind::Client { address, .. }) = &*self.0;
        Ok(*address)
    }

    async fn accept(&self) -> Option<Connection> {
        let Kind::Server { accepted, .. } = &*self.0 else {
            return None;
        };
        poll_fn(|context| {
            let mut state = accepted.lock();
            if let Some(inner) = state.0.pop_front() {
                return Poll::Ready(Some(Connection::new(inner)));
            }
            state.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    async fn handshake(incoming: Connection) -> Result<Connection> {
        incoming.connected().await
    }

    async fn connect(&self, server: SocketAddr) -> Result<Connection> {
        let Kind::Client { wishes, .. } = &*self.0 else {
            bail!("a server does not connect");
        };
        let inner = Arc::new(Inner::default());
        wishes.send((inner.clone(), server))?;
        Connection::new(inner).connected().await
    }
}

/// `value` has the type that msquic documents for the parameter.
fn set_param<T>(handle: &msquic::Connection, parameter: u32, value: &T) -> Result<()> {
    // SAFETY: the handle is open, and the pointer is to a value of the size that is given, which
    // msquic compares with what the parameter needs.
    unsafe {
        Api::set_param(
            handle.as_raw(),
            parameter,
            size_of::<T>().try_into()?,
            std::ptr::from_ref(value).cast::<c_void>(),
        )
    }
    .with_context(|| format!("setting msquic's parameter {parameter:#x}"))
}
