//! A recording from the button to the file on the operator's disk, and its end.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::client::publish_clip;
use testkit::frames::{Frames, assert_contiguous_run};
use testkit::{Node, PATIENCE, Value, fixture, http, tempdir, wait_for, wait_until};

use super::{FIRSTMILE, address, assert_content, start_browser};

/// How many frames ffprobe decodes of a file's first track of a kind.
#[track_caller]
fn probe(file: &Path, kind: &str) -> usize {
    let output = Command::new("ffprobe")
        .args(["-v", "warning", "-count_frames", "-select_streams", kind])
        .args("-show_entries stream=nb_read_frames -of csv=p=0".split(' '))
        .arg(file)
        .output()
        .expect("ffprobe starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{text:?}"))
}

/// The files of a directory that are whole.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "mp4")).collect()
}

#[test]
fn a_recording_is_made_downloaded_and_deleted_by_clicking() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("studio");
    let config = "[record]\nkeep_journal = true\n";
    let studio = Node::studio(FIRSTMILE).data(&data).config(config).start().unwrap();
    let api =
        |path: &str| http::get_json(studio.address("http"), path, Some(&studio.token())).unwrap();
    let encoder = publish_clip(&studio.url(&studio.key("camera")));
    let browser = start_browser();
    let mut page = browser.open(&address(&studio)).unwrap();
    let downloads = dir.path().join("downloads");
    std::fs::create_dir(&downloads).unwrap();
    page.downloads(&downloads).unwrap();
    page.wait("the feed", "document.querySelector('.card.live')");
    assert_eq!(page.eval("document.querySelector('.rec, .recorded')").unwrap(), Value::Null);

    page.click_button(".card", "Record").unwrap();
    page.wait("a light", "document.querySelector('.card .rec')");
    wait_until("some seconds are recorded", PATIENCE, || {
        let length = api("/api/v1/recordings")[0]["length_ms"].as_u64();
        length.is_some_and(|length| length > 2_500)
    });
    page.click_button(".card", "Stop recording").unwrap();
    page.wait("no light", "!document.querySelector('.card .rec')");
    page.wait("its row", "document.querySelector('.recorded.is-ended')");
    assert_eq!(studio.feed("camera").unwrap()["state"], "live", "the show goes on");
    // The journal has what was published in between, tag by tag; nobody waits for the encoder to leave.
    let journal = dir.path().join("journal.flv");
    studio.json(&["record", "export", "camera", journal.to_str().unwrap()]);
    let published = Frames::of(&journal).unwrap();
    assert_contiguous_run(&Frames::of(&fixture::clip()).unwrap(), &published, true);
    let (video, audio) = (published.video.len(), published.audio.len());
    assert!(video > 60, "{video} pictures");
    let recording = api("/api/v1/recordings")[0].clone();
    let path = format!("/api/v1/recordings/{}", recording["publication"].as_str().unwrap());
    wait_until("all of it is in the file", PATIENCE, || {
        let detail = api(&path);
        let parts = detail["parts"].as_array().unwrap();
        assert!(parts.len() == 1 && parts[0]["marks"] == Value::Array(vec![]), "{detail}");
        parts[0]["frames"] == (video + audio) as u64
    });
    page.click_button(".recorded", "Download").unwrap();
    wait_until("the file is here", PATIENCE, || !files(&downloads).is_empty());
    let file = files(&downloads).remove(0);
    assert_eq!(file.file_name().unwrap().to_str(), recording["files"][0]["name"].as_str());
    assert_eq!((probe(&file, "v:0"), probe(&file, "a:0")), (video, audio));

    // Switched on again it would go on in this file, as long as the encoder is there.
    std::fs::remove_file(&file).unwrap();
    drop(encoder);
    page.wait("its file", "document.querySelector('.recorded.is-whole')");
    page.click_button(".recorded", "Download").unwrap();
    wait_until("the file is here", PATIENCE, || !files(&downloads).is_empty());
    let file = files(&downloads).remove(0);
    assert_eq!((probe(&file, "v:0"), probe(&file, "a:0")), (video, audio));

    page.click_button(".recorded", "Delete").unwrap();
    page.click_button(".recorded", "Really? The files go").unwrap();
    page.wait("no row", "!document.querySelector('.recorded')");
    assert_eq!(api("/api/v1/recordings"), Value::Array(vec![]));
    wait_for("the disk is free again", PATIENCE, || {
        let left = files(&data.join("recordings/camera"));
        left.is_empty().then_some(())
    });
    assert_content(&mut page);
}
