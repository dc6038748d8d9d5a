//! The records of one collection as the writer changes them: table, arena and counters together.
//!
//! Invariants:
//! 1. A text is put into its pool, then the record that has its id is written to the arena, then published in the table,
//!    then what it replaces is released: in this order.
//! 2. The counters always say what the table holds.

use std::sync::atomic::{AtomicU64, Ordering};

use larder_types::hash::KeyHash;
use larder_types::ids::{CollectionId, Generation, SyncSlot};
use larder_types::patch::ExitMode;

use crate::arena::Arena;
use crate::arena::location::Location;
use crate::command::Patched;
use crate::command::decode::{Change, Chunk, Patch, Sweep};
use crate::prefetch::{GROUP, prefetch};
use crate::record::clears::{Clears, MAX_CLEARS};
use crate::record::intern::Interner;
use crate::record::merge::{Merged, Scratch, Upsert};
use crate::record::row::{Group, Row, key_of};
use crate::table::word::spread;
use crate::table::writer::{Found, Full, TableWriter};

/// One collection, while one entry is applied to it.
pub(crate) struct Records<'a> {
    pub(crate) id: CollectionId,
    pub(crate) seed: u64,
    pub(crate) arena: &'a mut Arena,
    pub(crate) table: &'a mut TableWriter,
    pub(crate) interner: &'a mut Interner,
    pub(crate) scratch: &'a mut Scratch,
    /// The entry's log index.
    pub(crate) index: u64,
}

/// Which run writes, and when.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) slot: SyncSlot,
    pub(crate) generation: Generation,
    pub(crate) seconds: u32,
}

