//! What FFmpeg's players (OBS, mpv, ffplay), librtmp, GStreamer and VLC need to hear, and in which
//! order.

use testkit::process::Signal;
use testkit::script::amf::{self, Amf, number, properties, text};
use testkit::script::media::{AAC_HEADER, AVC_HEADER, frame, key, large_key, sound};
use testkit::script::{Script, describe, id, status};

use super::{bodies, on_air, seen, studio};

/// FFmpeg discards anything before Play.Start, and wants metadata before the first frame.
#[test]
fn ffmpeg_the_order_on_the_play_stream() {
    let (_studio, address, feed_key) = studio();
    let mut publisher = Script::publishing(address, &feed_key);
    let pairs = properties([("width", number(320)), ("audiocodecid", number(10))]);
    publisher.media(id::DATA, 0, &amf::body(&[text("onMetaData"), Amf::Ecma(pairs)]));
    publisher.media(id::VIDEO, 0, AVC_HEADER);
    publisher.media(id::AUDIO, 0, AAC_HEADER);
    publisher.media(id::VIDEO, 1_000, &key(1));
    publisher.media(id::VIDEO, 1_040, &frame(2));
    publisher.ping(1);

    let mut player = Script::connected(address, "live");
    let stream = player.create_stream();
    player.command(stream, "play", 0.0, &[Amf::Null, text("camera"), number(-2000)]);
    let mut order = Vec::new();
    while order.last().is_none_or(|last| last != "key") {
        order.push(player.expect("a picture", |message| {
            assert_eq!(
                message.stream,
                if message.type_id == id::USER_CONTROL { 0 } else { stream }
            );
            Some(match message.type_id {
                id::USER_CONTROL => format!("event {}", message.body[1]),
                id::COMMAND => status(message).expect("statuses alone"),
                id::DATA => amf::read(&message.body)[0].as_text().expect("a name").to_owned(),
                id::VIDEO if message.body == AVC_HEADER => "video header".into(),
                id::AUDIO if message.body == AAC_HEADER => "audio header".into(),
                id::VIDEO if message.body == key(1) => {
                    assert_eq!(message.time, 0, "its time begins at 0");
                    "key".into()
                }
                _ => describe(message),
            })
        }));
    }
    let expected = [
        "event 0",
        "NetStream.Play.Reset",
        "NetStream.Play.Start",
        "|RtmpSampleAccess",
        "onMetaData",
        "video header",
        "audio header",
        "key",
    ];
    assert_eq!(order, expected);
}

#[test]
fn librtmp_get_stream_length_and_buffer_before_play() {
    let (_studio, address, _) = studio();
    let mut player = Script::connected(address, "live");
    player.message(2, 0, id::USER_CONTROL, 0, &[0, 3, 0, 0, 0, 0, 0, 0, 0x0b, 0xb8]);
    let stream = player.create_stream();
    // An `_error` ends FFmpeg.
    player.command(stream, "getStreamLength", 7.0, &[Amf::Null, text("camera")]);
    assert_eq!(player.expect_command("_result").1, [number(7), Amf::Null, number(0)]);
    player.command(stream, "play", 8.0, &[Amf::Null, text("camera"), number(-1000)]);
    player.expect_status("NetStream.Play.Start");
}

#[test]
fn flash_play2_with_options() {
    let (_studio, address, _) = studio();
    let mut player = Script::connected(address, "live");
    player.create_stream();
    player.command(1, "play2", 0.0, &[Amf::Null, text("camera"), Amf::Null]);
    player.expect_status("NetStream.Play.Start");
}

#[test]
fn a_player_before_the_encoder_waits_and_then_has_it_all() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 0, AVC_HEADER);
    publisher.media(id::VIDEO, 0, &key(1));
    publisher.media(id::VIDEO, 40, &frame(2));
    assert_eq!(bodies(player.tags(3)), [AVC_HEADER.to_vec(), key(1), frame(2)]);
}

