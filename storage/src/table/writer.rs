//! The writer's side of a table. See [`super`] for the invariants.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_types::hash::KeyHash;

use super::directory::Directory;
use super::image::FrozenTable;
use super::page::{BUCKETS, MAX_DEPTH, PAGE_BYTES, Page, SLOTS, Slot};
use super::page_box::PageBox;

use super::word::{Word, bucket_of, entry_at, entry_of, tag_of};
use super::{Counters, Published, Root, Table};
use crate::arena::Arena;
use crate::arena::location::Location;
use crate::prefetch::{prefetch, prefetch_record};
use crate::record::clears::Clears;
use crate::record::row::key_of;

/// Entries at which a page is split: 85 % of its words.
const SPLIT_AT: usize = BUCKETS * SLOTS * 85 / 100;
/// Overflowing buckets that a page may have before it is worth rebuilding. A page filled for the first time has fewer
/// when it is split; more of them are left behind by deleted entries, and make lookups of absent keys long.
const MANY_OVERFLOWING: usize = BUCKETS / 2;
/// Overflowing buckets that must have come since a page was rebuilt before it is rebuilt again.
const REBUILD_STEP: usize = BUCKETS / 8;

/// The page for a key is full and cannot be split further: so many keys share the beginning of their hash.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The owner of a table.
pub(crate) struct TableWriter {
    shared: Arc<Table>,
    directory: Arc<Directory>,
    clears: Arc<Clears>,
    pages: Vec<OwnedPage>,
    /// For each entry of the directory the number of its page.
    numbers: Vec<u32>,
    /// How often the table was frozen.
    freezes: u64,
}

pub(super) struct OwnedPage {
    pub(super) page: Arc<PageBox>,
    /// Bits of the hash that the page's keys share.
    pub(super) depth: u32,
    /// These bits.
    prefix: usize,
    pub(super) used: usize,
    overflowing: usize,
    /// Of these, the ones that the page was built with.
    built_overflowing: usize,
    /// The table's freezes when the page was made: if there were more since, the page is shared with a frozen table.
    freezes: u64,
}

/// The place of a record in the table, valid until the next insertion.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// Where the record is.
    pub(crate) location: Location,
    number: u32,
    slot: Slot,
}

impl TableWriter {
    pub(crate) fn new(clears: Clears) -> Self {
        Self::of_pages(clears, vec![OwnedPage::new(Page::new(), 0, 0, 0)], vec![0], 0)
    }

    /// A table of these pages, with a directory of this depth that has them by these numbers.
    pub(super) fn of_pages(clears: Clears, pages: Vec<OwnedPage>, numbers: Vec<u32>, depth: u32) -> Self {
        let clears = Arc::new(clears);
        let entries = numbers.iter().map(|&number| pages[number as usize].page.as_ptr());
        let directory = Arc::new(Directory::new(depth, entries));
        let root = Published::new(Root { directory: directory.clone(), clears: clears.clone() });
        let shared = Arc::new(Table { root, counters: Counters::new() });
        let writer = Self { shared, directory, clears, pages, numbers, freezes: 0 };
        writer.count_bytes();
        writer
    }

    /// The readers' side.
    pub(crate) fn shared(&self) -> &Arc<Table> {
        &self.shared
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    pub(crate) fn clears(&self) -> &Clears {
        &self.clears
    }

    /// Finds a record by its key.
    pub(crate) fn find(&self, hash: KeyHash, key: &[u8], arena: &Arena) -> Option<Found> {
        let number = self.number(hash);
        self.page(number).page.find(bucket_of(hash), tag_of(hash), |slot, location| {
            (key_of(arena.record(location)) == key).then_some(Found { location, number, slot })
        })
    }

    /// Asks for the memory that finding a key needs first: its bucket.
    pub(crate) fn prefetch_bucket(&self, hash: KeyHash) {
        prefetch(self.page(self.number(hash)).page.address(bucket_of(hash)));
    }

    /// Asks for the memory that finding a key needs next: the record that its bucket hints at.
    pub(crate) fn prefetch_record(&self, hash: KeyHash, arena: &Arena) {
        if let Some(location) = self.page(self.number(hash)).page.hint(bucket_of(hash), tag_of(hash)) {
            prefetch_record(arena.directory().address(location));
        }
    }

    /// Finds the record at a location, if the table points there. `hash` is its key's.
    pub(crate) fn find_at(&self, hash: KeyHash, wanted: Location) -> Option<Found> {
        let number = self.number(hash);
        self.page(number).page.find(bucket_of(hash), tag_of(hash), |slot, location| {
            (location == wanted).then_some(Found { location, number, slot })
        })
    }

    /// Adds a record whose key the table does not hold. `hashes_of` gives the hashes of any records of the table, in the
    /// same order.
    pub(crate) fn insert(
        &mut self,
        hash: KeyHash,
        location: Location,
        hashes_of: impl Fn(&[Location]) -> Vec<KeyHash>,
    ) -> Result<(), Full> {
        // Each round makes the key's page deeper, so there are at most `MAX_DEPTH`.
        while self.page(self.number(hash)).must_split() {
            self.split(self.number(hash), &hashes_of);
        }
        let number = self.number(hash);
        if self.page(number).must_rebuild() {
            self.rebuild(number, &hashes_of);
        }
        let owned = self.writable(number);
        let spilled = owned.page.insert(bucket_of(hash), Word::new(tag_of(hash), location)).ok_or(Full)?;
        owned.used += 1;
        owned.overflowing += spilled;
        Ok(())
    }

    /// Points an entry to another version of its record.
    pub(crate) fn replace(&mut self, found: &Found, location: Location) {
        self.writable(found.number).page.replace(found.slot, location);
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, found: &Found) {
        let owned = self.writable(found.number);
        owned.page.remove(found.slot);
        owned.used -= 1;
    }

    /// All records.
    pub(crate) fn locations(&self) -> impl Iterator<Item = Location> + '_ {
        self.pages.iter().flat_map(|owned| owned.page.entries().map(|(_, location)| location))
    }

