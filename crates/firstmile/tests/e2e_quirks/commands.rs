//! RTMP 1.0 §7.2, AMF, and the order in which clients say things.

use testkit::script::amf::{Amf, number, properties, text};
use testkit::script::media::{AVC_HEADER, frame, key};
use testkit::script::{Script, command, id, status};
use testkit::wait_until;

use super::{on_air, seen, studio};

/// nginx-rtmp 34 and 112, and an appliance in sergey-dryabzhinsky's fork 38: they hang until
/// every step is answered.
#[test]
fn nginx_rtmp_34_wirecast_waits_for_fcpublish() {
    let (_studio, address, key) = studio();
    let mut script = Script::connected(address, "live");
    script.command(0, "releaseStream", 2.0, &[Amf::Null, text(&key)]);
    assert_eq!(script.expect_command("_result").1[0], number(2.0));
    script.command(0, "FCPublish", 3.0, &[Amf::Null, text(&key)]);
    assert_eq!(script.expect_command("_result").1[0], number(3.0));
    // membrane_rtmp 115: with the transaction that it belongs to.
    assert_eq!(script.expect_command("onFCPublish").1[0], number(3.0));
    script.command(0, "createStream", 4.0, &[Amf::Null]);
    let created = script.expect_command("_result").1;
    assert_eq!(created, [number(4.0), Amf::Null, number(1.0)]);
    script.command(1, "publish", 5.0, &[Amf::Null, text(&key), text("live")]);
    script.expect_status("NetStream.Publish.Start");
    script.command(0, "FCUnpublish", 6.0, &[Amf::Null, text(&key)]);
    script.expect_command("onFCUnpublish");
}

/// nginx-rtmp 789: the next publication begins before the last has ended.
#[test]
fn nginx_rtmp_789_wirecast_publishes_anew_on_its_connection() {
    let (_studio, address, feed_key) = studio();
    let mut player = Script::playing(address, "camera");
    let mut script = Script::publishing(address, &feed_key);
    script.media(id::VIDEO, 0, &key(1));
    script.command(1, "publish", 0.0, &[Amf::Null, text(&feed_key)]);
    script.expect_status("NetStream.Publish.Start");
    script.media(id::VIDEO, 0, &key(2));
    script.command(0, "FCUnpublish", 0.0, &[Amf::Null, text(&feed_key)]);
    script.command(0, "deleteStream", 0.0, &[Amf::Null, number(1.0)]);
    // Frames that trail behind are nobody's.
    script.media(id::VIDEO, 40, &frame(9));
    script.publish(&feed_key);
    script.expect_status("NetStream.Publish.Start");
    script.media(id::VIDEO, 0, &key(3));
    assert_eq!(player.tags(3).iter().map(|tag| tag.body[10]).collect::<Vec<_>>(), [1, 2, 3]);
}

/// DJI does so too.
#[test]
fn srs_844_haivision_checkbw_first() {
    let (_studio, address, key) = studio();
    let mut script = Script::handshaken(address);
    script.command(0, "_checkbw", 1.0, &[Amf::Null]);
    assert_eq!(script.expect_command("_result").1[0], number(1.0));
    script.connect("live");
    script.command(0, "_checkbw", 2.0, &[Amf::Null]);
    script.expect_command("_result");
    script.publish(&key);
    script.expect_status("NetStream.Publish.Start");
}

/// An `onBWDone` would make clients ask `_checkbw`.
#[test]
fn the_answer_to_connect_is_by_the_book_and_no_more() {
    let (_studio, address, _) = studio();
    let mut script = Script::handshaken(address);
    let object = properties([("app", text("live")), ("objectEncoding", number(3.0))]);
    script.command(0, "connect", 1.0, &[Amf::Object(object)]);
    let mut controls = Vec::new();
    let result = script.expect("the result", |message| match message.type_id {
        id::COMMAND => Some(testkit::script::amf::read(&message.body)),
        other => {
            controls.push(other);
            None
        }
    });
    // The chunk size is the parser's own business.
    let expected = [id::WINDOW_ACKNOWLEDGEMENT_SIZE, id::SET_PEER_BANDWIDTH, id::USER_CONTROL];
    assert_eq!(controls, expected);
    assert_eq!(result[..2], [text("_result"), number(1.0)]);
    let status = &result[3];
    assert_eq!(status.property("code"), Some(&text("NetConnection.Connect.Success")));
    assert_eq!(status.property("level"), Some(&text("status")));
    assert_eq!(status.property("objectEncoding"), Some(&number(3.0)), "as asked for");
    assert_eq!(result[2].property("capabilities"), Some(&number(31.0)));
    script.ping(3);
}

