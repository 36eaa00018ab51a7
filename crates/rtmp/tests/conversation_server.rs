//! A server session against byte-exact clients, written by hand from the specification.

mod support;

use bytes::{Buf, Bytes, BytesMut};
use media::{Codec, Role, Tag, Track};
use rtmp::adobe::{Claim, Refusal};
use rtmp::amf0::{self, Value};
use rtmp::capabilities::CapsEx;
use rtmp::chunk::{Message, Phase, Reader};
use rtmp::session::server::{Config, Event};
use rtmp::session::{Intent, Rejection, Request, Server};
use rtmp::{Error, Limits};
use support::{chunk, command, cut};

/// A hand-written client around a session.
struct Peer {
    session: Server,
    input: BytesMut,
    reader: Reader,
    output: BytesMut,
}

impl Peer {
    /// A client that finished the handshake.
    fn new() -> Self {
        let mut peer = Self {
            session: Server::new(Config::default(), [7; 32]),
            input: BytesMut::new(),
            reader: Reader::new(Limits::default()),
            output: BytesMut::new(),
        };
        peer.reader.set_phase(Phase::Authorised);
        peer.send(&support::c0c1c2());
        peer.take_output();
        assert_eq!(peer.output.len(), 3073);
        assert_eq!(peer.output[1537..], support::c0c1c2()[1..1537]);
        peer.output.clear();
        peer
    }

    fn connected() -> Self {
        let mut peer = Self::new();
        peer.send(&support::connect("live"));
        peer.replies();
        peer
    }

    fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    fn try_send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.input.extend_from_slice(bytes);
        self.session.handle_input(&mut self.input)
    }

    fn take_output(&mut self) {
        let queue = self.session.send_queue();
        let count = queue.remaining();
        self.output.extend_from_slice(&queue.copy_to_bytes(count));
    }

    /// What the server sent since the last time.
    fn messages(&mut self) -> Vec<Message> {
        self.take_output();
        let mut messages = vec![];
        while let Some(message) = self.reader.read(&mut self.output).unwrap() {
            messages.push(message);
        }
        assert!(self.output.is_empty());
        messages
    }

    /// The commands among it: message stream id and values.
    fn replies(&mut self) -> Vec<(u32, Vec<Value>)> {
        let commands = self.messages().into_iter().filter(|m| m.type_id == 20);
        commands.map(|m| (m.message_stream_id, amf0::decode(&m.body).unwrap())).collect()
    }

    /// The codes of all `onStatus` commands, with their message stream ids.
    fn codes(&mut self) -> Vec<(u32, String)> {
        let replies = self.replies().into_iter();
        replies
            .filter(|(_, values)| values[0].as_str() == Some("onStatus"))
            .map(|(id, values)| {
                let code = values[3].property("code").unwrap();
                (id, code.as_str().unwrap().to_owned())
            })
            .collect()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    fn request(&mut self) -> Request {
        match self.events().pop() {
            Some(Event::Request(request)) => request,
            other => panic!("no request but {other:?}"),
        }
    }

    fn published() -> Self {
        let mut peer = Self::connected();
        peer.send(&command(3, 0, "createStream", 4.0, &[Value::Null]));
        peer.send(&publish(1, "key"));
        peer.request();
        peer.session.accept();
        peer.messages();
        peer
    }

    fn played() -> Self {
        let mut peer = Self::connected();
        peer.send(&command(3, 0, "createStream", 2.0, &[Value::Null]));
        peer.send(&play(1));
        peer.request();
        peer.session.accept();
        peer.messages();
        peer
    }
}

fn publish(stream: u32, name: &str) -> Vec<u8> {
    let arguments = [Value::Null, name.into(), "live".into()];
    command(8, stream, "publish", 5.0, &arguments)
}

fn play(stream: u32) -> Vec<u8> {
    let arguments = [Value::Null, "camera".into(), (-2000.0).into()];
    command(8, stream, "play", 0.0, &arguments)
}

fn codes(list: &[(u32, &str)]) -> Vec<(u32, String)> {
    list.iter().map(|&(id, code)| (id, code.to_owned())).collect()
}