    /// The records whose hashes spread to something from `first` to `last`, and some of their neighbours.
    pub(crate) fn around(&self, first: u64, last: u64) -> Vec<Found> {
        let depth = self.directory.depth();
        let numbers = &self.numbers[entry_at(first, depth)..=entry_at(last, depth)];
        let mut found = Vec::new();
        // The entries of one page are neighbours.
        for number in numbers.chunk_by(|a, b| a == b).map(|same| same[0]) {
            let entries = self.page(number).page.entries();
            found.extend(entries.map(|(slot, location)| Found { location, number, slot }));
        }
        found
    }

    /// Makes other clears valid for all records at once.
    pub(crate) fn set_clears(&mut self, clears: Clears) {
        self.clears = Arc::new(clears);
        self.publish_root();
    }

    /// Replaces records and clears, all at once for readers. `rewrite` gives a record's new location, or `None` to
    /// keep it. Returns the locations that are not used any more.
    pub(crate) fn rewrite(
        &mut self,
        clears: Clears,
        mut rewrite: impl FnMut(Location) -> Option<Location>,
    ) -> Vec<Location> {
        let mut unused = Vec::new();
        let mut retired = Vec::with_capacity(self.pages.len());
        for owned in &mut self.pages {
            let page = owned.page.copy();
            for (slot, old) in owned.page.entries() {
                if let Some(new) = rewrite(old) {
                    page.replace(slot, new);
                    unused.push(old);
                }
            }
            retired.push(std::mem::replace(&mut owned.page, Arc::new(PageBox::new(page))));
            owned.freezes = self.freezes;
        }
        let pages = self.numbers.iter().map(|&number| self.pages[number as usize].page.as_ptr());
        self.directory = Arc::new(Directory::new(self.directory.depth(), pages));
        self.set_clears(clears);
        retire(retired);
        unused
    }

    /// Shares the pages of now.
    pub(crate) fn freeze(&mut self) -> FrozenTable {
        self.freezes += 1;
        FrozenTable { pages: self.pages_in_order().map(|owned| owned.page.clone()).collect() }
    }

    /// The pages in the order of the hashes that they are for.
    pub(super) fn pages_in_order(&self) -> impl Iterator<Item = &OwnedPage> {
        // The entries of one page are neighbours.
        self.numbers.chunk_by(|a, b| a == b).map(|same| self.page(same[0]))
    }

    pub(super) fn number(&self, hash: KeyHash) -> u32 {
        self.numbers[entry_of(hash, self.directory.depth())]
    }

    pub(super) fn page(&self, number: u32) -> &OwnedPage {
        &self.pages[number as usize]
    }

    /// The page, after copying it if a frozen table shares it.
    fn writable(&mut self, number: u32) -> &mut OwnedPage {
        let owned = self.page(number);
        if owned.freezes != self.freezes {
            let copy = OwnedPage { page: Arc::new(PageBox::new(owned.page.copy())), freezes: self.freezes, ..*owned };
            self.publish(number, copy);
        }
        &mut self.pages[number as usize]
    }

    /// Puts a page in the place of another with the same or fewer keys.
    fn publish(&mut self, number: u32, page: OwnedPage) {
        self.directory.publish(page.entries(self.directory.depth()), page.page.as_ptr());
        let old = std::mem::replace(&mut self.pages[number as usize], page);
        retire(vec![old.page]);
    }

