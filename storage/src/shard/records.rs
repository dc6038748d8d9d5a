//! The records of one collection as the writer changes them: table, arena and counters together.
//!
//! Invariants:
//! 1. A record is written to the arena, then published in the table, then what it replaces is released: in this order.
//! 2. The counters always say what the table holds.

use std::sync::atomic::{AtomicU64, Ordering};

use larder_types::hash::KeyHash;
use larder_types::ids::{Generation, SyncSlot};
use larder_types::patch::ExitMode;

use crate::arena::location::Location;
use crate::arena::{Arena, padded};
use crate::command::Patched;
use crate::command::decode::{Change, Patch, Sweep};
use crate::record::clears::{Clears, MAX_CLEARS};
use crate::record::merge::{Merged, Scratch};
use crate::record::row::{Group, Row, key_of};
use crate::table::word::spread;
use crate::table::writer::{Found, Full, TableWriter};

/// One collection, while one entry is applied to it.
pub(crate) struct Records<'a> {
    pub(crate) seed: u64,
    pub(crate) arena: &'a mut Arena,
    pub(crate) table: &'a mut TableWriter,
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
    /// Applies the patch with this number and counts what it did.
    pub(crate) fn patch(&mut self, number: u32, patch: Patch<'_>, stamp: Stamp, outcome: &mut Patched) {
        let count = match patch.change {
            Change::Upsert(fields) => match self.upsert(patch.key, stamp, fields) {
                Merged::Added => &mut outcome.added,
                Merged::Changed => &mut outcome.changed,
                Merged::Unchanged => &mut outcome.unchanged,
                Merged::TooLarge => return outcome.too_large.push(number),
            },
            Change::Clear if self.clear(patch.key, stamp.slot) => &mut outcome.removed,
            Change::Delete if self.delete(patch.key) => &mut outcome.removed,
            Change::Clear | Change::Delete => &mut outcome.unchanged,
        };
        *count += 1;
    }

    /// Sets fields of a record, which is made if need be.
    fn upsert(&mut self, key: &[u8], stamp: Stamp, fields: &[u8]) -> Merged {
        let hash = KeyHash::of(self.seed, key);
        let found = self.table.find(hash, key, self.arena);
        let old = found.map(|found| Row::of_checked(self.arena.record(found.location)));
        let Stamp { slot, generation, seconds } = stamp;
        let clears = self.table.clears().seen(slot);
        let patch = Group { slot, clears, generation, seconds, fields };
        let merged = self.scratch.upsert(old, key, &patch, self.index, self.table.clears());
        match found {
            _ if merged == Merged::TooLarge => return merged,
            Some(found) => self.replace(&found),
            None if self.insert(hash).is_err() => return Merged::TooLarge,
            None => {}
        }
        if merged == Merged::Added {
            add(self.table.counters().of(slot), 1);
        }
        merged
    }

    /// Removes the sync's fields from a record. Tells whether it had any.
    fn clear(&mut self, key: &[u8], slot: SyncSlot) -> bool {
        let Some(found) = self.find(key) else { return false };
        let row = Row::of_checked(self.arena.record(found.location));
        if row.group(slot, self.table.clears()).is_none() {
            return false;
        }
        self.drop_group(&found, slot);
        true
    }

    /// Removes a record. Tells whether there was one.
    fn delete(&mut self, key: &[u8]) -> bool {
        let Some(found) = self.find(key) else { return false };
        self.remove(&found);
        true
    }

    /// Applies the exit mode to the records of a chunk that were not touched since a generation. Returns their number.
    pub(crate) fn sweep(&mut self, sweep: &Sweep) -> u64 {
        if sweep.mode == ExitMode::Keep {
            return 0;
        }
        let (first, last) = bounds(sweep.chunk, sweep.chunks);
        let mut swept = 0;
        for found in self.table.around(first, last) {
            let row = Row::of_checked(self.arena.record(found.location));
            let place = spread(KeyHash::of(self.seed, row.key));
            let group = row.group(sweep.slot, self.table.clears());
            if place < first || place > last || group.is_none_or(|group| group.generation >= sweep.generation) {
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

    /// Removes the sync's fields from all records.
    pub(crate) fn clear_sync(&mut self, slot: SyncSlot) {
        if self.table.counters().of(slot).load(Ordering::Relaxed) == 0 {
            return;
        }
        let indexes = [self.table.clears().of(slot), &[self.index]].concat();
        let countable = indexes.len() <= MAX_CLEARS;
        let clears = self.table.clears().with(slot, indexes);
        if countable {
            self.table.set_clears(clears);
        } else {
            self.forget_clears(slot, &clears);
        }
        self.table.counters().of(slot).store(0, Ordering::Relaxed);
    }

    /// Rewrites the records in which the sync has a group, all of which are absent by these clears, and counts its
    /// clears from 0 again.
    fn forget_clears(&mut self, slot: SyncSlot, clears: &Clears) {
        let forgotten = clears.with(slot, Vec::new());
        let Self { arena, scratch, .. } = self;
        let (mut before, mut after) = (0, 0);
        let unused = self.table.rewrite(forgotten, |location| {
            let record = arena.record(location);
            let row = Row::of_checked(record);
            row.groups().find(|group| group.slot == slot)?;
            before += padded(record.len()) as u64;
            scratch.without(row, slot, row.version(clears), clears);
            after += padded(scratch.record.len()) as u64;
            Some(arena.append(&scratch.record))
        });
        unused.into_iter().for_each(|location| self.arena.release(location));
        add(&self.table.counters().record_bytes, after);
        sub(&self.table.counters().record_bytes, before);
    }

    fn find(&self, key: &[u8]) -> Option<Found> {
        self.table.find(KeyHash::of(self.seed, key), key, self.arena)
    }

    fn drop_group(&mut self, found: &Found, slot: SyncSlot) {
        let row = Row::of_checked(self.arena.record(found.location));
        self.scratch.without(row, slot, self.index, self.table.clears());
        self.replace(found);
        sub(self.table.counters().of(slot), 1);
    }

    fn remove(&mut self, found: &Found) {
        let record = self.arena.record(found.location);
        let counters = self.table.counters();
        sub(&counters.records, 1);
        sub(&counters.record_bytes, padded(record.len()) as u64);
        Row::of_checked(record).live(self.table.clears()).for_each(|group| sub(counters.of(group.slot), 1));
        self.table.remove(found);
        self.arena.release(found.location);
    }

    /// Puts the record in `scratch` in the place of another of the same key.
    fn replace(&mut self, found: &Found) {
        let old = padded(self.arena.record(found.location).len()) as u64;
        let location = self.arena.append(&self.scratch.record);
        self.table.replace(found, location);
        self.arena.release(found.location);
        let counters = self.table.counters();
        add(&counters.record_bytes, padded(self.scratch.record.len()) as u64);
        sub(&counters.record_bytes, old);
    }

    /// Adds the record in `scratch`, whose key the table does not hold.
    pub(crate) fn insert(&mut self, hash: KeyHash) -> Result<(), Full> {
        let location = self.arena.append(&self.scratch.record);
        let (arena, seed) = (&*self.arena, self.seed);
        let hash_of = |location: Location| KeyHash::of(seed, key_of(arena.record(location)));
        if let Err(full) = self.table.insert(hash, location, hash_of) {
            self.arena.release(location);
            return Err(full);
        }
        let counters = self.table.counters();
        add(&counters.records, 1);
        add(&counters.record_bytes, padded(self.scratch.record.len()) as u64);
        Ok(())
    }
}

impl Records<'_> {
    /// Counts the syncs that have fields in a new record.
    pub(crate) fn count_groups(&self, row: Row<'_>) {
        let counters = self.table.counters();
        row.live(self.table.clears()).for_each(|group| add(counters.of(group.slot), 1));
    }
}

/// The first and the last place of a chunk.
fn bounds(chunk: u32, chunks: u32) -> (u64, u64) {
    let start = |chunk: u32| (u128::from(chunk) << 64).div_ceil(u128::from(chunks));
    let last = start(chunk + 1) - 1;
    (u64::try_from(start(chunk)).unwrap_or(u64::MAX), u64::try_from(last).unwrap_or(u64::MAX))
}

// The writer alone changes counters, so a load and a store lose nothing.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

fn sub(counter: &AtomicU64, less: u64) {
    counter.store(counter.load(Ordering::Relaxed) - less, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_space_without_overlap() {
        for chunks in [1, 2, 3, 7, 64, 1000, u32::MAX] {
            assert_eq!(bounds(0, chunks).0, 0);
            assert_eq!(bounds(chunks - 1, chunks).1, u64::MAX);
            for chunk in (1..chunks).take(100) {
                assert_eq!(bounds(chunk - 1, chunks).1 + 1, bounds(chunk, chunks).0);
            }
        }
    }
}
