//! A little internet of the tests' own, in network namespaces (Linux, root).

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::find;
use crate::{Launch, Node};

/// The relay's address, which everybody reaches.
pub const RELAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The encoder's address.
pub const ENCODER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
/// The router's outer address: what the internet sees of the studio.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The studio's address, which nobody outside its router reaches.
pub const STUDIO: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

/// Hosts in namespaces of their own, removed when dropped.
///
/// ```text
/// relay 203.0.113.10 ──┐
///                      ├─ internet ── 203.0.113.1 router (NAT) 192.168.77.1 ── 192.168.77.2 studio
/// encoder 203.0.113.20 ┘
/// ```
///
/// The router masquerades what leaves and lets in only answers, as a 4G modem does.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
}

const HOSTS: [&str; 5] = ["net", "relay", "encoder", "router", "studio"];

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// Builds it, and removes what a killed test left behind.
    ///
    /// # Errors
    ///
    /// If the system does not let us; see [`available`].
    pub fn new() -> Result<Self> {
        remove_stale();
        let prefix = format!("fm{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { prefix };
        for host in HOSTS {
            let name = lab.namespace(host);
            ip(&["netns", "add", &name])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
        }
        let net = lab.namespace("net");
        ip(&["-n", &net, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &net, "link", "set", "br0", "up"])?;
        for (host, address) in [("relay", RELAY), ("encoder", ENCODER), ("router", ROUTER)] {
            let name = lab.namespace(host);
            let veth = ["link", "add", "wan", "netns", &name, "type", "veth", "peer", "name", host];
            ip(&[&veth[..], &["netns", &net]].concat())?;
            ip(&["-n", &net, "link", "set", host, "master", "br0", "up"])?;
            lab.address(host, "wan", address)?;
        }
        let (router, studio) = (lab.namespace("router"), lab.namespace("studio"));
        let veth = ["link", "add", "lan", "netns", &router, "type", "veth", "peer", "name", "lan"];
        ip(&[&veth[..], &["netns", &studio]].concat())?;
        lab.address("router", "lan", Ipv4Addr::new(192, 168, 77, 1))?;
        lab.address("studio", "lan", STUDIO)?;
        ip(&["-n", &studio, "route", "add", "default", "via", "192.168.77.1"])?;

        lab.shell("router", "echo 1 > /proc/sys/net/ipv4/ip_forward")?;
        lab.nft(
            "table ip home {
                chain out { type nat hook postrouting priority 100; oifname wan masquerade; }
                chain in { type filter hook input priority 0; iifname wan ct state new drop; }
                chain through {
                    type filter hook forward priority 0;
                    iifname wan ct state new drop;
                }
            }",
        )?;
        Ok(lab)
    }

    /// The lab, or `None` where namespaces cannot be made: the test says on standard error that it
    /// is skipped and returns.
    ///
    /// # Panics
    ///
    /// Instead of skipping, if `FIRSTMILE_REQUIRE_NETNS` is `1`, as in CI; and if building fails.
    #[track_caller]
    pub fn new_or_skip() -> Option<Self> {
        if let Err(why) = available() {
            let required = std::env::var_os("FIRSTMILE_REQUIRE_NETNS").is_some_and(|v| v == "1");
            assert!(!required, "this test needs network namespaces: {why}");
            let name = thread::current().name().unwrap_or("a test").to_owned();
            // Not eprintln!, which the test harness keeps to itself.
            let line = format!("SKIPPED {name}: it needs network namespaces: {why}\n");
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            return None;
        }
        Some(Self::new().unwrap_or_else(|error| panic!("no lab: {error:?}")))
    }

    /// The name of a host's namespace: `relay`, `encoder`, `router` or `studio`.
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// A relay at its address, to be started.
    pub fn relay(&self, program: &str) -> Launch {
        Node::relay(program)
            .in_namespace(&self.namespace("relay"))
            .public_host(&RELAY.to_string())
            .rtmp("0.0.0.0:0")
            .secure("0.0.0.0:0")
    }

    /// Adds nft rules to the router.
    ///
    /// # Errors
    ///
    /// If nft refuses them.
    pub fn nft(&self, rules: &str) -> Result<()> {
        // A file is what every version of nft takes.
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("rules");
        std::fs::write(&file, rules)?;
        self.shell("router", &format!("nft -f {}", file.display()))
    }

    /// Unplugs a host's outer cable, or plugs it in again.
    ///
    /// # Errors
    ///
    /// If the host has none.
    pub fn set_link(&self, host: &str, up: bool) -> Result<()> {
        // The far end: the host's own interface keeps its routes, as with a real cable.
        let net = self.namespace("net");
        ip(&["-n", &net, "link", "set", host, if up { "up" } else { "down" }])
    }

    /// Has the router drop what passes through it, in both directions, or let it pass again.
    ///
    /// Unlike [`Lab::set_link`] no interface goes down, as when the air between a modem and its
    /// mast is bad: nobody is told.
    ///
    /// # Errors
    ///
    /// If nft refuses, or it is so already.
    pub fn drop_all(&self, drop: bool) -> Result<()> {
        self.nft(match drop {
            true => {
                "table ip dark {
                    chain through { type filter hook forward priority -10; policy drop; }
                }"
            }
            false => "delete table ip dark",
        })
    }

    /// Gives the studio's machine another address behind its router, after `gap` without one.
    ///
    /// # Errors
    ///
    /// If the address is taken or none of the router's network.
    pub fn move_studio(&self, to: Ipv4Addr, gap: Duration) -> Result<()> {
        self.remove_studio_address()?;
        thread::sleep(gap);
        self.set_studio_address(to)
    }

    /// Gives the router another outer address, after `gap` without one, as a 4G network does: what
    /// was masqueraded is forgotten, and the studio's machine is not told.
    ///
    /// # Errors
    ///
    /// If the address is taken or none of the internet's.
    pub fn move_router(&self, to: Ipv4Addr, gap: Duration) -> Result<()> {
        let router = self.namespace("router");
        ip(&["-n", &router, "address", "flush", "dev", "wan"])?;
        thread::sleep(gap);
        ip(&["-n", &router, "address", "add", &format!("{to}/24"), "dev", "wan"])
    }

    /// Takes the studio's address away, as when a modem dials in anew.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub fn remove_studio_address(&self) -> Result<()> {
        ip(&["-n", &self.namespace("studio"), "address", "flush", "dev", "lan"])
    }

    /// Gives the studio another address of its network.
    ///
    /// # Errors
    ///
    /// If the system does not let us.
    pub fn set_studio_address(&self, address: Ipv4Addr) -> Result<()> {
        self.address("studio", "lan", address)?;
        let studio = self.namespace("studio");
        ip(&["-n", &studio, "route", "replace", "default", "via", "192.168.77.1"])
    }

    fn address(&self, host: &str, interface: &str, address: Ipv4Addr) -> Result<()> {
        let name = self.namespace(host);
        ip(&["-n", &name, "address", "add", &format!("{address}/24"), "dev", interface])?;
        ip(&["-n", &name, "link", "set", interface, "up"])
    }

    fn shell(&self, host: &str, script: &str) -> Result<()> {
        ip(&["netns", "exec", &self.namespace(host), "sh", "-c", script])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in HOSTS {
            let _ = ip(&["netns", "delete", &self.namespace(host)]);
        }
    }
}

