//! Chunks as the tests write and read them (RTMP 1.0 §5.3).

use std::collections::HashMap;

/// From this timestamp on the field is this, and the time follows (RTMP 1.0 §5.3.1.3).
pub const EXTENDED: u32 = 0x00ff_ffff;

/// A whole message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The chunk stream id.
    pub csid: u32,
    /// Milliseconds.
    pub time: u32,
    /// The message type id.
    pub type_id: u8,
    /// The message stream id.
    pub stream: u32,
    /// The payload.
    pub body: Vec<u8>,
}

/// A basic header: format 0 to 3, chunk stream 2 to 65599, in its shortest form.
pub fn basic(format: u8, csid: u32) -> Vec<u8> {
    let format = format << 6;
    match csid {
        ..64 => vec![format | csid as u8],
        64..320 => vec![format, (csid - 64) as u8],
        _ => vec![format | 1, (csid - 64) as u8, ((csid - 64) >> 8) as u8],
    }
}

fn u24(number: u32) -> [u8; 3] {
    let [_, bytes @ ..] = number.to_be_bytes();
    bytes
}

fn extended(time: u32) -> Vec<u8> {
    if time >= EXTENDED { time.to_be_bytes().to_vec() } else { Vec::new() }
}

/// A type 0 chunk header, with an extended timestamp where the time needs one.
pub fn type_0(csid: u32, time: u32, length: usize, type_id: u8, stream: u32) -> Vec<u8> {
    let mut header = basic(0, csid);
    header.extend(u24(time.min(EXTENDED)));
    header.extend(u24(length as u32));
    header.push(type_id);
    header.extend(stream.to_le_bytes());
    header.extend(extended(time));
    header
}

/// A type 1 chunk header; a delta of 0xFFFFFF and more is extended.
pub fn type_1(csid: u32, delta: u32, length: usize, type_id: u8) -> Vec<u8> {
    let mut header = basic(1, csid);
    header.extend(u24(delta.min(EXTENDED)));
    header.extend(u24(length as u32));
    header.push(type_id);
    header.extend(extended(delta));
    header
}

/// A type 2 chunk header.
pub fn type_2(csid: u32, delta: u32) -> Vec<u8> {
    let mut header = basic(2, csid);
    header.extend(u24(delta.min(EXTENDED)));
    header.extend(extended(delta));
    header
}

/// A type 3 chunk header.
pub fn type_3(csid: u32) -> Vec<u8> {
    basic(3, csid)
}

/// A header, and a body in chunks of `size` with `continuation` between them.
pub fn cut(header: Vec<u8>, continuation: &[u8], body: &[u8], size: usize) -> Vec<u8> {
    let mut out = header;
    for (number, part) in body.chunks(size).enumerate() {
        if number > 0 {
            out.extend(continuation);
        }
        out.extend(part);
    }
    out
}

impl Message {
    /// The message from a type 0 chunk on, by the book.
    pub fn chunks(&self, size: usize) -> Vec<u8> {
        let mut continuation = type_3(self.csid);
        continuation.extend(extended(self.time));
        self.chunks_with(&continuation, size)
    }

    /// The message with continuations that leave the extended timestamp out, as some encoders do.
    pub fn chunks_without_repetition(&self, size: usize) -> Vec<u8> {
        self.chunks_with(&type_3(self.csid), size)
    }

    fn chunks_with(&self, continuation: &[u8], size: usize) -> Vec<u8> {
        let header = type_0(self.csid, self.time, self.body.len(), self.type_id, self.stream);
        cut(header, continuation, &self.body, size)
    }
}

/// Reads a server's chunks as strictly as FFmpeg does: an extended timestamp must be repeated.
#[derive(Debug)]
pub struct Parser {
    size: usize,
    streams: HashMap<u32, (Message, Header)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Header {
    field: u32,
    length: usize,
}

impl Default for Parser {
    fn default() -> Self {
        Self { size: 128, streams: HashMap::new() }
    }
}

impl Parser {
    /// The next whole message; `None` if `input` does not hold the end of its chunk yet.
    ///
    /// # Panics
    ///
    /// If the chunks break a rule.
    pub fn next(&mut self, input: &mut Vec<u8>) -> Option<Message> {
        loop {
            let (used, message) = self.chunk(input)?;
            input.drain(..used);
            match message {
                Some(Message { type_id: 1, body, .. }) => {
                    let size = u32::from_be_bytes(body[..4].try_into().expect("four bytes"));
                    assert!((128..=0x00ff_ffff).contains(&size), "a chunk size of {size}");
                    self.size = size as usize;
                }
                Some(message) => return Some(message),
                None => {}
            }
        }
    }

    fn chunk(&mut self, input: &[u8]) -> Option<(usize, Option<Message>)> {
        let number = |at: usize, count: usize| {
            let bytes = input.get(at..at + count)?;
            Some(bytes.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte)))
        };
        let first = *input.first()?;
        let (csid, mut at) = match first & 0x3f {
            0 => (number(1, 1)? + 64, 2),
            1 => (number(1, 1)? + (number(2, 1)? << 8) + 64, 3),
            id => (u32::from(id), 1),
        };
        let format = first >> 6;
        let (mut message, mut header) = match self.streams.get(&csid) {
            Some(known) => known.clone(),
            None => {
                assert_eq!(format, 0, "chunk stream {csid} does not begin with type 0");
                (Message { csid, ..Message::default() }, Header::default())
            }
        };
        let is_continuation = !message.body.is_empty();
        assert!(!is_continuation || format == 3, "a message inside another");
        assert!(is_continuation || format != 3, "a message begins with type 3");
        if format < 3 {
            header.field = number(at, 3)?;
            at += 3;
        }
        if format < 2 {
            header.length = number(at, 3)? as usize;
            message.type_id = number(at + 3, 1)? as u8;
            at += 4;
        }
        if format == 0 {
            message.stream = number(at, 4)?.swap_bytes();
            at += 4;
        }
        let mut time = header.field;
        if header.field == EXTENDED {
            time = number(at, 4)?;
            at += 4;
        }
        match format {
            0 => message.time = time,
            1 | 2 => message.time = message.time.wrapping_add(time),
            _ if header.field == EXTENDED => {
                assert_eq!(time, message.time, "the extended timestamp is repeated");
            }
            _ => {}
        }
        let count = self.size.min(header.length - message.body.len());
        message.body.extend(input.get(at..at + count)?);
        let is_whole = message.body.len() == header.length;
        let whole = is_whole.then(|| message.clone());
        if is_whole {
            message.body.clear();
        }
        self.streams.insert(csid, (message, header));
        Some((at + count, whole))
    }
}
