//! The page: 32 KiB of a table, read by many while one thread writes.
//!
//! Invariants (the numbers are those of [`super`]):
//! 1. One word is the whole truth of an entry: it is stored with Release after its record was written, and loaded with
//!    Acquire.
//! 3. An entry never moves within a page that readers can see. Deleting stores an empty word, which keeps the overflow
//!    bit.
//! 4. A full bucket spills to the next one. Its overflow bit is set only then, after the spilled entry stands, and stays
//!    set until the page is rebuilt.
//!
//! The overflow bit of a bucket stands in its last word, so a reader has seen all other words of the bucket when it
//! learns that it must go on. It goes on for one round at most: it never waits and never starts anew.

use super::word::Word;
use crate::arena::location::Location;
use crate::sync::{AtomicU64, Ordering};

/// Words in a bucket: as many as fit a cache line. Models are smaller, so that all interleavings can be tried.
pub(crate) const SLOTS: usize = if cfg!(loom) { 2 } else { 8 };
/// Buckets in a page.
pub(crate) const BUCKETS: usize = if cfg!(loom) { 2 } else { 512 };
/// Bits of a hash that may name a page. A table of so many pages holds 10^10 records.
pub(crate) const MAX_DEPTH: u32 = 22;
/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = 32 * 1024;

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64 && size_of::<Page>() == PAGE_BYTES);

/// Pages are told apart by address, so they are not `Clone`: see [`Page::copy`].
pub(crate) struct Page {
    buckets: [Bucket; BUCKETS],
}

#[repr(align(64))]
struct Bucket {
    words: [AtomicU64; SLOTS],
}

/// The place of a word in its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    bucket: usize,
    word: usize,
}

impl Page {
    /// An empty page.
    pub(crate) fn new() -> Self {
        Self::of_words(|_, _| Word(0))
    }

    /// A private page with the same words. For the writer.
    pub(crate) fn copy(&self) -> Self {
        Self::of_words(|bucket, word| self.load(Slot { bucket, word }))
    }

    /// A private page with these words. For the writer.
    pub(super) fn of_words(word: impl Fn(usize, usize) -> Word) -> Self {
        let bucket = |b| Bucket { words: std::array::from_fn(|w| AtomicU64::new(word(b, w).0)) };
        Self { buckets: std::array::from_fn(bucket) }
    }

    /// The word in a slot.
    pub(crate) fn load(&self, slot: Slot) -> Word {
        // Acquire pairs with the Release in `store`: what the word points to was written before it.
        Word(self.buckets[slot.bucket].words[slot.word].load(Ordering::Acquire))
    }

    /// Only one thread may store.
    fn store(&self, slot: Slot, word: Word) {
        // Release pairs with the Acquire in `load`.
        self.buckets[slot.bucket].words[slot.word].store(word.0, Ordering::Release);
    }

    /// A store that breaks invariant 1, for the tests that plant a bug.
    #[cfg(all(test, loom))]
    pub(crate) fn store_relaxed(&self, slot: Slot, word: Word) {
        self.buckets[slot.bucket].words[slot.word].store(word.0, Ordering::Relaxed);
    }

    /// Shows the locations of entries with this tag that a key of this bucket may have, until `visit` returns something.
    pub(crate) fn find<R>(
        &self,
        bucket: usize,
        tag: u16,
        mut visit: impl FnMut(Slot, Location) -> Option<R>,
    ) -> Option<R> {
        for step in 0..BUCKETS {
            let bucket = (bucket + step) % BUCKETS;
            let mut last = Word(0);
            for at in 0..SLOTS {
                let slot = Slot { bucket, word: at };
                last = self.load(slot);
                if let Some(location) = last.location().filter(|_| last.tag() == tag)
                    && let Some(found) = visit(slot, location)
                {
                    return Some(found);
                }
            }
            if !last.overflows() {
                return None;
            }
        }
        None
    }

    /// Where a bucket is.
    pub(crate) fn address(&self, bucket: usize) -> *const u8 {
        (&raw const self.buckets[bucket]).cast()
    }

    /// The first location in a bucket with this tag: most likely the one that is looked for.
    pub(crate) fn hint(&self, bucket: usize, tag: u16) -> Option<Location> {
        let words = (0..SLOTS).map(|word| self.load(Slot { bucket, word }));
        words.filter(|word| word.tag() == tag).find_map(Word::location)
    }

    /// Adds an entry that the page does not have yet, and tells how many buckets have begun to overflow for it; `None`
    /// if the page is full. For the writer.
    pub(crate) fn insert(&self, home: usize, word: Word) -> Option<usize> {
        let steps = 0..BUCKETS;
        let (steps, slot) = steps.into_iter().find_map(|step| Some((step, self.empty_in((home + step) % BUCKETS)?)))?;
        self.store(slot, word.with_overflow_of(self.load(slot)));
        let passed = (0..steps).map(|step| Slot { bucket: (home + step) % BUCKETS, word: SLOTS - 1 });
        let fresh = passed.filter(|slot| !self.load(*slot).overflows());
        Some(fresh.map(|slot| self.store(slot, self.load(slot).overflowing())).count())
    }

