//! What the cleaner gives back, what it leaves alone, and that nobody notices. These tests count bytes, not time.

use std::time::{Duration, Instant};

use larder_types::hash::KeyHash;
use larder_types::ids::{CollectionId, FieldId, Generation, ShardId, SyncSlot};
use larder_types::key::Key;
use larder_types::value::Value;

use super::reference::names;
use super::restore_tests::restore;
use super::{Shard, ShardMemory, ShardOptions};
use crate::command::{PatchEncoder, PatchOrigin, clear_sync, drop_collection, fence};

const SEED: u64 = 17;
const COLLECTION: CollectionId = CollectionId(1);
const MIB: u64 = 1 << 20;
const RECORDS: u64 = 3000;

/// A shard that is fed with one field for each record.
struct Rig {
    shard: Shard,
    index: u64,
    seq: u32,
    random: u64,
}

impl Rig {
    fn new() -> Self {
        let shard = Shard::new(ShardOptions { id: ShardId(0), hash_seed: SEED });
        let mut rig = Self { shard, index: 0, seq: 0, random: 0x9e37_79b9_7f4a_7c15 };
        rig.open(COLLECTION);
        rig
    }

    /// Makes a collection known.
    fn open(&mut self, collection: CollectionId) {
        self.apply(&fence(collection, SyncSlot(0), Generation(1)));
    }

    /// The next of a fixed row of numbers that look random (xorshift).
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn apply(&mut self, entry: &[u8]) {
        self.index += 1;
        self.shard.apply(self.index, entry).unwrap();
    }

    fn patch(&mut self, collection: CollectionId, slot: u8, fill: impl FnOnce(&mut PatchEncoder)) {
        self.seq += 1;
        let (seq, slot) = (self.seq, SyncSlot(slot));
        let mut encoder =
            PatchEncoder::new(PatchOrigin { collection, slot, generation: Generation(1), seq, at: 0 }, 64 * 1024);
        fill(&mut encoder);
        encoder.finish().iter().for_each(|entry| self.apply(entry));
    }

    /// Writes records with texts of these lengths, which also say which version it is.
    fn write(&mut self, slot: u8, records: &[(u64, usize)]) {
        self.patch(COLLECTION, slot, |encoder| {
            for (number, len) in records {
                let text = format!("{len}:{}", "x".repeat(*len));
                encoder.upsert(&key(*number), &[(FieldId(slot.into()), Value::String(text))]);
            }
        });
    }

    /// Writes all records in order.
    fn fill(&mut self, slot: u8, len: usize) {
        for first in (0..RECORDS).step_by(500) {
            self.write(slot, &(first..first + 500).map(|number| (number, len)).collect::<Vec<_>>());
        }
    }

    fn delete(&mut self, numbers: &[u64]) {
        self.patch(COLLECTION, 0, |encoder| numbers.iter().for_each(|number| encoder.delete(&key(*number))));
    }

    /// Applies entries that change next to nothing until the cleaner has nothing to do, and lets retired segments go.
    fn settle(&mut self) -> ShardMemory {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.shard.state.arena.is_wasteful() {
            self.write(0, &[(0, 1)]);
            assert!(Instant::now() < deadline, "the cleaner does not end");
        }
        let mut memory = self.shard.reader().memory();
        for _ in 0..1000 {
            crossbeam_epoch::pin().flush();
            memory = self.shard.reader().memory();
        }
        memory
    }

    /// Bytes of the records, without the table.
    fn content(&self) -> u64 {
        self.shard.reader().stats(COLLECTION).content_bytes()
    }

    fn assert_compact(&mut self, when: &str) {
        let (arena, content) = (self.settle().arena_bytes, self.content());
        assert!(arena <= content * 12 / 10 + 4 * MIB, "{when}: {content} bytes of records take {arena}");
    }

    fn get(&self, number: u64) -> Option<(u64, String)> {
        let key = key(number);
        self.shard.reader().get(COLLECTION, KeyHash::of(SEED, key.as_bytes()), key.as_bytes(), |view| {
            let mut json = Vec::new();
            view.write_json(&names(), None, &mut json);
            (view.version(), String::from_utf8(json).unwrap())
        })
    }
}

