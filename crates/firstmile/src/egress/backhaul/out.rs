use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use anyhow::Result;
use backhaul::{StreamHeader, TagHeader};
use bytes::{Bytes, BytesMut};

use crate::link::{Link, SendStream, WriteError};

/// One-way streams of tags that follow each other.
pub(super) struct Out {
    subscription: u64,
    priority: i32,
    stream: Stream,
    /// Headers and bodies that the link has not taken yet.
    pending: VecDeque<Bytes>,
}

enum Stream {
    /// The next tag opens one.
    None,
    /// The peer has a bound on how many there are.
    Opening(Pin<Box<dyn Future<Output = Result<SendStream>> + Send>>),
    Open(SendStream),
}

impl Out {
    /// Streams of a subscription, with a priority of the link's.
    pub(super) fn new(subscription: u64, priority: i32) -> Self {
        Self { subscription, priority, stream: Stream::None, pending: VecDeque::new() }
    }

    /// Whether the link has taken everything.
    pub(super) fn is_flushed(&self) -> bool {
        self.pending.is_empty()
    }

    /// Puts a tag in line, on the stream that is open, or on a new one.
    pub(super) fn push(&mut self, link: &Link, tag: &TagHeader, body: Bytes) {
        let mut header = BytesMut::new();
        if matches!(self.stream, Stream::None) {
            StreamHeader { subscription: self.subscription }.encode(&mut header);
            let (link, priority) = (link.clone(), self.priority);
            self.stream = Stream::Opening(Box::pin(async move { link.open_tags(priority).await }));
        }
        tag.encode(&mut header);
        self.pending.push_back(header.freeze());
        if !body.is_empty() {
            self.pending.push_back(body);
        }
    }

    /// Writes what is in line; ready once nothing is left.
    ///
    /// # Errors
    ///
    /// If the link is lost, or the peer wants no more of the stream.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.pending.is_empty() {
            let stream = match &mut self.stream {
                Stream::Open(stream) => stream,
                Stream::Opening(opening) => {
                    let stream = ready!(opening.as_mut().poll(cx))?;
                    self.stream = Stream::Open(stream);
                    continue;
                }
                Stream::None => unreachable!("what is in line has opened a stream"),
            };
            let taken = {
                let chunks = self.pending.make_contiguous();
                // What was not taken is asked for again: the future holds nothing.
                let write = std::pin::pin!(stream.write_chunks(chunks));
                ready!(write.poll(cx))?
            };
            self.pending.drain(..taken);
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the stream; the next tag opens another. Nothing is in line.
    pub(super) fn finish(&mut self) {
        if let Stream::Open(mut stream) = std::mem::replace(&mut self.stream, Stream::None) {
            // One that the peer has stopped is over as well.
            let _ = stream.finish();
        }
    }

    /// Gives up what the peer does not have yet.
    pub(super) fn give_up(&mut self) {
        self.pending.clear();
        if let Stream::Open(mut stream) = std::mem::replace(&mut self.stream, Stream::None) {
            let _ = stream.reset();
        }
    }
}

/// Whether a write failed because the peer wants no more of the stream.
pub(super) fn is_stopped(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(WriteError::Stopped))
}