#[test]
fn answers_connect_by_the_book() {
    let mut peer = Peer::new();
    peer.send(&support::connect("live"));
    let messages = peer.messages();
    let seen: Vec<_> = messages.iter().map(|m| (m.type_id, &m.body[..])).collect();
    assert_eq!(seen[0], (5, &[0, 0x26, 0x25, 0xa0][..]));
    assert_eq!(seen[1], (6, &[0, 0x26, 0x25, 0xa0, 2][..]));
    assert_eq!(seen[2], (4, &[0; 6][..]));
    // Set Chunk Size is obeyed by the reader and does not show.
    assert_eq!(messages.len(), 4);
    let values = amf0::decode(seen[3].1).unwrap();
    assert_eq!(values[..2], ["_result".into(), 1.0.into()]);
    assert_eq!(values[2].property("capabilities"), Some(&31.0.into()));
    assert_eq!(values[2].property("fourCcList"), None, "it was not asked for");
    let code = values[3].property("code").and_then(Value::as_str);
    assert_eq!(code, Some("NetConnection.Connect.Success"));
    assert_eq!(values[3].property("objectEncoding"), Some(&3.0.into()));
}

#[test]
fn echoes_enhanced_rtmp_to_those_who_announce_it() {
    let mut peer = Peer::new();
    let list = Value::StrictArray(vec!["hvc1".into()]);
    let object = Value::object([("app", "live".into()), ("fourCcList", list)]);
    peer.send(&command(3, 0, "connect", 1.0, &[object]));
    let (_, values) = peer.replies().remove(0);
    let map = values[2].property("videoFourCcInfoMap").unwrap();
    assert_eq!(map.property("*"), Some(&4.0.into()));
    assert_eq!(values[2].property("audioFourCcInfoMap"), Some(map));
    assert_eq!(values[2].property("fourCcList"), Some(&Value::StrictArray(vec!["*".into()])));
    assert_eq!(values[2].property("capsEx"), Some(&15.0.into()));
}

/// A client that connects with these properties and publishes.
fn announced(properties: Vec<(String, Value)>) -> (Peer, Request) {
    let mut peer = Peer::new();
    peer.send(&command(3, 0, "connect", 1.0, &[Value::Object(properties)]));
    peer.send(&command(3, 0, "createStream", 4.0, &[Value::Null]));
    peer.send(&publish(1, "key"));
    let request = peer.request();
    peer.session.accept();
    peer.messages();
    (peer, request)
}

#[test]
fn a_request_tells_what_was_announced() {
    let map = Value::object([("av01", 1.0.into())]);
    let (_, request) = announced(vec![
        ("app".into(), "live".into()),
        ("videoFourCcInfoMap".into(), map),
        ("capsEx".into(), 6.0.into()),
    ]);
    let capabilities = request.capabilities;
    assert!(capabilities.has(CapsEx::MULTITRACK.and(CapsEx::MOD_EX)));
    assert!(!capabilities.has(CapsEx::RECONNECT));
    assert!(capabilities.takes(Track::Video, Codec::FourCc(*b"av01")));
    assert!(!capabilities.takes(Track::Video, Codec::FourCc(*b"hvc1")));
    let (_, request) = announced(vec![("app".into(), "live".into())]);
    assert!(!request.capabilities.is_announced());
}

#[test]
fn asks_those_to_reconnect_who_can() {
    let app = || ("app".to_owned(), Value::from("live"));
    let (mut peer, _) = announced(vec![app(), ("capsEx".into(), 1.0.into())]);
    assert!(peer.session.request_reconnect(Some("rtmp://b.example/live"), "moving"));
    let (id, values) = peer.replies().remove(0);
    assert_eq!((id, &values[..3]), (0, &["onStatus".into(), 0.0.into(), Value::Null][..]));
    let expected = Value::object([
        ("level", "status".into()),
        ("code", "NetConnection.Connect.ReconnectRequest".into()),
        ("description", "moving".into()),
        ("tcUrl", "rtmp://b.example/live".into()),
    ]);
    assert_eq!(values[3], expected);
    assert!(peer.session.request_reconnect(None, "moving"));
    assert_eq!(peer.replies()[0].1[3].property("tcUrl"), None);
    // It is served as before.
    peer.send(&chunk(6, 0, 9, 1, &[0x17, 0, 0, 0, 0, 1]));
    assert_eq!(peer.events().len(), 1);

    for capabilities in [vec![app()], vec![app(), ("capsEx".into(), 14.0.into())]] {
        let (mut peer, _) = announced(capabilities);
        assert!(!peer.session.request_reconnect(None, "moving"));
        assert_eq!(peer.messages().len(), 0);
    }
}

