//! AMF0, the encoding of commands and script data (Action Message Format 0, 2007).
//!
//! Decoding is tolerant of what real encoders send (wrong element counts, a missing end marker at
//! the end, text that is not UTF-8) and bounded in depth, elements and bytes.

use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::amf3;

/// How much one message may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Objects and arrays inside each other; real metadata has three. More than
    /// [`Bounds::MOST`] has is never decoded.
    pub depth: usize,
    /// Values; real metadata has some dozens.
    pub elements: usize,
    /// Bytes of one string; the longest real ones are connection URLs.
    pub text: usize,
    /// Bytes of all text after AMF3 references were followed: they must not multiply it.
    pub all_text: usize,
}

impl Bounds {
    /// The most that makes sense: each level is a call and takes of the stack, each value takes
    /// some ten times its bytes of memory, and a message has 16 MiB (RTMP 1.0 §5.3.1.2).
    pub const MOST: Self =
        Self { depth: 64, elements: 65_536, text: 16 * 1024 * 1024, all_text: 16 * 1024 * 1024 };
}

impl Default for Bounds {
    fn default() -> Self {
        Self { depth: 16, elements: 1024, text: 64 * 1024, all_text: 256 * 1024 }
    }
}

/// Why bytes are not AMF, or more than is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end inside a value.
    #[error("cut short")]
    Truncated,
    /// A type marker that is unknown or not accepted.
    #[error("unknown type {0:#04x}")]
    UnknownMarker(u8),
    /// An AMF3 reference to what was not sent before.
    #[error("reference to nothing")]
    DanglingReference,
    /// Values nested too deeply.
    #[error("nested too deeply")]
    TooDeep,
    /// Too many values, or too much text.
    #[error("too large")]
    TooLarge,
}

/// A value of AMF0, or of AMF3 in the nearest type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Number(f64),
    /// A truth value.
    Boolean(bool),
    /// A string, short or long; an XML document too.
    String(String),
    /// An anonymous or typed object, in the order sent; the type's name is not kept.
    Object(Vec<(String, Self)>),
    /// An associative array, in the order sent.
    EcmaArray(Vec<(String, Self)>),
    /// A list.
    StrictArray(Vec<Self>),
    /// Nothing.
    Null,
    /// Undefined, unsupported, or a reference.
    Undefined,
    /// Milliseconds since 1970; the time zone is reserved.
    Date(f64),
}

mod marker {
    pub(super) const NUMBER: u8 = 0;
    pub(super) const BOOLEAN: u8 = 1;
    pub(super) const STRING: u8 = 2;
    pub(super) const OBJECT: u8 = 3;
    pub(super) const MOVIE_CLIP: u8 = 4;
    pub(super) const NULL: u8 = 5;
    pub(super) const UNDEFINED: u8 = 6;
    pub(super) const REFERENCE: u8 = 7;
    pub(super) const ECMA_ARRAY: u8 = 8;
    pub(super) const OBJECT_END: u8 = 9;
    pub(super) const STRICT_ARRAY: u8 = 10;
    pub(super) const DATE: u8 = 11;
    pub(super) const LONG_STRING: u8 = 12;
    pub(super) const UNSUPPORTED: u8 = 13;
    pub(super) const XML_DOCUMENT: u8 = 15;
    pub(super) const TYPED_OBJECT: u8 = 16;
    pub(super) const AMF3: u8 = 17;
}

impl Value {
    /// An object of the given properties.
    pub fn object<const N: usize>(properties: [(&str, Self); N]) -> Self {
        Self::Object(properties.map(|(key, value)| (key.to_owned(), value)).into())
    }

