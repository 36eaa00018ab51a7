//! A socket with an RTMP session on it, server or client.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use rtmp::SendQueue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::{poll_read_buf, poll_write_buf};

use crate::config;
use crate::config::value::{BitRate, Span};
use crate::rate::Bucket;

/// Room for a read while little comes: most connections are idle or players.
const SMALL_READ: usize = 4 << 10;
/// Room for a read while much comes.
const LARGE_READ: usize = 64 << 10;

/// Why a connection ended that nobody meant to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket failed.
    #[error("the connection was lost: {0}")]
    Io(#[from] io::Error),
    /// The peer's bytes make no sense.
    #[error(transparent)]
    Rtmp(#[from] rtmp::Error),
    /// Nothing came for too long.
    #[error("nothing came for {} s", .0.as_secs())]
    Silent(Duration),
    /// The client did not say in time what it wants.
    #[error("it did not say what it wants within {} s", .0.as_secs())]
    Late(Duration),
    /// The peer takes nothing for too long.
    #[error("the peer took nothing for {} s", .0.as_secs())]
    Stuck(Duration),
    /// The encoder lives, but sends neither video nor audio.
    #[error("the connection lives, but no video or audio came for {} s", .0.as_secs())]
    NoMedia(Duration),
    /// The encoder sends more than it may.
    #[error("its bitrate is over {0}, the limit here")]
    Bitrate(BitRate),
    /// The publication is as long as it may be.
    #[error("it was on air for {0}, the limit here")]
    Duration(Span),
    /// The peer sends more messages than any client does.
    #[error("it sends more than {0} messages a second")]
    Messages(u32),
    /// The peer sends more commands than any client does.
    #[error("it sends more than {0} commands a second")]
    Commands(u32),
    /// A newcomer needed the room.
    #[error("it was not let in yet, and a newcomer needed its place")]
    Dismissed,
}

/// Rates of messages and commands are averages over this many seconds.
const RATE_SECONDS: f64 = 5.0;

/// After this much silence of the peer, it is pinged: one that is gone is found although nothing
/// else is to be written.
const PING_AFTER: Duration = Duration::from_secs(5);

/// How many messages and commands a peer may send.
#[derive(Debug)]
struct Pace {
    messages_per_second: u32,
    commands_per_second: u32,
    messages: Bucket,
    commands: Bucket,
    /// What was counted before.
    counted: (u64, u64),
}

impl Pace {
    fn count(&mut self, counts: (u64, u64), now: Instant) -> Result<(), Error> {
        let (messages, commands) = (counts.0 - self.counted.0, counts.1 - self.counted.1);
        self.counted = counts;
        let take = |bucket: &mut Bucket, count: u64, rate: u32| {
            let rate = f64::from(rate);
            count == 0 || bucket.take(count as f64, rate, rate * RATE_SECONDS, now)
        };
        if !take(&mut self.messages, messages, self.messages_per_second) {
            return Err(Error::Messages(self.messages_per_second));
        }
        if !take(&mut self.commands, commands, self.commands_per_second) {
            return Err(Error::Commands(self.commands_per_second));
        }
        Ok(())
    }
}

/// What an exchange with the socket did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Some bytes of the send queue were written.
    Wrote,
    /// Bytes were read, and events may wait.
    Read,
    /// The peer closed its side.
    Closed,
}

/// A session without its socket: bytes in, events out, bytes out.
pub trait Session {
    /// What it tells.
    type Event;
    /// Takes what was read.
    ///
    /// # Errors
    ///
    /// If the peer's bytes make no sense.
    fn handle_input(&mut self, input: &mut BytesMut) -> Result<(), rtmp::Error>;
    /// The next event.
    fn poll_event(&mut self) -> Option<Self::Event>;
    /// What is to be written.
    fn send_queue(&mut self) -> &mut SendQueue;
    /// Tells a trace, if there is one, what the time is.
    fn set_trace_clock(&mut self, _since_opened: Duration) {}
    /// Messages that the peer has sent, and commands among them, if they are to be limited.
    fn counts(&self) -> (u64, u64) {
        (0, 0)
    }
}

impl Session for rtmp::Server {
    type Event = rtmp::session::server::Event;

