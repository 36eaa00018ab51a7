//! RTMP 1.0 §5.3 and §5.4: chunks and the control messages about them.

use testkit::script::chunk::{Message, cut, type_0, type_1, type_2, type_3};
use testkit::script::media::{AAC_HEADER, frame, key, large_key, sound};
use testkit::script::{Script, id};

use super::{bodies, on_air, seen, studio};

#[test]
fn srs_utest_all_forms_of_the_basic_header() {
    for csid in [3, 63, 64, 319, 320, 65_599] {
        let (_studio, mut publisher, mut player) = on_air();
        let large = large_key(300);
        publisher.message(csid, 0, id::VIDEO, 1, &large);
        // The same chunk stream goes on with a compressed header.
        publisher.send(&[type_1(csid, 40, frame(1).len(), id::VIDEO), frame(1)].concat());
        let tags = player.tags(2);
        assert_eq!((tags[0].body == large, tags[1].time), (true, 40), "chunk stream {csid}");
    }
}

#[test]
fn srs_read_message_header_librtmp_pings_on_a_fresh_chunk_stream_with_type_1() {
    let (_studio, address, _) = studio();
    let mut script = Script::handshaken(address);
    let ping = [0, 6, 0, 0, 0, 9];
    script.send(&[type_1(2, 0, ping.len(), id::USER_CONTROL), ping.to_vec()].concat());
    let pong = script.expect("a pong", |message| {
        (message.type_id == id::USER_CONTROL && message.body[1] == 7).then(|| message.body.clone())
    });
    assert_eq!(pong[2..], ping[2..]);
}

#[test]
fn mac_local_28_dji_type_2_on_a_fresh_chunk_stream() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.send(&type_2(33, 20));
    publisher.media(id::VIDEO, 0, &key(1));
    publisher.send(&type_2(33, 20));
    publisher.media(id::VIDEO, 40, &frame(2));
    assert_eq!(seen(&player.tags(2)), [(1, 0), (2, 40)]);
}

/// The heap overflow was in a client; a server that lets it pass invites the same.
#[test]
fn cve_2016_10191_a_length_that_changes_within_a_message_ends_the_session() {
    let (_studio, mut publisher, _player) = on_air();
    let first = [type_0(4, 0, 300, id::VIDEO, 1), large_key(300)[..128].to_vec()].concat();
    publisher.send(&[first, type_1(4, 0, 5_000, id::VIDEO), vec![0; 128]].concat());
    assert!(publisher.rest().iter().all(|message| message.type_id != id::COMMAND));
}

#[test]
fn srs_and_gortmplib_type_0_within_a_message_ends_the_session() {
    let (_studio, mut publisher, _player) = on_air();
    let first = [type_0(4, 0, 300, id::VIDEO, 1), large_key(300)[..128].to_vec()].concat();
    publisher.send(&[first, type_0(4, 0, 300, id::VIDEO, 1), vec![0; 128]].concat());
    publisher.rest();
}

/// OBS 4096, HaishinKit 8192, SRS 60000, gortmplib 65536; 128 is where all begin.
#[test]
fn chunk_sizes_that_encoders_announce() {
    let (_studio, mut publisher, mut player) = on_air();
    for (time, size) in (0..).zip([128, 4096, 8192, 60_000, 65_536, 128]) {
        publisher.set_chunk_size(size);
        let body = large_key(150_000);
        publisher.media(id::VIDEO, time * 40, &body);
        let tags = player.tags(1);
        assert!(tags[0].body == body, "chunks of {size}");
    }
}

/// The number is 2048 with its bytes swapped: the encoder goes on in chunks as large as that.
#[test]
fn restreamer_385_vdk_16_a_chunk_size_with_its_bytes_swapped() {
    whole_messages_after(134_217_728);
}

#[test]
fn nginx_rtmp_1042_a_chunk_size_of_2147483647() {
    whole_messages_after(2_147_483_647);
}

fn whole_messages_after(size: u32) {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.set_chunk_size(size);
    let body = large_key(200_000);
    publisher.media(id::VIDEO, 0, &body);
    publisher.media(id::VIDEO, 40, &frame(1));
    let tags = player.tags(2);
    assert!(tags[0].body == body);
    assert_eq!(tags[1].time, 40);
}

/// It takes effect at once, for the rest of a message on another chunk stream too.
#[test]
fn spec_5_4_1_a_chunk_size_between_the_chunks_of_a_message() {
    let (_studio, mut publisher, mut player) = on_air();
    let body = large_key(1000);
    publisher.send(&[type_0(6, 0, 1000, id::VIDEO, 1), body[..128].to_vec()].concat());
    publisher.set_chunk_size(400);
    publisher.send(&cut(type_3(6), &type_3(6), &body[128..], 400));
    assert!(player.tags(1)[0].body == body);
}

#[test]
fn mediamtx_4673_an_abort_discards_what_came_of_a_message() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.send(&[type_0(6, 0, 300, id::VIDEO, 1), vec![0x17; 128]].concat());
    publisher.message(2, 0, id::ABORT, 0, &6_u32.to_be_bytes());
    publisher.message(6, 0, id::VIDEO, 1, &key(1));
    // Of what is not under way, or was never heard of.
    publisher.message(2, 0, id::ABORT, 0, &6_u32.to_be_bytes());
    publisher.message(2, 0, id::ABORT, 0, &700_u32.to_be_bytes());
    publisher.message(6, 40, id::VIDEO, 1, &frame(2));
    assert_eq!(seen(&player.tags(2)), [(1, 0), (2, 40)]);
}

