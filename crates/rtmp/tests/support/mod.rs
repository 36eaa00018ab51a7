//! Bytes written by hand from the specification, not with the crate's own writer.
#![expect(unreachable_pub, reason = "shared by test files")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part of it")]

use bytes::BytesMut;
use rtmp::amf0::Value;

/// A plain handshake: version, C1 with a pattern, and any C2.
pub fn c0c1c2() -> Vec<u8> {
    let mut bytes = vec![3, 0, 0, 0, 1, 0, 0, 0, 0];
    bytes.extend((0..1528).map(|i| (i * 7) as u8));
    bytes.extend([0xee; 1536]);
    bytes
}

/// A message in a type 0 chunk and type 3 chunks of 128 bytes (RTMP 1.0 §5.3.1).
pub fn chunk(id: u8, timestamp: u32, type_id: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    cut(id, timestamp, type_id, stream, body, 128)
}

pub fn cut(id: u8, timestamp: u32, type_id: u8, stream: u32, body: &[u8], size: usize) -> Vec<u8> {
    let is_extended = timestamp >= 0xff_ffff;
    let mut bytes = vec![id];
    bytes.extend(&timestamp.min(0xff_ffff).to_be_bytes()[1..]);
    bytes.extend(&(body.len() as u32).to_be_bytes()[1..]);
    bytes.push(type_id);
    bytes.extend(stream.to_le_bytes());
    for (number, part) in body.chunks(size).enumerate() {
        if number > 0 {
            bytes.push(0xc0 | id);
        }
        if is_extended {
            bytes.extend(timestamp.to_be_bytes());
        }
        bytes.extend(part);
    }
    bytes
}

pub fn command_body(name: &str, transaction_id: f64, arguments: &[Value]) -> Vec<u8> {
    let mut body = BytesMut::new();
    Value::from(name).encode(&mut body);
    Value::from(transaction_id).encode(&mut body);
    arguments.iter().for_each(|value| value.encode(&mut body));
    body.to_vec()
}

pub fn command(id: u8, stream: u32, name: &str, transaction: f64, arguments: &[Value]) -> Vec<u8> {
    chunk(id, 0, 20, stream, &command_body(name, transaction, arguments))
}

/// `connect`, every byte by hand.
pub fn connect(app: &str) -> Vec<u8> {
    let mut body = b"\x02\x00\x07connect\x00\x3f\xf0\x00\x00\x00\x00\x00\x00\x03".to_vec();
    body.extend(b"\x00\x03app\x02\x00");
    body.push(app.len() as u8);
    body.extend(app.as_bytes());
    body.extend(b"\x00\x08flashVer\x02\x00\x08FMLE/3.0");
    body.extend(b"\x00\x05tcUrl\x02\x00\x10rtmp://host/live");
    body.extend(b"\x00\x0eobjectEncoding\x00\x40\x08\x00\x00\x00\x00\x00\x00");
    body.extend(b"\x00\x00\x09");
    chunk(3, 0, 20, 0, &body)
}
