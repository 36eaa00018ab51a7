use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use anyhow::Result;

/// A plain TCP proxy on loopback whose connections a test can cut or stall.
///
/// Bytes are passed on as they come. Dropping the proxy cuts what is open.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    target: Option<SocketAddr>,
    stalled: bool,
    refusing: bool,
    open: Vec<TcpStream>,
    accepted: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the lock")
    }
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and passes connections on to `target`.
    ///
    /// # Errors
    ///
    /// If no port can be bound.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        shared.state().target = Some(target);
        let inner = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &inner));
        Ok(Self { address, shared })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> usize {
        self.shared.state().accepted
    }

    /// Sends connections of the future elsewhere.
    pub fn set_target(&self, target: SocketAddr) {
        self.shared.state().target = Some(target);
    }

    /// Closes every open connection, on both sides.
    pub fn cut(&self) {
        for stream in self.shared.state().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refusing: bool) {
        self.shared.state().refusing = refusing;
    }

    /// While stalled, nothing passes in either direction and connections stay open.
    pub fn stall(&self, stalled: bool) {
        self.shared.state().stalled = stalled;
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.stall(false);
        self.cut();
        // Wakes the accepting thread, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.closed.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        let target = {
            let mut state = shared.state();
            state.accepted += 1;
            match state.refusing {
                true => None,
                false => state.target,
            }
        };
        let Some(target) = target else { continue };
        let shared = Arc::clone(shared);
        thread::spawn(move || connect(&client, target, &shared));
    }
}

fn connect(client: &TcpStream, target: SocketAddr, shared: &Arc<Shared>) {
    let start = || -> std::io::Result<()> {
        let server = TcpStream::connect(target)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        for (from, to) in [(client, &server), (&server, client)] {
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            let shared = Arc::clone(shared);
            thread::spawn(move || copy(from, to, &shared));
        }
        let mut state = shared.state();
        state.open.push(client.try_clone()?);
        state.open.push(server);
        Ok(())
    };
    if start().is_err() {
        let _ = client.shutdown(Shutdown::Both);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let state = shared.state();
        drop(shared.changed.wait_while(state, |state| state.stalled));
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn passes_stalls_and_cuts() {
        let echo = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(echo.local_addr().unwrap()).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut copy = stream.try_clone().unwrap();
            std::io::copy(&mut copy, &mut stream)
        });

        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        let mut answer = [0; 5];
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");

        proxy.stall(true);
        stream.write_all(b"again").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(stream.read(&mut answer).is_err(), "nothing passes");
        proxy.stall(false);
        stream.set_read_timeout(None).unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"again");

        proxy.cut();
        assert!(matches!(stream.read(&mut answer), Ok(0) | Err(_)), "the connection ended");
        assert_eq!(proxy.accepted(), 1);
    }
}
