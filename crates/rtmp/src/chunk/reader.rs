use bytes::{Buf, Bytes, BytesMut};

use super::{DEFAULT_CHUNK_SIZE, EXTENDED, MAX_CHUNK_SIZE, Message, Phase};
use crate::limits::check;
use crate::trace::Trace;
use crate::{Error, Limits, message};

/// Chunks below this size count against [`Limits::small_chunk_bytes`].
const SMALL_CHUNK: u32 = 128;

/// A type 3 chunk that starts a message after a type 0 chunk repeats that one's timestamp as a
/// delta (RTMP 1.0 §5.3.1.2.4). FFmpeg and GStreamer mean it so, near the start of the stream; old
/// librtmp means "the same time again", anywhere. Up to this many milliseconds the spec is taken
/// at its word.
const MAX_IMPLIED_DELTA: u32 = 1000;

/// Puts messages together from chunks.
///
/// Set Chunk Size and Abort (RTMP 1.0 §5.4.1, §5.4.2) are obeyed here and not passed on. The
/// result does not depend on how the bytes were segmented.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    phase: Phase,
    chunk_size: u32,
    streams: Vec<ChunkStream>,
    /// The chunk whose payload is being read: an index into `streams`.
    current: Option<usize>,
    /// Payload bytes that the current chunk still has.
    chunk_remaining: usize,
    partial_messages: usize,
    partial_bytes: usize,
    small_chunk_bytes: usize,
    /// Whether this peer repeats extended timestamps on type 3 chunks, once that is known.
    repeats_extended: Option<bool>,
    lenient: u64,
    /// Notes every header, where somebody asked for it.
    trace: Option<Box<Trace>>,
    messages: u64,
}

/// What a chunk stream remembers from chunk to chunk.
#[derive(Debug, Default)]
struct ChunkStream {
    id: u32,
    timestamp: u32,
    delta: u32,
    /// The extended timestamp field in force, absolute or delta as it was sent.
    extended: Option<u32>,
    length: usize,
    type_id: u8,
    message_stream_id: u32,
    /// Whether chunks of the message are still to come after the current one.
    in_message: bool,
    body: Vec<u8>,
}

/// A chunk's header as sent (RTMP 1.0 §5.3.1.2).
struct MessageHeader {
    time: u32,
    length_and_type: Option<(usize, u8)>,
    message_stream_id: Option<u32>,
}

