//! Bounds on what strangers and tenants may take.

use std::time::Duration;

use rtmp::{amf0, name};
use serde::{Deserialize, Deserializer};

use super::value::{BitRate, Size};
use super::{ConfigError, at_least, at_most, duration, some_duration, within};

/// Bounds on what strangers and tenants may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of encoders and players together.
    pub connections: usize,
    /// Connections that have not shown a valid key yet.
    pub unauthenticated: usize,
    /// Connections of one address that have not shown a valid key yet; ten times that where one of
    /// them was let in.
    pub unauthenticated_per_ip: usize,
    /// Connections of one address a second; four times that where one of them was let in.
    pub connections_per_second: u32,
    /// Connections of one address at once; ten times that where one of them was let in.
    pub connection_burst: u32,
    /// Wrong keys of one address a minute before their answers are delayed.
    pub auth_failures_per_minute: u32,
    /// By how much they are.
    #[serde(deserialize_with = "duration")]
    pub auth_penalty: Duration,
    /// For how long they are.
    #[serde(deserialize_with = "duration")]
    pub auth_penalty_time: Duration,
    /// From a connection's first byte to the end of its handshake.
    #[serde(deserialize_with = "duration")]
    pub handshake: Duration,
    /// From a connection's first byte to a valid key.
    #[serde(deserialize_with = "duration")]
    pub authorise: Duration,
    /// Silence after which an encoder is taken for gone.
    #[serde(deserialize_with = "duration")]
    pub read_timeout: Duration,
    /// Time without media after which an encoder is closed though its connection lives.
    #[serde(deserialize_with = "duration")]
    pub media_timeout: Duration,
    /// Standstill after which a player is taken for gone.
    #[serde(deserialize_with = "duration")]
    pub write_timeout: Duration,
    /// Bits a second of one publication, over ten seconds.
    pub max_bitrate: BitRate,
    /// Length of one publication.
    #[serde(deserialize_with = "some_duration")]
    pub max_duration: Option<Duration>,
    /// Players of one feed.
    pub players_per_feed: usize,
    /// Previews of one feed.
    pub previews_per_feed: usize,
    /// Previews of all feeds together.
    pub previews: usize,
    /// Studios connected to a relay at one time.
    pub studios: usize,
    /// Feeds of one studio.
    pub feeds_per_studio: usize,
    /// What one RTMP connection may make this node hold and do.
    pub rtmp: Rtmp,
}

/// What one RTMP connection may make this node hold and do; see [`rtmp::Limits`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtmp {
    /// A message before the request was made.
    #[serde(deserialize_with = "bytes")]
    pub unauthorised_message: usize,
    /// Media between a publish request and its answer.
    #[serde(deserialize_with = "bytes")]
    pub held_media: usize,
    /// A video message.
    #[serde(deserialize_with = "bytes")]
    pub video_message: usize,
    /// An audio message.
    #[serde(deserialize_with = "bytes")]
    pub audio_message: usize,
    /// Any other message.
    #[serde(deserialize_with = "bytes")]
    pub data_message: usize,
    /// All incomplete messages together.
    #[serde(deserialize_with = "bytes")]
    pub partial_bytes: usize,
    /// Chunk streams before the key is known to be good.
    pub unauthorised_chunk_streams: usize,
    /// Chunk streams.
    pub chunk_streams: usize,
    /// Incomplete messages before the key is known to be good.
    pub unauthorised_partial_messages: usize,
    /// Incomplete messages.
    pub partial_messages: usize,
    /// Payload in chunks of under 128 bytes.
    #[serde(deserialize_with = "bytes")]
    pub small_chunk_bytes: usize,
    /// Answers that wait to be read before the key is known to be good.
    #[serde(deserialize_with = "bytes")]
    pub unauthorised_unsent_bytes: usize,
    /// Answers that wait to be read.
    #[serde(deserialize_with = "bytes")]
    pub unsent_bytes: usize,
    /// Objects and lists inside each other in a command or in metadata.
    pub amf_depth: usize,
    /// Values in one command or metadata.
    pub amf_elements: usize,
    /// One text in them.
    #[serde(deserialize_with = "bytes")]
    pub amf_text: usize,
    /// All their text.
    #[serde(deserialize_with = "bytes")]
    pub amf_all_text: usize,
    /// A name, app included, without its query.
    #[serde(deserialize_with = "bytes")]
    pub name_bytes: usize,
    /// A name's query.
    #[serde(deserialize_with = "bytes")]
    pub query_bytes: usize,
    /// Messages of any kind a second, over five seconds.
    pub messages_per_second: u32,
    /// Commands a second, over five seconds.
    pub commands_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1000,
            unauthenticated: 256,
            unauthenticated_per_ip: 64,
            connections_per_second: 20,
            connection_burst: 100,
            auth_failures_per_minute: 10,
            auth_penalty: Duration::from_secs(3),
            auth_penalty_time: Duration::from_secs(300),
            handshake: Duration::from_secs(5),
            authorise: Duration::from_secs(10),
            read_timeout: Duration::from_secs(15),
            media_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
            max_bitrate: BitRate(100_000_000),
            max_duration: None,
            players_per_feed: 500,
            previews_per_feed: 16,
            previews: 64,
            studios: 64,
            feeds_per_studio: 64,
            rtmp: Rtmp::default(),
        }
    }
}

