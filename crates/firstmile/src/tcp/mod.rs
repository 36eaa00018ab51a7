//! Links over TLS and TCP, for networks that block UDP.
//!
//! The handshake proves the same keys as over QUIC. In it a [`backhaul::mux::Mux`] makes streams and
//! datagrams of the connection; one task, the driver, moves its bytes.

mod connection;
mod driver;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use backhaul::Role;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client, server};

use crate::identity::{CERTIFICATE_NAME, Identity, PublicKey};
use crate::link::{self, keys};
use crate::platform;
use crate::quic::Congestion;

pub use connection::Link;
pub use stream::{RecvStream, SendStream};

/// Takes a caller whose handshake is over.
///
/// # Errors
///
/// If it has shown no key.
pub fn accept(stream: server::TlsStream<TcpStream>, congestion: Congestion) -> Result<link::Link> {
    let peer = keys::peer(stream.get_ref().1.peer_certificates())?;
    platform::tune_link(stream.get_ref().0, congestion == Congestion::Bbr);
    Ok(link::Link::Tcp(Link::start(stream.into(), Role::Acceptor, peer)?))
}

/// Calls an address and expects the key `pin` there.
///
/// # Errors
///
/// If nobody answers, or somebody with another key.
pub async fn dial(
    identity: &Identity,
    congestion: Congestion,
    address: SocketAddr,
    pin: PublicKey,
) -> Result<link::Link> {
    let stream = connect(identity, address, pin).await?;
    platform::tune_link(stream.get_ref().0, congestion == Congestion::Bbr);
    Ok(link::Link::Tcp(Link::start(stream.into(), Role::Dialer, pin)?))
}

/// Makes the handshake alone: what is said in it is the caller's.
///
/// # Errors
///
/// As [`dial`].
pub async fn connect(
    identity: &Identity,
    address: SocketAddr,
    pin: PublicKey,
) -> Result<client::TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(Arc::new(keys::dialer(identity, pin)?));
    let name = ServerName::try_from(CERTIFICATE_NAME)?;
    Ok(connector.connect(name, socket).await?)
}

/// Whether a failed dial met another key than the pinned one.
pub fn is_wrong_key(error: &anyhow::Error) -> bool {
    let verification = rustls::CertificateError::ApplicationVerificationFailure;
    error.chain().any(|cause| {
        let tls = cause.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        let tls = tls.and_then(|error| error.downcast_ref::<rustls::Error>());
        matches!(tls, Some(rustls::Error::InvalidCertificate(why)) if *why == verification)
    })
}
