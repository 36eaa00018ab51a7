//! Frames: what a TCP connection is cut into (docs/backhaul-protocol.md §14).

use bytes::{BufMut, BytesMut};

use crate::Error;
use crate::wire::{get_varint, put_varint, varint_length};

/// Bytes of a stream in one frame: what else waits goes between two of them.
pub(super) const MAX_DATA: usize = 16 << 10;
/// Bytes of a datagram: a report of 64 ranges has about 1 KiB.
pub(super) const MAX_DATAGRAM: usize = 4 << 10;
/// Bytes of the reason why a link is closed.
pub(super) const MAX_REASON: usize = 512;
/// The longest head: a kind and two integers.
pub(super) const MAX_HEAD: usize = 17;

/// A frame without the bytes that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// A stream begins.
    Open(u64),
    /// `length` bytes of a stream follow.
    Data { stream: u64, length: usize },
    /// A stream was sent to its end.
    Finish(u64),
    /// A stream is given up.
    Reset(u64),
    /// The receiver wants no more of a stream.
    Stop(u64),
    /// A datagram of this length follows.
    Datagram(usize),
    /// To be answered at once.
    Ping(u64),
    /// The answer, with the same number.
    Pong(u64),
    /// The bytes that have come, of the frames that count.
    Received(u64),
    /// The link is over; text of this length says why.
    Close(usize),
}

impl Head {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        let (kind, first, second) = match *self {
            Self::Open(stream) => (0, stream, None),
            Self::Data { stream, length } => (1, stream, Some(length)),
            Self::Finish(stream) => (2, stream, None),
            Self::Reset(stream) => (3, stream, None),
            Self::Stop(stream) => (4, stream, None),
            Self::Datagram(length) => (5, length as u64, None),
            Self::Ping(number) => (6, number, None),
            Self::Pong(number) => (7, number, None),
            Self::Received(total) => (8, total, None),
            Self::Close(length) => (9, length as u64, None),
        };
        out.put_u8(kind);
        put_varint(out, first);
        second.into_iter().for_each(|length| put_varint(out, length as u64));
    }

    /// The head that `input` begins with, and how long it is; `None` if more bytes are needed.
    pub(super) fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, Error> {
        let Some((&kind, mut rest)) = input.split_first() else { return Ok(None) };
        if kind > 9 {
            return Err(Error::Malformed("there is no such frame"));
        }
        let Some(first) = peek(&mut rest)? else { return Ok(None) };
        let head = match kind {
            0 => Self::Open(first),
            1 => match peek(&mut rest)? {
                Some(length) => Self::Data { stream: first, length: at_most(length, MAX_DATA)? },
                None => return Ok(None),
            },
            2 => Self::Finish(first),
            3 => Self::Reset(first),
            4 => Self::Stop(first),
            5 => Self::Datagram(at_most(first, MAX_DATAGRAM)?),
            6 => Self::Ping(first),
            7 => Self::Pong(first),
            8 => Self::Received(first),
            _ => Self::Close(at_most(first, MAX_REASON)?),
        };
        Ok(Some((head, input.len() - rest.len())))
    }

    /// Bytes that follow.
    pub(super) fn body(&self) -> usize {
        match *self {
            Self::Data { length, .. } | Self::Datagram(length) | Self::Close(length) => length,
            _ => 0,
        }
    }

    /// Whether the peer says that it has received this: an answer to an answer has no end.
    pub(super) fn counts(&self) -> bool {
        !matches!(self, Self::Pong(_) | Self::Received(_) | Self::Close(_))
    }
}

fn peek(input: &mut &[u8]) -> Result<Option<u64>, Error> {
    match input.first() {
        Some(&first) if input.len() >= varint_length(first) => get_varint(input).map(Some),
        _ => Ok(None),
    }
}

fn at_most(length: u64, most: usize) -> Result<usize, Error> {
    match usize::try_from(length) {
        Ok(length) if length <= most => Ok(length),
        _ => Err(Error::Limit("a frame is too long")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heads() -> impl Strategy<Value = Head> {
        let number = 0..1u64 << 62;
        (0..10, number, 0..=MAX_REASON).prop_map(|(kind, number, length)| match kind {
            0 => Head::Open(number),
            1 => Head::Data { stream: number, length },
            2 => Head::Finish(number),
            3 => Head::Reset(number),
            4 => Head::Stop(number),
            5 => Head::Datagram(length),
            6 => Head::Ping(number),
            7 => Head::Pong(number),
            8 => Head::Received(number),
            _ => Head::Close(length),
        })
    }

    proptest! {
        #[test]
        fn heads_come_back_and_wait_for_what_is_missing(head in heads()) {
            let mut out = BytesMut::new();
            head.encode(&mut out);
            prop_assert!(out.len() <= MAX_HEAD);
            prop_assert_eq!(Head::decode(&out), Ok(Some((head, out.len()))));
            for cut in 0..out.len() {
                prop_assert_eq!(Head::decode(&out[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn the_documented_frames() {
        let mut out = BytesMut::new();
        Head::Open(1).encode(&mut out);
        Head::Data { stream: 1, length: 3 }.encode(&mut out);
        out.extend_from_slice(&[0xaa, 0xbb, 0xcc]);
        Head::Finish(1).encode(&mut out);
        let hex: Vec<_> = out.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = include_str!("../../../../docs/backhaul-protocol.md").replace("  ", " ");
        assert!(text.contains(&hex.join(" ")), "{hex:?}");
    }

    #[test]
    fn what_is_unknown_or_too_long_is_refused_at_once() {
        assert!(Head::decode(&[10]).is_err());
        assert!(Head::decode(b"GET / HTTP/1.1").is_err());
        let mut out = BytesMut::new();
        Head::Data { stream: 1, length: MAX_DATA + 1 }.encode(&mut out);
        assert!(Head::decode(&out).is_err());
        assert!(Head::decode(&[5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
