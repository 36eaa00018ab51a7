//! AMF3 as it occurs inside AMF0 after the marker 0x11 (Action Message Format 3, 2013).
//!
//! Scalars, objects, arrays and references are decoded into [`Value`]s; byte arrays become
//! undefined, vectors and dictionaries are refused. Reference tables live for one value, as
//! each switch from AMF0 starts new ones.

use crate::amf0::{Decoder, Error, Value};

mod marker {
    pub(super) const UNDEFINED: u8 = 0;
    pub(super) const NULL: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const TRUE: u8 = 3;
    pub(super) const INTEGER: u8 = 4;
    pub(super) const DOUBLE: u8 = 5;
    pub(super) const STRING: u8 = 6;
    pub(super) const XML_DOCUMENT: u8 = 7;
    pub(super) const DATE: u8 = 8;
    pub(super) const ARRAY: u8 = 9;
    pub(super) const OBJECT: u8 = 10;
    pub(super) const XML: u8 = 11;
    pub(super) const BYTE_ARRAY: u8 = 12;
}

/// What may be referred to again (AMF3 §2.2).
#[derive(Default)]
struct Tables {
    strings: Vec<String>,
    /// `None` while the object is being read: a reference to it would be a cycle.
    objects: Vec<Option<Value>>,
    traits: Vec<Traits>,
}

#[derive(Clone)]
struct Traits {
    is_dynamic: bool,
    names: Vec<String>,
}

/// Decodes the value after the marker 0x11.
pub(crate) fn decode(decoder: &mut Decoder<'_>, depth: usize) -> Result<Value, Error> {
    value(decoder, &mut Tables::default(), depth)
}

fn value(decoder: &mut Decoder<'_>, tables: &mut Tables, depth: usize) -> Result<Value, Error> {
    decoder.budget.take_element()?;
    let depth = decoder.budget.deeper(depth)?;
    Ok(match decoder.u8()? {
        marker::UNDEFINED => Value::Undefined,
        marker::NULL => Value::Null,
        marker::FALSE => Value::Boolean(false),
        marker::TRUE => Value::Boolean(true),
        marker::INTEGER => {
            // 29 bits with a sign.
            let bits = u29(decoder)? << 3;
            Value::Number(f64::from(bits as i32 >> 3))
        }
        marker::DOUBLE => Value::Number(decoder.f64()?),
        marker::STRING => Value::String(string(decoder, tables)?),
        kind @ (marker::XML_DOCUMENT | marker::XML | marker::BYTE_ARRAY) => {
            match reference(decoder, tables)? {
                Ok(known) => known,
                Err(length) if kind == marker::BYTE_ARRAY => {
                    decoder.take(length)?;
                    remember(decoder, tables, Value::Undefined)?
                }
                Err(length) => {
                    let text = Value::String(decoder.text(length)?);
                    remember(decoder, tables, text)?
                }
            }
        }
        marker::DATE => match reference(decoder, tables)? {
            Ok(known) => known,
            Err(_) => {
                let date = Value::Date(decoder.f64()?);
                remember(decoder, tables, date)?
            }
        },
        marker::ARRAY => match reference(decoder, tables)? {
            Ok(known) => known,
            Err(count) => array(decoder, tables, count, depth)?,
        },
        marker::OBJECT => match reference(decoder, tables)? {
            Ok(known) => known,
            Err(header) => object(decoder, tables, header, depth)?,
        },
        other => return Err(Error::UnknownMarker(other)),
    })
}