impl Records<'_> {
    /// Applies patches with these numbers, and counts what they did.
    pub(crate) fn patches<'p>(
        &mut self,
        mut patches: impl Iterator<Item = (u32, Patch<'p>)>,
        stamp: Stamp,
        outcome: &mut Patched,
    ) {
        let mut group = Vec::with_capacity(GROUP);
        loop {
            let next = patches.by_ref().take(GROUP);
            group.extend(next.map(|(number, patch)| (number, patch, KeyHash::of(self.seed, patch.key))));
            if group.is_empty() {
                return;
            }
            // The writer waits for memory once for a group, not twice for each patch.
            group.iter().for_each(|(_, _, hash)| self.table.prefetch_bucket(*hash));
            group.iter().for_each(|(_, _, hash)| self.table.prefetch_record(*hash, self.arena));
            for (number, patch, hash) in group.drain(..) {
                self.patch(number, patch, hash, stamp, outcome);
            }
        }
    }

    fn patch(&mut self, number: u32, patch: Patch<'_>, hash: KeyHash, stamp: Stamp, outcome: &mut Patched) {
        let found = self.table.find(hash, patch.key, self.arena);
        let count = match patch.change {
            Change::Upsert(fields) => match self.upsert(found, hash, &self.to_upsert(patch.key, fields, stamp)) {
                Merged::Added => &mut outcome.added,
                Merged::Changed => &mut outcome.changed,
                Merged::Unchanged => &mut outcome.unchanged,
                Merged::TooLarge => return outcome.too_large.push(number),
            },
            Change::Clear if found.is_some_and(|found| self.clear(&found, stamp.slot)) => &mut outcome.removed,
            Change::Clear => &mut outcome.unchanged,
            Change::Delete => match found {
                Some(found) => {
                    self.remove(&found);
                    &mut outcome.removed
                }
                None => &mut outcome.unchanged,
            },
        };
        *count += 1;
    }

    /// What an upsert brings: the sync's group as it would be in a new record.
    fn to_upsert<'p>(&self, key: &'p [u8], fields: &'p [u8], stamp: Stamp) -> Upsert<'p> {
        let Stamp { slot, generation, seconds } = stamp;
        let clears = self.table.clears().seen(slot);
        Upsert { key, group: Group { slot, clears, generation, seconds, fields }, index: self.index }
    }

    /// Sets fields of a record, which is made if it was not found.
    fn upsert(&mut self, found: Option<Found>, hash: KeyHash, upsert: &Upsert<'_>) -> Merged {
        let old = found.map(|found| Row::of_checked(self.arena.record(found.location)));
        let merged = self.scratch.upsert(old, upsert, self.table.clears(), self.interner);
        match found {
            _ if merged == Merged::TooLarge => return merged,
            Some(found) => self.replace(&found),
            None if self.insert(hash).is_err() => return Merged::TooLarge,
            None => {}
        }
        merged
    }

    /// Removes the sync's fields from a record. Tells whether it had any.
    fn clear(&mut self, found: &Found, slot: SyncSlot) -> bool {
        let row = Row::of_checked(self.arena.record(found.location));
        if row.group(slot, self.table.clears()).is_none() {
            return false;
        }
        self.drop_group(found, slot);
        true
    }

    /// Applies the exit mode to the records of a chunk that were not touched since a generation. Returns their number.
    pub(crate) fn sweep(&mut self, sweep: &Sweep) -> u64 {
        if sweep.mode == ExitMode::Keep {
            return 0;
        }
        let mut swept = 0;
        for found in self.in_chunk(sweep.chunk) {
            let row = Row::of_checked(self.arena.record(found.location));
            let group = row.group(sweep.slot, self.table.clears());
            if group.is_none_or(|group| group.generation >= sweep.generation) {
                continue;
            }
            match sweep.mode {
                ExitMode::Delete => self.remove(&found),
                ExitMode::Clear | ExitMode::Keep => self.drop_group(&found, sweep.slot),
            }
            swept += 1;
        }
        swept
    }

    /// Removes the records of a chunk.
    pub(crate) fn drop_chunk(&mut self, chunk: Chunk) {
        for found in self.in_chunk(chunk) {
            self.remove(&found);
        }
    }

    fn in_chunk(&self, chunk: Chunk) -> Vec<Found> {
        let (first, last) = bounds(chunk);
        let around = self.table.around(first, last);
        let locations: Vec<_> = around.iter().map(|found| found.location).collect();
        let hashes = hashes_of(self.arena, self.seed, &locations);
        let inside = around.into_iter().zip(hashes).filter(|(_, hash)| (first..=last).contains(&spread(*hash)));
        inside.map(|(found, _)| found).collect()
    }

    /// Removes the sync's fields from all records.
    pub(crate) fn clear_sync(&mut self, slot: SyncSlot) {
        let counters = self.table.counters();
        if counters.of(slot).load(Ordering::Relaxed) == 0 {
            return;
        }
        let bytes = counters.bytes_of(slot).load(Ordering::Relaxed);
        shift(&counters.content_bytes, bytes, 0);
        shift(counters.bytes_of(slot), bytes, 0);
        counters.of(slot).store(0, Ordering::Relaxed);
        self.arena.add_stale(bytes);
        let indexes = [self.table.clears().of(slot), &[self.index]].concat();
        let countable = indexes.len() <= MAX_CLEARS;
        let clears = self.table.clears().with(slot, indexes);
        if countable {
            self.table.set_clears(clears);
        } else {
            self.forget_clears(slot, &clears);
        }
    }

    /// Rewrites the records in which the sync has a group, all of which are absent by these clears, and counts its
    /// clears from 0 again.
    fn forget_clears(&mut self, slot: SyncSlot, clears: &Clears) {
        let forgotten = clears.with(slot, Vec::new());
        let Self { id, arena, scratch, .. } = self;
        let unused = self.table.rewrite(forgotten, |location| {
            let row = Row::of_checked(arena.record(location));
            row.groups().find(|group| group.slot == slot)?;
            let stale = row.stale_len(clears) as u64;
            scratch.refresh(row, clears);
            arena.count_stale(stale, 0);
            Some(arena.append(*id, &scratch.record))
        });
        unused.into_iter().for_each(|location| self.arena.release(location));
    }

    fn drop_group(&mut self, found: &Found, slot: SyncSlot) {
        let row = Row::of_checked(self.arena.record(found.location));
        self.scratch.without(row, slot, self.index, self.table.clears());
        self.replace(found);
    }

    fn remove(&mut self, found: &Found) {
        self.table.remove(found);
        self.recount(Some(found.location), None);
        self.arena.release(found.location);
    }

    /// Puts the record in `scratch` in the place of another of the same key.
    fn replace(&mut self, found: &Found) {
        let location = self.arena.append(self.id, &self.scratch.record);
        self.table.replace(found, location);
        self.recount(Some(found.location), Some(location));
        self.arena.release(found.location);
    }

    /// Adds the record in `scratch`, whose key the table does not hold.
    pub(crate) fn insert(&mut self, hash: KeyHash) -> Result<(), Full> {
        let location = self.arena.append(self.id, &self.scratch.record);
        self.enter(hash, location).inspect_err(|_| self.arena.release(location))
    }

    /// Adds a record that stands in the arena, whose key the table does not hold.
    pub(crate) fn enter(&mut self, hash: KeyHash, location: Location) -> Result<(), Full> {
        let (arena, seed) = (&*self.arena, self.seed);
        self.table.insert(hash, location, |all| hashes_of(arena, seed, all))?;
        self.recount(None, Some(location));
        Ok(())
    }

    /// Moves those of these records that are live out of their segment, and leaves behind what of them is not.
    pub(crate) fn relocate(&mut self, group: &[Location]) {
        // Before any of them moves: the segment goes with its last live record, and the dead ones behind it.
        let hashes = hashes_of(self.arena, self.seed, group);
        hashes.iter().for_each(|hash| self.table.prefetch_bucket(*hash));
        for (location, hash) in group.iter().zip(hashes) {
            if let Some(found) = self.table.find_at(hash, *location) {
                self.move_out(&found);
            }
        }
    }

    fn move_out(&mut self, found: &Found) {
        let record = self.arena.record(found.location);
        let row = Row::of_checked(record);
        let is_stale = self.arena.stale() > 0 && row.stale_len(self.table.clears()) > 0;
        if is_stale {
            self.scratch.refresh(row, self.table.clears());
        } else {
            self.scratch.record.clear();
            self.scratch.record.extend_from_slice(record);
        }
        let moved = self.arena.append(self.id, &self.scratch.record);
        self.table.replace(found, moved);
        if is_stale {
            self.recount(Some(found.location), Some(moved));
        }
        self.arena.release_moved(found.location);
    }

    /// Counts that a record gives way to another version of itself, comes or goes. Both must not be released yet.
    fn recount(&mut self, old: Option<Location>, new: Option<Location>) {
        let (counters, clears) = (self.table.counters(), self.table.clears());
        let row = |at: Option<Location>| at.map(|at| Row::of_checked(self.arena.record(at)));
        let (old, new) = (row(old), row(new));
        let content = |row: Option<Row<'_>>| row.map_or(0, |row| row.content_len(clears) as u64);
        shift(&counters.records, old.is_some().into(), new.is_some().into());
        shift(&counters.content_bytes, content(old), content(new));
        let group = |row: Option<Row<'_>>, slot| row?.group(slot, clears).map(|group| group.encoded_len() as u64);
        let count = |slot, before: Option<u64>, after: Option<u64>| {
            shift(counters.of(slot), before.is_some().into(), after.is_some().into());
            shift(counters.bytes_of(slot), before.unwrap_or(0), after.unwrap_or(0));
        };
        for (slot, after) in new.into_iter().flat_map(|row| lengths(row, clears)) {
            count(slot, group(old, slot), Some(after));
        }
        for (slot, before) in old.into_iter().flat_map(|row| lengths(row, clears)) {
            if group(new, slot).is_none() {
                count(slot, Some(before), None);
            }
        }
        let stale = |row: Option<Row<'_>>| row.map_or(0, |row| row.stale_len(clears) as u64);
        let (before, after) = (stale(old), stale(new));
        self.arena.count_stale(before, after);
    }
}

