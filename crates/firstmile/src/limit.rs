//! The limits there are, and how often each was hit: one counter for each, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::connection::Error;

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// A limit, by the label that its counter has in the metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Limit {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The limit as metrics have it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

limits! {
    /// Connections of one address a second.
    ConnectionRate = "connection_rate",
    /// Connections in all.
    Connections = "connections",
    /// Connections that were not let in yet, in all.
    Guests = "unauthenticated",
    /// Connections of one address that were not let in yet.
    GuestsOfAddress = "unauthenticated_per_ip",
    /// Time for the handshake, and between messages until the request.
    Handshake = "handshake",
    /// Time until the request.
    Authorise = "authorise",
    /// Wrong keys of one address a minute.
    AuthFailures = "auth_failures",
    /// Silence of an encoder.
    ReadTimeout = "read_timeout",
    /// An encoder without media.
    MediaTimeout = "media_timeout",
    /// Standstill of a player.
    WriteTimeout = "write_timeout",
    /// Bytes of a message.
    MessageSize = "message_size",
    /// Chunk streams of a connection.
    ChunkStreams = "chunk_streams",
    /// Incomplete messages of a connection, in pieces or bytes.
    PartialMessages = "partial_messages",
    /// Chunks below 128 bytes.
    SmallChunks = "small_chunks",
    /// Answers that the peer does not read.
    UnsentBytes = "unsent_bytes",
    /// Media that was sent before the answer.
    HeldMedia = "held_media",
    /// Requests without an answer.
    Requests = "requests",
    /// Bytes of a name.
    Names = "names",
    /// Depth, elements or text of AMF.
    Amf = "amf",
    /// Messages in an aggregate.
    Aggregate = "aggregate",
    /// Messages a second.
    MessageRate = "message_rate",
    /// Commands a second.
    CommandRate = "command_rate",
    /// Bits a second of a publication.
    Bitrate = "bitrate",
    /// Length of a publication.
    Duration = "duration",
    /// Players of a feed.
    Players = "players_per_feed",
    /// Previews of a feed, and of all.
    Previews = "previews",
    /// Takeovers of a feed.
    Takeovers = "takeovers",
    /// Bytes and tags of one feed's ring.
    Ring = "ring",
    /// Bytes of all rings.
    RingTotal = "ring_total",
    /// Studios at a relay.
    Studios = "studios",
    /// Callers that may be studios.
    Callers = "callers",
    /// Feeds of a studio.
    FeedsPerStudio = "feeds_per_studio",
    /// Any other.
    Other = "other",
}

impl Limit {
    /// The limit that ended a connection, if one did. `is_guest`: it was not let in yet.
    pub fn of(error: &Error, is_guest: bool) -> Option<Self> {
        Some(match error {
            Error::Silent(_) if is_guest => Self::Handshake,
            Error::Silent(_) => Self::ReadTimeout,
            Error::Late(_) => Self::Authorise,
            Error::Stuck(_) => Self::WriteTimeout,
            Error::NoMedia(_) => Self::MediaTimeout,
            Error::Bitrate(_) => Self::Bitrate,
            Error::Duration(_) => Self::Duration,
            Error::Messages(_) => Self::MessageRate,
            Error::Commands(_) => Self::CommandRate,
            Error::Rtmp(error) => return Self::of_protocol(error),
            _ => return None,
        })
    }

    fn of_protocol(error: &rtmp::Error) -> Option<Self> {
        use rtmp::amf0::Error::{TooDeep, TooLarge};
        Some(match error {
            rtmp::Error::Amf(TooDeep | TooLarge) => Self::Amf,
            rtmp::Error::LimitExceeded { what, .. } => match *what {
                "bytes in a message" => Self::MessageSize,
                "chunk streams" => Self::ChunkStreams,
                "incomplete messages" | "bytes in incomplete messages" => Self::PartialMessages,
                "bytes in chunks of under 128 bytes" => Self::SmallChunks,
                "unsent bytes" => Self::UnsentBytes,
                "bytes of media before the answer" => Self::HeldMedia,
                "unanswered requests" => Self::Requests,
                "bytes in a name" => Self::Names,
                "messages in an aggregate" => Self::Aggregate,
                _ => Self::Other,
            },
            _ => return None,
        })
    }
}

/// How often each limit was hit since the start.
#[derive(Debug)]
pub struct Hits([AtomicU64; Limit::ALL.len()]);