impl Default for Rtmp {
    fn default() -> Self {
        let limits = rtmp::Limits::default();
        Self {
            unauthorised_message: limits.unauthorised_message,
            held_media: limits.held_media,
            video_message: limits.video_message,
            audio_message: limits.audio_message,
            data_message: limits.data_message,
            partial_bytes: limits.partial_bytes,
            unauthorised_chunk_streams: limits.unauthorised_chunk_streams,
            chunk_streams: limits.chunk_streams,
            unauthorised_partial_messages: limits.unauthorised_partial_messages,
            partial_messages: limits.partial_messages,
            small_chunk_bytes: limits.small_chunk_bytes,
            unauthorised_unsent_bytes: limits.unauthorised_unsent_bytes,
            unsent_bytes: limits.unsent_bytes,
            amf_depth: limits.amf.depth,
            amf_elements: limits.amf.elements,
            amf_text: limits.amf.text,
            amf_all_text: limits.amf.all_text,
            name_bytes: limits.names.path,
            query_bytes: limits.names.query,
            messages_per_second: 2_000,
            commands_per_second: 20,
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        at_least("limits.connections", self.connections, 1)?;
        at_least("limits.unauthenticated", self.unauthenticated, 1)?;
        at_least("limits.unauthenticated_per_ip", self.unauthenticated_per_ip, 1)?;
        for (key, value) in [
            ("limits.connections_per_second", self.connections_per_second),
            ("limits.connection_burst", self.connection_burst),
            ("limits.auth_failures_per_minute", self.auth_failures_per_minute),
        ] {
            at_least(key, value as usize, 1)?;
            at_most(key, value as usize, 1_000_000)?;
        }
        at_least("limits.players_per_feed", self.players_per_feed, 1)?;
        for (key, value) in [
            ("limits.previews_per_feed", self.previews_per_feed),
            ("limits.previews", self.previews),
        ] {
            at_most(key, value, 1_024)?;
        }
        at_least("limits.studios", self.studios, 1)?;
        at_least("limits.feeds_per_studio", self.feeds_per_studio, 1)?;
        at_most("limits.feeds_per_studio", self.feeds_per_studio, 256)?;
        let second = Duration::from_secs(1);
        within("limits.auth_penalty", self.auth_penalty, Duration::ZERO, 30 * second)?;
        within("limits.auth_penalty_time", self.auth_penalty_time, second, 86_400 * second)?;
        within("limits.handshake", self.handshake, second, 60 * second)?;
        within("limits.authorise", self.authorise, self.handshake, 120 * second)?;
        within("limits.read_timeout", self.read_timeout, second, 600 * second)?;
        within("limits.media_timeout", self.media_timeout, second, 3600 * second)?;
        within("limits.write_timeout", self.write_timeout, second, 600 * second)?;
        if !(100_000..=100_000_000_000).contains(&self.max_bitrate.0) {
            let message = "it must be from 100 kbit/s to 100 Gbit/s";
            return Err(ConfigError::value("limits.max_bitrate", message));
        }
        if let Some(max) = self.max_duration {
            within("limits.max_duration", max, second, 365 * 86_400 * second)?;
        }
        self.rtmp.check()
    }
}

impl Rtmp {
    /// The bounds of a session.
    pub fn session_limits(&self) -> rtmp::Limits {
        rtmp::Limits {
            unauthorised_message: self.unauthorised_message,
            held_media: self.held_media,
            video_message: self.video_message,
            audio_message: self.audio_message,
            data_message: self.data_message,
            partial_bytes: self.partial_bytes,
            unauthorised_chunk_streams: self.unauthorised_chunk_streams,
            chunk_streams: self.chunk_streams,
            unauthorised_partial_messages: self.unauthorised_partial_messages,
            partial_messages: self.partial_messages,
            small_chunk_bytes: self.small_chunk_bytes,
            unauthorised_unsent_bytes: self.unauthorised_unsent_bytes,
            unsent_bytes: self.unsent_bytes,
            amf: self.amf(),
            names: name::Bounds { path: self.name_bytes, query: self.query_bytes },
        }
    }

    /// The bounds of a command or of metadata.
    pub fn amf(&self) -> amf0::Bounds {
        amf0::Bounds {
            depth: self.amf_depth,
            elements: self.amf_elements,
            text: self.amf_text,
            all_text: self.amf_all_text,
        }
    }

