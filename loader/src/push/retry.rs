//! When to try again: exponential delays with full jitter, at least as long as the server asks, within a budget.

use std::time::{Duration, Instant};

/// How requests are repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// The upper bound of the first delay; each further one is twice the one before.
    pub(crate) first: Duration,
    /// No upper bound is above this.
    pub(crate) cap: Duration,
    /// How long after its first attempt a request may be repeated.
    pub(crate) budget: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            cap: Duration::from_secs(30),
            // A rolling restart of a cluster, or a failover with a person in it.
            budget: Duration::from_secs(15 * 60),
        }
    }
}

/// The attempts of one request.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: RetryPolicy,
    began: Instant,
    failed: u32,
}

impl Attempts {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, began: Instant::now(), failed: 0 }
    }

    /// True until an attempt has failed.
    pub(crate) fn is_first(&self) -> bool {
        self.failed == 0
    }

    /// How long the request has been tried.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// An attempt failed: how long to wait before the next, or `None` if the budget would be spent by then.
    /// `asked` is what the server wants at least; `random` is any number.
    pub(crate) fn next_delay(&mut self, asked: Option<Duration>, random: u32) -> Option<Duration> {
        let bound = self.policy.first.saturating_mul(1 << self.failed.min(16)).min(self.policy.cap);
        self.failed += 1;
        let jittered = bound.mul_f64(f64::from(random) / f64::from(u32::MAX));
        let delay = jittered.max(asked.unwrap_or_default());
        (self.began.elapsed() + delay < self.policy.budget).then_some(delay)
    }
}

/// A number nobody can guess, so that loaders that failed together do not come back together.
pub(crate) fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_cap() {
        let mut attempts = Attempts::new(RetryPolicy::default());
        let delays: Vec<u128> = (0..10).map(|_| attempts.next_delay(None, u32::MAX).unwrap().as_millis()).collect();
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    }

    #[test]
    fn the_server_may_ask_for_more_and_the_budget_ends_it() {
        let mut attempts = Attempts::new(RetryPolicy::default());
        assert_eq!(attempts.next_delay(Some(Duration::from_secs(7)), 0), Some(Duration::from_secs(7)));
        assert_eq!(attempts.next_delay(None, 0), Some(Duration::ZERO));
        assert_eq!(attempts.next_delay(Some(Duration::from_secs(3600)), 0), None);
        let mut spent = Attempts::new(RetryPolicy { budget: Duration::ZERO, ..RetryPolicy::default() });
        assert_eq!(spent.next_delay(None, 0), None);
    }
}
