//! Everything that differs by operating system.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which role's data directory is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The public machine.
    Relay,
    /// The control room.
    Studio,
}

impl Role {
    /// The role as it is written in paths and in status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Studio => "studio",
        }
    }
}

/// Where packaged services keep their state.
const SYSTEM_STATE: &str = "/var/lib/firstmile";

/// The data directory of a role when none is given.
///
/// A systemd service has `STATE_DIRECTORY`; a person has `XDG_DATA_HOME`, `~/.local/share`, or
/// on Windows `LOCALAPPDATA`. Without any of these it is the system's state directory.
pub fn default_data_dir(role: Role) -> PathBuf {
    data_dir_from(role, |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from))
}

/// The data directory that a one-shot command means: the default one, or else the service's.
pub fn existing_data_dir(role: Role) -> PathBuf {
    let own = default_data_dir(role);
    let service = Path::new(SYSTEM_STATE).join(role.as_str());
    if !own.join("version").exists() && service.exists() { service } else { own }
}

fn data_dir_from(role: Role, var: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    // systemd.exec(5): several directories are separated by colons; the first is the state's own.
    let state = var("STATE_DIRECTORY").and_then(|dirs| {
        let first = dirs.to_str()?.split(':').next()?.to_owned();
        Some(PathBuf::from(first))
    });
    let share = || {
        if cfg!(windows) {
            return var("LOCALAPPDATA").map(|local| local.join("firstmile"));
        }
        var("XDG_DATA_HOME")
            .filter(|dir| dir.is_absolute())
            .or_else(|| Some(var("HOME")?.join(".local/share")))
            .map(|share| share.join("firstmile"))
    };
    state.or_else(share).unwrap_or_else(|| SYSTEM_STATE.into()).join(role.as_str())
}

/// Options for a file that only its owner may read.
pub fn private_file() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "the mode is set on Unix only"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Whether other users of this machine may read a file.
pub fn is_exposed(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0)
    }
    // On Windows the profile's own permissions protect it.
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

/// Creates a directory, and what is above it, that only its owner may enter.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    if let Some(parent) = path.parent() {
        builder.create(parent)?;
    }
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes a rename in this directory durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    // Windows cannot open a directory as a file, and journals renames by itself.
    if cfg!(windows) { Ok(()) } else { File::open(path)?.sync_all() }
}

/// Bytes that this process may still write to the disk of a directory; `None` where the system
/// does not say (Windows).
pub fn free_space(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let disk = rustix::fs::statvfs(path).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Waits for the request to stop (SIGINT or SIGTERM; Ctrl-C on Windows) and names it.
pub async fn shutdown_signal() -> &'static str {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let terminate = signal(SignalKind::terminate());
        let interrupt = signal(SignalKind::interrupt());
        if let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) {
            return tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
        }
    }
    match tokio::signal::ctrl_c().await {
        Ok(()) => "Ctrl-C",
        // Without signals the process can still be killed; it must not stop by itself.
        Err(_) => std::future::pending().await,
    }
}

/// Whether this process may listen on a port below 1024, such as 443.
pub fn may_bind(port: u16) -> bool {
    if port >= 1024 || cfg!(windows) {
        return true;
    }
    if !cfg!(target_os = "linux") {
        return false;
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let first_free = read("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    first_free.trim().parse().is_ok_and(|first: u16| first <= port)
        || has_bind_capability(&read("/proc/self/status"))
}

/// capabilities(7): `CAP_NET_BIND_SERVICE` is bit 10 of the effective set; root has it as well.
fn has_bind_capability(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|bits| bits & (1 << 10) != 0)
}

/// Memory that this process may use in bytes: the machine's, or its container's if less.
pub fn total_ram() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| mem_total(&text));
    let container = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    match (machine, container) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// How busy the processors were in the last minute: 1 when all of them were.
pub fn processor_load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Some(first_minute(&text)? / processors as f64)
}

fn first_minute(loadavg: &str) -> Option<f64> {
    loadavg.split_whitespace().next()?.parse().ok().filter(|load: &f64| load.is_finite())
}

