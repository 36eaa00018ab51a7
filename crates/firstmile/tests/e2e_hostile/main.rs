//! What attackers do, each attack bounded in count and time. After each an honest encoder and an
//! honest player get in, media flows between them, and the node's memory is within a stated bound
//! of what it was.
//!
//! The tests state what must hold, not how: whoever is refused, delayed or pushed out for it.

// Attackers have addresses of their own, which Linux alone gives on loopback.
#![cfg(target_os = "linux")]

mod memory;
mod nonsense;
mod slow;
mod storms;
mod wrong_protocol;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use testkit::script::media::{frame, key};
use testkit::script::{Script, id};
use testkit::{Node, PATIENCE, wait_for};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const MIB: u64 = 1 << 20;

/// An attacker's address.
fn attacker(number: usize) -> IpAddr {
    Ipv4Addr::new(127, 1, (number / 200) as u8, (number % 200 + 1) as u8).into()
}

/// Where encoders and players go: a studio alone, or a relay and the studio that has joined it.
struct House {
    relay: Option<Node>,
    studio: Node,
    key: String,
}

/// Deadlines that a test can wait for.
const DEADLINES: &str = "[limits]\nhandshake = \"1s\"\nauthorise = \"2s\"\n";

impl House {
    fn studio() -> Self {
        Self::build(false, DEADLINES)
    }

    fn relay() -> Self {
        Self::build(true, DEADLINES)
    }

    fn build(with_relay: bool, config: &str) -> Self {
        testkit::process::raise_file_limit();
        let start = |node: testkit::Launch| node.config(config).start().unwrap();
        let relay = with_relay.then(|| start(Node::relay(FIRSTMILE)));
        let studio = match &relay {
            Some(relay) => start(Node::studio(FIRSTMILE).join(relay.join_link())),
            None => start(Node::studio(FIRSTMILE)),
        };
        if with_relay {
            studio.wait_links(1);
        }
        let key = studio.key("camera");
        let house = Self { relay, studio, key };
        // What is made once is made now, before memory is measured.
        house.assert_serves();
        house
    }

    /// The node that encoders reach, and that is attacked.
    fn front(&self) -> &Node {
        self.relay.as_ref().unwrap_or(&self.studio)
    }

    fn door(&self) -> SocketAddr {
        self.front().address("rtmp")
    }

    /// An honest encoder that got in.
    #[track_caller]
    fn encoder(&self) -> Script {
        wait_for("an honest encoder gets in", PATIENCE, || {
            Script::attempt(HONEST, self.door(), "publish", &self.key)
        })
    }

    /// An honest player that got in.
    #[track_caller]
    fn player(&self) -> Script {
        self.player_at(HONEST)
    }

    /// An honest player with this address.
    #[track_caller]
    fn player_at(&self, source: IpAddr) -> Script {
        wait_for("an honest player gets in", PATIENCE, || {
            Script::attempt(source, self.studio.address("rtmp"), "play", "camera")
        })
    }

    /// An honest encoder publishes and an honest player sees it, and soon.
    #[track_caller]
    fn assert_serves(&self) {
        let start = Instant::now();
        let mut player = self.player();
        let mut encoder = self.encoder();
        encoder.media(id::VIDEO, 0, &key(77));
        encoder.media(id::VIDEO, 40, &frame(78));
        player.expect("the encoder's keyframe", |message| {
            (message.type_id == id::VIDEO && message.body == key(77)).then_some(())
        });
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    }

    /// Runs an attack on the node that encoders reach, and asserts what must hold meanwhile and
    /// afterwards. What the attack returns is what it still holds on to.
    #[track_caller]
    fn survives<T>(&self, name: &str, bound: u64, attack: impl FnOnce(SocketAddr) -> T) {
        let (before, _) = self.front().memory();
        let held = attack(self.door());
        self.assert_serves();
        drop(held);
        self.assert_serves();
        let (_, most) = self.front().memory();
        let worst = most.saturating_sub(before);
        eprintln!("{name}: {} KiB more, at most {}", worst / 1024, bound / 1024);
        assert!(worst <= bound, "{name}: {} KiB more than before", worst / 1024);
    }
}

/// Waits until the server has closed all of these.
#[track_caller]
fn assert_closed(scripts: Vec<Script>) {
    scripts.into_iter().for_each(Script::drain);
}