/// The commands and media of an encoder such as FFmpeg or OBS.
#[test]
fn takes_an_encoder_in() {
    let mut peer = Peer::connected();
    for (name, id) in [("releaseStream", 2.0), ("FCPublish", 3.0)] {
        peer.send(&command(3, 0, name, id, &[Value::Null, "key".into()]));
    }
    peer.send(&command(3, 0, "createStream", 4.0, &[Value::Null]));
    let replies = peer.replies();
    let names: Vec<_> = replies.iter().map(|(_, v)| (v[0].clone(), v[1].clone())).collect();
    let expected = [("_result", 2.0), ("_result", 3.0), ("onFCPublish", 3.0), ("_result", 4.0)];
    assert_eq!(names, expected.map(|(name, id)| (name.into(), id.into())));
    assert_eq!(replies[3].1[3], 1.0.into());

    peer.send(&publish(1, "key?x=1"));
    let request = peer.request();
    assert_eq!((request.intent, request.app.as_str()), (Intent::Publish, "live"));
    assert_eq!(request.target().unwrap().path, "live/key");
    assert_eq!(request.target().unwrap().query("x"), Some("1"));
    assert!(peer.messages().is_empty(), "no answer before the decision");

    peer.session.accept();
    assert_eq!(peer.codes(), codes(&[(1, "NetStream.Publish.Start")]));
    let metadata = b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData\x05";
    peer.send(&chunk(4, 0, 18, 1, metadata));
    peer.send(&chunk(6, 0, 9, 1, &[0x17, 0, 0, 0, 0, 1]));
    peer.send(&chunk(4, 0xffff_fff0, 8, 1, &[0xaf, 1, 7]));
    peer.send(&chunk(4, 16, 15, 0, b"\x00\x02\x00\x01a"));
    peer.send(&chunk(4, 16, 18, 1, b"\x02\x00"));
    let tags: Vec<_> = peer.events().into_iter().map(tag).collect();
    let shape: Vec<_> = tags.iter().map(|t| (t.track, t.timestamp, t.role)).collect();
    assert_eq!(
        shape,
        [
            (Track::Data, 0, Role::Metadata),
            (Track::Video, 0, Role::SequenceHeader),
            (Track::Audio, -16, Role::Frame),
            (Track::Data, 16, Role::Other),
        ]
    );
    assert_eq!(tags[0].body, &metadata[..]);

    for bytes in [
        command(3, 0, "FCUnpublish", 6.0, &[Value::Null, "key?x=1".into()]),
        command(3, 0, "deleteStream", 7.0, &[Value::Null, 1.0.into()]),
    ] {
        peer.send(&bytes);
    }
    assert_eq!(peer.events(), [Event::Unpublished], "once");
    peer.send(&chunk(4, 40, 8, 1, &[0xaf, 1, 7]));
    assert_eq!(peer.events(), [], "trailing media");
    peer.send(&publish(1, "key"));
    assert_eq!(peer.request().name, "key", "the same connection publishes again");
}

fn tag(event: Event) -> Tag {
    match event {
        Event::Tag(tag) => tag,
        other => panic!("no tag but {other:?}"),
    }
}

