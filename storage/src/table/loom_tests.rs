//! The table's protocol in all interleavings of a writer and a reader that matter, over the shipped pages and
//! directories with fewer words. See [`crate::sync`] for the command.
//!
//! The last tests plant a bug in the writer and expect the model to notice: they show that the others could fail.
//!
//! | invariant (of [`super`]) | held up by | planted bugs |
//! | --- | --- | --- |
//! | 1, one word | `update`, `moved`, `segment` | relaxed publish, location before its segment |
//! | 2, records never change | `update`, `moved` | early free |
//! | 3, entries stay, deletes keep the overflow bit | `reused_slot`, `spill`, `used_again` | an entry that moves, a forgotten bit |
//! | 4, spilling | `spill`, `used_again` | a forgotten bit |
//! | 5, whole pages | `split`, `copy`, `rebuilt`, `doubling` | split in place |
//! | 6, freeing | `moved`, `page_that_was_split` | early free, free before the word is replaced, page retired in reach |
//!
//! Pages are owned by the tests for as long as a model runs. When memory may be freed is the epoch's business, which has
//! models of its own; here a flag stands for it, so that the order of what the cleaner does can be checked. A root is
//! published through the epoch's pointer; here a plain one stands for it, with the same orderings.

use larder_types::hash::KeyHash;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};
use loom::thread;

use super::directory::Directory;
use super::page::{BUCKETS, Page, SLOTS, Slot};
use super::word::{Word, bucket_of, tag_of};
use crate::arena::location::Location;
use crate::arena::segment::{Segment, SegmentDirectory};

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
const D: u64 = 1 << 32;
/// A key of the same bucket in the second half of the hash space that a table sees.
const HIGH: u64 = 1 << 53;

/// What writer and reader share.
struct Shared {
    records: Records,
    directory: Directory,
    pages: Vec<Page>,
    /// Stands for the first page's memory: readers of the page read it, and freeing the page writes it.
    first_page: UnsafeCell<()>,
    /// Whether the reader is pinned.
    pinned: AtomicBool,
    /// The directory that readers begin with, once the writer has made another one.
    doubled: AtomicPtr<Directory>,
}

