//! Files made of our segments and fragments, read by ffmpeg.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use firstmile::mp4::{self, Run, Sample, Timing, Track};
use media::Tag;
use testkit::{
    Node, OwnClient, PATIENCE, fixture, frames::Frames, process::require, tempdir, wait_until,
};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");

/// A file with one fragment for each picture, sounds with the picture before them.
fn mux(tags: &[Tag]) -> Vec<u8> {
    let mut tracks: Vec<Track> = Vec::new();
    for tag in tags {
        let Some(track) = Track::from_header(tag) else { continue };
        if tracks.iter().all(|other| other.kind() != track.kind()) {
            let kind = track.kind();
            let mut frames = tags.iter().filter(|tag| tag.track == kind).filter_map(mp4::payload);
            tracks.push(track.completed_by(&frames.next().expect("a frame")));
        }
    }
    tracks.sort_by_key(|track| track.kind() != media::Track::Video);
    let mut samples: Vec<Vec<Sample>> = Vec::new();
    for track in &tracks {
        let mut timing = Timing::default();
        let of_track = tags.iter().filter(|tag| tag.track == track.kind());
        let frames = of_track.filter_map(|tag| Some((tag.timestamp, mp4::payload(tag)?)));
        let mut run: Vec<_> = frames
            .map(|(timestamp, payload)| Sample {
                dts: timing.place(track, timestamp, &payload.data).try_into().unwrap(),
                duration: track.sample_length(&payload.data).unwrap_or(3_000),
                composition: Timing::scaled(track, payload.composition_ms.into()) as i32,
                is_keyframe: payload.is_keyframe,
                data: payload.data,
            })
            .collect();
        for index in 1..run.len() {
            run[index - 1].duration = (run[index].dts - run[index - 1].dts).try_into().unwrap();
        }
        samples.push(run);
    }
    let mut file = mp4::init_segment(&tracks).to_vec();
    let seconds = |index: usize, sample: &Sample| sample.dts / u64::from(tracks[index].timescale());
    for second in 0..100 {
        let of_second = |index: usize| {
            let from = samples[index].partition_point(|sample| seconds(index, sample) < second);
            let to = samples[index].partition_point(|sample| seconds(index, sample) <= second);
            Run { track_id: index as u32 + 1, samples: &samples[index][from..to] }
        };
        let runs: Vec<_> = (0..tracks.len()).map(of_second).collect();
        if runs.iter().any(|run| !run.samples.is_empty()) {
            file.extend_from_slice(&mp4::fragment(second as u32 + 1, &runs));
        }
    }
    file
}

fn write(dir: &Path, tags: &[Tag]) -> PathBuf {
    let path = dir.join("ours.mp4");
    std::fs::write(&path, mux(tags)).unwrap();
    path
}

/// Codec, size or sample rate, and frames that are decoded, of each stream.
#[track_caller]
fn probe(path: &Path) -> Vec<String> {
    require("ffprobe");
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-of", "csv=p=0", "-show_entries"])
        .arg("stream=codec_name,width,height,sample_rate,nb_read_frames")
        .arg(path)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn h264_and_aac_play_with_every_frame() {
    let dir = tempdir().unwrap();
    let path = write(dir.path(), &fixture::tags(&fixture::clip()));
    let sounds = Frames::of(&fixture::clip()).unwrap().audio.len();
    assert_eq!(probe(&path), ["h264,640,360,300".to_owned(), format!("aac,44100,{sounds}")]);
}

#[test]
fn b_frames_are_shown_when_they_were() {
    let dir = tempdir().unwrap();
    let source = fixture::b_frames(dir.path());
    let path = write(dir.path(), &fixture::tags(&source));
    assert_eq!(probe(&path)[0], "h264,320,180,600");
    let times = |path: &Path| {
        let output = Command::new("ffprobe")
            .args("-v error -select_streams v -of csv=p=0 -show_entries packet=pts_time".split(' '))
            .arg(path)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let ms = |line: &str| line.trim_end_matches(',').parse::<f64>().unwrap() * 1_000.0;
        text.lines().map(|line| ms(line).round() as i64).collect::<Vec<_>>()
    };
    assert_eq!(times(&path), times(&source));
}

/// What ffmpeg makes of `source` and `codec`, as one fragment for each frame of one track.
#[track_caller]
fn encoded(dir: &Path, source: &str, codec: &str) -> Vec<u8> {
    require("ffmpeg");
    let path = dir.join("theirs.mp4");
    let output = Command::new("ffmpeg")
        .args("-nostdin -v error -y -f lavfi -i".split(' '))
        .arg(source)
        .args(codec.split(' '))
        .args("-t 1 -movflags delay_moov+frag_every_frame+default_base_moof -f mp4".split(' '))
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(path).unwrap()
}

fn boxes(mut bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut all = Vec::new();
    while bytes.len() >= 8 {
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        all.push((&bytes[4..8], &bytes[8..length]));
        bytes = &bytes[length..];
    }
    all
}

/// The content of the first box of this name, wherever it is.
fn find<'a>(bytes: &'a [u8], name: &[u8; 4]) -> &'a [u8] {
    let at = bytes.windows(4).position(|window| window == name).expect("the box is there");
    let length = u32::from_be_bytes(bytes[at - 4..at].try_into().unwrap()) as usize;
    &bytes[at + 4..at - 4 + length]
}

fn samples(file: &[u8]) -> Vec<&[u8]> {
    let all = boxes(file).into_iter();
    all.filter(|(name, data)| *name == b"mdat" && !data.is_empty()).map(|(_, data)| data).collect()
}

