use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use media::{PublicationId, Track, TrackSet};

use crate::wire::{
    get_array, get_option, get_signed, get_text, get_varint, put_bytes, put_option, put_signed,
    put_varint,
};
use crate::{Error, VERSION};

/// Bytes of a control message: a full list of feeds, and room.
pub(crate) const MAX_MESSAGE: usize = 64 << 10;
/// Feeds that one studio may push.
const MAX_FEEDS: u64 = 256;
/// Versions that a hello may offer.
const MAX_VERSIONS: u64 = 16;
/// Bytes of a name; feed names are at most 32.
const MAX_NAME: usize = 64;
/// Bytes of text for people.
const MAX_TEXT: usize = 512;

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
    /// A reason that this version does not know.
    Other(u64),
}

impl Refusal {
    fn code(self) -> u64 {
        match self {
            Self::Version => 1,
            Self::NotAdmitted => 2,
            Self::InviteExpired => 3,
            Self::InviteUsedUp => 4,
            Self::Duplicate => 5,
            Self::Full => 6,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u64) -> Self {
        match code {
            1 => Self::Version,
            2 => Self::NotAdmitted,
            3 => Self::InviteExpired,
            4 => Self::InviteUsedUp,
            5 => Self::Duplicate,
            6 => Self::Full,
            code => Self::Other(code),
        }
    }
}

/// A feed and the hash of its stream key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedKey {
    /// The feed's name at the studio.
    pub name: String,
    /// What the relay looks an encoder's key up by.
    pub hash: [u8; 32],
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
}

/// A publication that ended, or is not on air.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The publication.
    pub publication: PublicationId,
    /// The last number sent on each track: the publication is over once these are through.
    pub edges: TrackSet<Option<u64>>,
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
}

