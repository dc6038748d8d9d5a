//! What each call does when nothing goes wrong.

use super::*;

#[test]
fn a_new_log_is_empty() {
    let log = open(&FakeDisk::new());
    let group = log.group(GroupId(3));
    assert_eq!(group.state(), GroupState::default());
    assert!(all(&group).is_empty());
    assert_eq!((log.bytes(), group.bytes()), (MIN_SEGMENT_BYTES, 0));
    assert!(log.has_room());
    assert!(log.pinning(0).is_empty(), "the segment being written cannot be given up");
}

#[test]
fn entries_are_there_after_reopening() {
    let disk = FakeDisk::new();
    let entries: Vec<LogEntry> = (0..40).map(|index| entry(index, 1 + index / 10, 900)).collect();
    let log = open(&disk);
    for part in entries.chunks(7) {
        append(&log.group(GroupId(1)), part.to_vec()).unwrap();
    }
    vote(&log.group(GroupId(2)), 9).unwrap();
    log.group(GroupId(1)).save_committed(Some(id(30, 4))).unwrap();
    assert_eq!(all(&log.group(GroupId(1))), entries);
    assert!(log.bytes() > 2 * MIN_SEGMENT_BYTES);
    log.close();

    let log = open(&disk);
    assert_eq!(all(&log.group(GroupId(1))), entries);
    let state = GroupState { committed: Some(id(30, 4)), last: Some(id(39, 4)), ..GroupState::default() };
    assert_eq!(log.group(GroupId(1)).state(), state);
    assert_eq!(log.group(GroupId(2)).state().vote.unwrap().term, 9);
    assert_eq!(log.group(GroupId(1)).id_at(15), Some(id(15, 2)));
    assert_eq!(log.group(GroupId(1)).id_at(40), None);
}

#[test]
fn entries_can_be_read_before_they_are_on_disk() {
    let log = open(&FakeDisk::new());
    let group = log.group(GroupId(1));
    let receipt = queue(&group, vec![entry(0, 1, 100)]);
    assert_eq!(all(&group), [entry(0, 1, 100)]);
    receipt.wait().unwrap();
}

#[test]
fn reading_gives_what_fits_but_at_least_one() {
    let log = open(&FakeDisk::new());
    let group = log.group(GroupId(1));
    append(&group, (0..10).map(|index| entry(index, 1, 1000)).collect()).unwrap();
    let count = |range, max_bytes| group.read(range, max_bytes).unwrap().len();
    assert_eq!(count(2..9, 1), 1);
    assert_eq!(count(2..9, 2999), 2);
    assert_eq!(count(2..9, 3000), 3);
    assert_eq!(count(2..9, u64::MAX), 7);
    assert_eq!(count(8..20, u64::MAX), 2);
    assert_eq!(count(10..20, u64::MAX), 0);
    assert_eq!(count(5..5, u64::MAX), 0);
}

#[test]
fn truncation_replaces_entries() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    let group = log.group(GroupId(1));
    append(&group, (0..10).map(|index| entry(index, 1, 500)).collect()).unwrap();
    group.truncate_after(Some(4)).unwrap();
    assert_eq!(group.state().last, Some(id(4, 1)));
    append(&group, (5..8).map(|index| entry(index, 2, 300)).collect()).unwrap();
    let expected = all(&group);
    assert_eq!(expected.iter().map(|entry| entry.id.term).collect::<Vec<_>>(), [1, 1, 1, 1, 1, 2, 2, 2]);
    drop((log, group));
    let log = open(&disk);
    assert_eq!(all(&log.group(GroupId(1))), expected);
    log.group(GroupId(1)).truncate_after(None).unwrap();
    log.close();
    assert_eq!(open(&disk).group(GroupId(1)).state(), GroupState::default());
}

