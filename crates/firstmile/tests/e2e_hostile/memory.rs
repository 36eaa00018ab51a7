//! Attempts to make a node hold much for little.

use testkit::script::chunk::{cut, type_0, type_2, type_3};
use testkit::script::media::large_key;
use testkit::script::{Script, greeting, id};

use super::{House, MIB, assert_closed, attacker};

/// What a stranger declares is not believed before it comes.
fn declares(house: &House, count: usize, length: usize, bytes_each: usize) {
    house.survives(&format!("{count} x 64 x {length}"), 32 * MIB, |door| {
        let mut said = greeting();
        for csid in 3..67 {
            said.extend(type_0(csid, 0, length, id::VIDEO, 1));
            said.extend(vec![0x17; bytes_each]);
        }
        let open = |number| {
            let mut script = Script::dial_from(attacker(number), door)?;
            script.try_send(&said);
            Some(script)
        };
        (0..count).filter_map(open).collect::<Vec<_>>()
    });
}

#[test]
fn a_thousand_connections_declare_16_mib_on_64_chunk_streams() {
    declares(&House::studio(), 1000, (1 << 24) - 1, 0);
}

#[test]
fn a_thousand_connections_declare_16_mib_at_a_relay() {
    declares(&House::relay(), 1000, (1 << 24) - 1, 0);
}

/// As much as a stranger may, with a first chunk of each.
#[test]
fn five_hundred_connections_declare_64_kib_and_begin() {
    declares(&House::studio(), 500, 65_536, 128);
}

/// And send what they declared, but for the end.
#[test]
fn strangers_send_messages_that_do_not_end() {
    for house in [House::studio(), House::relay()] {
        house.survives("40 x 4 x 1 MiB", 24 * MIB, |door| {
            let mut said = greeting();
            for csid in 3..7 {
                let header = type_0(csid, 0, (1 << 24) - 1, id::VIDEO, 1);
                said.extend(cut(header, &type_3(csid), &[0x17; 1 << 20], 128));
            }
            let open = |number| {
                let mut script = Script::dial_from(attacker(number), door)?;
                script.try_send(&said);
                Some(script)
            };
            (0..40).filter_map(open).collect::<Vec<_>>()
        });
    }
}

/// Whoever has a key may send 8 MiB at a time, and holds no more than 16.
#[test]
fn an_encoder_declares_much_on_many_chunk_streams() {
    let house = House::relay();
    for streams in [7, 64] {
        house.survives(&format!("an encoder, {streams} x 8 MiB"), 40 * MIB, |_| {
            let encoder = house.encoder();
            declare_much(encoder, streams);
        });
    }
}

fn declare_much(mut encoder: Script, streams: u32) {
    let part = vec![0x17; 60_000];
    let size = 60_000_u32.to_be_bytes();
    encoder.message(2, 0, id::SET_CHUNK_SIZE, 0, &size);
    // All but the end of 8 MiB each, turn by turn.
    for turn in 0..138 {
        for csid in 3..3 + streams {
            let header = match turn {
                0 => type_0(csid, 0, 8 << 20, id::VIDEO, 1),
                _ => type_3(csid),
            };
            if !encoder.try_send(&[&header[..], &part].concat()) {
                return;
            }
        }
    }
    encoder.drain();
}

#[test]
fn chunks_of_one_byte() {
    let house = House::relay();
    house.survives("chunk size 1", 8 * MIB, |door| {
        let mut said = greeting();
        said.extend([type_0(2, 0, 4, id::SET_CHUNK_SIZE, 0), vec![0, 0, 0, 1]].concat());
        said.extend(type_0(3, 0, 60_000, id::COMMAND, 0));
        said.extend([5, 0xc3].repeat(59_999));
        let mut stranger = Script::dial_from(attacker(0), door).unwrap();
        while stranger.try_send(&said[..]) {
            said.drain(..1 + 2 * 1536);
            said.extend([5; 4096]);
        }
        let mut encoder = house.encoder();
        encoder.set_chunk_size(1);
        let body = large_key(1000);
        while encoder.try_send(
            &testkit::script::chunk::Message {
                csid: 4,
                type_id: id::VIDEO,
                stream: 1,
                body: body.clone(),
                ..Default::default()
            }
            .chunks(1),
        ) {}
    });
}

