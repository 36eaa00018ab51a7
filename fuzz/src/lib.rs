//! What the fuzz targets do with their bytes: each calls what ships and says what must hold.
//!
//! `./check` runs the corpora through the same functions, without a fuzzer.

use std::time::{Duration, Instant};

use backhaul::mux::{Mux, Read};
use backhaul::{Datagram, Hello, Role, Session, StreamHeader, TagHeader, VERSION};
use bytes::{Buf, Bytes, BytesMut};
use media::enhanced::{Form, TrackIds, fit};
use media::{Tag, Track};
use rtmp::amf0;
use rtmp::chunk::{Message, Phase, Reader};
use rtmp::name::{self, Target, Url};
use rtmp::session::{Intent, Rejection, client, server};
use rtmp::{Client, Limits, SendQueue, Server, adobe, handshake, metadata};

/// A target and its name, which is that of its corpus too.
pub type Named = (&'static str, fn(&[u8]));

/// Every target.
pub const ALL: [Named; 10] = [
    ("handshake", handshake),
    ("chunk_reader", chunk_reader),
    ("amf0", amf0),
    ("amf3", amf3),
    ("tag", tag),
    ("name", name),
    ("server", server),
    ("client", client),
    ("backhaul", backhaul),
    ("mux", mux),
];

/// Both sides of the handshake; the first byte says how the rest is cut.
pub fn handshake(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let size = 1 + usize::from(cut) * 8;
    let mut out = SendQueue::default();
    let mut server = handshake::Server::new([7; 32]);
    let mut client = handshake::Client::new([7; 32], &mut out);
    let (mut from_client, mut from_server) = (BytesMut::new(), BytesMut::new());
    for piece in bytes.chunks(size) {
        from_client.extend_from_slice(piece);
        if !matches!(server.handle_input(&mut from_client, &mut out), Ok(false)) {
            break;
        }
    }
    for piece in bytes.chunks(size) {
        from_server.extend_from_slice(piece);
        if !matches!(client.handle_input(&mut from_server, &mut out), Ok(false)) {
            break;
        }
    }
    // C0 C1 C2 and S0 S1 S2 at most.
    assert!(out.remaining() <= 2 * (1 + 2 * handshake::PACKET_LENGTH));
}

/// The chunk reader gives the same messages however the bytes are cut.
pub fn chunk_reader(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let whole = messages(std::iter::once(bytes));
    assert_eq!(whole, messages(bytes.chunks(1 + usize::from(cut))));
}

fn messages<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Message>, bool) {
    let mut reader = Reader::new(Limits::default());
    reader.set_phase(Phase::Authorised);
    let (mut input, mut read) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match reader.read(&mut input) {
                Ok(Some(message)) => read.push(message),
                Ok(None) => break,
                Err(_) => return (read, false),
            }
        }
    }
    (read, true)
}

/// What decodes, encodes to what decodes to the same.
pub fn amf0(bytes: &[u8]) {
    let _ = metadata::parse(bytes);
    let Ok(values) = amf0::decode(bytes) else { return };
    let mut again = BytesMut::new();
    values.iter().for_each(|value| value.encode(&mut again));
    if let Ok(decoded) = amf0::decode(&again) {
        // As text: NaN is not equal to itself.
        assert_eq!(format!("{decoded:?}"), format!("{values:?}"));
    }
}

/// AMF3, which stands behind a marker of AMF0 (AMF 3 §4.1).
pub fn amf3(bytes: &[u8]) {
    let marked = [&[0x11], bytes].concat();
    let _ = amf0::decode(&marked);
    // As values of one message: they share no reference tables.
    let twice = [&marked[..], &marked].concat();
    if let (Ok(one), Ok(two)) = (amf0::decode(&marked), amf0::decode(&twice)) {
        assert!(two.len() >= one.len());
    }
}

/// Whatever an encoder calls media.
pub fn tag(bytes: &[u8]) {
    for track in Track::ALL {
        let tag = Tag::new(track, 0, Bytes::copy_from_slice(bytes));
        assert_eq!(tag.body, bytes, "forwarded bit for bit");
        let _ = (media::video::resolution(&tag), TrackIds::of(&tag));
        for form in [Form::ANY, Form::PLAIN] {
            let _ = fit(&tag, form, |_| true);
        }
        if media::video::composition_time(&tag).is_some() {
            let moved = media::video::with_composition_time(&tag, -40);
            assert_eq!(media::video::composition_time(&moved), Some(-40));
            assert_eq!((moved.role, moved.codec), (tag.role, tag.codec));
        }
    }
    if let Ok(reader) = media::flv::Reader::new(Bytes::copy_from_slice(bytes)) {
        reader.take_while(Result::is_ok).for_each(drop);
    }
}

/// URLs and stream names; the first line is the app, the rest the stream name.
pub fn name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(url) = text.parse::<Url>() {
        let shown = url.to_string();
        assert_eq!(shown.parse::<Url>().map(|url| url.to_string()), Ok(shown));
    }
    let (app, stream) = text.split_once('\n').unwrap_or(("", &text));
    if let Ok(target) = Target::new(app, stream) {
        assert!(!target.path.contains("..") || !target.path.split('/').any(|part| part == ".."));
        assert!(!target.path.chars().any(char::is_control));
    }
    let keys = name::keys(app, stream, &text);
    assert!(keys.len() <= 16, "each is looked up");
    let _ = (adobe::Claim::of(app, &text), adobe::reply(&text, "user", "password", "challenge"));
}

