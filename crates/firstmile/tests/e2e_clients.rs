//! Real encoders and players, through a studio alone and through relay and studio.

use std::path::Path;
use std::time::Duration;

use media::Track;
use testkit::client::{
    FfmpegPublish, Player, Publisher, Speed, ffmpeg_play, gst_play, gst_publish, librtmp_publish,
    publish_clip, rtmpdump_play,
};
use testkit::frames::{Frames, assert_contiguous_run, assert_equal};
use testkit::{Node, PATIENCE, fixture, tempdir, wait_until};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

fn studio() -> Node {
    Node::studio(FIRSTMILE).start().unwrap()
}

fn relay_and_studio() -> (Node, Node) {
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let studio = Node::studio(FIRSTMILE).join(relay.join_link()).start().unwrap();
    studio.wait_links(1);
    (relay, studio)
}

/// Publishes `source` to the node `at` while a player waits at the studio, and compares every
/// frame from the first to the last.
#[track_caller]
fn whole(
    studio: Node,
    relay: Option<&Node>,
    source: &Path,
    publish: impl FnOnce(&Path, &str) -> Publisher,
    play: impl FnOnce(&str) -> Player,
) -> Player {
    let expected = Frames::of(source).unwrap();
    let mut player = play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let mut publisher = publish(source, &relay.unwrap_or(&studio).url(&studio.key("camera")));
    publisher.wait(Duration::from_secs(40)).unwrap().expect_success("the publisher");
    // Players hold back the last frames of one track until the other's come, or the end.
    let nearly = |frames: usize| frames.saturating_sub(3);
    player.wait_frames(nearly(expected.video.len()), nearly(expected.audio.len()), PATIENCE);
    studio.wait_feed("camera", "waiting");
    assert_eq!(studio.extra_output(), [""; 0], "one line on standard output");
    studio.terminate().unwrap().expect_success("SIGTERM drains");
    player.wait(PATIENCE).unwrap();
    assert_equal(&expected, &Frames::of(&player.file()).unwrap());
    player
}

fn ffmpeg_publish(source: &Path, url: &str) -> Publisher {
    FfmpegPublish::new(source, url).start()
}

#[test]
fn ffmpeg_through_a_studio_alone() {
    let studio = studio();
    whole(studio, None, &fixture::clip(), ffmpeg_publish, ffmpeg_play);
}

#[test]
fn ffmpeg_through_relay_and_studio() {
    let (relay, studio) = relay_and_studio();
    whole(studio, Some(&relay), &fixture::clip(), ffmpeg_publish, ffmpeg_play);
    assert_eq!(relay.extra_output(), [""; 0], "one line on standard output");
    relay.terminate().unwrap().expect_success("SIGTERM drains");
}

#[test]
fn gstreamer_through_relay_and_studio() {
    let (relay, studio) = relay_and_studio();
    let dir = tempdir().unwrap();
    whole(studio, Some(&relay), &fixture::excerpt(dir.path(), 4), gst_publish, gst_play);
}

#[test]
fn librtmp_through_relay_and_studio() {
    let (relay, studio) = relay_and_studio();
    let dir = tempdir().unwrap();
    whole(studio, Some(&relay), &fixture::excerpt(dir.path(), 4), librtmp_publish, rtmpdump_play);
}

#[test]
fn five_minutes_of_timestamps_pass_the_extended_field() {
    const SPEED: f64 = 60.0;
    let (relay, studio) = relay_and_studio();
    let dir = tempdir().unwrap();
    // Starts a minute before 2^24 milliseconds, where four more bytes are needed.
    let source = fixture::stretched(dir.path(), 5, 0x00ff_ffff - 60_000);
    let publish = |source: &Path, url: &str| {
        FfmpegPublish::new(source, url).speed(Speed::Times(SPEED)).start()
    };
    let player = whole(studio, Some(&relay), &source, publish, rtmpdump_play);
    let span = |path: &Path| {
        let mut tags = fixture::tags(path);
        tags.retain(|tag| tag.track == Track::Video && !tag.is_header());
        tags.windows(2).map(|two| two[1].timestamp - two[0].timestamp).collect::<Vec<_>>()
    };
    let (sent, played) = (span(&source), span(&player.file()));
    // ffmpeg ends its publication with one tag more.
    assert_eq!(sent[..], played[..sent.len()], "the distances between pictures");
}

#[test]
fn audio_alone() {
    let (relay, studio) = relay_and_studio();
    let dir = tempdir().unwrap();
    let source = fixture::audio_only(dir.path(), 4);
    whole(studio, Some(&relay), &source, ffmpeg_publish, rtmpdump_play);
}

#[test]
fn b_frames_and_a_gop_of_ten_seconds() {
    let (relay, studio) = relay_and_studio();
    let dir = tempdir().unwrap();
    let source = fixture::b_frames(dir.path());
    let publish =
        |source: &Path, url: &str| FfmpegPublish::new(source, url).speed(Speed::Times(4.0)).start();
    let player = whole(studio, Some(&relay), &source, publish, rtmpdump_play);
    let composition = |path: &Path| {
        let mut tags = fixture::tags(path);
        tags.retain(|tag| tag.track == Track::Video && tag.body.get(1) == Some(&1));
        tags.into_iter().map(|tag| tag.body.slice(2..5)).collect::<Vec<_>>()
    };
    let expected = composition(&source);
    assert!(expected.iter().any(|time| time[..] != [0, 0, 0]), "the source has B-frames");
    assert_eq!(composition(&player.file()), expected, "composition times");
}

#[test]
fn a_late_player_gets_a_picture_and_no_hole() {
    let (relay, studio) = relay_and_studio();
    let source = Frames::of(&fixture::clip()).unwrap();
    let mut early = ffmpeg_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let url = relay.url(&studio.key("camera"));
    let _publisher = publish_clip(&url);
    // In the middle of the second GOP.
    early.wait_video(90, PATIENCE);

    for play in [ffmpeg_play as fn(&str) -> Player, gst_play, rtmpdump_play] {
        let mut late = play(&studio.url("camera"));
        late.wait_frames(75, 40, PATIENCE);
        late.finish().unwrap();
        let began = assert_contiguous_run(&source, &Frames::of(&late.file()).unwrap(), true);
        assert!(began > 0, "it did not start with the encoder");
    }
    early.finish().unwrap();
    assert_contiguous_run(&source, &Frames::of(&early.file()).unwrap(), true);
}

#[test]
fn players_stay_while_the_encoder_comes_back() {
    let (relay, studio) = relay_and_studio();
    let url = relay.url(&studio.key("camera"));
    let mut player = rtmpdump_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let mut first = publish_clip(&url);
    player.wait_video(45, PATIENCE);
    first.stop(testkit::process::Signal::Kill).unwrap();
    let before = player.frames(Track::Video);
    let _second = publish_clip(&url);
    player.wait_video(before + 90, PATIENCE);
    player.finish().unwrap();
    let mut tags = fixture::tags(&player.file());
    tags.retain(|tag| tag.track == Track::Video);
    assert!(tags.is_sorted_by_key(|tag| tag.timestamp), "one monotonic clock");
}

#[test]
fn a_player_leaves_and_is_not_counted_any_more() {
    let studio = studio();
    let mut player = ffmpeg_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    player.stop(testkit::process::Signal::Kill).unwrap();
    studio.wait_players("camera", 0);
    wait_until("no connection is left", PATIENCE, || {
        studio.status().is_ok_and(|status| status["connections"] == 0)
    });
}
