//! The recorder with the real binary: what an encoder sent is in the file, whatever happens.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::client::{FfmpegPublish, Speed, ffmpeg_play};
use testkit::frames::{Frames, assert_contiguous_run, assert_equal};
use testkit::{Node, PATIENCE, fixture, tempdir, wait_for};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");
/// Journals stay as they are, to be exported.
const JOURNALS: &str = "[record]\nformat = \"journal\"\n";

/// The recordings as the running studio lists them.
fn recordings(studio: &Node) -> Vec<Value> {
    let list = studio.json(&["record", "list"]);
    list["recordings"].as_array().expect("a list").clone()
}

/// Waits until the recording at this place of the list is as it should be.
#[track_caller]
fn wait_recording(studio: &Node, at: usize, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_for("the recording", PATIENCE, || {
        recordings(studio).get(at).filter(|recording| is_so(recording)).cloned()
    })
}

/// Exports a recording and checks that ffmpeg decodes the file without a complaint.
#[track_caller]
fn export(studio: &Node, which: &str, dir: &Path) -> (PathBuf, Value) {
    let file = dir.join(format!("{which}.flv"));
    let exported = studio.json(&["record", "export", which, file.to_str().expect("a path")]);
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "warning", "-i"])
        .arg(&file)
        .args(["-f", "null", "-"])
        .output()
        .expect("ffmpeg starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    (file, exported)
}

/// The seconds that ffprobe sees.
#[track_caller]
fn duration(file: &Path) -> f64 {
    let output = Command::new("ffprobe")
        .args("-v error -show_entries format=duration -of csv=p=0".split(' '))
        .arg(file)
        .output()
        .expect("ffprobe starts");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{text:?}"))
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

#[test]
fn a_recording_survives_the_kill_of_its_studio() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("studio");
    let clip = fixture::clip();
    let source = Frames::of(&clip).unwrap();

    let studio = Node::studio(FIRSTMILE).data(&data).config(JOURNALS).start().unwrap();
    assert_eq!(studio.json(&["record", "on", "camera"])["recorded"], true);
    let first = FfmpegPublish::new(&clip, &studio.url(&studio.key("camera"))).start();
    let live = wait_recording(&studio, 0, |recording| number(recording, "tags") > 150);
    assert_eq!((&live["complete"], number(&live, "missing")), (&Value::Bool(false), 0));
    // The journal is read while it is written.
    let (file, _) = export(&studio, "camera", dir.path());
    assert_eq!(assert_contiguous_run(&source, &Frames::of(&file).unwrap(), false), 0);
    studio.kill().unwrap();
    drop(first);

    let studio = Node::studio(FIRSTMILE).data(&data).config(JOURNALS).start().unwrap();
    let killed = recordings(&studio).remove(0);
    assert_eq!(killed["complete"], true, "nobody has more of it");
    assert!(number(&killed, "tags") >= number(&live, "tags"));
    let mut second = FfmpegPublish::new(&clip, &studio.url(&studio.key("camera")))
        .speed(Speed::Times(4.0))
        .start();
    second.wait(PATIENCE).unwrap().expect_success("the second publisher");
    let whole = wait_recording(&studio, 1, |recording| recording["complete"] == true);
    assert_eq!((number(&whole, "missing"), number(&whole, "gone")), (0, 0));
    let status = studio.feed("camera").unwrap();
    let recording = &status["recording"];
    assert_eq!((&recording["on"], number(recording, "publications")), (&Value::Bool(true), 2));
    assert_eq!((number(recording, "missing"), number(recording, "dropped")), (0, 0));
    assert_eq!(status["players"], 0, "the recorder is no player");

    // By its digits, and the latest by the feed's name; again once the studio is stopped.
    let digits = &killed["publication"].as_str().unwrap()[..12];
    let (cut_short, exported) = export(&studio, digits, dir.path());
    let frames = Frames::of(&cut_short).unwrap();
    assert_eq!(assert_contiguous_run(&source, &frames, false), 0);
    assert!(frames.video.len() >= 60 && exported["open_hole"].is_null(), "{exported}");
    let (latest, _) = export(&studio, "camera", dir.path());
    assert_equal(&source, &Frames::of(&latest).unwrap());
    assert!((duration(&latest) - 10.0).abs() < 0.2, "{}", duration(&latest));
    studio.terminate().unwrap().expect_success("the studio");

    let again = dir.path().join("again.flv");
    let (data, file) = (data.to_str().unwrap(), again.to_str().unwrap());
    let arguments = ["record", "export", "camera", file, "--data", data];
    let (code, stdout, stderr) = Node::run(FIRSTMILE, &arguments, PATIENCE).unwrap();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with(&format!("Wrote {file}: 10")), "{stdout}");
    assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&latest).unwrap());
}

