use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{self, Finished, Process, Signal};
use crate::{PATIENCE, http, wait_for};

/// How a node is to be started; [`Launch::start`] starts it.
///
/// Without another word every address is `127.0.0.1:0` and the data directory a temporary one.
#[derive(Debug)]
#[must_use]
pub struct Launch {
    program: PathBuf,
    role: &'static str,
    data: Option<PathBuf>,
    namespace: Option<String>,
    /// Option and value; a later one replaces an earlier one.
    addresses: Vec<(&'static str, String)>,
    config: Option<String>,
    arguments: Vec<OsString>,
}

impl Launch {
    fn new(program: impl Into<PathBuf>, role: &'static str, addresses: &[&'static str]) -> Self {
        let local = |option: &&'static str| (*option, "127.0.0.1:0".to_owned());
        Self {
            program: program.into(),
            role,
            data: None,
            namespace: None,
            addresses: addresses.iter().map(local).collect(),
            config: None,
            arguments: Vec::new(),
        }
    }

    /// Uses this data directory, which outlives the node.
    pub fn data(mut self, data: impl Into<PathBuf>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// Runs in this network namespace.
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Binds RTMP here.
    pub fn rtmp(self, address: &str) -> Self {
        self.address("--rtmp", address.to_owned())
    }

    /// Binds the relay's secure door here.
    pub fn secure(self, address: &str) -> Self {
        self.address("--secure", address.to_owned())
    }

    /// Binds RTMPS on a port of its own here; without this, it is off.
    pub fn rtmps(self, address: &str) -> Self {
        self.address("--rtmps", address.to_owned())
    }

    /// Binds dashboard and API here.
    pub fn http(self, address: &str) -> Self {
        self.address("--http", address.to_owned())
    }

    fn address(mut self, option: &'static str, value: String) -> Self {
        self.addresses.retain(|(other, _)| *other != option);
        self.addresses.push((option, value));
        self
    }

    /// Tells others to reach the relay by this name instead of `127.0.0.1`.
    pub fn public_host(self, host: &str) -> Self {
        self.address("--public-host", host.to_owned())
    }

    /// Has these lines in its configuration file.
    pub fn config(mut self, lines: &str) -> Self {
        self.config = Some(lines.to_owned());
        self
    }

    /// Joins the relay of this link.
    pub fn join(self, link: &str) -> Self {
        self.arg("--join").arg(link)
    }

    /// Appends an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// The command as it would be started, with its files in `directory`.
    fn command(&self, directory: &Path, data: &Path) -> Result<Command> {
        let mut command = process::command(&self.program, self.namespace.as_deref());
        hermetic(&mut command, data);
        command.arg(self.role).args(["--output", "json"]).arg("--data").arg(data);
        for (option, value) in &self.addresses {
            command.args([option, value.as_str()]);
        }
        if let Some(lines) = &self.config {
            let path = directory.join(format!("{}.toml", self.role));
            fs::write(&path, lines)?;
            command.arg("--config").arg(path);
        }
        command.args(&self.arguments);
        Ok(command)
    }

    /// Starts the node and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If it ends, or is not ready in time; the error carries what it said.
    pub fn start(self) -> Result<Node> {
        let directory = tempfile::tempdir()?;
        let data = self.data.clone().unwrap_or_else(|| directory.path().join("data"));
        let mut command = self.command(directory.path(), &data)?;
        command.stdout(Stdio::piped());
        let log = directory.path().join("stderr");
        let mut process = Process::start(self.role, &mut command, &log)?;

        let stdout = process.take_stdout().context("its standard output is a pipe")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let line = match lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => {
                process.signal(Signal::Kill);
                let Finished { status, stderr } = process.wait(PATIENCE)?;
                bail!("{} is not ready ({error}; {status}):\n{stderr}", self.role);
            }
        };
        let ready = serde_json::from_str(&line)
            .with_context(|| format!("{} printed {line:?}, which is not JSON", self.role))?;
        Ok(Node {
            program: self.program,
            namespace: self.namespace,
            process,
            lines,
            ready,
            data,
            _directory: directory,
        })
    }

