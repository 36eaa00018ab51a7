//! The examples of docs/backhaul-protocol.md are what the crate says and understands.

use std::time::Duration;

use backhaul::{
    Announce, Answered, Datagram, Ended, Event, FeedKey, Hello, Load, Login, Message, Ranges,
    Received, Report, Session, Skip, Stalls, Subscribe, VERSION, Want, Welcome,
};
use bytes::Bytes;
use media::{PublicationId, Track, TrackSet};

const DOCUMENT: &str = include_str!("../../../docs/backhaul-protocol.md");
const PUBLICATION: PublicationId = PublicationId([0x22; 16]);

/// The bytes below the line that begins with `title`.
fn documented(title: &str) -> Vec<u8> {
    let examples = &DOCUMENT[DOCUMENT.find("Example\n").expect("there are examples")..];
    let mut lines = examples.lines().skip_while(|line| !line.trim().starts_with(title));
    let title = lines.next().unwrap_or_else(|| panic!("no example {title:?}"));
    assert!(title.starts_with("    "), "{title}");
    let bytes = lines.map(str::trim).take_while(|line| !line.is_empty());
    let bytes: Vec<_> = bytes.flat_map(str::split_whitespace).collect();
    bytes.into_iter().map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect()
}

fn tracks(audio: Option<u64>, video: Option<u64>, data: Option<u64>) -> TrackSet<Option<u64>> {
    let mut tracks = TrackSet::default();
    (tracks[Track::Audio], tracks[Track::Video], tracks[Track::Data]) = (audio, video, data);
    tracks
}

fn hello() -> Hello {
    Hello {
        versions: vec![VERSION],
        instance: [0x11; 16],
        agent: "firstmile 0.1.0".into(),
        name: "studio".into(),
        invite: String::new(),
    }
}

fn welcome() -> Welcome {
    let agent = "firstmile 0.1.0".into();
    Welcome {
        version: 1,
        agent,
        host: String::new(),
        rtmp_port: 1935,
        rtmps_port: None,
        region: String::new(),
        measures: false,
    }
}

/// What an open session writes for `message`.
fn said(message: &Message) -> Bytes {
    let mut session = Session::accept();
    let mut dialer = Session::dial(hello());
    session.handle_input(&dialer.take_output());
    assert!(matches!(session.poll_event(), Ok(Some(Event::Hello(_)))));
    session.welcome(welcome());
    session.take_output();
    session.send(message);
    session.take_output()
}

#[test]
fn the_opening() {
    assert_eq!(Session::dial(hello()).take_output(), documented("Hello:"));
    let mut session = Session::accept();
    session.handle_input(&documented("Hello:"));
    assert_eq!(session.poll_event(), Ok(Some(Event::Hello(hello()))));
    session.welcome(welcome());
    assert_eq!(session.take_output(), documented("Welcome:"));
}

#[test]
fn the_messages() {
    let hash = [
        0xb6, 0xad, 0x1c, 0xd9, 0xd9, 0x1c, 0x2d, 0x7c, 0x7c, 0x6b, 0xf6, 0x97, 0xbe, 0xfa, 0x92,
        0x6e, 0x31, 0x38, 0x2a, 0xb0, 0xc1, 0x47, 0x26, 0x52, 0x5c, 0x6d, 0x25, 0xf9, 0x4b, 0x1c,
        0xc1, 0xf7,
    ];
    let feed = || "camera".to_owned();
    let login = Login { feed: feed(), user: "camera-7K2M9Q4X".into(), verifier: [0x33; 16] };
    let subscribe = Subscribe {
        subscription: 1,
        feed: feed(),
        publication: PUBLICATION,
        released: TrackSet::default(),
        received: Ranges::default(),
        budget: None,
    };
    let again = Subscribe {
        released: tracks(Some(100), Some(99), None),
        received: [(105, 106)].into_iter().collect(),
        budget: Some(Duration::from_millis(500)),
        ..subscribe.clone()
    };
    let messages = [
        ("Feeds:", Message::Feeds(vec![FeedKey { name: feed(), hash, left: None }])),
        (
            "the same, good for 5 s more:",
            Message::Feeds(vec![FeedKey {
                name: feed(),
                hash,
                left: Some(Duration::from_secs(5)),
            }]),
        ),
        ("Logins:", Message::Logins(vec![login])),
        (
            "Announce:",
            Message::Announce(Announce {
                feed: feed(),
                publication: PUBLICATION,
                age: Duration::ZERO,
            }),
        ),
        ("Subscribe:", Message::Subscribe(subscribe)),
        ("the same after a lost link:", Message::Subscribe(again)),
        (
            "Skip:",
            Message::Skip(Skip { subscription: 1, track: Track::Video, from: None, to: 298 }),
        ),
        (
            "Report:",
            Message::Report(Report {
                subscription: 1,
                encoder_growth_ms: -3,
                skipped: 0,
                stalls: Some(Stalls { count: 12, longest_ms: 400 }),
            }),
        ),
        ("Load:", Message::Load(Load { percent: 35 })),
        (
            "Ended:",
            Message::Ended(Ended {
                publication: PUBLICATION,
                edges: tracks(Some(301), Some(300), Some(0)),
                is_stopped: true,
            }),
        ),
        (
            "Want:",
            Message::Want(Want {
                request: 2,
                feed: feed(),
                publication: PUBLICATION,
                ranges: [(101, 104)].into_iter().collect(),
            }),
        ),
        (
            "Answered:",
            Message::Answered(Answered {
                request: 2,
                tags: 3,
                gone: [(101, 101)].into_iter().collect(),
            }),
        ),
    ];
    for (title, message) in messages {
        let expected: String =
            documented(title).iter().map(|byte| format!("{byte:02x} ")).collect();
        let is: String = said(&message).iter().map(|byte| format!("{byte:02x} ")).collect();
        assert_eq!(is, expected, "{title}");
    }
}

#[test]
fn the_datagrams() {
    let ranges = [(0, 4), (7, 8), (300, 300)].into_iter().collect();
    let received = Datagram::Received(Received { subscription: 1, ranges });
    assert_eq!(received.encode(), documented("Received (a datagram):"));
    let heartbeat = Datagram::Heartbeat(1_500_000);
    assert_eq!(heartbeat.encode(), documented("Heartbeat (a datagram):"));
}
