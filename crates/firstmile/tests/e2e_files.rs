//! What recordings become by themselves: files that ffmpeg reads, with every frame.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use media::{Role, Tag, Track};
use serde_json::Value;
use testkit::client::{FfmpegPublish, Speed};
use testkit::process::require;
use testkit::{Node, PATIENCE, UdpProxy, fixture, tempdir, wait_for};

const FIRSTMILE: &str = env!("CARGO_BIN_EXE_firstmile");
const ALL: &str = "[record]\nall = true\n";

fn recordings(studio: &Node) -> Vec<Value> {
    studio.json(&["record", "list"])["recordings"].as_array().expect("a list").clone()
}

/// Waits until the recording at this place of the list is as it should be.
#[track_caller]
fn wait_recording(studio: &Node, at: usize, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_for("the recording", PATIENCE, || {
        recordings(studio).get(at).filter(|recording| is_so(recording)).cloned()
    })
}

/// Whether files have taken the place of the journal.
fn is_whole(recording: &Value) -> bool {
    recording["state"] == "whole" && recording["journal"] == false
}

fn files(recording: &Value) -> Vec<PathBuf> {
    let journal = Path::new(recording["path"].as_str().expect("a path"));
    let names = recording["files"].as_array().expect("files").iter();
    names.map(|file| journal.with_file_name(file["name"].as_str().expect("a name"))).collect()
}

/// The MD5 of each coded frame, by kind of stream.
#[track_caller]
fn frames(file: &Path) -> BTreeMap<String, Vec<String>> {
    require("ffmpeg");
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-i"])
        .arg(file)
        .args("-map 0 -c copy -copyinkf -f framemd5 -".split(' '))
        .output()
        .expect("ffmpeg starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", file.display());
    let mut kinds = Vec::new();
    let mut frames = BTreeMap::<_, Vec<_>>::new();
    for line in String::from_utf8(output.stdout).expect("text").lines() {
        if let Some(kind) = line.strip_prefix("#media_type ") {
            kinds.push(kind.split_once(": ").expect("a kind").1.to_owned());
        } else if !line.starts_with('#') {
            let fields: Vec<_> = line.split(',').map(str::trim).collect();
            let kind = kinds[fields[0].parse::<usize>().expect("a number")].clone();
            frames.entry(kind).or_default().push(fields[5].to_owned());
        }
    }
    frames
}

