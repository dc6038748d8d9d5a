//! The pace at which snapshots are written, so that they leave the disk to the log.
//!
//! Invariant: whoever writes waits, and nobody else. Time that was not used is not made up for: after a slow block the
//! next one comes no sooner, so the disk never gets more than a block at once.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A number of bytes per second, or none.
pub(crate) struct Pace {
    /// 0 for as fast as can be.
    bytes_per_second: u64,
    lifted: AtomicBool,
}

impl Pace {
    /// So many bytes per second; 0 for as fast as can be.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, lifted: AtomicBool::new(false) }
    }

    /// Lets those who write now and later be as fast as they can. Whoever waits does so to the end.
    pub(crate) fn lift(&self) {
        self.lifted.store(true, Ordering::Relaxed);
    }

    /// The same blocks, each given out no sooner than the pace allows after the one before. Blocks the thread.
    pub(crate) fn keep<'a>(&self, blocks: impl Iterator<Item = Cow<'a, [u8]>>) -> impl Iterator<Item = Cow<'a, [u8]>> {
        let mut due = Instant::now();
        blocks.inspect(move |block| {
            let now = Instant::now();
            let wait = due.saturating_duration_since(now);
            due = now + wait + self.time_for(block.len());
            thread::sleep(wait);
        })
    }

    /// How long the writing of so many bytes is to take.
    fn time_for(&self, bytes: usize) -> Duration {
        if self.bytes_per_second == 0 || self.lifted.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_follows_from_bytes() {
        let pace = Pace::new(1 << 20);
        assert_eq!(pace.time_for(1 << 20), Duration::from_secs(1));
        assert_eq!(pace.time_for(1 << 10), Duration::from_nanos(976_562));
        pace.lift();
        assert_eq!(pace.time_for(1 << 20), Duration::ZERO);
        assert_eq!(Pace::new(0).time_for(1 << 20), Duration::ZERO);
    }

    #[test]
    fn all_blocks_come_and_each_waits_for_the_one_before() {
        let pace = Pace::new(1 << 20);
        let blocks = [vec![1; 10 << 10], vec![2; 10 << 10], vec![3; 1]];
        let start = Instant::now();
        let kept: Vec<_> = pace.keep(blocks.iter().map(|block| Cow::Borrowed(&block[..]))).collect();
        assert!(kept.iter().eq(blocks.iter()));
        assert!(start.elapsed() >= pace.time_for(20 << 10), "the last block came before its time");
    }
}
