//! A client session against byte-exact servers, and against our own.

mod support;

use bytes::{Buf, Bytes, BytesMut};
use media::{Role, Tag, Track};
use rtmp::amf0::{self, Value};
use rtmp::capabilities::{Capabilities, CapsEx};
use rtmp::chunk::{Phase, Reader};
use rtmp::session::client::{Config, Event};
use rtmp::session::{Client, Intent, Rejection, Server, server};
use rtmp::{Limits, name};
use support::{chunk, command};

fn config(intent: Intent) -> Config {
    let url: name::Url = "rtmp://host:1936/live/key?x=1".parse().unwrap();
    Config::new(intent, url)
}

/// A hand-written server around a session.
struct Peer {
    session: Client,
    reader: Reader,
}

impl Peer {
    /// A server that finished the handshake.
    fn new(intent: Intent) -> Self {
        Self::with(config(intent))
    }

    fn with(config: Config) -> Self {
        let mut session = Client::new(config, [9; 32]);
        let c0c1 = session.send_queue().copy_to_bytes(1537);
        assert_eq!(c0c1[..1], [3]);
        assert_eq!(c0c1[5..9], [0; 4]);
        assert!(session.send_queue().is_empty());
        let mut s0s1s2 = vec![3];
        s0s1s2.extend([0x5a; 1536]);
        s0s1s2.extend(&c0c1[1..]);
        session.handle_input(&mut BytesMut::from(&s0s1s2[..])).unwrap();
        let c2 = session.send_queue().copy_to_bytes(1536);
        assert_eq!(c2, [0x5a; 1536][..], "an exact echo of S1");
        let mut reader = Reader::new(Limits::default());
        reader.set_phase(Phase::Authorised);
        Self { session, reader }
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut input = BytesMut::from(bytes);
        self.session.handle_input(&mut input).unwrap();
        assert!(input.is_empty());
    }

