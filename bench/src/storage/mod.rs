//! The storage engine alone, in this process: lookups beside hash tables of the same rows, batches beside single
//! lookups, encoding beside serde_json, and bytes for each record.
//!
//! The contestants take turns, window by window, so that whatever else the machine does meets them alike. Times are
//! processor time of this thread, the least and the median over all windows: compare columns, not runs.

mod report;
mod rows;

use std::hint::black_box;
use std::sync::{PoisonError, RwLock};

use anyhow::{Context as _, ensure};
use hashbrown::HashTable;
use larder_storage::command::{PatchEncoder, PatchOrigin, fence};
use larder_storage::record::{Dictionary, FieldSet, RecordCopy};
use larder_storage::shard::{Shard, ShardOptions, ShardReader};
use larder_types::hash::KeyHash;
use larder_types::ids::{CollectionId, FieldId, Generation, ShardId, SyncSlot};
use rustix::time::{ClockId, clock_gettime};

pub(crate) use self::report::Report;
use self::report::Times;
use crate::random::Random;

const SEED: u64 = 7;
const COLLECTION: CollectionId = CollectionId(1);
const SLOT: SyncSlot = SyncSlot(0);
/// Records in one batch while loading.
const LOAD: usize = 1000;
/// Locks of the sharded table.
const LOCKS: usize = 64;
/// Keys of a batch of lookups.
const BATCH: usize = 16;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Records
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Windows for each contestant
    #[arg(long, default_value_t = 40)]
    windows: usize,
    /// Lookups in a window
    #[arg(long, default_value_t = 20_000)]
    reads: usize,
    /// Show the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The same rows in several places.
struct Contest {
    reader: ShardReader,
    bare: HashTable<RecordCopy>,
    locked: Vec<RwLock<HashTable<RecordCopy>>>,
    names: Dictionary,
}

/// Measures.
///
/// # Errors
/// When a record cannot be made or found, or the kernel gives no time.
pub(crate) fn measure(options: &Options) -> anyhow::Result<Report> {
    ensure!(options.records > 0 && options.windows > 0 && options.reads > 0, "there is nothing to measure");
    let shard = load(options.records)?;
    let contest = Contest::new(shard.reader(), options.records)?;
    let memory = contest.reader.memory();
    let mut report = Report {
        records: options.records,
        record_bytes: per(memory.bytes, options.records),
        held_bytes: per(
            memory.arena_bytes + memory.bytes - contest.reader.stats(COLLECTION).content_bytes(),
            options.records,
        ),
        json_bytes: contest.json_bytes()?,
        times: Vec::new(),
    };
    let mut lookups =
        Times::of(["larder, one by one", "larder, batches of 16", "bare hashbrown", "64 x RwLock<hashbrown>"]);
    let mut encoding = Times::of(["15 fields", "3 of 15 fields", "serde_json on a struct"]);
    let mut random = Random::new(SEED);
    for _ in 0..options.windows {
        let keys = contest.pick(&mut random, options)?;
        let keys: Vec<_> = keys.iter().map(|(hash, key)| (*hash, &key[..])).collect();
        lookups.add(0, timed(keys.len(), || contest.one_by_one(&keys)));
        lookups.add(1, timed(keys.len(), || contest.in_batches(&keys)));
        lookups.add(2, timed(keys.len(), || contest.bare(&keys)));
        lookups.add(3, timed(keys.len(), || contest.locked(&keys)));
        contest.encode(&mut encoding, random.below(options.records), options.reads)?;
    }
    report.times.extend([lookups, encoding]);
    Ok(report)
}

fn load(records: u64) -> anyhow::Result<Shard> {
    let mut shard = Shard::new(ShardOptions { id: ShardId(0), hash_seed: SEED });
    let mut index = 1;
    shard.apply(index, &fence(COLLECTION, SLOT, Generation(1)))?;
    for (seq, first) in (0..records).step_by(LOAD).enumerate() {
        let seq = u32::try_from(seq).context("too many records")?;
        let origin = PatchOrigin { collection: COLLECTION, slot: SLOT, generation: Generation(1), seq, at: 0 };
        let mut encoder = PatchEncoder::new(origin, 256 * 1024);
        for number in first..records.min(first + LOAD as u64) {
            encoder.upsert(&rows::key(number)?, &rows::fields(number));
        }
        for entry in encoder.finish() {
            index += 1;
            shard.apply(index, &entry)?;
        }
    }
    Ok(shard)
}

impl Contest {
    fn new(reader: ShardReader, records: u64) -> anyhow::Result<Self> {
        let mut bare = HashTable::new();
        let mut locked: Vec<_> = (0..LOCKS).map(|_| HashTable::new()).collect();
        let hash_of = |record: &RecordCopy| KeyHash::of(SEED, record.key()).0;
        for number in 0..records {
            let key = rows::key(number)?;
            let hash = KeyHash::of(SEED, key.as_bytes());
            let copy =
                || reader.get(COLLECTION, hash, key.as_bytes(), |view| view.copy()).context("a record is missing");
            bare.insert_unique(hash.0, copy()?, hash_of);
            locked[lock_of(hash)].insert_unique(hash.0, copy()?, hash_of);
        }
        let locked = locked.into_iter().map(RwLock::new).collect();
        Ok(Self { reader, bare, locked, names: rows::dictionary() })
    }

