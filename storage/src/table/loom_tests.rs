//! The table's protocol in all interleavings of a writer and a reader that matter, over the shipped pages and
//! directories with fewer words. See [`crate::sync`] for the command.
//!
//! The last tests plant a bug in the writer and expect the model to notice: they show that the others could fail.
//!
//! Pages are owned by the tests for as long as a model runs. When memory may be freed is the epoch's business, which has
//! models of its own; here a flag stands for it, so that the order of what the cleaner does can be checked.

use larder_types::hash::KeyHash;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering, fence};
use loom::thread;

use super::directory::Directory;
use super::page::{BUCKETS, Page, SLOTS, Slot};
use super::word::{Word, bucket_of, tag_of};
use crate::arena::location::Location;

/// Stands for an arena: places that are written once and then read. Loom reports a read that a write does not happen
/// before.
struct Records([UnsafeCell<Record>; 8]);

/// A record: its key's hash stands for the key.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Record {
    key: u64,
    version: u64,
}

// SAFETY: loom checks the accesses, which is what these tests are for.
unsafe impl Sync for Records {}
// SAFETY: as above.
unsafe impl Send for Records {}

impl Records {
    fn write(&self, place: usize, key: u64, version: u64) -> Location {
        // SAFETY: loom checks that nobody reads or writes at the same time.
        self.0[place].with_mut(|cell| unsafe { *cell = Record { key, version } });
        Location::new(1, place * 8)
    }

    fn read(&self, location: Location) -> Record {
        // SAFETY: loom checks that nobody writes at the same time.
        self.0[location.offset() / 8].with(|cell| unsafe { *cell })
    }
}

/// Keys of one bucket with one tag, so that only the full key tells them apart. The top bits choose the page.
const A: u64 = 1 << 30;
const B: u64 = 1 << 31;
const C: u64 = 3 << 30;
/// A key of the same bucket in the second half of the hash space that a table sees.
const HIGH: u64 = 1 << 53;

/// What writer and reader share.
struct Shared {
    records: Records,
    directory: Directory,
    pages: Vec<Page>,
    /// Whether the reader is pinned.
    pinned: AtomicBool,
}

impl Shared {
    /// A directory of one page that holds these keys, each at version 1 in the place of its position, and `spare` empty
    /// pages for the writer.
    fn new(depth: u32, keys: &[u64], spare: usize) -> Arc<Self> {
        let records = Records(std::array::from_fn(|_| UnsafeCell::new(Record::default())));
        let pages: Vec<_> = (0..=spare).map(|_| Page::new()).collect();
        for (place, key) in keys.iter().enumerate() {
            let location = records.write(place, *key, 1);
            insert(&pages[0], *key, location);
        }
        let directory = Directory::new(depth, (0..1 << depth).map(|_| &raw const pages[0]));
        Arc::new(Self { records, directory, pages, pinned: AtomicBool::new(false) })
    }

    fn page(&self, key: u64) -> &Page {
        // SAFETY: the pages live as long as `self` and do not move.
        unsafe { &*self.directory.page(KeyHash(key)) }
    }

    /// The version of a key that a reader sees.
    fn get(&self, key: u64) -> Option<u64> {
        self.find(self.page(key), key).map(|(_, record)| record.version)
    }

    fn find(&self, page: &Page, key: u64) -> Option<(Slot, Record)> {
        page.find(bucket_of(KeyHash(key)), tag_of(KeyHash(key)), |slot, location| {
            let record = self.records.read(location);
            (record.key == key).then_some((slot, record))
        })
    }

    fn slot(&self, page: &Page, key: u64) -> Slot {
        self.find(page, key).unwrap().0
    }
}

fn insert(page: &Page, key: u64, location: Location) {
    page.insert(bucket_of(KeyHash(key)), Word::new(tag_of(KeyHash(key)), location)).unwrap();
}

/// Runs a writer beside a reader in all interleavings.
fn check(shared: impl Fn() -> Arc<Shared> + Sync + Send + 'static, writer: fn(&Shared), reader: fn(&Shared)) {
    loom::model(move || {
        let shared = shared();
        let other = shared.clone();
        let reading = thread::spawn(move || reader(&other));
        writer(&shared);
        reading.join().unwrap();
    });
}

/// Two lookups of a key that is always there: both find it, and the second never sees an older version.
fn always_there(shared: &Shared, key: u64) {
    let first = shared.get(key).expect("the key is there");
    let second = shared.get(key).expect("the key is still there");
    assert!(second >= first, "version {second} was seen after {first}");
}

#[test]
fn loom_the_model_is_small() {
    assert_eq!((BUCKETS, SLOTS), (2, 2));
    assert!([A, B, C, HIGH].iter().all(|key| bucket_of(KeyHash(*key)) == 0 && tag_of(KeyHash(*key)) == 0));
}

#[test]
fn loom_an_update_is_never_missed_or_torn() {
    check(
        || Shared::new(0, &[A, B], 0),
        |shared| {
            let page = &shared.pages[0];
            for (place, version) in [(2, 2), (3, 3)] {
                let location = shared.records.write(place, A, version);
                page.replace(shared.slot(page, A), location);
            }
        },
        |shared| always_there(shared, A),
    );
}

