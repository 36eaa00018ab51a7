use super::*;

/// Reads all of `bytes` as one segment and checks that single bytes give the same.
fn read(bytes: &[u8]) -> Result<Vec<Message>, Error> {
    let (whole, lenient) = read_segments(bytes, usize::MAX);
    let (single, also_lenient) = read_segments(bytes, 1);
    assert_eq!(whole, single);
    assert_eq!(lenient, also_lenient);
    whole
}

fn read_segments(bytes: &[u8], size: usize) -> (Result<Vec<Message>, Error>, u64) {
    let mut reader = Reader::new(Limits::default());
    reader.set_phase(Phase::Authorised);
    let (mut input, mut messages) = (BytesMut::new(), vec![]);
    for segment in bytes.chunks(size.min(bytes.len())) {
        input.extend_from_slice(segment);
        loop {
            match reader.read(&mut input) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (Err(error), reader.lenient()),
            }
        }
        assert!(input.len() < 18, "more than a header is left in the input");
    }
    (Ok(messages), reader.lenient())
}

fn lenient(bytes: &[u8]) -> u64 {
    read_segments(bytes, usize::MAX).1
}

fn seen(messages: &[Message]) -> Vec<(u32, u32, u8, usize)> {
    let shape = |m: &Message| (m.chunk_stream_id, m.timestamp, m.type_id, m.body.len());
    messages.iter().map(shape).collect()
}

const MISBEHAVED: &str = "it changed a message in its middle";

#[test]
fn reads_the_example_of_the_specification() {
    // RTMP 1.0 §5.3.2.2: a video message of 307 bytes in three chunks.
    let mut bytes = vec![4, 0, 3, 0xe8, 0, 1, 0x33, 9, 0x12, 0x34, 0, 0];
    let body: Vec<u8> = (0..307).map(|i| i as u8).collect();
    bytes.extend(&body[..128]);
    bytes.push(0xc4);
    bytes.extend(&body[128..256]);
    bytes.push(0xc4);
    bytes.extend(&body[256..]);
    let expected = Message {
        chunk_stream_id: 4,
        timestamp: 1000,
        type_id: 9,
        message_stream_id: 0x3412,
        body: body.into(),
    };
    assert_eq!(read(&bytes), Ok(vec![expected]));
}

#[test]
fn reads_all_header_types_with_deltas_of_their_own() {
    let bytes = [
        // RTMP 1.0 §5.3.2.1, with another chunk stream in between.
        &[3, 0, 3, 0xe8, 0, 0, 2, 8, 1, 0, 0, 0, 1, 2][..],
        &[5, 0, 0, 7, 0, 0, 1, 9, 1, 0, 0, 0, 9],
        &[0x83, 0, 0, 20, 3, 4],
        &[0xc3, 5, 6],
        &[0x45, 0, 0, 40, 0, 0, 2, 9, 9, 9],
        &[0xc3, 7, 8],
        &[0xc5, 9, 9],
    ];
    let messages = read(&bytes.concat()).unwrap();
    let expected = [
        (3, 1000, 8, 2),
        (5, 7, 9, 1),
        (3, 1020, 8, 2),
        (3, 1040, 8, 2),
        (5, 47, 9, 2),
        (3, 1060, 8, 2),
        (5, 87, 9, 2),
    ];
    assert_eq!(seen(&messages), expected);
    assert!(messages.iter().all(|m| m.message_stream_id == 1));
}

#[test]
fn reads_every_basic_header() {
    for (basic, id) in [
        (&[2][..], 2),
        (&[63], 63),
        (&[0, 0], 64),
        (&[0, 255], 319),
        (&[1, 0, 0], 64),
        (&[1, 0, 1], 320),
        (&[1, 255, 255], 65599),
    ] {
        let bytes = [basic, &[0, 0, 0, 0, 0, 1, 8, 0, 0, 0, 0, 0xaf]].concat();
        assert_eq!(seen(&read(&bytes).unwrap()), [(id, 0, 8, 1)]);
    }
}

#[test]
fn type_3_starts_a_message() {
    let first = |time: u8, high: u8| [4, 0, high, time, 0, 0, 1, 8, 1, 0, 0, 0, 0xaf, 0xc4, 0xaf];
    // By the book after a small time, as FFmpeg writes it.
    assert_eq!(seen(&read(&first(23, 0)).unwrap()), [(4, 23, 8, 1), (4, 46, 8, 1)]);
    // "The same time again" after a large one, as old librtmp means it.
    let messages = read(&first(0, 0x20)).unwrap();
    assert_eq!(seen(&messages), [(4, 0x2000, 8, 1), (4, 0x2000, 8, 1)]);
}