    /// The commands that the client sent: message stream id and values.
    fn commands(&mut self) -> Vec<(u32, Vec<Value>)> {
        let queue = self.session.send_queue();
        let count = queue.remaining();
        let mut bytes = BytesMut::from(&queue.copy_to_bytes(count)[..]);
        let mut commands = vec![];
        while let Some(message) = self.reader.read(&mut bytes).unwrap() {
            if message.type_id == 20 {
                let values = amf0::decode(&message.body).unwrap();
                commands.push((message.message_stream_id, values));
            }
        }
        commands
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    /// Answers `connect` and `createStream`; the request is the last command sent.
    fn requested(intent: Intent) -> Self {
        let mut peer = Self::new(intent);
        let (_, connect) = peer.commands().remove(0);
        assert_eq!(connect[..2], ["connect".into(), 1.0.into()]);
        assert_eq!(connect[2].property("app"), Some(&"live".into()));
        assert_eq!(connect[2].property("tcUrl"), Some(&"rtmp://host:1936/live".into()));
        peer.send(&result(1.0, &[Value::object([]), Value::object([])]));
        let (_, create) = peer.commands().pop().unwrap();
        assert_eq!(create[0], "createStream".into());
        peer.send(&result(create[1].as_number().unwrap(), &[Value::Null, 3.0.into()]));
        peer
    }
}

fn result(transaction: f64, arguments: &[Value]) -> Vec<u8> {
    command(3, 0, "_result", transaction, arguments)
}

fn status(level: &str, code: &str) -> Vec<u8> {
    let information = Value::object([("level", level.into()), ("code", code.into())]);
    command(5, 3, "onStatus", 0.0, &[Value::Null, information])
}

#[test]
fn publishes() {
    let mut peer = Peer::requested(Intent::Publish);
    let (id, publish) = peer.commands().remove(0);
    assert_eq!((id, publish[0].as_str()), (3, Some("publish")));
    assert_eq!(publish[3..], ["key?x=1".into(), "live".into()]);
    peer.session.send_tag(&Tag::new(Track::Audio, 0, Bytes::from_static(&[0xaf, 0])));
    assert!(peer.session.send_queue().is_empty(), "nothing before the answer");
    peer.send(&status("status", "NetStream.Publish.Start").repeat(2));
    assert_eq!(peer.events(), [Event::Ready]);

    let tags = [
        Tag::new(Track::Data, 0, Bytes::from_static(b"\x02\x00\x0aonMetaData\x05")),
        Tag::new(Track::Audio, 5, Bytes::from_static(&[0xaf, 0])),
    ];
    tags.iter().for_each(|tag| peer.session.send_tag(tag));
    let queue = peer.session.send_queue();
    let count = queue.remaining();
    let sent = queue.copy_to_bytes(count);
    let expected = [
        &[5, 0, 0, 0, 0, 0, 30, 18, 3, 0, 0, 0][..],
        b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData\x05",
        &[4, 0, 0, 5, 0, 0, 2, 8, 3, 0, 0, 0, 0xaf, 0],
    ];
    assert_eq!(sent, expected.concat());

    peer.session.close();
    let commands = peer.commands();
    let names: Vec<_> = commands.iter().map(|(_, v)| v[0].as_str().unwrap()).collect();
    assert_eq!(names, ["FCUnpublish", "deleteStream"]);
    assert_eq!(commands[1].1[3], 3.0.into());
    peer.session.close();
    assert!(peer.session.send_queue().is_empty());
}

#[test]
fn plays_until_the_end() {
    for end in [
        status("status", "NetStream.Play.UnpublishNotify"),
        status("status", "NetStream.Play.Stop"),
        chunk(2, 0, 4, 0, &[0, 1, 0, 0, 0, 3]),
    ] {
        let mut peer = Peer::requested(Intent::Play);
        assert_eq!(peer.commands()[0].1[3], "key?x=1".into());
        peer.send(&chunk(6, 0, 9, 3, &[0x17, 0, 0, 0, 0, 1]));
        peer.send(&status("status", "NetStream.Play.Reset"));
        peer.send(&status("status", "NetStream.Play.Start"));
        peer.send(&chunk(5, 0, 18, 3, b"\x02\x00\x11|RtmpSampleAccess\x01\x01\x01\x01"));
        peer.send(&chunk(6, 7, 9, 3, &[0x17, 0, 0, 0, 0, 1]));
        peer.send(&[end.clone(), end].concat());
        let events = peer.events();
        assert_eq!(events.len(), 3, "{events:?}");
        assert!(matches!(&events[1], Event::Tag(tag) if tag.timestamp == 7));
        assert_eq!(events[2], Event::Ended);
    }
}

#[test]
fn hears_a_no_at_every_step() {
    let refused =
        |code: &str| Event::Rejected { code: code.to_owned(), description: String::new() };
    let information = Value::object([("code", "NetConnection.Connect.Rejected".into())]);
    let error = command(3, 0, "_error", 1.0, &[Value::Null, information]);
    let mut peer = Peer::new(Intent::Publish);
    peer.send(&error);
    assert_eq!(peer.events(), [refused("NetConnection.Connect.Rejected")]);

    let mut peer = Peer::new(Intent::Publish);
    peer.send(&result(1.0, &[Value::Null, Value::Null]));
    peer.send(&result(4.0, &[Value::Null, Value::Null]));
    assert!(matches!(peer.events()[..], [Event::Rejected { .. }]));

    let mut peer = Peer::requested(Intent::Play);
    peer.send(&status("error", "NetStream.Play.StreamNotFound"));
    assert_eq!(peer.events(), [refused("NetStream.Play.StreamNotFound")]);
}

/// Moves bytes between a client and a server until neither has any, `step` bytes at a time.
fn run(client: &mut Client, server: &mut Server, step: usize) {
    let (mut to_client, mut to_server) = (BytesMut::new(), BytesMut::new());
    let take = |queue: &mut rtmp::SendQueue, bytes: &mut BytesMut| {
        let count = queue.remaining().min(step);
        bytes.extend_from_slice(&queue.copy_to_bytes(count));
        count > 0
    };
    loop {
        let up = take(client.send_queue(), &mut to_server);
        server.handle_input(&mut to_server).unwrap();
        let down = take(server.send_queue(), &mut to_client);
        client.handle_input(&mut to_client).unwrap();
        if !(up || down) {
            return;
        }
    }
}

#[test]
fn carries_tags_to_and_from_our_own_server() {
    let tags: Vec<_> = (0..40_u8)
        .map(|i| {
            let (track, first) = [(Track::Video, 0x27), (Track::Audio, 0xaf)][usize::from(i % 2)];
            let body = [&[first, 1][..], &vec![i; usize::from(i) * 5000]].concat();
            // Across the extended timestamp and the sign bit.
            let time = [0xff_fff0, 0x7fff_fff0][usize::from(i / 20)] + i64::from(i % 20) * 3;
            Tag::new(track, time, body.into())
        })
        .collect();
    for step in [1000, 1 << 20] {
        let mut client = Client::new(config(Intent::Publish), [1; 32]);
        let mut server = Server::new(server::Config::default(), [2; 32]);
        run(&mut client, &mut server, step);
        server.accept();
        run(&mut client, &mut server, step);
        tags.iter().for_each(|tag| client.send_tag(tag));
        client.close();
        run(&mut client, &mut server, step);
        let events: Vec<_> = std::iter::from_fn(|| server.poll_event()).collect();
        assert!(matches!(events[0], server::Event::Request(_)));
        assert_eq!(events.last(), Some(&server::Event::Unpublished));
        let received = events.into_iter().filter_map(|event| match event {
            server::Event::Tag(tag) => Some(tag),
            _ => None,
        });
        assert!(received.eq(tags.iter().cloned()));

        let mut client = Client::new(config(Intent::Play), [1; 32]);
        let mut server = Server::new(server::Config::default(), [2; 32]);
        run(&mut client, &mut server, step);
        server.accept();
        tags.iter().for_each(|tag| server.send_tag(tag, tag.wire_timestamp()));
        server.end_play();
        run(&mut client, &mut server, step);
        let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
        assert_eq!(events.len(), 42);
        assert!(events[1..41].iter().zip(&tags).all(|(e, t)| *e == Event::Tag(t.clone())));
        assert!(tags.iter().all(|tag| tag.role != Role::Metadata));
    }
}

#[test]
fn is_refused_by_our_own_server() {
    let mut client = Client::new(config(Intent::Publish), [1; 32]);
    let mut server = Server::new(server::Config::default(), [2; 32]);
    run(&mut client, &mut server, 1 << 20);
    server.reject(Rejection::Denied);
    run(&mut client, &mut server, 1 << 20);
    let event = client.poll_event();
    assert!(matches!(event, Some(Event::Rejected { code, .. }) if code.ends_with("Denied")));
}

#[test]
fn hears_a_request_to_reconnect_if_it_can_follow() {
    for can in [true, false] {
        let mut config = config(Intent::Publish);
        if can {
            config.capabilities = Capabilities::forwarder(CapsEx::RECONNECT);
        }
        let mut peer = Peer::with(config);
        let (_, connect) = peer.commands().remove(0);
        assert_eq!(connect[2].property("capsEx"), Some(&if can { 1.0 } else { 14.0 }.into()));
        let code = "NetConnection.Connect.ReconnectRequest";
        for tc_url in [Value::Undefined, "/new".into(), "http://host/new".into()] {
            let properties = [("level", "status".into()), ("code", code.into()), ("tcUrl", tc_url)];
            let information = Value::object(properties);
            peer.send(&command(3, 0, "onStatus", 0.0, &[Value::Null, information]));
        }
        let told = |url: &str| Event::ReconnectRequested(url.parse().unwrap());
        let expected =
            [told("rtmp://host:1936/live/key?x=1"), told("rtmp://host:1936/new/key?x=1")];
        assert_eq!(peer.events(), expected[..if can { 2 } else { 0 }]);
    }
}
