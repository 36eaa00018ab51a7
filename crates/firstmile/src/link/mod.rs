//! One connection between a relay and a studio, whatever carries it.
//!
//! A link has one control stream in both directions, one-way streams of tags, and datagrams. Both
//! ends have proven their keys. What carries it is behind [`quic`] and [`tcp`], and nobody else asks
//! which of the two it is.

mod dialer;
pub(crate) mod keys;
mod stream;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;

use crate::identity::PublicKey;
use crate::{quic, tcp};

pub use dialer::{Dialer, Transports, is_wrong_key};
pub use stream::{ReadError, RecvStream, SendStream, WriteError};

/// What is said beside media goes first.
pub(crate) const CONTROL_PRIORITY: i32 = 3;
/// Audio, and what is never given up, goes before video.
pub const STEADY_PRIORITY: i32 = 2;
/// Live video.
pub const VIDEO_PRIORITY: i32 = 1;
/// What did not come live goes last.
pub const BACKFILL_PRIORITY: i32 = 0;

/// One connection to a peer whose key is proven. Clones are the same connection.
#[derive(Clone, Debug)]
pub enum Link {
    /// QUIC over UDP.
    Quic(quic::Link),
    /// TLS over TCP.
    Tcp(tcp::Link),
}

/// What carries a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        })
    }
}

/// What has come from the peer so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Packets of any kind, keepalives too.
    pub packets: u64,
    /// Parts of them that carried what a program had to say.
    pub frames: u64,
}

/// Figures of a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkStats {
    /// Round trip time.
    pub rtt: Duration,
    /// Share of the packets sent that were lost, 0 to 1; `None` where that is not known.
    pub loss: Option<f64>,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

impl Link {
    /// What carries it.
    pub fn transport(&self) -> Transport {
        match self {
            Self::Quic(_) => Transport::Quic,
            Self::Tcp(_) => Transport::Tcp,
        }
    }

    /// The peer's key.
    pub fn peer(&self) -> PublicKey {
        match self {
            Self::Quic(link) => link.peer(),
            Self::Tcp(link) => link.peer(),
        }
    }