impl Message {
    /// Appends type, length and fields.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        self.encode_fields(&mut body);
        put_varint(out, self.type_id());
        put_bytes(out, &body);
    }

    /// Takes a whole message; `None` if more bytes are needed. Unknown types are passed over.
    pub(crate) fn decode(input: &mut BytesMut) -> Result<Option<Self>, Error> {
        loop {
            let mut peek = &input[..];
            let Some(type_id) = peek_varint(&mut peek) else {
                return Ok(None);
            };
            let Some(length) = peek_varint(&mut peek) else {
                return Ok(None);
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > MAX_MESSAGE {
                return Err(Error::Limit("a control message is too long"));
            }
            if peek.len() < length {
                return Ok(None);
            }
            input.advance(input.len() - peek.len());
            let fields = input.split_to(length).freeze();
            if let Some(message) = Self::decode_fields(type_id, fields)? {
                return Ok(Some(message));
            }
        }
    }

    fn type_id(&self) -> u64 {
        match self {
            Self::Hello(_) => 1,
            Self::Welcome(_) => 2,
            Self::Refused(..) => 3,
            Self::Feeds(_) => 4,
            Self::FeedProblem(_) => 5,
            Self::Announce(_) => 6,
            Self::Ended(_) => 7,
            Self::Subscribe(_) => 8,
            Self::Unsubscribe(_) => 9,
            Self::Skip(_) => 10,
            Self::Close(_) => 11,
            Self::Report(_) => 12,
            Self::Logins(_) => 13,
        }
    }

    fn encode_fields(&self, out: &mut BytesMut) {
        match self {
            Self::Hello(hello) => {
                put_varint(out, hello.versions.len() as u64);
                hello.versions.iter().for_each(|version| put_varint(out, *version));
                out.put_slice(&hello.instance);
                put_bytes(out, hello.agent.as_bytes());
                put_bytes(out, hello.name.as_bytes());
                put_bytes(out, hello.invite.as_bytes());
            }
            Self::Welcome(welcome) => {
                put_varint(out, welcome.version);
                put_bytes(out, welcome.agent.as_bytes());
                put_bytes(out, welcome.host.as_bytes());
                put_varint(out, u64::from(welcome.rtmp_port));
                if let Some(port) = welcome.rtmps_port {
                    put_varint(out, u64::from(port));
                }
            }
            Self::Refused(refusal, text) => {
                put_varint(out, refusal.code());
                put_bytes(out, text.as_bytes());
            }
            Self::Feeds(feeds) => {
                put_varint(out, feeds.len() as u64);
                for feed in feeds {
                    put_bytes(out, feed.name.as_bytes());
                    out.put_slice(&feed.hash);
                }
            }
            Self::FeedProblem(problem) => {
                put_bytes(out, problem.name.as_bytes());
                put_bytes(out, problem.text.as_bytes());
            }
            Self::Announce(announce) => {
                put_bytes(out, announce.feed.as_bytes());
                out.put_slice(&announce.publication.0);
            }
            Self::Ended(ended) => {
                out.put_slice(&ended.publication.0);
                put_numbers(out, &ended.edges);
            }
            Self::Subscribe(subscribe) => {
                put_varint(out, subscribe.subscription);
                put_bytes(out, subscribe.feed.as_bytes());
                out.put_slice(&subscribe.publication.0);
                subscribe.released.iter().for_each(|(_, number)| put_option(out, *number));
            }
            Self::Unsubscribe(subscription) => put_varint(out, *subscription),
            Self::Skip(skip) => {
                put_varint(out, skip.subscription);
                put_varint(out, skip.track as u64);
                put_option(out, skip.from);
                put_varint(out, skip.to);
            }
            Self::Close(close) => {
                out.put_slice(&close.publication.0);
                put_bytes(out, close.text.as_bytes());
            }
            Self::Report(report) => {
                put_varint(out, report.subscription);
                put_signed(out, report.encoder_growth_ms);
                put_varint(out, report.skipped);
            }
            Self::Logins(logins) => {
                put_varint(out, logins.len() as u64);
                for login in logins {
                    put_bytes(out, login.feed.as_bytes());
                    put_bytes(out, login.user.as_bytes());
                    out.put_slice(&login.verifier);
                }
            }
        }
    }

    /// Fields after the known ones are passed over.
    fn decode_fields(type_id: u64, mut fields: Bytes) -> Result<Option<Self>, Error> {
        let input = &mut fields;
        Ok(Some(match type_id {
            1 => Self::Hello(decode_hello(input)?),
            2 => Self::Welcome(Welcome {
                version: get_varint(input)?,
                agent: get_text(input, MAX_NAME)?,
                host: get_text(input, MAX_TEXT)?,
                rtmp_port: get_port(input)?,
                rtmps_port: match input.is_empty() {
                    true => None,
                    false => Some(get_port(input)?).filter(|port| *port != 0),
                },
            }),
            3 => Self::Refused(Refusal::from_code(get_varint(input)?), get_text(input, MAX_TEXT)?),
            4 => {
                let count = get_varint(input)?;
                if count > MAX_FEEDS {
                    return Err(Error::Limit("too many feeds"));
                }
                let feed =
                    |_| Ok(FeedKey { name: get_text(input, MAX_NAME)?, hash: get_array(input)? });
                Self::Feeds((0..count).map(feed).collect::<Result<_, Error>>()?)
            }
            5 => Self::FeedProblem(FeedProblem {
                name: get_text(input, MAX_NAME)?,
                text: get_text(input, MAX_TEXT)?,
            }),
            6 => Self::Announce(Announce {
                feed: get_text(input, MAX_NAME)?,
                publication: PublicationId(get_array(input)?),
            }),
            7 => Self::Ended(Ended {
                publication: PublicationId(get_array(input)?),
                edges: get_numbers(input)?,
            }),
            8 => Self::Subscribe(Subscribe {
                subscription: get_varint(input)?,
                feed: get_text(input, MAX_NAME)?,
                publication: PublicationId(get_array(input)?),
                released: get_numbers(input)?,
            }),
            9 => Self::Unsubscribe(get_varint(input)?),
            10 => Self::Skip(Skip {
                subscription: get_varint(input)?,
                track: track_from_id(get_varint(input)?)?,
                from: get_option(input)?,
                to: get_varint(input)?,
            }),
            11 => Self::Close(Close {
                publication: PublicationId(get_array(input)?),
                text: get_text(input, MAX_TEXT)?,
            }),
            12 => Self::Report(Report {
                subscription: get_varint(input)?,
                encoder_growth_ms: get_signed(input)?,
                skipped: get_varint(input)?,
            }),
            13 => {
                let count = get_varint(input)?;
                if count > MAX_FEEDS {
                    return Err(Error::Limit("too many users"));
                }
                let login = |_| {
                    let (feed, user) = (get_text(input, MAX_NAME)?, get_text(input, MAX_NAME)?);
                    Ok(Login { feed, user, verifier: get_array(input)? })
                };
                Self::Logins((0..count).map(login).collect::<Result<_, Error>>()?)
            }
            _ => return Ok(None),
        }))
    }
}