#[test]
fn loom_a_split_publishes_whole_pages() {
    check(
        || Shared::new(1, &[A, HIGH], 2),
        |shared| {
            // As in `TableWriter::split`, with an update of each half after it.
            let (low, high) = (&shared.pages[1], &shared.pages[2]);
            insert(low, A, Location::new(1, 0));
            insert(high, HIGH, Location::new(1, 8));
            shared.directory.publish(1..2, high);
            shared.directory.publish(0..1, low);
            high.replace(shared.slot(high, HIGH), shared.records.write(2, HIGH, 2));
            low.replace(shared.slot(low, A), shared.records.write(3, A, 2));
        },
        |shared| {
            always_there(shared, HIGH);
            always_there(shared, A);
        },
    );
}

#[test]
fn loom_a_copy_leaves_the_frozen_page_as_it_was() {
    check(
        || Shared::new(0, &[A, B], 1),
        |shared| {
            // As in `TableWriter::writable`. The copy is made in place of a spare page, word by word.
            let copy = &shared.pages[1];
            for (_, location) in shared.pages[0].entries() {
                insert(copy, shared.records.read(location).key, location);
            }
            shared.directory.publish(0..1, copy);
            copy.remove(shared.slot(copy, B));
            copy.replace(shared.slot(copy, A), shared.records.write(2, A, 2));
        },
        |shared| {
            always_there(shared, A);
            let frozen: Vec<_> = shared.pages[0].entries().map(|(_, location)| shared.records.read(location)).collect();
            assert_eq!(frozen, [Record { key: A, version: 1 }, Record { key: B, version: 1 }]);
        },
    );
}

#[test]
fn loom_a_spill_hides_no_key() {
    check(
        || Shared::new(0, &[A, B], 0),
        |shared| {
            let page = &shared.pages[0];
            insert(page, C, shared.records.write(2, C, 2));
            page.remove(shared.slot(page, A));
            page.replace(shared.slot(page, C), shared.records.write(3, C, 3));
        },
        |shared| {
            always_there(shared, B);
            if shared.get(C).is_some() {
                always_there(shared, C);
            }
        },
    );
}

#[test]
fn loom_a_reused_slot_never_shows_another_key() {
    check(
        || Shared::new(0, &[A, B], 0),
        |shared| {
            let page = &shared.pages[0];
            page.remove(shared.slot(page, A));
            insert(page, C, shared.records.write(2, C, 2));
            page.remove(shared.slot(page, C));
            insert(page, A, shared.records.write(3, A, 3));
        },
        |shared| {
            // A may be absent for a while, but what is found is A, and C's version is only ever C's.
            assert!(matches!(shared.get(A), None | Some(1 | 3)));
            assert!(matches!(shared.get(C), None | Some(2)));
        },
    );
}

/// Moves a record as the cleaner does: another copy, then the word.
fn relocate(shared: &Shared) {
    let page = &shared.pages[0];
    let location = shared.records.write(2, A, 1);
    page.replace(shared.slot(page, A), location);
}

/// Looks the key up twice, pinned.
fn pinned_lookups(shared: &Shared) {
    shared.pinned.store(true, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    always_there(shared, A);
    shared.pinned.store(false, Ordering::Release);
}

#[test]
fn loom_a_record_that_is_moved_is_found_here_or_there() {
    check(
        || Shared::new(0, &[A, B], 0),
        |shared| {
            relocate(shared);
            fence(Ordering::SeqCst);
            // Out of reach before it is asked who is pinned. Who is not by now cannot have the old place.
            if !shared.pinned.load(Ordering::Acquire) {
                shared.records.write(0, C, 9);
            }
        },
        pinned_lookups,
    );
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_catches_an_early_free() {
    check(
        || Shared::new(0, &[A, B], 0),
        |shared| {
            relocate(shared);
            shared.records.write(0, C, 9);
        },
        pinned_lookups,
    );
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_catches_a_free_before_the_word_is_replaced() {
    check(
        || Shared::new(0, &[A, B], 0),
        |shared| {
            let is_pinned = shared.pinned.load(Ordering::Acquire);
            fence(Ordering::SeqCst);
            relocate(shared);
            if !is_pinned {
                shared.records.write(0, C, 9);
            }
        },
        pinned_lookups,
    );
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_catches_a_relaxed_publish() {
    check(
        || Shared::new(0, &[A], 0),
        |shared| {
            let page = &shared.pages[0];
            let location = shared.records.write(1, A, 2);
            page.store_relaxed(shared.slot(page, A), Word::new(tag_of(KeyHash(A)), location));
        },
        |shared| always_there(shared, A),
    );
}

#[test]
#[should_panic(expected = "the key is")]
fn loom_catches_a_split_in_place() {
    check(
        || Shared::new(1, &[A, HIGH], 1),
        |shared| {
            let (low, high) = (&shared.pages[0], &shared.pages[1]);
            low.remove(shared.slot(low, HIGH));
            insert(high, HIGH, Location::new(1, 8));
            shared.directory.publish(1..2, high);
        },
        |shared| always_there(shared, HIGH),
    );
}

#[test]
#[should_panic(expected = "the key is")]
fn loom_catches_a_delete_that_forgets_the_overflow_bit() {
    check(
        || Shared::new(0, &[A, B, C], 0),
        |shared| {
            let page = &shared.pages[0];
            page.store_relaxed(shared.slot(page, B), Word(0));
        },
        |shared| always_there(shared, C),
    );
}
