//! What is in the messages: frames and metadata that others choke on.

use testkit::script::amf::{self, Amf, number, properties, text};
use testkit::script::media::{AAC_HEADER, AVC_HEADER, frame, key, sound};
use testkit::script::{Script, id};

use super::{bodies, on_air, seen};

/// Sends `odd` between two good frames and returns what the player got of the three.
#[track_caller]
fn between(type_id: u8, stream: u32, odd: &[u8]) -> Vec<Vec<u8>> {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 0, &key(1));
    publisher.message(5, 0, type_id, stream, odd);
    publisher.media(id::VIDEO, 40, &frame(2));
    let is_last = |tag: &Vec<u8>| *tag == frame(2);
    let mut got = Vec::new();
    while !got.last().is_some_and(is_last) {
        got.extend(bodies(player.tags(1)));
    }
    assert_eq!(got.first(), Some(&key(1)));
    got
}

#[track_caller]
fn passes(type_id: u8, odd: &[u8]) {
    assert_eq!(between(type_id, 1, odd), [key(1), odd.to_vec(), frame(2)], "{odd:02x?}");
}

/// mediamtx 2375 and 2409 too: frames with nothing in them.
#[test]
fn mediamtx_928_dji_frames_without_a_picture() {
    for empty in [&[0x27, 1, 0, 0, 0][..], &[0x17, 1, 0, 0, 0], &[0x27, 1, 0, 0, 0, 0, 0, 0, 0]] {
        passes(id::VIDEO, empty);
    }
}

#[test]
fn e_rtmp_an_audio_message_without_a_byte_is_silence() {
    passes(id::AUDIO, &[]);
    passes(id::VIDEO, &[]);
}

#[test]
fn srs_184_an_annex_b_tail_passes_as_it_is() {
    passes(id::VIDEO, &[0x27, 1, 0, 0, 0, 0, 0, 0, 1, 0x41, 0, 0, 0, 1, 9, 0x10]);
}

/// Signed, 24 bits: the time at which a picture is shown may lie before its decoding.
#[test]
fn mediamtx_5226_composition_times_below_zero() {
    passes(id::VIDEO, &[0x27, 1, 0xff, 0xff, 0xd8, 0, 0, 0, 1, 0x41]);
}

/// H.265 under the id 12, as Magewell, Kiloview and cameras send it; AAC, MP3, G.711 and Speex.
#[test]
fn mediamtx_5105_legacy_codecs_pass_as_they_are() {
    passes(id::VIDEO, &[0x2c, 1, 0, 0, 0, 0, 0, 0, 1, 0x02]);
    passes(id::AUDIO, &[0x2f, 0xff, 0xfb, 0x90]);
    passes(id::AUDIO, &[0x7a, 0xd5]);
    passes(id::AUDIO, &[0x8a, 0xd5]);
    passes(id::AUDIO, &[0xb2, 1]);
}

/// Command frames, the end of a sequence, and packet types that nobody has defined yet.
#[test]
fn what_is_no_picture_passes_too() {
    for odd in [&[0x57, 0][..], &[0x17, 2, 0, 0, 0], &[0x27, 9, 0, 0, 0, 1], &[0x27]] {
        passes(id::VIDEO, odd);
    }
}

/// OpenIPC (1436) and others (386) send no metadata and no sequence header.
#[test]
fn mediamtx_1436_openipc_neither_metadata_nor_headers() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 0, &key(1));
    publisher.media(id::VIDEO, 40, &frame(2));
    assert_eq!(seen(&player.tags(2)), [(1, 0), (2, 40)]);
}

/// DJI Osmo says its configuration twice; frames around it are not lost.
#[test]
fn mediamtx_3802_dji_osmo_a_configuration_twice() {
    let (_studio, mut publisher, mut player) = on_air();
    for (time, body) in
        [(0, AVC_HEADER), (0, &key(1)), (20, AVC_HEADER), (40, &frame(2)), (80, &frame(3))]
    {
        publisher.media(id::VIDEO, time, body);
    }
    let mut got = Vec::new();
    while got.last() != Some(&frame(3)) {
        got.extend(bodies(player.tags(1)));
    }
    got.retain(|body| body != AVC_HEADER);
    assert_eq!(got, [key(1), frame(2), frame(3)]);
}

/// Streamlabs: sound comes seconds after the picture.
#[test]
fn mediamtx_2352_streamlabs_late_audio() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 0, AVC_HEADER);
    for number in 0..100 {
        publisher.media(id::VIDEO, u32::from(number) * 40, &key(number));
    }
    publisher.media(id::AUDIO, 3_970, AAC_HEADER);
    publisher.media(id::AUDIO, 3_970, &sound(200));
    let tags = player.tags(103);
    assert_eq!(seen(&tags)[100..], [(99, 3_960), (0x10, 3_960), (200, 3_970)]);
}

/// 3301: DJI announces audio and sends none. SRS 115 packets of audio is the opposite.
#[test]
fn mediamtx_3301_dji_one_track_alone() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::AUDIO, 100, AAC_HEADER);
    for number in 0..5_u8 {
        publisher.media(id::AUDIO, 100 + u32::from(number) * 23, &sound(number));
    }
    let times: Vec<_> = player.tags(6).iter().map(|tag| tag.time).collect();
    assert_eq!(times, [0, 0, 23, 46, 69, 92]);
}

/// Metadata as it came, and the properties that a player must be told of it.
#[track_caller]
fn metadata(type_id: u8, stream: u32, body: &[u8]) -> Amf {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.message(5, 0, type_id, stream, body);
    publisher.media(id::VIDEO, 0, &key(1));
    told(&mut player)
}