#[test]
fn recording_begins_and_ends_in_the_middle() {
    let dir = tempdir().unwrap();
    let clip = fixture::clip();
    let studio = Node::studio(FIRSTMILE).config(JOURNALS).start().unwrap();
    let _encoder = FfmpegPublish::new(&clip, &studio.url(&studio.key("camera")))
        .speed(Speed::Times(2.0))
        .forever()
        .start();
    studio.wait_feed("camera", "live");
    assert_eq!(recordings(&studio), [] as [Value; 0]);
    studio.json(&["record", "on", "camera"]);
    wait_recording(&studio, 0, |recording| number(recording, "length_ms") > 3_000);
    studio.json(&["record", "off", "camera"]);
    let off = wait_recording(&studio, 0, |recording| recording["complete"] == true);
    assert_eq!(studio.feed("camera").unwrap()["state"], "live");
    let (file, exported) = export(&studio, "camera", dir.path());
    let frames = Frames::of(&file).unwrap();
    assert_contiguous_run(&Frames::of(&clip).unwrap(), &frames, true);
    assert!(frames.video.len() > 80, "{} pictures", frames.video.len());
    assert_eq!(number(&exported, "holes"), 0, "{exported}");
    // On again: another part of the same publication, after a hole that stays.
    studio.json(&["record", "on", "camera"]);
    let more = |recording: &Value| number(recording, "tags") > number(&off, "tags") + 100;
    wait_recording(&studio, 0, more);
    studio.json(&["record", "off", "camera"]);
    wait_recording(&studio, 0, |recording| recording["complete"] == true);
    let (file, _) = export(&studio, "camera", dir.path());
    assert!(Frames::of(&file).unwrap().video.len() > frames.video.len() + 30);
}

#[test]
fn what_comes_by_a_relay_is_recorded() {
    let dir = tempdir().unwrap();
    let source = fixture::b_frames(dir.path());
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let studio = Node::studio(FIRSTMILE)
        .join(relay.join_link())
        .config(&format!("{JOURNALS}all = true\n"))
        .start()
        .unwrap();
    studio.wait_links(1);
    let (code, _, stderr) = studio.command(&["record", "off", "camera"]).unwrap();
    assert!(code == Some(1) && stderr.contains("this studio records every feed"), "{stderr}");
    let url = relay.url(&studio.key("camera"));
    let mut encoder = FfmpegPublish::new(&source, &url).speed(Speed::Times(8.0)).start();
    encoder.wait(PATIENCE).unwrap().expect_success("the publisher");
    studio.wait_feed("camera", "waiting");
    let frames = Frames::of(&source).unwrap();
    let tags = (frames.video.len() + frames.audio.len()) as u64;
    wait_recording(&studio, 0, |recording| number(recording, "tags") >= tags);
    let (file, _) = export(&studio, "camera", dir.path());
    assert_equal(&frames, &Frames::of(&file).unwrap());
}

#[cfg(unix)]
#[test]
fn a_full_disk_stops_the_recording_and_nothing_else() {
    let studio = Node::studio(FIRSTMILE)
        .config("[record]\nall = true\nkeep_free = \"8000000 GiB\"\n")
        .start()
        .unwrap();
    let mut player = ffmpeg_play(&studio.url("camera"));
    studio.wait_players("camera", 1);
    let clip = fixture::clip();
    let _encoder = FfmpegPublish::new(&clip, &studio.url(&studio.key("camera"))).forever().start();
    player.wait_video(60, PATIENCE);
    let status = studio.status().unwrap();
    let alarm = status["alarms"][0].as_str().unwrap_or_default();
    assert!(alarm.starts_with("nothing is recorded: less than 8000000 GiB is free"), "{status}");
    let recording = &status["feeds"][0]["recording"];
    assert_eq!(recording["alarm"], alarm);
    assert!(number(recording, "dropped") > 0, "{recording}");
    assert_eq!(studio.log().matches("nothing is recorded").count(), 1);
}
