//! A reader with and without a busy writer beside it, each on a processor of its own.
//!
//! Windows without and with the writer take turns. Each lookup is timed by the clock on the wall: what matters here is
//! how long a reader may be held up, not what it works.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Context as _;
use larder_storage::record::Dictionary;
use larder_storage::shard::ShardReader;

use super::customer::{self, CustomerKey};
use super::feed::COLLECTION;
use super::report::{Goal, Row, Unit};
use super::times::median;
use super::{SEED, Windows};
use crate::affinity::{self, Split};
use crate::random::Random;

/// What the writer does while the reader reads.
pub(crate) trait Work: Send {
    /// Makes ready for a window, which is not part of it.
    fn prepare(&mut self) -> anyhow::Result<()>;

    /// Works until there is nothing left to do or `over` is set.
    fn run(&mut self, over: &AtomicBool) -> anyhow::Result<()>;
}

/// Nanoseconds of lookups, a figure for each window.
#[derive(Debug, Default)]
struct Latencies {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// What the reader saw.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    quiet: Latencies,
    busy: Latencies,
}

/// Measures lookups of random customers while `work` is done in every other window. `None` when there is but one
/// processor: reader and writer would then wait for each other, whatever the engine does.
pub(crate) fn measure(
    reader: &ShardReader,
    customers: u64,
    windows: Windows,
    work: &mut impl Work,
) -> anyhow::Result<Option<Outcome>> {
    let Some(split) = Split::find()? else { return Ok(None) };
    let beside = Beside { reader, names: customer::dictionary(), split };
    // On a thread of its own, so that this one keeps all processors.
    let outcome = thread::scope(|scope| {
        scope
            .spawn(|| beside.alternate(customers, windows, work))
            .join()
            .map_err(|_| anyhow::anyhow!("the reader died"))
    });
    outcome?.map(Some)
}

impl Outcome {
    /// The row that judges the 99th percentile beside a busy writer against the quiet one.
    pub(crate) fn row(outcome: Option<&Self>, name: &'static str, goal: Goal, what: &str) -> Row {
        let Some(Self { quiet, busy }) = outcome else {
            let why = "this machine gives one processor only, and reader and writer need one each".to_owned();
            return Row::missing(name, Unit::Times, Some(goal), why);
        };
        let medians = [&quiet.p50, &quiet.p99, &busy.p50, &busy.p99].map(|values| median(values) / 1000.0);
        let note = format!(
            "medians of windows in us: p50 {:.2} and p99 {:.2} quiet, p50 {:.2} and p99 {:.2} beside {what}",
            medians[0], medians[1], medians[2], medians[3]
        );
        Row::judged(name, medians[3] / medians[1], Unit::Times, goal, note)
    }
}

struct Beside<'a> {
    reader: &'a ShardReader,
    names: Dictionary,
    split: Split,
}

impl Beside<'_> {
    fn alternate(&self, customers: u64, windows: Windows, work: &mut impl Work) -> anyhow::Result<Outcome> {
        affinity::pin(self.split.generator)?;
        let (mut outcome, mut random) = (Outcome::default(), Random::new(SEED));
        for _ in 0..windows.count {
            let keys: Vec<_> = (0..windows.reads).map(|_| CustomerKey::of(random.below(customers))).collect();
            outcome.quiet.add(self.read(&keys, &AtomicBool::new(false)));
            work.prepare()?;
            let keys: Vec<_> = (0..windows.reads).map(|_| CustomerKey::of(random.below(customers))).collect();
            outcome.busy.add(self.read_beside(&keys, work)?);
        }
        Ok(outcome)
    }

    fn read_beside(&self, keys: &[CustomerKey], work: &mut impl Work) -> anyhow::Result<Vec<u32>> {
        let (started, over) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let pinned = affinity::pin(self.split.server);
                started.store(true, Ordering::Release);
                let done = pinned.map_err(anyhow::Error::from).and_then(|()| work.run(&over));
                over.store(true, Ordering::Release);
                done
            });
            while !started.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            let nanos = self.read(keys, &over);
            over.store(true, Ordering::Release);
            writer.join().ok().context("the writer died")??;
            Ok(nanos)
        })
    }

    /// Looks up all keys, or as many as the writer's work lasts for, at least one. Returns each one's time.
    fn read(&self, keys: &[CustomerKey], over: &AtomicBool) -> Vec<u32> {
        let mut nanos = Vec::with_capacity(keys.len());
        let mut out = Vec::with_capacity(1024);
        let mut before = Instant::now();
        for key in keys {
            out.clear();
            self.reader.get(COLLECTION, key.hash, key.as_bytes(), |view| view.write_json(&self.names, None, &mut out));
            black_box(&out);
            let now = Instant::now();
            nanos.push(u32::try_from((now - before).as_nanos()).unwrap_or(u32::MAX));
            before = now;
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
        nanos
    }
}

impl Latencies {
    fn add(&mut self, mut nanos: Vec<u32>) {
        nanos.sort_unstable();
        let at = |percent: usize| f64::from(nanos[(nanos.len() * percent / 100).min(nanos.len() - 1)]);
        self.p50.push(at(50));
        self.p99.push(at(99));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::feed::Feed;
    use super::super::report::Verdict;
    use super::*;

    struct Turns<'a>(&'a AtomicUsize, &'a AtomicUsize);

    impl Work for Turns<'_> {
        fn prepare(&mut self) -> anyhow::Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        fn run(&mut self, over: &AtomicBool) -> anyhow::Result<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            while !over.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            Ok(())
        }
    }

    #[test]
    fn the_writer_works_in_every_other_window() {
        let (feed, _) = Feed::load(500).unwrap();
        let (prepared, run) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let windows = Windows { count: 3, reads: 200 };
        let outcome = measure(&feed.shard.reader(), 500, windows, &mut Turns(&prepared, &run)).unwrap();
        let Some(outcome) = outcome else { return };
        assert_eq!((prepared.into_inner(), run.into_inner()), (3, 3));
        assert_eq!((outcome.quiet.p99.len(), outcome.busy.p99.len()), (3, 3));
        let row = Outcome::row(Some(&outcome), "row", Goal::AtMost(f64::MAX), "turns");
        assert_eq!(row.verdict, Verdict::Pass, "{row:?}");
    }

    #[test]
    fn percentiles_are_of_the_window() {
        let mut latencies = Latencies::default();
        latencies.add((1..=1000).rev().collect());
        assert_eq!((latencies.p50, latencies.p99), (vec![501.0], vec![991.0]));
    }

    #[test]
    fn one_processor_is_no_verdict() {
        let row = Outcome::row(None, "row", Goal::AtMost(2.0), "turns");
        assert_eq!((row.figure, row.verdict), (None, Verdict::NotMeasured));
    }
}
