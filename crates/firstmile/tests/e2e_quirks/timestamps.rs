//! RTMP 1.0 §5.3.1.2 and §5.3.1.3: deltas, extended timestamps, and time that is odd.

use testkit::script::chunk::{EXTENDED, Message, cut, type_0, type_1, type_2, type_3};
use testkit::script::media::{AAC_HEADER, frame, key, large_key, sound};
use testkit::script::{Script, id};

use super::{on_air, seen};

fn video(time: u32, body: Vec<u8>) -> Message {
    Message { csid: 4, time, type_id: id::VIDEO, stream: 1, body }
}

/// GStreamer, FMLE and OBS since May 2024 write so too: the delta is the timestamp of type 0.
#[test]
fn ffmpeg_rtmppkt_type_3_after_type_0_near_the_start() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.send(&[type_0(4, 40, key(1).len(), id::VIDEO, 1), key(1)].concat());
    publisher.send(&[type_3(4), key(2)].concat());
    publisher.send(&[type_3(4), key(3)].concat());
    assert_eq!(seen(&player.tags(3)), [(1, 0), (2, 40), (3, 80)]);
}

/// mediamtx 1433 and 4718: far from the start it means the same time again.
#[test]
fn mediamtx_1433_librtmp_type_3_after_type_0_repeats_the_time() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.send(&[type_0(4, 90_000, key(1).len(), id::VIDEO, 1), key(1)].concat());
    publisher.send(&[type_3(4), key(2)].concat());
    publisher.send(&[type_2(4, 40), key(3)].concat());
    publisher.send(&[type_3(4), key(4)].concat());
    assert_eq!(seen(&player.tags(4)), [(1, 0), (2, 0), (3, 40), (4, 80)]);
}

#[test]
fn moblin_57_dji_audio_and_video_share_the_deltas_of_a_chunk_stream() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.send(&[type_0(6, 5_000, key(1).len(), id::VIDEO, 1), key(1)].concat());
    publisher.send(&[type_1(6, 10, 3, id::AUDIO), sound(2)].concat());
    publisher.send(&[type_1(6, 30, frame(3).len(), id::VIDEO), frame(3)].concat());
    publisher.send(&[type_1(6, 3, 3, id::AUDIO), sound(4)].concat());
    assert_eq!(seen(&player.tags(4)), [(1, 0), (2, 10), (3, 40), (4, 43)]);
}

#[test]
fn moblin_7d5975c19_two_chunk_streams_on_one_time_base() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.send(&[type_0(6, 5_000, key(1).len(), id::VIDEO, 1), key(1)].concat());
    publisher.send(&[type_0(4, 5_004, 3, id::AUDIO, 1), sound(2)].concat());
    publisher.send(&[type_1(6, 40, frame(3).len(), id::VIDEO), frame(3)].concat());
    publisher.send(&[type_2(4, 23), sound(4)].concat());
    assert_eq!(seen(&player.tags(4)), [(1, 0), (2, 4), (3, 40), (4, 27)]);
}

/// mediamtx 2393, 2556, 2564 and 1550 ("invalid fourCC 42949..."): the values lie just under
/// 2^32, and continuations carry no extended timestamp.
#[test]
fn mediamtx_2393_dji_extended_timestamp_near_the_wrap() {
    let (_studio, mut publisher, mut player) = on_air();
    let start = u32::MAX - 60;
    let body = large_key(1000);
    for (number, step) in [0_u32, 40, 80, 120].into_iter().enumerate() {
        let mut body = body.clone();
        *body.last_mut().unwrap() = number as u8;
        publisher.send(&video(start.wrapping_add(step), body).chunks_without_repetition(128));
    }
    let tags = player.tags(4);
    assert_eq!(seen(&tags), [(0, 0), (1, 40), (2, 80), (3, 120)]);
    assert!(tags.iter().all(|tag| tag.body[..999] == body[..999]));
}

/// Also creytiv/re 184 and Node-Media-Server 25: streams died after 4 h 39 m 37 s.
#[test]
fn node_rtsp_rtmp_server_127_extended_timestamps_are_repeated_on_continuations() {
    let (_studio, mut publisher, mut player) = on_air();
    let body = large_key(1000);
    for (number, step) in [0_u32, 40, 80, 120].into_iter().enumerate() {
        let mut body = body.clone();
        *body.last_mut().unwrap() = number as u8;
        publisher.send(&video(EXTENDED - 60 + step, body).chunks(128));
    }
    let tags = player.tags(4);
    assert_eq!(seen(&tags), [(0, 0), (1, 40), (2, 80), (3, 120)]);
    assert!(tags.iter().all(|tag| tag.body[..999] == body[..999]));
}

/// OBS did until PR 10097: the extended timestamp is left out on continuations, at the border of
/// 24 bits.
#[test]
fn obs_10097_extended_timestamps_are_left_out_on_continuations() {
    let (_studio, mut publisher, mut player) = on_air();
    let body = large_key(1000);
    for step in [0, 40, 80] {
        publisher.send(&video(EXTENDED - 20 + step, body.clone()).chunks_without_repetition(128));
    }
    let tags = player.tags(3);
    assert_eq!(tags.iter().map(|tag| tag.time).collect::<Vec<_>>(), [0, 40, 80]);
    assert!(tags.iter().all(|tag| tag.body == body));
}

