//! What a feed takes of its hub's memory.

use std::sync::atomic::Ordering;

use super::{Inner, Shared, lock};
use crate::spool::Leaving;

impl Shared {
    pub(crate) fn owner(&self) -> u64 {
        self.owner
    }

    /// Bytes that the live part takes.
    pub(crate) fn ring_bytes(&self) -> usize {
        self.ring_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that the spool takes.
    pub(crate) fn spool_bytes(&self) -> usize {
        self.spool_bytes.load(Ordering::Relaxed)
    }

    /// Gives up the oldest GOP for the sake of all.
    pub(crate) fn give_up_gop(&self) {
        let mut inner = lock(&self.inner);
        inner.ring.give_up_gop();
        inner.ring.give_up_spool(usize::MAX, |tag| self.pass_on(tag));
        self.account(&inner);
    }

    /// Gives up the oldest of the spool for the sake of all.
    pub(crate) fn give_up_spool(&self, bytes: usize) {
        let mut inner = lock(&self.inner);
        inner.ring.give_up_spool(bytes, |tag| self.pass_on(tag));
        self.account(&inner);
    }

    /// Hands on a tag that leaves memory.
    pub(super) fn pass_on(&self, tag: Leaving) {
        if let Some(overflow) = &self.overflow {
            overflow.put(tag);
        }
    }

    /// Tells the budget how large the ring is now; `inner` is its proof of the lock.
    pub(super) fn account(&self, inner: &Inner) {
        let (ring, spool) = (inner.ring.bytes(), inner.ring.spool_bytes());
        let before = self.ring_bytes() + self.spool_bytes();
        self.ring_bytes.store(ring, Ordering::Relaxed);
        self.spool_bytes.store(spool, Ordering::Relaxed);
        self.budget.change(before, ring + spool);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.budget.change(self.ring_bytes() + self.spool_bytes(), 0);
    }
}