fn key(number: u64) -> Key {
    Key::new(&format!("customer-{number}")).unwrap()
}

#[test]
fn random_replacement_with_drifting_sizes_leaves_the_arena_compact() {
    let mut rig = Rig::new();
    rig.fill(0, 1000);
    for round in 0..12 {
        for _ in 0..RECORDS / 500 {
            let records: Vec<_> = (0..500)
                .map(|_| (rig.below(RECORDS), 800 + 60 * round + usize::try_from(rig.below(800)).unwrap()))
                .collect();
            rig.write(0, &records);
        }
    }
    rig.assert_compact("after 12 rounds");
    let mut kept = Vec::new();
    for first in (0..RECORDS).step_by(500) {
        let (deleted, others): (Vec<_>, Vec<_>) = (first..first + 500).partition(|_| rig.below(10) < 6);
        rig.delete(&deleted);
        kept.extend(others);
    }
    rig.assert_compact("after deleting 60 %");
    assert!(kept.iter().all(|number| rig.get(*number).is_some()));
    assert_eq!(rig.shard.reader().stats(COLLECTION).records, kept.len() as u64);
}

#[test]
fn what_a_clear_has_made_absent_is_given_back() {
    let mut rig = Rig::new();
    rig.fill(0, 20);
    rig.fill(1, 2500);
    let before = rig.settle();
    rig.apply(&clear_sync(COLLECTION, SyncSlot(1)));
    let bytes = rig.shard.reader().memory().bytes;
    assert!(before.bytes - bytes > RECORDS * 2500, "the content is gone at once: {} of {}", bytes, before.bytes);
    assert_eq!(rig.shard.state.arena.stale(), before.bytes - bytes);
    let cleared = rig.index;
    let of_records = |rig: &Rig| {
        let stats = rig.shard.reader().stats(COLLECTION);
        stats.bytes - stats.batch_bytes
    };
    let counted = of_records(&rig);
    rig.assert_compact("after a clear");
    assert!(of_records(&rig).abs_diff(counted) < 200, "cleaning changes nothing that is counted");
    let seen = rig.get(RECORDS - 1);
    assert_eq!(seen, Some((cleared, format!("{{\"f0\":\"20:{}\"}}", "x".repeat(20)))));
}

#[test]
fn what_a_clear_has_made_absent_is_given_back_after_a_restart_too() {
    let mut rig = Rig::new();
    rig.fill(0, 20);
    rig.fill(1, 2500);
    rig.apply(&clear_sync(COLLECTION, SyncSlot(1)));
    let frozen = rig.shard.freeze();
    restore(&mut rig.shard, &frozen);
    drop(frozen);
    assert!(rig.shard.state.arena.stale() > RECORDS * 2000);
    rig.assert_compact("after a restart");
}

#[test]
fn collections_that_share_segments_are_cleaned_together() {
    let mut rig = Rig::new();
    let others: Vec<_> = (2..22).map(CollectionId).collect();
    others.iter().for_each(|id| rig.open(*id));
    for round in 0..100u64 {
        for id in &others {
            let text = Value::String("y".repeat(1200));
            rig.patch(*id, 0, |encoder| {
                (0..10).for_each(|n| encoder.upsert(&key(round % 10 * 10 + n), &[(FieldId(1), text.clone())]));
            });
        }
    }
    rig.write(0, &[(0, 1)]);
    let memory = rig.settle();
    let content: u64 = others.iter().map(|id| rig.shard.reader().stats(*id).records * 1200).sum();
    assert_eq!(content, 20 * 100 * 1200);
    assert!(memory.arena_bytes <= content * 12 / 10 + 4 * MIB, "{memory:?}");
    for id in &others[1..] {
        rig.apply(&drop_collection(*id));
    }
    let memory = rig.settle();
    assert!(memory.arena_bytes <= 4 * MIB, "{memory:?}");
    let left =
        rig.shard.reader().get(others[0], KeyHash::of(SEED, b"customer-7"), b"customer-7", |view| view.version());
    assert!(left.is_some());
}

