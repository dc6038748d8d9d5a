//! Texts that records share: what of it can be seen, and what it saves. These tests count bytes, not time.

use larder_types::decimal::Decimal;
use larder_types::hash::KeyHash;
use larder_types::ids::{CollectionId, FieldId, Generation, ShardId, SyncSlot};
use larder_types::key::Key;
use larder_types::value::Value;

use super::reference::names;
use super::restore_tests::restore;
use super::{CollectionStats, FrozenShard, Shard, ShardOptions};
use crate::command::{Outcome, PatchEncoder, PatchOrigin, Patched, clear_sync, drop_collection, fence};
use crate::record::RecordCopy;

const OPTIONS: ShardOptions = ShardOptions { id: ShardId(0), hash_seed: 23 };
const COLLECTION: CollectionId = CollectionId(1);
const SLOT: SyncSlot = SyncSlot(0);
const PLAN: FieldId = FieldId(6);

/// A shard that is fed by one run.
struct Rig {
    shard: Shard,
    index: u64,
    seq: u32,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self { shard: Shard::new(OPTIONS), index: 0, seq: 0 };
        rig.apply(&fence(COLLECTION, SLOT, Generation(1)));
        rig
    }

    fn apply(&mut self, entry: &[u8]) -> Outcome {
        self.index += 1;
        self.shard.apply(self.index, entry).unwrap()
    }

    /// Sets fields of records, and says what that did.
    fn write(&mut self, records: impl IntoIterator<Item = (u64, Vec<(FieldId, Value)>)>) -> Patched {
        self.seq += 1;
        let origin =
            PatchOrigin { collection: COLLECTION, slot: SLOT, generation: Generation(1), seq: self.seq, at: 0 };
        let mut encoder = PatchEncoder::new(origin, 64 * 1024);
        records.into_iter().for_each(|(number, fields)| encoder.upsert(&key(number), &fields));
        let mut sum = Patched::default();
        for entry in encoder.finish() {
            let Outcome::Patched(part) = self.apply(&entry) else { panic!("not applied") };
            (sum.added, sum.changed) = (sum.added + part.added, sum.changed + part.changed);
            sum.unchanged += part.unchanged;
        }
        sum
    }

    /// Sets one field of records.
    fn plans(&mut self, plans: impl IntoIterator<Item = (u64, &'static str)>) -> Patched {
        self.write(plans.into_iter().map(|(number, plan)| (number, vec![(PLAN, Value::String(plan.into()))])))
    }

    fn stats(&self) -> CollectionStats {
        self.shard.reader().stats(COLLECTION)
    }

    fn copy(&self, number: u64) -> RecordCopy {
        let key = key(number);
        let hash = KeyHash::of(OPTIONS.hash_seed, key.as_bytes());
        self.shard.reader().get(COLLECTION, hash, key.as_bytes(), |view| view.copy()).unwrap()
    }

    fn shown(&self, number: u64) -> (u64, String) {
        let copy = self.copy(number);
        (copy.view().version(), json(&copy))
    }
}

fn key(number: u64) -> Key {
    Key::new(&(48_000_000 + number).to_string()).unwrap()
}

fn json(copy: &RecordCopy) -> String {
    let mut json = Vec::new();
    copy.view().write_json(&names(), None, &mut json);
    String::from_utf8(json).unwrap()
}

fn restored(frozen: &FrozenShard) -> Shard {
    let mut shard = Shard::new(OPTIONS);
    restore(&mut shard, frozen);
    shard
}

