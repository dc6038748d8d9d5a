//! Tests of snapshots: round trips, crashes at every operation, damage in every structure, and the format.

use super::*;
use crate::disk::{FakeDisk, Operation};

const DIR: &str = "snapshots";
const GROUP: GroupId = GroupId(7);

fn store(disk: &FakeDisk) -> SnapshotStore {
    try_store(disk).unwrap()
}

fn try_store(disk: &FakeDisk) -> Result<SnapshotStore, SnapshotError> {
    SnapshotStore::open(Arc::new(disk.clone()), Path::new(DIR))
}

/// Blocks whose content follows from the index.
fn blocks(index: u64) -> Vec<Vec<u8>> {
    let block = |number: u8| vec![index.to_le_bytes()[0] + number; 3000 + 1500 * usize::from(number)];
    (0..3).map(block).collect()
}

fn write(store: &SnapshotStore, index: u64) -> Result<(), SnapshotError> {
    store.write(GROUP, index, &index.to_le_bytes(), b"some words", blocks(index).into_iter().map(Cow::Owned))
}

fn assert_is(snapshot: &Snapshot, index: u64) {
    assert_eq!(snapshot.index(), index);
    assert_eq!(snapshot.head(), index.to_le_bytes());
    assert_eq!(snapshot.meta(), b"some words");
    assert_eq!(all_blocks(snapshot).unwrap(), blocks(index));
}

fn all_blocks(snapshot: &Snapshot) -> Result<Vec<&[u8]>, SnapshotError> {
    (0..snapshot.block_count()).map(|number| snapshot.block(number)).collect()
}

/// Reads all of the group's snapshot.
fn read_all(disk: &FakeDisk) -> Result<(), SnapshotError> {
    let snapshot = store(disk).load(GROUP)?.unwrap();
    all_blocks(&snapshot).map(|_| ())
}

#[test]
fn a_snapshot_is_read_as_it_was_written_and_replaces_older_ones() {
    let disk = FakeDisk::new();
    let store = store(&disk);
    assert!(store.load(GROUP).unwrap().is_none());
    write(&store, 10).unwrap();
    let old = store.load(GROUP).unwrap().unwrap();
    write(&store, 25).unwrap();
    assert_is(&old, 10);
    assert_is(&store.load(GROUP).unwrap().unwrap(), 25);
    assert_eq!(disk.list(Path::new(DIR)).unwrap(), ["00007-00000000000000000025.snapshot"]);
    assert!(store.load(GroupId(6)).unwrap().is_none());
}

#[test]
fn an_empty_snapshot_is_a_snapshot() {
    let disk = FakeDisk::new();
    let store = store(&disk);
    store.write(GROUP, 0, b"", b"", std::iter::empty()).unwrap();
    let snapshot = store.load(GROUP).unwrap().unwrap();
    assert_eq!((snapshot.head(), snapshot.meta(), snapshot.block_count()), (&b""[..], &b""[..], 0));
}

#[test]
fn blocks_of_the_greatest_length_fit() {
    let disk = FakeDisk::new();
    let store = store(&disk);
    let blocks = [vec![1; MAX_BLOCK_BYTES], vec![2; 1], vec![3; MAX_BLOCK_BYTES - 1]];
    store.write(GROUP, 1, b"", b"", blocks.iter().map(|block| Cow::Borrowed(&block[..]))).unwrap();
    assert_eq!(all_blocks(&store.load(GROUP).unwrap().unwrap()).unwrap(), blocks);
}

#[test]
fn snapshots_work_on_the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(crate::disk::RealDisk::open(dir.path()).unwrap());
    let store = SnapshotStore::open(disk.clone(), Path::new(DIR)).unwrap();
    write(&store, 10).unwrap();
    write(&store, 11).unwrap();
    let store = SnapshotStore::open(disk, Path::new(DIR)).unwrap();
    let snapshot = store.load(GROUP).unwrap().unwrap();
    write(&store, 12).unwrap();
    assert_is(&snapshot, 11);
}

