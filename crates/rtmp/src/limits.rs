use crate::{Error, amf0, message, name};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What one peer may make this end hold in memory.
///
/// A message over its limit fails when its header announces it; memory is taken only as its
/// bytes arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Any message before the request was made. Commands are small; strangers get little.
    pub unauthorised_message: usize,
    /// Audio and video between a publish request and its acceptance, in one message and in all:
    /// some encoders do not wait for the answer, and a keyframe may be the first thing sent.
    pub held_media: usize,
    /// A video or aggregate message: a keyframe of 4K video at a high rate.
    pub video_message: usize,
    /// An audio message: a second of many channels of raw audio.
    pub audio_message: usize,
    /// Commands, script data and everything else.
    pub data_message: usize,
    /// All incomplete messages of a connection together.
    pub partial_bytes: usize,
    /// Chunk streams in use before authorisation.
    pub unauthorised_chunk_streams: usize,
    /// Chunk streams in use; real clients need six at most.
    pub chunk_streams: usize,
    /// Incomplete messages at one time before authorisation.
    pub unauthorised_partial_messages: usize,
    /// Incomplete messages at one time.
    pub partial_messages: usize,
    /// Payload taken in chunks below 128 bytes before the peer is refused: each chunk costs work.
    pub small_chunk_bytes: usize,
    /// As `unsent_bytes`, before authorisation.
    pub unauthorised_unsent_bytes: usize,
    /// Unsent bytes at which a peer that goes on asking is refused: it does not read its answers.
    pub unsent_bytes: usize,
    /// What a command or a data message holds.
    pub amf: amf0::Bounds,
    /// The names that are asked for.
    pub names: name::Bounds,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unauthorised_message: 64 * KIB,
            held_media: 256 * KIB,
            video_message: 8 * MIB,
            audio_message: MIB,
            data_message: 256 * KIB,
            partial_bytes: 16 * MIB,
            unauthorised_chunk_streams: 8,
            chunk_streams: 64,
            unauthorised_partial_messages: 4,
            partial_messages: 8,
            small_chunk_bytes: 64 * KIB,
            unauthorised_unsent_bytes: 64 * KIB,
            unsent_bytes: 4 * MIB,
            amf: amf0::Bounds::default(),
            names: name::Bounds::default(),
        }
    }
}

/// How far a peer is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing is known of the peer.
    Unauthorised,
    /// The peer asked to publish and has no answer yet.
    Pending,
    /// The peer was accepted once.
    Authorised,
}

impl Limits {
    pub(crate) fn check_message(
        &self,
        phase: Phase,
        type_id: u8,
        length: usize,
    ) -> Result<(), Error> {
        let is_media = matches!(type_id, message::AUDIO | message::VIDEO | message::AGGREGATE);
        let limit = match (phase, type_id) {
            (Phase::Pending, _) if is_media => self.held_media,
            (Phase::Unauthorised | Phase::Pending, _) => self.unauthorised_message,
            (_, message::VIDEO | message::AGGREGATE) => self.video_message,
            (_, message::AUDIO) => self.audio_message,
            _ => self.data_message,
        };
        check("bytes in a message", length, limit)
    }

    pub(crate) fn check_chunk_streams(&self, phase: Phase, count: usize) -> Result<(), Error> {
        let limit = match phase {
            Phase::Authorised => self.chunk_streams,
            _ => self.unauthorised_chunk_streams,
        };
        check("chunk streams", count, limit)
    }

    pub(crate) fn check_unsent(&self, phase: Phase, bytes: usize) -> Result<(), Error> {
        let limit = match phase {
            Phase::Authorised => self.unsent_bytes,
            _ => self.unauthorised_unsent_bytes,
        };
        check("unsent bytes", bytes, limit)
    }

    pub(crate) fn check_partial(
        &self,
        phase: Phase,
        messages: usize,
        bytes: usize,
    ) -> Result<(), Error> {
        let (max_messages, max_bytes) = match phase {
            Phase::Authorised => (self.partial_messages, self.partial_bytes),
            _ => (self.unauthorised_partial_messages, self.partial_bytes.min(self.held_media)),
        };
        check("incomplete messages", messages, max_messages)?;
        check("bytes in incomplete messages", bytes, max_bytes)
    }
}

/// Fails if `value` is over `limit`.
pub(crate) fn check(what: &'static str, value: usize, limit: usize) -> Result<(), Error> {
    if value > limit {
        return Err(Error::LimitExceeded { what, limit });
    }
    Ok(())
}