    /// Whether both are the same connection.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quic(link), Self::Quic(other)) => link.is_same(other),
            (Self::Tcp(link), Self::Tcp(other)) => link.is_same(other),
            _ => false,
        }
    }

    /// What has come from the peer so far.
    pub fn received(&self) -> Received {
        match self {
            Self::Quic(link) => link.received(),
            Self::Tcp(link) => link.received(),
        }
    }

    /// How long nothing has come of the peer, whose keepalives come four times a second; as exact as
    /// this is asked often.
    pub fn silence(&self) -> Duration {
        match self {
            Self::Quic(link) => link.silence(),
            Self::Tcp(link) => link.silence(),
        }
    }

    /// Whether the peer is not silent for `limit`; waits for what is missing of it.
    pub async fn is_heard(&self, limit: Duration) -> bool {
        let left = limit.saturating_sub(self.silence());
        tokio::select! {
            _ = self.closed() => false,
            () = tokio::time::sleep(left) => self.silence() < limit,
        }
    }

    /// Goes on from a new UDP socket (dialer), if it has one: the machine has another address now, or whatever is in
    /// between lets the old one's packets no longer through. The peer follows with the first packet
    /// that it gets, and sends at once: what was in flight on the old way does not count on the new.
    ///
    /// # Errors
    ///
    /// If there is no socket to be had.
    pub fn rebind(&self) -> Result<()> {
        match self {
            Self::Quic(link) => link.rebind(),
            // A connection cannot move: another has to be made.
            Self::Tcp(_) => Ok(()),
        }
    }

    /// Sends a packet now (dialer), which the peer has to acknowledge.
    ///
    /// # Errors
    ///
    /// If the system does not let us.
    pub fn knock(&self) -> Result<()> {
        match self {
            Self::Quic(link) => link.knock(),
            Self::Tcp(link) => {
                link.knock();
                Ok(())
            }
        }
    }

    /// Waits until what was written is delivered, but no longer than `limit`; nothing may be written
    /// meanwhile.
    pub async fn settle(&self, limit: Duration) {
        match self {
            Self::Quic(link) => link.settle(limit).await,
            Self::Tcp(link) => link.settle(limit).await,
        }
    }

    /// Where the peer is now; it may move.
    pub fn remote_address(&self) -> SocketAddr {
        match self {
            Self::Quic(link) => link.remote_address(),
            Self::Tcp(link) => link.remote_address(),
        }
    }

    /// This machine's address on the link, where the system tells.
    pub fn local_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Quic(link) => link.local_ip(),
            Self::Tcp(link) => Some(link.local_ip()),
        }
    }

    /// Opens the control stream (dialer).
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn open_control(&self) -> Result<(SendStream, RecvStream)> {
        match self {
            Self::Quic(link) => {
                let (send, receive) = link.open_control().await?;
                Ok((SendStream::Quic(send), RecvStream::Quic(receive)))
            }
            Self::Tcp(link) => {
                let (send, receive) = link.control();
                Ok((SendStream::Tcp(send), RecvStream::Tcp(receive)))
            }
        }
    }

    /// Takes the control stream (acceptor).
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn accept_control(&self) -> Result<(SendStream, RecvStream)> {
        match self {
            Self::Quic(link) => {
                let (send, receive) = link.accept_control().await?;
                Ok((SendStream::Quic(send), RecvStream::Quic(receive)))
            }
            Self::Tcp(link) => {
                let (send, receive) = link.control();
                Ok((SendStream::Tcp(send), RecvStream::Tcp(receive)))
            }
        }
    }

    /// Opens a stream of tags. Waits while the peer has too many.
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn open_tags(&self, priority: i32) -> Result<SendStream> {
        match self {
            Self::Quic(link) => Ok(SendStream::Quic(link.open_tags(priority).await?)),
            Self::Tcp(link) => Ok(SendStream::Tcp(link.open_tags(priority).await?)),
        }
    }

    /// Takes the next stream of tags.
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn accept_tags(&self) -> Result<RecvStream> {
        match self {
            Self::Quic(link) => Ok(RecvStream::Quic(link.accept_tags().await?)),
            Self::Tcp(link) => Ok(RecvStream::Tcp(link.accept_tags().await?)),
        }
    }

    /// Sends a datagram, or drops it: it repeats itself.
    pub fn send_datagram(&self, datagram: Bytes) {
        match self {
            Self::Quic(link) => link.send_datagram(datagram),
            Self::Tcp(link) => link.send_datagram(datagram),
        }
    }

    /// The next datagram.
    ///
    /// # Errors
    ///
    /// If the link is lost.
    pub async fn read_datagram(&self) -> Result<Bytes> {
        match self {
            Self::Quic(link) => link.read_datagram().await,
            Self::Tcp(link) => link.read_datagram().await,
        }
    }

    /// Keeps the link's own backlog short; call it every 100 ms or so while sending.
    pub fn govern(&self) {
        match self {
            Self::Quic(link) => link.govern(),
            // It does so with every report that comes.
            Self::Tcp(_) => {}
        }
    }

    /// Acknowledgements that have come, in all.
    pub fn acknowledgements(&self) -> u64 {
        match self {
            Self::Quic(link) => link.acknowledgements(),
            Self::Tcp(link) => link.acknowledgements(),
        }
    }

    /// Round trip time.
    pub fn rtt(&self) -> Duration {
        match self {
            Self::Quic(link) => link.rtt(),
            Self::Tcp(link) => link.rtt(),
        }
    }

    /// The link's figures.
    pub fn stats(&self) -> LinkStats {
        match self {
            Self::Quic(link) => link.stats(),
            Self::Tcp(link) => link.stats(),
        }
    }

    /// Closes the link.
    pub fn close(&self, reason: &str) {
        match self {
            Self::Quic(link) => link.close(reason),
            Self::Tcp(link) => link.close(reason),
        }
    }

    /// Waits until the link is lost or closed, and says why.
    pub async fn closed(&self) -> String {
        match self {
            Self::Quic(link) => link.closed().await,
            Self::Tcp(link) => link.closed().await,
        }
    }

    /// Why the link is lost or closed, if it is.
    pub fn close_reason(&self) -> Option<String> {
        match self {
            Self::Quic(link) => link.close_reason(),
            Self::Tcp(link) => link.close_reason(),
        }
    }

    /// Waits until the peer of a link that was closed knows it, as far as the link has to see to that;
    /// a QUIC listener does it for all of its own.
    pub async fn gone(&self) {
        match self {
            Self::Quic(_) => {}
            Self::Tcp(link) => link.gone().await,
        }
    }
}