/// Why a [`Lab`] cannot be built here.
///
/// # Errors
///
/// With the reason, for a person.
pub fn available() -> Result<(), String> {
    for program in ["ip", "nft"] {
        if find(program).is_none() {
            return Err(format!(
                "`{program}` is not installed (apt-get install iproute2 nftables)"
            ));
        }
    }
    if !rustix::process::geteuid().is_root() {
        return Err("only root may make them".to_owned());
    }
    let name = format!("fm{}-probe", std::process::id());
    let probe = ip(&["netns", "add", &name])
        .and_then(|()| ip(&["netns", "exec", &name, "nft", "add", "table", "ip", "probe"]));
    let _ = ip(&["netns", "delete", &name]);
    probe.map_err(|error| format!("{error:#}"))
}

/// Runs `task` on a thread of its own inside a namespace, with whatever sockets it opens there.
///
/// # Errors
///
/// If there is no such namespace.
pub fn within<T: Send>(namespace: &str, task: impl FnOnce() -> T + Send) -> Result<T> {
    let path = Path::new("/run/netns").join(namespace);
    let file = std::fs::File::open(&path).with_context(|| format!("{}", path.display()))?;
    thread::scope(|scope| {
        let inside = scope.spawn(move || {
            use std::os::fd::AsFd;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(task())
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ip(arguments: &[&str]) -> Result<()> {
    let program = find("ip").context("`ip` is not installed")?;
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), stderr.trim());
    }
    Ok(())
}

/// Removes the namespaces of test processes that are gone.
fn remove_stale() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix("fm").and_then(|rest| rest.split('-').next());
        let Some(process) = process.and_then(|number| number.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{process}")).exists() {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    #[test]
    fn the_studio_reaches_out_and_nobody_reaches_in() {
        let Some(lab) = Lab::new_or_skip() else { return };
        let (relay, studio) = (lab.namespace("relay"), lab.namespace("studio"));
        let dial = |to: SocketAddr| TcpStream::connect_timeout(&to, Duration::from_millis(500));
        let listen = |ip: Ipv4Addr| TcpListener::bind((ip, 0)).unwrap();

        let listener = within(&relay, || listen(RELAY)).unwrap();
        let to = listener.local_addr().unwrap();
        let mut out = within(&studio, || dial(to)).unwrap().unwrap();
        let (inward, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), ROUTER, "masqueraded");
        drop(inward);
        assert_eq!(out.read(&mut [0]).unwrap(), 0, "answers come back");

        let listener = within(&studio, || listen(STUDIO)).unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in [STUDIO, ROUTER] {
            let to = (address, port).into();
            assert!(within(&relay, || dial(to)).unwrap().is_err(), "{address} answered");
        }
        drop(lab);
        assert!(!Path::new("/run/netns").join(studio).exists());
    }
}
