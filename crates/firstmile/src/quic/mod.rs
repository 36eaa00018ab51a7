//! The QUIC library, and the only module that knows which one it is.
//!
//! Both ends prove an Ed25519 key in the TLS 1.3 handshake: the dialer knows the key that it
//! wants to meet (the pin), the acceptor learns who has called and decides afterwards.

mod verify;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig,
    VarInt,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;

use crate::identity::{CERTIFICATE_NAME, Identity, PublicKey};
use crate::platform;

use verify::{AnyKey, Pinned, key_of};

pub use quinn::{ClosedStream, ReadError, RecvStream, SendStream, WriteError};

/// Holds the studio's NAT open; most forget a flow after 30 s, some after 5.
const KEEP_ALIVE: Duration = Duration::from_millis(250);
/// A link silent for this long is dead. Longer outages are for a new connection: this one's own
/// timers would sleep too long.
const IDLE: Duration = Duration::from_secs(4);
/// Packets that may come before one is acknowledged, where the peer can: acknowledging every second
/// one costs as much as the media. Never more than BBR's smallest window of four packets less one:
/// beyond that a small window waits for [`ACK_DELAY`] in every round trip, measures a low rate, and
/// never grows again.
const ACK_EVERY: u32 = 3;
/// How long an acknowledgement may wait for more packets.
const ACK_DELAY: Duration = Duration::from_millis(5);
/// Streams of tags that a peer may have open: two for each of 256 feeds, and GOPs in flight.
const MAX_TAG_STREAMS: u32 = 1_024;
/// Bytes a stream may be ahead of its reader: 100 Mb/s over a round trip of 200 ms.
const STREAM_WINDOW: u32 = 2_500_000;
/// Bytes all streams may be ahead of their readers.
const WINDOW: u32 = 64 << 20;
/// Bytes that a studio's control stream may be ahead of its reader: two whole messages.
const CONTROL_WINDOW: u32 = 128 << 10;
/// Unsent bytes while nothing is known of the way: a keyframe.
const FIRST_SEND_WINDOW: u64 = 512 << 10;
/// Packets after which the way is known, and the least that may wait then.
const KNOWN_AFTER: u64 = 64;
const LEAST_SEND_WINDOW: u64 = 24 << 10;
/// Bytes that wait in the link at most, as time: what is not sent yet stays in the hub, where
/// it can still be skipped.
const LINK_BACKLOG: Duration = Duration::from_millis(50);
/// Handshakes and connections that wait for us; more are refused by the network's own timeouts.
const MAX_INCOMING: usize = 256;

/// Takes links from studios.
#[derive(Clone, Debug)]
pub struct Listener {
    endpoint: quinn::Endpoint,
}

impl Listener {
    /// Listens on a UDP address.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub fn bind(identity: &Identity, address: SocketAddr) -> Result<Self> {
        let (certificate, key) = identity.certificate();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(AnyKey))
            .with_single_cert(vec![certificate], key)?;
        tls.alpn_protocols = vec![backhaul::ALPN.to_vec()];
        // No resumption and no early data: every link proves its keys.
        tls.send_tls13_tickets = 0;
        let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        let mut transport = transport();
        // Nothing but control messages comes from a studio; whoever calls may send no more.
        transport
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(CONTROL_WINDOW))
            .receive_window(VarInt::from_u32(CONTROL_WINDOW));
        config.transport_config(Arc::new(transport)).max_incoming(MAX_INCOMING);
        let socket = udp_socket(address)?;
        let runtime = quinn::default_runtime().context("no async runtime")?;
        let endpoint =
            quinn::Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?;
        Ok(Self { endpoint })
    }

    /// The address that was bound.
    ///
    /// # Errors
    ///
    /// If the system does not tell.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.endpoint.local_addr()?)
    }

    /// The next caller; `None` once the listener is closed. The handshake is the caller's to
    /// await, so that a slow one holds up nobody.
    pub async fn accept(&self) -> Option<Incoming> {
        let incoming = self.endpoint.accept().await?;
        Some(Incoming { incoming })
    }

    /// Closes every link and waits until the peers were told.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"stopped");
        self.endpoint.wait_idle().await;
    }
}

/// A caller whose handshake has not been made yet.
#[derive(Debug)]
pub struct Incoming {
    incoming: quinn::Incoming,
}

