//! Tests of the log, by what they break: nothing (`model`), the process or the power (`crash`), bytes (`damage`), the
//! disk's promises (`faults`). `golden` pins the format.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::*;
use crate::disk::FakeDisk;

mod crash;
mod damage;
mod faults;
mod golden;
mod model;
mod operations;

const DIR: &str = "log";
const DEADLINE: Duration = Duration::from_secs(20);

/// The smallest segments, so that every test sees several.
fn small() -> LogOptions {
    LogOptions { segment_bytes: MIN_SEGMENT_BYTES, cache_bytes: 4096, ..LogOptions::default() }
}

fn open(disk: &FakeDisk) -> Log {
    try_open(disk).unwrap()
}

fn try_open(disk: &FakeDisk) -> Result<Log, LogError> {
    Log::open(Arc::new(disk.clone()), Path::new(DIR), small(), Box::new(|_| {}))
}

fn id(index: u64, term: u64) -> LogId {
    LogId { index, term, leader: ReplicaId(term % 3 + 1) }
}

/// An entry whose payload follows from its id and length, so that a mix-up shows.
fn entry(index: u64, term: u64, bytes: usize) -> LogEntry {
    let payload: Vec<u8> = (0..bytes).map(|at| (index * 31 + term * 7 + at as u64).to_le_bytes()[0]).collect();
    let kind = if bytes == 0 { EntryKind::Blank } else { EntryKind::Command };
    LogEntry { id: id(index, term), kind, payload: payload.into() }
}

/// What waits for the disk.
struct Receipt(mpsc::Receiver<io::Result<()>>);

impl Receipt {
    fn new() -> (Done, Self) {
        let (sender, receiver) = mpsc::channel();
        (Box::new(move |result| sender.send(result).unwrap_or_default()), Self(receiver))
    }

    fn wait(self) -> io::Result<()> {
        self.0.recv_timeout(DEADLINE).expect("the log answers in time")
    }
}

fn queue(group: &GroupLog, entries: Vec<LogEntry>) -> Receipt {
    let (done, receipt) = Receipt::new();
    group.append(entries, done);
    receipt
}

fn append(group: &GroupLog, entries: Vec<LogEntry>) -> io::Result<()> {
    queue(group, entries).wait()
}

fn vote(group: &GroupLog, term: u64) -> io::Result<()> {
    let (done, receipt) = Receipt::new();
    group.save_vote(Vote { term, candidate: ReplicaId(term % 3), committed: term.is_multiple_of(2) }, done);
    receipt.wait()
}

fn all(group: &GroupLog) -> Vec<LogEntry> {
    group.read(0..u64::MAX, u64::MAX).unwrap()
}

/// Waits until something is so.
fn until(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "{what}: not in time");
        thread::yield_now();
    }
}
