//! Tests of snapshots: round trips, crashes at every operation, damage in every structure, and the format.

use super::*;
use crate::disk::FakeDisk;

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
    (0..3).map(|block| vec![(index + block) as u8; 3000 + 1500 * block as usize]).collect()
}

fn write(store: &SnapshotStore, index: u64) -> Result<(), SnapshotError> {
    store.write(GROUP, index, &index.to_le_bytes(), b"some words", &mut blocks(index).into_iter())
}

fn assert_is(snapshot: &Snapshot, index: u64) {
    assert_eq!(snapshot.index(), index);
    assert_eq!(snapshot.head(), index.to_le_bytes());
    assert_eq!(snapshot.meta(), b"some words");
    assert_eq!(snapshot.blocks().collect::<Vec<_>>(), blocks(index));
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
    store.write(GROUP, 0, b"", b"", &mut std::iter::empty()).unwrap();
    let snapshot = store.load(GROUP).unwrap().unwrap();
    assert_eq!((snapshot.head(), snapshot.meta(), snapshot.blocks().count()), (&b""[..], &b""[..], 0));
}

#[test]
fn blocks_of_the_greatest_length_fit() {
    let disk = FakeDisk::new();
    let store = store(&disk);
    let blocks = [vec![1; MAX_BLOCK_BYTES], vec![2; 1], vec![3; MAX_BLOCK_BYTES - 1]];
    store.write(GROUP, 1, b"", b"", &mut blocks.clone().into_iter()).unwrap();
    assert_eq!(store.load(GROUP).unwrap().unwrap().blocks().collect::<Vec<_>>(), blocks);
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