/// The machine's name, without its domain.
pub fn hostname() -> Option<String> {
    let full = if cfg!(windows) {
        std::env::var("COMPUTERNAME").ok()?
    } else if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        name
    } else {
        let output = std::process::Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()?
    };
    let name = full.trim().split('.').next().unwrap_or_default();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The address that this machine has towards the internet, IPv4 first; nothing is sent.
///
/// Behind NAT it is the address on the local network.
pub fn outward_address() -> Option<IpAddr> {
    outward_v4().map(IpAddr::V4).or_else(|| outward_v6().map(IpAddr::V6))
}

/// The IPv4 address with which this machine would speak to the internet.
pub fn outward_v4() -> Option<Ipv4Addr> {
    // RFC 5737 §3: 192.0.2.0/24 is for documentation and routed like any other address.
    match outward((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into())? {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// The IPv6 address with which this machine would speak to the internet.
pub fn outward_v6() -> Option<Ipv6Addr> {
    // A global unicast address is needed: many routing tables have no way to RFC 3849's 2001:db8.
    let root_server = Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30);
    match outward((Ipv6Addr::UNSPECIFIED, 0).into(), (root_server, 9).into())? {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    }
}

/// The address from which packets to `peer` would leave this machine now; nothing is sent.
pub fn address_towards(peer: SocketAddr) -> Option<IpAddr> {
    AddressWatch::towards(peer).look()
}

/// Tells again and again from which address packets to a peer would leave this machine; nothing is sent.
#[derive(Debug)]
pub struct AddressWatch {
    peer: SocketAddr,
    /// The last look's, where the system lets it look again: another one costs more than the look.
    socket: Option<UdpSocket>,
}

impl AddressWatch {
    /// Nothing is looked at yet.
    pub fn towards(peer: SocketAddr) -> Self {
        Self { peer, socket: None }
    }

    /// The address now; `None` where no way leads to the peer.
    pub fn look(&mut self) -> Option<IpAddr> {
        let any: SocketAddr = match self.peer {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0; 16], 0).into(),
        };
        let before = self.socket.take().filter(disconnect);
        let socket = before.map_or_else(|| UdpSocket::bind(any), Ok).ok()?;
        let ip = source(&socket, self.peer);
        self.socket = Some(socket);
        ip
    }
}

/// Lets a socket forget its peer, and with it the address that was chosen for it; whether that was done.
#[cfg(target_os = "linux")]
fn disconnect(socket: &UdpSocket) -> bool {
    // connect(2): AF_UNSPEC.
    rustix::net::connect_unspec(socket).is_ok()
}

/// Other systems keep the address.
#[cfg(not(target_os = "linux"))]
fn disconnect(_: &UdpSocket) -> bool {
    false
}

fn outward(from: SocketAddr, to: SocketAddr) -> Option<IpAddr> {
    source(&UdpSocket::bind(from).ok()?, to)
}

