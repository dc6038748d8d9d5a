//! The record of runs: what each sync's newest runs did, for descriptions and for repeats of a batch.
//!
//! It is part of the replicated state and in its snapshots, but kept apart from the definitions because it grows with
//! every batch. The state machine writes it, [`RunsReader`]s read it under a short lock.
//!
//! It is bounded:
//! - Of each sync the newest [`KEPT_RUNS`] runs are kept, so the open one always is. A run without its details takes
//!   about 300 bytes: 50 runs x 2048 syncs (`MAX_LIVING_SYNCS`) x 300 bytes = 31 MB at worst.
//! - The details (noted batches and rejected rows) of ended runs take up to [`DETAIL_BYTES`] = 64 MiB together. When
//!   there is no room for more, the runs that ended first are shed of theirs; their numbers stay.
//! - An open run keeps every noted batch, since a repeat must get the first answer: at 256 bytes and a revision (about
//!   110 bytes with 16 shards) each, 1000 batches of 10 000 rows take 366 KB. The most is `MAX_SEQ` batches, 366 MB:
//!   ten thousand million rows in one run.
//! - Rejected rows are kept up to 1 MiB a run, and not beyond [`DETAIL_BYTES`] for all runs; others are only counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use larder_types::api::{RejectedRow, RequestInfo, RunInfo, RunState};
use larder_types::ids::{CollectionId, Generation, Micros, SyncSlot};
use serde::{Serialize, Serializer};

use super::command::BatchOutcome;
use super::run::{Ended, Noted, RejectsKept, Run, most_bytes, request_info};

/// Runs kept of each sync.
pub(crate) const KEPT_RUNS: usize = 50;

/// What the details of all runs may take before those of ended runs are shed, in bytes.
pub(crate) const DETAIL_BYTES: u64 = 64 * 1024 * 1024;

/// The sync that a run belongs to.
pub(crate) type SyncId = (CollectionId, SyncSlot);

/// All kept runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RunRecord {
    syncs: BTreeMap<SyncId, BTreeMap<Generation, Run>>,
    /// Ended runs that have details, in order of their end: (log index of the end, sync, generation).
    sheddable: BTreeSet<(u64, SyncId, Generation)>,
    /// What the details of all runs take in memory.
    detail_bytes: u64,
}

impl RunRecord {
    /// The record with these runs.
    ///
    /// # Errors
    /// When two runs of one sync have the same generation or id.
    pub(crate) fn from_runs(runs: Vec<(CollectionId, SyncSlot, Run)>) -> Result<Self, String> {
        let mut record = Self::default();
        for (collection, slot, run) in runs {
            let sync = (collection, slot);
            if record.find(sync, &run.id).is_some() {
                return Err(format!("run `{}` of sync {slot} of collection {collection} is listed twice", run.id));
            }
            record.detail_bytes += run.detail_bytes();
            if let Some(ended) = run.ended.filter(|_| run.has_details()) {
                record.sheddable.insert((ended.index, sync, run.generation));
            }
            let generation = run.generation;
            if record.syncs.entry(sync).or_default().insert(generation, run).is_some() {
                return Err(format!(
                    "generation {generation} of sync {slot} of collection {collection} is there twice"
                ));
            }
        }
        Ok(record)
    }

    /// The record of the same runs, with everything that can be derived made anew.
    #[cfg(test)]
    pub(crate) fn rebuilt(&self) -> Result<Self, String> {
        let of_sync = |(&(collection, slot), runs): (&SyncId, &BTreeMap<Generation, Run>)| {
            runs.values().map(|run| (collection, slot, run.clone())).collect::<Vec<_>>()
        };
        Self::from_runs(self.syncs.iter().flat_map(of_sync).collect())
    }

    /// Adds a run that was just opened, and forgets the oldest one if there are too many.
    pub(crate) fn open(&mut self, sync: SyncId, run: Run) {
        let runs = self.syncs.entry(sync).or_default();
        runs.insert(run.generation, run);
        if runs.len() > KEPT_RUNS
            && let Some((_, oldest)) = runs.pop_first()
        {
            self.unaccount(sync, &oldest);
        }
    }

    /// Notes the end of a run.
    pub(crate) fn end(&mut self, (sync, generation): (SyncId, Generation), state: RunState, at: Micros, index: u64) {
        if let Some(run) = self.get_mut(sync, generation) {
            run.state = state;
            run.ended = Some(Ended { at, index });
            if run.has_details() {
                self.sheddable.insert((index, sync, generation));
            }
            self.make_room(0);
        }
    }

    /// Notes that the commit of a run has begun.
    pub(crate) fn begin_commit(&mut self, sync: SyncId, generation: Generation) {
        if let Some(run) = self.get_mut(sync, generation) {
            run.state = RunState::Committing;
        }
    }

    /// Notes a batch of a run; `None` if there is no such run.
    pub(crate) fn note(&mut self, sync: SyncId, id: &str, outcome: &BatchOutcome) -> Option<Noted> {
        let generation = self.find(sync, id)?.generation;
        self.make_room(most_bytes(outcome));
        let room = DETAIL_BYTES.saturating_sub(self.detail_bytes);
        let run = self.get_mut(sync, generation)?;
        let before = run.detail_bytes();
        let noted = run.note(outcome, room);
        let added = run.detail_bytes() - before;
        self.detail_bytes += added;
        Some(noted)
    }

    /// Counts what the sweep of a run did.
    pub(crate) fn add_swept(&mut self, sync: SyncId, generation: Generation, records: u64) {
        if let Some(run) = self.get_mut(sync, generation) {
            run.add_swept(records);
        }
    }

