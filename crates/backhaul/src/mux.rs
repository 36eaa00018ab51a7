//! A link over one TCP connection: streams with priorities, and datagrams, without I/O.
//!
//! ```text
//!   write, send_datagram => Mux => poll_transmit => TLS => handle_input => Mux => read, accept
//! ```
//!
//! A connection delivers in order, so what was handed to it cannot be overtaken. The mux therefore
//! keeps what is written, and hands on only as much as the way takes without a queue: the peer
//! reports what it has received, which gives the rate and the round trip.

mod frame;
mod incoming;
mod outgoing;
mod window;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use crate::{Error, Role};
use frame::{Head, MAX_DATAGRAM, MAX_HEAD, MAX_REASON};
use incoming::{End, Incoming};
use outgoing::Outgoing;
use window::Window;

pub use incoming::Read;
pub use outgoing::Stopped;

/// The control stream: it is there from the beginning, in both directions.
pub const CONTROL: u64 = 0;
/// How often the peer is asked for a sign of life, which measures the round trip too.
const PING_INTERVAL: Duration = Duration::from_millis(250);
/// How long a report of what was received may wait for more.
const REPORT_DELAY: Duration = Duration::from_millis(10);
/// A link silent for this long is dead.
const IDLE: Duration = Duration::from_secs(30);
/// The round trip of a way that nothing is known of.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(100);
/// Streams of tags that a dialer's peer may have open: two for each of 256 feeds, and GOPs in
/// flight. Nobody sends tags to an acceptor yet.
const MAX_STREAMS: usize = 1_024;
/// Bytes that a peer may be ahead of its reader: of a relay, a keyframe and more of each feed; of a
/// studio, which sends control messages only, two whole ones. Then nothing is read of it.
const MAX_UNREAD: usize = 4 << 20;
const MAX_UNREAD_CONTROL: usize = 128 << 10;
/// Bytes of datagrams that wait; then the oldest are dropped.
const MAX_DATAGRAMS_IN: usize = 256 << 10;
const MAX_DATAGRAMS_OUT: usize = 64 << 10;

/// One end of a link over TCP.
#[derive(Debug)]
pub struct Mux {
    outgoing: Outgoing,
    incoming: Incoming,
    window: Window,
    max_unread: usize,
    datagrams_in: Datagrams,
    datagrams_out: Datagrams,
    /// Streams that the peer is to stop.
    stops: Vec<u64>,
    /// What is to be answered: only the latest counts.
    pong: Option<u64>,
    started: Instant,
    ping_at: Instant,
    /// Microseconds since the start, of the latest ping that was sent and that was answered.
    pings: [u64; 2],
    rtt: Option<Duration>,
    /// Bytes received that count, and what of that the peer was told.
    received: u64,
    reported: u64,
    report_at: Option<Instant>,
    heard: Instant,
    frames: u64,
    acknowledgements: u64,
    /// Somebody waits for room.
    is_blocked: bool,
    events: VecDeque<Event>,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is something to read of a stream.
    Readable(u64),
    /// There may be room for what could not be written, or for another stream.
    Writable,
    /// The peer has opened a stream.
    Opened,
    /// A datagram has come.
    Datagram,
    /// The peer has closed the link, for this reason.
    Closed(String),
}

/// Datagrams that wait, the oldest first.
#[derive(Debug)]
struct Datagrams {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    most: usize,
}

impl Mux {
    /// One end of a link whose handshake is over.
    pub fn new(role: Role, now: Instant) -> Self {
        let (streams_in, streams_out, max_unread) = match role {
            Role::Dialer => (MAX_STREAMS, 0, MAX_UNREAD),
            Role::Acceptor => (0, MAX_STREAMS, MAX_UNREAD_CONTROL),
        };
        Self {
            outgoing: Outgoing::new(streams_out),
            incoming: Incoming::new(streams_in),
            window: Window::new(now),
            max_unread,
            datagrams_in: Datagrams::new(MAX_DATAGRAMS_IN),
            datagrams_out: Datagrams::new(MAX_DATAGRAMS_OUT),
            stops: Vec::new(),
            pong: None,
            started: now,
            ping_at: now,
            pings: [0; 2],
            rtt: None,
            received: 0,
            reported: 0,
            report_at: None,
            heard: now,
            frames: 0,
            acknowledgements: 0,
            is_blocked: false,
            events: VecDeque::new(),
        }
    }

