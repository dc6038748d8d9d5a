//! Tables that grow, shrink and are frozen.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use larder_types::hash::KeyHash;
use larder_types::ids::CollectionId;

use super::super::page::MAX_DEPTH;
use super::*;
use crate::record::row::RowWriter;

const OWNER: CollectionId = CollectionId(1);

/// A table with its arena, and the version of each key as it should be.
struct Rig {
    arena: Arena,
    table: TableWriter,
    versions: BTreeMap<String, u64>,
    seed: u64,
}

impl Rig {
    fn new() -> Self {
        Self { arena: Arena::new(), table: TableWriter::new(Clears::default()), versions: BTreeMap::new(), seed: 5 }
    }

    fn put(&mut self, key: &str, version: u64) {
        let mut record = Vec::new();
        RowWriter::new(key.as_bytes(), version, &mut record).finish().unwrap();
        let location = self.arena.append(OWNER, &record);
        let hash = KeyHash::of(self.seed, key.as_bytes());
        match self.table.find(hash, key.as_bytes(), &self.arena) {
            Some(found) => {
                self.table.replace(&found, location);
                self.arena.release(found.location);
            }
            None => {
                let (arena, seed) = (&self.arena, self.seed);
                let hash_of = |at: &Location| KeyHash::of(seed, key_of(arena.record(*at)));
                self.table.insert(hash, location, |all| all.iter().map(hash_of).collect()).unwrap();
            }
        }
        self.versions.insert(key.into(), version);
    }

    fn delete(&mut self, key: &str) {
        let found = self.table.find(KeyHash::of(self.seed, key.as_bytes()), key.as_bytes(), &self.arena).unwrap();
        self.table.remove(&found);
        self.arena.release(found.location);
        self.versions.remove(key);
    }

    /// What a reader finds.
    fn read(&self, key: &str) -> Option<Vec<u8>> {
        let guard = crossbeam_epoch::pin();
        let root = self.table.shared().root(&guard);
        let hash = KeyHash::of(self.seed, key.as_bytes());
        root.find(hash, key.as_bytes(), self.arena.directory(), &guard).map(<[u8]>::to_vec)
    }

    fn check(&self) {
        for (key, version) in &self.versions {
            let record = self.read(key).unwrap_or_else(|| panic!("{key} was not found"));
            assert_eq!(crate::record::row::Row::of_checked(&record).version, *version, "{key}");
        }
        assert_eq!(self.table.locations().count(), self.versions.len());
        let used: usize = self.table.pages.iter().map(|owned| owned.used).sum();
        assert_eq!(used, self.versions.len());
        for owned in &self.table.pages {
            assert_eq!(owned.overflowing, owned.page.overflowing(), "overflowing buckets are counted");
        }
    }
}

fn key(number: u32) -> String {
    format!("key-{number}")
}

#[test]
fn every_key_is_found_while_pages_split() {
    let mut rig = Rig::new();
    for number in 0..12_000 {
        rig.put(&key(number), 1);
    }
    rig.check();
    assert!(rig.table.pages.len() >= 4, "{} pages", rig.table.pages.len());
    assert_eq!(rig.read("key-12000"), None);
    let bytes = rig.table.counters().table_bytes.load(Ordering::Relaxed);
    assert_eq!(bytes, rig.table.pages.len() as u64 * 32 * 1024 + rig.table.numbers.len() as u64 * 8);
    for number in (0..12_000).step_by(2) {
        rig.delete(&key(number));
    }
    rig.check();
    assert_eq!(rig.read("key-0"), None);
}

#[test]
fn a_page_filled_for_the_first_time_is_split_before_it_must_be_rebuilt() {
    let mut rig = Rig::new();
    for number in 0..u32::try_from(SPLIT_AT).unwrap() {
        rig.put(&key(number), 1);
        assert!(!rig.table.pages[0].must_rebuild());
    }
    assert_eq!(rig.table.pages.len(), 1);
    let fill = rig.table.pages[0].overflowing;
    assert!(fill < MANY_OVERFLOWING, "{fill} buckets overflow");
    rig.put("one more", 1);
    assert_eq!(rig.table.pages.len(), 2);
    rig.check();
}

#[test]
fn overflow_left_behind_by_deleted_keys_is_cleaned_up() {
    let mut rig = Rig::new();
    let live = 2600;
    for number in 0..live + 40_000 {
        rig.put(&key(number), 1);
        if number >= live {
            rig.delete(&key(number - live));
        }
        let owned = &rig.table.pages[0];
        let most = MANY_OVERFLOWING.max(owned.built_overflowing + REBUILD_STEP) + BUCKETS / 16;
        assert!(owned.overflowing <= most, "{} buckets overflow", owned.overflowing);
    }
    assert_eq!(rig.table.pages.len(), 1);
    rig.check();
}