/// A segment goes with its last live record, while dead ones behind it are still to be visited.
#[test]
fn dead_records_behind_the_last_live_one_are_passed_over() {
    let mut rig = Rig::new();
    let other = CollectionId(2);
    rig.open(other);
    rig.write(0, &[(0, 10)]);
    let dead: Vec<_> = (1..9).collect();
    rig.write(0, &dead.iter().map(|number| (*number, 10)).collect::<Vec<_>>());
    rig.patch(other, 0, |encoder| dead.iter().for_each(|number| encoder.upsert::<Value>(&key(*number), &[])));
    rig.delete(&dead);
    rig.patch(other, 0, |encoder| dead.iter().for_each(|number| encoder.delete(&key(*number))));
    rig.shard.state.clean_all();
    assert!(rig.get(0).is_some() && rig.get(1).is_none());
    assert_eq!(rig.shard.state.arena.sealed(), [0; 0], "the segment is gone");
}

#[test]
fn an_entry_is_cleaned_up_after_in_bounds() {
    let mut rig = Rig::new();
    rig.fill(0, 2500);
    rig.fill(1, 2500);
    rig.settle();
    // Half of what the arena holds becomes waste at once.
    rig.apply(&clear_sync(COLLECTION, SyncSlot(1)));
    assert!(rig.shard.state.arena.is_wasteful());
    let mut entries = 0;
    while rig.shard.state.arena.is_wasteful() {
        let before = rig.shard.state.arena.visited;
        rig.write(0, &[(entries % RECORDS, 1)]);
        let visited = rig.shard.state.arena.visited - before;
        // A small part of a segment, and a record of which it reached the beginning.
        assert!((1..70 * 1024).contains(&visited), "one record written, {visited} bytes visited");
        entries += 1;
    }
    assert!(entries > 20);
    let before = rig.shard.state.arena.visited;
    rig.write(0, &[(0, 1)]);
    assert_eq!(rig.shard.state.arena.visited, before, "a compact arena is left alone");
}

#[test]
fn segments_of_a_frozen_shard_wait_until_it_has_gone() {
    let mut rig = Rig::new();
    rig.fill(0, 2500);
    let frozen = rig.shard.freeze();
    let visited = rig.shard.state.arena.visited;
    // Every other record, so that no segment goes by itself.
    for number in (0..RECORDS).step_by(2) {
        rig.write(0, &[(number, 10)]);
    }
    assert!(rig.shard.state.arena.is_wasteful());
    assert_eq!(rig.shard.state.arena.visited, visited, "cleaning what is held would free nothing");
    let held: u64 = frozen.blocks().map(|block| block.len() as u64).sum();
    assert!(held > RECORDS * 2500, "the frozen shard has all it had");
    drop(frozen);
    rig.assert_compact("after a snapshot");
}

/// Whether a record that is being visited stays when its segment is cleaned meanwhile.
fn stays_while_visited(rig: &mut Rig) -> bool {
    let key = key(7);
    let (reader, state) = (rig.shard.reader(), &mut rig.shard.state);
    let stays = reader.get(COLLECTION, KeyHash::of(SEED, key.as_bytes()), key.as_bytes(), |view| {
        let json = || {
            let mut json = Vec::new();
            view.write_json(&names(), None, &mut json);
            json
        };
        let (before, held) = (json(), reader.memory().arena_bytes);
        state.clean_all();
        for _ in 0..100 {
            crossbeam_epoch::pin().flush();
        }
        // If memory was freed, the record is not there to be looked at.
        reader.memory().arena_bytes > held && json() == before
    });
    stays.unwrap()
}

#[test]
fn a_record_that_is_being_visited_stays() {
    let mut rig = Rig::new();
    rig.fill(0, 100);
    assert!(stays_while_visited(&mut rig));
}

#[test]
fn freeing_early_is_noticed() {
    let mut rig = Rig::new();
    rig.fill(0, 100);
    rig.shard.state.arena.frees_early = true;
    assert!(!stays_while_visited(&mut rig), "the planted bug was not found");
}