/// Transaction id 0 everywhere, and `deleteStream` with the name (`rtmp2sink`).
#[test]
fn takes_gstreamer_in() {
    let mut peer = Peer::connected();
    for name in ["releaseStream", "FCPublish"] {
        peer.send(&command(3, 0, name, 0.0, &[Value::Null, "key".into()]));
    }
    let replies = peer.replies();
    assert_eq!(replies.len(), 1, "no _result for what asked for none");
    peer.send(&command(3, 0, "createStream", 2.0, &[Value::Null]));
    peer.send(&command(3, 1, "publish", 0.0, &[Value::Null, "key".into(), "live".into()]));
    peer.request();
    peer.session.accept();
    assert_eq!(peer.codes(), codes(&[(1, "NetStream.Publish.Start")]));
    peer.send(&command(3, 0, "deleteStream", 0.0, &[Value::Null, "key".into()]));
    assert_eq!(peer.events(), [Event::Unpublished]);
}

#[test]
fn answers_what_others_hang_on() {
    let mut peer = Peer::connected();
    for (name, answer) in
        [("_checkbw", vec![]), ("getStreamLength", vec![0.0.into()]), ("unheardOf", vec![])]
    {
        peer.send(&command(3, 0, name, 9.0, &[Value::Null]));
        let (id, values) = peer.replies().remove(0);
        assert_eq!(id, 0);
        assert_eq!(values[..3], ["_result".into(), 9.0.into(), Value::Null]);
        assert_eq!(values[3..], answer);
    }
    peer.send(&command(3, 0, "FCSubscribe", 0.0, &[Value::Null, "x".into()]));
    assert_eq!(peer.replies()[0].1[0], "onFCSubscribe".into());
    for number in [1.0, 2.0, 3.0] {
        peer.send(&command(3, 0, "createStream", number, &[Value::Null]));
        assert_eq!(peer.replies()[0].1[3], number.into());
    }
}

#[test]
fn a_second_publication_may_begin_before_the_first_ends() {
    let mut peer = Peer::published();
    peer.send(&command(3, 0, "createStream", 6.0, &[Value::Null]));
    peer.send(&publish(2, "next"));
    let events = peer.events();
    assert_eq!(events[0], Event::Unpublished);
    assert!(matches!(&events[1], Event::Request(request) if request.name == "next"));
    peer.session.accept();
    for bytes in [
        command(3, 0, "FCUnpublish", 6.0, &[Value::Null, "key".into()]),
        command(3, 0, "deleteStream", 7.0, &[Value::Null, 1.0.into()]),
        command(3, 1, "closeStream", 0.0, &[Value::Null]),
    ] {
        peer.send(&bytes);
    }
    assert_eq!(peer.events(), [], "those meant the first");
    peer.send(&command(3, 2, "closeStream", 0.0, &[Value::Null]));
    assert_eq!(peer.events(), [Event::Unpublished]);
}

#[test]
fn media_before_the_answer_is_held_within_bounds() {
    let mut peer = Peer::connected();
    peer.send(&publish(1, "key"));
    let frame = chunk(6, 0, 9, 1, &[&[0x17, 1][..], &[0; 100_000]].concat());
    peer.send(&frame);
    peer.send(&chunk(4, 0, 8, 1, &[0xaf, 1]));
    assert!(matches!(peer.events()[..], [Event::Request(_)]));
    peer.session.accept();
    assert_eq!(peer.events().len(), 2);

    let mut peer = Peer::connected();
    peer.send(&publish(1, "key"));
    peer.send(&frame);
    peer.send(&frame);
    let limit = 256 << 10;
    let result = peer.try_send(&frame);
    assert!(matches!(result, Err(Error::LimitExceeded { limit: l, .. }) if l == limit));
    assert!(matches!(peer.try_send(&[]), Err(Error::Misused(_))));
}

#[test]
fn rejections_have_the_codes_that_clients_know() {
    for (why, publish_code, play_code) in [
        (Rejection::Denied, "NetStream.Publish.Denied", "NetStream.Play.Failed"),
        (Rejection::Busy, "NetStream.Publish.BadName", "NetStream.Play.Failed"),
        (Rejection::Full, "NetStream.Publish.BadName", "NetStream.Play.Failed"),
        (Rejection::NotFound, "NetStream.Publish.Denied", "NetStream.Play.StreamNotFound"),
        (Rejection::Failed, "NetStream.Failed", "NetStream.Play.Failed"),
    ] {
        for (request, code) in [(publish(1, "key"), publish_code), (play(1), play_code)] {
            let mut peer = Peer::connected();
            peer.send(&request);
            peer.session.reject(why);
            assert_eq!(peer.codes(), codes(&[(1, code)]));
            peer.send(&request);
            assert_eq!(peer.events().len(), 1, "the rest is not heard");
            assert!(peer.input.is_empty());
        }
    }
}

