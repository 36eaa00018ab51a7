use crate::amf0;

/// Why a connection cannot go on; every message fits a log line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer speaks HTTP: a browser, a health check or a scanner.
    #[error("this is HTTP, not RTMP: the client was given the RTMP port by mistake")]
    Http,
    /// The peer speaks TLS: it was told `rtmps://` with a plain RTMP port.
    #[error("this is TLS, not plain RTMP: use rtmp:// here, or the RTMPS port")]
    Tls,
    /// The peer speaks SSH.
    #[error("this is SSH, not RTMP")]
    Ssh,
    /// The first byte names an RTMP version other than 3 (RTMP 1.0 §5.2.2; 6 is RTMPE).
    #[error("RTMP version {0} is not supported")]
    Version(u8),
    /// Bytes that cannot be what the protocol says they are.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A command that is not AMF.
    #[error("malformed AMF: {0}")]
    Amf(#[from] amf0::Error),
    /// Well formed, but against the rules of the protocol.
    #[error("the peer misbehaved: {0}")]
    Misbehaved(&'static str),
    /// More than this peer is allowed in its present phase.
    #[error("limit exceeded: {what} (at most {limit})")]
    LimitExceeded {
        /// What there was too much of.
        what: &'static str,
        /// The bound, in bytes or pieces.
        limit: usize,
    },
    /// The caller used this library wrongly.
    #[error("misused: {0}")]
    Misused(&'static str),
}
