//! The data directory: one process owns it, every write is atomic, every file is private.

mod admitted;
mod feeds;
mod invites;
mod play;
mod relays;
mod run;
mod verifiers;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use admitted::{Admitted, AdmittedStudio};
pub use feeds::{FIRST_FEED, FeedError, Feeds, StoredFeed};
pub use invites::{Invites, Refused};
pub use play::play_key;
pub use relays::{JoinedRelay, PublicPlace, Relays};
pub use run::{RunFile, Running};
pub use verifiers::{KnownFeed, KnownLogin, KnownStudio, Verifiers};

use crate::config::value::line_of;
use crate::platform;

/// The layout that this program reads and writes.
const FORMAT: u32 = 1;

/// How long to wait for a process that is just leaving, as at a service's restart.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Largest file read whole; a thousand feeds take a tenth of it.
const MAX_FILE: u64 = 4 << 20;

/// An opened data directory, owned by this process until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct DataDir {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Held for its lock only.
    _lock: File,
}

impl DataDir {
    /// Creates the directory if there is none, checks its format and takes its lock.
    ///
    /// # Errors
    ///
    /// [`StoreError::Busy`] while another process owns it, [`StoreError::Newer`] if a newer
    /// program wrote it, and what the file system says.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        platform::create_private_dir(path).map_err(|e| StoreError::io("create", path, e))?;
        let lock = lock(path)?;
        let data = Self { inner: Arc::new(Inner { path: path.to_owned(), _lock: lock }) };
        match check_format(path)? {
            Some(_) => {}
            None => data.write("version", format!("{FORMAT}\n").as_bytes())?,
        }
        Ok(data)
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.inner.path.join(name)
    }

    /// Replaces a file as a whole, mode 0600: after a crash it has the old content or the new.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        write_atomic(&self.file(name), content)
    }

    /// Reads a TOML document; `None` if the file does not exist.
    pub(crate) fn read_toml<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<T>, StoreError> {
        read_toml(&self.file(name))
    }

    /// Writes a TOML document.
    pub(crate) fn write_toml<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let text = toml::to_string_pretty(value).expect("the store's own types are TOML");
        self.write(name, text.as_bytes())
    }
}

/// Whether a process owns this directory now.
pub(crate) fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path.join("lock")) else {
        return false;
    };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = path.join("lock");
    let io_error = |e| StoreError::io("lock", &lock_path, e);
    let mut file = platform::private_file()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(io_error)?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if since.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                // Where locks are mandatory (Windows) the owner's number cannot be read.
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let pid = pid.trim().parse().ok();
                return Err(StoreError::Busy { path: path.to_owned(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(io_error(error)),
        }
    }
    file.set_len(0).map_err(io_error)?;
    file.write_all(std::process::id().to_string().as_bytes()).map_err(io_error)?;
    Ok(file)
}

/// The format of an existing directory, refused if it is newer than this program.
pub(crate) fn check_format(path: &Path) -> Result<Option<u32>, StoreError> {
    let file = path.join("version");
    let Some(text) = read_text(&file)? else {
        return Ok(None);
    };
    let found = text.trim().parse().map_err(|_| StoreError::Corrupt {
        path: file,
        line: Some(1),
        message: "it should hold one number, the format of this directory".into(),
    })?;
    if found > FORMAT {
        return Err(StoreError::Newer { path: path.to_owned(), found });
    }
    Ok(Some(found))
}

/// Reads a file as text; `None` if it does not exist.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", path, error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(|error| StoreError::io("read", path, error))?;
    Ok(Some(text))
}

/// Reads a TOML document; `None` if the file does not exist.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    toml::from_str(&text).map(Some).map_err(|error| StoreError::Corrupt {
        path: path.to_owned(),
        line: error.span().map(|span| line_of(&text, span.start)),
        message: error.message().to_owned(),
    })
}

/// Writes beside the file, syncs, renames, and syncs the directory.
fn write_atomic(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension("new");
    let attempt = || -> io::Result<()> {
        // A left-over of a crash may have any mode; the file must be born private.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = platform::private_file().write(true).create_new(true).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, path)?;
        platform::sync_dir(path.parent().unwrap_or(Path::new(".")))
    };
    attempt().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        StoreError::io("write", path, error)
    })
}

/// The instant that a document means.
pub(crate) fn from_unix_seconds(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Seconds since 1970, as the store's documents write an instant.
pub(crate) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Milliseconds since 1970, where the order within a second counts.
pub(crate) fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What goes wrong with a data directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried: create, lock, read, write.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}{} is damaged: {message}", path.display(), at_line(*line))]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where in it, from 1.
        line: Option<usize>,
        /// What is wrong there.
        message: String,
    },
    /// A newer program wrote the directory.
    #[error(
        "the data directory {} was written by a newer firstmile (format {found}, this program knows {FORMAT})",
        path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Another process owns the directory.
    #[error("another firstmile{} is using {}", with_pid(*pid), path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// Its owner, where the system tells.
        pid: Option<u32>,
    },
    /// A table has reached its bound.
    #[error("{what} are limited to {limit}")]
    Full {
        /// Which table, in words.
        what: &'static str,
        /// Its bound.
        limit: usize,
    },
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run as the user who owns it, or give another directory with --data".into()
            }
            Self::Io { .. } => "check the disk, or give another directory with --data".into(),
            Self::Corrupt { path, .. } => format!(
                "restore {0} from a backup, or move it away to start without it",
                path.display()
            ),
            Self::Newer { .. } => "upgrade firstmile, or give another directory with --data".into(),
            Self::Busy { .. } => {
                "stop that one first, or give this one its own directory with --data".into()
            }
            Self::Full { .. } => "remove some that are no longer used".into(),
        }
    }
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(" line {line}")).unwrap_or_default()
}

fn with_pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/on/demand");
        let data = DataDir::open(&path).unwrap();
        assert!(is_locked(&path));
        let error = DataDir::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Busy { .. }), "{error}");
        let expected = format!("another firstmile (pid {}) is using", std::process::id());
        if cfg!(unix) {
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
        drop(data);
        assert!(!is_locked(&path));
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("version"), "3\n").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("newer firstmile (format 3, this program knows 1)"), "{text}");
        assert!(error.hint().contains("--data"));
    }

    #[test]
    fn a_damaged_file_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        fs::write(data.file("feeds.toml"), "[[feed]]\nname = \"camera\"\nsecret = 7\n").unwrap();
        let error = Feeds::load(&data).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("feeds.toml line 3 is damaged"), "{text}");
    }

    #[test]
    fn writes_are_private_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let data = DataDir::open(&path).unwrap();
        fs::write(data.file("a.new"), "left by a crash").unwrap();
        data.write("a.toml", b"one").unwrap();
        data.write("a.toml", b"two").unwrap();
        assert_eq!(fs::read(data.file("a.toml")).unwrap(), b"two");
        assert!(!data.file("a.new").exists());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&data.file("a.toml")), 0o600);
            assert_eq!(mode(&path), 0o700);
        }
    }
}
