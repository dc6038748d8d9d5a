//! Lookups beside three hash tables that hold the same rows, and batches of lookups beside single ones.
//!
//! Every contestant finds the record by its key and writes it as JSON with the same code; the key's hash is given to
//! all of them. Each table has rows of its own, and nobody gets the keys of another in the same window, whose records
//! would then be in the caches.

use std::hash::{BuildHasher, Hash, Hasher};
use std::hint::black_box;
use std::sync::{PoisonError, RwLock};

use anyhow::{Context as _, ensure};
use hashbrown::HashTable;
use larder_storage::record::{Dictionary, RecordCopy};
use larder_storage::shard::ShardReader;
use larder_types::hash::KeyHash;

use super::customer::{self, CustomerKey};
use super::feed::COLLECTION;
use super::report::{Goal, Report, Row, Unit};
use super::times::{Times, timed};
use super::zipf::Zipf;
use super::{SEED, Windows};
use crate::random::Random;

/// Locks of the sharded table.
const LOCKS: usize = 64;
/// Keys of a batch.
const BATCH: usize = 16;
/// Room for the JSON of a record.
const ROOM: usize = 1024;

/// Looks keys up. Returns the bytes of JSON written, or for those who only find, the records found.
type LookUp = fn(&Contest, &[Query<'_>]) -> usize;

/// Those who look up one by one in tables of their own.
const TABLES: [(&str, LookUp); 4] = [
    ("larder", Contest::one_by_one),
    ("hashbrown without synchronisation", Contest::in_bare),
    ("64 x RwLock<hashbrown>", Contest::in_locked),
    ("papaya", Contest::in_papaya),
];
/// The goals of the first beside each of the others.
const TABLE_GOALS: [(usize, Goal, [&str; 2]); 3] = [
    (1, Goal::AtMost(1.0), ["lookup / bare hashbrown, uniform", "lookup / bare hashbrown, zipf"]),
    (2, Goal::AtMost(0.85), ["lookup / 64 x RwLock<hashbrown>, uniform", "lookup / 64 x RwLock<hashbrown>, zipf"]),
    (3, Goal::AtMost(0.75), ["lookup / papaya, uniform", "lookup / papaya, zipf"]),
];

/// Those who look up in the engine, one by one and in batches.
const BATCHES: [(&str, LookUp); 4] = [
    ("one by one", Contest::one_by_one),
    ("batches of 16", Contest::in_batches),
    ("one by one, found only", Contest::found_one_by_one),
    ("batches of 16, found only", Contest::found_in_batches),
];
/// The goals of single lookups beside the batches that follow them.
const BATCH_GOALS: [(usize, Goal, [&str; 2]); 2] = [
    (0, Goal::AtLeast(2.3), ["one by one / batch of 16, uniform", "one by one / batch of 16, zipf"]),
    (
        2,
        Goal::AtLeast(2.3),
        ["one by one / batch of 16, found only, uniform", "one by one / batch of 16, found only, zipf"],
    ),
];

/// A key with its hash, as tables take it.
type Query<'a> = (KeyHash, &'a [u8]);

/// Draws a key.
type Pick<'a> = dyn Fn(&mut Random) -> CustomerKey + 'a;

/// The same rows in several places.
struct Contest {
    reader: ShardReader,
    names: Dictionary,
    bare: HashTable<RecordCopy>,
    locked: Vec<RwLock<HashTable<RecordCopy>>>,
    papaya: papaya::HashMap<Box<[u8]>, RecordCopy, PlacementHash>,
}

/// Measures lookups among so many customers.
pub(crate) fn measure(
    reader: ShardReader,
    customers: u64,
    windows: Windows,
    report: &mut Report,
) -> anyhow::Result<()> {
    let contest = Contest::new(reader, customers)?;
    let mut random = Random::new(SEED);
    let uniform = |random: &mut Random| CustomerKey::of(random.below(customers));
    let zipf = Zipf::new(customers);
    let skewed = |random: &mut Random| CustomerKey::of(zipf.next(random));
    let keys: [(&str, &Pick<'_>); 2] = [("uniform", &uniform), ("zipf 0.99", &skewed)];
    let tables = keys.map(|(name, pick)| {
        let what = format!("lookup among {customers} records, {name}");
        contest.turns(what, &TABLES, windows, pick, &mut random)
    });
    let batches = keys.map(|(name, pick)| {
        let what = format!("the engine among {customers} records, {name}");
        contest.turns(what, &BATCHES, windows, pick, &mut random)
    });
    for (other, goal, names) in TABLE_GOALS {
        judge(&tables, (0, other), goal, names, report);
    }
    for (one, goal, names) in BATCH_GOALS {
        judge(&batches, (one, one + 1), goal, names, report);
    }
    report.times.extend(tables.into_iter().chain(batches));
    Ok(())
}

/// Adds a row for each kind of keys.
fn judge(times: &[Times; 2], pair: (usize, usize), goal: Goal, names: [&'static str; 2], report: &mut Report) {
    for (times, name) in times.iter().zip(names) {
        let ratio = times.ratio(pair.0, pair.1);
        let note = format!("of the least times; median of the windows' ratios {:.3}", ratio.median);
        report.rows.push(Row::judged(name, ratio.of_least, Unit::Times, goal, note));
    }
}

impl Contest {
    fn new(reader: ShardReader, customers: u64) -> anyhow::Result<Self> {
        let capacity = usize::try_from(customers)?;
        let mut bare = HashTable::new();
        let mut locked: Vec<_> = (0..LOCKS).map(|_| HashTable::new()).collect();
        let papaya = papaya::HashMap::with_capacity_and_hasher(capacity, PlacementHash);
        let hash_of = |record: &RecordCopy| KeyHash::of(SEED, record.key()).0;
        for number in 0..customers {
            let key = CustomerKey::of(number);
            let copy =
                || reader.get(COLLECTION, key.hash, key.as_bytes(), |view| view.copy()).context("no such record");
            bare.insert_unique(key.hash.0, copy()?, hash_of);
            locked[lock_of(key.hash)].insert_unique(key.hash.0, copy()?, hash_of);
            papaya.pin().insert(key.as_bytes().into(), copy()?);
        }
        ensure!(papaya.len() == capacity, "papaya has lost records");
        let locked = locked.into_iter().map(RwLock::new).collect();
        Ok(Self { reader, names: customer::dictionary(), bare, locked, papaya })
    }

    /// Lets contestants look keys up by turns, in another order in each window.
    fn turns(
        &self,
        what: String,
        contestants: &[(&'static str, LookUp)],
        windows: Windows,
        pick: &Pick<'_>,
        random: &mut Random,
    ) -> Times {
        let names: Vec<_> = contestants.iter().map(|(name, _)| *name).collect();
        let mut times = Times::new(what, &names);
        let mut order: Vec<_> = (0..contestants.len()).collect();
        for _ in 0..windows.count {
            random.shuffle(&mut order);
            for &contestant in &order {
                let keys: Vec<_> = (0..windows.reads).map(|_| pick(random)).collect();
                let keys: Vec<Query<'_>> = keys.iter().map(|key| (key.hash, key.as_bytes())).collect();
                let (bytes, nanos) = timed(|| contestants[contestant].1(self, &keys));
                black_box(bytes);
                times.add(contestant, nanos / count(keys.len()));
            }
        }
        times
    }

    fn one_by_one(&self, keys: &[Query<'_>]) -> usize {
        let mut json = Json::new(&self.names);
        for (hash, key) in keys {
            self.reader.get(COLLECTION, *hash, key, |view| json.write(&view));
        }
        json.bytes
    }

    fn in_batches(&self, keys: &[Query<'_>]) -> usize {
        let mut json = Json::new(&self.names);
        for batch in keys.chunks(BATCH) {
            self.reader.get_many(COLLECTION, batch, |_, view| {
                if let Some(view) = view {
                    json.write(&view);
                }
            });
        }
        json.bytes
    }

    fn in_bare(&self, keys: &[Query<'_>]) -> usize {
        let mut json = Json::new(&self.names);
        for (hash, key) in keys {
            if let Some(record) = self.bare.find(hash.0, |record| record.key() == *key) {
                json.write(&record.view());
            }
        }
        json.bytes
    }

    fn in_locked(&self, keys: &[Query<'_>]) -> usize {
        let mut json = Json::new(&self.names);
        for (hash, key) in keys {
            let table = self.locked[lock_of(*hash)].read().unwrap_or_else(PoisonError::into_inner);
            if let Some(record) = table.find(hash.0, |record| record.key() == *key) {
                json.write(&record.view());
            }
        }
        json.bytes
    }

    fn in_papaya(&self, keys: &[Query<'_>]) -> usize {
        let mut json = Json::new(&self.names);
        for (hash, key) in keys {
            if let Some(record) = self.papaya.pin().get(&Hashed { hash: *hash, key }) {
                json.write(&record.view());
            }
        }
        json.bytes
    }

    fn found_one_by_one(&self, keys: &[Query<'_>]) -> usize {
        let found = |(hash, key): &Query<'_>| self.reader.get(COLLECTION, *hash, key, |view| black_box(view.version()));
        keys.iter().filter_map(found).count()
    }

    fn found_in_batches(&self, keys: &[Query<'_>]) -> usize {
        let mut found = 0;
        for batch in keys.chunks(BATCH) {
            self.reader.get_many(COLLECTION, batch, |_, view| {
                found += usize::from(view.map(|view| black_box(view.version())).is_some());
            });
        }
        found
    }
}

/// Where records are written, one over the other.
struct Json<'a> {
    names: &'a Dictionary,
    out: Vec<u8>,
    bytes: usize,
}

impl<'a> Json<'a> {
    fn new(names: &'a Dictionary) -> Self {
        Self { names, out: Vec::with_capacity(ROOM), bytes: 0 }
    }

    fn write(&mut self, view: &larder_storage::record::RecordView<'_>) {
        self.out.clear();
        view.write_json(self.names, None, &mut self.out);
        self.bytes += black_box(&self.out).len();
    }
}

/// Lets papaya take the hash that everybody is given.
#[derive(Clone)]
struct PlacementHash;

/// A key on its way into papaya, with its hash.
struct Hashed<'a> {
    hash: KeyHash,
    key: &'a [u8],
}

impl Hash for Hashed<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash.0);
    }
}

impl papaya::Equivalent<Box<[u8]>> for Hashed<'_> {
    fn equivalent(&self, key: &Box<[u8]>) -> bool {
        self.key == &**key
    }
}

impl BuildHasher for PlacementHash {
    type Hasher = Passed;

    fn build_hasher(&self) -> Passed {
        Passed(0)
    }
}

/// A hasher to which the hash is given, or a whole key of which it makes one.
struct Passed(u64);

impl Hasher for Passed {
    fn write(&mut self, key: &[u8]) {
        self.0 = KeyHash::of(SEED, key).0;
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    // The length that a slice puts before its bytes.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

fn lock_of(hash: KeyHash) -> usize {
    usize::try_from(hash.0 >> 32).unwrap_or_default() % LOCKS
}

#[allow(clippy::cast_precision_loss, reason = "windows are small")]
fn count(keys: usize) -> f64 {
    keys as f64
}

#[cfg(test)]
mod tests {
    use super::super::customer::Customer;
    use super::super::feed::Feed;
    use super::*;

    #[test]
    fn all_contestants_answer_alike() {
        let (feed, _) = Feed::load(600).unwrap();
        let contest = Contest::new(feed.shard.reader(), 600).unwrap();
        let keys: Vec<_> = (0..700).map(CustomerKey::of).collect();
        let keys: Vec<Query<'_>> = keys.iter().map(|key| (key.hash, key.as_bytes())).collect();
        let expected: usize = (0..600).map(|number| Customer::new(number).json().len()).sum();
        for (name, look_up) in TABLES {
            assert_eq!(look_up(&contest, &keys), expected, "{name}");
        }
        let answers = BATCHES.map(|(_, look_up)| look_up(&contest, &keys));
        assert_eq!(answers, [expected, expected, 600, 600]);
    }

    #[test]
    fn every_comparison_becomes_a_row() {
        let (feed, _) = Feed::load(600).unwrap();
        let mut report = Report::default();
        measure(feed.shard.reader(), 600, Windows { count: 2, reads: 40 }, &mut report).unwrap();
        let names: Vec<_> = report.rows.iter().map(|row| row.name).collect();
        let tables = TABLE_GOALS.iter().flat_map(|(.., names)| *names);
        let expected: Vec<_> = tables.chain(BATCH_GOALS.iter().flat_map(|(.., names)| *names)).collect();
        assert_eq!(names, expected);
        assert!(report.rows.iter().all(|row| row.figure.is_some_and(f64::is_finite)));
    }
}
