//! `firstmile doctor`: what is wrong, and what to do.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hyper::Method;

use super::DoctorArgs;
use super::client::Client;
use crate::config::relay::{HTTP_PORT, RTMP_PORT};
use crate::error::plain;
use crate::platform::{self, Role};
use crate::status::{LinkState, Status};
use crate::store::{JoinedRelay, Relays, StoreError, check_format, unix_seconds};

/// A clock before this was never set: 2026-01-01.
const NO_EARLIER: u64 = 1_767_225_600;

/// How long a name server, and then a relay, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the doctor found.
#[derive(Debug, Default)]
pub struct Report {
    text: String,
    troubles: usize,
}

impl Report {
    /// For standard output.
    pub fn text(&self) -> String {
        let verdict = match self.troubles {
            0 => "Nothing is wrong.".to_owned(),
            1 => "One thing is wrong.".to_owned(),
            n => format!("{n} things are wrong."),
        };
        format!("{}\n{verdict}\n", self.text)
    }

    /// Whether nothing is wrong; the exit code is 1 otherwise.
    pub fn healthy(&self) -> bool {
        self.troubles == 0
    }

    fn good(&mut self, what: impl AsRef<str>) {
        let _ = writeln!(self.text, "  ok     {}", plain(what.as_ref()));
    }

    fn bad(&mut self, what: impl AsRef<str>, hint: impl AsRef<str>) {
        self.troubles += 1;
        let _ = writeln!(self.text, "  WRONG  {}", plain(what.as_ref()));
        let _ = writeln!(self.text, "         {}", plain(hint.as_ref()));
    }

    fn section(&mut self, title: impl AsRef<str>) {
        let _ = writeln!(self.text, "{}", title.as_ref());
    }
}

/// Looks at this machine, its data directories and, with `reach`, at the relays.
///
/// `reach` dials one address of a relay over the backhaul and returns what it found, such as
/// `QUIC answers in 31 ms`; the doctor bounds its time.
pub async fn run(
    args: &DoctorArgs,
    reach: impl AsyncFn(&JoinedRelay, SocketAddr) -> anyhow::Result<String>,
) -> Report {
    let mut report = Report::default();
    machine(&mut report, SystemTime::now());
    let candidates = match &args.data {
        Some(data) => vec![(role_of(data), data.clone())],
        None => [Role::Relay, Role::Studio]
            .map(|role| (role, platform::existing_data_dir(role)))
            .into_iter()
            .filter(|(_, data)| data.join("version").exists())
            .collect(),
    };
    if candidates.is_empty() {
        report.section("data directory");
        report.good("none yet: no relay and no studio was started here as this user");
        ports(&mut report, Role::Studio);
    }
    for (role, data) in &candidates {
        directory(&mut report, *role, data).await;
        if *role == Role::Studio {
            relays(&mut report, data, &reach).await;
        }
    }
    report
}

/// For [`run`] where nothing can be dialled.
pub async fn unreached(_: &JoinedRelay, address: SocketAddr) -> anyhow::Result<String> {
    Ok(format!("{address} was not dialled"))
}

/// What is in a directory tells whose it is.
fn role_of(data: &Path) -> Role {
    let relay = ["place.toml", "admitted.toml", "invites.toml"];
    if relay.iter().any(|file| data.join(file).exists()) { Role::Relay } else { Role::Studio }
}

fn machine(report: &mut Report, now: SystemTime) {
    report.section("this machine");
    if unix_seconds(now) < NO_EARLIER {
        report.bad(
            "the clock is years behind, so certificates and invites look wrong",
            "set it, on Linux with: timedatectl set-ntp true",
        );
    } else {
        report.good("the clock is plausible");
    }
    match platform::outward_address() {
        Some(ip) => report.good(format!("it speaks to the internet from {ip}")),
        None => {
            report.bad("it has no way to the internet", "connect it, or check its default route");
        }
    }
}