impl Default for Hits {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Hits {
    /// Counts one.
    pub fn count(&self, limit: Limit) {
        self.0[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// So many.
    pub fn of(&self, limit: Limit) -> u64 {
        self.0[limit as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use rtmp::amf0::Value;

    #[test]
    fn every_limit_has_a_counter_and_a_label_of_its_own() {
        let hits = Hits::default();
        let mut labels: Vec<_> = Limit::ALL.iter().map(|limit| limit.as_str()).collect();
        for limit in Limit::ALL {
            hits.count(*limit);
        }
        assert!(Limit::ALL.iter().all(|limit| hits.of(*limit) == 1));
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Limit::ALL.len());
    }

    /// What a server session says of a client that was let in to publish (or not) and sends this.
    fn ended_by(is_admitted: bool, bytes: &[u8]) -> Option<Limit> {
        let mut session = rtmp::Server::new(rtmp::session::server::Config::default(), [7; 32]);
        let mut input = BytesMut::from(&[&[3][..], &[0; 3072]].concat()[..]);
        if is_admitted {
            input.extend(command(3, "connect", &[Value::object([("app", "live".into())])]));
            input.extend(command(3, "publish", &[Value::Null, "key".into()]));
        }
        session.handle_input(&mut input).unwrap();
        session.accept();
        input.extend_from_slice(bytes);
        let error = session.handle_input(&mut input).unwrap_err();
        Limit::of(&error.into(), !is_admitted)
    }

    fn chunk(id: u8, type_id: u8, length: usize, body: &[u8]) -> Vec<u8> {
        let length = (length as u32).to_be_bytes();
        let header = [id, 0, 0, 0, length[1], length[2], length[3], type_id, 1, 0, 0, 0];
        [&header[..], body].concat()
    }

    fn command(id: u8, name: &str, arguments: &[Value]) -> Vec<u8> {
        let mut body = BytesMut::new();
        Value::from(name).encode(&mut body);
        Value::from(1.0).encode(&mut body);
        arguments.iter().for_each(|value| value.encode(&mut body));
        chunk(id, 20, body.len(), &body)
    }

    fn chunk_size(size: u32) -> Vec<u8> {
        chunk(2, 1, 4, &size.to_be_bytes())
    }

    #[test]
    fn what_ends_a_session_has_a_counter() {
        let connect = |object: Value| command(3, "connect", &[object]);
        let frame = [0x27; 128];
        let part = [8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
        let large = [chunk_size(1 << 20), chunk(6, 22, 15 * 5_000, &part.repeat(5_000))].concat();
        let partial: Vec<u8> = (10..20).flat_map(|id| chunk(id, 9, 1_000, &frame)).collect();
        let deep = b"\x0a\x00\x00\x00\x01".repeat(20);
        let small = [chunk_size(1), chunk(6, 9, 66_000, &[0x27])]
            .concat()
            .into_iter()
            .chain((0..66_000).flat_map(|_| [0xc6, 0]))
            .collect();
        let asking = command(3, "getStreamLength", &[Value::Null]).repeat(5_000);
        let requests = [
            connect(Value::object([("app", "live".into())])),
            command(3, "publish", &[Value::Null, "key".into()]).repeat(9),
        ]
        .concat();
        let early = [
            connect(Value::object([("app", "live".into())])),
            command(3, "publish", &[Value::Null, "key".into()]),
            chunk(6, 9, 128, &frame).repeat(3_000),
        ]
        .concat();
        let long = "x".repeat(5_000);
        let name =
            [chunk_size(60_000), connect(Value::object([("app", long.as_str().into())]))].concat();
        let streams: Vec<u8> = (3..12).flat_map(|id| chunk(id, 9, 1, &[0])).collect();
        for (is_admitted, bytes, expected) in [
            (false, chunk(3, 20, 65_537, &[]), Limit::MessageSize),
            (true, chunk(6, 9, (8 << 20) + 1, &[]), Limit::MessageSize),
            (false, streams, Limit::ChunkStreams),
            (true, partial, Limit::PartialMessages),
            (true, small, Limit::SmallChunks),
            (false, asking, Limit::UnsentBytes),
            (false, requests, Limit::Requests),
            (false, early, Limit::HeldMedia),
            (false, name, Limit::Names),
            (false, chunk(3, 20, deep.len(), &deep), Limit::Amf),
            (true, large, Limit::Aggregate),
        ] {
            assert_eq!(ended_by(is_admitted, &bytes), Some(expected));
        }
        assert_eq!(ended_by(false, &chunk(3, 20, 1, &[5])), None);
    }
}
