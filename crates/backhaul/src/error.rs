/// Why a peer's bytes were not accepted. Every variant is the peer's fault and ends the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not what the protocol says.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The peer asks for more than it may have.
    #[error("over a limit: {0}")]
    Limit(&'static str),
    /// A message that is not allowed from this peer, or not now.
    #[error("the peer misbehaved: {0}")]
    Misbehaved(&'static str),
}