#[test]
fn an_encoder_is_told_why_it_is_ended() {
    let mut peer = Peer::published();
    peer.session.end_publish("NetStream.Publish.BadName", "Taken over");
    let (id, values) = peer.replies().remove(0);
    assert_eq!(id, 1);
    assert_eq!(values[3].property("level"), Some(&"error".into()));
}

#[test]
fn starts_and_ends_a_player_in_order() {
    let mut peer = Peer::connected();
    peer.send(&command(3, 0, "createStream", 2.0, &[Value::Null]));
    peer.send(&command(8, 0, "getStreamLength", 3.0, &[Value::Null, "camera".into()]));
    peer.send(&play(1));
    peer.send(&chunk(2, 0, 4, 0, &[0, 3, 0, 0, 0, 1, 0, 0, 0x0b, 0xb8]));
    assert_eq!(peer.request().intent, Intent::Play);
    peer.messages();
    peer.session.accept();
    let messages = peer.messages();
    assert_eq!((messages[0].type_id, &messages[0].body[..]), (4, &[0, 0, 0, 0, 0, 1][..]));
    let statuses: Vec<_> = messages[1..3]
        .iter()
        .map(|m| amf0::decode(&m.body).unwrap()[3].property("code").unwrap().to_string())
        .collect();
    assert_eq!(statuses, ["NetStream.Play.Reset", "NetStream.Play.Start"]);
    assert_eq!(messages[3].type_id, 18);
    assert_eq!(messages[3].body, b"\x02\x00\x11|RtmpSampleAccess\x01\x01\x01\x01"[..]);
    assert!(messages[1..].iter().all(|m| m.message_stream_id == 1));

    peer.session.end_play();
    let messages = peer.messages();
    assert_eq!(messages.len(), 3);
    assert_eq!((messages[2].type_id, &messages[2].body[..]), (4, &[0, 1, 0, 0, 0, 1][..]));
}