/// Frames that are decoded, and the length in seconds that the file says it has.
#[track_caller]
fn decoded(file: &Path) -> (Vec<u64>, f64) {
    require("ffprobe");
    let output = Command::new("ffprobe")
        .args("-v error -count_frames -of json -show_entries".split(' '))
        .arg("stream=codec_type,nb_read_frames:format=duration")
        .arg(file)
        .output()
        .expect("ffprobe starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.is_empty(), "{said}");
    let probed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let number = |value: &Value| value.as_str().expect("a number").to_owned();
    let streams = probed["streams"].as_array().expect("streams").iter();
    let counts = streams.map(|stream| number(&stream["nb_read_frames"]).parse().expect("a number"));
    (counts.collect(), number(&probed["format"]["duration"]).parse().expect("a number"))
}

/// Status, head and body of a request.
fn ask(studio: &Node, request: &str, headers: &str) -> (u16, String, Vec<u8>) {
    let address = studio.address("http");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        format!("{request} HTTP/1.1\r\nHost: {address}\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
    (head[9..12].parse().unwrap(), head, answer.split_off(end + 4))
}

#[test]
fn a_recording_becomes_a_file_that_is_downloaded_and_deleted() {
    let dir = tempdir().unwrap();
    let source = fixture::b_frames(dir.path());
    let studio = Node::studio(FIRSTMILE).config(ALL).start().unwrap();
    let mut encoder = FfmpegPublish::new(&source, &studio.url(&studio.key("camera")))
        .speed(Speed::Times(8.0))
        .start();
    let live = wait_recording(&studio, 0, |recording| {
        recording["files"][0]["length_ms"].as_u64().is_some_and(|length| length > 0)
    });
    assert_eq!(live["state"], "recording", "the file grows while the encoder is on air");
    encoder.wait(PATIENCE).unwrap().expect_success("the publisher");
    let recording = wait_recording(&studio, 0, is_whole);
    let file = files(&recording).remove(0);
    assert_eq!(frames(&file), frames(&source), "{recording}");
    let (counts, seconds) = decoded(&file);
    assert_eq!(counts[0], 600);
    assert!((seconds - 20.0).abs() < 0.1, "{seconds}");
    let journal = Path::new(recording["path"].as_str().unwrap());
    assert!(fs::metadata(journal).unwrap().len() < 1_000, "the journal is empty");
    let (code, _, stderr) = studio.command(&["record", "export", "camera", "x.mp4"]).unwrap();
    assert!(code == Some(1) && stderr.contains("is a file already"), "{stderr}");

    let bytes = fs::read(&file).unwrap();
    let name = recording["publication"].as_str().unwrap();
    let place = format!("/api/v1/recordings/{name}/files/1");
    let token = format!("Authorization: Bearer {}\r\n", studio.token());
    assert_eq!(ask(&studio, &format!("GET {place}"), "").0, 401);
    let (status, head, body) = ask(&studio, &format!("GET {place}"), &token);
    assert!(status == 200 && body == bytes, "{head}");
    assert!(head.contains("content-type: video/mp4"), "{head}");
    assert!(head.contains("content-disposition: attachment; filename=\"camera-"), "{head}");
    let range = format!("{token}Range: bytes=100-299\r\n");
    let (status, head, body) = ask(&studio, &format!("GET {place}"), &range);
    assert!(status == 206 && body == bytes[100..300], "{head}");
    assert!(head.contains(&format!("content-range: bytes 100-299/{}", bytes.len())), "{head}");
    // As the page does it.
    let (status, _, body) = ask(&studio, &format!("POST {place}/ticket"), &token);
    let ticket: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 200);
    let path = ticket["path"].as_str().unwrap();
    let (status, head, _) = ask(&studio, &format!("HEAD {path}"), "");
    assert!(status == 200 && head.contains(&format!("content-length: {}", bytes.len())), "{head}");
    assert!(ask(&studio, &format!("GET {path}"), "").2 == bytes);
    assert_eq!(ask(&studio, &format!("GET {path}"), "").0, 401, "once");
    for other in ["files/0", "files/2", "files/../../x", "files/%2e%2e"] {
        let path = format!("GET /api/v1/recordings/{name}/{other}");
        let status = ask(&studio, &path, &token).0;
        assert!((400..=404).contains(&status), "{other}: {status}");
    }
    let recording = format!("/api/v1/recordings/{name}");
    assert_eq!(ask(&studio, &format!("DELETE {recording}"), "").0, 401);
    assert_eq!(ask(&studio, &format!("DELETE {recording}"), &token).0, 204);
    assert_eq!(ask(&studio, &format!("GET {recording}"), &token).0, 404);
    assert_eq!(recordings(&studio), [] as [Value; 0]);
    assert!(!file.exists());
}

#[test]
fn a_killed_studio_completes_the_file_at_its_next_start() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("studio");
    let clip = fixture::clip();
    let studio = Node::studio(FIRSTMILE).data(&data).config(ALL).start().unwrap();
    let encoder = FfmpegPublish::new(&clip, &studio.url(&studio.key("camera"))).start();
    let live = wait_recording(&studio, 0, |recording| {
        let length = |value: &Value| value["length_ms"].as_u64().unwrap_or(0);
        length(recording) > 5_000 && length(&recording["files"][0]) > 0
    });
    studio.kill().unwrap();
    drop(encoder);
    let (_, before) = decoded(&files(&live)[0]);
    assert!(before > 1.0, "what there is plays: {before} s");

    let studio = Node::studio(FIRSTMILE).data(&data).config(ALL).start().unwrap();
    let whole = wait_recording(&studio, 0, is_whole);
    let (_, after) = decoded(&files(&whole)[0]);
    let recorded = live["length_ms"].as_f64().unwrap() / 1_000.0;
    assert!(after >= before && after > recorded - 1.0, "{before} {recorded} {after}");
    let (all, kept) = (frames(&clip), frames(&files(&whole)[0]));
    for (kind, kept) in kept {
        assert_eq!(all[&kind][..kept.len()], kept, "{kind}");
    }
}