#[test]
fn a_text_from_before_there_was_a_pool_is_the_same_text() {
    let mut rig = Rig::new();
    rig.plans([(0, "enterprise"), (1, "free")]);
    rig.plans((2..1025).map(|number| (number, if number % 2 == 0 { "enterprise" } else { "free" })));
    let (before, version) = (rig.stats().content_bytes(), rig.shown(0).0);
    assert_eq!(rig.shown(0).1, r#"{"f6":"enterprise"}"#);
    let said_again = rig.plans([(0, "enterprise"), (1024, "enterprise")]);
    assert_eq!((said_again.unchanged, said_again.changed), (2, 0));
    assert_eq!(rig.shown(0), (version, r#"{"f6":"enterprise"}"#.into()));
    assert_eq!(before - rig.stats().content_bytes(), 9, "it is an id of two bytes now");
    let other = rig.plans([(0, "free"), (1024, "free"), (1, "free")]);
    assert_eq!((other.unchanged, other.changed), (1, 2));
    assert_eq!(rig.shown(0).1, r#"{"f6":"free"}"#);
}

#[test]
fn ids_stay_readable_whatever_becomes_of_the_field_and_the_collection() {
    let mut rig = Rig::new();
    rig.plans((0..1100).map(|number| (number, "enterprise")));
    let (copy, dictionary) = (rig.copy(1099), rig.stats().dictionary_bytes);
    let frozen = rig.shard.freeze();
    rig.apply(&clear_sync(COLLECTION, SLOT));
    assert_eq!(rig.stats().dictionary_bytes, dictionary);
    rig.plans([(7, "enterprise"), (8, "a new one")]);
    assert_eq!(rig.shown(8).1, r#"{"f6":"a new one"}"#);
    assert!(rig.stats().dictionary_bytes > dictionary);
    rig.apply(&drop_collection(COLLECTION));
    assert_eq!(rig.shard.reader().memory().bytes, 0);
    rig.apply(&fence(COLLECTION, SLOT, Generation(1)));
    assert_eq!(rig.stats().dictionary_bytes, 0);
    assert_eq!(json(&copy), r#"{"f6":"enterprise"}"#);
    let restored = restored(&frozen).reader();
    assert_eq!(restored.stats(COLLECTION).dictionary_bytes, dictionary);
    let key = key(1099);
    let hash = KeyHash::of(OPTIONS.hash_seed, key.as_bytes());
    let copy = restored.get(COLLECTION, hash, key.as_bytes(), |view| view.copy()).unwrap();
    assert_eq!(json(&copy), r#"{"f6":"enterprise"}"#);
}

/// Customers of 15 fields, 286 bytes of JSON each with the names of the storage engine's bench.
fn customer(number: u64) -> Vec<(FieldId, Value)> {
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut below = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    let text = |text: &str| Value::String(text.into());
    let (first, last) = (format!("Maria{}", below(90)), format!("Lindqvist{}", below(300)));
    let moment = |below: u64| Value::Timestamp(i64::try_from(1_583_020_800 + below).unwrap() * 1_000_000);
    let cents = |below: u64| Value::Decimal(Decimal::new(below.into(), 2).unwrap());
    let values = [
        Value::Int(i64::try_from(48_000_000 + number).unwrap()),
        Value::String(format!("lindqvist{number}@example.com")),
        text(&first),
        text(&last),
        text(&format!("S{}", below(30))),
        text(&format!("Lund{}", below(200))),
        text(if below(3) == 0 { "enterprise" } else { "pro" }),
        text(if below(2) == 0 { "active" } else { "paused" }),
        cents(below(300_000)),
        cents(below(20_000)),
        Value::Int(i64::try_from(below(100)).unwrap()),
        Value::Float(below(10_000) as f64 / 10_000.0),
        moment(below(60_000_000)),
        moment(174_000_000 + below(1_000_000)),
        Value::Bool(below(2) == 1),
    ];
    (0..).map(FieldId).zip(values).collect()
}

#[test]
fn a_customer_takes_less_than_half_of_its_json() {
    const CUSTOMERS: u64 = 40_000;
    let mut rig = Rig::new();
    for first in (0..CUSTOMERS).step_by(1000) {
        rig.write((first..first + 1000).map(|number| (number, customer(number))));
    }
    let stats = rig.stats();
    let loaded = (stats.bytes - stats.batch_bytes) / CUSTOMERS;
    // The cleaner keeps dead records below 15 percent.
    let shared = stats.table_bytes + stats.dictionary_bytes;
    let at_the_limit = (stats.content_bytes() * 100 / 85 + shared) / CUSTOMERS;
    assert!(loaded <= 130, "{loaded} bytes as loaded, {stats:?}");
    assert!(at_the_limit <= 150, "{at_the_limit} bytes at the limit, {stats:?}");
}
