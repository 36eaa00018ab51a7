mod codec;

use std::fmt;
use std::time::Duration;

use media::{PublicationId, Track, TrackSet};

use crate::{Ranges, VERSION};

/// A control message. Unknown types are passed over when read, so that a newer peer may say more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// Dialer to acceptor, first: who I am and what I speak.
    Hello(Hello),
    /// Acceptor to dialer: you are in.
    Welcome(Welcome),
    /// Acceptor to dialer: you are not; the link closes.
    Refused(Refusal, String),
    /// Dialer to acceptor: the whole list of my feeds and the hashes of their keys.
    Feeds(Vec<FeedKey>),
    /// Acceptor to dialer: a feed of the list that was not taken.
    FeedProblem(FeedProblem),
    /// Either way: a publication is on air here.
    Announce(Announce),
    /// Either way: an announced publication ended.
    Ended(Ended),
    /// Either way: send me an announced publication.
    Subscribe(Subscribe),
    /// Either way: stop sending a subscription.
    Unsubscribe(u64),
    /// Either way: the sender moved a track's live edge across a hole.
    Skip(Skip),
    /// Either way: the subscriber wants the announced publication ended.
    Close(Close),
    /// Either way: figures of a subscription, from its sender.
    Report(Report),
    /// Dialer to acceptor: the whole list of users who may publish with a password.
    Logins(Vec<Login>),
    /// Either way: a publication that is over, and of which there still is something.
    Kept(Kept),
    /// Either way: send me these tags of a publication, when nothing live waits.
    Want(Want),
    /// Either way: a want is done.
    Answered(Answered),
    /// Acceptor to dialer: how much I have to do.
    Load(Load),
}

/// Who a dialer is. Its identity is the key that it proved in the TLS handshake.
#[derive(Clone, PartialEq, Eq)]
pub struct Hello {
    /// Versions of the protocol it speaks.
    pub versions: Vec<u64>,
    /// Random, new at every start of the program: tells a reconnect from a second copy.
    pub instance: [u8; 16],
    /// Name and version of the program.
    pub agent: String,
    /// A name for people.
    pub name: String,
    /// The join link's invitation, if this peer may not have been admitted yet; else empty.
    pub invite: String,
}

impl fmt::Debug for Hello {
    /// Leaves out the invitation, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("versions", &self.versions)
            .field("agent", &self.agent)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Hello {
    /// Whether this crate's version is among those offered.
    pub fn speaks_our_version(&self) -> bool {
        self.versions.contains(&VERSION)
    }
}

/// What an acceptor tells a peer that it took in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version both will speak.
    pub version: u64,
    /// Name and version of the program.
    pub agent: String,
    /// Host name or address that encoders publish to; empty if it is the one that was dialled.
    pub host: String,
    /// Port that encoders publish RTMP to.
    pub rtmp_port: u16,
    /// Port of the same host that encoders publish RTMPS to, if it shows a certificate that they
    /// trust. Absent in older messages.
    pub rtmps_port: Option<u16>,
    /// Where the acceptor is, for people; empty if it does not say. Absent in older messages.
    pub region: String,
    /// Whether the RTMPS port also shows a page at `/measure` on which a browser measures its way
    /// there. Absent in older messages.
    pub measures: bool,
}

/// Why a peer is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// No common version.
    Version,
    /// Never admitted, and without an invitation, or with an unknown one.
    NotAdmitted,
    /// The invitation has expired.
    InviteExpired,
    /// The invitation was used as often as it allows.
    InviteUsedUp,
    /// The same identity is connected from another running program.
    Duplicate,
    /// The acceptor is full.
    Full,
    /// The acceptor's owner wants this peer no longer.
    CutOff,
    /// A reason that this version does not know.
    Other(u64),
}

/// A feed and the hash of its stream key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedKey {
    /// The feed's name at the studio.
    pub name: String,
    /// What the relay looks an encoder's key up by.
    pub hash: [u8; 32],
    /// How long from now the key opens the feed; then it is as good as none. `None`, and absent in
    /// older messages: until the next list.
    pub left: Option<Duration>,
}

/// A user who may publish one feed with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The feed's name at the studio.
    pub feed: String,
    /// The user, unlike any other at any studio.
    pub user: String,
    /// What proves the password; as good as the password itself.
    pub verifier: [u8; 16],
}

impl fmt::Debug for Login {
    /// Leaves out the verifier, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("feed", &self.feed).finish_non_exhaustive()
    }
}

/// A feed that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedProblem {
    /// The feed's name.
    pub name: String,
    /// Why, for people.
    pub text: String,
}

/// A publication on air.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The feed's name.
    pub feed: String,
    /// The publication.
    pub publication: PublicationId,
    /// How long ago it began. Absent in older messages: now.
    pub age: Duration,
}

/// A publication that ended, or is not on air.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The publication.
    pub publication: PublicationId,
    /// The last number sent on each track: the publication is over once these are through.
    pub edges: TrackSet<Option<u64>>,
    /// Whether its encoder has ended it itself: it is not lost. Absent in older messages: no.
    pub is_stopped: bool,
}

/// Asks for a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// The subscriber's name for it, new on this link.
    pub subscription: u64,
    /// The feed's name.
    pub feed: String,
    /// The publication.
    pub publication: PublicationId,
    /// The last number that came through on each track before; nothing up to it is sent again.
    pub released: TrackSet<Option<u64>>,
    /// Numbers beyond those that were received before, and are not sent again. Absent in older
    /// messages.
    pub received: Ranges,
    /// How late the sender may be before it skips. Absent in older messages: its default.
    pub budget: Option<Duration>,
}

/// The sender will not send what lies after `from` up to and including `to` on a track, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The subscription.
    pub subscription: u64,
    /// The track.
    pub track: Track,
    /// The last number before the hole: the skip waits until that one is through. `None`: it
    /// waits for nothing, and tags before the hole that are still missing are given up with it.
    pub from: Option<u64>,
    /// The last number in the hole.
    pub to: u64,
}

/// Wants an announced publication ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The publication.
    pub publication: PublicationId,
    /// Why, for the encoder and the log.
    pub text: String,
}

/// A sender's own figures of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The subscription.
    pub subscription: u64,
    /// Milliseconds that the encoder's tags are late by its own clock.
    pub encoder_growth_ms: i64,
    /// Tags that the sender skipped.
    pub skipped: u64,
    /// How often the way from the encoder stalled in the last minute. Absent in older messages.
    pub stalls: Option<Stalls>,
}

/// Times at which nothing came of an encoder that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalls {
    /// How many.
    pub count: u64,
    /// Milliseconds that the longest took.
    pub longest_ms: u64,
}

/// How much an acceptor has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The part of what it can do, in percent; the highest of the things that it counts.
    pub percent: u64,
}

/// A publication that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The feed's name.
    pub feed: String,
    /// The publication.
    pub publication: PublicationId,
    /// The last number of it.
    pub last: u64,
    /// How long ago it began.
    pub age: Duration,
}

/// Asks for tags that did not come live.
///
/// They come on streams of the request, in ascending order; then the sender says [`Answered`]. A
/// want replaces an earlier one for the same publication on this link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The asker's name for it, new on this link; subscriptions and requests share their names.
    pub request: u64,
    /// The feed's name.
    pub feed: String,
    /// The publication.
    pub publication: PublicationId,
    /// The numbers; none takes an earlier want back.
    pub ranges: Ranges,
}

/// Says that there is no more to come for a want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The request.
    pub request: u64,
    /// How many tags were sent.
    pub tags: u64,
    /// Which of the numbers are gone for good.
    pub gone: Ranges,
}
