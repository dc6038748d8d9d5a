//! Readers beside a writer that does everything at once.
//!
//! Each record of the tests carries one token in all of its fields, so that a record of two versions gives itself away.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder_types::hash::KeyHash;
use larder_types::ids::{CollectionId, FieldId, Generation, ShardId, SyncSlot};
use larder_types::key::Key;
use larder_types::patch::ExitMode;
use larder_types::value::Value;

use super::reference::names;
use super::restore_tests::restore;
use super::{Shard, ShardOptions, ShardReader};
use crate::command::{PatchEncoder, PatchOrigin, clear_sync, fence, sweep};

const SEED: u64 = 11;
const COLLECTION: CollectionId = CollectionId(1);
/// Its fields are cleared in all records now and then.
const CLEARED: SyncSlot = SyncSlot(0);
/// Its fields stay, and keep the records.
const KEPT: SyncSlot = SyncSlot(1);
/// Enough to split pages.
const KEYS: u64 = 9000;
/// One key in so many is never deleted.
const ANCHORS: u64 = 3;
const ROUNDS: u64 = 5;

fn key(number: u64) -> Key {
    Key::new(&format!("customer-{number}")).unwrap()
}

/// Fields of very different sizes, so that records differ in size too.
fn fields(slot: SyncSlot, token: u64) -> Vec<(FieldId, Value)> {
    let text = format!("{token}-{}", "x".repeat(usize::try_from(token % 61).unwrap()));
    let first = u16::from(slot.0) * 10;
    (first..first + 3)
        .map(|id| (FieldId(id), Value::Int(i64::try_from(token).unwrap())))
        .chain([(FieldId(first + 3), Value::String(text)), (FieldId(first + 4), Value::String(label(token)))])
        .collect()
}

/// A text of which there are few in each round, so that it is interned, and more with every round.
fn label(token: u64) -> String {
    format!("round \"{}\", {}", token / KEYS, token % 60)
}

struct Writer {
    shard: Shard,
    index: u64,
}

impl Writer {
    /// With a shard that knows the collection.
    fn new() -> Self {
        let mut writer = Self { shard: Shard::new(ShardOptions { id: ShardId(0), hash_seed: SEED }), index: 0 };
        writer.shard.apply(0, &fence(COLLECTION, KEPT, Generation(0))).unwrap();
        writer
    }

    fn apply(&mut self, entry: &[u8]) {
        self.index += 1;
        self.shard.apply(self.index, entry).unwrap();
    }

    /// Writes all of a slot's records in batches, and deletes some between.
    fn round(&mut self, slot: SyncSlot, round: u64) {
        let generation = Generation(u32::try_from(round).unwrap() + 1);
        for (seq, first) in (0..KEYS).step_by(300).enumerate() {
            let seq = u32::try_from(seq).unwrap();
            let origin = PatchOrigin { collection: COLLECTION, slot, generation, seq, at: 0 };
            let mut encoder = PatchEncoder::new(origin, 64 * 1024);
            for number in first..first + 300 {
                let token = round * KEYS + number;
                match number % ANCHORS {
                    // Every other round leaves this one out, and the sweep deletes it.
                    1 if round % 2 == 1 => {}
                    2 if (number + round).is_multiple_of(5) => encoder.delete(&key(number)),
                    _ => encoder.upsert(&key(number), &fields(slot, token)),
                }
            }
            encoder.finish().iter().for_each(|entry| self.apply(entry));
        }
    }

    fn restart(&mut self) {
        let frozen = self.shard.freeze();
        restore(&mut self.shard, &frozen);
    }
}

/// The tokens that one slot's fields carry, all of which must be equal.
fn token(json: &serde_json::Map<String, serde_json::Value>, slot: SyncSlot) -> Option<u64> {
    let first = u16::from(slot.0) * 10;
    let token = json.get(&format!("f{first}"))?.as_u64().unwrap();
    for id in first..first + 3 {
        assert_eq!(json[&format!("f{id}")].as_u64(), Some(token), "{json:?}");
    }
    let text = json[&format!("f{}", first + 3)].as_str().unwrap();
    let tail = text.strip_prefix(&format!("{token}-")).unwrap_or_else(|| panic!("torn: {json:?}"));
    assert_eq!(tail.len() as u64, token % 61);
    assert_eq!(json[&format!("f{}", first + 4)].as_str(), Some(&label(token)[..]));
    Some(token)
}