#[test]
fn a_chunk_stream_may_begin_with_a_compressed_header() {
    let type_1 = [0x44, 0, 0, 20, 0, 0, 1, 8, 0xaf];
    assert_eq!(seen(&read(&type_1).unwrap()), [(4, 20, 8, 1)]);
    assert_eq!(lenient(&type_1), 1);
    let type_2 = [&[0xa1, 0, 0, 20][..], &type_1].concat();
    assert_eq!(seen(&read(&type_2).unwrap()), [(33, 20, 0, 0), (4, 20, 8, 1)]);
    let type_3 = [&[0xe1][..], &type_1].concat();
    assert_eq!(seen(&read(&type_3).unwrap()), [(33, 0, 0, 0), (4, 20, 8, 1)]);
}

#[test]
fn messages_interleave_while_the_chunk_size_changes() {
    let mut bytes = vec![6, 0, 0, 40, 0, 1, 0, 9, 1, 0, 0, 0];
    bytes.extend([1; 128]);
    bytes.extend([4, 0, 0, 41, 0, 0, 2, 8, 1, 0, 0, 0, 0xaf, 1]);
    bytes.extend([2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 100]);
    bytes.push(0xc6);
    bytes.extend([2; 100]);
    bytes.push(0xc6);
    bytes.extend([3; 28]);
    let messages = read(&bytes).unwrap();
    assert_eq!(seen(&messages), [(4, 41, 8, 2), (6, 40, 9, 256)]);
    let body = [&[1; 128][..], &[2; 100], &[3; 28]].concat();
    assert_eq!(messages[1].body, body);
    assert_eq!(lenient(&bytes), 1, "100 is small");
}

#[test]
fn deltas_and_times_wrap() {
    let bytes = [
        &[4, 255, 255, 255, 0, 0, 1, 8, 1, 0, 0, 0, 255, 255, 255, 246, 0xaf][..],
        &[0x44, 0, 0, 20, 0, 0, 1, 8, 0xaf],
        &[0x84, 0, 0, 20, 0xaf],
        // GStreamer's negative delta: -5.
        &[0x84, 255, 255, 255, 255, 255, 255, 251, 0xaf],
    ];
    let times: Vec<_> = read(&bytes.concat()).unwrap().iter().map(|m| m.timestamp).collect();
    assert_eq!(times, [u32::MAX - 9, 10, 30, 25]);
}

/// A message of 300 bytes at 0x01020304, with or without the repeats; then one on its own.
fn extended(repeat: bool, byte: u8) -> Vec<u8> {
    let mut bytes = vec![6, 255, 255, 255, 0, 1, 44, 9, 1, 0, 0, 0, 1, 2, 3, 4];
    bytes.extend([byte; 128]);
    for length in [128, 44] {
        bytes.push(0xc6);
        if repeat {
            bytes.extend([1, 2, 3, 4]);
        }
        bytes.extend(vec![byte; length]);
    }
    bytes.extend([4, 0, 0, 1, 0, 0, 1, 8, 1, 0, 0, 0, 0xaf]);
    bytes
}

#[test]
fn extended_timestamps_may_be_repeated_or_not() {
    for repeat in [true, false] {
        for byte in [7, 1] {
            let messages = read(&extended(repeat, byte)).unwrap();
            assert_eq!(seen(&messages), [(6, 0x0102_0304, 9, 300), (4, 1, 8, 1)]);
            assert!(messages[0].body.iter().all(|&b| b == byte));
        }
        let bytes = [extended(repeat, 7), extended(repeat, 7)].concat();
        assert_eq!(read(&bytes).unwrap().len(), 4, "the verdict holds");
    }
    assert_eq!(lenient(&extended(false, 7)), 2);
}

#[test]
fn extended_timestamps_missing_in_a_short_rest() {
    // Two bytes are left for the continuation, and nothing comes after them.
    let mut bytes = vec![6, 255, 255, 255, 0, 0, 130, 9, 1, 0, 0, 0, 1, 2, 3, 4];
    bytes.extend([5; 128]);
    bytes.extend([0xc6, 5, 5]);
    assert_eq!(seen(&read(&bytes).unwrap()), [(6, 0x0102_0304, 9, 130)]);
}

#[test]
fn extended_deltas_repeat_the_delta_or_the_time() {
    for repeated in [[1, 0, 0, 0], [1, 0, 0, 9]] {
        let mut bytes = vec![6, 0, 0, 9, 0, 0, 1, 9, 1, 0, 0, 0, 7];
        bytes.extend([0x46, 255, 255, 255, 0, 0, 129, 9, 1, 0, 0, 0]);
        bytes.extend([7; 128]);
        bytes.push(0xc6);
        bytes.extend(repeated);
        bytes.push(7);
        let messages = read(&bytes).unwrap();
        assert_eq!(seen(&messages)[1], (6, 0x0100_0009, 9, 129));
        assert_eq!(messages[1].body, [7; 129][..]);
    }
}

