//! The time machine: timestamps that cross 2^24, 2^31 and 2^32 ms, at the encoder and at the
//! player, and clocks that step. Real players see every frame, at the right distance from the
//! one before.

use media::{Tag, Track};
use testkit::client::{Player, ffmpeg_play, gst_play, rtmpdump_play};
use testkit::script::Script;
use testkit::script::chunk::Message;
use testkit::{Node, PATIENCE, fixture};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// From here on a chunk header needs its extended field (RTMP 1.0 §5.3.1.3).
const EXTENDED: i64 = 0x00ff_ffff;

/// A studio with real players of its feed, and the pictures that were sent.
struct Show {
    studio: Node,
    players: Vec<(&'static str, Player)>,
    encoder: Script,
    sent: Vec<Tag>,
}

fn is_picture(tag: &Tag) -> bool {
    tag.track == Track::Video && !tag.is_header()
}

/// The clip's first seconds, without metadata. Its keyframes are filled up, so that they take
/// several chunks to a player too: the server's chunks hold 60,000 bytes.
fn clip(seconds: i64) -> Vec<Tag> {
    const FILLER: usize = 130_000;
    /// An H.264 NAL unit that means nothing (ITU-T H.264, §7.3.2.7).
    const FILLER_DATA: u8 = 12;
    let mut tags = fixture::tags(&fixture::clip());
    tags.retain(|tag| tag.track != Track::Data && tag.timestamp < seconds * 1000);
    for tag in tags.iter_mut().filter(|tag| tag.is_keyframe()) {
        let mut body = tag.body.to_vec();
        body.extend((FILLER as u32).to_be_bytes());
        body.push(FILLER_DATA);
        body.extend([0xff; FILLER - 2]);
        body.push(0x80);
        tag.body = body.into();
    }
    tags
}

impl Show {
    fn start() -> Self {
        // On a busy machine a player may be late: here it must not skip.
        let patient = "[ring]\nmax_age = \"60s\"\n[play]\nmax_delay = \"60s\"\n";
        let studio = Node::studio(FIRSTMILE).config(patient).start().unwrap();
        let url = studio.url("camera");
        let players = vec![
            ("ffmpeg", ffmpeg_play(&url)),
            ("librtmp", rtmpdump_play(&url)),
            ("GStreamer", gst_play(&url)),
        ];
        studio.wait_players("camera", players.len() as u64);
        let encoder = Self::encoder(&studio);
        Self { studio, players, encoder, sent: Vec::new() }
    }

    fn encoder(studio: &Node) -> Script {
        Script::publishing(studio.address("rtmp"), &studio.key("camera"))
    }

    /// Another encoder, which begins where it likes.
    fn restart(&mut self) {
        self.encoder = Self::encoder(&self.studio);
    }

    /// Sends tags at `time(tag)`, with the extended timestamp on continuations or without.
    fn send(&mut self, tags: &[Tag], repeats: bool, time: impl Fn(&Tag) -> i64) {
        for tag in tags {
            let (csid, timestamp) = (4 + 2 * tag.track as u32, time(tag));
            let message = Message {
                csid,
                // What goes over the wire is the low 32 bits.
                time: timestamp as u32,
                type_id: tag.track.flv_type(),
                stream: 1,
                body: tag.body.to_vec(),
            };
            self.encoder.send(&match repeats {
                true => message.chunks(128),
                false => message.chunks_without_repetition(128),
            });
            self.sent.push(Tag { timestamp, ..tag.clone() });
        }
    }