#[test]
fn srs_1883_streamlabs_commands_in_an_order_of_their_own() {
    let (_studio, address, key) = studio();
    let mut script = Script::connected(address, "live");
    script.command(0, "createStream", 2.0, &[Amf::Null]);
    script.command(1, "publish", 3.0, &[Amf::Null, text(&key), text("live")]);
    script.command(0, "FCPublish", 4.0, &[Amf::Null, text(&key)]);
    script.command(0, "releaseStream", 5.0, &[Amf::Null, text(&key)]);
    script.expect_status("NetStream.Publish.Start");
    script.ping(1);
}

/// Transactions of 0, null and strings where there should be others, no kind of publication.
#[test]
fn null_arguments_and_none_at_all() {
    let (_studio, address, key) = studio();
    let mut script = Script::handshaken(address);
    script.message(3, 0, id::COMMAND, 0, &command("connect", 1.0, &[Amf::Null, Amf::Undefined]));
    script.expect_command("_result");
    script.command(0, "releaseStream", 0.0, &[]);
    script.command(0, "FCPublish", 0.0, &[Amf::Null]);
    script.command(0, "createStream", 2.0, &[]);
    script.expect_command("_result");
    script.command(1, "publish", 0.0, &[Amf::Undefined, text(&format!("live/{key}"))]);
    script.expect_status("NetStream.Publish.Start");
}

#[test]
fn kinds_of_publication_other_than_live() {
    let (_studio, address, key) = studio();
    for kind in ["record", "append", "appendWithGap", "LIVE", ""] {
        let mut script = Script::connected(address, "live");
        let stream = script.create_stream();
        script.command(stream, "publish", 5.0, &[Amf::Null, text(&key), text(kind)]);
        script.expect_status("NetStream.Publish.Start");
    }
}

/// It compares the message stream of the answer with the one it asked on.
#[test]
fn gst_rtmp2_on_status_comes_on_the_message_stream_of_the_request() {
    let (_studio, address, key) = studio();
    let mut script = Script::connected(address, "live");
    assert_eq!((script.create_stream(), script.create_stream()), (1, 2));
    script.command(2, "publish", 4.0, &[Amf::Null, text(&key)]);
    assert_eq!(script.expect_status("NetStream.Publish.Start"), 2);
    // It names the stream, not its number.
    script.command(0, "deleteStream", 5.0, &[Amf::Null, text(&key)]);
    script.publish(&key);
    assert_eq!(script.expect_status("NetStream.Publish.Start"), 3);
}

#[test]
fn zlm_2715_media_is_sent_before_the_answer_to_publish() {
    let (_studio, address, feed_key) = studio();
    let mut player = Script::playing(address, "camera");
    let mut script = Script::connected(address, "live");
    let publish = command("publish", 3.0, &[Amf::Null, text(&feed_key)]);
    let mut burst = Vec::new();
    for (type_id, body) in [
        (id::COMMAND, publish),
        (id::VIDEO, AVC_HEADER.to_vec()),
        (id::VIDEO, key(1)),
        (id::VIDEO, frame(2)),
    ] {
        let message =
            testkit::script::chunk::Message { csid: 4, time: 0, type_id, stream: 1, body };
        burst.extend(message.chunks(128));
    }
    script.send(&burst);
    script.expect_status("NetStream.Publish.Start");
    assert_eq!(seen(&player.tags(3))[1..], [(1, 0), (2, 0)]);
}

