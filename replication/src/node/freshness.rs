//! How far behind the truth a replica may be.
//!
//! A replica hears that at some moment no more than a position had been acknowledged: a follower from its leader (see
//! `raft::echo`), a leader from a majority. Once it has applied that far, it shows all that was acknowledged before that
//! moment; so its staleness is the time since.
//!
//! Invariant: [`Freshness::age`] never claims less than the truth: a position counts only when everything up to it can be
//! read, and a moment that is heard of late never takes the place of a later one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The freshness of one replica.
#[derive(Debug, Default)]
pub(crate) struct Freshness(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    /// Everything that was committed at this moment can be read.
    fresh: Option<Instant>,
    /// A position that was committed at a moment and has not been reached yet.
    target: Option<(u64, Instant)>,
}

impl Freshness {
    /// Notes that at a moment no more than this index had been acknowledged, and how far this replica has applied.
    pub(crate) fn heard(&self, at: Instant, committed: u64, applied: Option<u64>) {
        let mut heard = self.lock();
        heard.reach(applied);
        // A target is kept until it is reached, else a replica that is always a little behind would never be fresh.
        if heard.target.is_none() && heard.fresh.is_none_or(|fresh| fresh < at) {
            heard.target = Some((committed, at));
            heard.reach(applied);
        }
    }

    /// The age of what can be read of a replica that has applied so much; `None` if it was never known to be fresh.
    pub(crate) fn age(&self, now: Instant, applied: Option<u64>) -> Option<Duration> {
        let mut heard = self.lock();
        heard.reach(applied);
        heard.fresh.map(|fresh| now.saturating_duration_since(fresh))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn reach(&mut self, applied: Option<u64>) {
        if let Some((committed, at)) = self.target
            && applied.is_some_and(|applied| applied >= committed)
        {
            self.fresh = Some(at);
            self.target = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_replica_that_nobody_speaks_to_grows_old() {
        let (freshness, start) = (Freshness::default(), Instant::now());
        assert_eq!(freshness.age(start, Some(5)), None);
        freshness.heard(start, 5, Some(5));
        assert_eq!(freshness.age(start + 3 * SECOND, Some(5)), Some(3 * SECOND));
        freshness.heard(start + 4 * SECOND, 5, Some(5));
        assert_eq!(freshness.age(start + 5 * SECOND, Some(5)), Some(SECOND));
    }

    #[test]
    fn what_is_committed_counts_from_when_it_was_heard_once_it_is_applied() {
        let (freshness, start) = (Freshness::default(), Instant::now());
        freshness.heard(start, 10, Some(4));
        freshness.heard(start + SECOND, 20, Some(9));
        assert_eq!(freshness.age(start + 2 * SECOND, Some(9)), None, "it was never seen to be fresh");
        assert_eq!(freshness.age(start + 2 * SECOND, Some(12)), Some(2 * SECOND), "as old as the first target");
        freshness.heard(start + 3 * SECOND, 20, Some(12));
        assert_eq!(freshness.age(start + 4 * SECOND, Some(20)), Some(SECOND));
    }

    #[test]
    fn what_is_heard_late_makes_nothing_older() {
        let (freshness, start) = (Freshness::default(), Instant::now());
        freshness.heard(start + 4 * SECOND, 5, Some(5));
        freshness.heard(start, 5, Some(5));
        assert_eq!(freshness.age(start + 5 * SECOND, Some(5)), Some(SECOND));
    }
}