    /// Waits for the last frame, ends the studio, compares the pictures one by one, and hands over
    /// what each player has of them.
    fn finish(mut self) -> Vec<(&'static str, Vec<Tag>)> {
        let count = |track| {
            let frames = self.sent.iter().filter(|tag| tag.track == track && !tag.is_header());
            // Players hold back the last frames of one track until the other's come, or the end.
            frames.count().saturating_sub(3)
        };
        let (video, audio) = (count(Track::Video), count(Track::Audio));
        for (_, player) in &mut self.players {
            player.wait_frames(video, audio, PATIENCE);
        }
        self.studio.terminate().unwrap().expect_success("SIGTERM drains");
        let expected: Vec<_> = self.sent.into_iter().filter(is_picture).collect();
        let played = |(name, mut player): (&'static str, Player)| {
            player.wait(PATIENCE).unwrap();
            let mut tags = fixture::tags(&player.file());
            // ffmpeg ends its file with an end of sequence.
            tags.retain(|tag| is_picture(tag) && tag.role != media::Role::Other);
            assert_eq!(tags.len(), expected.len(), "{name}: pictures");
            for (number, (got, sent)) in tags.iter().zip(&expected).enumerate() {
                assert!(got.body == sent.body, "{name}: picture {number} is another");
            }
            (name, tags)
        };
        self.players.into_iter().map(played).collect()
    }
}

fn steps(tags: &[Tag]) -> Vec<i64> {
    tags.windows(2).map(|two| two[1].timestamp - two[0].timestamp).collect()
}

/// Four seconds of media around `boundary`.
fn encoder_crosses(boundary: i64) {
    for repeats in [true, false] {
        let mut show = Show::start();
        let tags = clip(4);
        show.send(&tags, repeats, |tag| boundary - 2000 + tag.timestamp);
        let sent: Vec<_> = tags.into_iter().filter(is_picture).collect();
        for (name, played) in show.finish() {
            assert_eq!(steps(&played), steps(&sent), "{name}, repeated: {repeats}");
            assert!(played[0].timestamp < 1000, "{name} starts at {}", played[0].timestamp);
        }
    }
}

#[test]
fn an_encoders_time_crosses_24_bits() {
    encoder_crosses(EXTENDED);
}

#[test]
fn an_encoders_time_crosses_31_bits() {
    encoder_crosses(1 << 31);
}

#[test]
fn an_encoders_time_crosses_32_bits() {
    encoder_crosses(1 << 32);
}

/// A player's time starts at 0, and needs four hours and 40 minutes for its extended field: the
/// encoder's steps are as long as the clock takes for a pause, and come without one.
#[test]
fn a_players_time_crosses_24_bits() {
    const STEP: i64 = 4_900;
    /// The ring's bound is 4,000 tags: none is lost though nobody waits for the players.
    const TAGS: i64 = 3_600;
    let mut show = Show::start();
    let source = clip(4);
    let (headers, frames): (Vec<_>, Vec<_>) = source.into_iter().partition(Tag::is_header);
    show.send(&headers, true, |_| 0);
    for (number, tag) in (0..TAGS).zip(frames.iter().cycle()) {
        show.send(std::slice::from_ref(tag), true, |_| number * STEP);
    }
    let expected: Vec<_> = show.sent.iter().filter(|tag| is_picture(tag)).cloned().collect();
    assert!(expected.last().is_some_and(|last| last.timestamp > EXTENDED + 100 * STEP));
    for (name, played) in show.finish() {
        assert_eq!(steps(&played), steps(&expected), "{name}");
    }
}

/// An hour forward, two hours back, and an encoder that starts again at 0: players see one line.
#[test]
fn clocks_that_jump_and_step_back_and_restart() {
    const HOUR: i64 = 3_600_000;
    let mut show = Show::start();
    let tags = clip(2);
    show.send(&tags, true, |tag| 2 * HOUR + tag.timestamp);
    show.send(&tags, true, |tag| 3 * HOUR + tag.timestamp);
    show.send(&tags, true, |tag| HOUR + tag.timestamp);
    show.encoder.ping(1);
    show.restart();
    show.send(&tags, true, |tag| tag.timestamp);
    for (name, played) in show.finish() {
        let steps = steps(&played);
        assert!(steps.iter().all(|step| (1..=100).contains(step)), "{name}: {steps:?}");
        let span = played[played.len() - 1].timestamp - played[0].timestamp;
        assert!((7_500..8_500).contains(&span), "{name}: {span} ms for four times two seconds");
    }
}
