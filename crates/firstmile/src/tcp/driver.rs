//! Moves a connection's bytes: reads what comes all the time, and writes one record after the other,
//! so that little waits where it cannot be overtaken.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use backhaul::mux::Mux;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;

use super::connection::Shared;

/// Bytes read at a time: what a TLS record holds.
const READ: usize = 16 << 10;
/// Reads before others have their turn.
const MAX_READS: usize = 16;
/// Bytes written at a time, which fit into one TLS record.
const RECORD: usize = 16 << 10;
/// How often it is looked whether the peer is gone.
const LOOK: Duration = Duration::from_secs(1);
/// How long the peer may take to read why the link is closed.
const FAREWELL: Duration = Duration::from_secs(2);

/// Has the connection, and ends with it.
pub(super) struct Driver<S> {
    stream: S,
    shared: Arc<Shared>,
    /// Read, and less than a frame.
    input: BytesMut,
    /// One record on its way out.
    output: BytesMut,
    /// Whether the TLS library may hold some of the last record.
    is_unflushed: bool,
    timer: Pin<Box<Sleep>>,
}

/// Why a connection is over.
enum End {
    /// This end has closed it.
    Ours(String),
    /// The peer breaks the protocol.
    Broken(String),
    /// There is nobody to say anything to.
    Lost(String),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(stream: S, shared: Arc<Shared>) -> Self {
        Self {
            stream,
            shared,
            input: BytesMut::new(),
            output: BytesMut::new(),
            is_unflushed: false,
            timer: Box::pin(tokio::time::sleep(LOOK)),
        }
    }

    pub(super) async fn run(mut self) {
        let end = poll_fn(|cx| self.poll(cx)).await;
        let farewell = match end {
            Err(End::Ours(reason)) => Some(reason),
            Err(End::Broken(why)) => {
                self.shared.end(&why);
                Some(why)
            }
            Err(End::Lost(why)) => {
                self.shared.end(&why);
                None
            }
            Ok(()) => None,
        };
        if let Some(reason) = farewell {
            Mux::close(&mut self.output, &reason);
            let last_word = async {
                self.stream.write_all(&self.output).await?;
                self.stream.shutdown().await
            };
            // Whoever does not read it will see the connection's end.
            let _ = tokio::time::timeout(FAREWELL, last_word).await;
        }
    }

    /// Ready only with an end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut state = self.shared.lock();
        if let Some(reason) = &state.farewell {
            return Poll::Ready(Err(End::Ours(reason.clone())));
        }
        state.set_driver(cx.waker());
        drop(state);
        loop {
            self.read(cx)?;
            let is_blocked = self.write(cx)?.is_pending();
            let now = Instant::now();
            let state = self.shared.lock();
            if state.mux.is_dead(now) {
                return Poll::Ready(Err(End::Lost("timed out".to_owned())));
            }
            let timeout = state.mux.next_timeout();
            drop(state);
            let at = if is_blocked { now + LOOK } else { timeout.min(now + LOOK) };
            self.timer.as_mut().reset(at.into());
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Takes what has come.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        for _ in 0..MAX_READS {
            if !self.shared.lock().mux.wants_input() {
                // Whoever reads something wakes us.
                return Ok(());
            }
            self.input.reserve(READ);
            let Poll::Ready(read) = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input)
            else {
                return Ok(());
            };
            let bytes = read.map_err(|error| lost(&error))?;
            if bytes == 0 {
                return Err(End::Lost("the peer ended the connection".to_owned()));
            }
            let mut state = self.shared.lock();
            state.reads += 1;
            state.bytes_in += bytes as u64;
            let result = state.mux.handle_input(&mut self.input, Instant::now());
            if let Some(why) = state.tell() {
                return Err(End::Lost(why));
            }
            result.map_err(|error| End::Broken(error.to_string()))?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Writes what may be sent; pending while the connection takes nothing.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        loop {
            while !self.output.is_empty() {
                match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                    Poll::Ready(written) => {
                        self.output.advance(written.map_err(|error| lost(&error))?);
                        self.is_unflushed = true;
                    }
                    Poll::Pending => return Ok(Poll::Pending),
                }
            }
            if self.is_unflushed {
                match Pin::new(&mut self.stream).poll_flush(cx) {
                    Poll::Ready(flushed) => flushed.map_err(|error| lost(&error))?,
                    Poll::Pending => return Ok(Poll::Pending),
                }
                self.is_unflushed = false;
            }
            let mut state = self.shared.lock();
            state.mux.poll_transmit(Instant::now(), &mut self.output, RECORD);
            state.bytes_out += self.output.len() as u64;
            // The peer's closing is seen when it is read.
            let _ = state.tell();
            if self.output.is_empty() {
                return Ok(Poll::Ready(()));
            }
        }
    }
}

/// However it ends, a fault of ours included: nobody waits for it any more.
impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.shared.end("over");
        self.shared.gone();
    }
}

fn lost(error: &io::Error) -> End {
    End::Lost(match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
            "the peer ended the connection".to_owned()
        }
        io::ErrorKind::ConnectionReset => "the peer was restarted".to_owned(),
        _ => error.to_string(),
    })
}
