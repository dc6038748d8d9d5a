//! A disk that fails or is full.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::disk::Operation;

const GROUP: GroupId = GroupId(1);

/// A log, and how often it has reported its failure.
fn observed(disk: &FakeDisk) -> (Log, Arc<AtomicUsize>) {
    let failures = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&failures);
    let count = move |_: &io::Error| {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    (Log::open(Arc::new(disk.clone()), Path::new(DIR), small(), Box::new(count)).unwrap(), failures)
}

#[test]
fn the_first_failed_sync_stops_the_log_for_good() {
    let disk = FakeDisk::new();
    let (log, failures) = observed(&disk);
    let group = log.group(GROUP);
    append(&group, vec![entry(0, 1, 10)]).unwrap();
    disk.fail(Operation::SyncData, 0, 1, io::ErrorKind::Other);
    let receipts: Vec<Receipt> = (1..20).map(|index| queue(&group, vec![entry(index, 1, 10)])).collect();
    assert!(receipts.into_iter().all(|receipt| receipt.wait().is_err()), "no later sync may pretend");
    let operations = disk.operations();
    assert!(append(&group, vec![entry(20, 1, 10)]).is_err());
    assert!(vote(&log.group(GroupId(2)), 1).is_err());
    assert!(group.purge(id(0, 1)).is_err());
    assert_eq!(disk.operations(), operations, "nothing is tried again");
    assert_eq!(failures.load(Ordering::SeqCst), 1);
    assert_eq!(all(&group)[0], entry(0, 1, 10), "reads go on");
    log.close();
    assert_eq!(all(&open(&disk.power_cut(0)).group(GROUP)), [entry(0, 1, 10)]);
}

#[test]
fn what_only_the_page_cache_holds_is_written_again_when_found() {
    let disk = FakeDisk::new();
    let (log, _) = observed(&disk);
    append(&log.group(GROUP), vec![entry(0, 1, 10)]).unwrap();
    disk.fail(Operation::SyncData, 0, 1, io::ErrorKind::Other);
    append(&log.group(GROUP), vec![entry(1, 1, 10)]).unwrap_err();
    // The process starts again and sees the entry, although the kernel has given up writing it.
    let disk = disk.after_kill();
    let log = open(&disk);
    assert_eq!(all(&log.group(GROUP)).len(), 2);
    // Once it was seen it must stay.
    assert_eq!(all(&open(&disk.power_cut(0)).group(GROUP)).len(), 2);
}

#[test]
fn a_panic_in_a_callback_stops_the_log() {
    let disk = FakeDisk::new();
    let (log, failures) = observed(&disk);
    log.group(GROUP).append(vec![entry(0, 1, 10)], Box::new(|_| panic!("a bug")));
    until("the failure is reported", || failures.load(Ordering::SeqCst) == 1);
    assert!(append(&log.group(GROUP), vec![entry(1, 1, 10)]).is_err());
}

#[test]
fn a_full_disk_shows_before_it_hurts_and_passes() {
    let disk = FakeDisk::new();
    // A segment and a spare, and nothing for a third.
    disk.set_capacity(Some(2 * MIN_SEGMENT_BYTES + 100));
    let (log, failures) = observed(&disk);
    let group = log.group(GROUP);
    let mut written = 0;
    while log.has_room() {
        append(&group, vec![entry(written, 1, 500)]).unwrap();
        written += 1;
    }
    // What is under way and votes still have half a segment.
    let reserve = (0..(MIN_SEGMENT_BYTES - 4096) / 2 / 540 - 1).map(|at| entry(written + at, 1, 500));
    let reserve: Vec<LogEntry> = reserve.collect();
    written += reserve.len() as u64;
    append(&group, reserve).unwrap();
    vote(&group, 3).unwrap();
    assert!(!log.has_room());

    // A purge gives a segment back.
    group.purge(id(written - 1, 1)).unwrap();
    vote(&group, 4).unwrap();
    until("there is room again", || log.has_room());
    append(&group, vec![entry(written, 1, 500)]).unwrap();
    assert_eq!(failures.load(Ordering::SeqCst), 0);
}

#[test]
fn space_made_by_others_is_noticed() {
    let disk = FakeDisk::new();
    disk.set_capacity(Some(MIN_SEGMENT_BYTES));
    let (log, failures) = observed(&disk);
    assert!(!log.has_room());
    append(&log.group(GROUP), vec![entry(0, 1, 10)]).unwrap();
    disk.set_capacity(None);
    until("there is room again", || log.has_room());
    assert_eq!(failures.load(Ordering::SeqCst), 0);
}

#[test]
fn a_log_that_went_on_on_a_full_disk_fails_as_full_and_opens_again() {
    let disk = FakeDisk::new();
    disk.set_capacity(Some(2 * MIN_SEGMENT_BYTES));
    let (log, failures) = observed(&disk);
    let group = log.group(GROUP);
    let mut written = Vec::new();
    let error = loop {
        let entry = entry(written.len() as u64, 1, 500);
        match append(&group, vec![entry.clone()]) {
            Ok(()) => written.push(entry),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(failures.load(Ordering::SeqCst), 1);
    log.close();
    for disk in [disk.after_kill(), disk.power_cut(0), disk.power_cut(1)] {
        disk.set_capacity(Some(2 * MIN_SEGMENT_BYTES));
        let (log, _) = observed(&disk);
        let group = log.group(GROUP);
        assert_eq!(all(&group), written);
        assert!(!log.has_room());
        disk.set_capacity(None);
        until("there is room again", || log.has_room());
        append(&group, vec![entry(written.len() as u64, 1, 500)]).unwrap();
    }
}

#[test]
fn a_new_log_on_a_full_disk_is_an_error() {
    let disk = FakeDisk::new();
    disk.set_capacity(Some(MIN_SEGMENT_BYTES / 2));
    assert!(matches!(try_open(&disk), Err(LogError::Io(error)) if crate::disk::is_full(&error)));
    disk.set_capacity(None);
    append(&open(&disk).group(GROUP), vec![entry(0, 1, 1)]).unwrap();
}