/// A payload may look like the timestamp in its first byte; waiting for more would be a stall.
#[test]
fn srs_heuristic_a_last_chunk_of_one_byte_without_repetition() {
    let (_studio, mut publisher, mut player) = on_air();
    let time = 0x6500_0000;
    let mut body = large_key(129);
    body[128] = 0x61;
    publisher.send(&video(time, body.clone()).chunks_without_repetition(128));
    assert!(player.tags(1)[0].body == body);
}

/// Negative deltas are written as 2^32 less something.
#[test]
fn gstreamer_negative_delta_wraps() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.send(&[type_0(6, 8_000, key(1).len(), id::VIDEO, 1), key(1)].concat());
    publisher.send(&[type_1(6, 40, frame(2).len(), id::VIDEO), frame(2)].concat());
    publisher.send(&[type_1(6, 0_u32.wrapping_sub(20), 3, id::AUDIO), sound(3)].concat());
    publisher.send(&[type_1(6, 60, frame(4).len(), id::VIDEO), frame(4)].concat());
    assert_eq!(seen(&player.tags(4)), [(1, 0), (2, 40), (3, 20), (4, 80)]);
}

/// In types 1 and 2 the extended field is a delta by the book; on continuations some repeat the
/// delta, others the time that it leads to.
#[test]
fn enhanced_rtmp_42_extended_deltas() {
    for repeated in [0_u32.wrapping_sub(20), 8_020] {
        let (_studio, mut publisher, mut player) = on_air();
        publisher.send(&[type_0(6, 8_000, key(1).len(), id::VIDEO, 1), key(1)].concat());
        publisher.send(&[type_1(6, 40, frame(2).len(), id::VIDEO), frame(2)].concat());
        publisher.send(&[type_1(4, 8_040, 3, id::AUDIO), sound(9)].concat());
        let body = large_key(300);
        let continuation = [type_3(4), repeated.to_be_bytes().to_vec()].concat();
        let header = type_1(4, 0_u32.wrapping_sub(20), body.len(), id::VIDEO);
        publisher.send(&cut(header, &continuation, &body, 128));
        let tags = player.tags(4);
        assert!(tags[3].body == body, "{repeated:#x} repeated");
    }
}

/// StreamPack and RootEncoder 1039 interleave out of order: each track is in order for itself.
#[test]
fn root_encoder_1039_audio_and_video_out_of_order() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 1_000, &key(1));
    publisher.media(id::AUDIO, 1_010, &sound(2));
    publisher.media(id::VIDEO, 1_200, &frame(3));
    publisher.media(id::AUDIO, 1_033, &sound(4));
    publisher.media(id::AUDIO, 1_056, &sound(5));
    publisher.media(id::VIDEO, 1_240, &frame(6));
    let expected = [(1, 0), (2, 10), (3, 200), (4, 33), (5, 56), (6, 240)];
    assert_eq!(seen(&player.tags(6)), expected);
}

/// RootEncoder 2048: frames of before the retry, stale by seconds, come first; DJI's decoding
/// times are not monotonic. No track goes backwards at the player.
#[test]
fn root_encoder_2048_stale_frames_and_steps_backwards() {
    let (_studio, mut publisher, mut player) = on_air();
    for (number, time) in
        [9_000, 9_040, 8_900, 9_080, 400, 440, 9_120, 9_160].into_iter().enumerate()
    {
        publisher.media(id::VIDEO, time, &key(number as u8));
    }
    let tags = player.tags(8);
    assert!(tags.is_sorted_by_key(|tag| tag.time), "{:?}", seen(&tags));
    assert!(tags[7].time < 1_000, "no step is seen: {:?}", seen(&tags));
}

/// GLive T80 and TouchDesigner (OME 516): each frame is 4294967 ms after the one before.
#[test]
fn mediamtx_4002_glive_timestamps_that_leap() {
    let (_studio, mut publisher, mut player) = on_air();
    for number in 0..20_u32 {
        publisher.media(id::VIDEO, number.wrapping_mul(4_294_967), &key(number as u8));
    }
    let tags = player.tags(20);
    assert!(tags.windows(2).all(|two| (1..=500).contains(&(two[1].time - two[0].time))));
}

/// SRS 2776: both tracks are moved by one offset.
#[test]
fn srs_2776_one_offset_for_both_tracks() {
    let (_studio, mut publisher, mut player) = on_air();
    publisher.media(id::AUDIO, 777_000, AAC_HEADER);
    publisher.media(id::VIDEO, 777_000, &key(1));
    publisher.media(id::AUDIO, 777_011, &sound(2));
    publisher.media(id::VIDEO, 777_033, &frame(3));
    assert_eq!(seen(&player.tags(4)), [(0x10, 0), (1, 0), (2, 11), (3, 33)]);
}

/// A restarted encoder begins at 0 again: the player's time goes on, one frame later.
#[test]
fn obs_studio_4887_players_time_goes_on_over_a_reconnection() {
    let (studio, mut publisher, mut player) = on_air();
    publisher.media(id::VIDEO, 500_000, &key(1));
    publisher.media(id::VIDEO, 500_040, &frame(2));
    assert_eq!(seen(&player.tags(2)), [(1, 0), (2, 40)]);
    drop(publisher);
    let mut again = Script::publishing(studio.address("rtmp"), &studio.key("camera"));
    again.media(id::VIDEO, 0, &key(3));
    again.media(id::VIDEO, 40, &frame(4));
    assert_eq!(seen(&player.tags(2)), [(3, 80), (4, 120)]);
}
