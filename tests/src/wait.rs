//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(50);

/// Looks again and again until there is something, and returns it. `look` says what it saw when there is not.
///
/// # Panics
/// When there was nothing for so long: the test has failed. The message holds what was seen last.
#[track_caller]
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        let seen = match look() {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}; last seen: {seen}");
        std::thread::sleep(POLL);
    }
}
