//! The seam between the workloads and the stacks that they run on.
//!
//! Kept thin on purpose: a method here is one call of the stack's public API, so that what is
//! measured is the stack and not this crate. A stack whose API blocks implements it just as well,
//! with futures that never wait and a `spawn` that starts a thread. What only some workloads need
//! has a default that fails and says that the stack does not have it, so that it is reported as
//! missing there and not as something else.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use bytes::Bytes;
pub use futures_util::future::BoxFuture;
pub use serde_json::Value;

use crate::{settings::Settings, tickets::Tickets};

/// A QUIC implementation together with the executor that it runs on.
pub trait Stack: Clone + Send + Sync + 'static {
    /// One UDP socket with QUIC on it.
    type Endpoint: Endpoint;

    /// What a reader has to know because it cannot be set alike on all stacks, or deliberately is
    /// not: printed beside the settings.
    const DIFFERS_BY: &'static str = "nothing";

    /// Corrects, in what [`Settings::describe`] says, the fields that are otherwise on this stack.
    fn correct(&self, settings: &Settings, described: &mut Value) {
        let _ = (settings, described);
    }

    /// Starts a task that nobody waits for.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// Waits, without keeping other tasks from running.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;

    /// An endpoint that accepts connections, on `settings`' listening address.
    fn server(&self, settings: &Settings, listen: SocketAddr) -> Result<Self::Endpoint>;

    /// An endpoint that makes connections, with a port of its own.
    fn client(&self, settings: &Settings) -> Result<Self::Endpoint>;
}

/// One UDP socket with QUIC on it.
pub trait Endpoint: Clone + Send + Sync + 'static {
    /// A peer's wish to connect.
    type Incoming: Send + 'static;
    /// An established connection.
    type Connection: Connection;

    /// The address that this endpoint is bound to.
    fn local_addr(&self) -> Result<SocketAddr>;

    /// Waits for a peer; `None` once the endpoint has been closed.
    fn accept(&self) -> impl Future<Output = Option<Self::Incoming>> + Send;

    /// The server's part of the handshake.
    fn handshake(incoming: Self::Incoming)
    -> impl Future<Output = Result<Self::Connection>> + Send;

    /// The client's part of the handshake, as `localhost`.
    fn connect(&self, server: SocketAddr) -> impl Future<Output = Result<Self::Connection>> + Send;

    /// Waits until the next connection of this client's can resume a session without taking the
    /// ticket of another, for stacks whose [`connect`](Self::connect) resumes sessions.
    ///
    /// `tickets` is where those are that use [`Settings::client_tls`]; others keep their own.
    fn ticket(&self, tickets: &Tickets) -> impl Future<Output = Result<()>> + Send {
        let _ = tickets;
        async { bail!("this stack has no session resumption here") }
    }

    /// Connects with a session ticket and does not wait for the handshake, which is an error where
    /// 0-RTT is impossible; the second future says whether the server accepted it.
    fn connect_early(
        &self,
        server: SocketAddr,
    ) -> impl Future<Output = Result<(Self::Connection, BoxFuture<'static, bool>)>> + Send {
        let _ = server;
        async { bail!("this stack has no 0-RTT here") }
    }

    /// The server's part of the handshake up to where 0-RTT data can be read and answered.
    fn handshake_early(
        incoming: Self::Incoming,
    ) -> impl Future<Output = Result<Self::Connection>> + Send {
        Self::handshake(incoming)
    }
}

/// An established connection.
pub trait Connection: Clone + Send + Sync + 'static {
    /// The sending half of a stream.
    type SendStream: SendStream;
    /// The receiving half of a stream.
    type RecvStream: RecvStream;

    /// Whether [`packet_size`](Self::packet_size) answers. Where not, the printed settings say that
    /// the size of packets could not be checked.
    const TELLS_PACKET_SIZE: bool = false;

    /// Whether [`packets_sent`](Self::packets_sent) answers. Where not, the printed settings say
    /// that keep-alives could not be checked.
    const COUNTS_PACKETS: bool = false;

    /// Opens a bidirectional stream.
    fn open_bi(&self) -> impl Future<Output = Result<(Self::SendStream, Self::RecvStream)>> + Send;

    /// Waits for a bidirectional stream that the peer opens.
    fn accept_bi(
        &self,
    ) -> impl Future<Output = Result<(Self::SendStream, Self::RecvStream)>> + Send;

    /// Closes with code 0 and no reason.
    fn close(&self);

    /// Waits until the connection is closed, by whichever side.
    fn closed(&self) -> impl Future<Output = ()> + Send;

    /// Hands over an unreliable datagram (RFC 9221), waiting while there is no room for it.
    fn send_datagram(&self, data: Bytes) -> impl Future<Output = Result<()>> + Send {
        let _ = data;
        async { bail!("this stack has no datagrams here") }
    }

    /// Waits for an unreliable datagram.
    fn read_datagram(&self) -> impl Future<Output = Result<Bytes>> + Send {
        async { bail!("this stack has no datagrams here") }
    }

    /// Whether this connection resumed a session, for stacks without [`Settings::client_tls`],
    /// where that is known from certificates that were not looked at.
    fn resumed(&self) -> Option<bool> {
        None
    }

    /// UDP payload of a full packet at present, where the stack tells: stacks reduce it when they
    /// think that larger packets do not arrive.
    fn packet_size(&self) -> Option<u64> {
        None
    }

    /// UDP datagrams sent so far, where the stack counts them.
    fn packets_sent(&self) -> Option<u64> {
        None
    }
}