    /// Opens a stream; the highest priority goes first. `None` while the peer has too many.
    pub fn open(&mut self, priority: i32) -> Option<u64> {
        let id = self.outgoing.open(priority);
        self.is_blocked |= id.is_none();
        id
    }

    /// Takes as much of the chunks as there is room for, and cuts it off them; returns the bytes that
    /// were taken.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub fn write(
        &mut self,
        stream: u64,
        chunks: &mut [Bytes],
        now: Instant,
    ) -> Result<usize, Stopped> {
        let most = self.window.size(now) + self.window.backlog();
        let used = self.window.in_flight() + self.outgoing.queued() as u64;
        let taken = self.outgoing.write(stream, chunks, most.saturating_sub(used))?;
        self.is_blocked |= chunks.iter().any(|chunk| !chunk.is_empty());
        Ok(taken)
    }

    /// Says that this was all of a stream.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if it was over already.
    pub fn finish(&mut self, stream: u64) -> Result<(), Stopped> {
        self.outgoing.finish(stream)
    }

    /// Gives up what was not sent of a stream yet.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if it was over already.
    pub fn reset(&mut self, stream: u64) -> Result<(), Stopped> {
        self.outgoing.reset(stream)
    }

    /// Sends a datagram, or drops it.
    pub fn send_datagram(&mut self, datagram: Bytes) {
        if datagram.len() <= MAX_DATAGRAM {
            self.datagrams_out.push(datagram);
        }
    }

    /// The next stream that the peer has opened.
    pub fn accept(&mut self) -> Option<u64> {
        self.incoming.accept()
    }

    /// What has come of a stream, `most` bytes of it at most.
    pub fn read(&mut self, stream: u64, most: usize) -> Read {
        self.incoming.read(stream, most)
    }

    /// Wants no more of a stream.
    pub fn stop(&mut self, stream: u64) {
        if self.incoming.drop(stream) {
            self.stops.push(stream);
        }
    }

    /// The next datagram.
    pub fn read_datagram(&mut self) -> Option<Bytes> {
        self.datagrams_in.pop()
    }

    /// Whether more may be read from the connection: what came before has to be read first.
    pub fn wants_input(&self) -> bool {
        self.incoming.unread() < self.max_unread
    }

    /// Takes whole frames off what has come.
    ///
    /// # Errors
    ///
    /// [`Error`]: the peer breaks the protocol, and the link is to be closed.
    pub fn handle_input(&mut self, input: &mut BytesMut, now: Instant) -> Result<(), Error> {
        self.heard = now;
        while let Some((head, length)) = Head::decode(input)? {
            let whole = length + head.body();
            if input.len() < whole {
                break;
            }
            self.on_frame(head, &input[length..whole], now)?;
            if head.counts() {
                self.received += whole as u64;
                self.report_at.get_or_insert(now + REPORT_DELAY);
            }
            input.advance(whole);
        }
        Ok(())
    }

    fn on_frame(&mut self, head: Head, body: &[u8], now: Instant) -> Result<(), Error> {
        match head {
            Head::Open(stream) => {
                self.incoming.on_open(stream)?;
                self.events.push_back(Event::Opened);
            }
            Head::Data { stream, .. } => {
                self.frames += 1;
                self.incoming.on_data(stream, body)?;
                self.readable(stream);
            }
            Head::Finish(stream) => {
                self.incoming.on_end(stream, End::Finish)?;
                self.readable(stream);
            }
            Head::Reset(stream) => {
                self.incoming.on_end(stream, End::Reset)?;
                self.readable(stream);
            }
            Head::Stop(stream) => {
                // It may be over already.
                self.outgoing.stop(stream);
                self.writable();
            }
            Head::Datagram(_) => {
                self.frames += 1;
                self.datagrams_in.push(Bytes::copy_from_slice(body));
                self.events.push_back(Event::Datagram);
            }
            Head::Ping(number) => self.pong = Some(number),
            Head::Pong(number) => self.on_pong(number, now),
            Head::Received(total) => {
                if self.window.on_received(total, now)? {
                    self.acknowledgements += 1;
                    self.writable();
                }
            }
            Head::Close(_) => {
                let text = String::from_utf8_lossy(body).escape_debug().to_string();
                self.events.push_back(Event::Closed(text));
            }
        }
        Ok(())
    }

    fn readable(&mut self, stream: u64) {
        let event = Event::Readable(stream);
        if self.events.back() != Some(&event) {
            self.events.push_back(event);
        }
    }

    fn writable(&mut self) {
        if std::mem::take(&mut self.is_blocked) {
            self.events.push_back(Event::Writable);
        }
    }

    fn on_pong(&mut self, number: u64, now: Instant) {
        let [sent, answered] = self.pings;
        // One that was not asked for says nothing.
        if number <= answered || number > sent {
            return;
        }
        self.pings[1] = number;
        let rtt = now.saturating_duration_since(self.started + Duration::from_micros(number));
        self.rtt = Some(self.rtt.map_or(rtt, |before| (7 * before + rtt) / 8));
    }

    /// Appends frames to `out` until it has about `limit` bytes, what matters most first. What is
    /// appended is to be sent before this is called again.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut, limit: usize) {
        let begin = out.len();
        // These have no end if they count.
        if let Some(number) = self.pong.take() {
            Head::Pong(number).encode(out);
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.report_at = None;
            self.reported = self.received;
            Head::Received(self.received).encode(out);
        }
        let uncounted = out.len() - begin;
        if self.ping_at <= now {
            self.ping_at = now + PING_INTERVAL;
            let number = now.saturating_duration_since(self.started).as_micros() as u64;
            // Numbers rise, however fast they follow each other.
            self.pings[0] = number.max(self.pings[0] + 1);
            Head::Ping(self.pings[0]).encode(out);
        }
        while out.len() + MAX_HEAD < limit {
            let Some(stream) = self.stops.pop() else { break };
            Head::Stop(stream).encode(out);
        }
        while self.datagrams_out.fits(limit.saturating_sub(out.len() + MAX_HEAD)) {
            let Some(datagram) = self.datagrams_out.pop() else { break };
            Head::Datagram(datagram.len()).encode(out);
            out.extend_from_slice(&datagram);
        }
        let before = out.len();
        self.outgoing.take(out, limit, self.window.room(now));
        if out.len() > before {
            self.writable();
        }
        let counted = out.len() - begin - uncounted;
        self.window.on_sent(counted, self.outgoing.has_more(), now);
    }

    /// When [`Mux::poll_transmit`] has something to send though nothing has happened.
    pub fn next_timeout(&self) -> Instant {
        self.report_at.map_or(self.ping_at, |at| at.min(self.ping_at))
    }

    /// The next thing that has changed.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Has the peer asked for a sign of life at once.
    pub fn ping(&mut self, now: Instant) {
        self.ping_at = now;
    }

    /// Appends the link's last word.
    pub fn close(out: &mut BytesMut, reason: &str) {
        let mut length = reason.len().min(MAX_REASON);
        while !reason.is_char_boundary(length) {
            length -= 1;
        }
        Head::Close(length).encode(out);
        out.extend_from_slice(&reason.as_bytes()[..length]);
    }

    /// Whether nothing has come for so long that the link is dead.
    pub fn is_dead(&self, now: Instant) -> bool {
        self.silence(now) > IDLE
    }

    /// How long nothing has come.
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    /// Frames that have come and carried what a program had to say.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Reports of the peer that said something new.
    pub fn acknowledgements(&self) -> u64 {
        self.acknowledgements
    }

    /// Round trip time, as pings measure it.
    pub fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(FIRST_ROUND_TRIP)
    }

    /// Whether the peer has received all that was written.
    pub fn is_settled(&self) -> bool {
        self.outgoing.waiting() == 0 && self.window.in_flight() == 0
    }
}

impl Datagrams {
    fn new(most: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, most }
    }

    fn push(&mut self, datagram: Bytes) {
        self.bytes += datagram.len() + Self::COST;
        self.waiting.push_back(datagram);
        while self.bytes > self.most {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.waiting.pop_front()?;
        self.bytes -= datagram.len() + Self::COST;
        Some(datagram)
    }

    fn fits(&self, room: usize) -> bool {
        self.waiting.front().is_some_and(|datagram| datagram.len() <= room)
    }

    /// What one costs beside its bytes.
    const COST: usize = 64;
}

#[cfg(test)]
mod tests;