fn read_until(reader: &ShardReader, done: &AtomicBool, start: u64) -> u64 {
    let names = names();
    let mut newest = vec![(0, 0); usize::try_from(KEYS).unwrap()];
    let (mut number, mut seen) = (start, 0);
    while !done.load(Ordering::Relaxed) {
        number = (number + 7919) % KEYS;
        let key = key(number);
        let applied = reader.applied();
        let found = reader.get(COLLECTION, KeyHash::of(SEED, key.as_bytes()), key.as_bytes(), |view| {
            let mut json = Vec::new();
            view.write_json(&names, None, &mut json);
            assert_eq!(view.groups().any(|g| g.slot == KEPT), token_in(&json, KEPT).is_some());
            (view.version(), token_in(&json, KEPT).unwrap_or(0), token_in(&json, CLEARED))
        });
        let Some((version, kept, _)) = found else {
            assert!(!number.is_multiple_of(ANCHORS), "a record that always is was not found, applied {applied}");
            continue;
        };
        seen += 1;
        let last = &mut newest[usize::try_from(number).unwrap()];
        assert!(version >= last.0, "version {version} of key {number} after version {}", last.0);
        assert!(!number.is_multiple_of(ANCHORS) || kept >= last.1, "token {kept} after {}", last.1);
        *last = (version, kept);
    }
    seen
}

fn token_in(json: &[u8], slot: SyncSlot) -> Option<u64> {
    token(&serde_json::from_slice(json).unwrap(), slot)
}

#[test]
fn readers_see_whole_records_that_never_go_back() {
    let mut writer = Writer::new();
    writer.round(KEPT, 0);
    let (done, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for start in 0..2 {
            let (reader, done, seen) = (writer.shard.reader(), &done, &seen);
            scope.spawn(move || {
                let count = read_until(&reader, done, start * 13);
                seen.fetch_add(count, Ordering::Relaxed);
            });
        }
        // Whatever happens here, the readers must be told to end.
        let ended = Ended(&done);
        for round in 1..ROUNDS {
            let frozen = writer.shard.freeze();
            writer.round(CLEARED, round);
            writer.apply(&clear_sync(COLLECTION, CLEARED));
            writer.shard.state.clean_all();
            writer.round(KEPT, round);
            let generation = Generation(u32::try_from(round).unwrap() + 1);
            for chunk in 0..4 {
                writer.apply(&sweep(COLLECTION, KEPT, generation, ExitMode::Delete, (chunk, 4)));
            }
            writer.shard.state.clean_all();
            assert!(frozen.blocks().count() > 0);
            if round % 2 == 0 {
                writer.restart();
            }
        }
        drop(ended);
    });
    assert!(seen.load(Ordering::Relaxed) > 0, "the readers have read nothing");
    assert!(writer.shard.reader().stats(COLLECTION).dictionary_bytes > 0, "no text was interned");
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_reader_outlives_its_shard() {
    let mut writer = Writer::new();
    let origin = PatchOrigin { collection: COLLECTION, slot: KEPT, generation: Generation(1), seq: 0, at: 0 };
    let mut encoder = PatchEncoder::new(origin, 1024);
    encoder.upsert(&key(1), &fields(KEPT, 5));
    encoder.finish().iter().for_each(|entry| writer.apply(entry));
    let reader = writer.shard.reader();
    drop(writer);
    // Let whatever was retired go.
    for _ in 0..1000 {
        crossbeam_epoch::pin().flush();
    }
    let found = reader.get(COLLECTION, KeyHash::of(SEED, b"customer-1"), b"customer-1", |view| view.version());
    assert_eq!(found, Some(1));
}
