//! The replicas on this node, which come and go while it runs.
//!
//! Invariants:
//! - Whoever looks sees a whole table; a replica that was found keeps working, and refuses when it has been stopped.
//! - Lookups go by [`Readers`], which each core caches: they write nothing that is shared, not even a reference count.
//! - A replica serves until a moment that was set when its age was known: one that nobody judges any more, as when the
//!   process stood still, serves no longer than one that is judged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use larder_storage::shard::ShardReader;
use larder_types::ids::{GroupId, ShardId};
use tokio::time::Instant;

use super::replica::Replica;

/// The replicas on this node. Shared.
pub(crate) struct Replicas {
    /// In order of group.
    table: ArcSwap<Vec<Arc<Replica>>>,
    readers: Arc<ArcSwap<Readers>>,
}

/// The shards that this node has replicas of.
#[derive(Default)]
pub struct Readers {
    /// By shard.
    shards: Vec<Option<Arc<Served>>>,
}

/// A shard's replica, as lookups see it.
pub struct Served {
    reader: ShardReader,
    /// Until when it is fresh enough, in microseconds since `base`; [`FOR_EVER`] if it cannot grow old.
    until: AtomicU64,
    base: Instant,
}

/// A replica that cannot grow old, since nobody else writes.
const FOR_EVER: u64 = u64::MAX;

impl Served {
    /// One that does not serve yet.
    fn new(reader: ShardReader) -> Self {
        Self { reader, until: AtomicU64::new(0), base: Instant::now() }
    }

    /// Notes for how long it serves from now on. `age` tells how old it is, and is asked after the moment was noted.
    fn judge(&self, most: Duration, age: impl FnOnce() -> Option<Duration>) {
        let now = self.base.elapsed();
        let until = match age().and_then(|age| most.checked_sub(age)) {
            None => 0,
            Some(_) if most == Duration::MAX => FOR_EVER,
            Some(left) => u64::try_from(now.saturating_add(left).as_micros()).unwrap_or(FOR_EVER),
        };
        if until != self.until.load(Ordering::Relaxed) {
            // Release pairs with the Acquire in `serves`: who sees it sees what had been applied.
            self.until.store(until, Ordering::Release);
        }
    }

    /// What to look up in. It shows what was applied here, however old that is.
    #[must_use]
    pub fn reader(&self) -> &ShardReader {
        &self.reader
    }

    /// Whether the replica has recovered and is not further behind than lookups may be.
    #[must_use]
    pub fn serves(&self) -> bool {
        match self.until.load(Ordering::Acquire) {
            0 => false,
            FOR_EVER => true,
            until => self.base.elapsed() < Duration::from_micros(until),
        }
    }
}

impl Readers {
    /// The replica of a shard, fresh or not.
    #[must_use]
    pub fn get(&self, shard: ShardId) -> Option<&Arc<Served>> {
        self.shards.get(usize::from(shard.0))?.as_ref()
    }
}

impl Replicas {
    /// None yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { table: ArcSwap::default(), readers: Arc::default() })
    }

    /// The replica of a group.
    pub(crate) fn get(&self, group: GroupId) -> Option<Arc<Replica>> {
        let table = self.table.load();
        table.binary_search_by_key(&group, |replica| replica.id).ok().map(|at| Arc::clone(&table[at]))
    }

    /// All, in order of group.
    pub(crate) fn all(&self) -> Arc<Vec<Arc<Replica>>> {
        self.table.load_full()
    }

    /// What lookups go by.
    pub(crate) fn readers(&self) -> &Arc<ArcSwap<Readers>> {
        &self.readers
    }

    /// Adds a replica. The group must have none here. One task at a time adds and removes.
    pub(crate) fn add(&self, replica: Arc<Replica>) {
        let mut table = Vec::clone(&self.table.load());
        let at = table.partition_point(|other| other.id < replica.id);
        assert!(table.get(at).is_none_or(|other| other.id != replica.id), "group {} has a replica here", replica.id);
        table.insert(at, replica);
        self.table.store(Arc::new(table));
        self.show();
    }

    /// Takes the replica of a group away, and returns it to be stopped.
    pub(crate) fn remove(&self, group: GroupId) -> Option<Arc<Replica>> {
        let mut table = Vec::clone(&self.table.load());
        let at = table.binary_search_by_key(&group, |replica| replica.id).ok()?;
        let removed = table.remove(at);
        self.table.store(Arc::new(table));
        self.show();
        Some(removed)
    }

    /// Notes which replicas serve lookups: those that may not be further behind than this.
    pub(crate) fn judge(&self, most: Duration) {
        let readers = self.readers.load();
        for replica in self.table.load().iter() {
            let shard = replica.id.0.checked_sub(1).map(ShardId);
            if let Some(served) = shard.and_then(|shard| readers.get(shard)) {
                served.judge(most, || replica.age());
            }
        }
    }

    /// Shows the table to lookups; a replica that was shown before keeps its judgement.
    fn show(&self) {
        let (table, before) = (self.table.load(), self.readers.load());
        let mut shards = Vec::new();
        for replica in table.iter() {
            let Some((shard, reader)) = replica.id.0.checked_sub(1).zip(replica.reader.as_ref()) else { continue };
            let at = usize::from(shard);
            if shards.len() <= at {
                shards.resize(at + 1, None);
            }
            let known = before.get(ShardId(shard)).filter(|served| served.reader.is_same(reader));
            let new = || Arc::new(Served::new(reader.clone()));
            shards[at] = Some(known.cloned().unwrap_or_else(new));
        }
        self.readers.store(Arc::new(Readers { shards }));
    }
}

#[cfg(test)]
mod tests {
    use larder_storage::shard::{Shard, ShardOptions};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_nobody_judges_stops_serving_when_it_is_too_old() {
        const SECOND: Duration = Duration::from_secs(1);
        let shard = Shard::new(ShardOptions { id: ShardId(0), hash_seed: 7 });
        let served = Served::new(shard.reader());
        assert!(!served.serves());
        served.judge(5 * SECOND, || Some(2 * SECOND));
        tokio::time::advance(2 * SECOND).await;
        assert!(served.serves());
        tokio::time::advance(2 * SECOND).await;
        assert!(!served.serves());
        served.judge(5 * SECOND, || Some(6 * SECOND));
        assert!(!served.serves());
        served.judge(Duration::MAX, || Some(Duration::ZERO));
        tokio::time::advance(1_000_000 * SECOND).await;
        assert!(served.serves());
        served.judge(Duration::MAX, || None);
        assert!(!served.serves());
    }
}
