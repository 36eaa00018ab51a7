//! The QUIC library, and the only module that knows which one it is.
//!
//! Both ends prove an Ed25519 key in the TLS 1.3 handshake: the dialer knows the key that it
//! wants to meet (the pin), the acceptor learns who has called and decides afterwards.

mod congestion;
mod connection;
mod runtime;
mod socket;
mod sockets;
mod transport;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, EndpointConfig, ServerConfig, VarInt};

use crate::identity::{CERTIFICATE_NAME, Identity, PublicKey};
use crate::link::{self, keys};

use runtime::Tokio;
use socket::udp_socket;
use sockets::Sockets;
use transport::{CONTROL_WINDOW, acceptor, transport};

pub use connection::Link;
pub use quinn::{RecvStream, SendStream};
pub use transport::Congestion;

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
    pub fn bind(identity: &Identity, address: SocketAddr, congestion: Congestion) -> Result<Self> {
        let tls = keys::acceptor(identity)?;
        let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        let mut transport = transport(congestion);
        // Nothing but control messages comes from a studio; whoever calls may send no more.
        transport
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(CONTROL_WINDOW))
            .receive_window(VarInt::from_u32(CONTROL_WINDOW));
        config.transport_config(Arc::new(transport)).max_incoming(MAX_INCOMING);
        let socket = udp_socket(address)?;
        let runtime = Arc::new(Tokio);
        let endpoint = quinn::Endpoint::new(acceptor(identity), Some(config), socket, runtime)?;
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
    pub async fn handshake(self) -> Result<Option<link::Link>> {
        if !self.is_proven() {
            self.incoming.retry().context("could not ask for proof of address")?;
            return Ok(None);
        }
        Ok(Some(link::Link::Quic(Link::new(self.incoming.await?, None)?)))
    }
}

/// Calls relays.
#[derive(Clone, Debug)]
pub struct Dialer {
    identity: Arc<Identity>,
    congestion: Congestion,
}

impl Dialer {
    /// A dialer with this identity.
    pub fn new(identity: Arc<Identity>) -> Self {
        Self { identity, congestion: Congestion::default() }
    }

    /// The same with this congestion control.
    pub fn with_congestion(self, congestion: Congestion) -> Self {
        Self { congestion, ..self }
    }

    /// Calls an address and expects the key `pin` there.
    ///
    /// # Errors
    ///
    /// If nobody answers, or somebody with another key.
    pub async fn dial(&self, address: SocketAddr, pin: PublicKey) -> Result<link::Link> {
        let tls = keys::dialer(&self.identity, pin)?;
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(Arc::new(transport(self.congestion)));
        // A socket for each link: a new one gets a new port, and with it a new NAT entry.
        let sockets = Sockets::towards(address)?;
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            EndpointConfig::default(),
            None,
            sockets.clone(),
            Arc::new(Tokio),
        )?;
        let connection = endpoint.connect_with(config, address, CERTIFICATE_NAME)?.await?;
        Ok(link::Link::Quic(Link::new(connection, Some((endpoint, sockets)))?))
    }
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