/// The address that the system chooses for packets to a peer.
fn source(socket: &UdpSocket, to: SocketAddr) -> Option<IpAddr> {
    socket.connect(to).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

/// Bytes that the kernel may hold unsent for a player or a page: what is more waits in the hub, where it
/// can still be skipped.
const UNSENT_LOW_WATER: u32 = 128 << 10;

/// Sets up a connection of an encoder, a player or a page: no delay for the sake of full packets, a peer that is gone is
/// noticed some time after `patience` (before that, the program itself has more to say), and
/// little waits in the kernel. What a system cannot do is left.
pub fn tune_socket(socket: &tokio::net::TcpStream, patience: Duration) {
    let _ = socket.set_nodelay(true);
    let socket = socket2::SockRef::from(socket);
    let keepalive = socket2::TcpKeepalive::new().with_time(patience).with_interval(patience / 3);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    {
        let _ = socket.set_tcp_user_timeout(Some(patience + patience / 2));
        let _ = socket.set_tcp_notsent_lowat(UNSENT_LOW_WATER);
    }
}

/// The same for a link between relay and studio: it is written to in records of 16 KiB, and what is
/// not sent yet cannot be overtaken by what matters more.
const UNSENT_OF_LINK: u32 = 16 << 10;

/// Sets up a link's connection; its silence is looked after by the program. With `bbr` losses do not
/// slow it down, where the system has that.
pub fn tune_link(socket: &tokio::net::TcpStream, bbr: bool) {
    let _ = socket.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(socket);
        let _ = socket.set_tcp_notsent_lowat(UNSENT_OF_LINK);
        if bbr {
            let _ = socket.set_tcp_congestion(b"bbr");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (bbr, UNSENT_OF_LINK);
}

/// Listens on a TCP address; `[::]` serves IPv4 too, and alone where there is no IPv6.
///
/// # Errors
///
/// If the address cannot be bound.
pub fn listen_tcp(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let listen = |address: SocketAddr| {
        let kind = socket2::Type::STREAM;
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
        if address.is_ipv6() {
            let _ = socket.set_only_v6(false);
        }
        // Not on Windows, where it would let two programs share the port.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(1_024)?;
        tokio::net::TcpListener::from_std(socket.into())
    };
    match listen(address) {
        Err(error)
            if has_no_ipv6(&error) && address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) =>
        {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
}

/// Whether binding failed because this machine has no IPv6.
pub fn has_no_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT and WSAEAFNOSUPPORT.
    matches!(error.raw_os_error(), Some(97 | 47 | 10_047))
        || error.kind() == io::ErrorKind::AddrNotAvailable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    fn dir(vars: &[(&str, &str)]) -> PathBuf {
        data_dir_from(Role::Studio, |name| {
            vars.iter().find(|(n, _)| *n == name).map(|(_, value)| PathBuf::from(value))
        })
    }

    #[cfg(unix)]
    #[test]
    fn data_dirs() {
        let home = ("HOME", "/home/ann");
        assert_eq!(dir(&[home]), Path::new("/home/ann/.local/share/firstmile/studio"));
        assert_eq!(dir(&[home, ("XDG_DATA_HOME", "/d")]), Path::new("/d/firstmile/studio"));
        assert_eq!(
            dir(&[home, ("XDG_DATA_HOME", "relative")]),
            Path::new("/home/ann/.local/share/firstmile/studio")
        );
        let state = ("STATE_DIRECTORY", "/var/lib/firstmile:/var/lib/other");
        assert_eq!(dir(&[home, state]), Path::new("/var/lib/firstmile/studio"));
        assert_eq!(dir(&[]), Path::new("/var/lib/firstmile/studio"));
    }

    #[test]
    fn an_address_is_looked_up_again_and_again() {
        let peer: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let mut watch = AddressWatch::towards(peer);
        for _ in 0..3 {
            assert_eq!(watch.look(), Some(peer.ip()));
        }
        // As if the way to the peer were another one now: 198.51.100.0/24 is routed like any address.
        let elsewhere: SocketAddr = "198.51.100.1:9".parse().unwrap();
        watch.peer = elsewhere;
        assert_eq!(watch.look(), address_towards(elsewhere));
        assert_eq!(watch.look(), address_towards(elsewhere));
    }

    #[test]
    fn reads_the_capability() {
        assert!(has_bind_capability("Name:\tx\nCapEff:\t0000000000000400\n"));
        assert!(has_bind_capability("CapEff:\t000001ffffffffff\n"));
        assert!(!has_bind_capability("CapEff:\t0000000000000000\n"));
        assert!(!has_bind_capability(""));
        assert!(may_bind(4433));
    }

    #[tokio::test]
    async fn an_rtmp_socket_notices_that_its_peer_is_gone() {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) =
            tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        let (_client, (socket, _)) = (client.unwrap(), accepted.unwrap());
        tune_socket(&socket, Duration::from_secs(10));
        assert!(socket.nodelay().unwrap());
        let socket = socket2::SockRef::from(&socket);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            let timeout = socket.tcp_user_timeout().unwrap();
            assert_eq!(timeout, Some(Duration::from_secs(15)));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_disk_has_room() {
        assert!(free_space(&std::env::temp_dir()).is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(free_space(Path::new("/no/such/place")), None);
    }

    #[test]
    fn reads_the_memory() {
        assert_eq!(mem_total("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(mem_total("nothing"), None);
        assert_eq!(first_minute("1.50 0.30 0.10 2/300 4711\n"), Some(1.5));
        assert_eq!(first_minute("NaN"), None);
        if cfg!(target_os = "linux") {
            assert!(total_ram().is_some_and(|bytes| bytes > 1 << 20));
            assert!(hostname().is_some());
        }
    }
}
