//! The writer's state, and how commands change it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_types::ids::{CollectionId, SyncSlot};

use super::reader::{Readable, Readables, Shared, View};
use super::records::{Records, Stamp};
use super::runs::{Delivery, Part, Run, Stale};
use crate::arena::Arena;
use crate::command::decode::{Command, Patches};
use crate::command::{Outcome, Patched};
use crate::record::clears::Clears;
use crate::record::intern::Interner;
use crate::record::merge::Scratch;
use crate::record::row::{Row, seconds_of};
use crate::table::writer::TableWriter;

/// All that a shard holds.
pub(crate) struct State {
    seed: u64,
    pub(crate) arena: Arena,
    pub(crate) collections: BTreeMap<CollectionId, Collection>,
    applied: Arc<AtomicU64>,
    /// Bytes of all collections.
    bytes: Arc<AtomicU64>,
    scratch: Scratch,
}

/// What a shard holds of one collection.
pub(crate) struct Collection {
    pub(crate) table: TableWriter,
    pub(crate) runs: BTreeMap<SyncSlot, Run>,
    pub(crate) interner: Interner,
}

impl Collection {
    /// A collection without records.
    fn empty(seed: u64) -> Self {
        Self::new(TableWriter::new(Clears::default()), BTreeMap::new(), Interner::new(seed))
    }

    /// A collection with this table and memory of runs and texts.
    pub(crate) fn new(table: TableWriter, runs: BTreeMap<SyncSlot, Run>, interner: Interner) -> Self {
        let collection = Self { table, runs, interner };
        collection.measure_rest();
        collection
    }

    /// Counts the bytes of what is neither record nor table.
    fn measure_rest(&self) {
        let counters = self.table.counters();
        counters.batch_bytes.store(self.runs.values().map(Run::bytes).sum(), Ordering::Relaxed);
        counters.dictionary_bytes.store(self.interner.held_bytes(), Ordering::Relaxed);
    }

    /// What readers of it see.
    fn readable(&self) -> Readable {
        Readable { table: self.table.shared().clone(), pools: self.interner.pools().clone() }
    }
}