/// The hashes of the keys of these records.
fn hashes_of(arena: &Arena, seed: u64, locations: &[Location]) -> Vec<KeyHash> {
    let mut hashes = Vec::with_capacity(locations.len());
    for group in locations.chunks(GROUP) {
        group.iter().for_each(|location| prefetch(arena.directory().address(*location)));
        hashes.extend(group.iter().map(|location| KeyHash::of(seed, key_of(arena.record(*location)))));
    }
    hashes
}

/// The groups of a record and their bytes.
fn lengths(row: Row<'_>, clears: &Clears) -> impl Iterator<Item = (SyncSlot, u64)> {
    row.live(clears).map(|group| (group.slot, group.encoded_len() as u64))
}

/// The first and the last place of a chunk.
fn bounds(chunk: Chunk) -> (u64, u64) {
    let start = |at: u32| (u128::from(at) << 64).div_ceil(u128::from(chunk.of));
    let last = start(chunk.at + 1) - 1;
    (u64::try_from(start(chunk.at)).unwrap_or(u64::MAX), u64::try_from(last).unwrap_or(u64::MAX))
}

/// Takes `before` from a counter and adds `after`. The writer alone changes counters, so a load and a store lose nothing.
fn shift(counter: &AtomicU64, before: u64, after: u64) {
    counter.store(counter.load(Ordering::Relaxed) + after - before, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_space_without_overlap() {
        for of in [1, 2, 3, 7, 64, 1000, u32::MAX] {
            let bounds = |at| bounds(Chunk { at, of });
            assert_eq!(bounds(0).0, 0);
            assert_eq!(bounds(of - 1).1, u64::MAX);
            for at in (1..of).take(100) {
                assert_eq!(bounds(at - 1).1 + 1, bounds(at).0);
            }
        }
    }
}
