//! The diff against a map in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::join::{Absence, Change, Diff, DiffError, JoinOptions, join};
use super::snapshot::{Hashes, Header, Snapshot, SnapshotError, SnapshotWriter, damage};
use super::spill::Parts;
use super::*;
use crate::cancel::{Cancel, Why};

fn secret() -> HashSecret {
    HashSecret::from_bytes(std::array::from_fn(|at| u8::try_from(at * 37 % 251).unwrap()))
}

fn snapshot(dir: &Path, parts: u32, rows: &BTreeMap<String, RowHash>) -> Snapshot {
    let path = dir.join("snapshot-1");
    write_snapshot(&path, parts, rows);
    Snapshot::open(&path).unwrap()
}

fn write_snapshot(path: &Path, parts: u32, rows: &BTreeMap<String, RowHash>) {
    let parts = Parts::new(parts).unwrap();
    let header = Header {
        sync: "s".into(),
        collection: "c".into(),
        fingerprint: 7,
        secret: secret(),
        hashes: Hashes::Cells,
        parts,
    };
    let mut writer = SnapshotWriter::create(path, &header).unwrap();
    for part in 0..parts.get() {
        let of_part = rows.iter().filter(|(key, _)| parts.of(secret().key(key.as_bytes())) == part);
        writer.part(of_part.map(|(key, hash)| (key.as_str(), *hash))).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), rows.len() as u64);
}

fn intake(dir: &Path, parts: u32, budget: usize, rows: &[(String, Vec<u8>)]) -> Spilled {
    let mut intake = Intake::new(dir, Parts::new(parts).unwrap(), secret(), budget);
    for (number, (key, cells)) in rows.iter().enumerate() {
        intake.add(number as u64 + 1, &Key::new(key).unwrap(), cells).unwrap();
    }
    intake.finish()
}

fn changes(diff: &Diff) -> BTreeSet<(Change, String, Vec<u8>)> {
    let mut found = BTreeSet::new();
    let mut changes = diff.changes();
    while let Some(change) = changes.next().unwrap() {
        assert!(found.insert((change.change, change.key.to_owned(), change.cells.to_vec())), "sent twice");
    }
    found
}

/// What the diff must be, by the definition.
fn model(
    old: &BTreeMap<String, RowHash>,
    new: &[(String, Vec<u8>)],
    options: JoinOptions<'_>,
) -> BTreeSet<(Change, String, Vec<u8>)> {
    let mut expected = BTreeSet::new();
    for (key, cells) in new {
        if new.iter().filter(|(other, _)| other == key).count() > 1 {
            continue;
        }
        let change = match old.get(key) {
            None => Change::Added,
            Some(hash) if *hash == secret().row(cells) && !options.resend => Change::Unchanged,
            Some(_) => Change::Changed,
        };
        if change != Change::Unchanged || options.all {
            expected.insert((change, key.clone(), cells.clone()));
        }
    }
    if options.absence == Absence::Unknown {
        return expected;
    }
    let gone = old.keys().filter(|key| new.iter().all(|(other, _)| other != *key));
    expected.extend(gone.map(|key| (Change::Removed, key.clone(), Vec::new())));
    expected
}

fn rows() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let row = (0..60u16, proptest::collection::vec(0..3u8, 0..40));
    proptest::collection::vec(row.prop_map(|(key, cells)| (format!("k{key}"), cells)), 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_diff_is_what_the_definition_says(
        before in rows(),
        after in rows(),
        unknown in proptest::collection::vec(0..60u16, 0..5),
        parts in (0..5u32, 0..5u32),
        budget in prop_oneof![Just(0usize), Just(100), Just(1 << 20)],
        (resend, all, partial, shared) in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut old: BTreeMap<String, RowHash> =
            before.iter().map(|(key, cells)| (key.clone(), secret().row(cells))).collect();
        for key in unknown {
            old.entry(format!("k{key}")).and_modify(|hash| *hash = RowHash::UNKNOWN);
        }
        let snapshot = snapshot(dir.path(), 1 << parts.0, &old);
        let spilled = intake(dir.path(), 1 << parts.1, budget, &after);
        prop_assert!(spilled.is_on_disk() || budget > 0 || after.is_empty());
        prop_assert!(!spilled.is_on_disk() || budget < (1 << 20));
        let absence = if partial { Absence::Unknown } else { Absence::Removed };
        let never = Cancel::default();
        let options = JoinOptions { resend, all, absence, budget, cancel: &never };
        let rows = Arc::new(spilled);
        let _other = shared.then(|| Arc::clone(&rows));
        let diff = join(rows, Some(&snapshot), dir.path(), options).unwrap();
        let expected = model(&old, &after, options);
        prop_assert_eq!(changes(&diff), expected);
        let count = |change| model(&old, &after, JoinOptions { all: true, ..options }).iter().filter(|c| c.0 == change).count() as u64;
        prop_assert_eq!(diff.added, count(Change::Added));
        prop_assert_eq!(diff.changed, count(Change::Changed));
        prop_assert_eq!(diff.removed, count(Change::Removed));
        prop_assert_eq!(diff.unchanged, count(Change::Unchanged));
        prop_assert_eq!(diff.added + diff.changed + diff.unchanged + diff.duplicate_rows, after.len() as u64);
        prop_assert_eq!(diff.known, old.len() as u64);
    }
}