impl Incoming {
    /// Where the caller says it is.
    pub fn remote_address(&self) -> IpAddr {
        self.incoming.remote_address().ip().to_canonical()
    }

    /// Whether the caller need not prove its address any more.
    pub fn is_proven(&self) -> bool {
        self.incoming.remote_address_validated() || !self.incoming.may_retry()
    }

    /// Turns the caller away.
    pub fn refuse(self) {
        self.incoming.refuse();
    }

    /// Makes the handshake. A caller whose address is not proven is asked to prove it first, so
    /// that nobody's address can be used against him.
    ///
    /// # Errors
    ///
    /// If the handshake fails; `Ok(None)` if the caller has to prove its address.
    pub async fn handshake(self) -> Result<Option<Link>> {
        if !self.is_proven() {
            self.incoming.retry().context("could not ask for proof of address")?;
            return Ok(None);
        }
        Link::new(self.incoming.await?).map(Some)
    }
}

/// Calls relays.
#[derive(Clone, Debug)]
pub struct Dialer {
    identity: Arc<Identity>,
}

impl Dialer {
    /// A dialer with this identity.
    pub fn new(identity: Arc<Identity>) -> Self {
        Self { identity }
    }

    /// Calls an address and expects the key `pin` there.
    ///
    /// # Errors
    ///
    /// If nobody answers, or somebody with another key.
    pub async fn dial(&self, address: SocketAddr, pin: PublicKey) -> Result<Link> {
        let (certificate, key) = self.identity.certificate();
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(pin)))
            .with_client_auth_cert(vec![certificate], key)?;
        tls.alpn_protocols = vec![backhaul::ALPN.to_vec()];
        tls.resumption = rustls::client::Resumption::disabled();
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(Arc::new(transport()));
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0; 16], 0).into(),
        };
        // A socket for each link: a new one gets a new port, and with it a new NAT entry.
        let runtime = quinn::default_runtime().context("no async runtime")?;
        let endpoint =
            quinn::Endpoint::new(EndpointConfig::default(), None, udp_socket(any)?, runtime)?;
        Link::new(endpoint.connect_with(config, address, CERTIFICATE_NAME)?.await?)
    }
}

/// One QUIC connection to a peer whose key is proven.
#[derive(Clone, Debug)]
pub struct Link {
    connection: quinn::Connection,
    peer: PublicKey,
}

/// Figures of a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkStats {
    /// Round trip time.
    pub rtt: Duration,
    /// Share of the packets sent that were lost, 0 to 1.
    pub loss: f64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

impl Link {
    fn new(connection: quinn::Connection) -> Result<Self> {
        let certificates = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
        let certificate = certificates.as_ref().and_then(|certificates| certificates.first());
        // The handshake's verifiers have let only such keys through.
        let peer = certificate.and_then(key_of).context("the peer showed no Ed25519 key")?;
        connection.set_send_window(FIRST_SEND_WINDOW);
        Ok(Self { connection, peer })
    }

    /// The peer's key.
    pub fn peer(&self) -> PublicKey {
        self.peer
    }

    /// Whether both are the same connection.
    pub fn is_same(&self, other: &Self) -> bool {
        self.connection.stable_id() == other.connection.stable_id()
    }

    /// Whether the peer is heard within `limit`; its keepalives come four times a second.
    pub async fn is_heard(&self, limit: Duration) -> bool {
        let datagrams = || self.connection.stats().udp_rx.datagrams;
        let before = datagrams();
        tokio::select! {
            _ = self.connection.closed() => false,
            () = tokio::time::sleep(limit) => datagrams() != before,
        }
    }

    /// Where the peer is now; it may move.
    pub fn remote_address(&self) -> SocketAddr {
        let mut address = self.connection.remote_address();
        address.set_ip(address.ip().to_canonical());
        address
    }

    /// Opens the control stream (dialer).
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn open_control(&self) -> Result<(SendStream, RecvStream)> {
        let (send, receive) = self.connection.open_bi().await?;
        // Control goes before everything else.
        send.set_priority(CONTROL_PRIORITY)?;
        Ok((send, receive))
    }

    /// Takes the control stream (acceptor).
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn accept_control(&self) -> Result<(SendStream, RecvStream)> {
        let (send, receive) = self.connection.accept_bi().await?;
        send.set_priority(CONTROL_PRIORITY)?;
        Ok((send, receive))
    }