#[test]
fn a_purge_beyond_the_end_lets_the_log_go_on_from_there() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    let group = log.group(GroupId(1));
    append(&group, (0..3).map(|index| entry(index, 1, 10)).collect()).unwrap();
    group.purge(id(100, 7)).unwrap();
    let state = GroupState { purged: Some(id(100, 7)), last: Some(id(100, 7)), ..GroupState::default() };
    assert_eq!(group.state(), state);
    append(&group, vec![entry(101, 7, 20)]).unwrap();
    group.purge(id(50, 6)).unwrap();
    assert_eq!(group.state().purged, Some(id(100, 7)), "an older purge says nothing new");
    drop((log, group));
    let log = open(&disk);
    assert_eq!(log.group(GroupId(1)).state().purged, Some(id(100, 7)));
    assert_eq!(all(&log.group(GroupId(1))), [entry(101, 7, 20)]);
}

#[test]
fn segments_go_when_all_groups_have_purged_them_and_votes_stay() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    let (busy, idle) = (log.group(GroupId(1)), log.group(GroupId(2)));
    vote(&idle, 5).unwrap();
    append(&idle, vec![entry(0, 5, 10)]).unwrap();
    for index in 0..60 {
        append(&busy, vec![entry(index, 1, 1000)]).unwrap();
        busy.purge(id(index, 1)).unwrap();
    }
    assert_eq!(log.pinning(2 * MIN_SEGMENT_BYTES), [GroupId(2)]);
    assert!(log.pinning(log.bytes()).is_empty());
    idle.purge(id(0, 5)).unwrap();
    until("the segments go", || log.bytes() == MIN_SEGMENT_BYTES);
    log.close();
    let log = open(&disk);
    assert_eq!(log.group(GroupId(2)).state().vote.unwrap().term, 5);
    assert_eq!(log.group(GroupId(2)).state().last, Some(id(0, 5)));
    assert_eq!(log.group(GroupId(1)).state().last, Some(id(59, 1)));
    assert!(disk.used() <= 2 * MIN_SEGMENT_BYTES, "the log is one segment and a spare");
}

#[test]
fn a_segment_goes_only_when_the_purge_is_on_disk() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    let group = log.group(GroupId(1));
    for index in 0..60 {
        append(&group, vec![entry(index, 1, 1000)]).unwrap();
    }
    // Nobody waits for this, and nothing comes after it.
    group.purge(id(58, 1)).unwrap();
    until("the segments go", || log.bytes() == MIN_SEGMENT_BYTES);
    let log = open(&disk.power_cut(0));
    assert_eq!(log.group(GroupId(1)).state().purged, Some(id(58, 1)));
    assert_eq!(all(&log.group(GroupId(1))), [entry(59, 1, 1000)]);
}

#[test]
fn an_entry_that_is_purged_while_it_is_read_is_not_damage() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    let group = log.group(GroupId(1));
    for index in 0..8 {
        append(&group, vec![entry(index, 1, 1000)]).unwrap();
    }
    let find = || group.cell.state().find(0..1, 1).pop().unwrap();
    let (before, after) = (find(), find());
    assert!(matches!(after, Found::OnDisk { .. }));
    // As if the segment had become another, which can happen at any time once nobody needs it.
    disk.corrupt(&segment::path(Path::new(DIR), 1), segment::frames_start(0), 1);
    assert_eq!(group.fetch(before).unwrap_err().kind(), io::ErrorKind::InvalidData);
    group.purge(id(0, 1)).unwrap();
    assert_eq!(group.fetch(after).unwrap(), None);
}

#[test]
#[should_panic(expected = "appends entry 2 where 1 must follow")]
fn a_gap_is_a_programmer_error() {
    let log = open(&FakeDisk::new());
    append(&log.group(GroupId(1)), vec![entry(0, 1, 1), entry(2, 1, 1)]).unwrap_or_default();
}

#[test]
fn after_a_refused_gap_the_log_goes_on() {
    let log = open(&FakeDisk::new());
    let group = log.group(GroupId(1));
    let refused = group.clone();
    thread::spawn(move || append(&refused, vec![entry(1, 1, 1)])).join().unwrap_err();
    append(&group, vec![entry(0, 1, 1)]).unwrap();
    assert_eq!(all(&group).len(), 1);
}