#[test]
fn an_abort_discards_the_message_and_keeps_the_chunk_stream() {
    let mut bytes = vec![6, 0, 0, 40, 0, 1, 0, 9, 1, 0, 0, 0];
    bytes.extend([1; 128]);
    bytes.extend([2, 0, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 0, 0, 0, 6]);
    bytes.extend([0x46, 0, 0, 40, 0, 0, 2, 9, 7, 7]);
    assert_eq!(seen(&read(&bytes).unwrap()), [(6, 80, 9, 2)]);
}

#[test]
fn a_message_does_not_change_in_its_middle() {
    let mut start = vec![6, 0, 0, 40, 0, 1, 0, 9, 1, 0, 0, 0];
    start.extend([1; 128]);
    let after = |header: &[u8]| read(&[&start, header].concat());
    let shorter = after(&[0x46, 0, 0, 40, 0, 0, 1, 9, 1]);
    assert_eq!(shorter, Err(Error::Misbehaved(MISBEHAVED)));
    let type_0 = after(&[6, 0, 0, 40, 0, 1, 0, 9, 1, 0, 0, 0]);
    assert!(matches!(type_0, Err(Error::Misbehaved(_))));
    let same = [&[0x46, 0, 0, 40, 0, 1, 0, 9][..], &[1; 128]].concat();
    assert_eq!(seen(&after(&same).unwrap()), [(6, 40, 9, 256)]);
}

#[test]
fn chunk_sizes_are_kept_within_reason() {
    let set = |size: [u8; 4]| [&[2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0][..], &size].concat();
    assert!(matches!(read(&set([0; 4])), Err(Error::Misbehaved(_))));
    let media = [&[6, 0, 0, 0, 0, 2, 0, 9, 1, 0, 0, 0][..], &[7; 512]].concat();
    for size in [[0x7f, 255, 255, 255], [0x80, 0, 0, 0], [0, 0, 0x10, 0]] {
        assert_eq!(read(&[set(size), media.clone()].concat()).unwrap().len(), 1);
    }
    let mut tiny = set([0, 0, 0, 1]);
    tiny.extend([6, 0, 0, 0, 2, 0, 0, 9, 1, 0, 0, 0, 7]);
    tiny.extend([0xc6, 7].repeat(100_000));
    assert!(matches!(read(&tiny), Err(Error::LimitExceeded { limit: 65536, .. })));
}

#[test]
fn limits_depend_on_the_phase() {
    let length = |length: usize, type_id| {
        let mut bytes = vec![6, 0, 0, 0];
        bytes.extend(&(length as u32).to_be_bytes()[1..]);
        bytes.extend([type_id, 1, 0, 0, 0]);
        bytes
    };
    for (phase, type_id, limit) in [
        (Phase::Unauthorised, 9, 64 << 10),
        (Phase::Pending, 9, 256 << 10),
        (Phase::Pending, 20, 64 << 10),
        (Phase::Authorised, 9, 8 << 20),
        (Phase::Authorised, 8, 1 << 20),
        (Phase::Authorised, 20, 256 << 10),
    ] {
        let mut reader = Reader::new(Limits::default());
        reader.set_phase(phase);
        let at = reader.read(&mut BytesMut::from(&length(limit, type_id)[..]));
        assert_eq!(at, Ok(None));
        let mut reader = Reader::new(Limits::default());
        reader.set_phase(phase);
        let above = reader.read(&mut BytesMut::from(&length(limit + 1, type_id)[..]));
        let what = "bytes in a message";
        assert_eq!(above, Err(Error::LimitExceeded { what, limit }));
    }
}

#[test]
fn announced_lengths_take_no_memory() {
    let mut reader = Reader::new(Limits::default());
    reader.set_phase(Phase::Authorised);
    let mut result = Ok(None);
    for id in 3..63 {
        let mut bytes = vec![id, 0, 0, 0, 0x7f, 0, 0, 9, 1, 0, 0, 0];
        bytes.extend([7; 128]);
        result = reader.read(&mut BytesMut::from(&bytes[..]));
        if result.is_err() {
            break;
        }
    }
    assert!(matches!(result, Err(Error::LimitExceeded { what: "incomplete messages", .. })));
    assert!(reader.partial_bytes <= 9 * 128);
    assert!(reader.streams.iter().all(|stream| stream.body.capacity() <= 128));
}

#[test]
fn chunk_streams_are_bounded() {
    let mut bytes = vec![];
    for id in 3..12 {
        bytes.extend([id, 0, 0, 0, 0, 0, 1, 8, 1, 0, 0, 0, 7]);
    }
    assert_eq!(read(&bytes).unwrap().len(), 9);
    let (mut stranger, mut input) = (Reader::new(Limits::default()), BytesMut::from(&bytes[..]));
    for _ in 0..8 {
        assert!(stranger.read(&mut input).unwrap().is_some());
    }
    let what = "chunk streams";
    let result = stranger.read(&mut input);
    assert_eq!(result, Err(Error::LimitExceeded { what, limit: 8 }));
}
