//! Damaged bytes: a torn tail is cut, anything else is refused by name and place.

use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::disk::DiskFile;

const GROUP: GroupId = GroupId(1);
/// Where the frames of a log's first segment start.
const START: u64 = segment::HEADER_BYTES as u64;

fn first() -> PathBuf {
    segment::path(Path::new(DIR), 1)
}

/// Writes entries, each synced by itself, and pulls the plug.
fn written(entries: &[LogEntry]) -> FakeDisk {
    let disk = FakeDisk::new();
    let log = open(&disk);
    for entry in entries {
        append(&log.group(GROUP), vec![entry.clone()]).unwrap();
    }
    disk.power_cut(0)
}

fn three() -> Vec<LogEntry> {
    (0..3).map(|index| entry(index, 3, 101)).collect()
}

fn file(disk: &FakeDisk) -> Box<dyn DiskFile> {
    disk.open(&first()).unwrap()
}

fn damage(disk: &FakeDisk) -> String {
    match try_open(disk) {
        Err(LogError::Damaged(text)) => text,
        Err(LogError::Io(error)) => panic!("{error}"),
        Ok(log) => panic!("opened with {:?}", log.group(GROUP).state()),
    }
}

/// Asserts that opening names this file and offset.
fn assert_damaged(disk: &FakeDisk, path: &Path, offset: u64) {
    let text = damage(disk);
    assert!(text.starts_with(&format!("{} at offset {offset}: ", path.display())), "{text}");
}

#[test]
fn a_tail_torn_at_any_byte_is_cut() {
    let disk = written(&three());
    let bytes = frame::frame_bytes(101);
    for kept in 0..bytes {
        // The frame's padding is zeros, so what is kept of it makes no difference.
        let whole = kept >= frame::HEADER_BYTES + 101;
        let disk = disk.after_kill();
        file(&disk).write_at(START + (2 * bytes + kept) as u64, &vec![0; bytes - kept]).unwrap();
        let log = open(&disk);
        assert_eq!(all(&log.group(GROUP)), three()[..2 + usize::from(whole)], "{kept} bytes kept");
        let next = log.group(GROUP).state().last.unwrap().index + 1;
        append(&log.group(GROUP), vec![entry(next, 4, 10)]).unwrap();
        drop(log);
        assert_eq!(open(&disk).group(GROUP).state().last, Some(id(next, 4)));
    }
}

#[test]
fn a_flipped_bit_in_any_byte_but_the_last_frames_is_damage() {
    let disk = written(&three());
    let bytes = frame::frame_bytes(101) as u64;
    for at in 0..2 * bytes {
        let disk = disk.after_kill();
        disk.corrupt(&first(), START + at, 1 << (at % 8));
        assert_damaged(&disk, &first(), START + at / bytes * bytes);
    }
}

#[test]
fn damage_to_the_last_frame_shows_after_a_clean_close() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    append(&log.group(GROUP), three()).unwrap();
    log.close();
    let bytes = frame::frame_bytes(101) as u64;
    for at in (2 * bytes..3 * bytes).step_by(7) {
        let disk = disk.after_kill();
        disk.corrupt(&first(), START + at, 0x80);
        assert_damaged(&disk, &first(), START + 2 * bytes);
    }
}

#[test]
fn a_lost_beginning_of_unsynced_frames_is_cut_although_later_ones_are_valid() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    append(&log.group(GROUP), vec![entry(0, 3, 101)]).unwrap();
    // One write: none of the frames says that another was on disk.
    append(&log.group(GROUP), (1..4).map(|index| entry(index, 3, 101)).collect()).unwrap();
    let bytes = frame::frame_bytes(101) as u64;
    let disk = disk.power_cut(0);
    file(&disk).write_at(START + bytes, &[0; 50]).unwrap();
    let log = open(&disk);
    assert_eq!(all(&log.group(GROUP)), [entry(0, 3, 101)]);

    // Entry 2 starts where the new entry 1 ends. It must not come back.
    append(&log.group(GROUP), vec![entry(1, 4, 101)]).unwrap();
    let disk = disk.power_cut(0);
    let log = open(&disk);
    assert_eq!(all(&log.group(GROUP)), [entry(0, 3, 101), entry(1, 4, 101)]);
}

#[test]
fn a_damaged_header_is_damage_at_any_byte() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    for index in 0..30 {
        append(&log.group(GROUP), vec![entry(index, 1, 1000)]).unwrap();
    }
    log.close();
    let second = segment::path(Path::new(DIR), 2);
    let end = segment::frames_start(1);
    for at in (0..100).chain((100..4090).step_by(97)).chain(4090..end) {
        for path in [first(), second.clone()] {
            if path == first() && at >= START {
                continue;
            }
            let disk = disk.after_kill();
            disk.corrupt(&path, at, 4);
            let text = damage(&disk);
            assert!(text.starts_with(&path.display().to_string()), "{at}: {text}");
        }
    }
}