#[test]
fn the_largest_entry_fits_and_one_byte_more_is_a_programmer_error() {
    let log = open(&FakeDisk::new());
    let group = log.group(GroupId(1));
    let most = (MIN_SEGMENT_BYTES / 4) as usize;
    append(&group, (0..5).map(|index| entry(index, 1, most)).collect()).unwrap();
    thread::spawn(move || append(&group, vec![entry(5, 1, most + 1)])).join().unwrap_err();
}

#[test]
fn after_closing_nothing_is_taken() {
    let log = open(&FakeDisk::new());
    let group = log.group(GroupId(1));
    append(&group, vec![entry(0, 1, 1)]).unwrap();
    log.close();
    log.close();
    assert!(append(&group, vec![entry(1, 1, 1)]).is_err());
    assert!(vote(&group, 1).is_err());
    assert!(group.truncate_after(None).is_err());
    assert!(group.purge(id(0, 1)).is_err());
    assert!(group.save_committed(None).is_err());
    assert_eq!(all(&group), [entry(0, 1, 1)], "what is there can still be read");
}

#[test]
fn a_log_has_one_owner_at_a_time() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    assert!(matches!(try_open(&disk), Err(LogError::Io(error)) if error.kind() == io::ErrorKind::ResourceBusy));
    drop(log);
    open(&disk);
}

#[test]
fn segment_sizes_outside_the_limits_are_refused() {
    for segment_bytes in [MIN_SEGMENT_BYTES - 1, MAX_SEGMENT_BYTES + 1] {
        let options = LogOptions { segment_bytes, cache_bytes: 0, ..LogOptions::default() };
        assert!(Log::open(Arc::new(FakeDisk::new()), Path::new(DIR), options, Box::new(|_| {})).is_err());
    }
}

#[test]
fn the_size_of_segments_can_change() {
    let disk = FakeDisk::new();
    let mut expected = Vec::new();
    for (round, segment_bytes) in [32 << 10, 16 << 10, 48 << 10].into_iter().enumerate() {
        let options = LogOptions { segment_bytes, cache_bytes: 0, ..LogOptions::default() };
        let log = Log::open(Arc::new(disk.clone()), Path::new(DIR), options, Box::new(|_| {})).unwrap();
        let group = log.group(GroupId(1));
        let from = round as u64 * 50;
        for index in from..from + 50 {
            expected.push(entry(index, 1, 1500));
            append(&group, vec![entry(index, 1, 1500)]).unwrap();
        }
        assert_eq!(all(&group), expected);
    }
}

#[test]
fn many_threads_share_one_log() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    thread::scope(|scope| {
        for number in 1..=4 {
            let group = log.group(GroupId(number));
            scope.spawn(move || {
                let receipts: Vec<Receipt> = (0..200).map(|index| queue(&group, vec![entry(index, 1, 50)])).collect();
                receipts.into_iter().for_each(|receipt| receipt.wait().unwrap());
            });
        }
    });
    drop(log);
    let log = open(&disk);
    for number in 1..=4 {
        assert_eq!(all(&log.group(GroupId(number))), (0..200).map(|index| entry(index, 1, 50)).collect::<Vec<_>>());
    }
}

#[test]
fn the_log_works_on_the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<LogEntry> = (0..30).map(|index| entry(index, 1, 2000)).collect();
    for reopened in [false, true] {
        let disk = Arc::new(crate::disk::RealDisk::open(dir.path()).unwrap());
        let log = Log::open(disk, Path::new(DIR), small(), Box::new(|_| {})).unwrap();
        if !reopened {
            append(&log.group(GroupId(1)), entries.clone()).unwrap();
        }
        assert_eq!(all(&log.group(GroupId(1))), entries);
    }
}