fn plain(cancel: &Cancel) -> JoinOptions<'_> {
    JoinOptions { resend: false, all: false, absence: Absence::Removed, budget: 1 << 20, cancel }
}

#[test]
fn a_cancelled_join_stops() {
    let dir = tempfile::tempdir().unwrap();
    let cancel = Cancel::default();
    cancel.cancel(Why::Asked);
    let result = join(Arc::new(intake(dir.path(), 4, 0, &[])), None, dir.path(), plain(&cancel));
    assert!(matches!(result, Err(DiffError::Cancelled)));
}

#[test]
fn duplicates_are_named_with_their_rows_and_do_not_count_as_removed() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<(String, Vec<u8>)> =
        ["a", "b", "a", "c", "a"].iter().map(|key| ((*key).to_owned(), key.as_bytes().to_vec())).collect();
    let old = snapshot(dir.path(), 1, &BTreeMap::from([("a".to_owned(), secret().row(b"a"))]));
    let diff =
        join(Arc::new(intake(dir.path(), 4, 0, &rows)), Some(&old), dir.path(), plain(&Cancel::default())).unwrap();
    assert_eq!((diff.added, diff.removed, diff.duplicate_rows), (2, 0, 3));
    assert_eq!(diff.duplicates, [join::Duplicate([1, 3])]);
}

#[test]
fn examples_of_duplicates_are_few_and_their_count_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<(String, Vec<u8>)> = (0..100).map(|n| (format!("k{}", n % 50), vec![])).collect();
    let diff =
        join(Arc::new(intake(dir.path(), 1, 1 << 20, &rows)), None, dir.path(), plain(&Cancel::default())).unwrap();
    assert_eq!((diff.duplicates.len(), diff.duplicate_rows), (join::MAX_EXAMPLES, 100));
}

#[test]
fn every_damaged_byte_of_a_state_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot-1");
    let rows: BTreeMap<String, RowHash> = (0..40).map(|n| (format!("k{n}"), secret().row(&[n]))).collect();
    write_snapshot(&path, 4, &rows);
    let size = std::fs::metadata(&path).unwrap().len();
    for at in 0..size {
        damage(&path, at);
        let result = Snapshot::open(&path).map_err(DiffError::from).and_then(|old| {
            join(Arc::new(intake(dir.path(), 2, 0, &[])), Some(&old), dir.path(), plain(&Cancel::default()))
        });
        assert!(matches!(result, Err(DiffError::Snapshot(_))), "byte {at} of {size}");
        damage(&path, at);
    }
    assert_eq!(Snapshot::open(&path).unwrap().rows(), 40);
}

#[test]
fn a_cut_state_file_and_a_newer_one_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot-1");
    write_snapshot(&path, 1, &BTreeMap::from([("a".to_owned(), secret().row(b"a"))]));
    let whole = std::fs::read(&path).unwrap();
    for len in 0..whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(Snapshot::open(&path).is_err(), "{len} bytes of {}", whole.len());
    }
    let mut newer = whole.clone();
    newer[8] = 9;
    std::fs::write(&path, newer).unwrap();
    assert!(matches!(Snapshot::open(&path), Err(SnapshotError::Version { found: 9, .. })));
}

#[test]
fn parts_follow_the_size() {
    assert_eq!(Parts::for_rows(0).get(), 256);
    assert_eq!(Parts::for_rows(100_000_000).get(), 1024);
    assert_eq!(Parts::for_rows(u64::MAX / 4).get(), 4096);
    assert_eq!(Parts::ONE.of(u64::MAX), 0);
    assert_eq!(Parts::new(4).unwrap().of(u64::MAX), 3);
    assert!(Parts::new(3).is_none() && Parts::new(0).is_none() && Parts::new(8192).is_none());
}
