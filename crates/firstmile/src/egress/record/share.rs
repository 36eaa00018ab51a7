//! What one source takes of the recorder, so that it leaves something for the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ranges of all publications of one source: a relay may send nothing but every second number of many
/// publications. Each costs some 32 bytes.
const MAX_RANGES: usize = 1 << 18;

/// What all publications of one source take. Counted under the recorder's lock.
#[derive(Debug, Default)]
pub(super) struct Share {
    journals: AtomicUsize,
    ranges: AtomicUsize,
}

impl Share {
    /// Publications of the source.
    pub(super) fn journals(&self) -> usize {
        self.journals.load(Ordering::Relaxed)
    }
}

/// What one publication takes of its source's share; given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Charge {
    share: Option<Arc<Share>>,
    ranges: usize,
}

impl Charge {
    /// Charges a publication to its source.
    pub(super) fn of(share: Arc<Share>) -> Self {
        share.journals.fetch_add(1, Ordering::Relaxed);
        Self { share: Some(share), ranges: 0 }
    }

    /// It has so many ranges now.
    pub(super) fn set(&mut self, ranges: usize) {
        let before = std::mem::replace(&mut self.ranges, ranges);
        if let Some(share) = &self.share {
            share.ranges.fetch_add(ranges, Ordering::Relaxed);
            share.ranges.fetch_sub(before, Ordering::Relaxed);
        }
    }

    /// Whether the source has as many ranges as it may.
    pub(super) fn is_used_up(&self) -> bool {
        let ranges = |share: &Arc<Share>| share.ranges.load(Ordering::Relaxed);
        self.share.as_ref().is_some_and(|share| ranges(share) >= MAX_RANGES)
    }
}

impl Clone for Charge {
    /// A copy to look at, which counts for nobody.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
        if let Some(share) = &self.share {
            share.journals.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