    /// Keys of records for one window, with their hashes, so that all contestants begin with the same work.
    fn pick(&self, random: &mut Random, options: &Options) -> anyhow::Result<Vec<(KeyHash, Vec<u8>)>> {
        let key = |_| {
            let key = rows::key(random.below(options.records))?;
            Ok((KeyHash::of(SEED, key.as_bytes()), key.as_bytes().to_vec()))
        };
        (0..options.reads).map(key).collect()
    }

    fn one_by_one(&self, keys: &[(KeyHash, &[u8])]) {
        let mut out = Vec::with_capacity(1024);
        for (hash, key) in keys {
            out.clear();
            self.reader.get(COLLECTION, *hash, key, |view| view.write_json(&self.names, None, &mut out));
            black_box(&out);
        }
    }

    fn in_batches(&self, keys: &[(KeyHash, &[u8])]) {
        let mut out = Vec::with_capacity(1024);
        for batch in keys.chunks(BATCH) {
            self.reader.get_many(COLLECTION, batch, |_, view| {
                out.clear();
                if let Some(view) = view {
                    view.write_json(&self.names, None, &mut out);
                }
                black_box(&out);
            });
        }
    }

    fn bare(&self, keys: &[(KeyHash, &[u8])]) {
        let mut out = Vec::with_capacity(1024);
        for (hash, key) in keys {
            out.clear();
            if let Some(record) = self.bare.find(hash.0, |record| record.key() == *key) {
                record.view().write_json(&self.names, None, &mut out);
            }
            black_box(&out);
        }
    }

    fn locked(&self, keys: &[(KeyHash, &[u8])]) {
        let mut out = Vec::with_capacity(1024);
        for (hash, key) in keys {
            out.clear();
            let table = self.locked[lock_of(*hash)].read().unwrap_or_else(PoisonError::into_inner);
            if let Some(record) = table.find(hash.0, |record| record.key() == *key) {
                record.view().write_json(&self.names, None, &mut out);
            }
            black_box(&out);
        }
    }

    /// Encodes one record again and again: it stays in the cache.
    fn encode(&self, times: &mut Times, number: u64, count: usize) -> anyhow::Result<()> {
        let copy = self.copy(number)?;
        let few: FieldSet = [1, 6, 8].map(FieldId).into_iter().collect();
        let customer = rows::customer(number);
        let mut out = Vec::with_capacity(1024);
        let mut view = |only: Option<&FieldSet>| {
            timed(count, || {
                for _ in 0..count {
                    out.clear();
                    copy.view().write_json(&self.names, only, &mut out);
                    black_box(&out);
                }
            })
        };
        times.add(0, view(None));
        times.add(1, view(Some(&few)));
        let mut failed = None;
        let nanos = timed(count, || {
            for _ in 0..count {
                out.clear();
                failed = serde_json::to_writer(&mut out, &customer).err();
                black_box(&out);
            }
        });
        times.add(2, nanos);
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn copy(&self, number: u64) -> anyhow::Result<RecordCopy> {
        let key = rows::key(number)?;
        let hash = KeyHash::of(SEED, key.as_bytes());
        self.reader.get(COLLECTION, hash, key.as_bytes(), |view| view.copy()).context("a record is missing")
    }

    fn json_bytes(&self) -> anyhow::Result<f64> {
        let mut out = Vec::new();
        for number in 0..100 {
            self.copy(number)?.view().write_json(&self.names, None, &mut out);
        }
        Ok(per(out.len() as u64, 100))
    }
}

fn lock_of(hash: KeyHash) -> usize {
    usize::try_from(hash.0 >> 32).unwrap_or_default() % LOCKS
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn per(bytes: u64, records: u64) -> f64 {
    bytes as f64 / records as f64
}

/// Processor time of this thread for each of `count` pieces of work, in nanoseconds.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn timed(count: usize, work: impl FnOnce()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let before = now();
    work();
    (now() - before) / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_contestants_answer_and_the_report_names_them() {
        let options = Options { records: 300, windows: 2, reads: 50, json: false };
        let report = measure(&options).unwrap();
        assert!((250.0..350.0).contains(&report.json_bytes), "{}", report.json_bytes);
        assert!((80.0..400.0).contains(&report.record_bytes), "{}", report.record_bytes);
        let text = report.to_string();
        for name in ["larder, batches of 16", "bare hashbrown", "64 x RwLock<hashbrown>", "serde_json on a struct"] {
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn contestants_hold_the_same_rows() {
        let shard = load(100).unwrap();
        let contest = Contest::new(shard.reader(), 100).unwrap();
        let locked: usize = contest.locked.iter().map(|table| table.read().unwrap().len()).sum();
        assert_eq!((contest.bare.len(), locked), (100, 100));
        assert_eq!(shard.reader().stats(COLLECTION).records, 100);
    }
}
