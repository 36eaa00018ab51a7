//! Real clients as child processes: ffmpeg, GStreamer and librtmp.
//!
//! Every player writes an FLV file, and a test waits for pictures in it ([`Player::wait_video`])
//! instead of for time to pass. `rtmpdump` and GStreamer keep the tag bodies as they came; ffmpeg
//! writes its own FLV around the same frames.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use media::{Role, Tag, Track};
use tempfile::TempDir;

use crate::process::{self, Finished, Process, Signal, require};
use crate::{PATIENCE, fixture};

/// How long an interrupted player may take to write the end of its file.
const GRACE: Duration = Duration::from_secs(1);

/// GStreamer's own RTMP verifies certificates unless it is told not to.
const TRUST_ALL: &str = "tls-validation-flags=0";

/// How fast a publisher sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As the timestamps say.
    Realtime,
    /// This many times as fast.
    Times(f64),
    /// Without a pause.
    Burst,
}

/// A running publisher.
#[derive(Debug)]
pub struct Publisher {
    process: Process,
    _directory: TempDir,
}

impl Publisher {
    fn start(name: &str, command: &mut Command) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let process =
            Process::start(name, command.stdout(Stdio::null()), &directory.path().join("log"))
                .unwrap_or_else(|error| panic!("{error:?}"));
        Self { process, _directory: directory }
    }
}

impl Deref for Publisher {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Publisher {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// `ffmpeg -c copy`: publishes a file at a URL.
///
/// It exits with code 0 at the end of the file, with another one when it is refused.
#[derive(Debug)]
#[must_use]
pub struct FfmpegPublish {
    input: std::path::PathBuf,
    url: String,
    speed: Speed,
    forever: bool,
    namespace: Option<String>,
    trusted: Option<std::path::PathBuf>,
}

impl FfmpegPublish {
    /// In real time, once, from this machine.
    pub fn new(input: &Path, url: &str) -> Self {
        Self {
            input: input.to_owned(),
            url: url.to_owned(),
            speed: Speed::Realtime,
            forever: false,
            namespace: None,
            trusted: None,
        }
    }

    /// Another speed.
    pub fn speed(mut self, speed: Speed) -> Self {
        self.speed = speed;
        self
    }

    /// Again and again, with timestamps that go on.
    pub fn forever(mut self) -> Self {
        self.forever = true;
        self
    }

