//! One TCP connection as a link: its streams, its figures, and whether it is heard.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use backhaul::Role;
use backhaul::mux::{CONTROL, Event, Mux};
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsStream;

use super::driver::Driver;
use super::stream::{RecvStream, SendStream};
use crate::identity::PublicKey;
use crate::link::{LinkStats, Received};

/// How often it is looked whether everything was delivered.
const SETTLE_INTERVAL: Duration = Duration::from_millis(10);

/// One TCP connection to a peer whose key is proven.
#[derive(Clone, Debug)]
pub struct Link {
    handle: Arc<Handle>,
    peer: PublicKey,
    address: SocketAddr,
    local: IpAddr,
}

/// Closes the connection when nobody has it any more.
#[derive(Debug)]
pub(super) struct Handle(pub(super) Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close("nobody has it any more");
    }
}

/// What the driver and those who use the connection share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Why it is over, once it is.
    over: watch::Sender<Option<String>>,
    /// Whether the driver has said its last word.
    is_gone: watch::Sender<bool>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) mux: Mux,
    /// What the peer is to be told, once this end has closed.
    pub(super) farewell: Option<String>,
    pub(super) reads: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    driver: Option<Waker>,
    readers: HashMap<u64, Waker>,
    writers: Vec<Waker>,
    acceptors: Vec<Waker>,
    listeners: Vec<Waker>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the connection is over, if it is.
    pub(super) fn over(&self) -> Option<String> {
        self.over.borrow().clone()
    }

    /// The connection is over, unless it was already.
    pub(super) fn end(&self, why: &str) {
        self.over.send_if_modified(|over| {
            let is_news = over.is_none();
            over.get_or_insert_with(|| why.to_owned());
            is_news
        });
        self.lock().wake_all();
    }

    pub(super) fn gone(&self) {
        self.is_gone.send_replace(true);
    }

    fn close(&self, reason: &str) {
        let mut state = self.lock();
        state.farewell.get_or_insert_with(|| reason.to_owned());
        state.wake_driver();
        drop(state);
        self.end("closed");
    }
}

impl State {
    fn new(role: Role) -> Self {
        Self {
            mux: Mux::new(role, Instant::now()),
            farewell: None,
            reads: 0,
            bytes_in: 0,
            bytes_out: 0,
            driver: None,
            readers: HashMap::new(),
            writers: Vec::new(),
            acceptors: Vec::new(),
            listeners: Vec::new(),
        }
    }

    pub(super) fn set_driver(&mut self, waker: &Waker) {
        self.driver = Some(waker.clone());
    }

    /// There is something to send, or room for what comes.
    pub(super) fn wake_driver(&mut self) {
        self.driver.take().into_iter().for_each(Waker::wake);
    }

    pub(super) fn wait_readable(&mut self, stream: u64, waker: &Waker) {
        self.readers.insert(stream, waker.clone());
    }

    pub(super) fn forget_reader(&mut self, stream: u64) {
        self.readers.remove(&stream);
    }

    pub(super) fn wait_writable(&mut self, waker: &Waker) {
        register(&mut self.writers, waker);
    }

    /// Wakes those who wait for what has changed; returns why the peer has closed, if it has.
    pub(super) fn tell(&mut self) -> Option<String> {
        while let Some(event) = self.mux.poll_event() {
            match event {
                Event::Readable(stream) => {
                    self.readers.remove(&stream).into_iter().for_each(Waker::wake);
                }
                Event::Writable => self.writers.drain(..).for_each(Waker::wake),
                Event::Opened => self.acceptors.drain(..).for_each(Waker::wake),
                Event::Datagram => self.listeners.drain(..).for_each(Waker::wake),
                Event::Closed(why) => return Some(why),
            }
        }
        None
    }

    fn wake_all(&mut self) {
        self.readers.drain().for_each(|(_, waker)| waker.wake());
        for all in [&mut self.writers, &mut self.acceptors, &mut self.listeners] {
            all.drain(..).for_each(Waker::wake);
        }
    }
}

/// One task waits for a thing once.
fn register(all: &mut Vec<Waker>, waker: &Waker) {
    if !all.iter().any(|other| other.will_wake(waker)) {
        all.push(waker.clone());
    }
}