async fn directory(report: &mut Report, role: Role, data: &Path) {
    report.section(format!("{} in {}", role.as_str(), data.display()));
    match check_format(data) {
        Ok(Some(_)) => report.good("the data directory is readable"),
        Ok(None) => {
            let hint = format!("start `firstmile {}` with it, or name another", role.as_str());
            return report.bad("this is no data directory of firstmile", hint);
        }
        Err(error) => return store_error(report, &error),
    }
    for path in exposed_files(data) {
        let hint = format!("run: chmod 600 {}", path.display());
        report.bad(format!("{} can be read by other users", path.display()), hint);
    }
    match Client::find(data) {
        Ok(Some(client)) => {
            let nothing = serde_json::json!({});
            match client.call::<Status>(Method::GET, "/api/v1/status", &nothing).await {
                Ok(status) => running(report, &status),
                Err(error) => report.bad(format!("{error:#}"), "restart it, and see its log"),
            }
        }
        Ok(None) => {
            report.good("it is not running");
            ports(report, role);
        }
        Err(error) => report.bad(format!("{error:#}"), "restart it"),
    }
}

fn running(report: &mut Report, status: &Status) {
    let (role, version, uptime) = (&status.role, &status.version, status.uptime_s);
    report.good(format!("a {role} {version} runs since {uptime} s"));
    for alarm in &status.alarms {
        report.bad(alarm, "see the dashboard");
    }
    for feed in &status.feeds {
        for problem in &feed.problems {
            let (name, place) = (&feed.name, problem.place.as_str());
            report.bad(format!("feed {name}, {place}: {}", problem.text), &problem.remedy);
        }
    }
    for link in &status.links {
        if link.state == LinkState::Up {
            report.good(format!("the link to {} is up", link.peer));
        } else {
            let why = link.last_error.as_deref().unwrap_or("no reason is known yet");
            report.bad(format!("the link to {} is not up", link.peer), why);
        }
    }
}

/// Whether the default ports are free; where others are configured, the start itself tells.
fn ports(report: &mut Report, role: Role) {
    let tcp = |port| both_families(port, |address| TcpListener::bind(address).map(drop));
    let udp = |port| both_families(port, |address| UdpSocket::bind(address).map(drop));
    let mut port = |name: &str, flag: &str, port: u16, tried: io::Result<()>| match tried {
        Ok(()) => report.good(format!("{name} port {port} is free")),
        Err(error) => report.bad(
            format!("{name} port {port} cannot be used: {error}"),
            format!("stop the program that has it, or choose another with {flag} :PORT"),
        ),
    };
    port("RTMP", "--rtmp", RTMP_PORT, tcp(RTMP_PORT));
    let dashboard = TcpListener::bind((Ipv4Addr::LOCALHOST, HTTP_PORT)).map(drop);
    port("dashboard", "--http", HTTP_PORT, dashboard);
    if role == Role::Relay {
        let secure = if platform::may_bind(443) { 443 } else { 4433 };
        port("secure UDP", "--secure", secure, udp(secure));
        port("secure TCP", "--secure", secure, tcp(secure));
    }
}

/// Binds the IPv6 wildcard, or the IPv4 one on a machine without IPv6.
fn both_families(port: u16, bind: impl Fn(SocketAddr) -> io::Result<()>) -> io::Result<()> {
    match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            bind((Ipv4Addr::UNSPECIFIED, port).into())
        }
        tried => tried,
    }
}

async fn relays(
    report: &mut Report,
    data: &Path,
    reach: &impl AsyncFn(&JoinedRelay, SocketAddr) -> anyhow::Result<String>,
) {
    let relays = match Relays::peek(data) {
        Ok(relays) => relays,
        Err(error) => return store_error(report, &error),
    };
    if relays.is_empty() {
        report.good("no relay is joined; join one with: firstmile studio --join LINK");
    }
    for relay in &relays {
        let name = relay.address();
        let lookup = tokio::net::lookup_host((relay.host.as_str(), relay.port));
        let addresses: Vec<_> = match tokio::time::timeout(PATIENCE, lookup).await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => {
                report
                    .bad(format!("relay {name}: {error}"), "check the name and this machine's DNS");
                continue;
            }
            Err(_) => {
                report.bad(
                    format!("relay {name}: no name server answers"),
                    "check this machine's DNS",
                );
                continue;
            }
        };
        let mut troubles = Vec::new();
        let mut reached = false;
        for address in addresses {
            match tokio::time::timeout(PATIENCE, reach(relay, address)).await {
                Ok(Ok(found)) => {
                    reached = true;
                    report.good(format!("relay {name}: {found}"));
                }
                Ok(Err(error)) => troubles.push(format!("{address}: {error:#}")),
                Err(_) => troubles.push(format!("{address}: no answer")),
            }
        }
        // One family is enough: the studio races both.
        if !reached {
            let hint = "check that the relay runs, and that its firewall lets its secure port in, UDP and TCP";
            report.bad(format!("relay {name}: {}", troubles.join(", ")), hint);
        }
    }
}