/// SRS 1630, 4696: a header is not sent to a player again while it is in force.
#[test]
fn a_player_of_a_running_feed_has_headers_then_a_keyframe() {
    let (studio, mut publisher, mut early) = on_air();
    publisher.media(id::VIDEO, 0, AVC_HEADER);
    publisher.media(id::AUDIO, 0, AAC_HEADER);
    for (number, time) in (1..).zip([5_000, 5_040, 5_080]) {
        publisher.media(id::VIDEO, time, &if number == 2 { key(2) } else { frame(number) });
    }
    // The first frame is of no use without a keyframe before it.
    assert_eq!(seen(&early.tags(4))[2..], [(2, 0), (3, 40)]);
    let mut late = Script::joining(studio.address("rtmp"), "camera");
    publisher.media(id::VIDEO, 5_120, &frame(4));
    // Whether the two before are shown at once or squeezed is the policy's matter.
    let mut got = Vec::new();
    while got.last() != Some(&frame(4)) {
        got.extend(bodies(late.tags(1)));
    }
    assert_eq!(got, [AVC_HEADER.to_vec(), AAC_HEADER.to_vec(), key(2), frame(3), frame(4)]);
}

/// Wowza and others stop for a player whose acknowledgements lag; nobody here does.
#[test]
fn a_player_that_never_acknowledges_gets_it_all() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.set_chunk_size(65_536);
    let body = large_key(500_000);
    for number in 0..16 {
        publisher.media(id::VIDEO, number * 40, &body);
        assert!(player.tags(1)[0].body == body);
    }
}

/// ffmpeg takes UnpublishNotify, Play.Stop and StreamEOF for the end: an encoder that comes back
/// must not cause them.
#[test]
fn obs_media_source_is_held_while_the_encoder_comes_back() {
    let (studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 0, &key(1));
    drop(publisher);
    studio.wait_feed("camera", "reconnecting");
    let mut again = Script::publishing(studio.address("rtmp"), &studio.key("camera"));
    again.media(id::VIDEO, 0, &key(2));
    let mut said = Vec::new();
    loop {
        let message = player.expect("the picture", |message| Some(message.clone()));
        if message.type_id == id::VIDEO && message.body == key(2) {
            break;
        }
        said.push(describe(&message));
        assert!(!matches!(message.type_id, id::COMMAND | id::USER_CONTROL), "{said:#?}");
    }
}

/// The end is said in every way that one of them understands.
#[test]
fn ffmpeg_and_librtmp_hear_the_end() {
    let (mut studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 0, &key(1));
    player.tags(1);
    studio.signal(Signal::Terminate);
    let rest = player.rest();
    let codes: Vec<_> = rest.iter().filter_map(status).collect();
    assert_eq!(codes, ["NetStream.Play.UnpublishNotify", "NetStream.Play.Stop"]);
    assert!(rest.iter().any(|m| m.type_id == id::USER_CONTROL && m.body[..2] == [0, 1]), "EOF");
}

#[test]
fn obs_a_stream_that_is_not_there_is_said_and_closed() {
    let (_studio, address, _) = studio();
    let mut player = Script::connected(address, "live");
    player.create_stream();
    player.command(1, "play", 0.0, &[Amf::Null, text("nothing")]);
    let codes: Vec<_> = player.rest().iter().filter_map(status).collect();
    assert_eq!(codes, ["NetStream.Play.StreamNotFound"]);
}

/// VLC and JW Player pause; the seek of FFmpeg's players must not be an error.
#[test]
fn players_that_pause_seek_and_mute() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 0, &key(1));
    player.tags(1);
    player.command(1, "seek", 0.0, &[Amf::Null, number(0)]);
    player.expect_status("NetStream.Seek.Failed");
    player.command(1, "pause", 0.0, &[Amf::Null, Amf::Bool(true), number(0)]);
    player.expect_status("NetStream.Pause.Notify");
    player.command(1, "pause", 0.0, &[Amf::Null, Amf::Bool(false), number(0)]);
    player.expect_status("NetStream.Unpause.Notify");
    player.command(1, "receiveVideo", 0.0, &[Amf::Null, Amf::Bool(false)]);
    player.ping(4);
    publisher.media(id::VIDEO, 40, &key(2));
    publisher.media(id::AUDIO, 46, &sound(3));
    let last = player.expect("sound", |m| (m.body == sound(3)).then_some(m.type_id));
    assert_eq!(last, id::AUDIO);
}