    /// Replaces a page by one without traces of deleted entries.
    fn rebuild(&mut self, number: u32, hashes_of: &impl Fn(&[Location]) -> Vec<KeyHash>) {
        let old = self.page(number);
        let mut new = OwnedPage::new(Page::new(), old.depth, old.prefix, self.freezes);
        old.hashed(hashes_of).for_each(|(location, hash)| new.fill(hash, location));
        new.built_overflowing = new.overflowing;
        self.publish(number, new);
    }

    /// Replaces a page by two, each with the keys of one half of its part of the hash space.
    fn split(&mut self, number: u32, hashes_of: &impl Fn(&[Location]) -> Vec<KeyHash>) {
        if self.page(number).depth == self.directory.depth() {
            self.deepen();
        }
        let old = self.page(number);
        let depth = old.depth + 1;
        let mut halves = [0, 1].map(|half| OwnedPage::new(Page::new(), depth, old.prefix << 1 | half, self.freezes));
        for (location, hash) in old.hashed(hashes_of) {
            halves[entry_of(hash, depth) & 1].fill(hash, location);
        }
        let [low, high] = halves;
        // The old page stays reachable by way of the entries of the half that is published last.
        let entries = high.entries(self.directory.depth());
        self.directory.publish(entries.clone(), high.page.as_ptr());
        self.numbers[entries].fill(u32::try_from(self.pages.len()).unwrap_or(u32::MAX));
        self.pages.push(high);
        self.publish(number, low);
        self.count_bytes();
    }

    /// Doubles the directory.
    fn deepen(&mut self) {
        self.numbers = self.numbers.iter().flat_map(|&number| [number, number]).collect();
        let pages = self.numbers.iter().map(|&number| self.pages[number as usize].page.as_ptr());
        self.directory = Arc::new(Directory::new(self.directory.depth() + 1, pages));
        self.publish_root();
    }

    fn publish_root(&self) {
        self.shared.root.replace(Root { directory: self.directory.clone(), clears: self.clears.clone() });
    }

    fn count_bytes(&self) {
        let bytes = self.pages.len() * PAGE_BYTES + self.numbers.len() * size_of::<usize>();
        self.counters().table_bytes.store(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for TableWriter {
    fn drop(&mut self) {
        // Readers that were pinned before the table went out of reach may still be reading its pages.
        retire(self.pages.drain(..).map(|owned| owned.page).collect());
    }
}

impl OwnedPage {
    fn new(page: Page, depth: u32, prefix: usize, freezes: u64) -> Self {
        let page = Arc::new(PageBox::new(page));
        Self { page, depth, prefix, used: 0, overflowing: 0, built_overflowing: 0, freezes }
    }

    /// A page that was filled elsewhere. Whether it was built overflowing is not known, so it is rebuilt once if it is.
    pub(super) fn adopt(page: PageBox, depth: u32, prefix: usize) -> Self {
        let (used, overflowing) = (page.entries().count(), page.overflowing());
        Self { page: Arc::new(page), depth, prefix, used, overflowing, built_overflowing: 0, freezes: 0 }
    }

    /// The entries of a directory of this depth that belong to the page.
    fn entries(&self, directory_depth: u32) -> std::ops::Range<usize> {
        let shift = directory_depth - self.depth;
        self.prefix << shift..(self.prefix + 1) << shift
    }

    /// Adds an entry to a page that is not published yet and holds fewer than it was made for.
    fn fill(&mut self, hash: KeyHash, location: Location) {
        let spilled = self.page.insert(bucket_of(hash), Word::new(tag_of(hash), location));
        assert!(spilled.is_some(), "the entries of one page fit another");
        self.used += 1;
        self.overflowing += spilled.unwrap_or(0);
    }

    /// The page's records with their hashes.
    fn hashed(&self, hashes_of: &impl Fn(&[Location]) -> Vec<KeyHash>) -> impl Iterator<Item = (Location, KeyHash)> {
        let locations: Vec<_> = self.page.entries().map(|(_, location)| location).collect();
        let hashes = hashes_of(&locations);
        locations.into_iter().zip(hashes)
    }

    fn must_split(&self) -> bool {
        self.used >= SPLIT_AT && self.depth < MAX_DEPTH
    }

    fn must_rebuild(&self) -> bool {
        self.overflowing > MANY_OVERFLOWING.max(self.built_overflowing + REBUILD_STEP)
    }
}

/// Lets go of pages that are out of reach for new readers.
fn retire(pages: Vec<Arc<PageBox>>) {
    let guard = crossbeam_epoch::pin();
    guard.defer(move || drop(pages));
    // Pages are large and retired rarely: do not leave them in this thread's bag until that is full.
    guard.flush();
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