#[test]
fn an_outage_on_the_way_leaves_no_hole_in_the_file() {
    let dir = tempdir().unwrap();
    let source = fixture::b_frames(dir.path());
    let relay = Node::relay(FIRSTMILE).start().unwrap();
    let network = UdpProxy::start(relay.address("secure"), Duration::from_millis(20)).unwrap();
    let secure = relay.address("secure").to_string();
    let link = relay.join_link().replace(&secure, &network.address().to_string());
    let config = format!("{ALL}[backhaul]\nmax_delay = \"500ms\"\n");
    let studio = Node::studio(FIRSTMILE).join(&link).config(&config).start().unwrap();
    studio.wait_links(1);
    let url = relay.url(&studio.key("camera"));
    let mut encoder = FfmpegPublish::new(&source, &url).start();
    wait_recording(&studio, 0, |recording| recording["length_ms"].as_u64().unwrap_or(0) > 2_000);
    network.pass(false, false);
    std::thread::sleep(Duration::from_secs(12));
    network.pass(true, true);
    encoder.wait(PATIENCE).unwrap().expect_success("the publisher");
    let whole = wait_recording(&studio, 0, is_whole);
    assert_eq!((&whole["gone"], whole["files"].as_array().unwrap().len()), (&0.into(), 1));
    assert_eq!(frames(&files(&whole)[0]), frames(&source), "{whole}");
}

#[test]
fn long_recordings_are_split_at_keyframes() {
    let dir = tempdir().unwrap();
    // 10 s of it have 60 pictures in a GOP of two seconds.
    let source = fixture::stretched(dir.path(), 1, 0);
    let config = "[record]\nall = true\nsplit_time = \"15s\"\nkeep_journal = true\n\
                  name = \"Show_{feed}_{part}\"\n";
    let studio = Node::studio(FIRSTMILE).config(config).start().unwrap();
    let mut encoder = FfmpegPublish::new(&source, &studio.url(&studio.key("camera")))
        .speed(Speed::Times(20.0))
        .start();
    encoder.wait(PATIENCE).unwrap().expect_success("the publisher");
    let whole = wait_recording(&studio, 0, |recording| recording["state"] == "whole");
    assert_eq!(whole["journal"], true, "it was asked to stay");
    let files = files(&whole);
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str()).collect();
    assert!(files.len() >= 3, "{names:?}");
    assert_eq!(names[0], Some("Show_camera_1.mp4"));
    assert_eq!(names[1], Some("Show_camera_2.mp4"));
    let mut pictures = Vec::new();
    for file in &files {
        pictures.extend(frames(file).remove("video").expect("pictures"));
    }
    assert_eq!(pictures, frames(&source)["video"], "{whole}");
    let of_part = |part: &Value, name: &str| part[name].as_u64().expect("a number");
    let parts = whole["files"].as_array().unwrap();
    for two in parts.windows(2) {
        let end = of_part(&two[0], "offset_ms") + of_part(&two[0], "length_ms");
        assert!(end.abs_diff(of_part(&two[1], "offset_ms")) < 1_000, "{whole}");
        assert!(of_part(&two[0], "length_ms") >= 14_000, "{whole}");
    }
}

#[test]
fn what_mp4_has_no_place_for_becomes_flv() {
    let studio = Node::studio(FIRSTMILE).config(ALL).start().unwrap();
    let url = studio.url(&studio.key("camera"));
    let mut encoder = testkit::OwnClient::ready(&url, rtmp::session::Intent::Publish);
    let speex = |number: i64| {
        let body = vec![0xb2, number as u8, 1, 2, 3];
        Tag::new(Track::Audio, number * 20, body.into())
    };
    assert_eq!(speex(0).role, Role::Frame);
    (0..100).for_each(|number| encoder.send(&speex(number)).unwrap());
    wait_recording(&studio, 0, |recording| recording["tags"] == 100);
    encoder.close();
    let whole = wait_recording(&studio, 0, is_whole);
    let file = files(&whole).remove(0);
    assert!(file.extension().is_some_and(|extension| extension == "flv"), "{whole}");
    let tags = fixture::tags(&file);
    assert_eq!(tags.iter().filter(|tag| tag.track == Track::Audio).count(), 100);
}
