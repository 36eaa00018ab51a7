//! The TLS door: RTMPS, HTTPS and, on a relay, studios whose network blocks UDP, on one port.
//!
//! Who calls is seen in three steps: the first byte of the connection says whether it is TLS at all,
//! the client's hello whether it is a studio, and the first byte inside TLS whether it is an encoder
//! or a browser. Encoders offer no ALPN and often no server name; neither is asked for.

pub mod certificate;

use std::io;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{Acceptor, NoServerSessionStorage};
use rustls::{AlertDescription, ServerConfig};
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::identity::Identity;
use crate::link::keys;

pub use certificate::Certificate;

/// RFC 7301: HTTP/1.1 by its registered name.
const HTTP: &[u8] = b"http/1.1";
/// The first byte of a TLS connection: a handshake record (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Makes the TLS handshake with whoever calls, and finds out what for.
#[derive(Debug)]
pub struct Server {
    /// For clients that offer no protocol, or ones that we do not know.
    plain: Arc<ServerConfig>,
    /// For clients that offer HTTP/1.1.
    http: Arc<ServerConfig>,
    /// For studios, who are shown this node's own key and not its certificate.
    studios: Option<Arc<ServerConfig>>,
    /// Refuses a protocol in TLS's own words.
    refusal: Arc<ServerConfig>,
}

/// Who has called, after the handshake. What was looked at is still to be read.
#[derive(Debug)]
pub enum Caller {
    /// An encoder or a player.
    Rtmp(TlsStream<TcpStream>),
    /// A browser or another HTTP client.
    Http(TlsStream<TcpStream>),
    /// A studio; it has proven a key. Nothing was looked at.
    Studio(TlsStream<TcpStream>),
}

/// Why a caller was turned away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It speaks RTMP without TLS.
    #[error("this is plain RTMP on the RTMPS port: use rtmps://, or rtmp:// with the RTMP port")]
    PlainRtmp,
    /// It speaks HTTP without TLS.
    #[error("this is plain HTTP on the TLS port: use https://")]
    PlainHttp,
    /// It speaks SSH.
    #[error("this is SSH on the TLS port")]
    Ssh,
    /// It speaks something else.
    #[error("this is not TLS")]
    NotTls,
    /// It speaks something else inside TLS.
    #[error("this is TLS with neither RTMP nor HTTP in it")]
    Unknown,
    /// A studio calls where none is taken.
    #[error("a studio calls on a port for encoders: its join link names the wrong one")]
    Backhaul,
    /// It has looked at the certificate and left.
    #[error(
        "the client does not trust this node's certificate ({0:?}): give the node one that it \
         trusts, or let the client trust this one"
    )]
    Distrusted(AlertDescription),
    /// It has looked at the certificate and left without an alert, as gnutls and glib do.
    #[error(
        "the client left once it had seen this node's certificate: it may not trust it, or is a \
         health check"
    )]
    Unconvinced,
    /// The handshake went wrong in another way.
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    /// It left without a word.
    #[error("the client left")]
    Left,
}

impl Error {
    /// Whether somebody took a wrong setting; the rest is scans and lost connections.
    pub fn is_mistake(&self) -> bool {
        !matches!(self, Self::NotTls | Self::Unknown | Self::Handshake(_) | Self::Left)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        use AlertDescription as Alert;
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::AlertReceived(
                alert @ (Alert::UnknownCA
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateUnknown
                | Alert::CertificateExpired),
            )) => Self::Distrusted(*alert),
            None if is_gone(&error) => Self::Left,
            _ => Self::Handshake(error),
        }
    }
}

impl Server {
    /// A door that shows this certificate, with TLS 1.2 and 1.3.
    ///
    /// # Panics
    ///
    /// Never: the crypto library has both versions.
    pub fn new(certificate: &Arc<Certificate>) -> Self {
        let config = |protocols: &[&[u8]]| {
            let mut config = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
                .expect("the provider has both versions")
                .with_no_client_auth()
                .with_cert_resolver(certificate.clone());
            // librtmp takes a session ticket for the end of the connection, and sessions are hours
            // long: nothing is won by resuming them.
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.max_early_data_size = 0;
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        // RFC 7301 §3.1: no client can offer an empty name, so none finds one that it offered.
        Self { plain: config(&[]), http: config(&[HTTP]), studios: None, refusal: config(&[b""]) }
    }

    /// The same, which takes studios too: both ends prove their keys as over QUIC.
    ///
    /// # Errors
    ///
    /// If the crypto library cannot use the identity.
    pub fn with_studios(mut self, identity: &Identity) -> anyhow::Result<Self> {
        let mut config = keys::acceptor(identity)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        self.studios = Some(Arc::new(config));
        Ok(self)
    }

    /// Makes the handshake and waits for the client's first byte after it, unless it is a studio. The
    /// caller sets the deadline.
    ///
    /// # Errors
    ///
    /// [`Error`]: whoever it is has no business here, or is gone.
    pub async fn receive(&self, socket: TcpStream) -> Result<Caller, Error> {
        let mut first = [0; 4];
        let length = socket.peek(&mut first).await?;
        recognise(&first[..length])?;
        let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let offers = |protocol: &[u8]| {
            start.client_hello().alpn().is_some_and(|mut all| all.any(|name| name == protocol))
        };
        if offers(backhaul::ALPN) {
            if let Some(studios) = &self.studios {
                let stream = start.into_stream(studios.clone()).await?;
                return Ok(Caller::Studio(stream));
            }
            // The alert is all there is to say.
            let _ = start.into_stream(self.refusal.clone()).await;
            return Err(Error::Backhaul);
        }
        let config = if offers(HTTP) { &self.http } else { &self.plain };
        // From here on the client has our certificate.
        let unconvinced = |error: io::Error| match error.into() {
            Error::Left => Error::Unconvinced,
            error => error,
        };
        let mut stream = start.into_stream(config.clone()).await.map_err(unconvinced)?;
        match stream.fill_buf().await.map_err(unconvinced)?.first() {
            None => Err(Error::Unconvinced),
            // Beyond 3 it is a version of RTMP that the session refuses by name.
            Some(1..=31) => Ok(Caller::Rtmp(stream)),
            Some(b'A'..=b'Z') => Ok(Caller::Http(stream)),
            Some(_) => Err(Error::Unknown),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// What a connection to the TLS port begins with.
fn recognise(first: &[u8]) -> Result<(), Error> {
    match first {
        [] => Err(Error::Left),
        [HANDSHAKE_RECORD, ..] => Ok(()),
        [3, ..] => Err(Error::PlainRtmp),
        [b'S', b'S', b'H', ..] => Err(Error::Ssh),
        [b'A'..=b'Z', ..] => Err(Error::PlainHttp),
        _ => Err(Error::NotTls),
    }
}

fn provider() -> Arc<CryptoProvider> {
    ring::default_provider().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes() {
        assert!(recognise(b"\x16\x03\x01\x02").is_ok());
        assert!(matches!(recognise(b"\x03"), Err(Error::PlainRtmp)));
        assert!(matches!(recognise(b"GET "), Err(Error::PlainHttp)));
        assert!(matches!(recognise(b"SSH-"), Err(Error::Ssh)));
        assert!(matches!(recognise(b"\x80\x2e"), Err(Error::NotTls)));
        assert!(matches!(recognise(b""), Err(Error::Left)));
    }
}