/// The sending half of a stream.
pub trait SendStream: Send + 'static {
    /// Hands over all of `chunk` without a copy by the application.
    fn write_chunk(&mut self, chunk: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Writes all of `data` from a borrowed slice.
    fn write_all(&mut self, data: &[u8]) -> impl Future<Output = Result<()>> + Send;

    /// Ends the stream.
    fn finish(&mut self) -> Result<()>;
}

/// The receiving half of a stream.
pub trait RecvStream: Send + 'static {
    /// The next bytes in order, as the stack has them; `None` at the end of the stream.
    fn read_chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// Everything up to the end of the stream, at most `limit_bytes`.
    fn read_to_end(&mut self, limit_bytes: usize) -> impl Future<Output = Result<Vec<u8>>> + Send;

    /// Asks the peer to send no more.
    fn stop(&mut self);
}

/// Implements the traits of this module for a stack with quinn's names, `quinn` itself or
/// `polyquic`, and makes its configurations. One text for both, so that neither can get a better
/// one.
#[macro_export]
macro_rules! impl_quinn_names {
    ($library:ident) => {
        fn transport_config(
            settings: &$crate::settings::Settings,
            keep_alive: Option<::std::time::Duration>,
        ) -> ::anyhow::Result<::std::sync::Arc<$library::TransportConfig>> {
            use $crate::settings::{
                DATAGRAM_RECEIVE_BUFFER_BYTES, DATAGRAM_SEND_BUFFER_BYTES, IDLE_TIMEOUT,
                SEND_WINDOW_BYTES, STREAM_RECEIVE_WINDOW_BYTES, STREAMS,
            };
            let mut transport = $library::TransportConfig::default();
            transport.keep_alive_interval(keep_alive);
            if settings.own_defaults {
                return Ok(::std::sync::Arc::new(transport));
            }
            let mut cubic = $library::congestion::CubicConfig::default();
            if let Some(bytes) = settings.initial_window() {
                cubic.initial_window(bytes);
            }
            transport
                .initial_mtu(settings.packet_size)
                // Probes would cost packets and CPU, and end at a size that depends on the stack.
                .mtu_discovery_config(None)
                .stream_receive_window(STREAM_RECEIVE_WINDOW_BYTES.into())
                .receive_window($library::VarInt::MAX)
                .send_window(SEND_WINDOW_BYTES)
                .max_concurrent_bidi_streams(STREAMS.into())
                .max_concurrent_uni_streams(STREAMS.into())
                .max_idle_timeout(Some(IDLE_TIMEOUT.try_into()?))
                .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER_BYTES))
                .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER_BYTES)
                .ack_frequency_config(None)
                .congestion_controller_factory(::std::sync::Arc::new(cubic))
                .enable_segmentation_offload(settings.segmentation_offload());
            Ok(::std::sync::Arc::new(transport))
        }

        fn server_config(
            settings: &$crate::settings::Settings,
        ) -> ::anyhow::Result<$library::ServerConfig> {
            use $library::crypto::rustls::QuicServerConfig;
            let tls = QuicServerConfig::try_from(settings.server_tls(own_provider())?)?;
            let mut config = $library::ServerConfig::with_crypto(::std::sync::Arc::new(tls));
            config.transport_config(transport_config(settings, None)?);
            Ok(config)
        }

        fn client_config(
            settings: &$crate::settings::Settings,
        ) -> ::anyhow::Result<$library::ClientConfig> {
            use $library::crypto::rustls::QuicClientConfig;
            let tls = QuicClientConfig::try_from(settings.client_tls(own_provider())?)?;
            let mut config = $library::ClientConfig::new(::std::sync::Arc::new(tls));
            config.transport_config(transport_config(settings, settings.keep_alive)?);
            Ok(config)
        }

        fn endpoint_config(
            settings: &$crate::settings::Settings,
        ) -> ::anyhow::Result<$library::EndpointConfig> {
            let mut config = $library::EndpointConfig::default();
            config.max_udp_payload_size(settings.max_udp_payload_size())?;
            Ok(config)
        }

        /// What both libraries call an endpoint.
        #[derive(Clone)]
        struct QuinnNames($library::Endpoint);

        impl $crate::stack::Endpoint for QuinnNames {
            type Incoming = $library::Incoming;
            type Connection = Established;

            fn local_addr(&self) -> ::anyhow::Result<::std::net::SocketAddr> {
                Ok(self.0.local_addr()?)
            }

            async fn accept(&self) -> Option<Self::Incoming> {
                self.0.accept().await
            }

            async fn handshake(incoming: Self::Incoming) -> ::anyhow::Result<Self::Connection> {
                Ok(Established(incoming.accept()?.await?))
            }

            async fn connect(
                &self,
                server: ::std::net::SocketAddr,
            ) -> ::anyhow::Result<Self::Connection> {
                Ok(Established(self.0.connect(server, "localhost")?.await?))
            }

            async fn ticket(&self, tickets: &$crate::tickets::Tickets) -> ::anyhow::Result<()> {
                tickets.reserve().await;
                Ok(())
            }

            async fn connect_early(
                &self,
                server: ::std::net::SocketAddr,
            ) -> ::anyhow::Result<(Self::Connection, $crate::stack::BoxFuture<'static, bool>)> {
                let connecting = self.0.connect(server, "localhost")?;
                let Ok((connection, accepted)) = connecting.into_0rtt() else {
                    ::anyhow::bail!("a connection without a ticket that permits 0-RTT");
                };
                Ok((Established(connection), ::std::boxed::Box::pin(accepted)))
            }

            async fn handshake_early(
                incoming: Self::Incoming,
            ) -> ::anyhow::Result<Self::Connection> {
                let Ok((connection, _)) = incoming.accept()?.into_0rtt() else {
                    ::anyhow::bail!("a server that cannot use a connection early");
                };
                Ok(Established(connection))
            }
        }

        /// What both libraries call a connection.
        #[derive(Clone)]
        struct Established($library::Connection);

        impl $crate::stack::Connection for Established {
            type SendStream = Outgoing;
            type RecvStream = Incoming;

            const TELLS_PACKET_SIZE: bool = true;
            const COUNTS_PACKETS: bool = true;

            async fn open_bi(&self) -> ::anyhow::Result<(Outgoing, Incoming)> {
                let (send, recv) = self.0.open_bi().await?;
                Ok((Outgoing(send), Incoming(recv)))
            }

            async fn accept_bi(&self) -> ::anyhow::Result<(Outgoing, Incoming)> {
                let (send, recv) = self.0.accept_bi().await?;
                Ok((Outgoing(send), Incoming(recv)))
            }

            fn close(&self) {
                self.0.close(0u32.into(), &[]);
            }

            async fn closed(&self) {
                self.0.closed().await;
            }

            async fn send_datagram(&self, data: ::bytes::Bytes) -> ::anyhow::Result<()> {
                Ok(self.0.send_datagram_wait(data).await?)
            }

            async fn read_datagram(&self) -> ::anyhow::Result<::bytes::Bytes> {
                Ok(self.0.read_datagram().await?)
            }

            fn packet_size(&self) -> Option<u64> {
                Some(self.0.stats().path.current_mtu.into())
            }

            fn packets_sent(&self) -> Option<u64> {
                Some(self.0.stats().udp_tx.datagrams)
            }
        }

        /// What both libraries call a sending stream.
        struct Outgoing($library::SendStream);

        impl $crate::stack::SendStream for Outgoing {
            async fn write_chunk(&mut self, chunk: ::bytes::Bytes) -> ::anyhow::Result<()> {
                Ok(self.0.write_chunk(chunk).await?)
            }

            async fn write_all(&mut self, data: &[u8]) -> ::anyhow::Result<()> {
                Ok(self.0.write_all(data).await?)
            }

            fn finish(&mut self) -> ::anyhow::Result<()> {
                Ok(self.0.finish()?)
            }
        }

        /// What both libraries call a receiving stream.
        struct Incoming($library::RecvStream);

        impl $crate::stack::RecvStream for Incoming {
            async fn read_chunk(&mut self) -> ::anyhow::Result<Option<::bytes::Bytes>> {
                let chunk = self.0.read_chunk(usize::MAX, true).await?;
                Ok(chunk.map(|chunk| chunk.bytes))
            }

            async fn read_to_end(&mut self, limit_bytes: usize) -> ::anyhow::Result<Vec<u8>> {
                Ok(self.0.read_to_end(limit_bytes).await?)
            }

            fn stop(&mut self) {
                // An error says that the stream has ended already, which is what was wanted.
                let _ = self.0.stop(0u32.into());
            }
        }
    };
}
