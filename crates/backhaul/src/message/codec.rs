//! Control messages as bytes: type, length, fields (docs/backhaul-protocol.md).

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use media::{PublicationId, Track, TrackSet};

use super::{
    Announce, Answered, Close, Ended, FeedKey, FeedProblem, Hello, Kept, Load, Login, Message,
    Refusal, Report, Skip, Stalls, Subscribe, Want, Welcome,
};
use crate::wire::{
    get_array, get_option, get_signed, get_text, get_track, get_varint, put_bytes, put_option,
    put_signed, put_varint,
};
use crate::{Error, Ranges};

/// Bytes of a control message: a full list of feeds, and room.
const MAX_MESSAGE: usize = 64 << 10;
/// Feeds that one studio may push.
const MAX_FEEDS: u64 = 256;
/// Versions that a hello may offer.
const MAX_VERSIONS: u64 = 16;
/// Bytes of a name; feed names are at most 32.
const MAX_NAME: usize = 64;
/// Bytes of text for people.
const MAX_TEXT: usize = 512;
/// The largest number that may also be absent (RFC 9000 §16, less one).
const MAX_OPTION: u64 = (1 << 62) - 2;

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
            Self::Kept(_) => 14,
            Self::Want(_) => 15,
            Self::Answered(_) => 16,
            Self::Load(_) => 20,
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
                put_varint(out, u64::from(welcome.rtmps_port.unwrap_or(0)));
                put_bytes(out, welcome.region.as_bytes());
                put_varint(out, u64::from(welcome.measures));
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
                // Of keys without an end nothing is said, as before there were ends.
                if feeds.iter().any(|feed| feed.left.is_some()) {
                    let left = feeds.iter().map(|feed| feed.left);
                    left.for_each(|left| put_option(out, left.map(milliseconds)));
                }
            }
            Self::FeedProblem(problem) => {
                put_bytes(out, problem.name.as_bytes());
                put_bytes(out, problem.text.as_bytes());
            }
            Self::Announce(announce) => {
                put_bytes(out, announce.feed.as_bytes());
                out.put_slice(&announce.publication.0);
                put_duration(out, announce.age);
            }
            Self::Ended(ended) => {
                out.put_slice(&ended.publication.0);
                put_numbers(out, &ended.edges);
                if ended.is_stopped {
                    put_varint(out, 1);
                }
            }
            Self::Subscribe(subscribe) => {
                put_varint(out, subscribe.subscription);
                put_bytes(out, subscribe.feed.as_bytes());
                out.put_slice(&subscribe.publication.0);
                put_numbers(out, &subscribe.released);
                subscribe.received.encode(out);
                put_option(out, subscribe.budget.map(|budget| budget.as_millis() as u64));
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
                if let Some(stalls) = report.stalls {
                    put_varint(out, stalls.count);
                    put_varint(out, stalls.longest_ms);
                }
            }
            Self::Logins(logins) => {
                put_varint(out, logins.len() as u64);
                for login in logins {
                    put_bytes(out, login.feed.as_bytes());
                    put_bytes(out, login.user.as_bytes());
                    out.put_slice(&login.verifier);
                }
            }
            Self::Kept(kept) => {
                put_bytes(out, kept.feed.as_bytes());
                out.put_slice(&kept.publication.0);
                put_varint(out, kept.last);
                put_duration(out, kept.age);
            }
            Self::Want(want) => {
                put_varint(out, want.request);
                put_bytes(out, want.feed.as_bytes());
                out.put_slice(&want.publication.0);
                want.ranges.encode(out);
            }
            Self::Answered(answered) => {
                put_varint(out, answered.request);
                put_varint(out, answered.tags);
                answered.gone.encode(out);
            }
            Self::Load(load) => put_varint(out, load.percent),
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
                region: match input.is_empty() {
                    true => String::new(),
                    false => get_text(input, MAX_NAME)?,
                },
                measures: !input.is_empty() && get_varint(input)? != 0,
            }),
            3 => Self::Refused(Refusal::from_code(get_varint(input)?), get_text(input, MAX_TEXT)?),
            4 => {
                let count = get_varint(input)?;
                if count > MAX_FEEDS {
                    return Err(Error::Limit("too many feeds"));
                }
                let feed = |_| {
                    let (name, hash) = (get_text(input, MAX_NAME)?, get_array(input)?);
                    Ok(FeedKey { name, hash, left: None })
                };
                let mut feeds = (0..count).map(feed).collect::<Result<Vec<_>, Error>>()?;
                if !input.is_empty() {
                    for feed in &mut feeds {
                        feed.left = get_option(input)?.map(Duration::from_millis);
                    }
                }
                Self::Feeds(feeds)
            }
            5 => Self::FeedProblem(FeedProblem {
                name: get_text(input, MAX_NAME)?,
                text: get_text(input, MAX_TEXT)?,
            }),
            6 => Self::Announce(Announce {
                feed: get_text(input, MAX_NAME)?,
                publication: PublicationId(get_array(input)?),
                age: match input.is_empty() {
                    true => Duration::ZERO,
                    false => get_duration(input)?,
                },
            }),
            7 => Self::Ended(Ended {
                publication: PublicationId(get_array(input)?),
                edges: get_numbers(input)?,
                is_stopped: !input.is_empty() && get_varint(input)? != 0,
            }),
            8 => Self::Subscribe(Subscribe {
                subscription: get_varint(input)?,
                feed: get_text(input, MAX_NAME)?,
                publication: PublicationId(get_array(input)?),
                released: get_numbers(input)?,
                received: match input.is_empty() {
                    true => Ranges::default(),
                    false => Ranges::decode(input)?,
                },
                budget: match input.is_empty() {
                    true => None,
                    false => get_option(input)?.map(Duration::from_millis),
                },
            }),
            9 => Self::Unsubscribe(get_varint(input)?),
            10 => Self::Skip(Skip {
                subscription: get_varint(input)?,
                track: get_track(input)?,
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
                stalls: match input.is_empty() {
                    true => None,
                    false => {
                        let (count, longest_ms) = (get_varint(input)?, get_varint(input)?);
                        Some(Stalls { count, longest_ms })
                    }
                },
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
            14 => Self::Kept(Kept {
                feed: get_text(input, MAX_NAME)?,
                publication: PublicationId(get_array(input)?),
                last: get_varint(input)?,
                age: get_duration(input)?,
            }),
            15 => Self::Want(Want {
                request: get_varint(input)?,
                feed: get_text(input, MAX_NAME)?,
                publication: PublicationId(get_array(input)?),
                ranges: Ranges::decode(input)?,
            }),
            16 => Self::Answered(Answered {
                request: get_varint(input)?,
                tags: get_varint(input)?,
                gone: Ranges::decode(input)?,
            }),
            20 => Self::Load(Load { percent: get_varint(input)? }),
            _ => return Ok(None),
        }))
    }
}

