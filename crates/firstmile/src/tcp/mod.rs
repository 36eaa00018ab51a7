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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::link::{Link, ReadError, VIDEO_PRIORITY, WriteError};

    const PATIENCE: Duration = Duration::from_secs(20);
    /// Long enough for what could happen to happen.
    const MOMENT: Duration = Duration::from_millis(300);

    /// A relay's end of a link, and the studio's.
    async fn pair() -> (Link, Link) {
        let (relay, studio) = (Identity::generate(), Identity::generate());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(keys::acceptor(&relay).unwrap()));
        let accepted = async {
            let (socket, _) = listener.accept().await.unwrap();
            accept(acceptor.accept(socket).await.unwrap(), Congestion::Bbr).unwrap()
        };
        let dialled = dial(&studio, Congestion::Cubic, address, relay.public_key());
        let (accepted, dialled) = tokio::join!(accepted, dialled);
        let dialled = dialled.unwrap();
        assert_eq!((accepted.peer(), dialled.peer()), (studio.public_key(), relay.public_key()));
        (accepted, dialled)
    }

    async fn closed(link: &Link) -> String {
        tokio::time::timeout(PATIENCE, link.closed()).await.expect("it is over")
    }

    #[tokio::test]
    async fn a_closed_link_says_why_and_a_dropped_one_is_closed() {
        let (relay, studio) = pair().await;
        let (_send, mut receive) = studio.open_control().await.unwrap();
        relay.close("enough");
        assert_eq!(
            (closed(&studio).await, closed(&relay).await),
            ("enough".into(), "closed".into())
        );
        let read = receive.read_chunk(1).await;
        assert!(matches!(read, Err(ReadError::Lost(why)) if why == "enough"));
        assert!(studio.open_tags(VIDEO_PRIORITY).await.is_err());
        assert!(studio.read_datagram().await.is_err());
        tokio::time::timeout(PATIENCE, relay.gone()).await.expect("the driver ends");

        let (relay, studio) = pair().await;
        let clone = relay.clone();
        drop(relay);
        assert!(tokio::time::timeout(MOMENT, studio.closed()).await.is_err(), "a clone is left");
        drop(clone);
        closed(&studio).await;
    }

    #[tokio::test]
    async fn who_does_not_read_holds_up_the_writer_and_nobody_else() {
        let (relay, studio) = pair().await;
        let mut video = relay.open_tags(VIDEO_PRIORITY).await.unwrap();
        let body = Bytes::from(vec![7; 32 << 20]);
        let writing = tokio::spawn({
            let body = body.clone();
            async move { (video.write_chunk(body).await, video) }
        });
        let mut stream = studio.accept_tags().await.unwrap();
        tokio::time::sleep(MOMENT).await;
        assert!(!writing.is_finished(), "32 MiB do not wait anywhere");
        let read = async {
            let mut read = 0;
            while read < body.len() {
                let chunk = stream.read_chunk(64 << 10).await.unwrap().expect("there is more");
                assert!(chunk.iter().all(|byte| *byte == 7));
                read += chunk.len();
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("it goes on");
        let (written, mut video) = writing.await.unwrap();
        written.unwrap();
        // And then it wants no more.
        drop(stream);
        let stopped = async {
            while video.write_chunk(Bytes::from_static(b"more")).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            video.write_chunk(Bytes::from_static(b"more")).await
        };
        let stopped = tokio::time::timeout(PATIENCE, stopped).await.expect("it hears of it");
        assert!(matches!(stopped, Err(WriteError::Stopped)));
    }

    #[tokio::test]
    async fn a_stream_waits_until_the_peer_takes_another() {
        let (relay, studio) = pair().await;
        let mut open = Vec::new();
        while let Ok(stream) = tokio::time::timeout(MOMENT, relay.open_tags(0)).await {
            open.push(stream.unwrap());
        }
        assert_eq!(open.len(), 1_024);
        drop(open.pop());
        tokio::time::timeout(PATIENCE, relay.open_tags(0)).await.expect("one is over").unwrap();
        relay.settle(PATIENCE).await;
        assert!(studio.received().frames < 10 && relay.rtt() < PATIENCE);
    }
}
