use bytes::Bytes;

use super::{DEFAULT_CHUNK_SIZE, EXTENDED, MAX_CHUNK_SIZE};
use crate::{SendQueue, message};

/// What a message is called on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The chunk stream to send it on, 2 to 65599.
    pub chunk_stream_id: u32,
    /// Milliseconds, wrapping.
    pub timestamp: u32,
    /// The message type (RTMP 1.0 §5.4, §7.1).
    pub type_id: u8,
    /// The message stream it belongs to; 0 is the connection itself.
    pub message_stream_id: u32,
}

/// Cuts messages into chunks.
///
/// A message's first chunk has a type 0, 1 or 2 header, never type 3: receivers disagree about
/// its meaning there. From 0xFFFFFF ms on it is always type 0, with the extended timestamp
/// repeated on every continuation, as FFmpeg demands (RTMP 1.0 §5.3.1.3).
#[derive(Debug)]
pub struct Writer {
    chunk_size: usize,
    /// The last message of each chunk stream.
    last: Vec<(Header, usize)>,
}

impl Default for Writer {
    fn default() -> Self {
        Self { chunk_size: DEFAULT_CHUNK_SIZE as usize, last: Vec::new() }
    }
}

/// Basic header, message header and extended timestamp.
const MAX_HEADER: usize = 3 + 11 + 4;

impl Writer {
    /// Announces a chunk size and uses it from then on; it is kept within 1 and 0xFFFFFF.
    pub fn set_chunk_size(&mut self, chunk_size: u32, out: &mut SendQueue) {
        let chunk_size = chunk_size.clamp(1, MAX_CHUNK_SIZE);
        let header = Header {
            chunk_stream_id: 2,
            timestamp: 0,
            type_id: message::SET_CHUNK_SIZE,
            message_stream_id: 0,
        };
        self.write_small(header, &chunk_size.to_be_bytes(), out);
        self.chunk_size = chunk_size as usize;
    }

    /// Appends a message whose body is shared, not copied.
    ///
    /// A body over 0xFFFFFF bytes is not a message and is left out.
    pub fn write(&mut self, header: Header, body: &Bytes, out: &mut SendQueue) {
        let Some(continuation) = self.begin(header, body.len(), out) else {
            return;
        };
        if body.len() <= self.chunk_size {
            out.push(body.clone());
            return;
        }
        let mut rest = body.clone();
        out.push(rest.split_to(self.chunk_size));
        while !rest.is_empty() {
            out.put(continuation.bytes());
            out.push(rest.split_to(rest.len().min(self.chunk_size)));
        }
    }

    /// Appends a message whose body is small and copied.
    pub fn write_small(&mut self, header: Header, body: &[u8], out: &mut SendQueue) {
        let Some(continuation) = self.begin(header, body.len(), out) else {
            return;
        };
        for (number, chunk) in body.chunks(self.chunk_size).enumerate() {
            if number > 0 {
                out.put(continuation.bytes());
            }
            out.put(chunk);
        }
    }

    /// Appends the header of a message's first chunk; returns that of the others.
    fn begin(&mut self, header: Header, length: usize, out: &mut SendQueue) -> Option<Scratch> {
        if length > MAX_CHUNK_SIZE as usize {
            return None;
        }
        let known =
            self.last.iter().position(|(last, _)| last.chunk_stream_id == header.chunk_stream_id);
        let delta = known.and_then(|index| {
            let last = self.last[index].0;
            let delta = header.timestamp.checked_sub(last.timestamp)?;
            let compact =
                header.timestamp < EXTENDED && last.message_stream_id == header.message_stream_id;
            compact.then_some(delta)
        });
        let mut first = Scratch::default();
        match (delta, known) {
            (Some(delta), Some(index))
                if self.last[index].0.type_id == header.type_id && self.last[index].1 == length =>
            {
                first.basic_header(2, header.chunk_stream_id);
                first.put(&delta.to_be_bytes()[1..]);
            }
            (Some(delta), _) => {
                first.basic_header(1, header.chunk_stream_id);
                first.put(&delta.to_be_bytes()[1..]);
                first.put(&(length as u32).to_be_bytes()[1..]);
                first.put(&[header.type_id]);
            }
            (None, _) => {
                first.basic_header(0, header.chunk_stream_id);
                first.put(&header.timestamp.min(EXTENDED).to_be_bytes()[1..]);
                first.put(&(length as u32).to_be_bytes()[1..]);
                first.put(&[header.type_id]);
                first.put(&header.message_stream_id.to_le_bytes());
            }
        }
        let mut continuation = Scratch::default();
        continuation.basic_header(3, header.chunk_stream_id);
        if header.timestamp >= EXTENDED {
            first.put(&header.timestamp.to_be_bytes());
            continuation.put(&header.timestamp.to_be_bytes());
        }
        out.put(first.bytes());
        match known {
            Some(index) => self.last[index] = (header, length),
            None => self.last.push((header, length)),
        }
        Some(continuation)
    }
}

