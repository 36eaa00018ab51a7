use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How often threads look whether the proxy was dropped.
const LOOK: Duration = Duration::from_millis(50);

/// A network on loopback between those who call and one target, over UDP: with a delay, outages in
/// either direction, and another address for those who call, as a router has after a dial-in.
///
/// Each caller's socket has a flow of its own, which the target sees as a socket of its own.
#[derive(Debug)]
pub struct UdpProxy {
    address: SocketAddr,
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    up: bool,
    down: bool,
    source: Ipv4Addr,
    flows: HashMap<SocketAddr, Arc<UdpSocket>>,
    is_closed: bool,
}

struct Packet {
    due: Instant,
    from: Arc<UdpSocket>,
    to: SocketAddr,
    content: Vec<u8>,
}

impl UdpProxy {
    /// Listens on a free port of 127.0.0.1; what comes reaches `target` after `delay`, and the answers
    /// take as long.
    ///
    /// # Errors
    ///
    /// If no port can be bound.
    pub fn start(target: SocketAddr, delay: Duration) -> Result<Self> {
        Self::start_at("127.0.0.1:0".parse()?, target, delay)
    }

    /// The same at this address.
    ///
    /// # Errors
    ///
    /// If it cannot be bound.
    pub fn start_at(address: SocketAddr, target: SocketAddr, delay: Duration) -> Result<Self> {
        let front = Arc::new(UdpSocket::bind(address)?);
        front.set_read_timeout(Some(LOOK))?;
        let address = front.local_addr()?;
        let shared = Arc::new(Mutex::new(State {
            up: true,
            down: true,
            source: Ipv4Addr::LOCALHOST,
            flows: HashMap::new(),
            is_closed: false,
        }));
        let (late, waiting) = mpsc::channel();
        thread::spawn(move || deliver(&waiting));
        let way = Way { shared: shared.clone(), front, target, delay, late };
        thread::spawn(move || way.forward());
        Ok(Self { address, shared })
    }

    /// Where to call.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether packets pass to the target, and back; those that do not are lost.
    pub fn pass(&self, up: bool, down: bool) {
        let mut state = lock(&self.shared);
        (state.up, state.down) = (up, down);
    }

    /// Gives those who call another port, and this address of 127.0.0.0/8: what the target sends to
    /// where they were before is lost.
    pub fn move_to(&self, source: Ipv4Addr) {
        let mut state = lock(&self.shared);
        state.source = source;
        state.flows.clear();
    }
}

impl Drop for UdpProxy {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        state.is_closed = true;
        state.flows.clear();
    }
}

#[derive(Clone)]
struct Way {
    shared: Arc<Mutex<State>>,
    front: Arc<UdpSocket>,
    target: SocketAddr,
    delay: Duration,
    late: Sender<Packet>,
}

impl Way {
    fn forward(&self) {
        let mut buffer = [0; 65_536];
        loop {
            let received = self.front.recv_from(&mut buffer);
            let mut state = lock(&self.shared);
            if state.is_closed {
                return;
            }
            let Ok((length, caller)) = received else { continue };
            if !state.up {
                continue;
            }
            let Ok(flow) = self.flow(&mut state, caller) else { continue };
            self.send(flow, self.target, &buffer[..length]);
        }
    }

    fn flow(&self, state: &mut State, caller: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        if let Some(flow) = state.flows.get(&caller) {
            return Ok(flow.clone());
        }
        let flow = Arc::new(UdpSocket::bind((IpAddr::V4(state.source), 0))?);
        flow.set_read_timeout(Some(LOOK))?;
        state.flows.insert(caller, flow.clone());
        let (way, answers) = (self.clone(), flow.clone());
        thread::spawn(move || way.answer(&answers, caller));
        Ok(flow)
    }

    fn answer(&self, flow: &Arc<UdpSocket>, caller: SocketAddr) {
        let mut buffer = [0; 65_536];
        loop {
            let received = flow.recv_from(&mut buffer);
            let state = lock(&self.shared);
            if !state.flows.get(&caller).is_some_and(|present| Arc::ptr_eq(present, flow)) {
                return;
            }
            if let (Ok((length, _)), true) = (received, state.down) {
                self.send(self.front.clone(), caller, &buffer[..length]);
            }
        }
    }

    fn send(&self, from: Arc<UdpSocket>, to: SocketAddr, content: &[u8]) {
        let due = Instant::now() + self.delay;
        // Nobody waits for it any more once the proxy is gone.
        let _ = self.late.send(Packet { due, from, to, content: content.to_owned() });
    }
}

/// All packets have the same delay, so they leave in their order.
fn deliver(waiting: &Receiver<Packet>) {
    for packet in waiting {
        thread::sleep(packet.due.saturating_duration_since(Instant::now()));
        let _ = packet.from.send_to(&packet.content, packet.to);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no thread panics with the lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_loses_and_moves() {
        let target = UdpSocket::bind("127.0.0.1:0").unwrap();
        let delay = Duration::from_millis(20);
        let proxy = UdpProxy::start(target.local_addr().unwrap(), delay).unwrap();
        let caller = UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in [&target, &caller] {
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        }
        let mut buffer = [0; 8];
        let mut pass = |content: &[u8]| {
            caller.send_to(content, proxy.address()).unwrap();
            let (length, from) = target.recv_from(&mut buffer).ok()?;
            assert_eq!(&buffer[..length], content);
            Some(from)
        };
        let started = Instant::now();
        let first = pass(b"one").unwrap();
        assert!(started.elapsed() >= delay);
        assert_eq!(pass(b"two"), Some(first));
        target.send_to(b"back", first).unwrap();
        assert_eq!(caller.recv(&mut [0; 8]).unwrap(), 4);

        proxy.pass(false, true);
        assert_eq!(pass(b"three"), None, "lost");
        proxy.pass(true, true);
        proxy.move_to(Ipv4Addr::new(127, 0, 0, 2));
        let moved = pass(b"four").unwrap();
        assert_eq!(moved.ip(), Ipv4Addr::new(127, 0, 0, 2));
        target.send_to(b"lost", first).unwrap();
        assert!(caller.recv(&mut [0; 8]).is_err(), "nobody is there any more");
        target.send_to(b"back", moved).unwrap();
        assert_eq!(caller.recv(&mut [0; 8]).unwrap(), 4);
    }
}
