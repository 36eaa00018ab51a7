//! The protocol between a relay and a studio, without I/O.
//!
//! A studio *dials*, a relay *accepts*; after that either may announce feeds and the other
//! subscribe. Control messages ([`Message`]) go over one reliable, ordered stream and are checked
//! by a [`Session`]; tags go over one-way streams of [`TagHeader`]s and bodies; reports of what
//! was received go as datagrams. One mechanism carries it all: every tag has a
//! [position](media::Position), given once where it entered. What did not come live can be asked
//! for by its numbers ([`Want`]).
//!
//! ```text
//!   hub => Sender: which stream, which skip => wire => Receiver: release, hold or drop => hub
//!                     ^------------ Received: ranges of numbers ------------'
//! ```
//!
//! The crate holds positions and tag headers, never bodies. The wire is described in
//! `docs/backhaul-protocol.md`.

pub mod congestion;
mod datagram;
mod error;
mod message;
pub mod mux;
mod ranges;
mod receiver;
mod sender;
mod session;
mod spare;
mod tag_stream;
mod wants;
mod wire;

pub use datagram::{Datagram, Received};
pub use error::Error;
pub use message::{
    Announce, Answered, Close, Ended, FeedKey, FeedProblem, Hello, Kept, Load, Login, Message,
    Refusal, Report, Skip, Stalls, Subscribe, Want, Welcome,
};
pub use ranges::Ranges;
pub use receiver::{Arrival, Receiver, Release};
pub use sender::{Send, Sender, StreamChoice};
pub use session::{Event, Role, Session};
pub use spare::Spare;
pub use tag_stream::{StreamHeader, TagHeader};
pub use wants::{Answer, Settled, Wants};

/// The version of the protocol that this crate speaks.
pub const VERSION: u64 = 1;
/// The application protocol of the backhaul in the TLS handshake.
pub const ALPN: &[u8] = b"firstmile/1";
/// Bytes of a tag's body: the RTMP doors' own bound for video.
pub const MAX_BODY: usize = 8 << 20;
