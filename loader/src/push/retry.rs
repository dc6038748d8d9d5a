//! When to try again: exponential delays with full jitter, at least as long as the server asks, within a budget.
//!
//! The budget is the time for which a cluster may do nothing but fail. All requests of a run share it, and a good answer
//! to any of them fills it again: a cluster that falters all day is no reason to give up, one that is gone is.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use tokio::time::Instant;

use crate::project::push::PushSpec;

/// How requests are repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// The upper bound of the first delay; each further one is twice the one before.
    pub(crate) first: Duration,
    /// No upper bound is above this.
    pub(crate) cap: Duration,
    /// For how long nothing but failures is borne.
    pub(crate) budget: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            cap: Duration::from_secs(30),
            budget: PushSpec::default().give_up_after,
        }
    }
}

impl RetryPolicy {
    /// A delay after `failed` failures before the last; `random` is any number.
    pub(crate) fn jittered(&self, failed: u32, random: u32) -> Duration {
        let bound = self.first.saturating_mul(1 << failed.min(16)).min(self.cap);
        bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// What is left of a budget.
#[derive(Debug)]
pub(crate) struct Patience {
    policy: RetryPolicy,
    /// When the first request failed since the last good answer.
    trouble: Option<Instant>,
}

impl Patience {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, trouble: None }
    }

    /// A request was answered well.
    pub(crate) fn restore(&mut self) {
        self.trouble = None;
    }

    /// For how long there was nothing but trouble.
    pub(crate) fn strained(&self) -> Duration {
        self.trouble.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// An attempt failed, after `failed` others of the same request: how long to wait before the next, or `None` if the
    /// budget would be spent by then. `asked` is what the server wants at least; `random` is any number.
    pub(crate) fn delay(&mut self, failed: u32, asked: Option<Duration>, random: u32) -> Option<Duration> {
        let strained = self.trouble.get_or_insert_with(Instant::now).elapsed();
        let delay = self.policy.jittered(failed, random).max(asked.unwrap_or_default());
        (strained.saturating_add(delay) < self.policy.budget).then_some(delay)
    }
}

/// Reads `Retry-After`: seconds, or a date, of which `now` is left to wait.
pub(crate) fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

/// A number nobody can guess, so that loaders that failed together do not come back together.
pub(crate) fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bounds_double_up_to_the_cap() {
        let mut patience = Patience::new(RetryPolicy::default());
        let delays: Vec<u128> =
            (0..10).map(|failed| patience.delay(failed, None, u32::MAX).unwrap().as_millis()).collect();
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_for_trouble_without_a_good_answer() {
        let budget = Duration::from_secs(10);
        let mut patience = Patience::new(RetryPolicy { budget, ..RetryPolicy::default() });
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(patience.delay(0, Some(Duration::from_secs(7)), 0), Some(Duration::from_secs(7)), "all was well");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(patience.delay(3, None, 0), Some(Duration::ZERO));
        assert_eq!(patience.delay(0, Some(Duration::from_secs(4)), 0), None, "shared by all requests");
        assert_eq!(patience.strained(), Duration::from_secs(6));
        patience.restore();
        assert_eq!(patience.delay(0, Some(Duration::from_secs(4)), 0), Some(Duration::from_secs(4)));
        let mut none = Patience::new(RetryPolicy { budget: Duration::ZERO, ..RetryPolicy::default() });
        assert_eq!(none.delay(0, None, 0), None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(none.delay(0, Some(Duration::MAX), 0), None, "whatever the server asks for");
    }

    #[test]
    fn servers_ask_for_patience_in_seconds_or_until_a_date() {
        let now: Timestamp = "1994-11-06T08:49:30Z".parse().unwrap();
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
