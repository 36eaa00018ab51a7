//! AMF0 as the tests write and read it (AMF0 specification, §2).

/// A value of a command or data message.
#[derive(Clone, Debug, PartialEq)]
pub enum Amf {
    /// Marker 0.
    Number(f64),
    /// Marker 1.
    Bool(bool),
    /// Marker 2.
    Text(String),
    /// Marker 3.
    Object(Vec<(String, Self)>),
    /// Marker 5.
    Null,
    /// Marker 6.
    Undefined,
    /// Marker 8, the count as it should be.
    Ecma(Vec<(String, Self)>),
    /// Marker 10.
    Strict(Vec<Self>),
}

/// A number.
pub fn number(value: impl Into<f64>) -> Amf {
    Amf::Number(value.into())
}

/// A string.
pub fn text(value: &str) -> Amf {
    Amf::Text(value.to_owned())
}

/// An object's properties.
pub fn properties<const N: usize>(pairs: [(&str, Amf); N]) -> Vec<(String, Amf)> {
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

impl Amf {
    /// Appends the value.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(value) => {
                out.push(0);
                out.extend(value.to_be_bytes());
            }
            Self::Bool(value) => out.extend([1, u8::from(*value)]),
            Self::Text(value) => {
                out.push(2);
                write_text(value, out);
            }
            Self::Object(pairs) => {
                out.push(3);
                write_pairs(pairs, out);
            }
            Self::Null => out.push(5),
            Self::Undefined => out.push(6),
            Self::Ecma(pairs) => {
                out.push(8);
                out.extend((pairs.len() as u32).to_be_bytes());
                write_pairs(pairs, out);
            }
            Self::Strict(values) => {
                out.push(10);
                out.extend((values.len() as u32).to_be_bytes());
                values.iter().for_each(|value| value.write(out));
            }
        }
    }

    /// The string, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A property of an object or array.
    pub fn property(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(pairs) | Self::Ecma(pairs) => {
                pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }
}

/// A message body.
pub fn body(values: &[Amf]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| value.write(&mut out));
    out
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

fn write_pairs(pairs: &[(String, Amf)], out: &mut Vec<u8>) {
    for (name, value) in pairs {
        write_text(name, out);
        value.write(out);
    }
    out.extend([0, 0, 9]);
}

/// Reads a message body that a server wrote.
///
/// # Panics
///
/// If it is anything but whole, plain AMF0: a server has no excuse.
#[track_caller]
pub fn read(mut bytes: &[u8]) -> Vec<Amf> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let value = read_value(&mut bytes);
        values.push(value.unwrap_or_else(|| panic!("not AMF0: {bytes:?} after {values:?}")));
    }
    values
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn read_u32(bytes: &mut &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(take(bytes, 4)?.try_into().ok()?))
}

fn read_text(bytes: &mut &[u8]) -> Option<String> {
    let length = u16::from_be_bytes(take(bytes, 2)?.try_into().ok()?);
    String::from_utf8(take(bytes, length.into())?.to_vec()).ok()
}

fn read_pairs(bytes: &mut &[u8]) -> Option<Vec<(String, Amf)>> {
    let mut pairs = Vec::new();
    loop {
        let name = read_text(bytes)?;
        if name.is_empty() && bytes.first() == Some(&9) {
            take(bytes, 1)?;
            return Some(pairs);
        }
        pairs.push((name, read_value(bytes)?));
    }
}

fn read_value(bytes: &mut &[u8]) -> Option<Amf> {
    Some(match take(bytes, 1)?[0] {
        0 => Amf::Number(f64::from_be_bytes(take(bytes, 8)?.try_into().ok()?)),
        1 => Amf::Bool(take(bytes, 1)?[0] != 0),
        2 => Amf::Text(read_text(bytes)?),
        3 => Amf::Object(read_pairs(bytes)?),
        5 => Amf::Null,
        6 => Amf::Undefined,
        8 => {
            let count = read_u32(bytes)? as usize;
            let pairs = read_pairs(bytes)?;
            assert_eq!(pairs.len(), count, "the count of an ECMA array");
            Amf::Ecma(pairs)
        }
        10 => {
            let count = read_u32(bytes)?;
            Amf::Strict((0..count).map(|_| read_value(bytes)).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}
