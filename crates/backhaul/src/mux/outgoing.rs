//! Streams on their way out: what was written and not sent yet, the most important first.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::{Buf, Bytes, BytesMut};

use super::CONTROL;
use super::frame::{Head, MAX_DATA, MAX_HEAD};

/// Bytes of the control stream that may wait: two whole messages.
const MAX_CONTROL: usize = 128 << 10;

#[derive(Debug)]
pub(super) struct Outgoing {
    streams: HashMap<u64, Stream>,
    /// Streams that have something to say.
    ready: BTreeSet<(Reverse<i32>, u64)>,
    next: u64,
    most: usize,
    /// Bytes that wait, without those of the control stream.
    queued: usize,
}

#[derive(Debug)]
struct Stream {
    priority: i32,
    is_opened: bool,
    chunks: VecDeque<Bytes>,
    queued: usize,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finish,
    Reset,
}

/// A stream that is over, or that the peer wants no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl Outgoing {
    /// The control stream is there, and `most` others may be.
    pub(super) fn new(most: usize) -> Self {
        let (chunks, end) = (VecDeque::new(), None);
        let control = Stream { priority: i32::MAX, is_opened: true, chunks, queued: 0, end };
        let streams = HashMap::from([(CONTROL, control)]);
        Self { streams, ready: BTreeSet::new(), next: CONTROL + 1, most, queued: 0 }
    }

    /// Bytes that wait, the control stream's too.
    pub(super) fn waiting(&self) -> usize {
        self.queued + self.streams.get(&CONTROL).map_or(0, |control| control.queued)
    }

    /// Bytes that wait, without the control stream's.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Whether something waits to be sent.
    pub(super) fn has_more(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Begins a stream; `None` while the peer has too many.
    pub(super) fn open(&mut self, priority: i32) -> Option<u64> {
        // The control stream may be over.
        let others = self.streams.len() - usize::from(self.streams.contains_key(&CONTROL));
        if others >= self.most {
            return None;
        }
        let id = self.next;
        self.next += 1;
        let (chunks, end) = (VecDeque::new(), None);
        let stream = Stream { priority, is_opened: false, chunks, queued: 0, end };
        self.streams.insert(id, stream);
        self.ready.insert((Reverse(priority), id));
        Some(id)
    }

    /// Takes as much of the chunks as there is room for, and cuts it off them; returns the bytes that
    /// were taken.
    pub(super) fn write(
        &mut self,
        id: u64,
        chunks: &mut [Bytes],
        room: u64,
    ) -> Result<usize, Stopped> {
        let stream = self.streams.get_mut(&id).filter(|stream| stream.end.is_none());
        let stream = stream.ok_or(Stopped)?;
        let mut left = match id {
            CONTROL => MAX_CONTROL.saturating_sub(stream.queued),
            _ => usize::try_from(room).unwrap_or(usize::MAX),
        };
        let mut taken = 0;
        for chunk in chunks {
            let length = chunk.len().min(left);
            if length > 0 {
                stream.chunks.push_back(chunk.split_to(length));
            }
            (left, taken) = (left - length, taken + length);
        }
        stream.queued += taken;
        if id != CONTROL {
            self.queued += taken;
        }
        if taken > 0 {
            self.ready.insert((Reverse(stream.priority), id));
        }
        Ok(taken)
    }

    /// Says that this was all.
    pub(super) fn finish(&mut self, id: u64) -> Result<(), Stopped> {
        self.end(id, End::Finish)
    }

    /// Gives up what was not sent yet.
    pub(super) fn reset(&mut self, id: u64) -> Result<(), Stopped> {
        self.end(id, End::Reset)
    }

    /// The peer wants no more of it.
    pub(super) fn stop(&mut self, id: u64) {
        let _ = self.end(id, End::Reset);
    }

    fn end(&mut self, id: u64, end: End) -> Result<(), Stopped> {
        let stream = self.streams.get_mut(&id).ok_or(Stopped)?;
        // What is finished may still be given up.
        if stream.end.is_some_and(|before| before == End::Reset || before == end) {
            return Err(Stopped);
        }
        stream.end = Some(end);
        if end == End::Reset {
            if id != CONTROL {
                self.queued -= stream.queued;
            }
            stream.queued = 0;
            stream.chunks.clear();
            if !stream.is_opened {
                // Nobody knows of it.
                self.ready.remove(&(Reverse(stream.priority), id));
                self.streams.remove(&id);
                return Ok(());
            }
        }
        self.ready.insert((Reverse(stream.priority), id));
        Ok(())
    }

    /// Appends frames, until `out` has `limit` bytes, nothing is left, or the window's room is used
    /// up. The control stream does not ask for that.
    pub(super) fn take(&mut self, out: &mut BytesMut, limit: usize, mut room: u64) {
        while let Some(&(priority, id)) = self.ready.first() {
            if out.len().saturating_add(3 * MAX_HEAD) >= limit {
                return;
            }
            let stream = self.streams.get_mut(&id).expect("what is ready is there");
            let is_control = id == CONTROL;
            if !is_control && room == 0 && !stream.chunks.is_empty() {
                return;
            }
            if !std::mem::replace(&mut stream.is_opened, true) {
                Head::Open(id).encode(out);
            }
            // Its end may follow.
            let fits = (limit - out.len() - 2 * MAX_HEAD).min(MAX_DATA).min(stream.queued);
            let length = match is_control {
                true => fits,
                false => fits.min(usize::try_from(room).unwrap_or(usize::MAX)),
            };
            if length > 0 {
                Head::Data { stream: id, length }.encode(out);
                stream.take(out, length);
                if !is_control {
                    self.queued -= length;
                    room -= length as u64;
                }
            }
            if stream.queued > 0 {
                continue;
            }
            self.ready.remove(&(priority, id));
            if let Some(end) = stream.end {
                match end {
                    End::Finish => Head::Finish(id).encode(out),
                    End::Reset => Head::Reset(id).encode(out),
                }
                self.streams.remove(&id);
            }
        }
    }
}

impl Stream {
    fn take(&mut self, out: &mut BytesMut, mut length: usize) {
        self.queued -= length;
        while length > 0 {
            let chunk = self.chunks.front_mut().expect("so many bytes are there");
            let part = chunk.len().min(length);
            out.extend_from_slice(&chunk[..part]);
            chunk.advance(part);
            length -= part;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}