#[test]
fn a_tag_for_a_player_is_one_header_and_a_shared_body() {
    let mut peer = Peer::played();
    let body = Bytes::from(vec![0x17; 70_000]);
    let frame = Tag::new(Track::Video, 99, body.clone());
    peer.session.send_tag(&frame, 0x0100_0000);
    let queue = peer.session.send_queue();
    let header = [6, 255, 255, 255, 1, 0x11, 0x70, 9, 1, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(queue.copy_to_bytes(16), header[..]);
    assert_eq!(queue.chunk().as_ptr(), body.as_ptr());
    assert_eq!(queue.chunk().len(), 60_000);
    queue.advance(60_000);
    assert_eq!(queue.copy_to_bytes(5), [0xc6, 1, 0, 0, 0][..]);
    assert_eq!(queue.chunk().as_ptr(), body[60_000..].as_ptr());
    queue.advance(10_000);
    assert!(queue.is_empty());
}

#[test]
fn a_player_pauses_gates_and_leaves() {
    let mut peer = Peer::played();
    for (name, value) in [("pause", true), ("receiveAudio", false), ("receiveVideo", true)] {
        peer.send(&command(8, 1, name, 0.0, &[Value::Null, value.into()]));
    }
    peer.send(&command(8, 1, "pause", 0.0, &[Value::Null, false.into()]));
    peer.send(&command(8, 1, "seek", 0.0, &[Value::Null, 5.0.into()]));
    peer.send(&command(8, 0, "deleteStream", 0.0, &[Value::Null, 1.0.into()]));
    assert_eq!(
        peer.events(),
        [
            Event::Paused(true),
            Event::ReceiveAudio(false),
            Event::ReceiveVideo(true),
            Event::Paused(false),
            Event::Stopped,
        ]
    );
    let expected = ["Pause.Notify", "Unpause.Notify", "Seek.Failed"];
    assert_eq!(peer.codes(), expected.map(|code| (1, format!("NetStream.{code}"))));
}

#[test]
fn acknowledges_at_half_the_window_and_counts_what_the_peer_did() {
    let mut peer = Peer::published();
    let frame = chunk(6, 0, 9, 1, &[0x27; 100_000]);
    let mut acknowledged = vec![];
    for _ in 0..30 {
        peer.send(&frame);
        let messages = peer.messages().into_iter().filter(|m| m.type_id == 3);
        acknowledged.extend(messages.map(|m| u32::from_be_bytes(m.body[..].try_into().unwrap())));
    }
    assert_eq!(acknowledged.len(), 2);
    assert!((1_250_000..1_360_000).contains(&acknowledged[0]));
    assert!((2_500_000..2_720_000).contains(&acknowledged[1]));

    peer.events();
    for number in [0x7000_0000_u32, 0xe000_0000, 5] {
        peer.send(&chunk(2, 0, 3, 0, &number.to_be_bytes()));
    }
    assert_eq!(peer.events(), [Event::Acknowledged((1 << 32) + 5)]);
}

#[test]
fn answers_pings_and_ignores_what_it_does_not_know() {
    let mut peer = Peer::connected();
    // Ping, on the wrong streams, as some cameras send it.
    peer.send(&chunk(6, 9, 4, 1, &[0, 6, 1, 2, 3, 4]));
    assert_eq!(peer.messages()[0].body, [0, 7, 1, 2, 3, 4][..]);
    for (type_id, body) in [
        (4, &[0, 31, 0, 0, 0, 0][..]),
        (4, &[0]),
        (3, &[1]),
        (19, b"x"),
        (16, b"x"),
        (99, b""),
        (20, b"\x02\x00\x08onStatus"),
    ] {
        peer.send(&chunk(3, 0, type_id, 0, body));
    }
    assert!(peer.messages().is_empty());
    assert_eq!(peer.events(), []);
    peer.session.ping(0x0102_0304);
    assert_eq!(peer.messages()[0].body, [0, 6, 1, 2, 3, 4][..]);
}

#[test]
fn tells_malformed_from_misbehaved_from_too_much() {
    let bad_command = chunk(3, 0, 20, 0, b"\x02\x00");
    assert!(matches!(Peer::connected().try_send(&bad_command), Err(Error::Amf(_))));
    let nameless = chunk(3, 0, 20, 0, b"\x05");
    assert!(matches!(Peer::connected().try_send(&nameless), Err(Error::Malformed(_))));
    let early = publish(1, "key");
    assert!(matches!(Peer::new().try_send(&early), Err(Error::Misbehaved(_))));
    let again = publish(1, "key").repeat(9);
    assert!(matches!(Peer::connected().try_send(&again), Err(Error::LimitExceeded { .. })));
    let deep = chunk(3, 0, 20, 0, &b"\x0a\x00\x00\x00\x01".repeat(10_000));
    assert!(matches!(Peer::new().try_send(&deep), Err(Error::Amf(amf0::Error::TooDeep))));
    let asking = command(3, 0, "getStreamLength", 1.0, &[Value::Null]).repeat(5000);
    assert!(matches!(Peer::connected().try_send(&asking), Err(Error::LimitExceeded { .. })));
}

#[test]
fn commands_may_come_as_amf3_and_in_small_chunks() {
    let mut peer = Peer::connected();
    let mut body = vec![0];
    body.extend(support::command_body("publish", 5.0, &[Value::Null]));
    // The name as an AMF3 string.
    body.extend(b"\x11\x06\x07key");
    peer.send(&cut(3, 0, 17, 1, &body, 128));
    assert_eq!(peer.request().name, "key");
}

#[test]
fn counts_what_the_client_sends() {
    let mut peer = Peer::published();
    let (messages, commands) = (peer.session.messages(), peer.session.commands());
    assert_eq!(commands, 3, "connect, createStream, publish");
    // An acknowledgement, an abort, a frame, a command, and an aggregate of three.
    peer.send(&chunk(2, 0, 3, 0, &[0, 0, 0, 9]));
    peer.send(&chunk(2, 0, 2, 0, &[0, 0, 0, 9]));
    peer.send(&chunk(6, 0, 9, 1, &[0x27, 1]));
    peer.send(&command(3, 0, "nonsense", 0.0, &[Value::Null]));
    let part = [8, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xaf, 0, 0, 0, 12];
    peer.send(&chunk(6, 0, 22, 1, &part.repeat(3)));
    assert_eq!(peer.session.messages() - messages, 5 + 3);
    assert_eq!(peer.session.commands() - commands, 1);
}

/// A client that finished the handshake with a server that knows users.
fn stranger() -> Peer {
    let mut peer = Peer::new();
    let config = Config { adobe: true, ..Config::default() };
    peer.session = Server::new(config, [7; 32]);
    peer.send(&support::c0c1c2());
    peer.take_output();
    peer.output.clear();
    peer
}

#[test]
fn a_user_is_asked_before_anything_else_is_heard() {
    let refused = |app: &str, why: &Refusal<'_>| {
        let mut peer = stranger();
        peer.send(&support::connect(app));
        let Some(Event::Authenticate(claim)) = peer.session.poll_event() else {
            panic!("nobody asks {app}")
        };
        assert_eq!(peer.messages(), [], "nothing is said before the answer");
        peer.session.refuse(why);
        let replies = peer.replies();
        let [(0, values)] = &replies[..] else { panic!("{replies:?}") };
        assert_eq!(values[..3], ["_error".into(), 1.0.into(), Value::Null]);
        let text = |name| values[3].property(name).and_then(Value::as_str).unwrap().to_owned();
        assert_eq!(text("code"), "NetConnection.Connect.Rejected");
        assert_eq!(text("level"), "error");
        // What it still says is not heard.
        peer.send(&command(3, 0, "createStream", 2.0, &[Value::Null]));
        assert_eq!(peer.replies(), []);
        (claim, text("description"))
    };
    let (claim, text) = refused("auth", &Refusal::NeedUser);
    assert_eq!(claim, Claim::Nothing);
    assert_eq!(text, "[ AccessManager.Reject ] : [ code=403 need auth; authmod=adobe ] : ");
    let proof = Refusal::NeedProof { user: "me", salt: "S", challenge: "C" };
    let (claim, text) = refused("auth?authmod=adobe&user=me", &proof);
    assert_eq!(claim, Claim::User("me".into()));
    let expected = "[ AccessManager.Reject ] : [ authmod=adobe ] : \
                    ?reason=needauth&user=me&salt=S&challenge=C&opaque=C";
    assert_eq!(text, expected);
}

#[test]
fn a_user_who_is_let_in_may_have_said_more_already() {
    let mut peer = stranger();
    let mut bytes = support::connect("live?authmod=adobe&user=me&challenge=1&response=2&opaque=3");
    bytes.extend(command(3, 0, "createStream", 2.0, &[Value::Null]));
    bytes.extend(command(3, 1, "publish", 3.0, &[Value::Null, "camera".into()]));
    peer.send(&bytes);
    assert!(matches!(
        peer.session.poll_event(),
        Some(Event::Authenticate(Claim::Answer(answer))) if answer.user == "me"
    ));
    assert_eq!(peer.session.poll_event(), None);
    peer.session.admit("me".into());
    peer.send(&[]);
    let Some(Event::Request(request)) = peer.session.poll_event() else { panic!("no request") };
    assert_eq!(request.user.as_deref(), Some("me"));
    assert_eq!(peer.replies().len(), 2, "answers to connect and createStream");
}

#[test]
fn users_are_a_name_like_any_other_to_a_server_without_them() {
    let mut peer = Peer::new();
    peer.send(&support::connect("auth?authmod=adobe&user=me"));
    assert_eq!(peer.session.poll_event(), None);
    assert_eq!(peer.replies().len(), 1);
}