#[test]
fn a_segment_that_is_missing_cut_or_another_is_damage() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    for index in 0..60 {
        append(&log.group(GROUP), vec![entry(index, 1, 1000)]).unwrap();
    }
    log.close();
    let path = |sequence| segment::path(Path::new(DIR), sequence);
    let names = disk.list(Path::new(DIR)).unwrap();
    assert!(names.iter().filter(|name| segment::sequence_of(name).is_some()).count() >= 4);

    let missing = disk.after_kill();
    missing.remove(&path(2)).unwrap();
    assert_damaged(&missing, &path(2), 0);

    let oldest_missing = disk.after_kill();
    oldest_missing.remove(&path(1)).unwrap();
    assert!(damage(&oldest_missing).contains("entries of group 1 from index 0 on are in no segment"));

    for (sequence, len) in [(2, MIN_SEGMENT_BYTES - 8), (2, 100), (2, 0), (4, MIN_SEGMENT_BYTES - 8)] {
        let cut = disk.after_kill();
        cut.open(&path(sequence)).unwrap().set_len(len).unwrap();
        assert!(damage(&cut).starts_with(&path(sequence).display().to_string()));
    }

    let swapped = disk.after_kill();
    swapped.rename(&path(2), &path(3)).unwrap();
    let bytes = disk.read(&path(3)).unwrap().to_vec();
    swapped.create(&path(2)).unwrap().write_at(0, &bytes).unwrap();
    assert_damaged(&swapped, &path(2), 16);
}

#[test]
fn frames_of_a_recycled_file_are_never_valid_again() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    let group = log.group(GROUP);
    for index in 0..80 {
        append(&group, vec![entry(index, 1, 1000)]).unwrap();
        group.purge(id(index, 1)).unwrap();
    }
    let sequence = log.inner.shared.segments.lock().unwrap().0.back().unwrap().sequence;
    assert!(sequence > 4);
    let disk = disk.after_kill();
    let bytes = disk.read(&segment::path(Path::new(DIR), sequence)).unwrap();
    let header = Header::decode(&bytes).unwrap();
    let mut old = 0;
    let mut new = 0;
    for at in (START..MIN_SEGMENT_BYTES).step_by(frame::ALIGNMENT) {
        let at = u32::try_from(at).unwrap();
        let valid = |salt: u32| frame::Frame::decode(&bytes[at as usize..], salt, at).is_some();
        new += usize::from(valid(header.salt));
        old += usize::from((2..5).any(|age| valid(header.salt.wrapping_sub(age))));
    }
    assert!(old > 0, "frames of an earlier life are still there");
    let log = open(&disk);
    let group = log.group(GROUP);
    assert_eq!(group.state().last, Some(id(79, 1)));
    let records = new - 1;
    assert!(records <= 2 * 80, "each valid frame is one of this life");
    assert!(all(&group).len() <= 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is written over a segment, opening says what it found and never more than was written.
    #[test]
    fn arbitrary_bytes_are_never_taken_for_entries(at in 0..MIN_SEGMENT_BYTES, bytes in vec(any::<u8>(), 1..600)) {
        let disk = written(&three());
        let fits = bytes.len().min(usize::try_from(MIN_SEGMENT_BYTES - at).unwrap());
        file(&disk).write_at(at, &bytes[..fits]).unwrap();
        if let Ok(log) = try_open(&disk) {
            let found = all(&log.group(GROUP));
            prop_assert_eq!(&found[..], &three()[..found.len()]);
        }
    }
}

#[test]
fn a_frame_in_the_wrong_place_is_not_valid() {
    let mut bytes = Vec::new();
    let id = id(1, 1);
    let frame = frame::Frame { group: GROUP, synced: 0, body: frame::Body::Purge(id) };
    frame.encode(77, 4096, &mut bytes);
    assert_eq!(frame::Frame::decode(&bytes, 77, 4096), Some((frame, 40)));
    assert_eq!(frame::Frame::decode(&bytes, 77, 4104), None);
    assert_eq!(frame::Frame::decode(&bytes, 78, 4096), None);
    assert_eq!(frame::Frame::decode(&bytes[..39], 77, 4096), None);
}

#[test]
fn a_damaged_entry_is_an_error_when_read_and_not_a_shorter_answer() {
    let disk = FakeDisk::new();
    let log = open(&disk);
    let group = log.group(GROUP);
    let entries: Vec<LogEntry> = (0..12).map(|index| entry(index, 1, 1000)).collect();
    for entry in &entries {
        append(&group, vec![entry.clone()]).unwrap();
    }
    assert_eq!(all(&group), entries, "most of them from disk");
    disk.corrupt(&first(), START + frame::HEADER_BYTES as u64, 1);
    assert_eq!(group.read(0..12, u64::MAX).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert_eq!(group.read(1..12, u64::MAX).unwrap(), entries[1..]);
}
