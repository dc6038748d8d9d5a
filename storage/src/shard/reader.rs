//! The readers' side of a shard.
//!
//! Invariants:
//! 1. A lookup pins the epoch once and reaches everything from one view: the arena, the tables, the pools and the applied
//!    index of one state, never of two.
//! 2. What a view leads to outlives it: the writer retires memory only after a view that no longer leads there was
//!    shown, and a shard that goes leaves its state to the readers that remain.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use larder_types::hash::KeyHash;
use larder_types::ids::CollectionId;

use super::state::State;
use super::{CollectionStats, RecordView, ShardMemory};
use crate::arena::segment::SegmentDirectory;
use crate::prefetch::GROUP;
use crate::record::intern::Pools;
use crate::record::row::Row;
use crate::table::{Counters, Published, Table};

/// What readers see of one collection.
pub(crate) struct Readable {
    pub(crate) table: Arc<Table>,
    pub(crate) pools: Arc<Pools>,
}

/// What readers see of all collections.
pub(crate) type Readables = HashMap<CollectionId, Readable, ahash::RandomState>;

/// What the writer shows to readers. Never changes; another is shown when collections come and go.
pub(crate) struct View {
    pub(crate) arena: Arc<SegmentDirectory>,
    pub(crate) collections: Readables,
    /// The log index of the last entry applied.
    pub(crate) applied: Arc<AtomicU64>,
    /// Bytes of all collections.
    pub(crate) bytes: Arc<AtomicU64>,
}

/// Where writer and readers meet.
pub(crate) struct Shared {
    view: Published<View>,
    /// The state of a shard that is gone, for readers that are not.
    remains: Mutex<Option<State>>,
}

impl Shared {
    pub(crate) fn new(view: View) -> Self {
        Self { view: Published::new(view), remains: Mutex::new(None) }
    }

    /// Shows another view to readers that come from now on.
    pub(crate) fn show(&self, view: View) {
        self.view.replace(view);
    }

    /// Takes the state that the last view shows.
    pub(crate) fn keep(&self, state: State) {
        *self.remains.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }
}

/// The readers' side of a shard.
#[derive(Clone)]
pub struct ShardReader {
    shared: Arc<Shared>,
}

impl ShardReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Whether both read the same shard.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Looks a record up and shows it to `visit`, or returns `None` if the shard holds no such record. `hash` must be
    /// the key's placement hash.
    pub fn get<R>(
        &self,
        collection: CollectionId,
        hash: KeyHash,
        key: &[u8],
        visit: impl FnOnce(RecordView<'_>) -> R,
    ) -> Option<R> {
        let guard = crossbeam_epoch::pin();
        let view = self.shared.view.load(&guard);
        let Readable { table, pools } = view.collections.get(&collection)?;
        let root = table.root(&guard);
        let record = root.find(hash, key, &view.arena, &guard)?;
        Some(visit(RecordView::new(Row::of_checked(record), root.clears(), pools)))
    }

    /// Looks several records up, which is faster than one by one: memory is waited for once for a group of keys. Shows
    /// for each key its position in `keys` and the record, or `None` if the shard holds no such record, in order. The
    /// hashes must be the keys' placement hashes. The records may be of different moments, each a whole one.
    ///
    /// Pins the epoch throughout: `keys` should be hundreds at most.
    pub fn get_many(
        &self,
        collection: CollectionId,
        keys: &[(KeyHash, &[u8])],
        mut visit: impl FnMut(usize, Option<RecordView<'_>>),
    ) {
        let guard = crossbeam_epoch::pin();
        let view = self.shared.view.load(&guard);
        let Some(Readable { table, pools }) = view.collections.get(&collection) else {
            return (0..keys.len()).for_each(|at| visit(at, None));
        };
        let root = table.root(&guard);
        let mut at = 0;
        for group in keys.chunks(GROUP) {
            // A group of one has nobody to wait with.
            if group.len() > 1 {
                group.iter().for_each(|(hash, _)| root.prefetch_bucket(*hash, &guard));
                group.iter().for_each(|(hash, _)| root.prefetch_record(*hash, &view.arena, &guard));
            }
            for (hash, key) in group {
                let record = root.find(*hash, key, &view.arena, &guard);
                visit(at, record.map(|record| RecordView::new(Row::of_checked(record), root.clears(), pools)));
                at += 1;
            }
        }
    }

    /// The log index of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        // Acquire pairs with the Release in `State::advance`: what was applied before can be seen.
        self.shared.view.load(&crossbeam_epoch::pin()).applied.load(Ordering::Acquire)
    }

    /// Numbers of a collection; zeros if the shard holds nothing of it.
    #[must_use]
    pub fn stats(&self, collection: CollectionId) -> CollectionStats {
        let guard = crossbeam_epoch::pin();
        let Some(Readable { table, .. }) = self.shared.view.load(&guard).collections.get(&collection) else {
            return CollectionStats::default();
        };
        let counters = &table.counters;
        CollectionStats {
            records: counters.records.load(Ordering::Relaxed),
            bytes: counters.bytes(),
            table_bytes: counters.table_bytes.load(Ordering::Relaxed),
            batch_bytes: counters.batch_bytes.load(Ordering::Relaxed),
            dictionary_bytes: counters.dictionary_bytes.load(Ordering::Relaxed),
            records_of: counters.all_slots().collect(),
        }
    }

    /// The sum of [`CollectionStats::bytes`] over all collections: what counts of the shard against a limit.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.view.load(&crossbeam_epoch::pin()).bytes.load(Ordering::Relaxed)
    }

    /// What the shard takes, by kind. Looks at every collection.
    #[must_use]
    pub fn memory(&self) -> ShardMemory {
        let guard = crossbeam_epoch::pin();
        let view = self.shared.view.load(&guard);
        let sum = |of: fn(&Counters) -> &AtomicU64| {
            view.collections.values().map(|held| of(&held.table.counters).load(Ordering::Relaxed)).sum()
        };
        ShardMemory {
            bytes: view.bytes.load(Ordering::Relaxed),
            content_bytes: sum(|counters| &counters.content_bytes),
            table_bytes: sum(|counters| &counters.table_bytes),
            batch_bytes: sum(|counters| &counters.batch_bytes),
            dictionary_bytes: sum(|counters| &counters.dictionary_bytes),
            arena_bytes: view.arena.held().load(Ordering::Relaxed),
        }
    }
}
