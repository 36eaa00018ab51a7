use bytes::{Buf, BytesMut};
use media::Track;

use crate::wire::{
    get_option, get_signed, get_track, get_varint, put_option, put_signed, put_varint,
    varint_length,
};
use crate::{Error, MAX_BODY};

/// What a one-way stream of tags starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// The subscription that its tags belong to.
    pub subscription: u64,
}

impl StreamHeader {
    /// Appends the header.
    pub fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.subscription);
    }

    /// Takes the header; `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`]; never on bytes that only were cut short.
    pub fn decode(input: &mut BytesMut) -> Result<Option<Self>, Error> {
        match input.first() {
            Some(&first) if input.len() >= varint_length(first) => {
                Ok(Some(Self { subscription: get_varint(input)? }))
            }
            _ => Ok(None),
        }
    }
}

/// What stands before a tag's body in a stream of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagHeader {
    /// The tag's track.
    pub track: Track,
    /// The tag's number in its publication.
    pub number: u64,
    /// The number of the tag before it on its track.
    pub previous: Option<u64>,
    /// The tag's timestamp in milliseconds.
    pub timestamp: i64,
    /// Microseconds between the tag's arrival at the sender's hub and its being written.
    pub queued_us: u64,
    /// Bytes of the body, which follows.
    pub length: usize,
}

impl TagHeader {
    /// The longest header: six integers of eight bytes.
    const MAX_LENGTH: usize = 48;

    /// Appends the header.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(Self::MAX_LENGTH);
        put_varint(out, self.track as u64);
        put_varint(out, self.number);
        // The distance is short where the number may be long.
        put_option(out, self.previous.map(|previous| self.number - previous));
        put_signed(out, self.timestamp);
        put_varint(out, self.queued_us);
        put_varint(out, self.length as u64);
    }

    /// Takes a header; `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`Error`] if the header makes no sense or announces more than [`MAX_BODY`] bytes.
    pub fn decode(input: &mut BytesMut) -> Result<Option<Self>, Error> {
        let mut length = 0;
        for _ in 0..6 {
            let Some(&first) = input.get(length) else {
                return Ok(None);
            };
            length += varint_length(first);
        }
        if input.len() < length {
            return Ok(None);
        }
        let mut header = input.split_to(length);
        let track = get_track(&mut header)?;
        let number = get_varint(&mut header)?;
        let previous = match get_option(&mut header)? {
            None => None,
            Some(distance) if (1..=number).contains(&distance) => Some(number - distance),
            Some(_) => return Err(Error::Malformed("a tag comes before its track's start")),
        };
        let timestamp = get_signed(&mut header)?;
        let queued_us = get_varint(&mut header)?;
        let length = usize::try_from(get_varint(&mut header)?).unwrap_or(usize::MAX);
        debug_assert!(!header.has_remaining(), "six integers are the whole header");
        if length > MAX_BODY {
            return Err(Error::Limit("a tag is too large"));
        }
        Ok(Some(Self { track, number, previous, timestamp, queued_us, length }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_comes_back_once_it_is_all_there() {
        let header = TagHeader {
            track: Track::Video,
            number: 70_000,
            previous: Some(69_998),
            timestamp: -20,
            queued_us: 1_500,
            length: 98_000,
        };
        let mut wire = BytesMut::new();
        header.encode(&mut wire);
        let whole = wire.len();
        let mut input = BytesMut::new();
        for (index, byte) in wire.into_iter().enumerate() {
            assert_eq!(TagHeader::decode(&mut input), Ok(None));
            input.put_u8(byte);
            if index + 1 == whole {
                assert_eq!(TagHeader::decode(&mut input), Ok(Some(header)));
            }
        }
        assert!(input.is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        let mut early = BytesMut::from(&[0, 3, 5, 0, 0, 0][..]);
        assert!(matches!(TagHeader::decode(&mut early), Err(Error::Malformed(_))));
        let mut itself = BytesMut::from(&[0, 3, 1, 0, 0, 0][..]);
        assert!(matches!(TagHeader::decode(&mut itself), Err(Error::Malformed(_))));
        let mut track = BytesMut::from(&[9, 3, 0, 0, 0, 0][..]);
        assert!(matches!(TagHeader::decode(&mut track), Err(Error::Malformed(_))));
        let mut large = BytesMut::from(&[0, 3, 0, 0, 0, 0xbf, 0xff, 0xff, 0xff][..]);
        assert!(matches!(TagHeader::decode(&mut large), Err(Error::Limit(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut input = BytesMut::from(&bytes[..]);
            let _ = StreamHeader::decode(&mut input);
            while let Ok(Some(_)) = TagHeader::decode(&mut input) {}
        }
    }
}