impl Reader {
    /// A reader that takes the peer for a stranger.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Unauthorised,
            chunk_size: DEFAULT_CHUNK_SIZE,
            streams: Vec::new(),
            current: None,
            chunk_remaining: 0,
            partial_messages: 0,
            partial_bytes: 0,
            small_chunk_bytes: 0,
            repeats_extended: None,
            lenient: 0,
            trace: None,
            messages: 0,
        }
    }

    /// Notes headers and messages from now on.
    pub(crate) fn set_trace(&mut self, trace: Trace) {
        self.trace = Some(Box::new(trace));
    }

    /// What notes headers and messages, where somebody asked for it.
    pub(crate) fn trace(&mut self) -> Option<&mut Trace> {
        self.trace.as_deref_mut()
    }

    /// Applies the limits of `phase` to what comes next; a peer once trusted stays so.
    pub fn set_phase(&mut self, phase: Phase) {
        self.phase = self.phase.max(phase);
    }

    /// Fails if `bytes` of answers that the peer has not read are more than it may leave.
    pub(crate) fn check_unsent(&self, bytes: usize) -> Result<(), Error> {
        self.limits.check_unsent(self.phase, bytes)
    }

    /// How often the peer bent the rules in a way that is let pass.
    pub fn lenient(&self) -> u64 {
        self.lenient
    }

    /// Complete messages so far, those that are handled here among them.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The next complete message; `None` if `input` does not hold its end yet.
    ///
    /// Payload is moved out of `input` as it arrives: what stays is an incomplete header at most.
    ///
    /// # Errors
    ///
    /// [`Error::Misbehaved`] or [`Error::Malformed`] if the chunks make no sense,
    /// [`Error::LimitExceeded`] if they would take too much memory. The reader is of no use
    /// afterwards.
    pub fn read(&mut self, input: &mut BytesMut) -> Result<Option<Message>, Error> {
        let mut rest: &[u8] = input;
        let result = self.read_slice(&mut rest);
        let consumed = input.len() - rest.len();
        input.advance(consumed);
        result
    }

    fn read_slice(&mut self, rest: &mut &[u8]) -> Result<Option<Message>, Error> {
        loop {
            let index = match self.current {
                Some(index) => index,
                None => match self.read_header(rest)? {
                    Some(index) => index,
                    None => return Ok(None),
                },
            };
            if let Some(message) = self.read_payload(index, rest)? {
                self.messages += 1;
                if let Some(trace) = &mut self.trace {
                    trace.received(&message);
                }
                match message.type_id {
                    message::SET_CHUNK_SIZE => self.set_chunk_size(&message.body)?,
                    message::ABORT => self.abort(&message.body),
                    _ => return Ok(Some(message)),
                }
            } else if self.current.is_some() {
                return Ok(None);
            }
        }
    }

    /// Reads a whole chunk header, or nothing; returns the index of its chunk stream.
    fn read_header(&mut self, rest: &mut &[u8]) -> Result<Option<usize>, Error> {
        let mut header = *rest;
        let Some((format, id)) = take_basic_header(&mut header) else {
            return Ok(None);
        };
        let known = self.streams.iter().position(|stream| stream.id == id);
        if format == 3 {
            if let Some(index) = known
                && let Some(extended) = self.streams[index].extended
            {
                match self.repeats(index, extended, header) {
                    None => return Ok(None),
                    Some(true) if header.len() < 4 => return Ok(None),
                    Some(true) => header.advance(4),
                    Some(false) => self.lenient += 1,
                }
            }
            if self.trace.is_some() {
                self.note_header(&rest[..rest.len() - header.len()], known, None);
            }
            *rest = header;
            return self.begin_chunk(known, id, None).map(Some);
        }
        let Some(mut fields) = take_message_header(format, &mut header) else {
            return Ok(None);
        };
        let mut extended = None;
        if fields.time == EXTENDED {
            let Some((value, after)) = header.split_first_chunk::<4>() else {
                return Ok(None);
            };
            fields.time = u32::from_be_bytes(*value);
            extended = Some(fields.time);
            header = after;
        }
        if self.trace.is_some() {
            self.note_header(&rest[..rest.len() - header.len()], known, fields.length_and_type);
        }
        *rest = header;
        let index = self.begin_chunk(known, id, Some(fields))?;
        self.streams[index].extended = extended;
        Ok(Some(index))
    }

    /// Notes a header before it is judged.
    #[cold]
    fn note_header(&mut self, bytes: &[u8], known: Option<usize>, length: Option<(usize, u8)>) {
        let Some(trace) = &mut self.trace else {
            return;
        };
        let stream = known.map(|index| &self.streams[index]);
        let length = length.map(|(length, _)| length);
        let length = length.or(stream.map(|stream| stream.length)).unwrap_or_default();
        trace.chunk(bytes, stream.is_some_and(|stream| stream.in_message), length);
    }

    /// Whether the extended timestamp is repeated at the start of `rest`; `None` if more bytes
    /// must tell.
    ///
    /// RTMP 1.0 §5.3.1.3 says it is; some encoders leave it out. What the first continuation shows
    /// holds for the connection. One byte that differs decides, so a peer that leaves it out is
    /// hardly ever waited for.
    fn repeats(&mut self, index: usize, extended: u32, rest: &[u8]) -> Option<bool> {
        if self.repeats_extended.is_some() {
            return self.repeats_extended;
        }
        let stream = &self.streams[index];
        let length = rest.len().min(4);
        // After a delta some repeat the time that it leads to.
        let equal = [extended, stream.timestamp]
            .iter()
            .any(|value| value.to_be_bytes()[..length] == rest[..length]);
        match (equal, length) {
            (true, ..4) => None,
            (equal, _) => {
                // At the start of a message it may be a new value: that proves nothing.
                if stream.in_message {
                    self.repeats_extended = Some(equal);
                }
                Some(equal)
            }
        }
    }

    /// Applies a header to its chunk stream; `None` for type 3.
    fn begin_chunk(
        &mut self,
        known: Option<usize>,
        id: u32,
        fields: Option<MessageHeader>,
    ) -> Result<usize, Error> {
        let is_type_0 = matches!(fields, Some(MessageHeader { message_stream_id: Some(_), .. }));
        let index = match known {
            Some(index) => index,
            None => {
                self.limits.check_chunk_streams(self.phase, self.streams.len() + 1)?;
                // librtmp's pings and some drones start with a compressed header.
                self.lenient += u64::from(!is_type_0);
                self.streams.push(ChunkStream { id, ..ChunkStream::default() });
                self.streams.len() - 1
            }
        };
        let stream = &mut self.streams[index];
        if stream.in_message {
            stream.check_continuation(is_type_0, fields.as_ref())?;
        } else {
            stream.begin_message(is_type_0, fields);
            self.limits.check_message(self.phase, stream.type_id, stream.length)?;
        }
        let left = stream.length - stream.body.len();
        self.chunk_remaining = left.min(self.chunk_size as usize);
        if !stream.in_message && left > self.chunk_remaining {
            stream.in_message = true;
            self.partial_messages += 1;
        }
        if self.chunk_size < SMALL_CHUNK {
            self.small_chunk_bytes += self.chunk_remaining;
            check(
                "bytes in chunks of under 128 bytes",
                self.small_chunk_bytes,
                self.limits.small_chunk_bytes,
            )?;
        }
        self.current = Some(index);
        Ok(index)
    }

    /// Moves payload into its message; the message once it is complete.
    fn read_payload(&mut self, index: usize, rest: &mut &[u8]) -> Result<Option<Message>, Error> {
        let stream = &mut self.streams[index];
        let count = self.chunk_remaining.min(rest.len());
        let (payload, after) = rest.split_at(count);
        *rest = after;
        if count == stream.length {
            self.current = None;
            return Ok(Some(stream.message(Bytes::copy_from_slice(payload))));
        }
        if stream.body.capacity() - stream.body.len() < count {
            // Doubling, but never beyond the message: what is reserved follows what arrived.
            let left = stream.length - stream.body.len();
            let additional = left.min(count.max(stream.body.len()));
            let before = stream.body.capacity();
            stream.body.reserve_exact(additional);
            self.partial_bytes += stream.body.capacity() - before;
        }
        self.limits.check_partial(self.phase, self.partial_messages, self.partial_bytes)?;
        stream.body.extend_from_slice(payload);
        self.chunk_remaining -= count;
        if self.chunk_remaining > 0 {
            return Ok(None);
        }
        self.current = None;
        if stream.body.len() < stream.length {
            return Ok(None);
        }
        let body = self.drop_partial(index);
        Ok(Some(self.streams[index].message(body.into())))
    }

    /// Ends the incomplete message of a chunk stream.
    fn drop_partial(&mut self, index: usize) -> Vec<u8> {
        let stream = &mut self.streams[index];
        let body = std::mem::take(&mut stream.body);
        self.partial_messages -= usize::from(std::mem::take(&mut stream.in_message));
        self.partial_bytes -= body.capacity();
        body
    }

    fn set_chunk_size(&mut self, body: &[u8]) -> Result<(), Error> {
        let size = message::number(body).ok_or(Error::Malformed("Set Chunk Size message"))?;
        if size == 0 {
            return Err(Error::Misbehaved("it set a chunk size of 0"));
        }
        self.lenient += u64::from(!(SMALL_CHUNK..=MAX_CHUNK_SIZE).contains(&size));
        self.chunk_size = size.min(MAX_CHUNK_SIZE);
        Ok(())
    }

    fn abort(&mut self, body: &[u8]) {
        let id = message::number(body);
        if let Some(index) = self.streams.iter().position(|s| Some(s.id) == id) {
            self.drop_partial(index);
        }
    }
}

