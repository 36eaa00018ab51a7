//! Properties of the parsers: nothing panics, and segmentation does not matter.

mod support;

use bytes::{Buf, Bytes, BytesMut};
use media::{Tag, Track};
use proptest::collection::vec;
use proptest::prelude::*;
use rtmp::amf0::{self, Value};
use rtmp::chunk::{Header, Message, Phase, Reader, Writer};
use rtmp::session::client::Config;
use rtmp::session::{Client, Intent, Server, server};
use rtmp::{Limits, SendQueue, handshake, metadata, name};
use support::{chunk, command};

/// Reads `bytes` in segments of the given sizes, over and over.
fn read(bytes: &[u8], sizes: &[usize]) -> (Vec<Message>, bool) {
    let mut reader = Reader::new(Limits::default());
    reader.set_phase(Phase::Authorised);
    let (mut input, mut messages, mut rest) = (BytesMut::new(), vec![], bytes);
    for size in sizes.iter().cycle() {
        let (segment, after) = rest.split_at(rest.len().min(*size));
        rest = after;
        input.extend_from_slice(segment);
        loop {
            match reader.read(&mut input) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, false),
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    (messages, true)
}

/// What a publishing client sends, from its first byte to its last.
fn conversation() -> Vec<u8> {
    let mut bytes = support::c0c1c2();
    bytes.extend(support::connect("live"));
    for (name, id) in [("releaseStream", 2.0), ("FCPublish", 3.0), ("createStream", 4.0)] {
        bytes.extend(command(3, 0, name, id, &[Value::Null, "key".into()]));
    }
    bytes.extend(command(8, 1, "publish", 5.0, &[Value::Null, "key".into(), "live".into()]));
    bytes.extend(chunk(2, 0, 1, 0, &[0, 0, 16, 0]));
    for time in 0..20 {
        let body = [0x27; 700];
        bytes.extend(support::cut(6, 0xff_fffa + time, 9, 1, &body, 4096));
        bytes.extend(support::cut(4, time, 8, 1, &[0xaf, 1, 2, 3], 4096));
    }
    bytes.extend(support::cut(
        3,
        0,
        20,
        0,
        b"\x02\x00\x0bcloseStream\x00\0\0\0\0\0\0\0\0\x05",
        4096,
    ));
    bytes
}

/// Drives a server session with `bytes` in segments, accepting every request.
fn serve(bytes: &[u8], size: usize) -> Vec<String> {
    let mut session = Server::new(server::Config::default(), [3; 32]);
    let (mut input, mut log) = (BytesMut::new(), vec![]);
    for segment in bytes.chunks(size.max(1)) {
        input.extend_from_slice(segment);
        let result = session.handle_input(&mut input);
        while let Some(event) = session.poll_event() {
            if let server::Event::Request(_) = event {
                session.accept();
                session.send_tag(&Tag::new(Track::Audio, 0, Bytes::from_static(b"x")), 0);
                session.ping(1);
            }
            log.push(format!("{event:?}"));
        }
        let queue = session.send_queue();
        queue.advance(queue.remaining());
        if let Err(error) = result {
            log.push(error.to_string());
            break;
        }
    }
    log
}

/// Drives a client session with `bytes`, the handshake already done.
fn play(intent: Intent, bytes: &[u8]) {
    let url = "rtmp://host/live/key".parse().unwrap();
    let mut session = Client::new(Config::new(intent, url), [3; 32]);
    let mut input = BytesMut::from(&vec![3; 3073][..]);
    input.extend_from_slice(bytes);
    let _ = session.handle_input(&mut input);
    while session.poll_event().is_some() {}
    session.send_tag(&Tag::new(Track::Audio, 0, Bytes::from_static(b"x")));
    session.close();
}

/// What a server says to a client, up to the acceptance of `code`.
fn server_side(code: &str) -> Vec<u8> {
    let status = Value::object([("level", "status".into()), ("code", code.into())]);
    let mut bytes = command(3, 0, "_result", 1.0, &[Value::Null, Value::Null]);
    bytes.extend(command(3, 0, "_result", 4.0, &[Value::Null, 1.0.into()]));
    bytes.extend(command(5, 1, "onStatus", 0.0, &[Value::Null, status]));
    bytes
}

proptest! {
    #[test]
    fn the_writer_and_the_reader_agree_in_any_segmentation(
        sizes in vec(1_usize..300, 1..8),
        chunk_size in 128_u32..5000,
        messages in vec((0_usize..4, any::<u32>(), 8_u8..10, 0_usize..1500), 1..12),
    ) {
        let (mut writer, mut out) = (Writer::default(), SendQueue::default());
        writer.set_chunk_size(chunk_size, &mut out);
        let mut expected = vec![];
        for (index, timestamp, type_id, length) in messages {
            let chunk_stream_id = [3, 64, 320, 65599][index];
            let body = Bytes::from(vec![type_id; length]);
            let header = Header { chunk_stream_id, timestamp, type_id, message_stream_id: 1 };
            writer.write(header, &body, &mut out);
            expected.push(Message { chunk_stream_id, timestamp, type_id, message_stream_id: 1, body });
        }
        let bytes = out.copy_to_bytes(out.remaining());
        prop_assert_eq!(read(&bytes, &sizes), (expected, true));
    }

    #[test]
    fn arbitrary_chunks_read_the_same_in_any_segmentation(
        bytes in vec(prop_oneof![any::<u8>(), Just(0_u8), Just(0xff), Just(0xc3)], 0..600),
        sizes in vec(1_usize..40, 1..6),
    ) {
        prop_assert_eq!(read(&bytes, &[usize::MAX]), read(&bytes, &sizes));
    }

    #[test]
    fn handshakes_do_not_panic(bytes in vec(any::<u8>(), 0..4000), first in 0_u8..8) {
        let bytes = [&[first][..], &bytes].concat();
        let mut out = SendQueue::default();
        let mut client = handshake::Client::new([0; 32], &mut out);
        let _ = client.handle_input(&mut BytesMut::from(&bytes[..]), &mut out);
        let mut server = handshake::Server::new([0; 32]);
        let _ = server.handle_input(&mut BytesMut::from(&bytes[..]), &mut out);
    }

    #[test]
    fn amf_does_not_panic(bytes in vec(prop_oneof![any::<u8>(), 0_u8..20], 0..400)) {
        for bytes in [bytes.clone(), [&[0x11], &bytes[..]].concat()] {
            if let Ok(values) = amf0::decode(&bytes) {
                let mut out = BytesMut::new();
                values.iter().for_each(|value| value.encode(&mut out));
            }
        }
        let body = [b"\x02\x00\x0aonMetaData", &bytes[..]].concat();
        let _ = metadata::parse(&body);
        let told = metadata::for_player(Some(&body), metadata::Presence::Absent, metadata::Presence::AsAnnounced, true, &amf0::Bounds::default());
        prop_assert!(metadata::parse(&told).is_some());
    }

    #[test]
    fn names_do_not_panic_and_are_canonical(app in ".{0,40}", name in "[a-c%/?=&.:25]{0,40}") {
        if let Ok(target) = name::Target::new(&app, &name) {
            prop_assert!(target.path.len() <= 255);
            prop_assert!(!target.path.split('/').any(|segment| segment == ".."));
            let _ = target.query("key");
        }
        let _ = app.parse::<name::Url>();
        if let Ok(url) = format!("rtmp://{name}").parse::<name::Url>() {
            let again: Result<name::Url, _> = url.to_string().parse();
            prop_assert!(again.is_ok());
        }
    }

    #[test]
    fn arbitrary_bytes_after_the_handshake_do_not_panic(bytes in vec(any::<u8>(), 0..2000)) {
        serve(&[&support::c0c1c2(), &bytes[..]].concat(), 700);
        serve(&[&conversation()[..conversation().len() - 40], &bytes].concat(), 5000);
        for (intent, code) in [
            (Intent::Play, "NetStream.Play.Start"),
            (Intent::Publish, "NetStream.Publish.Start"),
        ] {
            play(intent, &bytes);
            play(intent, &[&server_side(code), &bytes[..]].concat());
        }
    }

    #[test]
    fn a_mutated_conversation_does_not_panic(
        changes in vec((0_usize..40_000, any::<u8>()), 1..12),
        size in 1_usize..2000,
    ) {
        let mut bytes = conversation();
        let length = bytes.len();
        for (at, value) in changes {
            // Most of it is the handshake, where changes matter little.
            let at = if at < 30_000 { 3073 + at } else { at };
            bytes[at % length] = value;
        }
        serve(&bytes, size);
    }

    #[test]
    fn a_conversation_does_not_depend_on_segmentation(size in 1_usize..4000) {
        let bytes = conversation();
        let log = serve(&bytes, size);
        prop_assert_eq!(log.len(), 42);
        prop_assert!(log == serve(&bytes, 1));
    }
}
