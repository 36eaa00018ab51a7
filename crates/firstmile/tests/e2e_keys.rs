//! Keys at the doors of the real binary: where they may stand, what they are good for, and that
//! nobody learns from a refusal.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use bytes::BytesMut;
use clap::Parser;
use firstmile::cli::{Cli, Command};
use firstmile::config::studio::Config;
use firstmile::door::Gate;
use firstmile::studio::Studio;
use rtmp::amf0::Value;
use rtmp::session::{Rejection, Request, Server, server};
use testkit::{Node, PATIENCE, tempdir, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// The handshake's answer: S0, S1 and S2, mostly random.
const HANDSHAKE: usize = 1 + 2 * 1536;

fn chunks(stream: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![3, 0, 0, 0];
    bytes.extend(&(body.len() as u32).to_be_bytes()[1..]);
    bytes.extend([20, stream, 0, 0, 0]);
    for (number, part) in body.chunks(128).enumerate() {
        if number > 0 {
            bytes.push(0xc3);
        }
        bytes.extend(part);
    }
    bytes
}

fn command(stream: u8, name: &str, transaction: f64, arguments: &[Value]) -> Vec<u8> {
    let mut body = BytesMut::new();
    Value::from(name).encode(&mut body);
    Value::from(transaction).encode(&mut body);
    arguments.iter().for_each(|value| value.encode(&mut body));
    chunks(stream, &body)
}

/// What a client sends that connects and asks for something, all at once.
fn conversation(verb: &str, app: &str, name: &str, tc_url: &str) -> Vec<u8> {
    let mut bytes = vec![3];
    bytes.extend([0; 2 * 1536]);
    let object = Value::object([("app", app.into()), ("tcUrl", tc_url.into())]);
    bytes.extend(command(0, "connect", 1.0, &[object]));
    bytes.extend(command(0, "createStream", 2.0, &[Value::Null]));
    bytes.extend(command(1, verb, 3.0, &[Value::Null, name.into()]));
    bytes
}

/// Everything that a server answers after the handshake, until it closes or lets the client in.
fn ask(address: SocketAddr, verb: &str, app: &str, name: &str, tc_url: &str) -> Vec<u8> {
    let bytes = conversation(verb, app, name, tc_url);
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(&bytes).unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !contains(&answer, ".Start") {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend(&buffer[..count]),
            // It closed before it read all that was sent.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("no answer to {verb} {app} {name}: {error}"),
        }
    }
    assert!(answer.len() > HANDSHAKE, "no answer to {verb} {app} {name}");
    answer.split_off(HANDSHAKE)
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The answers to attempts to publish under these names, made all at once.
fn publish_all(address: SocketAddr, names: &[String]) -> Vec<Vec<u8>> {
    thread::scope(|scope| {
        let publish = |name| scope.spawn(move || ask(address, "publish", "live", name, ""));
        let asked: Vec<_> = names.iter().map(String::as_str).map(publish).collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    })
}

/// A relay that knows its studio's keys, and soon refuses others.
fn relay_and_studio() -> (Node, Node) {
    let relay = Node::relay(FIRSTMILE).config("start_grace = \"1s\"").start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    (relay, studio)
}

/// What a player on the LAN types after `key=`.
fn play_key(studio: &Node) -> String {
    let text = std::fs::read_to_string(studio.data().join("play.toml")).unwrap();
    text.split('"').nth(1).expect("a key in quotes").to_owned()
}

#[test]
fn a_key_opens_both_doors_wherever_it_stands() {
    let (relay, studio) = relay_and_studio();
    let key = studio.key("camera");
    let secret = key.rsplit_once('-').unwrap().1.to_lowercase();
    let escaped: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for (app, name, tc_url) in [
        ("live", "KEY", "rtmp://host/live"),
        ("live", "secret", "rtmp://host/live"),
        ("", "KEY", "rtmp://host"),
        ("any/depth/of/app", "KEY", "rtmp://host/any/depth/of/app"),
        ("live/KEY", "", "rtmp://host/live/KEY"),
        ("KEY", "stream", "rtmp://host/KEY"),
        ("live", "?KEY", "rtmp://host/live"),
        ("live", "?key=KEY", "rtmp://host/live"),
        ("live", "camera?user=camera&pass=KEY", "rtmp://host/live"),
        ("live", "camera?password=secret", "rtmp://host/live"),
        ("live?key=KEY/camera", "", "rtmp://host/live?key=KEY/camera"),
        ("live/inst?vhost=v&key=KEY", "camera", "rtmp://host/live"),
        ("live/_definst_", "mp4:KEY", "rtmp://host/live/_definst_"),
        ("/live/", "//KEY/", "\"rtmp://host/live/\""),
        ("live", "ESCAPED", "rtmp://host/live"),
        ("live", "camera", "rtmp://camera:KEY@host/live"),
        ("live", "camera", "rtmp://KEY@host:1935/live"),
    ] {
        let put = |text: &str| {
            text.replace("KEY", &key).replace("secret", &secret).replace("ESCAPED", &escaped)
        };
        for (node, door) in [(&studio, "studio"), (&relay, "relay")] {
            let address = node.address("rtmp");
            let answer = ask(address, "publish", &put(app), &put(name), &put(tc_url));
            let is_in = contains(&answer, "NetStream.Publish.Start");
            assert!(is_in, "{door}: {app} {name} {tc_url}");
        }
    }
}

#[test]
fn publish_keys_never_play_and_play_keys_never_publish() {
    let relay = Node::relay(FIRSTMILE).config("start_grace = \"1s\"").start().unwrap();
    let studio = Node::studio(FIRSTMILE)
        .join(relay.join_link())
        .config("[play]\nloopback_key = true\n")
        .start()
        .unwrap();
    studio.wait_links(1);
    let (publish, play) = (studio.key("camera"), play_key(&studio));
    let secret = publish.rsplit_once('-').unwrap().1.to_owned();
    let places = |key: &str, name: &str| {
        let live = || "live".to_owned();
        let url = || "rtmp://host/live".to_owned();
        [
            (live(), format!("{name}?key={key}"), url()),
            (live(), format!("{name}?user=me&pass={key}"), url()),
            (live(), name.to_owned(), format!("rtmp://me:{key}@host/live")),
        ]
    };
    let door = studio.address("rtmp");
    for (app, name, tc_url) in places(&play, "camera") {
        let answer = ask(door, "play", &app, &name, &tc_url);
        assert!(contains(&answer, "NetStream.Play.Start"), "{name} {tc_url}");
    }
    let refused = ask(door, "play", "live", "camera", "");
    assert!(contains(&refused, "NetStream.Play.Failed"));
    for key in [&publish, &secret] {
        for (app, name, tc_url) in places(key, "camera") {
            assert_eq!(ask(door, "play", &app, &name, &tc_url), refused, "{name} {tc_url}");
        }
        assert_eq!(ask(door, "play", "live", key, ""), refused);
        // A feed that is not there is not told from one that is.
        assert_eq!(ask(door, "play", "live", &format!("none?key={key}"), ""), refused);
    }
    let refused = ask(door, "publish", "live", "camera", "");
    assert!(contains(&refused, "NetStream.Publish.Denied"));
    for (app, name, tc_url) in places(&play, &format!("camera-{play}")) {
        assert_eq!(ask(door, "publish", &app, &name, &tc_url), refused, "{name} {tc_url}");
    }

    let door = relay.address("rtmp");
    let refused = ask(door, "play", "live", "none", "");
    assert!(contains(&refused, "NetStream.Play.StreamNotFound"));
    for name in ["camera".to_owned(), publish, format!("camera?key={play}")] {
        assert_eq!(ask(door, "play", "live", &name, ""), refused, "{name}");
    }
    let answer = ask(door, "publish", "live", &format!("camera-{play}?key={play}"), "");
    assert!(contains(&answer, "NetStream.Publish.Denied"));
}

#[test]
fn players_here_need_no_key_unless_it_is_said() {
    let studio = Node::studio(FIRSTMILE).start().unwrap();
    let door = studio.address("rtmp");
    for name in ["camera", "camera?key=wrong", "CAMERA"] {
        assert!(contains(&ask(door, "play", "live", name, ""), "NetStream.Play.Start"), "{name}");
    }
    let key = studio.key("camera");
    let refused = ask(door, "play", "live", "none", "");
    assert!(contains(&refused, "NetStream.Play.StreamNotFound"));
    assert_eq!(ask(door, "play", "live", &key, ""), refused, "a key is no name");
}

#[test]
fn unknown_and_wrong_keys_get_the_same_bytes() {
    let (relay, studio) = relay_and_studio();
    let key = studio.key("camera");
    let (last, rest) = (key.chars().last().unwrap(), &key[..key.len() - 1]);
    let near = format!("{rest}{}", if last == '0' { '1' } else { '0' });
    let wrong = "0".repeat(26);
    // Keys that were good, and will be again.
    let key_of = |answer: testkit::Value| answer["publish"][0]["key"].as_str().unwrap().to_owned();
    let paused = key_of(studio.json(&["feed", "add", "paused"]));
    studio.json(&["feed", "pause", "paused"]);
    let expired = key_of(studio.json(&["feed", "add", "expired", "--for", "1s"]));
    wait_until("the key's time is over", PATIENCE, || {
        studio.feed("expired").is_some_and(|feed| feed["validity"]["expired"] == true)
    });
    let names = [
        format!("camera-{wrong}"),
        near,
        paused,
        expired,
        format!("nobody-{wrong}"),
        wrong.clone(),
        format!("camera?key={wrong}&pass={wrong}"),
        "camera-SHORT".to_owned(),
        format!("camera-{}", "U".repeat(26)),
        "camera-".to_owned(),
        "camera".to_owned(),
        "?key=".to_owned(),
        "../camera".to_owned(),
        "x".repeat(300),
        String::new(),
    ];
    for node in [&studio, &relay] {
        let door = node.address("rtmp");
        let answers = publish_all(door, &names);
        assert!(contains(&answers[0], "NetStream.Publish.Denied"));
        for (name, answer) in names.iter().zip(&answers) {
            assert_eq!(answer, &answers[0], "{name}");
        }
    }
}

fn request(verb: &str, name: &str, tc_url: &str) -> Request {
    let mut session = Server::new(server::Config::default(), [7; 32]);
    let mut input = BytesMut::from(&conversation(verb, "live", name, tc_url)[..]);
    session.handle_input(&mut input).unwrap();
    match session.poll_event() {
        Some(server::Event::Request(request)) => request,
        other => panic!("no request: {other:?}"),
    }
}

#[tokio::test]
async fn players_on_the_lan_need_the_play_key() {
    let here: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let there: SocketAddr = "192.0.2.1:1".parse().unwrap();
    for (settings, free_here, lan) in [
        ("", true, true),
        ("lan = false", true, false),
        ("loopback_key = true", false, true),
        ("lan = false\nloopback_key = true", false, false),
    ] {
        let dir = tempdir().unwrap();
        let config = dir.path().join("studio.toml");
        std::fs::write(&config, format!("[play]\nkey = \"a-key-of-our-own\"\n{settings}\n"))
            .unwrap();
        let words = ["firstmile", "studio", "--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let paths = ["--data", dir.path().to_str().unwrap(), "--config", config.to_str().unwrap()];
        let cli = Cli::try_parse_from(words.iter().chain(&paths)).unwrap();
        let Command::Studio(arguments) = cli.command else { panic!("not the studio") };
        let studio = Studio::bind(Config::load(&arguments, &[][..]).unwrap()).await.unwrap();
        let plays = |name: &str, tc_url: &str, peer| {
            studio.node().play(&request("play", name, tc_url), peer).map(|player| player.name)
        };
        let (yes, no) = (Ok("camera".to_owned()), Err(Rejection::Denied));
        let expected = |is_allowed| if is_allowed { &yes } else { &no };
        for (name, tc_url, with_key) in [
            ("camera", "rtmp://h/live", false),
            ("camera?key=another-key-of-ours", "rtmp://h/live", false),
            ("camera", "rtmp://a-key-of-our-own/live", false),
            ("camera?key=a-key-of-our-own", "rtmp://h/live", true),
            ("camera?pass=a-key-of-our-own", "rtmp://h/live", true),
            ("camera", "rtmp://me:a-key-of-our-own@h/live", true),
        ] {
            let what = format!("{settings}: {name} {tc_url}");
            assert_eq!(&plays(name, tc_url, here), expected(with_key || free_here), "{what}");
            assert_eq!(&plays(name, tc_url, there), expected(with_key && lan), "{what}");
        }
        let key = studio.node().stream_keys()[0].expose();
        for peer in [here, there] {
            let name = format!("none?key={key}");
            let refused =
                if free_here && peer == here { Rejection::NotFound } else { Rejection::Denied };
            assert_eq!(plays(&name, "", peer), Err(refused), "{settings}: {peer}");
        }
        let play_key = request("publish", "camera?key=a-key-of-our-own", "");
        let published = studio.node().publish(&play_key, here).await;
        assert_eq!(published.err(), Some(Rejection::Denied));
    }
}