    /// Opens a stream of tags. Waits while the peer has too many.
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn open_tags(&self, priority: i32) -> Result<SendStream> {
        let send = self.connection.open_uni().await?;
        send.set_priority(priority)?;
        Ok(send)
    }

    /// Takes the next stream of tags.
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn accept_tags(&self) -> Result<RecvStream> {
        Ok(self.connection.accept_uni().await?)
    }

    /// Sends a datagram, or drops it: it repeats itself.
    pub fn send_datagram(&self, datagram: Bytes) {
        let _ = self.connection.send_datagram(datagram);
    }

    /// The next datagram.
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn read_datagram(&self) -> Result<Bytes> {
        Ok(self.connection.read_datagram().await?)
    }

    /// Keeps the link's own backlog short; call it every 100 ms or so while sending.
    pub fn govern(&self) {
        let path = self.connection.stats().path;
        if path.sent_packets < KNOWN_AFTER {
            return;
        }
        // One window is in flight; what waits beside it is a share of that: window / round trip
        // is the rate.
        let rtt = path.rtt.max(Duration::from_millis(1));
        let backlog = path.cwnd as f64 * (LINK_BACKLOG.as_secs_f64() / rtt.as_secs_f64());
        let window =
            path.cwnd.saturating_add(backlog as u64).clamp(LEAST_SEND_WINDOW, u64::from(WINDOW));
        self.connection.set_send_window(window);
    }

    /// Round trip time.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// The link's figures.
    pub fn stats(&self) -> LinkStats {
        let stats = self.connection.stats();
        let sent = stats.path.sent_packets;
        LinkStats {
            rtt: stats.path.rtt,
            loss: if sent == 0 { 0.0 } else { stats.path.lost_packets as f64 / sent as f64 },
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
        }
    }

    /// Closes the link.
    pub fn close(&self, reason: &str) {
        self.connection.close(VarInt::from_u32(1), reason.as_bytes());
    }

    /// Waits until the link is lost or closed, and says why.
    pub async fn closed(&self) -> String {
        match self.connection.closed().await {
            quinn::ConnectionError::ApplicationClosed(close) => {
                String::from_utf8_lossy(&close.reason).escape_debug().to_string()
            }
            other => other.to_string(),
        }
    }
}

const CONTROL_PRIORITY: i32 = 3;
/// Audio, and what is never given up, goes before video.
pub const STEADY_PRIORITY: i32 = 2;
/// Live video.
pub const VIDEO_PRIORITY: i32 = 1;
/// What did not come live goes last.
pub const BACKFILL_PRIORITY: i32 = 0;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut acknowledge = AckFrequencyConfig::default();
    acknowledge.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY)).max_ack_delay(Some(ACK_DELAY));
    let idle = IdleTimeout::try_from(IDLE).expect("a few seconds are a valid timeout");
    transport
        .congestion_controller_factory(Arc::new(BbrConfig::default()))
        .ack_frequency_config(Some(acknowledge))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(idle))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_TAG_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(FIRST_SEND_WINDOW)
        .send_fairness(false)
        .datagram_receive_buffer_size(Some(256 << 10))
        .datagram_send_buffer_size(64 << 10);
    transport
}

/// A UDP socket with room for bursts: a keyframe arrives as some hundred packets at once.
fn udp_socket(address: SocketAddr) -> Result<std::net::UdpSocket> {
    let is_any = address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let socket = match bind_udp(address) {
        Err(error) if is_any && platform::has_no_ipv6(&error) => {
            bind_udp((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        socket => socket,
    };
    socket.with_context(|| format!("cannot listen on UDP {address}"))
}

fn bind_udp(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    const BUFFER: usize = 4 << 20;
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    if address.is_ipv6() {
        // Dual stack where the system can; a host without IPv4 mapping serves IPv6 alone.
        let _ = socket.set_only_v6(false);
    }
    // The system may grant less.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Whether a failed dial met another key than the pinned one.
pub fn is_wrong_key(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<quinn::ConnectionError>().is_some_and(|error| {
            matches!(error, quinn::ConnectionError::TransportError(error)
                if error.to_string().contains("ApplicationVerificationFailure"))
        })
    })
}