    /// Runs the node where it must refuse to start, until it exits: its exit code, standard
    /// output and standard error.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn run(self) -> Result<(Option<i32>, String, String)> {
        let directory = tempfile::tempdir()?;
        let data = self.data.clone().unwrap_or_else(|| directory.path().join("data"));
        process::run(&mut self.command(directory.path(), &data)?, PATIENCE)
    }
}

/// A running `firstmile relay` or `firstmile studio`; killed when dropped, and what it logged is
/// printed when the test fails.
#[derive(Debug)]
pub struct Node {
    program: PathBuf,
    namespace: Option<String>,
    process: Process,
    lines: Receiver<String>,
    ready: Value,
    data: PathBuf,
    _directory: TempDir,
}

impl Node {
    /// Prepares a relay that others reach as `127.0.0.1`.
    pub fn relay(program: impl Into<PathBuf>) -> Launch {
        Launch::new(program, "relay", &["--rtmp", "--secure", "--http"]).public_host("127.0.0.1")
    }

    /// Prepares a studio.
    pub fn studio(program: impl Into<PathBuf>) -> Launch {
        Launch::new(program, "studio", &["--rtmp", "--http"])
    }

    /// Runs `firstmile` with any arguments to its end: exit code, standard output, standard error.
    ///
    /// # Errors
    ///
    /// If it does not end within `patience`.
    pub fn run(
        program: impl AsRef<OsStr>,
        arguments: &[&str],
        patience: Duration,
    ) -> Result<(Option<i32>, String, String)> {
        let home = tempfile::tempdir()?;
        let mut command = process::command(program, None);
        hermetic(&mut command, home.path());
        process::run(command.args(arguments), patience)
    }

