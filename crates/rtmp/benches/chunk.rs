//! How long a chunk takes to read and to write, at the chunk sizes that clients use.

use std::hint::black_box;

use bytes::{Buf, Bytes, BytesMut};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use rtmp::chunk::{Header, Phase, Reader, Writer};
use rtmp::{Limits, SendQueue};

const CHUNK_SIZES: [u32; 3] = [128, 4096, 60_000];

/// A frame of 5 Mb/s video is about 20 kB; whole chunks make the numbers comparable.
const CHUNKS: usize = 8;

const MESSAGES: usize = 16;

fn main() {
    divan::main();
}

fn header(index: usize) -> Header {
    Header { chunk_stream_id: 6, timestamp: index as u32 * 33, type_id: 9, message_stream_id: 1 }
}

#[divan::bench(args = CHUNK_SIZES)]
fn chunks_in(bencher: Bencher<'_, '_>, chunk_size: u32) {
    let body = Bytes::from(vec![7; chunk_size as usize * CHUNKS]);
    let (mut writer, mut out) = (Writer::default(), SendQueue::default());
    let mut prelude = SendQueue::default();
    writer.set_chunk_size(chunk_size, &mut prelude);
    let prelude = prelude.copy_to_bytes(prelude.remaining());
    for index in 0..MESSAGES {
        writer.write(header(index), &body, &mut out);
    }
    let bytes = out.copy_to_bytes(out.remaining());
    bencher
        .counter(ItemsCount::new(CHUNKS * MESSAGES))
        .counter(BytesCount::new(bytes.len()))
        .with_inputs(|| {
            let limits = Limits { small_chunk_bytes: usize::MAX, ..Limits::default() };
            let mut reader = Reader::new(limits);
            reader.set_phase(Phase::Authorised);
            let _ = reader.read(&mut BytesMut::from(&prelude[..]));
            (reader, BytesMut::from(&bytes[..]))
        })
        .bench_local_values(|(mut reader, mut input)| {
            while let Ok(Some(message)) = reader.read(&mut input) {
                black_box(message);
            }
            (reader, input)
        });
}

#[divan::bench(args = CHUNK_SIZES)]
fn chunks_out(bencher: Bencher<'_, '_>, chunk_size: u32) {
    let body = Bytes::from(vec![7; chunk_size as usize * CHUNKS]);
    let (mut writer, mut out) = (Writer::default(), SendQueue::default());
    writer.set_chunk_size(chunk_size, &mut out);
    bencher
        .counter(ItemsCount::new(CHUNKS * MESSAGES))
        .counter(BytesCount::new(body.len() * MESSAGES))
        .bench_local(|| {
            for index in 0..MESSAGES {
                writer.write(header(index), black_box(&body), &mut out);
            }
            out.advance(out.remaining());
        });
}
