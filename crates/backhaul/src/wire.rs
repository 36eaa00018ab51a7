//! The alphabet of the wire: variable-length integers (RFC 9000 §16), byte strings and text.

use bytes::{Buf, BufMut, Bytes};
use media::Track;

use crate::Error;

/// The largest value of a variable-length integer.
pub(crate) const MAX_VARINT: u64 = (1 << 62) - 1;

/// Appends a variable-length integer; values over [`MAX_VARINT`] are cut to it.
pub(crate) fn put_varint(out: &mut impl BufMut, value: u64) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(value as u16 | 0x4000),
        0x4000..=0x3fff_ffff => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value.min(MAX_VARINT) | 0xc000_0000_0000_0000),
    }
}

/// Bytes that a variable-length integer starting with `first` takes.
pub(crate) fn varint_length(first: u8) -> usize {
    1 << (first >> 6)
}

/// Takes a variable-length integer.
pub(crate) fn get_varint(input: &mut impl Buf) -> Result<u64, Error> {
    let first = *input.chunk().first().ok_or(Error::Malformed("an integer is cut short"))?;
    let length = varint_length(first);
    if input.remaining() < length {
        return Err(Error::Malformed("an integer is cut short"));
    }
    Ok(input.get_uint(length) & (MAX_VARINT >> (62 - (8 * length - 2))))
}

/// Appends a value that may be absent: 0, or one more than the value.
pub(crate) fn put_option(out: &mut impl BufMut, value: Option<u64>) {
    put_varint(out, value.map_or(0, |value| value + 1));
}

/// Takes a value that may be absent.
pub(crate) fn get_option(input: &mut impl Buf) -> Result<Option<u64>, Error> {
    Ok(get_varint(input)?.checked_sub(1))
}

/// Takes the number of a track.
pub(crate) fn get_track(input: &mut impl Buf) -> Result<Track, Error> {
    let id = get_varint(input)?;
    let track = Track::ALL.into_iter().find(|track| *track as u64 == id);
    track.ok_or(Error::Malformed("there is no such track"))
}

/// Appends a signed value (zigzag).
pub(crate) fn put_signed(out: &mut impl BufMut, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Takes a signed value.
pub(crate) fn get_signed(input: &mut impl Buf) -> Result<i64, Error> {
    let value = get_varint(input)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// Appends bytes with their length.
pub(crate) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Takes at most `max` bytes with their length.
pub(crate) fn get_bytes(input: &mut Bytes, max: usize) -> Result<Bytes, Error> {
    let length = get_varint(input)?;
    match usize::try_from(length) {
        Ok(length) if length > max => Err(Error::Limit("a field is too long")),
        Ok(length) if length <= input.len() => Ok(input.split_to(length)),
        _ => Err(Error::Malformed("a field is cut short")),
    }
}

/// Takes text of at most `max` bytes, without control characters.
pub(crate) fn get_text(input: &mut Bytes, max: usize) -> Result<String, Error> {
    let bytes = get_bytes(input, max)?;
    let text = str::from_utf8(&bytes).map_err(|_| Error::Malformed("text is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(Error::Malformed("text has control characters"));
    }
    Ok(text.to_owned())
}

/// Takes exactly `N` bytes.
pub(crate) fn get_array<const N: usize>(input: &mut Bytes) -> Result<[u8; N], Error> {
    if input.len() < N {
        return Err(Error::Malformed("a field is cut short"));
    }
    let mut array = [0; N];
    input.copy_to_slice(&mut array);
    Ok(array)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_those_of_rfc_9000() {
        let mut sample = Bytes::from_static(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]);
        assert_eq!(get_varint(&mut sample), Ok(151_288_809_941_952_652));
        assert_eq!(get_varint(&mut Bytes::from_static(&[0x9d, 0x7f, 0x3e, 0x7d])), Ok(494_878_333));
        assert_eq!(get_varint(&mut Bytes::from_static(&[0x7b, 0xbd])), Ok(15_293));
        assert_eq!(get_varint(&mut Bytes::from_static(&[0x25])), Ok(37));
        assert!(get_varint(&mut Bytes::from_static(&[0x7b])).is_err());
    }

    proptest! {
        #[test]
        fn integers_come_back(value in 0..=MAX_VARINT, signed in -(1i64 << 60)..(1 << 60)) {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            put_signed(&mut out, signed);
            put_option(&mut out, Some(value / 2));
            put_option(&mut out, None);
            prop_assert_eq!(get_varint(&mut out), Ok(value));
            prop_assert_eq!(get_signed(&mut out), Ok(signed));
            prop_assert_eq!(get_option(&mut out), Ok(Some(value / 2)));
            prop_assert_eq!(get_option(&mut out), Ok(None));
            prop_assert!(out.is_empty());
        }
    }
}
