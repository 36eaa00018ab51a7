//! `run.json`: how a one-shot command finds the running process.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DataDir, StoreError, is_locked, read_text};
use crate::secret::Token;

const FILE: &str = "run.json";

/// Where a running process answers, and the token that it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The address that its dashboard and API are bound to.
    pub http: SocketAddr,
    /// Its bearer token.
    pub token: Token,
    /// Its process number.
    pub pid: u32,
}

impl Running {
    /// The address to connect to: the loopback one if it is bound to all.
    pub fn connect_address(&self) -> SocketAddr {
        let ip = match self.http.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.http.port())
    }
}

/// The run file of this process, removed on drop.
#[derive(Debug)]
pub struct RunFile {
    path: PathBuf,
    /// The file goes before the lock does.
    _data: DataDir,
}

impl RunFile {
    /// Writes `DATA/run.json`, mode 0600.
    pub fn create(data: &DataDir, http: SocketAddr, token: &Token) -> Result<Self, StoreError> {
        let running = Running { http, token: token.clone(), pid: std::process::id() };
        let text = serde_json::to_vec(&running).expect("a run file is JSON");
        data.write(FILE, &text)?;
        Ok(Self { path: data.file(FILE), _data: data.clone() })
    }

    /// The process that runs on this directory; `None` also for a file that a crash left behind.
    pub fn read(data: &Path) -> Result<Option<Running>, StoreError> {
        if !is_locked(data) {
            return Ok(None);
        }
        let path = data.join(FILE);
        let Some(text) = read_text(&path)? else {
            return Ok(None);
        };
        serde_json::from_str(&text).map(Some).map_err(|error| StoreError::Corrupt {
            path,
            line: Some(error.line()),
            message: error.to_string(),
        })
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_as_long_as_the_process() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(RunFile::read(dir.path()).unwrap(), None);
        let data = DataDir::open(dir.path()).unwrap();
        let token = Token::random();
        let run = RunFile::create(&data, "[::]:8935".parse().unwrap(), &token).unwrap();
        let running = RunFile::read(dir.path()).unwrap().unwrap();
        assert_eq!(running.token, token);
        assert_eq!(running.pid, std::process::id());
        assert_eq!(running.connect_address(), "[::1]:8935".parse().unwrap());
        drop(run);
        assert_eq!(RunFile::read(dir.path()).unwrap(), None);
    }

    #[test]
    fn one_left_by_a_crash_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let run = RunFile::create(&data, "127.0.0.1:1".parse().unwrap(), &Token::random()).unwrap();
        let text = fs::read(data.file(FILE)).unwrap();
        drop(run);
        drop(data);
        fs::write(dir.path().join(FILE), text).unwrap();
        assert_eq!(RunFile::read(dir.path()).unwrap(), None);
    }
}
