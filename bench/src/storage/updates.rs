//! Patches: how many a second of processor time, and what a reader notices of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;

use super::beside::{self, Outcome, Work};
use super::feed::{Feed, Patch, few_of, some, whole_of};
use super::report::{Goal, Report, Row, Unit};
use super::times::Stopwatch;
use super::{SEED, Windows};
use crate::random::Random;

/// Patches a second of processor time.
const GOAL: Goal = Goal::AtLeast(500.0);

/// The row for a kind of patches.
pub(crate) fn row(name: &'static str, watch: &Stopwatch) -> Row {
    let note = format!(
        "over all {} patches, with the cleaning they cause; median of the entries {:.0} k/s",
        watch.done(),
        watch.median_rate() / 1000.0
    );
    Row::judged(name, watch.rate() / 1000.0, Unit::ThousandsPerCpuSecond, GOAL, note)
}

/// Updates of random customers, each update another version than any before.
pub(crate) struct Updates<'a> {
    feed: &'a mut Feed,
    customers: u64,
    random: Random,
    /// Entries for the next window beside a reader.
    ready: Vec<Bytes>,
    /// Entries to be made for a window.
    entries: usize,
    /// What was applied beside a reader.
    beside: Stopwatch,
    /// How long that took by the clock on the wall.
    wall: Duration,
}

impl<'a> Updates<'a> {
    /// Updates of a shard that was loaded with so many customers.
    pub(crate) fn new(feed: &'a mut Feed, customers: u64) -> Self {
        // Others than were updated before.
        let random = Random::new(SEED ^ feed.next_version());
        let (beside, wall) = (Stopwatch::default(), Duration::ZERO);
        Self { feed, customers, random, ready: Vec::new(), entries: 0, beside, wall }
    }

    /// Measures a reader while all fields of random customers are updated at full speed.
    pub(crate) fn measure_reader(&mut self, windows: Windows, report: &mut Report) -> anyhow::Result<()> {
        let reader = self.feed.shard.reader();
        // More than the reader will see: it takes longer for a lookup than the writer for half a patch.
        self.entries = 1 + windows.reads / 200;
        let outcome = beside::measure(&reader, self.customers, windows, self)?;
        let what = format!(
            "{:.0} k updates a second; the writer had its processor {:.0} % of the time",
            self.beside.rate_in(self.wall) / 1000.0,
            self.beside.share_of(self.wall) * 100.0
        );
        let name = "p99 of a lookup beside a writer / quiet";
        report.rows.push(Outcome::row(outcome.as_ref(), name, Goal::AtMost(2.0), &what));
        self.ready.clear();
        Ok(())
    }

    /// Applies at least so many updates of all fields, timed.
    pub(crate) fn whole(&mut self, updates: u64) -> anyhow::Result<Stopwatch> {
        self.apply(updates, whole_of)
    }

    /// Applies at least so many updates of three fields, timed.
    pub(crate) fn few(&mut self, updates: u64) -> anyhow::Result<Stopwatch> {
        self.apply(updates, few_of)
    }

    fn apply<F: Fn(u64) -> anyhow::Result<Patch>>(
        &mut self,
        updates: u64,
        patch_of: impl Fn(u64) -> F,
    ) -> anyhow::Result<Stopwatch> {
        let mut watch = Stopwatch::default();
        while watch.done() < updates {
            let entry = self.entry(&patch_of)?;
            self.feed.apply_timed(&entry, &mut watch)?;
        }
        Ok(watch)
    }

    fn entry<F: Fn(u64) -> anyhow::Result<Patch>>(&mut self, patch_of: impl Fn(u64) -> F) -> anyhow::Result<Bytes> {
        let version = self.feed.next_version();
        let patches = some(self.customers, &mut self.random).into_iter().map(patch_of(version));
        self.feed.entry(patches)
    }
}

impl Work for Updates<'_> {
    fn prepare(&mut self) -> anyhow::Result<()> {
        self.ready.clear();
        for _ in 0..self.entries {
            let entry = self.entry(whole_of)?;
            self.ready.push(entry);
        }
        Ok(())
    }

    fn run(&mut self, over: &AtomicBool) -> anyhow::Result<()> {
        ensure!(!self.ready.is_empty(), "no entry was made for this window");
        let start = Instant::now();
        for entry in &self.ready {
            self.feed.apply_timed(entry, &mut self.beside)?;
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
        self.wall += start.elapsed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::feed::COLLECTION;
    use super::*;

    #[test]
    fn updates_change_records_and_add_none() {
        let (mut feed, _) = Feed::load(700).unwrap();
        let reader = feed.shard.reader();
        let mut updates = Updates::new(&mut feed, 700);
        let (whole, few) = (updates.whole(1200).unwrap(), updates.few(600).unwrap());
        assert_eq!((whole.done(), few.done()), (1500, 1000));
        assert_eq!(reader.stats(COLLECTION).records, 700);
        let row = row("apply", &whole);
        assert!(row.figure.is_some_and(|rate| rate > 0.0), "{row:?}");
    }

    #[test]
    fn a_reader_is_measured_while_updates_go_on() {
        let (mut feed, _) = Feed::load(700).unwrap();
        let mut report = Report::default();
        let mut updates = Updates::new(&mut feed, 700);
        updates.measure_reader(Windows { count: 2, reads: 300 }, &mut report).unwrap();
        assert_eq!(report.rows.len(), 1);
        // Without a second processor nothing is measured, and the row says so.
        assert_eq!(report.rows[0].figure.is_some(), updates.beside.done() > 0, "{report:?}");
    }
}
