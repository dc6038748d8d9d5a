//! How often what was measured came to how much: counts by size, for metrics.
//!
//! Invariant: a measurement is counted once, in the first bucket whose bound it does not exceed. Counts and sum may be a
//! measurement apart for whoever reads meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts measurements. Any thread may add some; a place where several do often should have one each.
#[derive(Debug)]
pub struct Recorder {
    bounds: &'static [u64],
    /// One more than bounds: the last is for what exceeds them all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What was counted until one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// The greatest measurement that each bucket takes, ascending.
    pub bounds: &'static [u64],
    /// Measurements in each bucket; the last bucket has no bound.
    pub counts: Vec<u64>,
    /// The sum of all measurements.
    pub sum: u64,
}

impl Recorder {
    /// A recorder with buckets up to these bounds, which must ascend.
    #[must_use]
    pub fn new(bounds: &'static [u64]) -> Self {
        assert!(bounds.is_sorted(), "the bounds of buckets ascend");
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Counts a measurement.
    pub fn record(&self, measured: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < measured);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(measured, Ordering::Relaxed);
    }

    /// What was counted until now.
    #[must_use]
    pub fn distribution(&self) -> Distribution {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Distribution { bounds: self.bounds, counts, sum: self.sum.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_falls_into_the_first_bucket_that_takes_it() {
        let recorder = Recorder::new(&[1, 10, 100]);
        [0, 1, 2, 10, 11, 100, 101, 5000].iter().for_each(|measured| recorder.record(*measured));
        let Distribution { counts, sum, .. } = recorder.distribution();
        assert_eq!((counts, sum), (vec![2, 2, 2, 2], 5225));
    }
}
