//! The chunk reader gives the same messages however the bytes are cut.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use rtmp::Limits;
use rtmp::chunk::Reader;

fn messages(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<(u32, bytes::Bytes)> {
    let mut reader = Reader::new(Limits::default());
    let (mut input, mut read) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(&piece);
        loop {
            match reader.read(&mut input) {
                Ok(Some(message)) => read.push((message.timestamp, message.body)),
                Ok(None) => break,
                Err(_) => return read,
            }
        }
    }
    read
}

fuzz_target!(|bytes: &[u8]| {
    let whole = messages(std::iter::once(bytes.to_vec()));
    let cut = messages(bytes.chunks(7).map(<[u8]>::to_vec));
    assert_eq!(whole, cut);
});