/// Files with secrets that other users may read.
fn exposed_files(data: &Path) -> Vec<PathBuf> {
    let names = ["identity.pem", "feeds.toml", "relays.toml", "play.toml", "run.json"];
    let files = names.iter().map(|name| data.join(name));
    files.filter(|path| platform::is_exposed(path)).collect()
}

fn store_error(report: &mut Report, error: &StoreError) {
    let source = std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default();
    report.bad(format!("{error}{source}"), error.hint());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::PublicKey;
    use crate::join::JoinLink;
    use crate::secret::Secret;
    use crate::store::DataDir;
    use anyhow::anyhow;

    fn joined() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let link = JoinLink {
            host: "127.0.0.1".into(),
            port: 4433,
            pin: PublicKey([1; 32]),
            invite: Secret::random(),
        };
        Relays::load(&data).unwrap().join(&link).unwrap();
        dir
    }

    #[tokio::test]
    async fn relays_are_dialled() {
        let dir = joined();
        let mut report = Report::default();
        let reach = async |relay: &JoinedRelay, address: SocketAddr| {
            assert_eq!((relay.port, address.port()), (4433, 4433));
            Ok("QUIC answers in 31 ms".to_owned())
        };
        relays(&mut report, dir.path(), &reach).await;
        assert!(report.healthy(), "{}", report.text());
        assert!(report.text().contains("relay 127.0.0.1:4433: QUIC answers in 31 ms"));

        let mut report = Report::default();
        let refuse = async |_: &JoinedRelay, _: SocketAddr| Err(anyhow!("connection refused"));
        relays(&mut report, dir.path(), &refuse).await;
        let text = report.text();
        assert!(text.contains("WRONG  relay 127.0.0.1:4433: 127.0.0.1:4433: connection refused"));
        assert!(text.ends_with("\nOne thing is wrong.\n"), "{text}");
    }

    #[test]
    fn a_running_nodes_problems_are_told_as_plain_text() {
        use crate::status::{FeedStatus, Place, Problem};
        let problem = Problem {
            place: Place::Encoder,
            text: "The encoder sends no picture\x1b[2J.".into(),
            remedy: "Choose a camera.".into(),
            advice: false,
        };
        let feed =
            FeedStatus { name: "camera".into(), problems: vec![problem], ..FeedStatus::default() };
        let mut report = Report::default();
        running(&mut report, &Status { feeds: vec![feed], ..Status::default() });
        assert!(!report.healthy());
        let expected = "  WRONG  feed camera, encoder: The encoder sends no picture\u{fffd}[2J.\n         \
                        Choose a camera.\n";
        assert!(report.text().contains(expected), "{}", report.text());
    }

    #[test]
    fn a_clock_that_was_never_set() {
        let mut report = Report::default();
        machine(&mut report, SystemTime::UNIX_EPOCH);
        assert!(report.text().contains("WRONG  the clock is years behind"));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn exposed_secrets() {
        use std::os::unix::fs::PermissionsExt;
        let dir = joined();
        let path = dir.path().join("relays.toml");
        assert!(exposed_files(dir.path()).is_empty());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(exposed_files(dir.path()), [path]);
    }

    #[tokio::test]
    async fn a_directory_of_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let args = DoctorArgs { data: Some(dir.path().to_owned()) };
        let report = run(&args, unreached).await;
        assert!(report.text().contains("WRONG  this is no data directory"), "{}", report.text());
    }
}