impl Link {
    /// Makes a link of a connection whose handshake is over.
    pub(super) fn start(stream: TlsStream<TcpStream>, role: Role, peer: PublicKey) -> Result<Self> {
        let mut address = stream.get_ref().0.peer_addr()?;
        address.set_ip(address.ip().to_canonical());
        let local = stream.get_ref().0.local_addr()?.ip().to_canonical();
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(role)),
            over: watch::Sender::new(None),
            is_gone: watch::Sender::new(false),
        });
        tokio::spawn(Driver::new(stream, shared.clone()).run());
        Ok(Self { handle: Arc::new(Handle(shared)), peer, address, local })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.handle.0.lock()
    }

    pub(crate) fn peer(&self) -> PublicKey {
        self.peer
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }

    pub(crate) fn received(&self) -> Received {
        let state = self.lock();
        Received { packets: state.reads, frames: state.mux.frames() }
    }

    pub(crate) fn silence(&self) -> Duration {
        self.lock().mux.silence(Instant::now())
    }

    /// Asks the peer for a sign of life.
    pub(crate) fn knock(&self) {
        let mut state = self.lock();
        state.mux.ping(Instant::now());
        state.wake_driver();
    }

    pub(crate) async fn settle(&self, limit: Duration) {
        let settled = async {
            while !self.lock().mux.is_settled() {
                tokio::time::sleep(SETTLE_INTERVAL).await;
            }
        };
        tokio::select! {
            _ = self.closed() => {}
            _ = tokio::time::timeout(limit, settled) => {}
        }
    }

    pub(crate) fn remote_address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn local_ip(&self) -> IpAddr {
        self.local
    }

    /// The control stream; both ends have it from the beginning.
    pub(crate) fn control(&self) -> (SendStream, RecvStream) {
        (SendStream::new(&self.handle, CONTROL), RecvStream::new(&self.handle, CONTROL))
    }

    pub(crate) async fn open_tags(&self, priority: i32) -> Result<SendStream> {
        let open = |cx: &mut Context<'_>, state: &mut State| match state.mux.open(priority) {
            Some(id) => Poll::Ready(id),
            None => {
                state.wait_writable(cx.waker());
                Poll::Pending
            }
        };
        Ok(SendStream::new(&self.handle, self.wait(open).await?))
    }

    pub(crate) async fn accept_tags(&self) -> Result<RecvStream> {
        let accept = |cx: &mut Context<'_>, state: &mut State| match state.mux.accept() {
            Some(id) => Poll::Ready(id),
            None => {
                register(&mut state.acceptors, cx.waker());
                Poll::Pending
            }
        };
        Ok(RecvStream::new(&self.handle, self.wait(accept).await?))
    }

    pub(crate) fn send_datagram(&self, datagram: Bytes) {
        let mut state = self.lock();
        state.mux.send_datagram(datagram);
        state.wake_driver();
    }

    pub(crate) async fn read_datagram(&self) -> Result<Bytes> {
        let read = |cx: &mut Context<'_>, state: &mut State| match state.mux.read_datagram() {
            Some(datagram) => Poll::Ready(datagram),
            None => {
                register(&mut state.listeners, cx.waker());
                Poll::Pending
            }
        };
        self.wait(read).await
    }

    /// Waits for something of the mux, unless the link is over.
    async fn wait<T>(
        &self,
        mut poll: impl FnMut(&mut Context<'_>, &mut State) -> Poll<T>,
    ) -> Result<T> {
        std::future::poll_fn(|cx| {
            // Whoever ends the link says so first, and wakes all who wait then.
            let found = poll(cx, &mut self.lock());
            match (found, self.close_reason()) {
                (_, Some(why)) => Poll::Ready(Err(anyhow!(why))),
                (found, None) => found.map(Ok),
            }
        })
        .await
    }

    pub(crate) fn acknowledgements(&self) -> u64 {
        self.lock().mux.acknowledgements()
    }

    pub(crate) fn rtt(&self) -> Duration {
        self.lock().mux.rtt()
    }

    pub(crate) fn stats(&self) -> LinkStats {
        let state = self.lock();
        LinkStats {
            rtt: state.mux.rtt(),
            // The system repeats what is lost, and does not say.
            loss: None,
            sent_bytes: state.bytes_out,
            received_bytes: state.bytes_in,
        }
    }

    pub(crate) fn close(&self, reason: &str) {
        self.handle.0.close(reason);
    }

    pub(crate) async fn closed(&self) -> String {
        let mut over = self.handle.0.over.subscribe();
        // Its sender lives as long as the link.
        let why = over.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    pub(crate) fn close_reason(&self) -> Option<String> {
        self.handle.0.over()
    }

    /// Waits until the peer was told that the link is closed, or cannot be told.
    pub(crate) async fn gone(&self) {
        let _ = self.handle.0.is_gone.subscribe().wait_for(|is_gone| *is_gone).await;
    }
}
