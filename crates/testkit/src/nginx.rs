//! nginx with its RTMP module, a server that is not ours: the runners here are tried against it,
//! and the load bench is measured beside it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;

use crate::process::{self, Process, find};
use crate::wait_until;

/// Where distributions keep the module.
const MODULES: [&str; 2] =
    ["/usr/lib/nginx/modules/ngx_rtmp_module.so", "/usr/lib64/nginx/modules/ngx_rtmp_module.so"];

/// A running nginx with one application, `live`; killed when dropped.
#[derive(Debug)]
pub struct Nginx {
    address: SocketAddr,
    _process: Process,
    _directory: TempDir,
}

impl Nginx {
    /// Whether nginx and its RTMP module are installed.
    pub fn is_installed() -> bool {
        find("nginx").is_some() && module().is_some()
    }

    /// Starts it on a free port of 127.0.0.1, with more lines for its application if any.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn start(more: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // nginx takes no port 0: one that was free a moment ago must do.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let module = module().unwrap_or_default();
        let config = format!(
            "load_module {}; daemon off; master_process off; pid pid; error_log stderr info;
             events {{ worker_connections 1024; }}
             rtmp {{ access_log off; server {{
                listen {address}; chunk_size 4096;
                application live {{ live on; wait_key off; idle_streams on; {more} }}
             }} }}",
            module.display()
        );
        std::fs::write(directory.path().join("nginx.conf"), config)?;
        let mut command = process::command(find("nginx").unwrap_or("nginx".into()), None);
        command.arg("-p").arg(directory.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
        let process = Process::start("nginx", &mut command, &directory.path().join("log"))?;
        wait_until("nginx listens", crate::PATIENCE, || TcpStream::connect(address).is_ok());
        Ok(Self { address, _process: process, _directory: directory })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `rtmp://ADDRESS/live/NAME`.
    pub fn url(&self, name: &str) -> String {
        format!("rtmp://{}/live/{name}", self.address)
    }
}

fn module() -> Option<PathBuf> {
    MODULES.iter().map(PathBuf::from).find(|path| path.exists())
}

/// The runners against a server that is not ours:
/// `cargo test -p testkit -- --ignored` where nginx and its RTMP module are installed.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{self, FfmpegPublish, Player, Publisher};
    use crate::frames::{Frames, assert_contiguous_run};
    use crate::{PATIENCE, fixture};

    fn publish_and_play(
        publish: fn(&std::path::Path, &str) -> Publisher,
        play: fn(&str) -> Player,
    ) {
        let nginx = Nginx::start("").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let source = fixture::excerpt(dir.path(), 4);
        let url = nginx.url("camera");
        let mut publisher = publish(&source, &url);
        let mut player = play(&url);
        // nginx-rtmp starts a player wherever it is and keeps no GOP.
        player.wait_frames(40, 40, PATIENCE);
        publisher.wait(PATIENCE).unwrap().expect_success("the publisher");
        player.finish().unwrap();
        let played = Frames::of(&player.file()).unwrap();
        let mut source = Frames::of(&source).unwrap();
        source.video.iter_mut().for_each(|frame| frame.key = true);
        assert_contiguous_run(&source, &played, false);
    }

    fn ffmpeg_publish(input: &std::path::Path, url: &str) -> Publisher {
        FfmpegPublish::new(input, url).start()
    }

    #[test]
    #[ignore = "needs nginx with its RTMP module"]
    fn ffmpeg_to_ffmpeg() {
        publish_and_play(ffmpeg_publish, client::ffmpeg_play);
    }

    #[test]
    #[ignore = "needs nginx with its RTMP module"]
    fn gstreamer_to_gstreamer() {
        publish_and_play(client::gst_publish, client::gst_play);
    }

    #[test]
    #[ignore = "needs nginx with its RTMP module"]
    fn librtmp_to_librtmp() {
        publish_and_play(client::librtmp_publish, client::rtmpdump_play);
    }
}
