//! Takes a one-way stream apart into tags.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use backhaul::{StreamHeader, TagHeader};
use bytes::{Buf, Bytes, BytesMut};
use tokio::task::coop::consume_budget;

use crate::link::{ReadError, RecvStream};

/// Bytes read from a stream at a time.
const READ: usize = 64 << 10;
/// Bytes of tags that are not whole yet, on all streams of a link.
const MAX_PARTIAL_BYTES: usize = 64 << 20;

/// Bytes of tags that are not whole yet, on all streams of a link.
pub(super) type Partial = Arc<AtomicUsize>;

/// A stream of tags.
pub(super) struct TagStream {
    stream: RecvStream,
    /// Read, and not yet taken apart: less than a tag's header, or one read.
    input: BytesMut,
    partial: Partial,
    /// This stream's share of `partial`.
    charged: usize,
}

impl TagStream {
    pub(super) fn new(stream: RecvStream, partial: Partial) -> Self {
        Self { stream, input: BytesMut::new(), partial, charged: 0 }
    }

    /// The subscription that the stream belongs to; `None` if it ended before saying so.
    pub(super) async fn header(&mut self) -> Result<Option<u64>> {
        loop {
            if let Some(header) = StreamHeader::decode(&mut self.input)? {
                return Ok(Some(header.subscription));
            }
            let Some(chunk) = self.read().await? else { return Ok(None) };
            self.input.extend_from_slice(&chunk);
        }
    }

    /// The next tag; `None` at the stream's end, and where the sender has given it up.
    pub(super) async fn tag(&mut self) -> Result<Option<(TagHeader, Bytes)>> {
        // A relay may send more than there is time for: the rest of the link has its turns.
        consume_budget().await;
        let header = loop {
            if let Some(header) = TagHeader::decode(&mut self.input)? {
                break header;
            }
            let Some(chunk) = self.read().await? else { return Ok(None) };
            self.input.extend_from_slice(&chunk);
        };
        let have = header.length.min(self.input.len());
        // A body has memory of its own, which grows as its bytes arrive: a neighbour's would be
        // kept alive by it.
        let mut body = Vec::with_capacity(header.length.min(READ));
        body.extend_from_slice(&self.input[..have]);
        self.input.advance(have);
        while body.len() < header.length {
            self.charge(body.len())?;
            let Some(chunk) = self.read().await? else { return Ok(None) };
            let more = chunk.len().min(header.length - body.len());
            body.extend_from_slice(&chunk[..more]);
            self.input.extend_from_slice(&chunk[more..]);
        }
        self.charge(0)?;
        body.shrink_to_fit();
        Ok(Some((header, body.into())))
    }

    /// Bytes of the stream; `None` at its end, and where the sender has given it up.
    async fn read(&mut self) -> Result<Option<Bytes>> {
        match self.stream.read_chunk(READ).await {
            Ok(chunk) => Ok(chunk),
            Err(ReadError::Reset) => Ok(None),
            Err(error) => Err(error).context("a stream of tags broke off"),
        }
    }

    /// Sets what this stream keeps of a tag that is not whole yet.
    fn charge(&mut self, bytes: usize) -> Result<()> {
        let before = std::mem::replace(&mut self.charged, bytes);
        if bytes < before {
            self.partial.fetch_sub(before - bytes, Ordering::Relaxed);
        } else if self.partial.fetch_add(bytes - before, Ordering::Relaxed) > MAX_PARTIAL_BYTES {
            bail!("more than {MAX_PARTIAL_BYTES} bytes of tags that are never whole");
        }
        Ok(())
    }
}

impl Drop for TagStream {
    fn drop(&mut self) {
        self.partial.fetch_sub(self.charged, Ordering::Relaxed);
    }
}
