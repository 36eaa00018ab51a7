//! The parts of one task.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

/// Runs parts side by side until one is over, and returns what it returned; the others are dropped.
///
/// Only the part that was woken is polled. A `select!` polls all of them for each: where they listen to a
/// link, each of them takes its lock, which is what those wait for who send on it. They begin in their
/// order.
///
/// # Panics
///
/// If there are none.
pub async fn first_of<'a, T>(parts: impl IntoIterator<Item = BoxFuture<'a, T>>) -> T {
    let mut parts: FuturesUnordered<_> = parts.into_iter().collect();
    parts.next().await.expect("a task has parts")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn only_who_was_woken_is_polled() {
        let (polls, never) = (AtomicUsize::new(0), Notify::new());
        let mut wait = Box::pin(never.notified());
        let waits = std::future::poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            wait.as_mut().poll_unpin(cx).map(|()| "it was not told")
        });
        let works = async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            "it is through"
        };
        assert_eq!(first_of([waits.boxed(), works.boxed()]).await, "it is through");
        assert_eq!(polls.load(Ordering::Relaxed), 1);
    }
}