    fn handle_input(&mut self, input: &mut BytesMut) -> Result<(), rtmp::Error> {
        self.handle_input(input)
    }

    fn poll_event(&mut self) -> Option<Self::Event> {
        self.poll_event()
    }

    fn send_queue(&mut self) -> &mut SendQueue {
        self.send_queue()
    }

    fn set_trace_clock(&mut self, since_opened: Duration) {
        self.set_trace_clock(since_opened);
    }

    fn counts(&self) -> (u64, u64) {
        (self.messages(), self.commands())
    }
}

impl Session for rtmp::Client {
    type Event = rtmp::session::client::Event;

    fn handle_input(&mut self, input: &mut BytesMut) -> Result<(), rtmp::Error> {
        self.handle_input(input)
    }

    fn poll_event(&mut self) -> Option<Self::Event> {
        self.poll_event()
    }

    fn send_queue(&mut self) -> &mut SendQueue {
        self.send_queue()
    }
}

/// An RTMP connection: the session, its socket, and the bytes between them.
#[derive(Debug)]
pub struct Connection<S, P = rtmp::Server> {
    /// The session.
    pub session: P,
    /// The peer's address.
    pub peer: SocketAddr,
    socket: S,
    input: BytesMut,
    read_size: usize,
    opened: Instant,
    last_read: Instant,
    last_write: Instant,
    last_ping: Instant,
    pace: Option<Pace>,
    /// Whether the socket may hold back what was written to it: TLS does, a TCP socket does not.
    is_held_back: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin, P: Session> Connection<S, P> {
    /// A session on a socket that has just been connected.
    pub fn new(socket: S, peer: SocketAddr, session: P) -> Self {
        let now = Instant::now();
        Self {
            session,
            peer,
            socket,
            input: BytesMut::new(),
            read_size: SMALL_READ,
            opened: now,
            last_read: now,
            last_write: now,
            last_ping: now,
            pace: None,
            is_held_back: false,
        }
    }

    /// Bounds how many messages and commands the peer may send.
    pub fn limit_rates(&mut self, limits: &config::Rtmp) {
        let (messages, commands) = (limits.messages_per_second, limits.commands_per_second);
        let full = |rate| Bucket::full(f64::from(rate) * RATE_SECONDS, self.last_read);
        self.pace = Some(Pace {
            messages_per_second: messages,
            commands_per_second: commands,
            messages: full(messages),
            commands: full(commands),
            counted: (0, 0),
        });
    }

    /// Hands what was read and left over to the session once more.
    ///
    /// # Errors
    ///
    /// If the peer's bytes make no sense.
    pub fn resume(&mut self) -> Result<(), Error> {
        Ok(self.session.handle_input(&mut self.input)?)
    }

    /// The session's next event; `None` once the peer has closed. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error`]; a peer that says nothing for `patience` is an error too.
    pub async fn event(&mut self, patience: Duration) -> Result<Option<P::Event>, Error> {
        loop {
            if let Some(event) = self.session.poll_event() {
                return Ok(Some(event));
            }
            let deadline = self.last_read + patience;
            match tokio::time::timeout_at(deadline.into(), self.exchange()).await {
                Err(_) => return Err(Error::Silent(patience)),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(Exchange::Closed)) => return Ok(None),
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Writes what is queued and reads what has come; returns once either made progress.
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error`] if the socket fails or the peer's bytes make no sense.
    pub async fn exchange(&mut self) -> Result<Exchange, Error> {
        let exchange = poll_fn(|cx| self.poll_exchange(cx)).await?;
        if exchange == Exchange::Read {
            self.session.set_trace_clock(self.last_read - self.opened);
            self.session.handle_input(&mut self.input)?;
            if let Some(pace) = &mut self.pace {
                pace.count(self.session.counts(), self.last_read)?;
            }
        }
        Ok(exchange)
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Exchange>> {
        let queue = self.session.send_queue();
        if queue.has_remaining() {
            match poll_write_buf(Pin::new(&mut self.socket), cx, queue) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(_)) => {
                    self.last_write = Instant::now();
                    self.is_held_back = true;
                    if self.session.send_queue().is_empty()
                        && let Poll::Ready(Err(error)) = self.poll_flush(cx)
                    {
                        return Poll::Ready(Err(error));
                    }
                    return Poll::Ready(Ok(Exchange::Wrote));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        } else if self.is_held_back {
            if self.poll_flush(cx)?.is_ready() {
                self.last_write = Instant::now();
                return Poll::Ready(Ok(Exchange::Wrote));
            }
        } else {
            // Nothing to write is no sign of a stuck peer.
            self.last_write = Instant::now();
        }
        self.input.reserve(self.read_size);
        let spare = self.input.capacity() - self.input.len();
        let read =
            match std::task::ready!(poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.input))
            {
                // Many clients close without TLS's goodbye; RTMP knows itself what was cut short.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                read => read?,
            };
        if read == 0 {
            return Poll::Ready(Ok(Exchange::Closed));
        }
        self.last_read = Instant::now();
        if read >= spare.min(LARGE_READ) {
            self.read_size = LARGE_READ;
        } else if read < SMALL_READ / 4 {
            self.read_size = SMALL_READ;
        }
        Poll::Ready(Ok(Exchange::Read))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.is_held_back = false;
        }
        flushed
    }

    /// Whether everything queued was written and has left.
    pub fn is_flushed(&mut self) -> bool {
        self.session.send_queue().is_empty() && !self.is_held_back
    }

    /// Since when the peer has taken nothing of what waits for it.
    pub fn last_write(&self) -> Instant {
        self.last_write
    }

    /// Since when the peer has said nothing.
    pub fn last_read(&self) -> Instant {
        self.last_read
    }

    /// Writes what is queued, as far as the peer takes it within `patience`, and closes.
    pub async fn finish(mut self, patience: Duration) {
        let flush = async {
            while self.session.send_queue().has_remaining() {
                let queue = self.session.send_queue();
                poll_fn(|cx| poll_write_buf(Pin::new(&mut self.socket), cx, queue)).await?;
            }
            poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await
        };
        // A peer that is gone already has nothing to be told.
        let _ = tokio::time::timeout(patience, flush).await;
    }
}

impl<S> Connection<S, rtmp::Server> {
    /// Asks a silent peer that was let in for a sign of life, now and then.
    pub fn ping_if_silent(&mut self, now: Instant) {
        let last = self.last_read.max(self.last_ping);
        if now.saturating_duration_since(last) >= PING_AFTER {
            self.last_ping = now;
            // Its value only has to come back.
            self.session.ping(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, BufStream};

    use super::*;

    #[test]
    fn messages_and_commands_have_rates() {
        let start = Instant::now();
        let pace = || Pace {
            messages_per_second: 100,
            commands_per_second: 10,
            messages: Bucket::full(500.0, start),
            commands: Bucket::full(50.0, start),
            counted: (0, 0),
        };
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut fair = pace();
        fair.count((500, 50), start).unwrap();
        for second in 1..20 {
            fair.count((500 + 100 * second, 50 + 10 * second), after(second)).unwrap();
        }
        let mut loud = pace();
        assert!(matches!(loud.count((501, 0), start), Err(Error::Messages(100))));
        let mut curious = pace();
        curious.count((50, 50), after(1)).unwrap();
        assert!(matches!(curious.count((51, 51), after(1)), Err(Error::Commands(10))));
    }

    /// What a session answers to a client's first bytes leaves a socket that holds it back.
    #[tokio::test]
    async fn nothing_is_left_in_a_socket_that_holds_back() {
        let (mut peer, socket) = tokio::io::duplex(1_000);
        let config = rtmp::session::server::Config::default();
        let server = rtmp::Server::new(config, [0; 32]);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut connection = Connection::new(BufStream::new(socket), address, server);
        let mut hello = vec![0; 1_537];
        hello[0] = 3;
        let reader = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut peer, &hello).await.unwrap();
            // S0, S1 and S2, through a pipe that takes less.
            peer.read_exact(&mut [0; 3_073]).await.unwrap();
        });
        let event = connection.event(Duration::from_secs(10)).await.unwrap();
        assert!(event.is_none(), "the peer left after the answer");
        assert!(connection.is_flushed());
        reader.await.unwrap();
    }
}