/// A chunk header being written.
#[derive(Default)]
struct Scratch {
    bytes: [u8; MAX_HEADER],
    length: usize,
}

impl Scratch {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// RTMP 1.0 §5.3.1.1.
    fn basic_header(&mut self, format: u8, chunk_stream_id: u32) {
        let format = format << 6;
        match chunk_stream_id {
            id @ 0..=63 => self.put(&[format | id as u8]),
            id @ 64..=319 => self.put(&[format, (id - 64) as u8]),
            id => {
                let id = id - 64;
                self.put(&[format | 1, id as u8, (id >> 8) as u8]);
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    fn write(writer: &mut Writer, timestamp: u32, type_id: u8, body: &[u8]) -> Vec<u8> {
        let header = Header { chunk_stream_id: 6, timestamp, type_id, message_stream_id: 1 };
        let mut out = SendQueue::default();
        writer.write(header, &Bytes::copy_from_slice(body), &mut out);
        let shared = out.copy_to_bytes(out.remaining()).to_vec();
        let mut copied = SendQueue::default();
        let mut fresh = Writer { chunk_size: writer.chunk_size, last: vec![] };
        fresh.write_small(header, body, &mut copied);
        if shared[0] >> 6 == 0 {
            assert_eq!(copied.copy_to_bytes(copied.remaining()), shared);
        }
        shared
    }

    #[test]
    fn compresses_headers_and_never_starts_a_message_with_type_3() {
        let mut writer = Writer::default();
        assert_eq!(
            write(&mut writer, 1000, 9, &[7; 2]),
            [6, 0, 3, 0xe8, 0, 0, 2, 9, 1, 0, 0, 0, 7, 7]
        );
        assert_eq!(write(&mut writer, 1040, 9, &[7; 3]), [0x46, 0, 0, 40, 0, 0, 3, 9, 7, 7, 7]);
        assert_eq!(write(&mut writer, 1080, 9, &[7; 3]), [0x86, 0, 0, 40, 7, 7, 7]);
        assert_eq!(write(&mut writer, 1120, 9, &[7; 3]), [0x86, 0, 0, 40, 7, 7, 7]);
        assert_eq!(write(&mut writer, 1120, 18, &[7; 3]), [0x46, 0, 0, 0, 0, 0, 3, 18, 7, 7, 7]);
        assert_eq!(write(&mut writer, 1119, 18, &[])[..4], [6, 0, 4, 0x5f], "backwards");
    }

    #[test]
    fn repeats_extended_timestamps() {
        let mut writer = Writer::default();
        assert_eq!(write(&mut writer, 0xff_fffe, 9, &[])[..4], [6, 0xff, 0xff, 0xfe]);
        let bytes = write(&mut writer, 0x0100_0000, 9, &[5; 300]);
        assert_eq!(bytes[..16], [6, 0xff, 0xff, 0xff, 0, 1, 44, 9, 1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[16 + 128..][..5], [0xc6, 1, 0, 0, 0]);
        assert_eq!(bytes[16 + 128 + 5 + 128..][..6], [0xc6, 1, 0, 0, 0, 5]);
        assert_eq!(bytes.len(), 16 + 300 + 2 * 5);
        assert_eq!(write(&mut writer, 0xffff_ffff, 9, &[])[..4], [6, 0xff, 0xff, 0xff]);
        assert_eq!(write(&mut writer, 3, 9, &[])[..4], [6, 0, 0, 3], "wrapped");
    }

    #[test]
    fn writes_every_basic_header() {
        for (id, expected) in [
            (2, &[2_u8][..]),
            (63, &[63]),
            (64, &[0, 0]),
            (319, &[0, 255]),
            (320, &[1, 0, 1]),
            (65599, &[1, 255, 255]),
        ] {
            let mut scratch = Scratch::default();
            scratch.basic_header(0, id);
            assert_eq!(scratch.bytes(), expected);
        }
    }
}