    /// Below the least, no client gets in; a message has 16 MiB at most (RTMP 1.0 §5.3.1.2), and no
    /// text of a request more than 4 KiB.
    fn check(&self) -> Result<(), ConfigError> {
        const KIB: usize = 1 << 10;
        const MIB: usize = 1 << 20;
        const AMF: amf0::Bounds = amf0::Bounds::MOST;
        for (key, value, least, most) in [
            ("limits.rtmp.unauthorised_message", self.unauthorised_message, 4 * KIB, 16 * MIB),
            ("limits.rtmp.held_media", self.held_media, 4 * KIB, 64 * MIB),
            ("limits.rtmp.video_message", self.video_message, 64 * KIB, 16 * MIB),
            ("limits.rtmp.audio_message", self.audio_message, 4 * KIB, 16 * MIB),
            ("limits.rtmp.data_message", self.data_message, 4 * KIB, 16 * MIB),
            ("limits.rtmp.partial_bytes", self.partial_bytes, 64 * KIB, 256 * MIB),
            ("limits.rtmp.small_chunk_bytes", self.small_chunk_bytes, KIB, 1024 * MIB),
            (
                "limits.rtmp.unauthorised_unsent_bytes",
                self.unauthorised_unsent_bytes,
                16 * KIB,
                64 * MIB,
            ),
            ("limits.rtmp.unsent_bytes", self.unsent_bytes, 16 * KIB, 64 * MIB),
            ("limits.rtmp.amf_text", self.amf_text, 4 * KIB, AMF.text),
            ("limits.rtmp.amf_all_text", self.amf_all_text, 16 * KIB, AMF.all_text),
            // Our own keys need 64, and 30 in a query.
            ("limits.rtmp.name_bytes", self.name_bytes, 64, 4 * KIB),
            ("limits.rtmp.query_bytes", self.query_bytes, 64, 4 * KIB),
        ] {
            if !(least..=most).contains(&value) {
                let (least, most) = (Size(least as u64), Size(most as u64));
                let message = format!("it must be from {least} to {most}");
                return Err(ConfigError::value(key, message));
            }
        }
        for (key, value, least, most) in [
            ("limits.rtmp.unauthorised_chunk_streams", self.unauthorised_chunk_streams, 6, 65_536),
            ("limits.rtmp.chunk_streams", self.chunk_streams, 6, 65_536),
            (
                "limits.rtmp.unauthorised_partial_messages",
                self.unauthorised_partial_messages,
                1,
                1_024,
            ),
            ("limits.rtmp.partial_messages", self.partial_messages, 2, 1_024),
            ("limits.rtmp.amf_depth", self.amf_depth, 4, AMF.depth),
            ("limits.rtmp.amf_elements", self.amf_elements, 128, AMF.elements),
            ("limits.rtmp.messages_per_second", self.messages_per_second as usize, 200, 10_000_000),
            ("limits.rtmp.commands_per_second", self.commands_per_second as usize, 5, 10_000_000),
        ] {
            at_least(key, value, least)?;
            at_most(key, value, most)?;
        }
        Ok(())
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    // A size has 53 bits at most; where that does not fit, neither would the memory.
    Size::deserialize(deserializer).map(|size| usize::try_from(size.0).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtmp(rtmp: Rtmp) -> String {
        Limits { rtmp, ..Limits::default() }.check().unwrap_err().to_string()
    }

    #[test]
    fn bounds_are_told() {
        Limits::default().check().unwrap();
        let limits = Limits { max_bitrate: BitRate(1), ..Limits::default() };
        let text = limits.check().unwrap_err().to_string();
        assert_eq!(text, "limits.max_bitrate: it must be from 100 kbit/s to 100 Gbit/s");
        let limits = Limits { max_duration: Some(Duration::ZERO), ..Limits::default() };
        let text = limits.check().unwrap_err().to_string();
        assert_eq!(text, "limits.max_duration: it must be from 1s to 365d");
        assert_eq!(
            rtmp(Rtmp { video_message: 17 << 20, ..Rtmp::default() }),
            "limits.rtmp.video_message: it must be from 64 KiB to 16 MiB"
        );
        assert_eq!(
            rtmp(Rtmp { chunk_streams: 1, ..Rtmp::default() }),
            "limits.rtmp.chunk_streams: it must be at least 6"
        );
        // Each level takes of the stack.
        assert_eq!(
            rtmp(Rtmp { amf_depth: 65, ..Rtmp::default() }),
            "limits.rtmp.amf_depth: it must be at most 64"
        );
        assert_eq!(
            rtmp(Rtmp { name_bytes: 63, ..Rtmp::default() }),
            "limits.rtmp.name_bytes: it must be from 64 B to 4 KiB"
        );
    }

    #[test]
    fn a_session_has_the_librarys_defaults() {
        assert_eq!(Rtmp::default().session_limits(), rtmp::Limits::default());
    }
}