// SAFETY: loom checks the accesses, as for `Records`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

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
        let doubled = AtomicPtr::new(std::ptr::null_mut());
        let (first_page, pinned) = (UnsafeCell::new(()), AtomicBool::new(false));
        Arc::new(Self { records, directory, pages, first_page, pinned, doubled })
    }

    fn page(&self, key: u64) -> &Page {
        // SAFETY: the pages live as long as `self` and do not move.
        let page = unsafe { &*self.directory.page(KeyHash(key)) };
        if std::ptr::eq(page, &raw const self.pages[0]) {
            self.first_page.with(|_| ());
        }
        page
    }

    /// Frees the first page, if the reader is not pinned.
    fn free_first_page(&self) {
        fence(Ordering::SeqCst);
        // Who is not pinned by now cannot have the page, if it is out of reach.
        if !self.pinned.load(Ordering::Acquire) {
            self.first_page.with_mut(|_| ());
        }
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

#[test]
fn loom_a_slot_that_is_used_again_keeps_what_spilled() {
    check(
        || Shared::new(0, &[A, B, C], 0),
        |shared| {
            let page = &shared.pages[0];
            // The last slot of a bucket that overflows: emptied, filled and updated.
            page.remove(shared.slot(page, B));
            insert(page, D, shared.records.write(3, D, 1));
            page.replace(shared.slot(page, D), shared.records.write(4, D, 2));
        },
        |shared| {
            always_there(shared, C);
            assert!(matches!(shared.get(D), None | Some(1 | 2)));
        },
    );
}

#[test]
fn loom_a_rebuilt_page_has_what_spilled_where_it_belongs() {
    check(
        || Shared::new(0, &[A, B, C], 1),
        |shared| {
            // As in `TableWriter::rebuild`: what is left fits its bucket, and nothing overflows any more.
            let (old, new) = (&shared.pages[0], &shared.pages[1]);
            old.remove(shared.slot(old, A));
            old.entries().for_each(|(_, location)| insert(new, shared.records.read(location).key, location));
            shared.directory.publish(0..1, new);
            new.replace(shared.slot(new, C), shared.records.write(3, C, 2));
        },
        |shared| {
            always_there(shared, C);
            always_there(shared, B);
        },
    );
}

/// Two lookups through the directory that is the newest at each time.
fn always_there_in_the_newest(shared: &Shared, key: u64) {
    let versions = [(); 2].map(|()| {
        // SAFETY: a directory that was published lives as long as the model.
        let newest = unsafe { shared.doubled.load(Ordering::Acquire).as_ref() };
        // SAFETY: the pages live as long as `shared` and do not move.
        let page = unsafe { &*newest.unwrap_or(&shared.directory).page(KeyHash(key)) };
        shared.find(page, key).expect("the key is there").1.version
    });
    assert!(versions[0] <= versions[1], "versions {versions:?}");
}

#[test]
fn loom_doubling_the_directory_loses_no_key() {
    check(
        || Shared::new(0, &[A, HIGH], 2),
        |shared| {
            // As in `TableWriter::split` of a page that has no deeper entries yet.
            let doubled = Box::leak(Box::new(Directory::new(1, [&raw const shared.pages[0]; 2])));
            shared.doubled.store(doubled, Ordering::Release);
            let (low, high) = (&shared.pages[1], &shared.pages[2]);
            insert(low, A, Location::new(1, 0));
            insert(high, HIGH, Location::new(1, 8));
            doubled.publish(1..2, high);
            doubled.publish(0..1, low);
            high.replace(shared.slot(high, HIGH), shared.records.write(2, HIGH, 2));
        },
        |shared| {
            always_there_in_the_newest(shared, HIGH);
            always_there_in_the_newest(shared, A);
        },
    );
}

/// Splits the first page and frees it, while it is in reach or after it.
fn split_and_free(shared: &Shared, in_reach: bool) {
    let (low, high) = (&shared.pages[1], &shared.pages[2]);
    insert(low, A, Location::new(1, 0));
    insert(high, HIGH, Location::new(1, 8));
    shared.directory.publish(1..2, high);
    if in_reach {
        shared.free_first_page();
    }
    shared.directory.publish(0..1, low);
    if !in_reach {
        shared.free_first_page();
    }
}

#[test]
fn loom_a_page_that_was_split_stays_while_it_is_read() {
    check(|| Shared::new(1, &[A, HIGH], 2), |shared| split_and_free(shared, false), pinned_lookups);
}

/// Makes a record in another segment known, the segment first or last.
fn publish_segment(directory: &SegmentDirectory, page: &Page, segment_first: bool) {
    let segment = Segment::new(directory.held());
    if segment_first {
        directory.publish(9, &segment);
    }
    insert(page, A, Location::new(9, 0));
    if !segment_first {
        directory.publish(9, &segment);
    }
}

/// Finds the record's place beside the writer.
fn find_in_segment(segment_first: bool) {
    loom::model(move || {
        let shared = Arc::new((SegmentDirectory::default(), Page::new()));
        let other = shared.clone();
        let reading = thread::spawn(move || {
            let (directory, page) = &*other;
            // Asserts that the location's segment is known.
            page.find(bucket_of(KeyHash(A)), tag_of(KeyHash(A)), |_, location| Some(directory.address(location)));
        });
        publish_segment(&shared.0, &shared.1, segment_first);
        reading.join().unwrap();
    });
}

#[test]
fn loom_a_location_leads_to_its_segment() {
    find_in_segment(true);
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

#[test]
#[should_panic(expected = "the key is")]
fn loom_catches_an_entry_that_moves() {
    check(
        || Shared::new(0, &[A, B, C], 0),
        |shared| {
            // Back to the bucket where it belongs, the new word first.
            let page = &shared.pages[0];
            let spilled = shared.slot(page, C);
            page.remove(shared.slot(page, A));
            insert(page, C, Location::new(1, 16));
            page.remove(spilled);
        },
        |shared| always_there(shared, C),
    );
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_catches_a_page_that_is_retired_in_reach() {
    check(|| Shared::new(1, &[A, HIGH], 2), |shared| split_and_free(shared, true), pinned_lookups);
}

#[test]
#[should_panic(expected = "a location leads to a segment that was published")]
fn loom_catches_a_location_before_its_segment() {
    find_in_segment(false);
}