    /// From inside a network namespace.
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Verifies the server's certificate, trusting this authority only.
    pub fn trusting(mut self, authority: &Path) -> Self {
        self.trusted = Some(authority.to_owned());
        self
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// If ffmpeg is not installed.
    #[track_caller]
    pub fn start(self) -> Publisher {
        require("ffmpeg");
        let mut command = process::command("ffmpeg", self.namespace.as_deref());
        command.args(["-nostdin", "-hide_banner", "-v", "info", "-nostats"]);
        match self.speed {
            Speed::Realtime => drop(command.arg("-re")),
            Speed::Times(speed) => drop(command.args(["-readrate", &speed.to_string()])),
            Speed::Burst => {}
        }
        if self.forever {
            command.args(["-stream_loop", "-1"]);
        }
        // Timestamps as they are in the file, not from zero.
        command.arg("-copyts").arg("-i").arg(&self.input).args(["-map", "0:v?", "-map", "0:a?"]);
        command.args(["-c", "copy", "-f", "flv"]);
        if let Some(authority) = &self.trusted {
            command.args(["-tls_verify", "1", "-ca_file"]).arg(authority);
        }
        command.arg(&self.url);
        Publisher::start("ffmpeg (publisher)", &mut command)
    }
}

/// ffmpeg with the test clip, in real time, again and again.
#[track_caller]
pub fn publish_clip(url: &str) -> Publisher {
    FfmpegPublish::new(&fixture::clip(), url).forever().start()
}

/// Sees that who publishes at a URL is turned away.
#[track_caller]
pub fn assert_refused(url: &str) {
    let finished = publish_clip(url).wait(PATIENCE).unwrap();
    assert!(!finished.status.success(), "it was let in");
    assert!(finished.stderr.contains("Server error"), "{}", finished.stderr);
}

/// GStreamer's own RTMP (`rtmp2sink`): publishes an FLV file in real time.
#[track_caller]
pub fn gst_publish(input: &Path, url: &str) -> Publisher {
    let sink = ["rtmp2sink".to_owned(), format!("location={url}"), TRUST_ALL.to_owned()];
    gst_publisher(input, &sink)
}

/// librtmp (GStreamer's `rtmpsink`): publishes an FLV file in real time.
#[track_caller]
pub fn librtmp_publish(input: &Path, url: &str) -> Publisher {
    gst_publisher(input, &["rtmpsink".to_owned(), format!("location={url} live=1")])
}

#[track_caller]
fn gst_publisher(input: &Path, sink: &[String]) -> Publisher {
    require("gst-launch-1.0");
    let mut command = process::command("gst-launch-1.0", None);
    // Neither takes the file as it is: it is demuxed and muxed again.
    command.args(["-e", "filesrc", &format!("location={}", input.display())]);
    command.args("! flvdemux name=d d.video ! h264parse ! queue ! mux.".split(' '));
    command.args("d.audio ! aacparse ! queue ! mux.".split(' '));
    command.args("flvmux streamable=true name=mux ! identity sync=true !".split(' '));
    command.args(sink);
    Publisher::start("gst-launch-1.0 (publisher)", &mut command)
}

/// A running player that writes an FLV file.
#[derive(Debug)]
pub struct Player {
    process: Process,
    directory: TempDir,
}

impl Deref for Player {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Player {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// ffmpeg as a player.
///
/// It holds its last frames back until more come, or until it ends: at the end of the stream, or
/// interrupted.
#[track_caller]
pub fn ffmpeg_play(url: &str) -> Player {
    ffmpeg_play_in(url, None)
}

/// ffmpeg as a player, inside a network namespace if there is one.
#[track_caller]
pub fn ffmpeg_play_in(url: &str, namespace: Option<&str>) -> Player {
    require("ffmpeg");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = process::command("ffmpeg", namespace);
    command.args(["-nostdin", "-hide_banner", "-v", "info", "-nostats", "-copyts", "-i", url]);
    command.args(["-map", "0:v?", "-map", "0:a?", "-c", "copy", "-flush_packets", "1"]);
    command
        .args(["-flvflags", "no_duration_filesize", "-f", "flv"])
        .arg(directory.path().join("out.flv"));
    Player::start("ffmpeg (player)", &mut command, directory)
}

/// GStreamer's own RTMP (`rtmp2src`) as a player.
#[track_caller]
pub fn gst_play(url: &str) -> Player {
    require("gst-launch-1.0");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = process::command("gst-launch-1.0", None);
    let location = format!("location={}", directory.path().join("out.flv").display());
    command.args(["-e", "rtmp2src", &format!("location={url}"), TRUST_ALL, "!"]);
    command.args(["filesink", "buffer-mode=unbuffered", &location]);
    Player::start("gst-launch-1.0 (player)", &mut command, directory)
}

/// librtmp (`rtmpdump`) as a player.
#[track_caller]
pub fn rtmpdump_play(url: &str) -> Player {
    require("rtmpdump");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let out = File::create(directory.path().join("out.flv")).expect("a file");
    // Its own buffer would hide the last frames.
    let mut command = process::command("stdbuf", None);
    command.args(["-o0", "rtmpdump", "--live", "--quiet", "-r", url, "-o", "-"]).stdout(out);
    Player::start("rtmpdump", &mut command, directory)
}

impl Player {
    fn start(name: &str, command: &mut Command, directory: TempDir) -> Self {
        if !directory.path().join("out.flv").exists() {
            command.stdout(Stdio::null());
        }
        let process = Process::start(name, command, &directory.path().join("log"))
            .unwrap_or_else(|error| panic!("{error:?}"));
        Self { process, directory }
    }

    /// The file that it writes.
    pub fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("out.flv")
    }

    /// What it has written so far.
    pub fn tags(&self) -> Vec<Tag> {
        fixture::tags_so_far(&self.file())
    }

    /// Coded frames of one track that it has written so far.
    pub fn frames(&self, track: Track) -> usize {
        let is_frame =
            |tag: &&Tag| tag.track == track && matches!(tag.role, Role::Keyframe | Role::Frame);
        self.tags().iter().filter(is_frame).count()
    }

    /// Waits until it has written this many video frames.
    ///
    /// # Panics
    ///
    /// If it has not within `patience`, or has ended before.
    #[track_caller]
    pub fn wait_video(&mut self, frames: usize, patience: Duration) {
        self.wait_frames(frames, 0, patience);
    }

    /// Waits until it has written this many video and audio frames.
    ///
    /// # Panics
    ///
    /// If it has not within `patience`, or has ended before.
    #[track_caller]
    pub fn wait_frames(&mut self, video: usize, audio: usize, patience: Duration) {
        let start = Instant::now();
        loop {
            let ended = !self.is_running();
            let got = [self.frames(Track::Video), self.frames(Track::Audio)];
            if got[0] >= video && got[1] >= audio {
                return;
            }
            let wanted = [video, audio];
            assert!(!ended, "a player ended after {got:?} of {wanted:?} video and audio frames");
            assert!(
                start.elapsed() < patience,
                "a player has {got:?} of {wanted:?} video and audio frames after {patience:?}"
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Interrupts it, as Ctrl-C does, and waits until its file is complete.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn finish(&mut self) -> Result<Finished> {
        // ffmpeg that waits for media takes note of the second one only.
        for _ in 0..3 {
            self.signal(Signal::Interrupt);
            let start = Instant::now();
            while self.is_running() && start.elapsed() < GRACE {
                sleep(Duration::from_millis(10));
            }
        }
        self.wait(PATIENCE)
    }
}