    /// The named property of an object or associative array; the last one if it repeats.
    pub fn property(&self, name: &str) -> Option<&Self> {
        let (Self::Object(properties) | Self::EcmaArray(properties)) = self else {
            return None;
        };
        let mut found = properties.iter().rev().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value)
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a number, also one written as text.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// The truth of a boolean or number.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(*value),
            Self::Number(number) => Some(*number != 0.0),
            _ => None,
        }
    }

    /// Appends the value in AMF0.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Number(number) => {
                out.put_u8(marker::NUMBER);
                out.put_f64(*number);
            }
            Self::Boolean(value) => out.put_slice(&[marker::BOOLEAN, u8::from(*value)]),
            Self::String(text) => match u16::try_from(text.len()) {
                Ok(length) => {
                    out.put_u8(marker::STRING);
                    out.put_u16(length);
                    out.put_slice(text.as_bytes());
                }
                Err(_) => {
                    out.put_u8(marker::LONG_STRING);
                    out.put_u32(text.len() as u32);
                    out.put_slice(text.as_bytes());
                }
            },
            Self::Object(properties) => {
                out.put_u8(marker::OBJECT);
                encode_properties(properties, out);
            }
            Self::EcmaArray(properties) => {
                out.put_u8(marker::ECMA_ARRAY);
                out.put_u32(properties.len() as u32);
                encode_properties(properties, out);
            }
            Self::StrictArray(values) => {
                out.put_u8(marker::STRICT_ARRAY);
                out.put_u32(values.len() as u32);
                values.iter().for_each(|value| value.encode(out));
            }
            Self::Null => out.put_u8(marker::NULL),
            Self::Undefined => out.put_u8(marker::UNDEFINED),
            Self::Date(time) => {
                out.put_u8(marker::DATE);
                out.put_f64(*time);
                out.put_i16(0);
            }
        }
    }
}

fn encode_properties(properties: &[(String, Value)], out: &mut BytesMut) {
    for (key, value) in properties {
        // A key decoded from bytes that were not UTF-8 may have grown; such a one is left out.
        if let Ok(length) = u16::try_from(key.len()) {
            out.put_u16(length);
            out.put_slice(key.as_bytes());
            value.encode(out);
        }
    }
    out.put_slice(&[0, 0, marker::OBJECT_END]);
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl fmt::Display for Value {
    /// The text of scalars, without quotes; nothing else has one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Boolean(value) => value.fmt(f),
            Self::String(text) => text.fmt(f),
            _ => Ok(()),
        }
    }
}

/// Decodes all of `body`, a command or data message in AMF0, within the default bounds.
///
/// # Errors
///
/// The first thing that is not AMF, or too much of it.
pub fn decode(body: &[u8]) -> Result<Vec<Value>, Error> {
    decode_within(body, &Bounds::default())
}

/// As [`decode`], within other bounds.
///
/// # Errors
///
/// As for [`decode`].
pub fn decode_within(body: &[u8], bounds: &Bounds) -> Result<Vec<Value>, Error> {
    let mut decoder = Decoder::new(body, bounds);
    let mut values = Vec::new();
    while let Some(value) = decoder.next()? {
        values.push(value);
    }
    Ok(values)
}

/// Decodes a sequence of values.
#[derive(Debug)]
pub struct Decoder<'a> {
    pub(crate) input: &'a [u8],
    pub(crate) budget: Budget,
}

/// What is left of the bounds on one message.
#[derive(Debug)]
pub(crate) struct Budget {
    elements: usize,
    all_text: usize,
    /// Bytes of one string; it does not shrink.
    text: usize,
    /// Levels; they do not shrink.
    depth: usize,
}

impl Budget {
    pub(crate) fn take_element(&mut self) -> Result<(), Error> {
        self.elements = self.elements.checked_sub(1).ok_or(Error::TooLarge)?;
        Ok(())
    }

    pub(crate) fn take_text(&mut self, length: usize) -> Result<(), Error> {
        self.all_text = self.all_text.checked_sub(length).ok_or(Error::TooLarge)?;
        Ok(())
    }

    /// One level down, if there is one.
    pub(crate) fn deeper(&self, depth: usize) -> Result<usize, Error> {
        if depth >= self.depth {
            return Err(Error::TooDeep);
        }
        Ok(depth + 1)
    }
}

impl<'a> Decoder<'a> {
    /// Starts at the beginning of `input`.
    pub fn new(input: &'a [u8], bounds: &Bounds) -> Self {
        let Bounds { depth, elements, text, all_text } = *bounds;
        let depth = depth.min(Bounds::MOST.depth);
        Self { input, budget: Budget { elements, all_text, text, depth } }
    }