#[test]
fn what_the_log_holds_is_counted() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
    for index in 0..20 {
        append(&one, vec![entry(index, 1, 1000)]).unwrap();
    }
    append(&two, vec![entry(0, 1, 100), entry(1, 1, 100)]).unwrap();
    let usage = log.usage();
    assert_eq!((usage.entries, one.entries(), two.entries()), (22, 20, 2));
    assert!(usage.index_bytes >= 22 * 64, "{usage:?}");
    assert!(usage.segments > 1 && usage.segment_bytes == log.bytes(), "{usage:?}");
    assert!((1..=4096).contains(&usage.cached_bytes), "the cache keeps its bound: {usage:?}");
    assert!(usage.buffer_bytes > 0 && usage.written_bytes > 20_200, "{usage:?}");
    assert_eq!(usage.queued_bytes, 0, "all is written");
    assert_eq!((usage.callers.sum, usage.failed, usage.has_room), (21, false, true));
    assert!(usage.sync_micros.counts.iter().sum::<u64>() >= 21, "{usage:?}");
    let cached = log.usage().cached_bytes;
    one.purge(id(18, 1)).unwrap();
    assert_eq!(log.usage().entries, 3);
    until("what was purged is cached no more", || (1..cached - 1000).contains(&log.usage().cached_bytes));
    two.truncate_after(None).unwrap();
    one.purge(id(19, 1)).unwrap();
    until("nothing is cached", || log.usage().cached_bytes == 0);
    disk.fail(crate::disk::Operation::SyncData, 0, 1, io::ErrorKind::Other);
    append(&one, vec![entry(20, 1, 10)]).unwrap_err();
    assert!(log.usage().failed);
    until("nothing is queued", || log.usage().queued_bytes == 0);
}

#[test]
fn a_stepped_log_writes_when_it_is_told_to() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let (due, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let steps = {
        let due = Arc::clone(&due);
        LogSteps::new(Arc::new(move || {
            due.fetch_add(1, Ordering::SeqCst);
        }))
    };
    let disk = FakeDisk::new();
    let options = LogOptions { writer: LogWriter::Steps(steps.clone()), ..small() };
    let log = Log::open(Arc::new(disk.clone()), Path::new("log"), options, Box::new(|_| {})).unwrap();
    let group = log.group(GroupId(1));
    let done = Arc::clone(&told);
    let vote = Vote { term: 1, candidate: ReplicaId(1), committed: false };
    let tell = move |result: io::Result<()>| {
        done.fetch_add(usize::from(result.is_ok()), Ordering::SeqCst);
    };
    group.save_vote(vote, Box::new(tell));
    assert_eq!((due.load(Ordering::SeqCst), told.load(Ordering::SeqCst)), (1, 0));
    let vote_after = |disk: &FakeDisk| {
        let disk = Arc::new(disk.power_cut(0));
        Log::open(disk, Path::new("log"), small(), Box::new(|_| {})).unwrap().group(GroupId(1)).state().vote
    };
    assert_eq!(vote_after(&disk), None, "it is readable and not on disk");
    assert!(steps.step());
    assert_eq!((told.load(Ordering::SeqCst), vote_after(&disk)), (1, Some(vote)));
    log.close();
    assert!(!steps.step(), "a closed log ends");
    assert!(steps.has_ended());
}

#[test]
fn a_log_that_is_cut_tells_who_waits() {
    use std::sync::Arc;
    use std::sync::mpsc;

    let steps = LogSteps::new(Arc::new(|| {}));
    let options = LogOptions { writer: LogWriter::Steps(steps.clone()), ..small() };
    let log = Log::open(Arc::new(FakeDisk::new()), Path::new("log"), options, Box::new(|_| {})).unwrap();
    let (sender, told) = mpsc::channel();
    let vote = Vote { term: 1, candidate: ReplicaId(1), committed: false };
    log.group(GroupId(1)).save_vote(vote, Box::new(move |result| sender.send(result.is_err()).unwrap()));
    steps.cut();
    assert_eq!(told.try_recv(), Ok(true));
}
