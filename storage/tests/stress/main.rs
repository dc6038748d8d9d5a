//! Readers and snapshots beside a writer that does everything: a program of its own, so that sanitizers can watch it.
//!
//! The writer applies random upserts, clears, deletes, sweeps and drops, which make pages split and segments be cleaned,
//! hands frozen shards to other threads and restores the shard from its own snapshots. The others check all that they
//! see: [`reader`] says what each kind of reader checks, [`history`] what there may be to see, [`content`] how a
//! record gives away what does not belong to it.
//!
//! It runs as an ordinary test with few steps, and by `.ci/sanitize` with more under ThreadSanitizer and
//! AddressSanitizer. ThreadSanitizer knows nothing of what goes on within the standard library, which was built without
//! it. Hence what is unusual here:
//! 1. no test harness, no channels and no contended locks: threads meet by being started and joined, and at atomics;
//! 2. the epoch's collector is made before the first thread is started: the shard's first entry pins it;
//! 3. some readers take no notice of the writer at all, because whatever they learned of its progress would order its
//!    writes before their reads, and a record that was published wrongly would look right.
//!
//! Usage: `stress [--steps N] [--seed N]`.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test without a harness")]

mod content;
mod history;
mod reader;
mod snapshot;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use larder_storage::shard::{Shard, ShardOptions};
use larder_types::ids::{CollectionId, ShardId};

use crate::history::History;
use crate::reader::Reader;
use crate::writer::Writer;

/// The name under which a test runner finds and starts this program.
const TEST: &str = "readers_see_what_was_written";
const OPTIONS: ShardOptions = ShardOptions { id: ShardId(0), hash_seed: 11 };
const COLLECTION: CollectionId = CollectionId(1);

/// Numbers that look random (xorshift), the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The number behind an option, if it is given.
fn option(args: &[String], name: &str) -> Option<u64> {
    let at = args.iter().position(|arg| arg == name)?;
    let number = args.get(at + 1).and_then(|text| text.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{name} needs a number")))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // What test runners ask: which tests there are, and which of them are ignored.
    if args.iter().any(|arg| arg == "--list") {
        if !args.iter().any(|arg| arg == "--ignored") {
            println!("{TEST}: test");
        }
        return;
    }
    let (steps, seed) = (option(&args, "--steps").unwrap_or(300), option(&args, "--seed").unwrap_or(1).max(1));
    println!("{steps} steps with seed {seed}");

    let history = Arc::new(History::new());
    let mut writer = Writer::new(Shard::new(OPTIONS), history.clone(), seed);
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<JoinHandle<u64>> = (0..3)
        .map(|number| {
            let history = (number > 0).then(|| history.clone());
            let (mut reader, done) = (Reader::new(writer.reader(), history, seed + number), done.clone());
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    reader.step();
                }
                reader.seen()
            })
        })
        .collect();
    for _ in 0..steps {
        writer.step();
    }
    done.store(true, Ordering::Relaxed);
    let snapshots = writer.finish();
    for reader in readers {
        let seen = reader.join().expect("a reader saw what it must not see");
        assert!(seen > 0, "a reader has found no record");
        println!("a reader has checked {seen} records");
    }
    println!("{snapshots} snapshots were as the shard had been");
}