fn get_port(input: &mut Bytes) -> Result<u16, Error> {
    u16::try_from(get_varint(input)?).map_err(|_| Error::Malformed("a port is out of range"))
}

/// Appends a number for each track.
fn put_numbers(out: &mut BytesMut, numbers: &TrackSet<Option<u64>>) {
    numbers.iter().for_each(|(_, number)| put_option(out, *number));
}

/// Takes a number for each track.
fn get_numbers(input: &mut Bytes) -> Result<TrackSet<Option<u64>>, Error> {
    let mut numbers = TrackSet::default();
    for track in Track::ALL {
        numbers[track] = get_option(input)?;
    }
    Ok(numbers)
}

fn decode_hello(input: &mut Bytes) -> Result<Hello, Error> {
    let count = get_varint(input)?;
    if count > MAX_VERSIONS {
        return Err(Error::Limit("too many versions"));
    }
    let versions = (0..count).map(|_| get_varint(input)).collect::<Result<Vec<_>, _>>()?;
    let instance = get_array(input)?;
    let agent = get_text(input, MAX_NAME)?;
    let name = get_text(input, MAX_NAME)?;
    let invite = get_text(input, MAX_NAME)?;
    Ok(Hello { versions, instance, agent, name, invite })
}

impl Hello {
    /// Whether this crate's version is among those offered.
    pub fn speaks_our_version(&self) -> bool {
        self.versions.contains(&VERSION)
    }
}

/// The track of a number on the wire.
pub(crate) fn track_from_id(id: u64) -> Result<Track, Error> {
    Track::ALL
        .into_iter()
        .find(|track| *track as u64 == id)
        .ok_or(Error::Malformed("there is no such track"))
}