#[test]
fn a_crash_at_any_operation_leaves_the_old_or_the_new_snapshot() {
    let mut newer = 0;
    for operations in 0.. {
        let disk = FakeDisk::new();
        write(&store(&disk), 10).unwrap();
        disk.crash_after(operations);
        let written = try_store(&disk).and_then(|store| write(&store, 11));
        for disk in (operations * 8..operations * 8 + 8).map(|seed| disk.power_cut(seed)).chain([disk.after_kill()]) {
            let store = store(&disk);
            let found = store.load(GROUP).unwrap().unwrap();
            assert!(found.index() == 11 || written.is_err(), "what was written is there");
            assert_is(&found, if found.index() == 11 { 11 } else { 10 });
            for seed in 0..8 {
                let again = try_store(&disk.power_cut(seed)).unwrap().load(GROUP).unwrap();
                assert_eq!(again.map(|snapshot| snapshot.index()), Some(found.index()), "what was found stays");
            }
            newer += found.index() - 10;
            assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), 1, "nothing else is left");
            write(&store, 12).unwrap();
            assert_is(&store.load(GROUP).unwrap().unwrap(), 12);
        }
        if !disk.has_crashed() {
            written.unwrap();
            break;
        }
    }
    assert!(newer > 9, "some crashes came late enough");
}

#[test]
fn an_error_of_any_operation_leaves_the_old_snapshot_and_can_be_overcome() {
    use Operation::{Create, Directory, Remove, Rename, SyncData, SyncDir, Write};
    for operation in [Create, Directory, Remove, Rename, SyncData, SyncDir, Write] {
        for after in 0..10 {
            let disk = FakeDisk::new();
            let store = store(&disk);
            write(&store, 10).unwrap();
            disk.fail(operation, after, 1, io::ErrorKind::Other);
            let written = write(&store, 11);
            // One error was ordered; it may come as late as here.
            let load = || store.load(GROUP).or_else(|_| store.load(GROUP)).unwrap().unwrap();
            assert!(load().index() == 11 || written.is_err());
            write(&store, 12).or_else(|_| write(&store, 12)).unwrap();
            assert_is(&load(), 12);
        }
    }
}

#[test]
fn a_full_disk_leaves_the_old_snapshot_and_gives_the_space_back() {
    let disk = FakeDisk::new();
    let store = store(&disk);
    write(&store, 10).unwrap();
    let used = disk.used();
    for free in (0..used).step_by(1000) {
        disk.set_capacity(Some(used + free));
        let error = write(&store, 11).unwrap_err();
        assert!(matches!(&error, SnapshotError::Io(error) if crate::disk::is_full(error)), "{error}");
        assert_eq!(disk.used(), used);
        assert_is(&store.load(GROUP).unwrap().unwrap(), 10);
    }
}