impl ChunkStream {
    fn begin_message(&mut self, is_type_0: bool, fields: Option<MessageHeader>) {
        let Some(fields) = fields else {
            self.timestamp = self.timestamp.wrapping_add(self.delta);
            return;
        };
        if is_type_0 {
            self.timestamp = fields.time;
            self.delta = match fields.time {
                time @ ..=MAX_IMPLIED_DELTA => time,
                _ => 0,
            };
        } else {
            self.delta = fields.time;
            // GStreamer sends negative deltas, wrapped.
            self.timestamp = self.timestamp.wrapping_add(fields.time);
        }
        if let Some((length, type_id)) = fields.length_and_type {
            (self.length, self.type_id) = (length, type_id);
        }
        if let Some(message_stream_id) = fields.message_stream_id {
            self.message_stream_id = message_stream_id;
        }
    }

    fn check_continuation(
        &self,
        is_type_0: bool,
        fields: Option<&MessageHeader>,
    ) -> Result<(), Error> {
        if is_type_0 {
            return Err(Error::Misbehaved("it began a message inside another"));
        }
        match fields.and_then(|fields| fields.length_and_type) {
            Some(changed) if changed != (self.length, self.type_id) => {
                Err(Error::Misbehaved("it changed a message in its middle"))
            }
            _ => Ok(()),
        }
    }

    fn message(&self, body: Bytes) -> Message {
        Message {
            chunk_stream_id: self.id,
            timestamp: self.timestamp,
            type_id: self.type_id,
            message_stream_id: self.message_stream_id,
            body,
        }
    }
}

/// RTMP 1.0 §5.3.1.1: the chunk type and the chunk stream id, in one to three bytes.
fn take_basic_header(rest: &mut &[u8]) -> Option<(u8, u32)> {
    let (&first, after) = rest.split_first()?;
    let (id, after) = match (first & 0x3f, after) {
        (0, [low, after @ ..]) => (64 + u32::from(*low), after),
        (1, [low, high, after @ ..]) => (64 + u32::from(*low) + 256 * u32::from(*high), after),
        (0 | 1, _) => return None,
        (id, after) => (u32::from(id), after),
    };
    *rest = after;
    Some((first >> 6, id))
}

/// RTMP 1.0 §5.3.1.2, types 0 to 2; the message stream id is little-endian.
fn take_message_header(format: u8, rest: &mut &[u8]) -> Option<MessageHeader> {
    const LENGTHS: [usize; 3] = [11, 7, 3];

    let (header, after) = rest.split_at_checked(LENGTHS[usize::from(format)])?;
    *rest = after;
    let number = |bytes: &[u8]| u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
    Some(MessageHeader {
        time: number(header),
        length_and_type: (format < 2).then(|| (number(&header[3..]) as usize, header[6])),
        message_stream_id: (format == 0)
            .then(|| u32::from_le_bytes([header[7], header[8], header[9], header[10]])),
    })
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