    /// Runs a command such as `feed add two` on this node's data directory and returns its exit
    /// code, standard output and standard error.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn command(&self, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
        let mut command = process::command(&self.program, self.namespace.as_deref());
        hermetic(&mut command, &self.data);
        process::run(command.args(arguments).arg("--data").arg(&self.data), PATIENCE)
    }

    /// As [`Node::command`] with `--output json`: its parsed standard output.
    ///
    /// # Panics
    ///
    /// If the command fails.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        let (code, stdout, stderr) = self.command(&arguments).expect("the command ends");
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {stdout}"))
    }

    /// What it printed when it was ready.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// One of the addresses it bound: `rtmp`, `rtmps`, `secure` or `http`.
    ///
    /// # Panics
    ///
    /// If it did not print that one.
    #[track_caller]
    pub fn address(&self, name: &str) -> SocketAddr {
        let text = self.ready[name].as_str();
        let text = text.unwrap_or_else(|| panic!("no address {name:?} in {}", self.ready));
        text.parse().unwrap_or_else(|_| panic!("{name:?} is no address: {text:?}"))
    }

    /// The join link that a relay printed.
    ///
    /// # Panics
    ///
    /// If it printed none.
    #[track_caller]
    pub fn join_link(&self) -> &str {
        self.ready["join_link"].as_str().unwrap_or_else(|| panic!("no link in {}", self.ready))
    }

    /// The join link of a relay that is reached by way of another address.
    ///
    /// # Panics
    ///
    /// As for [`Node::join_link`].
    #[track_caller]
    pub fn join_link_by(&self, address: SocketAddr) -> String {
        let secure = self.address("secure").to_string();
        assert!(self.join_link().contains(&secure), "{} is not at {secure}", self.join_link());
        self.join_link().replace(&secure, &address.to_string())
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its resident memory in bytes: now, and the most there ever was.
    ///
    /// # Panics
    ///
    /// If it does not run.
    #[cfg(target_os = "linux")]
    #[track_caller]
    pub fn memory(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.id());
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a size");
            let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("kilobytes");
            kib * 1024
        };
        (bytes("VmRSS:"), bytes("VmHWM:"))
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// What it wrote on standard output after it was ready: nothing, as promised.
    pub fn extra_output(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// The stream key of a feed, `NAME-SECRET`, by the studio's status.
    ///
    /// # Panics
    ///
    /// If the studio has no such feed.
    #[track_caller]
    pub fn key(&self, feed: &str) -> String {
        let feeds = self.ready["feeds"].as_array();
        let printed = feeds.and_then(|feeds| feeds.iter().find(|each| each["name"] == feed));
        if let Some(key) = printed.and_then(|each| each["key"].as_str()) {
            return key.to_owned();
        }
        wait_for(&format!("a key for {feed:?} in the status"), PATIENCE, || {
            let publish = self.feed(feed)?["publish"].clone();
            let key = publish.as_array()?.iter().find_map(|place| place["key"].as_str())?;
            Some(key.to_owned())
        })
    }

    /// `rtmp://ADDRESS/live/NAME`, for encoders with a key and for players with a feed's name.
    #[track_caller]
    pub fn url(&self, name: &str) -> String {
        format!("rtmp://{}/live/{name}", self.address("rtmp"))
    }

    /// The same with TLS at one of its TLS ports: `rtmps` or `secure`.
    #[track_caller]
    pub fn tls_url(&self, port: &str, name: &str) -> String {
        format!("rtmps://{}/live/{name}", self.address(port))
    }

    /// The API's token.
    ///
    /// # Panics
    ///
    /// If the node has written none down.
    #[track_caller]
    pub fn token(&self) -> String {
        let text = fs::read_to_string(self.data.join("run.json")).expect("run.json");
        let run: Value = serde_json::from_str(&text).expect("JSON");
        run["token"].as_str().expect("a token").to_owned()
    }

    /// The answer of `GET /api/v1/status` with the node's token.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn status(&self) -> Result<Value> {
        let path = self.data.join("run.json");
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let run: Value = serde_json::from_str(&text)?;
        let address = run["http"].as_str().context("run.json names no http")?.parse()?;
        let token = run["token"].as_str();
        let get = || http::get_json(address, "/api/v1/status", token);
        match &self.namespace {
            #[cfg(target_os = "linux")]
            Some(namespace) => crate::netns::within(namespace, get)?,
            _ => get(),
        }
    }

    /// One feed of the status; `None` while the node has no such feed.
    pub fn feed(&self, name: &str) -> Option<Value> {
        let status = self.status().ok()?;
        status["feeds"].as_array()?.iter().find(|feed| feed["name"] == name).cloned()
    }

    /// Waits until a feed is in this state: `waiting`, `live`, `stalled` or `reconnecting`.
    ///
    /// # Panics
    ///
    /// If it is not within [`PATIENCE`].
    #[track_caller]
    pub fn wait_feed(&self, name: &str, state: &str) {
        wait_for(&format!("{name:?} is {state}"), PATIENCE, || {
            self.feed(name).filter(|feed| feed["state"] == state)
        });
    }

    /// Waits until this many players of a feed are connected.
    ///
    /// # Panics
    ///
    /// If they are not within [`PATIENCE`].
    #[track_caller]
    pub fn wait_players(&self, feed: &str, players: u64) {
        wait_for(&format!("{players} players of {feed:?}"), PATIENCE, || {
            self.feed(feed).filter(|feed| feed["players"] == players)
        });
    }

    /// Waits until this many links are up.
    ///
    /// # Panics
    ///
    /// If they are not within [`PATIENCE`].
    #[track_caller]
    pub fn wait_links(&self, links: usize) {
        wait_for(&format!("{links} links up"), PATIENCE, || {
            let status = self.status().ok()?;
            let up = status["links"].as_array()?.iter().filter(|link| link["state"] == "up");
            (up.count() == links).then_some(())
        });
    }

    /// Waits until a line of the log contains `text`.
    ///
    /// # Panics
    ///
    /// If none does within [`PATIENCE`].
    #[track_caller]
    pub fn wait_log(&self, text: &str) {
        wait_for(&format!("{text:?} in the log"), PATIENCE, || {
            self.log().contains(text).then_some(())
        });
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn terminate(mut self) -> Result<Finished> {
        self.process.stop(Signal::Terminate)
    }

    /// Kills it as a power cut would.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn kill(mut self) -> Result<Finished> {
        self.process.stop(Signal::Kill)
    }
}

/// Takes away what the caller's environment would change.
fn hermetic(command: &mut Command, home: &Path) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FIRSTMILE_") && name != "FIRSTMILE_LOG" {
            command.env_remove(name);
        }
    }
    command.env("HOME", home).env_remove("XDG_DATA_HOME").env_remove("STATE_DIRECTORY");
    command.env("NO_COLOR", "1");
}