/// A server session behind its handshake; the first byte says how it answers and cuts.
pub fn server(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let mut server = Server::new(server::Config::default(), [7; 32]);
    let mut input = after_handshake();
    let size = if choice & 1 == 0 { usize::MAX } else { 1 + usize::from(choice) };
    for piece in bytes.chunks(size) {
        input.extend_from_slice(piece);
        // Again after it was admitted: what came behind its `connect` is still there.
        while hear(&mut server, &mut input, choice & 2 == 0) {}
        if choice & 4 != 0 {
            let sent = server.send_queue().remaining();
            server.send_queue().advance(sent);
        }
    }
    server.end_play();
    server.end_publish("NetStream.Publish.BadName", "over");
    assert!(server.send_queue().remaining() < 8 << 20, "answers are bounded");
}

/// Hands a server what came, and answers; whether it is to be handed in once more.
fn hear(server: &mut Server, input: &mut BytesMut, is_welcome: bool) -> bool {
    let _ = server.handle_input(input);
    let mut was_admitted = false;
    while let Some(event) = server.poll_event() {
        match (event, is_welcome) {
            (server::Event::Authenticate(_), true) => {
                server.admit("user".to_owned());
                was_admitted = true;
            }
            (server::Event::Authenticate(claim), false) => {
                let verifier = adobe::verifier("user", "salt", "password");
                let refusal = match &claim {
                    adobe::Claim::User(user) => {
                        adobe::Refusal::NeedProof { user, salt: "salt", challenge: "challenge" }
                    }
                    adobe::Claim::Answer(answer) if answer.matches(&verifier) => return false,
                    adobe::Claim::Answer(_) => adobe::Refusal::Failed,
                    _ => adobe::Refusal::NeedUser,
                };
                server.refuse(&refusal);
            }
            (server::Event::Request(_), true) => server.accept(),
            (server::Event::Request(_), false) => server.reject(Rejection::Denied),
            _ => {}
        }
        let frame = Bytes::from_static(b"\x17\x01\0\0\0\0\0\0\x01\x65");
        server.send_tag(&Tag::new(Track::Video, 0, frame), 0);
    }
    was_admitted
}

/// A client session behind its handshake; the first byte says what it came for and cuts.
pub fn client(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let intent = if choice & 1 == 0 { Intent::Play } else { Intent::Publish };
    let url = "rtmp://relay.example/live/camera".parse().expect("a good URL");
    let mut client = Client::new(client::Config::new(intent, url), [7; 32]);
    let mut input = after_handshake();
    for piece in bytes.chunks(1 + usize::from(choice) * 16) {
        input.extend_from_slice(piece);
        let is_over = client.handle_input(&mut input).is_err();
        while let Some(event) = client.poll_event() {
            if event == client::Event::Ready {
                client.send_tag(&Tag::new(Track::Audio, 0, Bytes::from_static(b"\xaf\x01!")));
            }
        }
        if is_over {
            break;
        }
    }
    client.close();
    assert!(client.send_queue().remaining() < 8 << 20, "answers are bounded");
}

/// A peer's part of a plain handshake: the version, a packet, and an echo that nobody looks at.
fn after_handshake() -> BytesMut {
    let mut input = BytesMut::from(&[3][..]);
    input.resize(1 + 2 * handshake::PACKET_LENGTH, 0);
    input
}

/// Both ends of the backhaul's control stream, tag streams and reports.
pub fn backhaul(bytes: &[u8]) {
    let hello = Hello {
        versions: vec![VERSION],
        instance: [0; 16],
        agent: String::new(),
        name: String::new(),
        invite: String::new(),
    };
    for mut session in [Session::accept(), Session::dial(hello)] {
        session.handle_input(bytes);
        while let Ok(Some(_)) = session.poll_event() {}
    }
    let mut stream = BytesMut::from(bytes);
    let _ = StreamHeader::decode(&mut stream);
    while let Ok(Some(_)) = TagHeader::decode(&mut stream) {}
    let _ = Datagram::decode(Bytes::copy_from_slice(bytes));
}

/// Both ends of a link over TCP, behind its handshake; the first byte says how the rest is cut.
pub fn mux(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let now = Instant::now();
    for role in [Role::Dialer, Role::Acceptor] {
        let mut mux = Mux::new(role, now);
        let own = mux.open(1);
        let _ = own.map(|own| mux.write(own, &mut [Bytes::from_static(&[7; 1_000])], now));
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        let mut streams = Vec::new();
        for (turn, piece) in bytes.chunks(1 + usize::from(cut) * 8).enumerate() {
            input.extend_from_slice(piece);
            let is_over = mux.handle_input(&mut input, now).is_err();
            while mux.poll_event().is_some() {}
            streams.extend(std::iter::from_fn(|| mux.accept()));
            assert!(streams.len() <= 1_024 + bytes.len(), "streams are bounded");
            if turn % 2 == 0 {
                streams.retain(|stream| match mux.read(*stream, 100) {
                    Read::Finished | Read::Reset => {
                        mux.stop(*stream);
                        false
                    }
                    _ => true,
                });
                let _ = mux.read_datagram();
            }
            mux.poll_transmit(now + Duration::from_millis(turn as u64), &mut output, 16 << 10);
            if is_over {
                break;
            }
            assert!(input.len() < (16 << 10) + 32, "what is whole was taken");
        }
        assert!(output.len() < 4_096 + 64 * bytes.len(), "answers are bounded");
    }
}
