//! What a shard remembers of the runs of one sync: which generation is the newest, and what each part of its batches has
//! done.
//!
//! Invariants:
//! 1. The parts of a batch are applied in order, each once. So the parts that were applied are the first ones, and
//!    remembering them in order says which they are.
//! 2. Only the same patches are a repeat. Other patches under a number that was used are never answered with what was
//!    done before, or they would be acknowledged without having been applied.
//!
//! A batch of one part, which is the rule, takes about 130 bytes in each of its shards until the next run is opened or
//! the sync is dropped: a run of 1000 batches takes 130 KB a shard, one of `MAX_SEQ` batches 130 MB.

use std::collections::BTreeMap;

use larder_types::ids::Generation;

use crate::command::Patched;

/// The newest run of one sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    generation: Generation,
    /// For each batch number the parts that were applied.
    batches: BTreeMap<u32, Vec<Part>>,
}

/// A part that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Which patches it had, see `Patches::fingerprint`.
    pub(crate) fingerprint: u64,
    /// What they did.
    pub(crate) outcome: Patched,
}

/// A run that a newer one has fenced off.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stale {
    pub(crate) newest: Generation,
}

/// How a part stands to what was applied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It is the next part of its batch.
    Next,
    /// It was applied before, with this outcome.
    Repeat(Patched),
    /// A part with other patches was applied under its number.
    Other,
    /// Parts before it are missing.
    Gap,
}

impl Default for Run {
    /// No run yet.
    fn default() -> Self {
        Self::new(Generation(0), BTreeMap::new())
    }
}

impl Run {
    pub(crate) fn new(generation: Generation, batches: BTreeMap<u32, Vec<Part>>) -> Self {
        Self { generation, batches }
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    pub(crate) fn batches(&self) -> &BTreeMap<u32, Vec<Part>> {
        &self.batches
    }

    /// Opens a generation unless it is the newest already; refuses one that is older.
    pub(crate) fn open(&mut self, generation: Generation) -> Result<(), Stale> {
        if generation < self.generation {
            return Err(Stale { newest: self.generation });
        }
        if generation > self.generation {
            *self = Self::new(generation, BTreeMap::new());
        }
        Ok(())
    }

    /// How a part of the open generation stands to what was applied.
    pub(crate) fn delivery(&self, seq: u32, part: u32, fingerprint: u64) -> Delivery {
        let applied = self.batches.get(&seq).map_or(&[][..], Vec::as_slice);
        match applied.get(part as usize) {
            Some(same) if same.fingerprint == fingerprint => Delivery::Repeat(same.outcome.clone()),
            Some(_) => Delivery::Other,
            None if part as usize == applied.len() => Delivery::Next,
            None => Delivery::Gap,
        }
    }

    /// Remembers the next part of a batch.
    pub(crate) fn remember(&mut self, seq: u32, part: Part) {
        // A list that grows by itself begins with room for four.
        self.batches.entry(seq).or_insert_with(|| Vec::with_capacity(1)).push(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(added: u64) -> Patched {
        Patched { added, ..Patched::default() }
    }

    fn part(fingerprint: u64, added: u64) -> Part {
        Part { fingerprint, outcome: outcome(added) }
    }

    #[test]
    fn parts_come_in_order_and_once() {
        let mut run = Run::default();
        assert_eq!(run.open(Generation(3)), Ok(()));
        assert_eq!(run.delivery(7, 1, 9), Delivery::Gap);
        assert_eq!(run.delivery(7, 0, 9), Delivery::Next);
        run.remember(7, part(9, 5));
        assert_eq!(run.delivery(7, 0, 9), Delivery::Repeat(outcome(5)));
        assert_eq!(run.delivery(7, 0, 8), Delivery::Other);
        assert_eq!(run.delivery(7, 1, 9), Delivery::Next);
        assert_eq!(run.delivery(7, 2, 9), Delivery::Gap);
        assert_eq!(run.delivery(8, 0, 9), Delivery::Next);
    }

    #[test]
    fn a_batch_of_one_part_has_room_for_one() {
        let mut run = Run::default();
        (0..9).for_each(|seq| run.remember(seq, part(9, 1)));
        assert!(run.batches().values().all(|parts| parts.capacity() == 1));
    }

    #[test]
    fn a_newer_generation_starts_afresh_and_fences_the_older() {
        let mut run = Run::default();
        run.open(Generation(3)).unwrap();
        run.remember(0, part(9, 1));
        assert_eq!(run.open(Generation(3)), Ok(()));
        assert_eq!(run.delivery(0, 0, 9), Delivery::Repeat(outcome(1)), "opening again forgets nothing");
        assert_eq!(run.open(Generation(4)), Ok(()));
        assert_eq!(run.delivery(0, 0, 9), Delivery::Next);
        assert_eq!(run.open(Generation(3)), Err(Stale { newest: Generation(4) }));
    }
}
