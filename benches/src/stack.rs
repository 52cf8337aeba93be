//! The seam between the workloads and the stacks that they run on.
//!
//! Kept thin on purpose: a method here is one call of the stack's public API, so that what is
//! measured is the stack and not this crate. A stack whose API blocks implements it just as well,
//! with futures that never wait and a `spawn` that starts a thread.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use bytes::Bytes;

use crate::settings::Settings;

/// A QUIC implementation together with the executor that it runs on.
pub trait Stack: Clone + Send + Sync + 'static {
    /// One UDP socket with QUIC on it.
    type Endpoint: Endpoint;

    /// What a reader has to know because it cannot be set alike on all stacks, or deliberately is
    /// not: printed beside the settings.
    const DIFFERS_BY: &'static str = "nothing";

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
}

/// An established connection.
pub trait Connection: Clone + Send + Sync + 'static {
    /// The sending half of a stream.
    type SendStream: SendStream;
    /// The receiving half of a stream.
    type RecvStream: RecvStream;

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
        ) -> ::anyhow::Result<::std::sync::Arc<$library::TransportConfig>> {
            use $crate::settings::{
                IDLE_TIMEOUT, SEND_WINDOW_BYTES, STREAM_RECEIVE_WINDOW_BYTES, STREAMS,
            };
            let mut transport = $library::TransportConfig::default();
            if settings.own_defaults {
                return Ok(::std::sync::Arc::new(transport));
            }
            let mut congestion = $library::congestion::CubicConfig::default();
            if let Some(bytes) = settings.initial_window() {
                congestion.initial_window(bytes);
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
                .keep_alive_interval(None)
                .ack_frequency_config(None)
                .congestion_controller_factory(::std::sync::Arc::new(congestion))
                .enable_segmentation_offload(settings.segmentation_offload());
            Ok(::std::sync::Arc::new(transport))
        }

        fn server_config(
            settings: &$crate::settings::Settings,
        ) -> ::anyhow::Result<$library::ServerConfig> {
            use $library::crypto::rustls::QuicServerConfig;
            let tls = QuicServerConfig::try_from(settings.server_tls(own_provider())?)?;
            let mut config = $library::ServerConfig::with_crypto(::std::sync::Arc::new(tls));
            config.transport_config(transport_config(settings)?);
            Ok(config)
        }

        fn client_config(
            settings: &$crate::settings::Settings,
        ) -> ::anyhow::Result<$library::ClientConfig> {
            use $library::crypto::rustls::QuicClientConfig;
            let tls = QuicClientConfig::try_from(settings.client_tls(own_provider())?)?;
            let mut config = $library::ClientConfig::new(::std::sync::Arc::new(tls));
            config.transport_config(transport_config(settings)?);
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
        }

        /// What both libraries call a connection.
        #[derive(Clone)]
        struct Established($library::Connection);

        impl $crate::stack::Connection for Established {
            type SendStream = Outgoing;
            type RecvStream = Incoming;

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