#[test]
fn a_frozen_table_stays_as_it_was() {
    let mut rig = Rig::new();
    (0..3000).for_each(|number| rig.put(&key(number), 1));
    let (table, arena) = (rig.table.freeze(), rig.arena.freeze());
    let numbers = arena.numbers();
    let content = |table: &FrozenTable| {
        let mut images = Vec::new();
        table.pages().for_each(|page| page.write_image(|segment| numbers[segment as usize], &mut images));
        images
    };
    let before = content(&table);
    assert_eq!(table.pages().flat_map(Page::entries).count(), 3000);
    (0..6000).for_each(|number| rig.put(&key(number), 2));
    (0..1000).for_each(|number| rig.delete(&key(number)));
    rig.check();
    assert!(content(&table) == before);
}

#[test]
fn only_pages_that_are_touched_after_a_freeze_are_copied() {
    let mut rig = Rig::new();
    (0..12_000).for_each(|number| rig.put(&key(number), 1));
    let frozen = rig.table.freeze();
    rig.put(&key(0), 2);
    rig.put(&key(0), 3);
    let shared = rig.table.pages_in_order().zip(&frozen.pages).filter(|(owned, page)| Arc::ptr_eq(&owned.page, page));
    assert_eq!(shared.count(), rig.table.pages.len() - 1);
    rig.check();
}

#[test]
fn a_rewrite_changes_all_at_once() {
    let mut rig = Rig::new();
    (0..5000).for_each(|number| rig.put(&key(number), 1));
    let guard = crossbeam_epoch::pin();
    let shared = rig.table.shared().clone();
    let before = shared.root(&guard);
    let arena = &mut rig.arena;
    let unused = rig.table.rewrite(Clears::default().with(larder_types::ids::SyncSlot(1), vec![9]), |location| {
        let key = key_of(arena.record(location)).to_vec();
        let mut record = Vec::new();
        RowWriter::new(&key, 2, &mut record).finish().unwrap();
        key.ends_with(b"7").then(|| arena.append(OWNER, &record))
    });
    assert_eq!(unused.len(), 500);
    unused.into_iter().for_each(|location| rig.arena.release(location));
    for (key, version) in rig.versions.iter_mut().filter(|(key, _)| key.ends_with('7')) {
        let hash = KeyHash::of(5, key.as_bytes());
        let old = before.find(hash, key.as_bytes(), rig.arena.directory(), &guard).unwrap();
        assert_eq!(crate::record::row::Row::of_checked(old).version, 1, "readers of before see it as it was");
        *version = 2;
    }
    assert_eq!(before.clears(), &Clears::default());
    rig.check();
}

/// Keys whose hashes share all bits that could tell their pages apart.
#[test]
fn keys_that_cannot_be_told_apart_fill_one_page_and_are_then_refused() {
    let mut table = TableWriter::new(Clears::default());
    let hash = |number: u64| KeyHash(0x5555 << 36 | number << 13);
    let location = |number: u64| Location::new(1, usize::try_from(number).unwrap() * 8);
    let hashes_of = |all: &[Location]| all.iter().map(|at| hash(at.offset() as u64 / 8)).collect();
    let words = (BUCKETS * SLOTS) as u64;
    for number in 0..words {
        assert_eq!(table.insert(hash(number), location(number), hashes_of), Ok(()));
    }
    assert_eq!(table.insert(hash(words), location(words), hashes_of), Err(Full));
    assert_eq!(table.directory.depth(), MAX_DEPTH);
    assert_eq!(table.locations().count() as u64, words);
    // Other keys are none the worse for it.
    assert_eq!(table.insert(KeyHash(u64::MAX), location(words + 1), hashes_of), Ok(()));
}

#[test]
fn the_pages_of_a_table_that_is_gone_are_given_back() {
    let mut rig = Rig::new();
    (0..12_000).for_each(|number| rig.put(&key(number), 1));
    let pages: Vec<_> = rig.table.pages.iter().map(|owned| Arc::downgrade(&owned.page)).collect();
    let guard = crossbeam_epoch::pin();
    drop(rig);
    assert!(pages.iter().all(|page| page.strong_count() == 1), "a reader that came before may be reading them");
    drop(guard);
    let deadline = Instant::now() + Duration::from_secs(20);
    while pages.iter().any(|page| page.strong_count() > 0) {
        // Like a reader that comes and goes, and never retires anything.
        drop(crossbeam_epoch::pin());
        assert!(Instant::now() < deadline, "the pages are still held");
    }
}