fn get_port(input: &mut Bytes) -> Result<u16, Error> {
    u16::try_from(get_varint(input)?).map_err(|_| Error::Malformed("a port is out of range"))
}

/// Appends a time in milliseconds.
fn put_duration(out: &mut BytesMut, duration: Duration) {
    put_varint(out, milliseconds(duration));
}

/// At most what an `opt` can hold.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(MAX_OPTION)
}

fn get_duration(input: &mut Bytes) -> Result<Duration, Error> {
    Ok(Duration::from_millis(get_varint(input)?))
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

impl Refusal {
    fn code(self) -> u64 {
        match self {
            Self::Version => 1,
            Self::NotAdmitted => 2,
            Self::InviteExpired => 3,
            Self::InviteUsedUp => 4,
            Self::Duplicate => 5,
            Self::Full => 6,
            Self::CutOff => 7,
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
            7 => Self::CutOff,
            code => Self::Other(code),
        }
    }
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
        let numbers: Ranges = [(50, 60), (70, 70)].into_iter().collect();
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
                region: "Frankfurt".into(),
                measures: true,
            }),
            Message::Refused(Refusal::InviteExpired, "ask for a new link".into()),
            Message::Feeds(vec![FeedKey { name: "camera".into(), hash: [1; 32], left: None }]),
            Message::Feeds(vec![
                FeedKey { name: "camera".into(), hash: [1; 32], left: None },
                FeedKey {
                    name: "roof".into(),
                    hash: [2; 32],
                    left: Some(Duration::from_secs(7_200)),
                },
                FeedKey { name: "gate".into(), hash: [3; 32], left: Some(Duration::ZERO) },
            ]),
            Message::FeedProblem(FeedProblem { name: "camera".into(), text: "taken".into() }),
            Message::Announce(Announce {
                feed: "camera".into(),
                publication,
                age: Duration::from_secs(70),
            }),
            Message::Ended(Ended { publication, edges: released, is_stopped: false }),
            Message::Ended(Ended { publication, edges: released, is_stopped: true }),
            Message::Subscribe(Subscribe {
                subscription: 5,
                feed: "camera".into(),
                publication,
                released,
                received: numbers.clone(),
                budget: Some(Duration::from_millis(500)),
            }),
            Message::Unsubscribe(5),
            Message::Skip(Skip { subscription: 5, track: Track::Video, from: None, to: 99 }),
            Message::Close(Close { publication, text: "another encoder took over".into() }),
            Message::Report(Report {
                subscription: 5,
                encoder_growth_ms: -3,
                skipped: 1,
                stalls: Some(Stalls { count: 12, longest_ms: 400 }),
            }),
            Message::Logins(vec![login()]),
            Message::Kept(Kept {
                feed: "camera".into(),
                publication,
                last: 9_000,
                age: Duration::from_secs(600),
            }),
            Message::Want(Want {
                request: 6,
                feed: "camera".into(),
                publication,
                ranges: numbers.clone(),
            }),
            Message::Answered(Answered { request: 6, tags: 11, gone: numbers }),
            Message::Load(Load { percent: 35 }),
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
        let welcome = Welcome {
            version: 1,
            agent,
            host: String::new(),
            rtmp_port: 1935,
            rtmps_port: None,
            region: String::new(),
            measures: false,
        };
        let (mut wire, welcome) = (BytesMut::new(), Message::Welcome(welcome));
        welcome.encode(&mut wire);
        // Each of the newer fields is a byte here, which older peers leave out, from the last on.
        for left_out in 0..=3 {
            let mut wire = wire.clone();
            wire[1] -= left_out;
            wire.truncate(wire.len() - usize::from(left_out));
            assert_eq!(Message::decode(&mut wire), Ok(Some(welcome.clone())), "{left_out}");
        }
    }

    #[test]
    fn an_older_peer_says_less() {
        let publication = PublicationId([7; 16]);
        let age = Duration::ZERO;
        let announce = Message::Announce(Announce { feed: "camera".into(), publication, age });
        let subscribe = Message::Subscribe(Subscribe {
            subscription: 5,
            feed: "camera".into(),
            publication,
            released: TrackSet::default(),
            received: Ranges::default(),
            budget: None,
        });
        let report = Message::Report(Report {
            subscription: 5,
            encoder_growth_ms: 0,
            skipped: 0,
            stalls: None,
        });
        // Each of the newer fields is one byte here.
        for (message, newer) in [(announce, 1), (subscribe, 2), (report, 0)] {
            let mut wire = BytesMut::new();
            message.encode(&mut wire);
            wire[1] -= newer;
            wire.truncate(wire.len() - usize::from(newer));
            assert_eq!(Message::decode(&mut wire), Ok(Some(message)));
        }
    }

    #[test]
    fn the_end_of_keys_stands_behind_what_older_peers_read() {
        let key = |left| FeedKey { name: "camera".into(), hash: [1; 32], left };
        let wire = |left| {
            let mut wire = BytesMut::new();
            Message::Feeds(vec![key(left)]).encode(&mut wire);
            wire
        };
        let (old, new) = (wire(None), wire(Some(Duration::from_millis(300))));
        assert_eq!(new[2..old.len()], old[2..], "behind type and length");
        assert_eq!(new[old.len()..], [0x41, 0x2d], "301");
        let endless = Message::decode(&mut wire(Some(Duration::MAX))).unwrap();
        assert_eq!(
            endless,
            Some(Message::Feeds(vec![key(Some(Duration::from_millis(MAX_OPTION)))]))
        );
        let mut cut = new.clone();
        cut[1] -= 1;
        cut.truncate(new.len() - 1);
        assert!(Message::decode(&mut cut).is_err(), "half a number");
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