impl State {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            arena: Arena::new(),
            collections: BTreeMap::new(),
            applied: Arc::default(),
            bytes: Arc::default(),
            scratch: Scratch::default(),
        }
    }

    /// What readers of this state see.
    pub(crate) fn view(&self) -> View {
        // The ids are our own, so nobody can choose them to collide and the hash needs no secret.
        let mut collections = Readables::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4));
        collections.extend(self.collections.iter().map(|(id, held)| (*id, held.readable())));
        View {
            arena: self.arena.directory().clone(),
            collections,
            applied: self.applied.clone(),
            bytes: self.bytes.clone(),
        }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    pub(crate) fn advance(&mut self, index: u64) {
        // Release pairs with the Acquire in `ShardReader::applied`.
        self.applied.store(index, Ordering::Release);
    }

    #[cfg(test)]
    pub(crate) fn collections(&self) -> impl Iterator<Item = CollectionId> + '_ {
        self.collections.keys().copied()
    }

    /// Applies a command, then cleans up behind it. Views of new collections go to `shared`.
    pub(crate) fn apply(&mut self, index: u64, command: Command<'_>, shared: &Shared) -> Outcome {
        let id = command.collection();
        let before = self.bytes_of(id);
        let outcome = self.carry_out(index, command, shared);
        if let Some(held) = self.collections.get(&id) {
            held.measure_rest();
        }
        let bytes = self.bytes.load(Ordering::Relaxed) + self.bytes_of(id) - before;
        self.bytes.store(bytes, Ordering::Relaxed);
        self.clean();
        outcome
    }

    /// Measures all collections anew.
    pub(crate) fn measure(&self) {
        let bytes = self.collections.values().map(|held| held.table.counters().bytes()).sum();
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    fn bytes_of(&self, id: CollectionId) -> u64 {
        self.collections.get(&id).map_or(0, |held| held.table.counters().bytes())
    }

    fn carry_out(&mut self, index: u64, command: Command<'_>, shared: &Shared) -> Outcome {
        match command {
            Command::Patches(patches) => self.patches(index, &patches, shared),
            Command::Fence { collection, slot, generation } => {
                match self.run(collection, slot, shared).open(generation) {
                    Ok(()) => Outcome::Done,
                    Err(Stale { newest }) => Outcome::Stale { newest },
                }
            }
            Command::Sweep(sweep) => {
                if let Err(Stale { newest }) = self.run(sweep.collection, sweep.slot, shared).open(sweep.generation) {
                    return Outcome::Stale { newest };
                }
                let swept = self.records(index, sweep.collection).map(|mut records| records.sweep(&sweep));
                Outcome::Swept { records: swept.unwrap_or(0) }
            }
            Command::ClearSync { collection, slot } => {
                if let Some(mut records) = self.records(index, collection) {
                    records.clear_sync(slot);
                }
                Outcome::Done
            }
            Command::DropRecords { collection, chunk } => {
                if let Some(mut records) = self.records(index, collection) {
                    records.drop_chunk(chunk);
                }
                Outcome::Done
            }
            Command::DropCollection { collection } => {
                self.drop_collection(collection, shared);
                Outcome::Done
            }
        }
    }

    fn patches(&mut self, index: u64, patches: &Patches<'_>, shared: &Shared) -> Outcome {
        let origin = patches.origin;
        // A run is fenced in every shard before it takes batches, so this one's collection has been dropped.
        if !self.collections.contains_key(&origin.collection) {
            return Outcome::OutOfOrder;
        }
        let run = self.run(origin.collection, origin.slot, shared);
        if let Err(Stale { newest }) = run.open(origin.generation) {
            return Outcome::Stale { newest };
        }
        let fingerprint = patches.fingerprint();
        match run.delivery(origin.seq, patches.part, fingerprint) {
            Delivery::Repeat(outcome) => return Outcome::Patched(outcome),
            Delivery::Other => return Outcome::OtherBody,
            Delivery::Gap => return Outcome::OutOfOrder,
            Delivery::Next => {}
        }
        let stamp = Stamp { slot: origin.slot, generation: origin.generation, seconds: seconds_of(origin.at) };
        let mut outcome = Patched::default();
        if let Some(mut records) = self.records(index, origin.collection) {
            records.patches(patches.iter(), stamp, &mut outcome);
        }
        let part = Part { fingerprint, outcome: outcome.clone() };
        self.run(origin.collection, origin.slot, shared).remember(origin.seq, part);
        Outcome::Patched(outcome)
    }

    /// What is remembered of a sync; the collection is made known if need be.
    fn run(&mut self, collection: CollectionId, slot: SyncSlot, shared: &Shared) -> &mut Run {
        let seed = self.seed;
        if let Entry::Vacant(vacant) = self.collections.entry(collection) {
            vacant.insert(Collection::empty(seed));
            shared.show(self.view());
        }
        self.collections.entry(collection).or_insert_with(|| Collection::empty(seed)).runs.entry(slot).or_default()
    }

    /// The records of a collection, if it is known.
    pub(crate) fn records(&mut self, index: u64, collection: CollectionId) -> Option<Records<'_>> {
        let Collection { table, interner, .. } = self.collections.get_mut(&collection)?;
        let (seed, arena, scratch) = (self.seed, &mut self.arena, &mut self.scratch);
        Some(Records { id: collection, seed, arena, table, interner, scratch, index })
    }

    fn drop_collection(&mut self, collection: CollectionId, shared: &Shared) {
        let Some(dropped) = self.collections.remove(&collection) else { return };
        shared.show(self.view());
        let clears = dropped.table.clears();
        for location in dropped.table.locations() {
            let stale = Row::of_checked(self.arena.record(location)).stale_len(clears) as u64;
            self.arena.count_stale(stale, 0);
            self.arena.release(location);
        }
    }
}
