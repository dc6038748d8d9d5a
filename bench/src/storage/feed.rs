//! A shard and what is sent to it: patches in entries as the log carries them.
//!
//! Entries are made before they are applied, so that the time of applying holds nothing else.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use larder_storage::command::{Outcome, PatchEncoder, PatchOrigin, Patched, fence};
use larder_storage::shard::{Shard, ShardOptions};
use larder_types::ids::{CollectionId, FieldId, Generation, ShardId, SyncSlot};
use larder_types::key::Key;
use larder_types::value::Value;

use super::SEED;
use super::customer::{Customer, CustomerKey};
use super::times::Stopwatch;
use crate::random::Random;

/// The collection of every measurement.
pub(crate) const COLLECTION: CollectionId = CollectionId(1);
const SLOT: SyncSlot = SyncSlot(0);
const GENERATION: Generation = Generation(1);

/// Patches in one entry: about 80 KiB of whole customers.
pub(crate) const ENTRY_PATCHES: u64 = 500;
/// Room for all of them, so that a batch is one entry.
const MAX_ENTRY_BYTES: usize = 1 << 20;

/// One patch: a key and the fields it sets.
pub(crate) type Patch = (Key, Vec<(FieldId, Value)>);

/// A shard with one collection, and the places of the next entry in its log and in the sync's run.
pub(crate) struct Feed {
    pub(crate) shard: Shard,
    index: u64,
    seq: u32,
    version: u64,
}

impl Feed {
    /// An empty collection.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut shard = Shard::new(ShardOptions { id: ShardId(0), hash_seed: SEED });
        shard.apply(1, &fence(COLLECTION, SLOT, GENERATION))?;
        Ok(Self { shard, index: 1, seq: 0, version: 0 })
    }

    /// So many customers, and the processor time that applying them took.
    pub(crate) fn load(customers: u64) -> anyhow::Result<(Self, Stopwatch)> {
        let (mut feed, mut watch) = (Self::new()?, Stopwatch::default());
        for first in (0..customers).step_by(usize::try_from(ENTRY_PATCHES)?) {
            let numbers = first..customers.min(first + ENTRY_PATCHES);
            let entry = feed.entry(numbers.map(whole_of(0)))?;
            feed.apply_timed(&entry, &mut watch)?;
        }
        ensure!(feed.shard.reader().stats(COLLECTION).records == customers, "not every customer was kept");
        Ok((feed, watch))
    }

    /// A version that no customer has yet.
    pub(crate) fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// The next entry, with these patches.
    pub(crate) fn entry(&mut self, patches: impl Iterator<Item = anyhow::Result<Patch>>) -> anyhow::Result<Bytes> {
        let seq = self.seq;
        self.seq += 1;
        let origin = PatchOrigin { collection: COLLECTION, slot: SLOT, generation: GENERATION, seq, at: 0 };
        let mut encoder = PatchEncoder::new(origin, MAX_ENTRY_BYTES);
        for patch in patches {
            let (key, fields) = patch?;
            encoder.upsert(&key, &fields);
        }
        let [entry] = <[Bytes; 1]>::try_from(encoder.finish()).ok().context("the patches are not one entry")?;
        Ok(entry)
    }

    /// Applies an entry. Every patch in it must set something.
    pub(crate) fn apply(&mut self, entry: &[u8]) -> anyhow::Result<u64> {
        self.index += 1;
        match self.shard.apply(self.index, entry)? {
            Outcome::Patched(Patched { added, changed, unchanged: 0, removed: 0, too_large })
                if too_large.is_empty() =>
            {
                Ok(added + changed)
            }
            other => anyhow::bail!("an entry of patches was not applied as it should be: {other:?}"),
        }
    }

    /// Applies an entry and notes its time.
    pub(crate) fn apply_timed(&mut self, entry: &[u8], watch: &mut Stopwatch) -> anyhow::Result<()> {
        let (patches, nanos) = super::times::timed(|| self.apply(entry));
        watch.add(patches?, nanos);
        Ok(())
    }
}

/// Makes the patch that sets all fields of a customer to those of a version.
pub(crate) fn whole_of(version: u64) -> impl Fn(u64) -> anyhow::Result<Patch> {
    move |number| Ok((Key::new(&CustomerKey::text(number))?, Customer::at(number, version).fields()?))
}

/// Makes the patch that sets three fields of a customer to those of a version.
pub(crate) fn few_of(version: u64) -> impl Fn(u64) -> anyhow::Result<Patch> {
    move |number| Ok((Key::new(&CustomerKey::text(number))?, Customer::at(number, version).few_fields()?))
}

/// Numbers of as many different customers as an entry has patches, in random order, or of all if there are fewer.
///
/// Different, so that each patch changes something.
pub(crate) fn some(customers: u64, random: &mut Random) -> Vec<u64> {
    let count = ENTRY_PATCHES.min(customers);
    // One from each of `count` equal parts, then mixed.
    let mut numbers: Vec<u64> = (0..count)
        .map(|part| {
            let (from, to) = (customers * part / count, customers * (part + 1) / count);
            from + random.below(to - from)
        })
        .collect();
    random.shuffle(&mut numbers);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loaded_shard_takes_updates_of_all_and_of_some_fields() {
        let (mut feed, watch) = Feed::load(1200).unwrap();
        assert_eq!(watch.done(), 1200);
        let mut random = Random::new(1);
        let numbers = some(1200, &mut random);
        assert_eq!(numbers.len(), 500);
        let entry = feed.entry(numbers.iter().copied().map(whole_of(1))).unwrap();
        assert_eq!(feed.apply(&entry).unwrap(), 500);
        let entry = feed.entry(numbers.into_iter().map(few_of(2))).unwrap();
        assert_eq!(feed.apply(&entry).unwrap(), 500);
        assert_eq!(feed.shard.reader().stats(COLLECTION).records, 1200);
    }

    #[test]
    fn a_patch_that_sets_nothing_is_no_measurement() {
        let (mut feed, _) = Feed::load(10).unwrap();
        let entry = feed.entry((0..1).map(whole_of(0))).unwrap();
        assert!(feed.apply(&entry).is_err());
    }

    #[test]
    fn customers_are_drawn_from_all_and_never_twice() {
        let mut random = Random::new(1);
        for customers in [1, 7, 500, 501, 12_345] {
            let mut numbers = some(customers, &mut random);
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len() as u64, customers.min(ENTRY_PATCHES));
            assert!(numbers.iter().all(|number| *number < customers));
        }
    }
}