    /// Forgets the runs of a sync.
    pub(crate) fn forget_sync(&mut self, sync: SyncId) {
        for run in self.syncs.remove(&sync).unwrap_or_default().values() {
            self.unaccount(sync, run);
        }
    }

    /// Forgets the runs of a collection.
    pub(crate) fn forget_collection(&mut self, collection: CollectionId) {
        let all = (collection, SyncSlot(u8::MIN))..=(collection, SyncSlot(u8::MAX));
        let syncs: Vec<SyncId> = self.syncs.range(all).map(|(sync, _)| *sync).collect();
        syncs.into_iter().for_each(|sync| self.forget_sync(sync));
    }

    /// The kept runs of a sync, oldest first.
    pub(crate) fn runs(&self, sync: SyncId) -> impl DoubleEndedIterator<Item = &Run> {
        self.syncs.get(&sync).into_iter().flat_map(BTreeMap::values)
    }

    /// The run of a sync with this id.
    pub(crate) fn find(&self, sync: SyncId, id: &str) -> Option<&Run> {
        self.runs(sync).rev().find(|run| run.id == id)
    }

    fn get_mut(&mut self, sync: SyncId, generation: Generation) -> Option<&mut Run> {
        self.syncs.get_mut(&sync)?.get_mut(&generation)
    }

    /// Sheds ended runs of their details, those that ended first before others, until `need` more bytes fit or there
    /// is nothing left to shed.
    fn make_room(&mut self, need: u64) {
        while self.detail_bytes.saturating_add(need) > DETAIL_BYTES {
            let Some((_, sync, generation)) = self.sheddable.pop_first() else { return };
            if let Some(run) = self.get_mut(sync, generation) {
                let freed = run.detail_bytes();
                run.shed();
                self.detail_bytes -= freed;
            }
        }
    }

    fn unaccount(&mut self, sync: SyncId, run: &Run) {
        self.detail_bytes -= run.detail_bytes();
        if let Some(ended) = run.ended {
            self.sheddable.remove(&(ended.index, sync, run.generation));
        }
    }
}

impl Serialize for RunRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let runs = self
            .syncs
            .iter()
            .flat_map(|((collection, slot), runs)| runs.values().map(move |run| (collection, slot, run)));
        serializer.collect_seq(runs)
    }
}

/// Reads the record of runs. Cheap to clone; takes a short lock, so it is for descriptions and writes, not for lookups.
/// Stays valid when a snapshot is installed.
#[derive(Clone)]
pub struct RunsReader {
    record: Arc<RwLock<RunRecord>>,
}

impl RunsReader {
    pub(crate) fn new(record: Arc<RwLock<RunRecord>>) -> Self {
        Self { record }
    }

    /// The kept runs of a sync, newest first.
    #[must_use]
    pub fn list(&self, collection: CollectionId, slot: SyncSlot) -> Vec<RunInfo> {
        self.read().runs((collection, slot)).rev().map(Run::info).collect()
    }

    /// One run.
    #[must_use]
    pub fn get(&self, collection: CollectionId, slot: SyncSlot, run: &str) -> Option<RunInfo> {
        self.read().find((collection, slot), run).map(Run::info)
    }

    /// The batches of a run in order of arrival: at most `limit` of those after the first `offset`. None if the run
    /// ended long ago and its batches were forgotten to make room.
    #[must_use]
    pub fn requests(
        &self,
        collection: CollectionId,
        slot: SyncSlot,
        run: &str,
        offset: usize,
        limit: usize,
    ) -> Vec<RequestInfo> {
        let record = self.read();
        let noted = record.find((collection, slot), run).map_or(&[][..], Run::noted);
        noted.iter().skip(offset).take(limit).map(request_info).collect()
    }

    /// The rejected rows of a run that were kept, in order of arrival: at most `limit` of those after the first
    /// `offset`. The first member of each pair is the batch number. See [`RunsReader::rejects_kept`].
    #[must_use]
    pub fn rejects(
        &self,
        collection: CollectionId,
        slot: SyncSlot,
        run: &str,
        offset: usize,
        limit: usize,
    ) -> Vec<(u32, RejectedRow)> {
        let record = self.read();
        let noted = record.find((collection, slot), run).map_or(&[][..], Run::noted);
        let rows = noted.iter().flat_map(|batch| batch.rejects.iter().map(|row| (batch.seq, row)));
        rows.skip(offset).take(limit).map(|(seq, row)| (seq, row.clone())).collect()
    }

    /// How many rejected rows a run has, and whether [`RunsReader::rejects`] shows only some of them.
    #[must_use]
    pub fn rejects_kept(&self, collection: CollectionId, slot: SyncSlot, run: &str) -> Option<RejectsKept> {
        self.read().find((collection, slot), run).map(Run::rejects_kept)
    }

    /// The outcome noted for a batch of a run, if it was. Its rejected rows may be cut further than those of the first
    /// answer, by what a run keeps; `rejects_cut` says so.
    #[must_use]
    pub fn outcome(&self, collection: CollectionId, slot: SyncSlot, run: &str, seq: u32) -> Option<BatchOutcome> {
        self.read().find((collection, slot), run)?.outcome(seq).cloned()
    }

    /// What the details of all runs take in memory, in bytes.
    #[must_use]
    pub fn detail_bytes(&self) -> u64 {
        self.read().detail_bytes
    }

    fn read(&self) -> RwLockReadGuard<'_, RunRecord> {
        // A writer that panicked has stopped the node; what was written until then may still be shown.
        self.record.read().unwrap_or_else(PoisonError::into_inner)
    }
}
