//! Child processes that end with their handle, and whose words are shown when a test fails.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What to install where a program is missing.
const INSTALL: &str = "run ./check, which installs it, or: apt-get install ffmpeg \
    gstreamer1.0-tools gstreamer1.0-plugins-{base,good,bad,ugly} gstreamer1.0-libav rtmpdump \
    iproute2 nftables chromium zbar-tools";

/// Panics with what to install if `program` is not on the path.
///
/// A test whose client is missing fails: skipped, it would seem to have passed.
#[track_caller]
pub fn require(program: &str) {
    assert!(find(program).is_some(), "`{program}` is not installed; {INSTALL}");
}

/// Where a program is on the path, or in the places that only root's path has.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir: PathBuf| dir.join(program))
        .find(|file| file.is_file())
}

/// Lets this process, and those that it starts, have as many open files as the system permits.
pub fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Refused, the limit stays what it is, and who needs more will say so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// The exit of a finished process, and what it said on standard error.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard error.
    pub stderr: String,
}

impl Finished {
    /// Panics with what the process said unless it exited with code 0.
    #[track_caller]
    pub fn expect_success(self, what: &str) -> Self {
        assert!(self.status.success(), "{what}: {}\n{}", self.status, self.stderr);
        self
    }
}

/// A signal for a [`Process`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: what Ctrl-C sends.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
    /// SIGSTOP: the process stands still and its sockets stay open.
    Stop,
    /// SIGCONT.
    Continue,
}

/// A running child process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stderr: PathBuf,
    finished: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its standard error in the file `stderr`, and standard input closed
    /// unless the caller set it.
    ///
    /// # Errors
    ///
    /// If the program cannot be started or the file not written.
    pub fn start(name: &str, command: &mut Command, stderr: &Path) -> Result<Self> {
        let log = File::create(stderr).with_context(|| format!("{}", stderr.display()))?;
        let child = command
            .stderr(Stdio::from(log))
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, stderr: stderr.to_owned(), finished: None })
    }

    /// The standard output, if it was piped and not taken before.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said on standard error so far.
    pub fn stderr(&self) -> String {
        let text = fs::read(&self.stderr).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Its exit status, once it has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.finished.is_none() {
            self.finished = self.child.try_wait().ok().flatten();
        }
        self.finished
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.status().is_none()
    }

    /// Sends a signal; nothing happens if the process has ended. Without signals (Windows) every
    /// one that ends a process kills it.
    pub fn signal(&mut self, signal: Signal) {
        if !self.is_running() {
            return;
        }
        #[cfg(unix)]
        {
            use rustix::process::{Pid, Signal as Unix, kill_process};
            let signal = match signal {
                Signal::Interrupt => Unix::INT,
                Signal::Terminate => Unix::TERM,
                Signal::Kill => Unix::KILL,
                Signal::Stop => Unix::STOP,
                Signal::Continue => Unix::CONT,
            };
            // Not reaped yet, so the number is still this process's.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
        #[cfg(not(unix))]
        if !matches!(signal, Signal::Stop | Signal::Continue) {
            let _ = self.child.kill();
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// If it has not ended within `patience`; it is killed then.
    pub fn wait(&mut self, patience: Duration) -> Result<Finished> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.status() {
                return Ok(Finished { status, stderr: self.stderr() });
            }
            if start.elapsed() > patience {
                self.signal(Signal::Kill);
                let _ = self.child.wait();
                bail!("{} did not end within {patience:?}:\n{}", self.name, self.stderr());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Errors
    ///
    /// If the process has not ended within 20 s; it is killed then.
    pub fn stop(&mut self, signal: Signal) -> Result<Finished> {
        self.signal(signal);
        self.wait(crate::PATIENCE)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            let text = self.stderr();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(100)..].join("\n");
            eprintln!("---- {} said:\n{tail}\n----", self.name);
        }
    }
}

/// A command to run as it is, or inside a network namespace.
///
/// `ip netns exec` replaces itself by the program, so signals reach it.
pub fn command(program: impl AsRef<std::ffi::OsStr>, namespace: Option<&str>) -> Command {
    let mut command = match namespace {
        None => Command::new(program),
        Some(namespace) => {
            let mut command = Command::new(find("ip").unwrap_or_else(|| "ip".into()));
            command.args(["netns", "exec", namespace]).arg(program);
            command
        }
    };
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end and returns its exit code and what it wrote on standard output and
/// standard error.
///
/// # Errors
///
/// If it cannot be started or does not end within `patience`.
pub fn run(command: &mut Command, patience: Duration) -> Result<(Option<i32>, String, String)> {
    let dir = tempfile::tempdir()?;
    let stdout = dir.path().join("stdout");
    command.stdout(File::create(&stdout)?);
    let name = command.get_program().to_string_lossy().into_owned();
    let mut process = Process::start(&name, command, &dir.path().join("stderr"))?;
    let finished = process.wait(patience)?;
    let stdout = String::from_utf8_lossy(&fs::read(&stdout)?).into_owned();
    Ok((finished.status.code(), stdout, finished.stderr))
}