/// Mobile-SDK-Android 1163: DJI's SDK takes no notice of a denial, so the connection is closed as
/// well. SRS 4037: and Start is never said before the key was looked at.
#[test]
fn srs_4037_dji_ignores_a_denial() {
    let (_studio, address, feed_key) = studio();
    for wrong in
        ["camera", "", "camera-00000000000000000000000000", &feed_key[..feed_key.len() - 1]]
    {
        let mut script = Script::connected(address, "live");
        script.publish(wrong);
        // It goes on as if nothing were wrong.
        script.try_send(&testkit::script::chunk::type_0(4, 0, 0, id::VIDEO, 1));
        let rest = script.rest();
        let codes: Vec<_> = rest.iter().filter_map(status).collect();
        assert_eq!(codes, ["NetStream.Publish.Denied"], "{wrong:?}");
    }
}

/// An unknown command with a transaction waits for a result; `_error` would end some clients.
#[test]
fn unknown_commands_have_results() {
    let (_studio, address, key) = studio();
    let mut script = Script::connected(address, "live");
    for (transaction, name) in (10..).zip(["_checkbw", "FCSubscribe", "setPeerInfo", "xyz", ""]) {
        script.command(0, name, f64::from(transaction), &[Amf::Null]);
        assert_eq!(script.expect_command("_result").1[0], number(transaction), "{name:?}");
    }
    script.publish(&key);
    script.expect_status("NetStream.Publish.Start");
}

/// Type 17 leads with a format byte, and some leave it out.
#[test]
fn e_rtmp_amf3_commands_with_and_without_the_format_byte() {
    let (_studio, address, key) = studio();
    for lead in [&[0][..], &[]] {
        let mut script = Script::connected(address, "live");
        script.create_stream();
        let body = [lead, &command("publish", 3.0, &[Amf::Null, text(&key)])].concat();
        script.message(3, 0, id::COMMAND_AMF3, 1, &body);
        script.expect_status("NetStream.Publish.Start");
    }
}

/// The name comes as an AMF3 string after the marker that switches to AMF3.
#[test]
fn flash_names_its_stream_in_amf3() {
    let (_studio, address, key) = studio();
    let mut script = Script::connected(address, "live");
    script.create_stream();
    let mut body = [&[0][..], &command("publish", 3.0, &[Amf::Null]), &[0x11, 6]].concat();
    body.push((key.len() as u8) << 1 | 1);
    body.extend(key.as_bytes());
    script.message(3, 0, id::COMMAND_AMF3, 1, &body);
    script.expect_status("NetStream.Publish.Start");
}

/// OBS's librtmp ends with `deleteStream` and leaves; others only close, or reset.
#[test]
fn the_ways_to_leave() {
    let (studio, address, key) = studio();
    for name in ["deleteStream", "closeStream", "FCUnpublish", ""] {
        let mut script = Script::publishing(address, &key);
        if !name.is_empty() {
            script.command(1, name, 0.0, &[Amf::Null]);
            script.ping(1);
        }
        drop(script);
        wait_until("the publication is over", testkit::PATIENCE, || {
            let status = studio.status().unwrap();
            status["connections"] == 0 && status["feeds"][0]["publication"].is_null()
        });
    }
}

/// Two encoders with one key: the newest wins, and the older one is told and closed.
#[test]
fn nginx_rtmp_1152_a_stale_publication_is_taken_over() {
    let (_studio, mut first, mut player) = on_air();
    first.media(id::VIDEO, 0, &key(1));
    assert_eq!(seen(&player.tags(1)), [(1, 0)]);
    let (address, key_text) = (_studio.address("rtmp"), _studio.key("camera"));
    let mut second = Script::publishing(address, &key_text);
    second.media(id::VIDEO, 9_000, &key(2));
    assert_eq!(player.tags(1)[0].body, key(2));
    let codes: Vec<_> = first.rest().iter().filter_map(status).collect();
    assert_eq!(codes, ["NetStream.Publish.BadName"]);
}