#[test]
fn chunk_sizes_0_1_and_the_largest() {
    let house = House::studio();
    for (size, is_allowed) in [(0_u32, false), (1, true), (0x7fff_ffff, true), (u32::MAX, true)] {
        house.survives(&format!("chunk size {size}"), 8 * MIB, |door| {
            let mut script = Script::connected(door, "live");
            script.message(2, 0, id::SET_CHUNK_SIZE, 0, &size.to_be_bytes());
            script.chunk_size = size.max(1) as usize;
            match is_allowed {
                true => script.ping(1),
                false => assert_closed(vec![script]),
            }
        });
    }
}

#[test]
fn chunks_without_a_predecessor() {
    let house = House::studio();
    for format in [type_2 as fn(u32, u32) -> Vec<u8>, |csid, _| type_3(csid)] {
        house.survives("compressed headers on fresh chunk streams", 8 * MIB, |door| {
            let mut said = greeting();
            for csid in (3..65_599).step_by(7) {
                said.extend(format(csid, 0x00ff_ffff));
            }
            let mut stranger = Script::dial_from(attacker(0), door).unwrap();
            stranger.try_send(&said);
            let mut encoder = house.encoder();
            encoder.try_send(&said[3073..]);
            assert_closed(vec![stranger, encoder]);
        });
    }
}

/// `createStream` without end, and nobody reads the answers.
#[test]
fn commands_without_end() {
    let house = House::relay();
    house.survives("commands without end", 24 * MIB, |door| {
        let mut ask = Vec::new();
        for name in ["createStream", "getStreamLength", "FCPublish", "_checkbw", "connect2"] {
            let body = testkit::script::command(name, 2.0, &[]);
            ask.extend(type_0(3, 0, body.len(), id::COMMAND, 0));
            ask.extend(body);
        }
        let asks = ask.repeat(1000);
        let attack = |number| {
            let mut script = Script::dial_from(attacker(number), door)?;
            let mut goes_on = script.try_send(&greeting());
            let mut sent = 0;
            while goes_on {
                goes_on = script.try_send(&asks);
                sent += asks.len() as u64;
                assert!(sent < 512 * MIB, "it was read for ever");
            }
            Some(script)
        };
        (0..8).filter_map(attack).collect::<Vec<_>>()
    });
}

/// What idle connections cost, after the handshake and `connect`: as many of a thousand as the
/// relay keeps.
#[test]
fn a_thousand_idle_connections_take_under_30_mib_of_a_relay() {
    let limits = "[limits]\nconnections = 3000\nunauthenticated = 3000\nhandshake = \"60s\"\nauthorise = \"120s\"\n";
    let house = House::build(true, limits);
    house.survives("1,000 idle connections", 30 * MIB, |door| {
        let idle: Vec<_> =
            (0..1000).filter_map(|number| Script::try_connected(attacker(number), door)).collect();
        let kept = house.front().status().unwrap()["connections"].as_u64().unwrap();
        eprintln!("{} were let in, {kept} are there", idle.len());
        assert_eq!(kept, 1_000);
        idle
    });
}

/// Players of a feed that waits for its encoder.
#[test]
fn a_thousand_idle_players_take_under_30_mib_of_a_studio() {
    let house = House::build(false, "[limits]\nconnections = 3000\nplayers_per_feed = 3000\n");
    let (before, _) = house.studio.memory();
    let players: Vec<_> = (0..1000).map(|number| house.player_at(attacker(number))).collect();
    house.studio.wait_players("camera", 1000);
    let more = house.studio.memory().1.saturating_sub(before);
    eprintln!("1,000 idle players: {} KiB more", more / 1024);
    assert!(more < 30 * MIB, "{} KiB", more / 1024);
    drop(players);
    house.assert_serves();
}
