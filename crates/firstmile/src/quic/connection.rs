//! One QUIC connection as a link: its streams, its figures, and whether it is heard.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use quinn::{AsyncUdpSocket, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;

use super::sockets::Sockets;
use super::transport::{FIRST_SEND_WINDOW, WINDOW};
use crate::identity::PublicKey;
use crate::link::{CONTROL_PRIORITY, LinkStats, ReadError, Received, WriteError, keys};
use crate::platform;

/// Packets after which the way is known, and the least that may wait then.
const KNOWN_AFTER: u64 = 64;
const LEAST_SEND_WINDOW: u64 = 24 << 10;
/// Bytes that wait in the link at most, as time: what is not sent yet stays in the hub, where
/// it can still be skipped.
const LINK_BACKLOG: Duration = Duration::from_millis(50);
/// How often it is looked whether everything was delivered.
const SETTLE_INTERVAL: Duration = Duration::from_millis(10);
/// Nothing was sent again for this long, and for two round trips: it was delivered.
const SETTLED: Duration = Duration::from_millis(50);

/// One QUIC connection to a peer whose key is proven.
#[derive(Clone, Debug)]
pub struct Link {
    connection: quinn::Connection,
    peer: PublicKey,
    /// The dialer's own; an acceptor's links share one that stays.
    own: Option<Arc<Own>>,
    heard: Arc<Mutex<Heard>>,
}

/// What a dialled link has for itself.
#[derive(Debug)]
struct Own {
    endpoint: quinn::Endpoint,
    sockets: Mutex<Arc<Sockets>>,
}

/// When a link was seen to have been heard last.
#[derive(Clone, Copy, Debug)]
struct Heard {
    datagrams: u64,
    at: Instant,
}

impl Link {
    pub(super) fn new(
        connection: quinn::Connection,
        own: Option<(quinn::Endpoint, Arc<Sockets>)>,
    ) -> Result<Self> {
        let certificates = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
        let peer = keys::peer(certificates.as_ref().map(|certificates| &certificates[..]))?;
        connection.set_send_window(FIRST_SEND_WINDOW);
        let heard = Arc::new(Mutex::new(Heard { datagrams: 0, at: Instant::now() }));
        let own =
            own.map(|(endpoint, sockets)| Arc::new(Own { endpoint, sockets: Mutex::new(sockets) }));
        Ok(Self { connection, peer, own, heard })
    }

    /// The peer's key.
    pub fn peer(&self) -> PublicKey {
        self.peer
    }

    /// Whether both are the same connection.
    pub fn is_same(&self, other: &Self) -> bool {
        self.connection.stable_id() == other.connection.stable_id()
    }

    /// What has come from the peer so far.
    pub fn received(&self) -> Received {
        let stats = self.connection.stats();
        let frames = stats.frame_rx.stream + stats.frame_rx.datagram;
        Received { packets: stats.udp_rx.datagrams, frames }
    }

    /// How long nothing has come of the peer, whose keepalives come four times a second; as exact as
    /// this is asked often.
    pub fn silence(&self) -> Duration {
        let datagrams = self.connection.stats().udp_rx.datagrams;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.datagrams != datagrams {
            *heard = Heard { datagrams, at: Instant::now() };
        }
        heard.at.elapsed()
    }

    /// Goes on from a new UDP socket (dialer): the machine has another address now, or whatever is in
    /// between lets the old one's packets no longer through. The peer follows with the first packet
    /// that it gets, and sends at once: what was in flight on the old way does not count on the new.
    ///
    /// # Errors
    ///
    /// If there is no socket to be had.
    pub fn rebind(&self) -> Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        let mut sockets = own.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let more = sockets.and_another(self.connection.remote_address())?;
        own.endpoint.rebind_abstract(more.clone())?;
        *sockets = more;
        Ok(())
    }

    /// Sends a packet now (dialer), which the peer has to acknowledge.
    ///
    /// # Errors
    ///
    /// If the system does not let us.
    pub fn knock(&self) -> Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        // The library has no word for it; a change of the socket, be it to the same, has that effect.
        let sockets = own.sockets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        own.endpoint.rebind_abstract(sockets)?;
        Ok(())
    }

    /// Waits until what was written is delivered, but no longer than `limit`; nothing may be written
    /// meanwhile.
    pub async fn settle(&self, limit: Duration) {
        let settled = async {
            let (mut sent, mut since) = (0, Instant::now());
            loop {
                let stats = self.connection.stats();
                if stats.frame_tx.stream != sent {
                    (sent, since) = (stats.frame_tx.stream, Instant::now());
                }
                if since.elapsed() > SETTLED.max(2 * stats.path.rtt) {
                    return;
                }
                tokio::time::sleep(SETTLE_INTERVAL).await;
            }
        };
        tokio::select! {
            _ = self.connection.closed() => {}
            _ = tokio::time::timeout(limit, settled) => {}
        }
    }

    /// Where the peer is now; it may move.
    pub fn remote_address(&self) -> SocketAddr {
        let mut address = self.connection.remote_address();
        address.set_ip(address.ip().to_canonical());
        address
    }

    /// This machine's address on the link, where the system tells.
    pub fn local_ip(&self) -> Option<IpAddr> {
        let own = self.own.as_ref().and_then(|own| {
            let sockets = own.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            sockets.local_addr().ok().map(|address| address.ip())
        });
        let bound = own.filter(|ip| !ip.is_unspecified());
        // A socket that is bound to no address sends from where the way to the peer begins.
        let ip = bound.or_else(|| self.connection.local_ip());
        let ip = ip.or_else(|| platform::address_towards(self.connection.remote_address()));
        ip.map(|ip| ip.to_canonical())
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
        // One window is in flight; beside it waits what the way delivers in that time.
        let known = self.connection.congestion_state().metrics().pacing_rate.unwrap_or_default();
        let rtt = path.rtt.max(Duration::from_millis(1)).as_secs_f64();
        let rate = if known > 0 { known as f64 / 8.0 } else { path.cwnd as f64 / rtt };
        let backlog = rate * LINK_BACKLOG.as_secs_f64();
        let window =
            path.cwnd.saturating_add(backlog as u64).clamp(LEAST_SEND_WINDOW, u64::from(WINDOW));
        self.connection.set_send_window(window);
    }

    /// Acknowledgements that have come, in all.
    pub fn acknowledgements(&self) -> u64 {
        self.connection.stats().frame_rx.acks
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
            loss: Some(match sent {
                0 => 0.0,
                sent => stats.path.lost_packets as f64 / sent as f64,
            }),
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
        reason(&self.connection.closed().await)
    }

    /// Why the link is lost or closed, if it is.
    pub fn close_reason(&self) -> Option<String> {
        self.connection.close_reason().as_ref().map(reason)
    }
}

fn reason(error: &quinn::ConnectionError) -> String {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            String::from_utf8_lossy(&close.reason).escape_debug().to_string()
        }
        quinn::ConnectionError::Reset => "the peer was restarted".to_owned(),
        other => other.to_string(),
    }
}

impl From<quinn::WriteError> for WriteError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(_) | quinn::WriteError::ClosedStream => Self::Stopped,
            quinn::WriteError::ConnectionLost(lost) => Self::Lost(reason(&lost)),
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<quinn::ClosedStream> for WriteError {
    fn from(_: quinn::ClosedStream) -> Self {
        Self::Stopped
    }
}

impl From<quinn::ReadError> for ReadError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(_) => Self::Reset,
            quinn::ReadError::ConnectionLost(lost) => Self::Lost(reason(&lost)),
            other => Self::Lost(other.to_string()),
        }
    }
}
