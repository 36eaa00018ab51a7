//! Bytes that make no sense, where sense was expected.

use testkit::script::amf::{Amf, text};
use testkit::script::chunk::{Message, type_0};
use testkit::script::handshake::noise;
use testkit::script::media::{key, large_key};
use testkit::script::{Script, command, greeting, id};

use super::{HONEST, House, MIB, assert_closed, attacker};

fn message(type_id: u8, body: &[u8]) -> Vec<u8> {
    Message { csid: 3, type_id, stream: 0, body: body.to_vec(), time: 0 }.chunks(128)
}

/// Values in values, and values without end; as a command, as metadata, in AMF0 and AMF3.
#[test]
fn deep_and_wide_amf() {
    let name = testkit::script::amf::body(&[text("connect")]);
    let data = testkit::script::amf::body(&[text("onMetaData")]);
    let wide_object = [&[3][..], &b"\x00\x01a\x05".repeat(15_000)].concat();
    let wide_array = [&[8, 0, 0, 0, 0][..], &b"\x00\x00\x05".repeat(20_000), &[0, 0, 9]].concat();
    let bombs: Vec<Vec<u8>> = vec![
        b"\x0a\x00\x00\x00\x01".repeat(12_000),
        b"\x03\x00\x01a".repeat(15_000),
        b"\x08\xff\xff\xff\xff\x00\x01a".repeat(8_000),
        wide_object,
        wide_array,
        [&b"\x0a\xff\xff\xff\xff"[..], &[5; 60_000]].concat(),
        vec![5; 60_000],
        b"\x0c\xff\xff\xff\xff".to_vec(),
        b"\x07\xff\xff".to_vec(),
        // AMF3: arrays in arrays, dense and associative, references to themselves, long traits.
        [&[0x11][..], &b"\x09\x03\x01".repeat(20_000)].concat(),
        [&[0x11][..], &b"\x09\x01\x03a".repeat(15_000)].concat(),
        [&[0x11][..], &b"\x0a\x0b\x01\x03a".repeat(12_000)].concat(),
        b"\x11\x09\x03\x01\x09\x00".to_vec(),
        b"\x11\x0a\x00".to_vec(),
        b"\x11\x09\xff\xff\xff\xff\x01".to_vec(),
        b"\x11\x0a\xff\xff\xff\xff\x01".to_vec(),
        b"\x11\x06\xff\xff\xff\xff".to_vec(),
        [&[0x11][..], b"\x09\x03\x01\x06\x03a".repeat(10_000).as_slice()].concat(),
    ];
    let house = House::studio();
    house.survives("AMF", 16 * MIB, |door| {
        for bomb in &bombs {
            let mut stranger = Script::handshaken(door);
            let number = [0; 9];
            stranger.try_send(&message(id::COMMAND, &[&name[..], &number, bomb].concat()));
            stranger
                .try_send(&message(id::COMMAND_AMF3, &[&[0], &name[..], &number, bomb].concat()));
            drop(stranger);
            // As data it is dropped, and the encoder goes on.
            let mut encoder = house.encoder();
            encoder.message(3, 0, id::DATA, 1, &[&data[..], bomb].concat());
            encoder.message(3, 0, id::DATA_AMF3, 1, &[&[0], &data[..], bomb].concat());
            encoder.media(id::VIDEO, 0, &key(1));
            encoder.ping(1);
        }
    });
}

#[test]
fn commands_out_of_order() {
    let house = House::studio();
    let (null, camera) = (Amf::Null, text("camera"));
    house.survives("commands out of order", 8 * MIB, |door| {
        for name in ["publish", "play", "play2"] {
            let mut script = Script::handshaken(door);
            script.command(1, name, 1.0, &[null.clone(), camera.clone()]);
            assert_closed(vec![script]);
        }
        for name in ["deleteStream", "closeStream", "FCUnpublish", "pause", "seek", "receiveAudio"]
        {
            let mut script = Script::connected(door, "live");
            script.command(7, name, 1.0, &[null.clone(), camera.clone()]);
            script.ping(1);
        }
        let mut twice = Script::publishing(door, &house.key);
        twice.try_send(&message(id::COMMAND, &command("connect", 1.0, &[Amf::Null])));
        assert_closed(vec![twice]);
    });
}

/// The start is good, and then come bytes without a meaning.
#[test]
fn garbage_after_a_valid_start() {
    let connect = message(id::COMMAND, &command("connect", 1.0, &[Amf::Null]));
    for house in [House::studio(), House::relay()] {
        house.survives("garbage", 16 * MIB, |door| {
            for seed in 0..12_u8 {
                let garbage: Vec<u8> = (0..20).flat_map(|n| noise(seed * 20 + n)).collect();
                for start in [greeting(), [greeting(), connect.clone()].concat()] {
                    let mut script =
                        Script::dial_from(attacker(seed.into()), door).expect("the door accepts");
                    script.try_send(&[start, garbage.clone()].concat());
                }
                house.encoder().try_send(&garbage);
                house.player().try_send(&garbage);
            }
        });
    }
}

/// A cut in the middle of a keyframe: whoever watches sees whole frames before and after.
#[test]
fn a_reset_in_the_middle_of_a_message() {
    for house in [House::studio(), House::relay()] {
        let mut player = house.player();
        player.ping(1);
        for number in 0..4 {
            let mut encoder = house.encoder();
            encoder.media(id::VIDEO, 0, &key(number));
            let tag = player.expect("the keyframe", |message| {
                (message.body == key(number)).then_some(message.time)
            });
            assert!(tag < 10_000);
            let part = [type_0(4, 40, 50_000, id::VIDEO, 1), large_key(50_000)[..128].to_vec()];
            encoder.send(&part.concat());
            encoder.ping(1);
            encoder.reset();
            for verb in ["publish", "play"] {
                let name = if verb == "play" { "camera" } else { &house.key };
                let door = house.studio.address("rtmp");
                if let Some(script) = Script::attempt(HONEST, door, verb, name) {
                    script.reset();
                }
            }
        }
        house.survives("resets", 8 * MIB, |_| ());
    }
}
