//! Freezing a shard for a snapshot: what it costs the writer, and what a reader notices.

use std::sync::atomic::{AtomicBool, Ordering};

use larder_storage::shard::FrozenShard;

use super::Windows;
use super::beside::{self, Outcome, Work};
use super::feed::Feed;
use super::report::{Goal, Report, Row, Unit};
use super::times::{greatest, median, timed};
use super::updates::Updates;

/// Freezes whose time is taken.
const FREEZES: usize = 9;
/// Updates between two of them: the writer then has pages of its own again, and other memory in its caches.
const UPDATES: u64 = 20_000;

/// Measures freezes of a shard that was loaded with so many customers.
pub(crate) fn measure(feed: &mut Feed, customers: u64, windows: Windows, report: &mut Report) -> anyhow::Result<()> {
    let mut nanos = Vec::new();
    for _ in 0..FREEZES {
        Updates::new(feed, customers).whole(UPDATES.min(customers))?;
        let (frozen, taken) = timed(|| feed.shard.freeze());
        drop(frozen);
        nanos.push(taken);
    }
    let millis = [median(&nanos), greatest(&nanos)].map(|nanos| nanos / 1e6);
    let note = format!("the longest of {FREEZES} of a shard with {customers} records; median {:.2} ms", millis[0]);
    report.rows.push(Row::judged("freeze, writer time", millis[1], Unit::Milliseconds, Goal::AtMost(5.0), note));
    let reader = feed.shard.reader();
    let outcome = beside::measure(&reader, customers, windows, &mut Freezes { feed, last: None })?;
    let name = "p99 of a lookup beside freezes / quiet";
    // What a busy processor beside the reader costs it anyway.
    let goal = Goal::AtMost(1.2);
    report.rows.push(Outcome::row(outcome.as_ref(), name, goal, "a writer that freezes again and again"));
    Ok(())
}

/// Freezes again and again.
struct Freezes<'a> {
    feed: &'a mut Feed,
    last: Option<FrozenShard>,
}

impl Work for Freezes<'_> {
    fn prepare(&mut self) -> anyhow::Result<()> {
        self.last = None;
        Ok(())
    }

    fn run(&mut self, over: &AtomicBool) -> anyhow::Result<()> {
        while !over.load(Ordering::Relaxed) {
            self.last = Some(self.feed.shard.freeze());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writer_and_reader_are_measured() {
        let (mut feed, _) = Feed::load(700).unwrap();
        let mut report = Report::default();
        measure(&mut feed, 700, Windows { count: 2, reads: 100 }, &mut report).unwrap();
        let names: Vec<_> = report.rows.iter().map(|row| row.name).collect();
        assert_eq!(names, ["freeze, writer time", "p99 of a lookup beside freezes / quiet"]);
        assert!(report.rows[0].figure.is_some_and(|millis| millis > 0.0), "{report:?}");
    }
}
