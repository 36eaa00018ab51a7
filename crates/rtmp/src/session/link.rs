use bytes::{Buf, Bytes, BytesMut};
use media::Tag;

use crate::amf0::Value;
use crate::chunk::{Header, Message, Reader, Writer};
use crate::message::{self, event};
use crate::{Error, Limits, SendQueue, command};

/// The window that acknowledgements follow if the peer names none.
const DEFAULT_WINDOW: u32 = 2_500_000;

/// The least window that is believed: each acknowledgement costs a message.
const MIN_WINDOW: u32 = 8192;

const CONTROL_CHUNK_STREAM: u32 = 2;
const COMMAND_CHUNK_STREAM: u32 = 3;
const AUDIO_CHUNK_STREAM: u32 = 4;
const DATA_CHUNK_STREAM: u32 = 5;
const VIDEO_CHUNK_STREAM: u32 = 6;

/// What both ends of a session have in common: chunks, acknowledgements and pings.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) send: SendQueue,
    received: u64,
    acknowledged: u64,
    window: u32,
    acknowledged_by_peer: u64,
}

/// What a protocol or user control message says, as far as a session cares.
pub(super) enum Control {
    /// The peer has received so many bytes in all.
    Acknowledged(u64),
    /// The peer limits what is in flight.
    PeerBandwidth(u32),
    /// A message stream has ended.
    StreamEof,
}

impl Link {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            reader: Reader::new(limits),
            writer: Writer::default(),
            send: SendQueue::default(),
            received: 0,
            acknowledged: 0,
            window: DEFAULT_WINDOW,
            acknowledged_by_peer: 0,
        }
    }

    /// Takes a step of the handshake, which comes before the chunks; `true` once it is complete.
    pub(super) fn shake_hands(
        &mut self,
        input: &mut BytesMut,
        step: impl FnOnce(&mut BytesMut, &mut SendQueue) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let before = input.len();
        let is_complete = step(input, &mut self.send)?;
        self.count_received(before - input.len());
        Ok(is_complete)
    }

    fn count_received(&mut self, count: usize) {
        self.received += count as u64;
    }

    /// The next message; acknowledges what it consumed.
    pub(super) fn read(&mut self, input: &mut BytesMut) -> Result<Option<Message>, Error> {
        let before = input.len();
        let result = self.reader.read(input);
        self.count_received(before - input.len());
        // At half the window, whether or not the peer asked: some stop when it is full
        // (RTMP 1.0 §5.4.3). The number wraps.
        if self.received - self.acknowledged >= u64::from(self.window / 2) {
            self.acknowledged = self.received;
            let number = self.received as u32;
            self.control(message::ACKNOWLEDGEMENT, &number.to_be_bytes());
        }
        result
    }

    /// Handles a message of the types 3 to 6; what is unknown or too short is ignored.
    pub(super) fn handle_control(&mut self, message: &Message) -> Option<Control> {
        let number = message::number(&message.body)?;
        match message.type_id {
            message::ACKNOWLEDGEMENT => {
                let step = number.wrapping_sub(self.acknowledged_by_peer as u32);
                // A step backwards is a peer that counts from somewhere else.
                if step as i32 >= 0 {
                    self.acknowledged_by_peer += u64::from(step);
                }
                return Some(Control::Acknowledged(self.acknowledged_by_peer));
            }
            message::WINDOW_ACKNOWLEDGEMENT_SIZE => self.window = number.max(MIN_WINDOW),
            message::SET_PEER_BANDWIDTH => return Some(Control::PeerBandwidth(number)),
            message::USER_CONTROL => match (number >> 16) as u16 {
                event::STREAM_EOF => return Some(Control::StreamEof),
                event::PING_REQUEST => {
                    if let Some(value) = message.body.get(2..).and_then(message::number)
                        && self.send_has_room().is_ok()
                    {
                        self.user_control(event::PING_RESPONSE, value);
                    }
                }
                _ => {}
            },
            _ => {}
        }
        None
    }

    /// Fails if the peer goes on asking without reading the answers.
    pub(super) fn send_has_room(&self) -> Result<(), Error> {
        self.reader.check_unsent(self.send.remaining())
    }

    pub(super) fn control(&mut self, type_id: u8, body: &[u8]) {
        let header = Header {
            chunk_stream_id: CONTROL_CHUNK_STREAM,
            timestamp: 0,
            type_id,
            message_stream_id: 0,
        };
        self.note_sent(&header, body);
        self.writer.write_small(header, body, &mut self.send);
    }

    /// RTMP 1.0 §7.1.7.
    pub(super) fn user_control(&mut self, event: u16, value: u32) {
        let mut body = [0; 6];
        body[..2].copy_from_slice(&event.to_be_bytes());
        body[2..].copy_from_slice(&value.to_be_bytes());
        self.control(message::USER_CONTROL, &body);
    }

    pub(super) fn command(
        &mut self,
        message_stream_id: u32,
        name: &str,
        transaction_id: f64,
        arguments: &[Value],
    ) {
        let header = Header {
            chunk_stream_id: COMMAND_CHUNK_STREAM,
            timestamp: 0,
            type_id: message::COMMAND,
            message_stream_id,
        };
        let body = command::encode(name, transaction_id, arguments);
        self.note_sent(&header, &body);
        self.writer.write_small(header, &body, &mut self.send);
    }

    pub(super) fn media(
        &mut self,
        message_stream_id: u32,
        tag: &Tag,
        timestamp: u32,
        body: &Bytes,
    ) {
        let chunk_stream_id = match tag.track {
            media::Track::Audio => AUDIO_CHUNK_STREAM,
            media::Track::Video => VIDEO_CHUNK_STREAM,
            media::Track::Data => DATA_CHUNK_STREAM,
        };
        let header =
            Header { chunk_stream_id, timestamp, type_id: tag.track.flv_type(), message_stream_id };
        self.note_sent(&header, body);
        self.writer.write(header, body, &mut self.send);
    }

    fn note_sent(&mut self, header: &Header, body: &[u8]) {
        if let Some(trace) = self.reader.trace() {
            trace.sent(header, body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_wrap_and_go_on() {
        let mut link = Link::new(Limits::default());
        let near_the_wrap = u64::from(u32::MAX) - 100;
        (link.received, link.acknowledged) = (near_the_wrap, near_the_wrap);
        // Acknowledgements of zero bytes: 12 bytes of header and 4 of body.
        let message = [2, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut input = BytesMut::from(&message.repeat(4_000)[..]);
        link.window = 2 * 32_000;
        while link.read(&mut input).unwrap().is_some() {}
        let sent = link.send.copy_to_bytes(link.send.remaining());
        let mut reader = Reader::new(Limits::default());
        let mut output = BytesMut::from(&sent[..]);
        let mut numbers = Vec::new();
        while let Some(message) = reader.read(&mut output).unwrap() {
            numbers.push(message::number(&message.body).unwrap());
        }
        assert_eq!(numbers, [32_000 - 101, 64_000 - 101]);
    }
}
