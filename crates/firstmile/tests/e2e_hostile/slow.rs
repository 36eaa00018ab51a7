//! Slowloris: connections that are open and say little or nothing.

use std::thread::sleep;
use std::time::{Duration, Instant};

use testkit::PATIENCE;
use testkit::script::amf::{Amf, text};
use testkit::script::chunk::type_0;
use testkit::script::{Script, command, greeting, id};

use super::{House, MIB, attacker};

/// Between two bytes of a slow client: far below any limit of silence.
const PACE: Duration = Duration::from_millis(50);

/// Feeds `bytes` to each connection, one at a time and again and again, until the server has
/// closed them all; the limits of [`super::DEADLINES`] cut each whatever it goes on saying.
#[track_caller]
fn trickle(mut scripts: Vec<Script>, bytes: &[u8]) {
    let start = Instant::now();
    for byte in bytes.iter().cycle() {
        scripts.retain_mut(|script| script.try_send(&[*byte]));
        if scripts.is_empty() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{} slow ones are still there", scripts.len());
        sleep(PACE);
    }
}

fn connections(house: &House, first: &[u8]) -> Vec<Script> {
    let dial = |number| {
        let mut script = Script::dial_from(attacker(number), house.door())?;
        script.try_send(first).then_some(script)
    };
    (0..24).filter_map(dial).collect()
}

/// Every phase before a request, and the middle of a message, ends at the same deadline.
fn slowloris(house: &House) {
    let connect = command("connect", 1.0, &[Amf::Null]);
    let header = type_0(3, 0, connect.len(), id::COMMAND, 0);
    let connected = [greeting(), header.clone(), connect.clone()].concat();
    let ping = [type_0(2, 0, 6, id::USER_CONTROL, 0), vec![0, 6, 0, 0, 0, 1]].concat();
    let publish = command("publish", 0.0, &[Amf::Null, text("nothing")]);
    let long = [&connected[..], &type_0(3, 0, 60_000, id::COMMAND, 1), &publish[..8]].concat();
    for (phase, first, then) in [
        ("handshake", vec![3], &[0; 64][..]),
        ("connect", [greeting(), header].concat(), &connect[..20]),
        ("before publish", connected, &ping),
        ("mid-message", long, &[5]),
    ] {
        house.survives(&format!("slowloris: {phase}"), 8 * MIB, |_| {
            trickle(connections(house, &first), then);
        });
    }
}

#[test]
fn slowloris_in_each_phase_at_a_studio() {
    slowloris(&House::studio());
}

#[test]
fn slowloris_in_each_phase_at_a_relay() {
    slowloris(&House::relay());
}

#[test]
fn five_hundred_mute_connections() {
    for house in [House::studio(), House::relay()] {
        house.survives("500 mute", 24 * MIB, |door| {
            let dial = |number| Script::dial_from(attacker(number), door);
            (0..500).filter_map(dial).collect::<Vec<_>>()
        });
    }
}

/// All from one address, which is not the honest ones'.
#[test]
fn five_hundred_mute_connections_of_one_address() {
    let house = House::studio();
    house.survives("500 mute of one address", 8 * MIB, |door| {
        (0..500).filter_map(|_| Script::dial_from(attacker(0), door)).collect::<Vec<_>>()
    });
}

/// They ask for everything and read nothing: each holds itself.
#[test]
fn players_that_do_not_read() {
    let house = House::studio();
    let mut encoder = house.encoder();
    let join = |number| Script::attempt(attacker(number), house.door(), "play", "camera");
    let sleepers: Vec<_> = (0..20).filter_map(join).collect();
    assert_eq!(sleepers.len(), 20, "all of them are on this machine");
    let mut player = house.player();
    let (before, _) = house.studio.memory();
    encoder.set_chunk_size(65_536);
    let body = testkit::script::media::large_key(400_000);
    for number in 0..40 {
        encoder.media(id::VIDEO, number * 40, &body);
        assert!(player.tags(1)[0].body == body, "the one that reads misses nothing");
    }
    // One ring of 16 MB, shared, and what each has taken from it.
    let more = house.studio.memory().1.saturating_sub(before);
    assert!(more < 80 * MIB, "{} KiB", more / 1024);
    drop((sleepers, encoder));
    house.assert_serves();
}