#[test]
fn mediamtx_4807_ptzoptics_control_messages_on_the_chunk_stream_of_media() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 0, &key(1));
    publisher.message(4, 0, id::SET_CHUNK_SIZE, 1, &1024_u32.to_be_bytes());
    publisher.chunk_size = 1024;
    publisher.message(4, 40, id::WINDOW_ACKNOWLEDGEMENT_SIZE, 1, &100_000_u32.to_be_bytes());
    let body = large_key(3000);
    publisher.media(id::VIDEO, 40, &body);
    assert_eq!(bodies(player.tags(2)), [key(1), body]);
}

/// SRS 598 and 730, nginx-rtmp 354 (FMLE), joy4 3 (Wirecast leaves after 1:30): an encoder that
/// named no window, and hears no acknowledgement, stops when its own is full.
#[test]
fn srs_598_acknowledgements_come_unasked_and_add_up() {
    let (_studio, mut publisher, _player) = on_air();
    publisher.set_chunk_size(65_536);
    let body = large_key(400_000);
    let mut sent = 3073;
    let mut last = 0;
    for time in 0..20 {
        publisher.media(id::VIDEO, time * 40, &body);
        sent += body.len() as u32;
        if sent - last > 1_300_000 {
            let acknowledged = publisher.expect_control(id::ACKNOWLEDGEMENT);
            let number = u32::from_be_bytes(acknowledged.try_into().unwrap());
            assert!(number > last, "{number} after {last}: it counts all there ever was");
            assert!(number <= sent + 2000, "{number} of {sent}");
            last = number;
        }
    }
    assert!(last > 5_000_000, "{last}");
}

#[test]
fn a_small_window_is_acknowledged_as_asked() {
    let (_studio, mut publisher, _player) = on_air();
    publisher.message(2, 0, id::WINDOW_ACKNOWLEDGEMENT_SIZE, 0, &20_000_u32.to_be_bytes());
    publisher.media(id::VIDEO, 0, &large_key(15_000));
    publisher.expect_control(id::ACKNOWLEDGEMENT);
}

#[test]
fn mediamtx_5512_unknown_user_control_events_are_ignored() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 0, &key(1));
    // 26 and 27 ask for SWF verification, 31 and 32 tell of buffers; the last are cut short.
    for event in [&[0, 26][..], &[0, 27, 1, 1], &[0, 31, 0, 0, 0, 1], &[0, 32, 0, 0, 0, 1], &[0]] {
        publisher.message(2, 0, id::USER_CONTROL, 0, event);
    }
    publisher.media(id::VIDEO, 40, &frame(2));
    assert_eq!(seen(&player.tags(2)), [(1, 0), (2, 40)]);
}

#[test]
fn librtmp_set_buffer_length_before_create_stream() {
    let (_studio, address, key) = studio();
    let mut script = Script::connected(address, "live");
    script.message(2, 0, id::USER_CONTROL, 0, &[0, 3, 0, 0, 0, 0, 0, 0, 0x27, 0x10]);
    script.publish(&key);
    script.expect_status("NetStream.Publish.Start");
}

/// FMS sends them to its clients; nobody should to a server, and nothing should break.
#[test]
fn shared_objects_and_unknown_types_are_ignored() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 0, &key(1));
    for type_id in [16, 19, 7, 0, 255] {
        publisher.message(3, 0, type_id, 0, b"whatever this is");
    }
    publisher.media(id::VIDEO, 40, &frame(2));
    assert_eq!(seen(&player.tags(2)), [(1, 0), (2, 40)]);
}

#[test]
fn spec_7_1_6_an_aggregate_is_split_and_its_times_are_moved() {
    let (_studio, mut publisher, mut player) = on_air();
    let mut body = Vec::new();
    for (type_id, time, part) in [(9, 700_u32, key(1)), (8, 712, sound(2)), (9, 740, frame(3))] {
        body.extend([
            type_id,
            0,
            0,
            part.len() as u8,
            0,
            (time >> 8) as u8,
            time as u8,
            0,
            0,
            0,
            0,
        ]);
        body.extend(&part);
        body.extend((part.len() as u32 + 11).to_be_bytes());
    }
    publisher.media(id::AGGREGATE, 5000, &body);
    publisher.media(id::VIDEO, 5080, &frame(4));
    assert_eq!(seen(&player.tags(4)), [(1, 0), (2, 12), (3, 40), (4, 80)]);
}

#[test]
fn audio_and_video_interleave_chunk_by_chunk() {
    let (_studio, mut publisher, mut player) = on_air();
    let video = large_key(500);
    publisher.send(&[type_0(6, 0, 500, id::VIDEO, 1), video[..128].to_vec()].concat());
    publisher.message(4, 0, id::AUDIO, 1, AAC_HEADER);
    publisher.send(&[type_3(6), video[128..256].to_vec()].concat());
    publisher.send(&[type_1(4, 23, 3, id::AUDIO), sound(2)].concat());
    publisher.send(&cut(type_3(6), &type_3(6), &video[256..], 128));
    let tags = player.tags(3);
    assert!(tags.iter().any(|tag| tag.body == video));
    assert!(tags.iter().any(|tag| tag.body == sound(2)));
}

/// What a message says about itself is read little-endian in one place only.
#[test]
fn spec_4_the_message_stream_id_is_little_endian() {
    let (_studio, address, feed_key) = studio();
    let mut script = Script::connected(address, "live");
    script.create_stream();
    let second = script.create_stream();
    assert!(second > 1, "each has a number of its own");
    script.command(
        second,
        "publish",
        0.0,
        &[testkit::script::amf::Amf::Null, testkit::script::amf::text(&feed_key)],
    );
    assert_eq!(script.expect_status("NetStream.Publish.Start"), second);
    let message = Message { csid: 4, type_id: id::VIDEO, stream: second, body: key(1), time: 0 };
    script.send(&message.chunks(128));
    script.ping(5);
}
