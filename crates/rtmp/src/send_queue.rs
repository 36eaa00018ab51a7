use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Room for the headers of some hundred messages; allocated when something is first written.
const ARENA: usize = 4096;

/// Bytes to be sent: small headers and shared bodies, in order.
///
/// As a [`Buf`] it can be written vectored, with tokio's `write_all_buf` for one. Bodies are
/// clones of [`Bytes`] and never copied; headers are packed together in one arena.
#[derive(Debug, Default)]
pub struct SendQueue {
    /// Never holds an empty piece.
    pieces: VecDeque<Bytes>,
    /// What was written since the last body; it follows the pieces.
    arena: BytesMut,
    remaining: usize,
}

impl SendQueue {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    /// Appends a copy of `bytes`, for what is small and made on the spot.
    pub fn put(&mut self, bytes: &[u8]) {
        if self.arena.capacity() == 0 {
            self.arena.reserve(ARENA.max(bytes.len()));
        }
        self.arena.extend_from_slice(bytes);
        self.remaining += bytes.len();
    }

    /// Appends `body` without copying it.
    pub fn push(&mut self, body: Bytes) {
        if body.is_empty() {
            return;
        }
        if !self.arena.is_empty() {
            self.pieces.push_back(self.arena.split().freeze());
        }
        self.remaining += body.len();
        self.pieces.push_back(body);
    }
}

impl Buf for SendQueue {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        match self.pieces.front() {
            Some(piece) => piece,
            None => &self.arena,
        }
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        let arena = (!self.arena.is_empty()).then_some(&self.arena[..]);
        let pieces = self.pieces.iter().map(|piece| &piece[..]).chain(arena);
        let mut count = 0;
        for (slot, piece) in dst.iter_mut().zip(pieces) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    /// # Panics
    ///
    /// If `count` is more than what remains, as [`Buf::advance`] says.
    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "advanced past the end of the queue");
        self.remaining -= count;
        while let Some(front) = self.pieces.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.pieces.pop_front();
        }
        self.arena.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SendQueue {
        let mut queue = SendQueue::default();
        queue.put(b"ab");
        queue.put(b"c");
        queue.push(Bytes::from_static(b"defg"));
        queue.push(Bytes::new());
        queue.push(Bytes::from_static(b"hi"));
        queue.put(b"j");
        queue
    }

    #[test]
    fn keeps_the_order_and_packs_headers() {
        let mut queue = sample();
        assert_eq!(queue.remaining(), 10);
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(queue.chunks_vectored(&mut slices), 4);
        assert_eq!(&*slices[0], b"abc");
        assert_eq!(queue.chunks_vectored(&mut slices[..2]), 2);
        assert_eq!(queue.copy_to_bytes(10), &b"abcdefghij"[..]);
        assert!(queue.is_empty());
        assert_eq!(queue.chunk(), b"");
    }

    #[test]
    fn advances_by_any_step() {
        for step in 1..=10 {
            let (mut queue, mut sent) = (sample(), Vec::new());
            while !queue.is_empty() {
                let count = step.min(queue.remaining());
                sent.extend_from_slice(&queue.copy_to_bytes(count));
                if sent.len() == 5 {
                    queue.put(b"k");
                }
            }
            assert!(sent.starts_with(b"abcdefghij"), "step {step}");
        }
    }

    #[test]
    fn shares_bodies() {
        let body = Bytes::from(vec![7; 100]);
        let mut queue = SendQueue::default();
        queue.push(body.clone());
        assert_eq!(queue.chunk().as_ptr(), body.as_ptr());
    }
}
