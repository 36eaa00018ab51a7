//! Streams on their way in: what has come and was not read yet.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::CONTROL;
use crate::Error;

/// What a stream costs beside its bytes.
const STREAM_COST: usize = 256;

#[derive(Debug)]
pub(super) struct Incoming {
    streams: HashMap<u64, Stream>,
    /// Streams that nobody has taken yet.
    new: VecDeque<u64>,
    /// Streams that are not over yet.
    open: usize,
    most: usize,
    unread: usize,
}

#[derive(Debug, Default)]
struct Stream {
    unread: BytesMut,
    end: Option<End>,
    /// Nobody reads it any more.
    is_dropped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Finish,
    Reset,
}

/// What there is to read of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// These bytes.
    Bytes(Bytes),
    /// Nothing yet.
    Nothing,
    /// Nothing more: it was sent to its end.
    Finished,
    /// Nothing more: its sender has given it up.
    Reset,
}

impl Incoming {
    /// The control stream is there, and `most` others may be.
    pub(super) fn new(most: usize) -> Self {
        let streams = HashMap::from([(CONTROL, Stream::default())]);
        Self { streams, new: VecDeque::new(), open: 0, most, unread: 0 }
    }

    /// Bytes that wait to be read, and what the streams cost.
    pub(super) fn unread(&self) -> usize {
        self.unread + self.streams.len() * STREAM_COST
    }

    pub(super) fn on_open(&mut self, id: u64) -> Result<(), Error> {
        if self.open >= self.most {
            return Err(Error::Limit("too many streams are open"));
        }
        if self.streams.contains_key(&id) || id == CONTROL {
            return Err(Error::Misbehaved("a stream was opened twice"));
        }
        self.open += 1;
        self.streams.insert(id, Stream::default());
        self.new.push_back(id);
        Ok(())
    }

    pub(super) fn on_data(&mut self, id: u64, bytes: &[u8]) -> Result<(), Error> {
        let stream = self.streams.get_mut(&id).filter(|stream| stream.end.is_none());
        let stream = stream.ok_or(Error::Misbehaved("there is no such stream"))?;
        if !stream.is_dropped {
            stream.unread.extend_from_slice(bytes);
            self.unread += bytes.len();
        }
        Ok(())
    }

    pub(super) fn on_end(&mut self, id: u64, end: End) -> Result<(), Error> {
        let stream = self.streams.get_mut(&id).filter(|stream| stream.end.is_none());
        let stream = stream.ok_or(Error::Misbehaved("there is no such stream"))?;
        stream.end = Some(end);
        if end == End::Reset {
            self.unread -= stream.unread.len();
            stream.unread = BytesMut::new();
        }
        self.open -= usize::from(id != CONTROL);
        if stream.is_dropped {
            self.streams.remove(&id);
        }
        Ok(())
    }

    /// The next stream that nobody has taken yet.
    pub(super) fn accept(&mut self) -> Option<u64> {
        self.new.pop_front()
    }

    pub(super) fn read(&mut self, id: u64, most: usize) -> Read {
        let Some(stream) = self.streams.get_mut(&id) else { return Read::Reset };
        if stream.unread.is_empty() {
            return match stream.end {
                None => Read::Nothing,
                Some(End::Finish) => Read::Finished,
                Some(End::Reset) => Read::Reset,
            };
        }
        let bytes = match stream.unread.len() <= most {
            true => std::mem::take(&mut stream.unread),
            false => stream.unread.split_to(most),
        };
        self.unread -= bytes.len();
        Read::Bytes(bytes.freeze())
    }

    /// Nobody reads it any more; returns whether the peer is to be told.
    pub(super) fn drop(&mut self, id: u64) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        self.unread -= stream.unread.len();
        stream.unread = BytesMut::new();
        if stream.end.is_some() {
            self.streams.remove(&id);
            return false;
        }
        !std::mem::replace(&mut stream.is_dropped, true)
    }
}