    /// The next value; `None` at the end.
    ///
    /// # Errors
    ///
    /// What is wrong with it; the decoder is of no use afterwards.
    #[expect(clippy::should_implement_trait, reason = "it can fail, so `?` reads better")]
    pub fn next(&mut self) -> Result<Option<Value>, Error> {
        if self.input.is_empty() {
            return Ok(None);
        }
        self.value(0).map(Some)
    }

    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        self.budget.take_element()?;
        let depth = self.budget.deeper(depth)?;
        Ok(match self.u8()? {
            marker::NUMBER => Value::Number(self.f64()?),
            marker::BOOLEAN => Value::Boolean(self.u8()? != 0),
            marker::STRING => Value::String(self.short_string()?),
            marker::OBJECT => Value::Object(self.properties(depth)?),
            marker::NULL => Value::Null,
            marker::UNDEFINED | marker::UNSUPPORTED | marker::MOVIE_CLIP => Value::Undefined,
            marker::REFERENCE => {
                self.take(2)?;
                Value::Undefined
            }
            marker::ECMA_ARRAY => {
                // The count is wrong too often to be of use.
                self.take(4)?;
                Value::EcmaArray(self.properties(depth)?)
            }
            marker::STRICT_ARRAY => {
                let count = self.u32()?;
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(depth)?);
                }
                Value::StrictArray(values)
            }
            marker::DATE => {
                let time = self.f64()?;
                self.take(2)?;
                Value::Date(time)
            }
            marker::LONG_STRING | marker::XML_DOCUMENT => {
                let length = self.u32()? as usize;
                Value::String(self.text(length)?)
            }
            marker::TYPED_OBJECT => {
                self.short_string()?;
                Value::Object(self.properties(depth)?)
            }
            marker::AMF3 => amf3::decode(self, depth)?,
            other => return Err(Error::UnknownMarker(other)),
        })
    }

    fn properties(&mut self, depth: usize) -> Result<Vec<(String, Value)>, Error> {
        let mut properties = Vec::new();
        // Some encoders leave the end marker out at the end of a message.
        while !self.input.is_empty() {
            if let Some(rest) = self.input.strip_prefix(&[0, 0, marker::OBJECT_END]) {
                self.input = rest;
                break;
            }
            let key = self.short_string()?;
            properties.push((key, self.value(depth)?));
        }
        Ok(properties)
    }

    fn short_string(&mut self) -> Result<String, Error> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        self.text(length)
    }

    pub(crate) fn text(&mut self, length: usize) -> Result<String, Error> {
        if length > self.budget.text {
            return Err(Error::TooLarge);
        }
        let text = self.take(length)?;
        self.budget.take_text(length)?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn f64(&mut self) -> Result<f64, Error> {
        Ok(f64::from_be_bytes(self.array()?))
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.input.split_at_checked(length).ok_or(Error::Truncated)?;
        self.input = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.input.split_first_chunk().ok_or(Error::Truncated)?;
        self.input = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(value: &Value) -> Vec<u8> {
        let mut out = BytesMut::new();
        value.encode(&mut out);
        out.to_vec()
    }

    #[test]
    fn encodes_by_the_book() {
        assert_eq!(encode(&1.5.into()), [0, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(&true.into()), [1, 1]);
        assert_eq!(encode(&"live".into()), b"\x02\x00\x04live");
        let object = Value::object([("a", Value::Null)]);
        assert_eq!(encode(&object), b"\x03\x00\x01a\x05\x00\x00\x09");
        let array = Value::EcmaArray(vec![("a".into(), Value::Undefined)]);
        assert_eq!(encode(&array), b"\x08\x00\x00\x00\x01\x00\x01a\x06\x00\x00\x09");
        let list = Value::StrictArray(vec![Value::Null, Value::Null]);
        assert_eq!(encode(&list), b"\x0a\x00\x00\x00\x02\x05\x05");
        let long = Value::String("x".repeat(70_000));
        assert_eq!(encode(&long)[..6], [12, 0, 1, 0x11, 0x70, b'x']);
    }

    #[test]
    fn decodes_what_it_encodes() {
        let value = Value::object([
            ("number", (-7.25).into()),
            ("text", "häuser".into()),
            ("list", Value::StrictArray(vec![true.into(), Value::Null, Value::Undefined])),
            ("map", Value::EcmaArray(vec![("".into(), Value::Date(1e12))])),
        ]);
        assert_eq!(decode(&encode(&value)), Ok(vec![value]));
    }

    #[test]
    fn tolerates_what_encoders_get_wrong() {
        let one = vec![("a".to_owned(), Value::Null)];
        let count = b"\x08\x00\x00\x00\x63\x00\x01a\x05\x00\x00\x09\x05";
        assert_eq!(decode(count), Ok(vec![Value::EcmaArray(one.clone()), Value::Null]));
        let unended = b"\x08\x00\x00\x00\x01\x00\x01a\x05";
        assert_eq!(decode(unended), Ok(vec![Value::EcmaArray(one.clone())]));
        let typed = b"\x10\x00\x01T\x00\x01a\x05\x00\x00\x09";
        assert_eq!(decode(typed), Ok(vec![Value::Object(one)]));
        assert_eq!(decode(b"\x02\x00\x01\xff"), Ok(vec!["\u{fffd}".into()]));
        assert_eq!(decode(b"\x07\x00\x01\x0d"), Ok(vec![Value::Undefined; 2]));
    }

    #[test]
    fn refuses_what_is_not_amf() {
        assert_eq!(decode(b"\x00\x00"), Err(Error::Truncated));
        assert_eq!(decode(b"\x03\x00\x05ab"), Err(Error::Truncated));
        assert_eq!(decode(b"\x0e"), Err(Error::UnknownMarker(0x0e)));
        assert_eq!(decode(b"\x0c\x00\x01\x00\x01"), Err(Error::TooLarge));
    }

    #[test]
    fn bounds_depth_elements_and_text() {
        let nested = |depth| b"\x0a\x00\x00\x00\x01".repeat(depth);
        assert_eq!(decode(&nested(200_000)), Err(Error::TooDeep));
        assert_eq!(decode(&[&nested(15)[..], &[5]].concat()).map(|v| v.len()), Ok(1));
        assert_eq!(decode(&b"\x03\x00\x01a".repeat(70_000)), Err(Error::TooDeep));
        assert_eq!(decode(&[5; 1024]).map(|values| values.len()), Ok(1024));
        assert_eq!(decode(&[5; 1025]), Err(Error::TooLarge));
        assert_eq!(decode(b"\x0a\xff\xff\xff\xff\x05"), Err(Error::Truncated));
        let text = [&b"\x02\xff\xff"[..], &[b'x'; 0xffff]].concat();
        assert_eq!(decode(&text.repeat(5)), Err(Error::TooLarge));
    }

    #[test]
    fn other_bounds_are_kept_as_well() {
        let nested = |depth: usize| [&b"\x0a\x00\x00\x00\x01".repeat(depth - 1)[..], &[5]].concat();
        let text =
            |length: u16| [&[2][..], &length.to_be_bytes(), &vec![b'x'; length.into()]].concat();
        let usual = Bounds::default;
        for (bounds, most, more, error) in [
            (Bounds { depth: 4, ..usual() }, nested(4), nested(5), Error::TooDeep),
            (Bounds { depth: 20, ..usual() }, nested(20), nested(21), Error::TooDeep),
            // However many levels are asked for, the stack holds.
            (Bounds { depth: usize::MAX, ..usual() }, nested(64), nested(65), Error::TooDeep),
            (Bounds { elements: 2, ..usual() }, vec![5; 2], vec![5; 3], Error::TooLarge),
            (Bounds { elements: 2000, ..usual() }, vec![5; 2000], vec![5; 2001], Error::TooLarge),
            (Bounds { text: 9, ..usual() }, text(9), text(10), Error::TooLarge),
            (
                Bounds { all_text: 9, ..usual() },
                text(3).repeat(3),
                text(3).repeat(4),
                Error::TooLarge,
            ),
        ] {
            assert!(decode_within(&most, &bounds).is_ok(), "{bounds:?}");
            assert_eq!(decode_within(&more, &bounds), Err(error), "{bounds:?}");
        }
        // A reference of AMF3 costs what it refers to.
        let echo = b"\x11\x09\x05\x01\x06\x0bhello\x06\x00";
        let bounds = Bounds { all_text: 5, ..usual() };
        assert_eq!(decode_within(echo, &bounds), Err(Error::TooLarge));
        let deep = [&[0x11][..], &[9, 3, 1].repeat(30), &[1]].concat();
        assert_eq!(decode(&deep), Err(Error::TooDeep));
        assert!(decode_within(&deep, &Bounds { depth: 32, ..usual() }).is_ok());
    }
}
