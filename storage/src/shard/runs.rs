//! What a shard remembers of the runs of one sync: which generation is the newest, and what each part of its batches has
//! done.
//!
//! Invariants:
//! 1. The parts of a batch are applied in order, each once. So the parts that were applied are the first ones, and
//!    remembering them in order says which they are.
//! 2. Only the same patches are a repeat. Other patches under a number that was used are never answered with what was
//!    done before, or they would be acknowledged without having been applied.
//!
//! A batch of one part, which is the rule, takes about 130 bytes in each of its shards until the run has ended: a run of
//! 1000 batches takes 130 KB a shard, one of `MAX_SEQ` batches 130 MB. A run that has ended is fenced by a generation
//! that is yet to come, so its batches are forgotten and refused. What is remembered counts as memory of the collection.

use std::collections::BTreeMap;

use larder_types::ids::Generation;

use crate::command::Patched;

/// What a batch takes in memory beside its parts: its number, its list and their share of the tree, which is between
/// half full and full.
const BATCH_BYTES: u64 = 64;
/// What a part takes beside the numbers of refused patches, with what the allocator adds.
const PART_BYTES: u64 = 80;

const _: () =
    assert!(size_of::<Part>() as u64 <= PART_BYTES && 2 * size_of::<(u32, Vec<Part>)>() as u64 <= BATCH_BYTES);

/// The newest run of one sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    generation: Generation,
    /// For each batch number the parts that were applied.
    batches: BTreeMap<u32, Vec<Part>>,
    /// What `batches` takes in memory. Follows from what it holds, so that it is the same on all replicas.
    bytes: u64,
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
        let of_batch = |parts: &Vec<Part>| BATCH_BYTES + parts.iter().map(Part::bytes).sum::<u64>();
        let bytes = batches.values().map(of_batch).sum();
        Self { generation, batches, bytes }
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    pub(crate) fn batches(&self) -> &BTreeMap<u32, Vec<Part>> {
        &self.batches
    }

    /// Bytes of memory that the batches take.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
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
        self.bytes += part.bytes();
        // A list that grows by itself begins with room for four.
        let parts = self.batches.entry(seq).or_insert_with(|| {
            self.bytes += BATCH_BYTES;
            Vec::with_capacity(1)
        });
        parts.push(part);
    }
}

impl Part {
    fn bytes(&self) -> u64 {
        PART_BYTES + size_of_val(self.outcome.too_large.as_slice()) as u64
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
    fn bytes_are_counted_like_those_of_what_was_restored() {
        let mut run = Run::default();
        for (seq, too_large) in [(0, 0), (1, 3), (1, 0), (2, 7)] {
            let outcome = Patched { too_large: (0..too_large).collect(), ..Patched::default() };
            run.remember(seq, Part { fingerprint: 9, outcome });
            assert_eq!(run, Run::new(run.generation(), run.batches().clone()));
        }
        assert_eq!(run.bytes(), 3 * BATCH_BYTES + 4 * PART_BYTES + 10 * 4);
        run.open(Generation(1)).unwrap();
        assert_eq!(run.bytes(), 0);
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
