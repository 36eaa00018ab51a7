//! RTMP messages: their types, and how they become tags (RTMP 1.0 §5.4, §7.1).

use bytes::Bytes;
use media::{Tag, Track, Unwrapper};

use crate::chunk::Message;
use crate::{Error, limits};

pub(crate) const SET_CHUNK_SIZE: u8 = 1;
pub(crate) const ABORT: u8 = 2;
pub(crate) const ACKNOWLEDGEMENT: u8 = 3;
pub(crate) const USER_CONTROL: u8 = 4;
pub(crate) const WINDOW_ACKNOWLEDGEMENT_SIZE: u8 = 5;
pub(crate) const SET_PEER_BANDWIDTH: u8 = 6;
pub(crate) const AUDIO: u8 = 8;
pub(crate) const VIDEO: u8 = 9;
pub(crate) const DATA_AMF3: u8 = 15;
pub(crate) const COMMAND_AMF3: u8 = 17;
pub(crate) const DATA: u8 = 18;
pub(crate) const COMMAND: u8 = 20;
pub(crate) const AGGREGATE: u8 = 22;

/// User control events (RTMP 1.0 §7.1.7).
pub(crate) mod event {
    pub(crate) const STREAM_BEGIN: u16 = 0;
    pub(crate) const STREAM_EOF: u16 = 1;
    pub(crate) const SET_BUFFER_LENGTH: u16 = 3;
    pub(crate) const PING_REQUEST: u16 = 6;
    pub(crate) const PING_RESPONSE: u16 = 7;
}

/// The big-endian number at the start of a control message; `None` if the body is too short.
pub(crate) fn number(body: &[u8]) -> Option<u32> {
    body.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

/// What AMF0 decodes of a command or data message: AMF3 types lead with a format byte, which is 0
/// where it is sent at all (Enhanced RTMP v2, "AMF3 messages").
pub(crate) fn amf0_body(message: &Message) -> Bytes {
    match (message.type_id, message.body.first()) {
        (DATA_AMF3 | COMMAND_AMF3, Some(0)) => message.body.slice(1..),
        _ => message.body.clone(),
    }
}

/// Sub-messages in one aggregate: more than a second of any real stream.
const MAX_AGGREGATED: usize = 1024;

/// The media of one publication: turns messages into tags on one line of time.
#[derive(Debug, Default)]
pub(crate) struct Demuxer {
    clock: Unwrapper,
}

impl Demuxer {
    /// Appends the tags that `message` carries to `tags`; other messages carry none.
    pub(crate) fn tags(&mut self, message: &Message, tags: &mut Vec<Tag>) -> Result<(), Error> {
        match message.type_id {
            AGGREGATE => return self.split_aggregate(message, tags),
            DATA_AMF3 => self.tag(DATA, message.timestamp, amf0_body(message), tags),
            other => self.tag(other, message.timestamp, message.body.clone(), tags),
        }
        Ok(())
    }

    fn tag(&mut self, type_id: u8, timestamp: u32, body: Bytes, tags: &mut Vec<Tag>) {
        if let Some(track) = Track::from_flv_type(type_id) {
            tags.push(Tag::new(track, self.clock.unwrap(timestamp), body));
        }
    }

    /// RTMP 1.0 §7.1.6: FLV tags with back pointers, whose times count from the first one's.
    fn split_aggregate(&mut self, message: &Message, tags: &mut Vec<Tag>) -> Result<(), Error> {
        const HEADER: usize = 11;
        const BACK_POINTER: usize = 4;

        let body = &message.body;
        let (mut at, mut first, mut count) = (0, None, 0);
        while at < body.len() {
            count += 1;
            limits::check("messages in an aggregate", count, MAX_AGGREGATED)?;
            let header =
                body[at..].first_chunk::<HEADER>().ok_or(Error::Malformed("aggregate message"))?;
            let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
            let time = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
            let start = at + HEADER;
            if body.len() - start < length {
                return Err(Error::Malformed("aggregate message"));
            }
            let offset = time.wrapping_sub(*first.get_or_insert(time));
            let timestamp = message.timestamp.wrapping_add(offset);
            // A copy: a slice of one byte would keep the whole aggregate in memory.
            let part = Bytes::copy_from_slice(&body[start..start + length]);
            self.tag(header[0], timestamp, part, tags);
            // The last back pointer is left out by some.
            at = start + length + BACK_POINTER;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(type_id: u8, timestamp: u32, body: &[u8]) -> Message {
        Message {
            chunk_stream_id: 4,
            timestamp,
            type_id,
            message_stream_id: 1,
            body: Bytes::copy_from_slice(body),
        }
    }

    #[test]
    fn splits_aggregates_and_moves_their_times() {
        let mut body = vec![];
        for (type_id, time, payload) in
            [(8, 500_u32, &[0xaf, 1][..]), (9, 520, &[0x27]), (22, 1, &[])]
        {
            body.extend([type_id, 0, 0, payload.len() as u8, 0, (time >> 8) as u8, time as u8]);
            body.extend([0, 0, 0, 0]);
            body.extend(payload);
            body.extend([0, 0, 0, 11 + payload.len() as u8]);
        }
        for length in [body.len(), body.len() - 4] {
            let mut tags = vec![];
            let message = message(AGGREGATE, 9000, &body[..length]);
            Demuxer::default().tags(&message, &mut tags).unwrap();
            let seen: Vec<_> = tags.iter().map(|tag| (tag.track, tag.timestamp)).collect();
            assert_eq!(seen, [(Track::Audio, 9000), (Track::Video, 9020)]);
            assert_eq!(tags[0].body, &[0xaf, 1][..]);
        }
        for length in [5, 10, 28] {
            let message = message(AGGREGATE, 0, &body[..length]);
            let result = Demuxer::default().tags(&message, &mut vec![]);
            assert_eq!(result, Err(Error::Malformed("aggregate message")), "{length}");
        }
    }

    #[test]
    fn bounds_aggregates() {
        let body = [8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11].repeat(MAX_AGGREGATED + 1);
        let result = Demuxer::default().tags(&message(AGGREGATE, 0, &body), &mut vec![]);
        assert!(matches!(result, Err(Error::LimitExceeded { .. })));
    }

    #[test]
    fn drops_the_format_byte_of_amf3_data() {
        let mut tags = vec![];
        let message = message(DATA_AMF3, 0, b"\x00\x02\x00\x0aonMetaData\x05");
        Demuxer::default().tags(&message, &mut tags).unwrap();
        assert_eq!(tags[0].body, &b"\x02\x00\x0aonMetaData\x05"[..]);
    }
}