/// Enhanced RTMP's tags of a track: its sequence header, then its frames `step` ms apart.
fn enhanced(fourcc: &[u8; 4], header: &[u8], frames: &[&[u8]], step: i64) -> Vec<Tag> {
    let is_audio = [*b"Opus", *b"fLaC"].contains(fourcc);
    let tag = |timestamp, first: u8, body: &[u8]| {
        let kind = if is_audio { media::Track::Audio } else { media::Track::Video };
        Tag::new(kind, timestamp, Bytes::from([&[first], &fourcc[..], body].concat()))
    };
    let mut tags = vec![tag(0, 0x90, header)];
    for (index, frame) in (0..).zip(frames) {
        let first = match (is_audio, index) {
            (true, _) => 0x91,
            (false, 0) => 0x93,
            (false, _) => 0xa3,
        };
        tags.push(tag(index * step, first, frame));
    }
    tags
}

const PICTURES: &str = "testsrc2=size=320x180:rate=25";
const H265: &str =
    "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=0 -tag:v hvc1";
const SOUND: &str = "sine=frequency=440:sample_rate=48000";

#[track_caller]
fn assert_pictures(fourcc: &[u8; 4], header: &[u8; 4], encoder: &str, name: &str, codec: &str) {
    let dir = tempdir().unwrap();
    let theirs = encoded(dir.path(), PICTURES, encoder);
    let (config, frames) = (find(&theirs, header), samples(&theirs));
    assert_eq!(frames.len(), 25);
    let tags = enhanced(fourcc, config, &frames, 40);
    let track = Track::from_header(&tags[0]).expect("a track");
    assert!(track.codec().starts_with(codec), "{}", track.codec());
    let path = write(dir.path(), &tags);
    assert_eq!(probe(&path), [format!("{name},320,180,25")]);
    let ours = std::fs::read(&path).unwrap();
    let entry = &find(&ours, b"stsd")[8..];
    assert_eq!(entry[32..36], [1, 64, 0, 180], "the size is in the entry");
}

#[test]
fn newer_pictures_play() {
    assert_pictures(b"hvc1", b"hvcC", H265, "hevc", "hvc1.1.6.L");
    let av1 = "-c:v libaom-av1 -cpu-used 8 -usage realtime";
    assert_pictures(b"av01", b"av1C", av1, "av1", "av01.0.0");
    let vp9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -lag-in-frames 0";
    assert_pictures(b"vp09", b"vpcC", vp9, "vp9", "vp09.0");
}

/// A second of Opus, and how many packets it has.
#[track_caller]
fn opus(dir: &Path) -> (Vec<Tag>, usize) {
    let theirs = encoded(dir, SOUND, "-c:a libopus -ac 2");
    let d_ops = find(&theirs, b"dOps");
    let mut head = b"OpusHead\x01".to_vec();
    head.push(d_ops[1]);
    head.extend([d_ops[3], d_ops[2], d_ops[7], d_ops[6], d_ops[5], d_ops[4], 0, 0, 0]);
    let frames = samples(&theirs);
    (enhanced(b"Opus", &head, &frames, 20), frames.len())
}

#[test]
fn newer_sounds_play() {
    let dir = tempdir().unwrap();
    let (tags, count) = opus(dir.path());
    let path = write(dir.path(), &tags);
    assert_eq!(probe(&path), [format!("opus,48000,{count}")]);
    let theirs = encoded(dir.path(), SOUND, "-c:a flac -strict -2");
    let frames = samples(&theirs);
    let path = write(dir.path(), &enhanced(b"fLaC", &find(&theirs, b"dfLa")[8..], &frames, 96));
    assert_eq!(probe(&path), [format!("flac,48000,{}", frames.len())]);
}

#[test]
fn mp3_plays() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("mp3.flv");
    let made = Command::new("ffmpeg")
        .args("-nostdin -v error -y -f lavfi -i".split(' '))
        .arg("sine=frequency=440:sample_rate=44100")
        .args("-t 1 -c:a libmp3lame -f flv".split(' '))
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    let tags = fixture::tags(&path);
    let frames = tags.iter().filter(|tag| mp4::payload(tag).is_some()).count();
    let path = write(dir.path(), &tags);
    let probed = probe(&path).remove(0);
    let decoded: usize = probed.strip_prefix("mp3,44100,").expect(&probed).parse().unwrap();
    assert!(frames > 30 && decoded + 1 >= frames, "{decoded} of {frames}");
}

#[test]
fn what_enhanced_rtmp_brings_is_recorded() {
    let dir = tempdir().unwrap();
    let theirs = encoded(dir.path(), PICTURES, H265);
    let mut tags = enhanced(b"hvc1", find(&theirs, b"hvcC"), &samples(&theirs), 40);
    let (sounds, count) = opus(dir.path());
    tags.extend(sounds);
    tags.sort_by_key(|tag| tag.timestamp);
    let studio = Node::studio(FIRSTMILE).config("[record]\nall = true\n").start().unwrap();
    let url = studio.url(&studio.key("camera"));
    let mut encoder = OwnClient::ready(&url, rtmp::session::Intent::Publish);
    tags.iter().for_each(|tag| encoder.send(tag).unwrap());
    let recording = || studio.json(&["record", "list"])["recordings"][0].clone();
    let all = u64::try_from(tags.len()).unwrap();
    wait_until("all is there", PATIENCE, || recording()["tags"] == all);
    encoder.close();
    wait_until("the file is whole", PATIENCE, || recording()["journal"] == false);
    let recording = recording();
    let journal = Path::new(recording["path"].as_str().unwrap());
    let file = journal.with_file_name(recording["files"][0]["name"].as_str().unwrap());
    assert_eq!(probe(&file), ["hevc,320,180,25".to_owned(), format!("opus,48000,{count}")]);
}
