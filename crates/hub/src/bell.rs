use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

/// Tells one task of changes in any of several feeds; see [`Feed::ring`](crate::Feed::ring).
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<BTreeSet<usize>>,
    notify: Notify,
}

impl Bell {
    /// The keys of the feeds that have changed since the last call.
    pub fn take(&self) -> BTreeSet<usize> {
        std::mem::take(&mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a feed has changed since the last [`take`](Self::take). Cancel safe.
    pub async fn wait(&self) {
        loop {
            let notified = self.notify.notified();
            if !self.rung.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                return;
            }
            notified.await;
        }
    }

    fn ring(&self, key: usize) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if rung.insert(key) && rung.len() == 1 {
            drop(rung);
            self.notify.notify_one();
        }
    }
}

/// The bells that a feed rings.
#[derive(Debug, Default)]
pub(crate) struct Bells(Mutex<Vec<(Weak<Bell>, usize)>>);

impl Bells {
    pub(crate) fn add(&self, bell: &Arc<Bell>, key: usize) {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|(bell, _)| bell.strong_count() > 0);
        bells.push((Arc::downgrade(bell), key));
        drop(bells);
        // What was there before is news to it.
        bell.ring(key);
    }

    pub(crate) fn remove(&self, bell: &Arc<Bell>, key: usize) {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|(other, of)| (other.as_ptr(), *of) != (Arc::as_ptr(bell), key));
    }

    pub(crate) fn ring(&self) {
        for (bell, key) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(bell) = bell.upgrade() {
                bell.ring(*key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_which_feeds_have_changed() {
        let (bell, bells) = (Arc::new(Bell::default()), [Bells::default(), Bells::default()]);
        bells[0].add(&bell, 0);
        bells[1].add(&bell, 1);
        assert_eq!(bell.take(), [0, 1].into());
        bells[1].ring();
        bells[1].ring();
        bell.wait().await;
        assert_eq!(bell.take(), [1].into());
        bells[1].remove(&bell, 1);
        bells[1].ring();
        assert_eq!(bell.take(), [].into());
        assert_eq!(bells[0].0.lock().unwrap().len(), 1);
        drop(bell);
        bells[0].ring();
    }
}
