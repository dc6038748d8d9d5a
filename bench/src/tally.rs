//! What became of the requests of one measurement.
//!
//! Invariant: every request that was due ends in exactly one of four ways: answered, timed out, failed or not sent. Answers
//! and time-outs enter the latencies, so that a server that stops answering cannot look fast; failures are counted
//! apart, since a refused connection takes no time worth averaging.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::answer::Head;
use crate::connection::ExchangeError;

/// Longest latency that is told apart, in nanoseconds: an hour.
const MAX_NANOS: u64 = 3_600_000_000_000;

/// Latencies with three significant digits.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

/// The usual figures of a distribution, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    /// Half are at most this.
    pub(crate) p50: f64,
    /// 90 in 100 are at most this.
    pub(crate) p90: f64,
    /// 99 in 100 are at most this.
    pub(crate) p99: f64,
    /// 999 in 1000 are at most this.
    #[serde(rename = "p99.9")]
    pub(crate) p999: f64,
    /// The longest.
    pub(crate) max: f64,
}

impl Latencies {
    /// No latencies yet.
    pub(crate) fn new() -> Self {
        #[allow(clippy::expect_used, reason = "the bounds are constants that the histogram accepts")]
        Self(Histogram::new_with_bounds(1, MAX_NANOS, 3).expect("1 ns to 1 h with 3 digits"))
    }

    /// Adds one; what is over an hour counts as an hour.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(MAX_NANOS));
    }

    /// The usual figures; all zero when nothing was recorded.
    #[allow(clippy::cast_precision_loss, reason = "an hour of nanoseconds fits the 53 bits of a double")]
    pub(crate) fn percentiles(&self) -> Percentiles {
        let micros = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        Percentiles {
            p50: micros(0.5),
            p90: micros(0.9),
            p99: micros(0.99),
            p999: micros(0.999),
            max: self.0.max() as f64 / 1000.0,
        }
    }
}

/// Counts and latencies of one measurement.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// Of answers and time-outs.
    pub(crate) latencies: Latencies,
    /// Answers that came before the measurement's end; what drains after it does not count towards the rate.
    pub(crate) answered_in_time: u64,
    /// Bytes of all answers, heads included.
    pub(crate) bytes: u64,
    by_status: [u64; 400],
    errors: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Nothing happened yet.
    pub(crate) fn new() -> Self {
        Self {
            latencies: Latencies::new(),
            answered_in_time: 0,
            bytes: 0,
            by_status: [0; 400],
            errors: BTreeMap::new(),
        }
    }

    /// Counts an answer, whose status the parser holds to 200..=599.
    pub(crate) fn answered(&mut self, head: &Head, latency: Duration, in_time: bool) {
        self.by_status[usize::from(head.status) - 200] += 1;
        self.bytes += (head.head_bytes + head.body_bytes) as u64;
        self.answered_in_time += u64::from(in_time);
        self.latencies.record(latency);
    }

    /// Counts a request that was given up after `age`.
    pub(crate) fn timed_out(&mut self, age: Duration) {
        *self.errors.entry("timed out").or_default() += 1;
        self.latencies.record(age);
    }

    /// Counts a request that was due while too many others waited.
    pub(crate) fn not_sent(&mut self) {
        *self.errors.entry("not sent, too many waited").or_default() += 1;
    }

    /// Counts a request that failed otherwise.
    pub(crate) fn failed(&mut self, error: &ExchangeError) {
        let kind = match error {
            ExchangeError::Connect(_) => "cannot connect",
            ExchangeError::Broken(_) => "connection broke",
            ExchangeError::Closed => "closed early",
            ExchangeError::Malformed(_) => "malformed answer",
        };
        *self.errors.entry(kind).or_default() += 1;
    }

    /// All answers.
    pub(crate) fn answers(&self) -> u64 {
        self.by_status.iter().sum()
    }

    /// Answers by status, without the statuses that did not come.
    pub(crate) fn statuses(&self) -> BTreeMap<u16, u64> {
        (200_u16..).zip(self.by_status).filter(|&(_, count)| count > 0).collect()
    }

    /// Requests without an answer, by reason.
    pub(crate) fn errors(&self) -> &BTreeMap<&'static str, u64> {
        &self.errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16) -> Head {
        Head { status, head_bytes: 100, body_bytes: 20, closes: false }
    }

    #[test]
    fn every_request_ends_in_one_way() {
        let mut tally = Tally::new();
        tally.answered(&head(200), Duration::from_millis(1), true);
        tally.answered(&head(599), Duration::from_millis(1), false);
        tally.timed_out(Duration::from_secs(7));
        tally.failed(&ExchangeError::Closed);
        tally.not_sent();
        assert_eq!(tally.statuses(), BTreeMap::from([(200, 1), (599, 1)]));
        assert_eq!(
            tally.errors(),
            &BTreeMap::from([("timed out", 1), ("closed early", 1), ("not sent, too many waited", 1)])
        );
        assert_eq!((tally.answers(), tally.answered_in_time, tally.bytes), (2, 1, 240));
    }

    #[test]
    fn time_outs_are_part_of_the_latencies() {
        let mut tally = Tally::new();
        for _ in 0..98 {
            tally.answered(&head(200), Duration::from_micros(100), true);
        }
        tally.timed_out(Duration::from_secs(5));
        tally.timed_out(Duration::from_secs(5));
        let figures = tally.latencies.percentiles();
        assert!((figures.p50 - 100.0).abs() < 0.2, "{figures:?}");
        assert!(figures.p99 >= 4_990_000.0, "{figures:?}");
        assert!(figures.max >= 5_000_000.0, "{figures:?}");
    }
}
