//! Tasks that go on at once when they wake themselves.
//!
//! A task wakes itself when a timer of its own has run out while it ran, when there is more to do than
//! it does at a time, or when one part of it tells another something. Tokio puts it at the end of a
//! queue then, and wakes a thread to take it from there: for a few feeds that costs more than all that
//! is left to do.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use tokio::task::JoinHandle;
use tokio::task::coop::has_budget_remaining;

/// How often a task is polled before others get their turn: a link sends 80 packets in that time.
const MOST_TURNS: usize = 4;

/// Spawns a task on tokio that goes on at once when it wakes itself.
///
/// # Panics
///
/// Outside of tokio.
pub fn spawn<T: Send + 'static>(future: BoxFuture<'static, T>) -> JoinHandle<T> {
    tokio::spawn(AtOnce::new(future))
}

/// A task that is polled again on the spot if it was woken meanwhile.
struct AtOnce<T> {
    future: BoxFuture<'static, T>,
    turn: Arc<Turn>,
    /// Wakes `turn`.
    waker: Waker,
}

impl<T> AtOnce<T> {
    fn new(future: BoxFuture<'static, T>) -> Self {
        let turn = Arc::<Turn>::default();
        Self { future, waker: turn.clone().into(), turn }
    }
}

impl<T> Future for AtOnce<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Self { future, turn, waker } = &mut *self;
        turn.task.register(cx.waker());
        for _ in 0..MOST_TURNS {
            turn.state.store(POLLED, Ordering::SeqCst);
            if let Poll::Ready(output) = future.poll_unpin(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            if turn.state.swap(WAITS, Ordering::SeqCst) == POLLED {
                return Poll::Pending;
            }
            // Without one, its parts would only say that they wait for it.
            if !has_budget_remaining() {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The task is not being polled: whoever wakes it has to tell the runtime.
const WAITS: u8 = 0;
/// The task is being polled, and nobody has woken it since that began.
const POLLED: u8 = 1;
/// The task was woken while it was being polled.
const WOKEN: u8 = 2;

/// Whose turn it is: the task's, or that of whoever wakes it.
#[derive(Default)]
struct Turn {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let woken = |state| (state != WAITS).then_some(WOKEN);
        if self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, woken).is_err() {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A task that wakes itself `times` times, how often it was polled, and who counts its wakings.
    fn restless(times: usize) -> (AtOnce<()>, Arc<AtomicUsize>, Arc<Count>) {
        let polls = Arc::<AtomicUsize>::default();
        let task = AtOnce::new({
            let polls = polls.clone();
            poll_fn(move |cx| {
                if polls.fetch_add(1, Ordering::Relaxed) < times {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            })
            .boxed()
        });
        (task, polls, Arc::new(Count(AtomicUsize::new(0))))
    }

    #[test]
    fn who_wakes_itself_goes_on_and_the_runtime_does_not_hear_of_it() {
        let (mut task, polls, runtime) = restless(1);
        let waker = runtime.clone().into();
        assert!(task.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(polls.load(Ordering::Relaxed), 2);
        assert_eq!(runtime.0.load(Ordering::Relaxed), 0);
        // Who wakes it now has to tell the runtime, once.
        task.waker.wake_by_ref();
        task.waker.wake_by_ref();
        assert_eq!(runtime.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn who_never_rests_lets_others_have_their_turn() {
        let (mut task, polls, runtime) = restless(usize::MAX);
        let waker = runtime.clone().into();
        for turn in 1..=3 {
            assert!(task.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!(polls.load(Ordering::Relaxed), turn * MOST_TURNS);
            assert_eq!(runtime.0.load(Ordering::Relaxed), turn);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_waking_is_lost() {
        let (ask, mut asked) = mpsc::channel::<usize>(1);
        let (answer, mut answers) = mpsc::channel(1);
        let answering = async move {
            while let Some(number) = asked.recv().await {
                answer.send(number).await.unwrap();
            }
        };
        spawn(answering.boxed());
        let asking = tokio::spawn(async move {
            for number in 0..100_000 {
                ask.send(number).await.unwrap();
            }
        });
        for number in 0..100_000 {
            let answer = tokio::time::timeout(Duration::from_secs(60), answers.recv()).await;
            assert_eq!(answer.expect("the task sleeps for ever"), Some(number));
        }
        asking.await.unwrap();
    }
}