/// AMF3 §1.3.1: up to 29 bits in one to four bytes.
fn u29(decoder: &mut Decoder<'_>) -> Result<u32, Error> {
    let mut number = 0;
    for _ in 0..3 {
        let byte = decoder.u8()?;
        number = number << 7 | u32::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Ok(number << 8 | u32::from(decoder.u8()?))
}

fn string(decoder: &mut Decoder<'_>, tables: &mut Tables) -> Result<String, Error> {
    let header = u29(decoder)?;
    let number = (header >> 1) as usize;
    if header & 1 == 0 {
        let known = tables.strings.get(number).ok_or(Error::DanglingReference)?;
        decoder.budget.take_text(known.len())?;
        return Ok(known.clone());
    }
    let text = decoder.text(number)?;
    if !text.is_empty() {
        tables.strings.push(text.clone());
    }
    Ok(text)
}

/// Reads the header of an object: the value it refers to, or the number that follows the flag.
fn reference(decoder: &mut Decoder<'_>, tables: &Tables) -> Result<Result<Value, usize>, Error> {
    let header = u29(decoder)?;
    let number = (header >> 1) as usize;
    if header & 1 == 1 {
        return Ok(Err(number));
    }
    match tables.objects.get(number).ok_or(Error::DanglingReference)? {
        Some(known) => {
            charge(decoder, known)?;
            Ok(Ok(known.clone()))
        }
        None => Ok(Ok(Value::Undefined)),
    }
}

/// Makes `value` known to later references; a table's copy costs as much as a value.
fn remember(decoder: &mut Decoder<'_>, tables: &mut Tables, value: Value) -> Result<Value, Error> {
    charge(decoder, &value)?;
    tables.objects.push(Some(value.clone()));
    Ok(value)
}

/// Takes a copy of `value` from the budget.
fn charge(decoder: &mut Decoder<'_>, value: &Value) -> Result<(), Error> {
    decoder.budget.take_element()?;
    match value {
        Value::String(text) => decoder.budget.take_text(text.len()),
        Value::Object(properties) | Value::EcmaArray(properties) => {
            properties.iter().try_for_each(|(key, value)| {
                decoder.budget.take_text(key.len())?;
                charge(decoder, value)
            })
        }
        Value::StrictArray(values) => values.iter().try_for_each(|value| charge(decoder, value)),
        _ => Ok(()),
    }
}

/// AMF3 §3.11: named elements first, then `count` numbered ones.
fn array(
    decoder: &mut Decoder<'_>,
    tables: &mut Tables,
    count: usize,
    depth: usize,
) -> Result<Value, Error> {
    let place = tables.objects.len();
    tables.objects.push(None);
    let mut named = named_values(decoder, tables, depth)?;
    let mut numbered = Vec::new();
    for _ in 0..count {
        numbered.push(value(decoder, tables, depth)?);
    }
    let array = if named.is_empty() {
        Value::StrictArray(numbered)
    } else {
        let numbered = numbered.into_iter().enumerate();
        named.extend(numbered.map(|(index, value)| (index.to_string(), value)));
        Value::EcmaArray(named)
    };
    complete(decoder, tables, place, array)
}

/// AMF3 §3.12.
fn object(
    decoder: &mut Decoder<'_>,
    tables: &mut Tables,
    header: usize,
    depth: usize,
) -> Result<Value, Error> {
    let place = tables.objects.len();
    tables.objects.push(None);
    let traits = if header & 1 == 0 {
        let known = tables.traits.get(header >> 1);
        known.ok_or(Error::DanglingReference)?.clone()
    } else if header & 2 != 0 {
        // Externalizable: its length is known to its class alone.
        return Err(Error::UnknownMarker(marker::OBJECT));
    } else {
        string(decoder, tables)?;
        let mut names = Vec::new();
        for _ in 0..header >> 3 {
            decoder.budget.take_element()?;
            names.push(string(decoder, tables)?);
        }
        let traits = Traits { is_dynamic: header & 4 != 0, names };
        tables.traits.push(traits.clone());
        traits
    };
    let mut properties = Vec::new();
    for name in traits.names {
        decoder.budget.take_text(name.len())?;
        properties.push((name, value(decoder, tables, depth)?));
    }
    if traits.is_dynamic {
        properties.extend(named_values(decoder, tables, depth)?);
    }
    complete(decoder, tables, place, Value::Object(properties))
}

fn complete(
    decoder: &mut Decoder<'_>,
    tables: &mut Tables,
    place: usize,
    value: Value,
) -> Result<Value, Error> {
    charge(decoder, &value)?;
    tables.objects[place] = Some(value.clone());
    Ok(value)
}

/// Names with values, ended by an empty name.
fn named_values(
    decoder: &mut Decoder<'_>,
    tables: &mut Tables,
    depth: usize,
) -> Result<Vec<(String, Value)>, Error> {
    let mut properties = Vec::new();
    loop {
        let name = string(decoder, tables)?;
        if name.is_empty() {
            return Ok(properties);
        }
        properties.push((name, value(decoder, tables, depth)?));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amf0::decode;

    fn one(bytes: &[u8]) -> Result<Value, Error> {
        decode(&[&[0x11], bytes].concat()).map(|mut values| {
            assert_eq!(values.len(), 1);
            values.remove(0)
        })
    }

    #[test]
    fn decodes_scalars() {
        for (bytes, number) in [
            (&[4, 0x7f][..], 127.0),
            (&[4, 0x81, 0x00], 128.0),
            (&[4, 0xff, 0xff, 0xff, 0xff], -1.0),
            (&[4, 0xbf, 0xff, 0xff, 0xff], 268_435_455.0),
            (&[5, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0], 1.5),
        ] {
            assert_eq!(one(bytes), Ok(Value::Number(number)));
        }
        assert_eq!(one(&[3]), Ok(Value::Boolean(true)));
        assert_eq!(one(&[2]), Ok(Value::Boolean(false)));
        assert_eq!(one(&[1]), Ok(Value::Null));
        assert_eq!(one(b"\x06\x05ab"), Ok("ab".into()));
        assert_eq!(one(b"\x0c\x05ab"), Ok(Value::Undefined));
    }

    #[test]
    fn decodes_objects_arrays_and_references() {
        // Dynamic object without a class: {a: "b", b: "a"}; the second pair refers back.
        let object = b"\x0a\x0b\x01\x03a\x06\x03b\x02\x06\x00\x01";
        let pair = Value::object([("a", "b".into()), ("b", "a".into())]);
        assert_eq!(one(object), Ok(pair.clone()));
        // A list of an object, the object again, and the list itself.
        let list = [&b"\x09\x07\x01"[..], object, b"\x0a\x02\x09\x00"].concat();
        let expected = Value::StrictArray(vec![pair.clone(), pair, Value::Undefined]);
        assert_eq!(one(&list), Ok(expected));
        // Sealed members, and a second object with the same traits.
        let sealed = b"\x09\x05\x01\x0a\x13\x03T\x03x\x04\x01\x0a\x01\x04\x02";
        let x = |number: f64| Value::object([("x", number.into())]);
        assert_eq!(one(sealed), Ok(Value::StrictArray(vec![x(1.0), x(2.0)])));
        assert_eq!(
            one(b"\x09\x03\x03k\x03\x01\x02"),
            Ok(Value::EcmaArray(vec![("k".into(), true.into()), ("0".into(), false.into()),]))
        );
    }

    #[test]
    fn refuses_what_would_grow() {
        assert_eq!(one(&[6, 2]), Err(Error::DanglingReference));
        assert_eq!(one(&[9, 2]), Err(Error::DanglingReference));
        assert_eq!(one(b"\x0a\x07\x01"), Err(Error::UnknownMarker(10)));
        assert_eq!(one(&[9, 3, 1].repeat(100_000)), Err(Error::TooDeep));
        assert_eq!(one(&[9, 0xbf, 0xff, 0xff, 0xff, 1]), Err(Error::Truncated));
        // Each list holds the one before it twice.
        let mut laughs = b"\x09\x3f\x01\x09\x01\x01".to_vec();
        for index in 1..31_u8 {
            laughs.extend([9, 5, 1, 9, index * 2, 9, index * 2]);
        }
        assert_eq!(one(&laughs), Err(Error::TooLarge));
        // One long string, referred to again and again.
        let mut echoes = [&b"\x09\x83\x01\x01\x06\x87\xff\x7f"[..], &[b'x'; 65535 / 2]].concat();
        echoes.extend([6, 0].repeat(200));
        assert!(one(&echoes).is_err());
    }
}
