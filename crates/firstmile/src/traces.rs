//! Protocol traces of RTMP connections, kept for whoever has to find out what an encoder does.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::platform;
use crate::store::{DataDir, StoreError};

/// Bytes of one trace: minutes of headers, or the seconds in which a session goes wrong.
pub const BYTES: usize = 64 << 10;
/// Traces that are kept; a later one takes the place of the one this many connections before.
const KEPT: u64 = 64;

/// Where traces go: a directory of its own in the data directory.
#[derive(Clone, Debug)]
pub struct Traces {
    directory: PathBuf,
}

impl Traces {
    /// Makes the directory.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn create(data: &DataDir) -> Result<Self, StoreError> {
        let directory = data.file("traces");
        platform::create_private_dir(&directory)
            .map_err(|error| StoreError::io("create", &directory, error))?;
        Ok(Self { directory })
    }

    /// Writes what connection `id` showed, unless it showed nothing; a failure is only logged.
    pub fn keep(&self, id: u64, peer: SocketAddr, why_closed: &str, trace: &str) {
        if trace.is_empty() {
            return;
        }
        let path = self.directory.join(format!("connection-{}.txt", id % KEPT));
        let now = unix_seconds(SystemTime::now());
        let agent = crate::agent();
        let text = format!(
            "{agent}, connection {id} from {peer}, closed at {now} s (Unix time): {why_closed}\n\
             < received, > sent, seconds after it was opened; messages: type on chunk stream/message \
             stream at time: beginning; x for what may be a secret\n{trace}"
        );
        let written = platform::private_file()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        match written {
            Ok(()) => tracing::info!(path = %path.display(), "a trace was written"),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a trace cannot be written");
            }
        }
    }
}

/// Seconds since 1970.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