/// Takes a variable-length integer if it is all there.
fn peek_varint(input: &mut &[u8]) -> Option<u64> {
    let length = crate::wire::varint_length(*input.first()?);
    if input.len() < length { None } else { get_varint(input).ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn login() -> Login {
        Login { feed: "camera".into(), user: "camera-7K2M9Q4X".into(), verifier: [0x33; 16] }
    }

    #[test]
    fn logins_are_as_documented_and_not_shown() {
        let mut wire = BytesMut::new();
        Message::Logins(vec![login()]).encode(&mut wire);
        assert_eq!(wire[..10], *b"\x0d\x28\x01\x06camera");
        assert_eq!(wire[10..26], *b"\x0fcamera-7K2M9Q4X");
        assert_eq!(wire[26..], [0x33; 16]);
        assert!(!format!("{:?}", login()).contains("51"), "0x33 is 51");
    }

    fn samples() -> Vec<Message> {
        let publication = PublicationId([7; 16]);
        let mut released = TrackSet::default();
        released[Track::Video] = Some(41);
        vec![
            Message::Hello(Hello {
                versions: vec![1, 2],
                instance: [3; 16],
                agent: "firstmile 0.1".into(),
                name: "studio".into(),
                invite: "0123456789".into(),
            }),
            Message::Welcome(Welcome {
                version: 1,
                agent: "firstmile 0.1".into(),
                host: "relay.example".into(),
                rtmp_port: 1935,
                rtmps_port: Some(443),
            }),
            Message::Refused(Refusal::InviteExpired, "ask for a new link".into()),
            Message::Feeds(vec![FeedKey { name: "camera".into(), hash: [1; 32] }]),
            Message::FeedProblem(FeedProblem { name: "camera".into(), text: "taken".into() }),
            Message::Announce(Announce { feed: "camera".into(), publication }),
            Message::Ended(Ended { publication, edges: released }),
            Message::Subscribe(Subscribe {
                subscription: 5,
                feed: "camera".into(),
                publication,
                released,
            }),
            Message::Unsubscribe(5),
            Message::Skip(Skip { subscription: 5, track: Track::Video, from: None, to: 99 }),
            Message::Close(Close { publication, text: "another encoder took over".into() }),
            Message::Report(Report { subscription: 5, encoder_growth_ms: -3, skipped: 1 }),
            Message::Logins(vec![login()]),
        ]
    }

    #[test]
    fn every_message_comes_back_whole_or_in_bytes() {
        let mut wire = BytesMut::new();
        samples().iter().for_each(|message| message.encode(&mut wire));
        let mut whole = wire.clone();
        let mut read = Vec::new();
        while let Some(message) = Message::decode(&mut whole).unwrap() {
            read.push(message);
        }
        assert_eq!(read, samples());
        let (mut input, mut read) = (BytesMut::new(), Vec::new());
        for byte in wire {
            input.put_u8(byte);
            read.extend(Message::decode(&mut input).unwrap());
        }
        assert_eq!(read, samples());
    }

    #[test]
    fn unknown_types_and_fields_are_passed_over() {
        let mut wire = BytesMut::from(&[0x40, 0xff, 3, 1, 2, 3][..]);
        put_varint(&mut wire, 9);
        put_bytes(&mut wire, &[5, 0xee]);
        assert_eq!(Message::decode(&mut wire), Ok(Some(Message::Unsubscribe(5))));
    }

    #[test]
    fn a_welcome_need_not_name_rtmps() {
        let agent = "firstmile 0.1".to_owned();
        let welcome =
            Welcome { version: 1, agent, host: String::new(), rtmp_port: 1935, rtmps_port: None };
        let (mut wire, welcome) = (BytesMut::new(), Message::Welcome(welcome));
        welcome.encode(&mut wire);
        // As written without the field, and with a zero in it.
        let mut zero = wire.clone();
        zero[1] += 1;
        zero.put_u8(0);
        assert_eq!(Message::decode(&mut wire), Ok(Some(welcome.clone())));
        assert_eq!(Message::decode(&mut zero), Ok(Some(welcome)));
    }

    #[test]
    fn limits_hold_before_anything_is_stored() {
        let mut long = BytesMut::new();
        put_varint(&mut long, 4);
        put_varint(&mut long, MAX_MESSAGE as u64 + 1);
        assert_eq!(Message::decode(&mut long), Err(Error::Limit("a control message is too long")));
        let mut many = BytesMut::new();
        put_varint(&mut many, 4);
        put_bytes(&mut many, &[0x7f, 0xff]);
        assert_eq!(Message::decode(&mut many), Err(Error::Limit("too many feeds")));
        let mut users = BytesMut::new();
        put_varint(&mut users, 13);
        put_bytes(&mut users, &[0x7f, 0xff]);
        assert_eq!(Message::decode(&mut users), Err(Error::Limit("too many users")));
        let mut control = BytesMut::new();
        Message::FeedProblem(FeedProblem { name: "a\x1b[2J".into(), text: String::new() })
            .encode(&mut control);
        assert!(Message::decode(&mut control).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Message::decode(&mut input) {}
        }

        #[test]
        fn a_changed_byte_never_panics(index in 0usize..400, value: u8) {
            let mut wire = BytesMut::new();
            samples().iter().for_each(|message| message.encode(&mut wire));
            let index = index % wire.len();
            wire[index] = value;
            while let Ok(Some(_)) = Message::decode(&mut wire) {}
        }
    }
}