#[track_caller]
fn told(player: &mut Script) -> Amf {
    player.expect("metadata", |message| {
        if message.type_id != id::DATA {
            return None;
        }
        let mut values = amf::read(&message.body);
        (values[0] == text("onMetaData")).then(|| {
            assert_eq!(message.time, 0, "FFmpeg wants it at 0");
            assert!(matches!(values[1], Amf::Ecma(_)), "FFmpeg wants an array: {values:?}");
            values.remove(1)
        })
    })
}

fn pairs() -> Vec<(String, Amf)> {
    properties([("width", number(320)), ("encoder", text("odd"))])
}

#[test]
fn metadata_in_all_the_shapes_it_comes_in() {
    let set = text("@setDataFrame");
    let name = text("onMetaData");
    let object = Amf::Object(pairs());
    let shapes = [
        ("obs", vec![set.clone(), name.clone(), Amf::Ecma(pairs())]),
        ("ffmpeg without @setDataFrame", vec![name.clone(), object.clone()]),
        (
            "ZLMediaKit 4800: Uniview, two numbers before",
            vec![number(0), number(0), set, name, object],
        ),
    ];
    for (who, values) in shapes {
        for stream in [1, 0] {
            // Red5 440: on message stream 0.
            let told = metadata(id::DATA, stream, &amf::body(&values));
            assert_eq!(told.property("width"), Some(&number(320)), "{who}, {stream}");
        }
    }
}

/// The source of nginx-rtmp: the count of an array is wrong, and its end is missing.
#[test]
fn envivio_an_array_with_a_wrong_count_and_without_an_end() {
    for count in [0_u32, 1, 77] {
        for cut in [0, 3] {
            let mut body = amf::body(&[text("onMetaData"), Amf::Ecma(pairs())]);
            let at = amf::body(&[text("onMetaData")]).len() + 1;
            body[at..at + 4].copy_from_slice(&count.to_be_bytes());
            body.truncate(body.len() - cut);
            let told = metadata(id::DATA, 1, &body);
            assert_eq!(told.property("width"), Some(&number(320)), "{count}, {cut}");
        }
    }
}

#[test]
fn mediamtx_3188_strict_arrays_in_metadata() {
    let list = Amf::Strict(vec![text("a"), number(1), Amf::Null]);
    let mut pairs = pairs();
    pairs.insert(0, ("list".into(), list.clone()));
    let told = metadata(id::DATA, 1, &amf::body(&[text("onMetaData"), Amf::Ecma(pairs)]));
    assert_eq!(told.property("list"), Some(&list));
    assert_eq!(told.property("width"), Some(&number(320)));
}

#[test]
fn nginx_rtmp_1043_metadata_in_amf3() {
    // onMetaData, then an AMF3 object without a class: width 320, then the end.
    let mut body = vec![0];
    body.extend(amf::body(&[text("onMetaData")]));
    body.extend(b"\x11\x0a\x0b\x01\x0bwidth\x04\x82\x40\x01");
    let told = metadata(id::DATA_AMF3, 1, &body);
    assert_eq!(told.property("width"), Some(&number(320)));
}

/// mediamtx 2217, 2289 (Dahua), 2232, and MP3 announced by DJI (1102).
#[test]
fn mediamtx_2289_metadata_that_lies() {
    let lies = Amf::Ecma(properties([
        ("videocodecid", number(2)),
        ("audiocodecid", text("mp3")),
        ("width", text("wide")),
    ]));
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 0, AVC_HEADER);
    publisher.media(id::AUDIO, 0, AAC_HEADER);
    publisher.media(id::DATA, 0, &amf::body(&[text("@setDataFrame"), text("onMetaData"), lies]));
    publisher.media(id::VIDEO, 0, &key(1));
    publisher.media(id::AUDIO, 0, &sound(2));
    // Told before either track is known it may be corrected: the last word counts.
    let mut codecs = Vec::new();
    let mut frames = 0;
    while frames < 4 {
        let message = player.expect("anything", |message| Some(message.clone()));
        match message.type_id {
            id::DATA => {
                let values = amf::read(&message.body);
                if let Some(Amf::Ecma(_)) = values.get(1) {
                    codecs = vec![
                        values[1].property("videocodecid").cloned(),
                        values[1].property("audiocodecid").cloned(),
                    ];
                }
            }
            _ => frames += 1,
        }
    }
    assert_eq!(codecs[0], Some(number(7)), "H.264, whatever it says");
}

/// OBS's track for Twitch's recordings (2986), and what Dahua sends: no AMF at all.
#[test]
fn mediamtx_2986_data_that_cannot_be_decoded_is_dropped_alone() {
    for odd in [&b"\xff\xff\xff"[..], b"", b"\x02\x00\xffshort", b"\x0a\xff\xff\xff\xff", &[8; 300]]
    {
        assert_eq!(between(id::DATA, 1, odd), [key(1), frame(2)], "{odd:?}");
        assert_eq!(between(id::DATA_AMF3, 1, odd), [key(1), frame(2)], "{odd:?}");
    }
}

/// OBS and others put captions and cues between frames.
#[test]
fn other_script_data_passes() {
    let (_studio, mut publisher, mut player) = on_air();
    let cue = amf::body(&[text("onTextData"), Amf::Object(properties([("text", text("hi"))]))]);
    publisher.media(id::VIDEO, 0, &key(1));
    publisher.media(id::DATA, 20, &cue);
    player.expect("the cue", |message| (message.body == cue).then_some(()));
}