    fn empty_in(&self, bucket: usize) -> Option<Slot> {
        (0..SLOTS).map(|word| Slot { bucket, word }).find(|slot| self.load(*slot).location().is_none())
    }

    /// Points an entry to the next version of its record. For the writer.
    pub(crate) fn replace(&self, slot: Slot, location: Location) {
        let old = self.load(slot);
        self.store(slot, Word::new(old.tag(), location).with_overflow_of(old));
    }

    /// Removes an entry. For the writer.
    pub(crate) fn remove(&self, slot: Slot) {
        self.store(slot, self.load(slot).emptied());
    }

    /// All entries, in order of slot.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Slot, Location)> + '_ {
        Self::slots().filter_map(|slot| Some((slot, self.load(slot).location()?)))
    }

    /// All words in order.
    pub(super) fn words(&self) -> impl Iterator<Item = Word> + '_ {
        Self::slots().map(|slot| self.load(slot))
    }

    fn slots() -> impl Iterator<Item = Slot> {
        (0..BUCKETS).flat_map(|bucket| (0..SLOTS).map(move |word| Slot { bucket, word }))
    }

    /// The number of buckets that overflow.
    pub(crate) fn overflowing(&self) -> usize {
        (0..BUCKETS).filter(|&bucket| self.load(Slot { bucket, word: SLOTS - 1 }).overflows()).count()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn location(number: u32) -> Location {
        Location::new(1 + number / 1000, (number as usize % 1000) * 8)
    }

    fn found(page: &Page, bucket: usize, tag: u16) -> Vec<Location> {
        let mut all = Vec::new();
        page.find(bucket, tag, |_, location| {
            all.push(location);
            None::<()>
        });
        all
    }

    fn slot_of(page: &Page, bucket: usize, wanted: Location) -> Slot {
        page.find(bucket, 7, |slot, location| (location == wanted).then_some(slot)).unwrap()
    }

    #[test]
    fn a_full_bucket_spills_and_only_then_overflows() {
        let page = Page::new();
        for number in 0..8 {
            assert_eq!(page.insert(511, Word::new(7, location(number))), Some(0));
        }
        assert_eq!(page.overflowing(), 0);
        assert_eq!(page.insert(511, Word::new(7, location(8))), Some(1));
        assert_eq!(found(&page, 511, 7), (0..9).map(location).collect::<Vec<_>>());
        assert_eq!(found(&page, 0, 7), [location(8)], "the last bucket spills into the first");
        assert_eq!(page.insert(511, Word::new(7, location(9))), Some(0), "the bit was set already");
    }

    #[test]
    fn the_hint_is_the_first_entry_with_the_tag() {
        let page = Page::new();
        assert_eq!(page.hint(3, 0), None, "an empty word has no tag");
        for (number, tag) in [(0, 5), (1, 7), (2, 7)] {
            page.insert(3, Word::new(tag, location(number))).unwrap();
        }
        assert_eq!([5, 6, 7].map(|tag| page.hint(3, tag)), [Some(location(0)), None, Some(location(1))]);
    }

    #[test]
    fn deleting_keeps_the_overflow_bit_and_frees_the_slot() {
        let page = Page::new();
        for number in 0..9 {
            page.insert(3, Word::new(7, location(number))).unwrap();
        }
        for number in 0..8 {
            page.remove(slot_of(&page, 3, location(number)));
        }
        assert_eq!(found(&page, 3, 7), [location(8)], "the spilled entry must still be found");
        page.insert(3, Word::new(7, location(20))).unwrap();
        assert_eq!(found(&page, 3, 7), [location(20), location(8)]);
        assert_eq!(page.overflowing(), 1);
    }

    #[test]
    fn replacing_keeps_slot_tag_and_overflow_bit() {
        let page = Page::new();
        for number in 0..9 {
            page.insert(3, Word::new(7, location(number))).unwrap();
        }
        let last = slot_of(&page, 3, location(7));
        page.replace(last, location(30));
        assert_eq!(slot_of(&page, 3, location(30)), last);
        assert_eq!(found(&page, 3, 7).len(), 9);
    }

    #[test]
    fn a_page_takes_as_many_entries_as_it_has_words_and_no_more() {
        let page = Page::new();
        let all = u32::try_from(BUCKETS * SLOTS).unwrap();
        for number in 0..all - 8 {
            let home = 5 + number as usize / 8;
            assert_eq!(page.insert(home % BUCKETS, Word::new(7, location(number))), Some(0));
        }
        for number in all - 8..all {
            assert!(page.insert(5, Word::new(7, location(number))).is_some());
        }
        assert_eq!(page.insert(5, Word::new(7, location(all))), None);
        assert_eq!(found(&page, 5, 7).len(), BUCKETS * SLOTS);
        assert_eq!(found(&page, 5, 8), [], "a search ends after one round");
    }

    #[test]
    fn a_copy_is_equal_and_apart() {
        let page = Page::new();
        page.insert(1, Word::new(7, location(1))).unwrap();
        let copy = page.copy();
        assert_eq!(found(&copy, 1, 7), [location(1)]);
        copy.remove(slot_of(&copy, 1, location(1)));
        assert_eq!(found(&page, 1, 7), [location(1)]);
    }
}
