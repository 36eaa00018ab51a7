//! Streams of a connection.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use backhaul::mux::{Read, Stopped};
use bytes::Bytes;

use super::connection::Handle;
use crate::link::{ReadError, WriteError};

/// The end of a stream that is written to. Dropped without a word, it is finished.
#[derive(Debug)]
pub struct SendStream {
    handle: Arc<Handle>,
    id: u64,
}

/// The end of a stream that is read. Dropped before its end, the peer is told to stop.
#[derive(Debug)]
pub struct RecvStream {
    handle: Arc<Handle>,
    id: u64,
}

impl From<Stopped> for WriteError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl SendStream {
    pub(super) fn new(handle: &Arc<Handle>, id: u64) -> Self {
        Self { handle: handle.clone(), id }
    }

    /// Writes as much as there is room for, and cuts it off the chunks; how many were taken whole.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, WriteError>> {
        let mut state = self.handle.0.lock();
        let taken = state.mux.write(self.id, chunks, Instant::now());
        if let Some(why) = self.handle.0.over() {
            return Poll::Ready(Err(WriteError::Lost(why)));
        }
        if taken? > 0 {
            state.wake_driver();
        } else if chunks.iter().any(|chunk| !chunk.is_empty()) {
            state.wait_writable(cx.waker());
            return Poll::Pending;
        }
        Poll::Ready(Ok(chunks.iter().take_while(|chunk| chunk.is_empty()).count()))
    }

    pub(crate) fn finish(&self) -> Result<(), WriteError> {
        let mut state = self.handle.0.lock();
        state.mux.finish(self.id)?;
        state.wake_driver();
        Ok(())
    }

    pub(crate) fn reset(&self) -> Result<(), WriteError> {
        let mut state = self.handle.0.lock();
        state.mux.reset(self.id)?;
        state.wake_driver();
        Ok(())
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        // Without effect if it is over.
        let _ = self.finish();
    }
}

impl RecvStream {
    pub(super) fn new(handle: &Arc<Handle>, id: u64) -> Self {
        Self { handle: handle.clone(), id }
    }

    /// What has come, `most` bytes of it at most; `None` at the end.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        let mut state = self.handle.0.lock();
        let was_full = !state.mux.wants_input();
        let read = match state.mux.read(self.id, most) {
            Read::Bytes(bytes) => Ok(Some(bytes)),
            Read::Finished => Ok(None),
            Read::Reset => Err(ReadError::Reset),
            Read::Nothing => match self.handle.0.over() {
                Some(why) => Err(ReadError::Lost(why)),
                None => {
                    state.wait_readable(self.id, cx.waker());
                    return Poll::Pending;
                }
            },
        };
        if was_full && state.mux.wants_input() {
            state.wake_driver();
        }
        Poll::Ready(read)
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        let mut state = self.handle.0.lock();
        state.mux.stop(self.id);
        state.forget_reader(self.id);
        state.wake_driver();
    }
}
