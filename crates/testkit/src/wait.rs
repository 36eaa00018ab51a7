use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a test waits for what happens within milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks: short beside what is waited for, long beside a look's cost.
const PAUSE: Duration = Duration::from_millis(20);

/// Polls until `ready` answers true.
///
/// # Panics
///
/// After `patience`, naming `what` was waited for.
#[track_caller]
pub fn wait_until(what: &str, patience: Duration, mut ready: impl FnMut() -> bool) {
    wait_for(what, patience, || ready().then_some(()));
}

/// Polls until `look` finds something, and returns it.
///
/// # Panics
///
/// After `patience`, naming `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < patience, "{what}: not within {patience:?}");
        sleep(PAUSE);
    }
}