#[test]
fn a_flipped_bit_anywhere_is_damage() {
    let disk = FakeDisk::new();
    write(&store(&disk), 10).unwrap();
    let path = Path::new(DIR).join(name(GROUP, 10, EXTENSION));
    let length = disk.read(&path).unwrap().len() as u64;
    let footer = length - 3 * 8 - 48;
    for at in (0..200).chain((200..footer).step_by(61)).chain(footer..length) {
        let disk = disk.after_kill();
        disk.corrupt(&path, at, 1 << (at % 8));
        match read_all(&disk) {
            Err(SnapshotError::Damaged(text)) => {
                assert!(text.starts_with(&format!("{} at offset ", path.display())), "{text}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn a_snapshot_cut_or_extended_anywhere_is_damage() {
    let disk = FakeDisk::new();
    write(&store(&disk), 10).unwrap();
    let path = Path::new(DIR).join(name(GROUP, 10, EXTENSION));
    let length = disk.read(&path).unwrap().len() as u64;
    for len in (0..length).step_by(37).chain([length - 1, length + 1, length + 4096]) {
        let disk = disk.after_kill();
        disk.open(&path).unwrap().set_len(len).unwrap();
        assert!(matches!(read_all(&disk), Err(SnapshotError::Damaged(_))), "{len}");
    }
}

#[test]
fn another_groups_file_is_damage() {
    let disk = FakeDisk::new();
    let store = store(&disk);
    write(&store, 10).unwrap();
    disk.rename(&store.path(GROUP, 10), &store.path(GroupId(8), 10)).unwrap();
    assert!(matches!(store.load(GroupId(8)), Err(SnapshotError::Damaged(text)) if text.contains("another snapshot")));
}

#[test]
fn a_damaged_newest_snapshot_is_not_skipped() {
    let disk = FakeDisk::new();
    let store = store(&disk);
    write(&store, 11).unwrap();
    // An older one that a crash has left behind.
    let bytes = disk.read(&store.path(GROUP, 11)).unwrap();
    disk.create(&store.path(GROUP, 10)).unwrap().write_at(0, &bytes).unwrap();
    disk.corrupt(&store.path(GROUP, 11), 5000, 1);
    assert!(matches!(read_all(&disk), Err(SnapshotError::Damaged(_))));
}

#[test]
fn a_snapshot_of_another_version_says_what_to_do() {
    let disk = FakeDisk::new();
    write(&store(&disk), 10).unwrap();
    let path = Path::new(DIR).join(name(GROUP, 10, EXTENSION));
    let mut header = disk.read(&path).unwrap()[..64].to_vec();
    header[8..12].copy_from_slice(&1u32.to_le_bytes());
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    disk.open(&path).unwrap().write_at(0, &header).unwrap();
    let Err(SnapshotError::Version(text)) = store(&disk).load(GROUP) else { panic!("a former version was read") };
    let expected = format!(
        "{} is of format 1, and this program reads and writes format 2. Start this data directory with the version that \
         wrote it, or begin with an empty data directory and load the collections again.",
        path.display()
    );
    assert_eq!(text, expected);
}

#[test]
fn a_copy_is_the_same_file_and_a_damaged_one_replaces_nothing() {
    let (disk, other) = (FakeDisk::new(), FakeDisk::new());
    write(&store(&disk), 11).unwrap();
    write(&store(&other), 10).unwrap();
    let path = Path::new(DIR).join(name(GROUP, 11, EXTENSION));
    let length = disk.read(&path).unwrap().len() as u64;
    for block in [4096, 8192, 16384] {
        let disk = disk.after_kill();
        disk.corrupt(&path, block, 1);
        let damaged = store(&disk).load(GROUP).unwrap().unwrap();
        assert!(matches!(store(&other).copy(GROUP, &damaged), Err(SnapshotError::Damaged(_))));
        assert_is(&store(&other).load(GROUP).unwrap().unwrap(), 10);
        assert_eq!(other.used(), length, "nothing else is left");
    }
    store(&other).copy(GROUP, &store(&disk).load(GROUP).unwrap().unwrap()).unwrap();
    assert_eq!(*disk.read(&path).unwrap(), *other.read(&path).unwrap());
}

#[test]
fn opening_removes_what_was_left_behind_and_nothing_else() {
    let disk = FakeDisk::new();
    drop(store(&disk));
    let keep =
        ["00001-00000000000000000009.snapshot", "00002-00000000000000000001.snapshot", "1-2.snapshot", "notes.txt"];
    let leave = ["00001-00000000000000000008.snapshot", "00002-00000000000000000003.snapshot.partial"];
    for name in keep.iter().chain(&leave) {
        disk.create(&Path::new(DIR).join(name)).unwrap();
    }
    drop(store(&disk));
    assert_eq!(disk.list(Path::new(DIR)).unwrap(), keep);
}

#[test]
#[should_panic(expected = "a snapshot's block has 1048577 bytes")]
fn a_block_that_is_too_long_is_a_programmer_error() {
    let store = store(&FakeDisk::new());
    let blocks = std::iter::once(Cow::Owned(vec![0; MAX_BLOCK_BYTES + 1]));
    store.write(GROUP, 1, b"", b"", blocks).unwrap_or_default();
}

/// If this fails, snapshots written by earlier versions cannot be read: give the format a new version instead.
#[test]
fn the_bytes_of_a_snapshot_are_these() {
    let disk = FakeDisk::new();
    let (group, index) = (GroupId(0x0102), 0x11_2233_4455);
    let store = store(&disk);
    store.write(group, index, b"head", b"meta!", std::iter::once(Cow::Borrowed(&b"block"[..]))).unwrap();
    let bytes = disk.read(&store.path(group, index)).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        hex(&bytes[..64]),
        "4c41524452534e500200000002010000554433221100000004000000000000000500000000000000000000000000000000000000000000002acc6475975fa06d"
    );
    assert_eq!(&bytes[64..73], b"headmeta!");
    assert_eq!(&bytes[4096..4101], b"block");
    assert!(bytes[73..4096].iter().chain(&bytes[4101..8192]).all(|&byte| byte == 0));
    assert_eq!(
        hex(&bytes[8192..]),
        "05000000896f75e4010000000000000000200000000000003820000000000000e97ef331975fa06d0000000023e119aa4c41524452454e44"
    );
}
