//! FLV files: the container whose tag bodies RTMP carries (FLV 10.1 §E).

use bytes::{Buf, BufMut, Bytes};

use crate::{Tag, Track, Unwrapper};

/// Why bytes are not an FLV file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The signature or header length is wrong.
    #[error("not an FLV file")]
    NotFlv,
    /// The file ends inside a tag.
    #[error("the FLV file is cut short")]
    Truncated,
}

/// Reads the tags of a whole FLV file in memory; bodies share it.
///
/// Tags of unknown types are passed over.
#[derive(Clone, Debug)]
pub struct Reader {
    input: Bytes,
    clock: Unwrapper,
}

impl Reader {
    /// Checks the file header.
    ///
    /// # Errors
    ///
    /// [`Error::NotFlv`] if `input` does not start with one.
    pub fn new(mut input: Bytes) -> Result<Self, Error> {
        if input.len() < 13 || &input[..3] != b"FLV" {
            return Err(Error::NotFlv);
        }
        let header = u32::from_be_bytes([input[5], input[6], input[7], input[8]]) as usize;
        if header < 9 || input.len() < header + 4 {
            return Err(Error::NotFlv);
        }
        input.advance(header + 4);
        Ok(Self { input, clock: Unwrapper::default() })
    }

    fn read_tag(&mut self) -> Result<Option<Tag>, Error> {
        while !self.input.is_empty() {
            if self.input.len() < 11 {
                return Err(Error::Truncated);
            }
            let flv_type = self.input.get_u8() & 0x1f;
            let length = self.input.get_uint(3) as usize;
            let low = self.input.get_uint(3) as u32;
            let timestamp = low | u32::from(self.input.get_u8()) << 24;
            self.input.advance(3);
            if self.input.len() < length + 4 {
                return Err(Error::Truncated);
            }
            let body = self.input.split_to(length);
            self.input.advance(4);
            if let Some(track) = Track::from_flv_type(flv_type) {
                return Ok(Some(Tag::new(track, self.clock.unwrap(timestamp), body)));
            }
        }
        Ok(None)
    }
}

impl Iterator for Reader {
    type Item = Result<Tag, Error>;

    /// The next tag; after an error the file has ended.
    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.read_tag();
        if tag.is_err() {
            self.input.clear();
        }
        tag.transpose()
    }
}

/// Writes the file header: signature, version 1, audio and video present.
pub fn write_header(out: &mut impl BufMut) {
    out.put_slice(b"FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00");
}

/// Writes one tag with its back pointer.
pub fn write_tag(out: &mut impl BufMut, tag: &Tag) {
    let length = tag.body.len() as u32;
    out.put_u8(tag.track.flv_type());
    out.put_uint(u64::from(length), 3);
    out.put_uint(u64::from(tag.wire_timestamp() & 0x00ff_ffff), 3);
    out.put_u8((tag.wire_timestamp() >> 24) as u8);
    out.put_uint(0, 3);
    out.put_slice(&tag.body);
    out.put_u32(length + 11);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote() {
        let tags = [
            Tag::new(Track::Data, 0, Bytes::from_static(b"\x02\x00\x0aonMetaData\x05")),
            Tag::new(Track::Video, 0x0123_4567, Bytes::from_static(&[0x17, 0, 0, 0, 0, 1])),
            Tag::new(Track::Audio, 0x0123_4568, Bytes::new()),
        ];
        let mut file = Vec::new();
        write_header(&mut file);
        tags.iter().for_each(|tag| write_tag(&mut file, tag));
        let read: Result<Vec<_>, _> = Reader::new(file.into()).unwrap().collect();
        assert_eq!(read.unwrap(), tags);
    }

    #[test]
    fn says_when_the_file_is_cut_short() {
        let mut file = Vec::new();
        write_header(&mut file);
        write_tag(&mut file, &Tag::new(Track::Audio, 0, Bytes::from_static(&[0xaf, 1, 2])));
        file.truncate(file.len() - 5);
        let mut reader = Reader::new(file.into()).unwrap();
        assert_eq!(reader.next(), Some(Err(Error::Truncated)));
        assert_eq!(reader.next(), None);
        assert_eq!(Reader::new(Bytes::from_static(b"RIFF")).err(), Some(Error::NotFlv));
    }
}
