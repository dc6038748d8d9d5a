//! The directory: which page holds the keys with a given beginning of their hash.
//!
//! Invariants (the numbers are those of [`super`]):
//! 5. A page is complete before an entry points to it, and the page that stood there before does not change any more.
//!    Each entry changes with one store.
//!
//! A directory does not own its pages. Who owns them retires a page only after no entry points to it.

use larder_types::hash::KeyHash;

use super::page::Page;
use super::word::entry_of;
use crate::sync::{AtomicPtr, Ordering};

/// 2^depth entries, each a pointer to a page; neighbours may share one.
pub(crate) struct Directory {
    depth: u32,
    entries: Box<[AtomicPtr<Page>]>,
}

impl Directory {
    /// A directory with these pages, 2^depth of them.
    pub(crate) fn new(depth: u32, pages: impl IntoIterator<Item = *const Page>) -> Self {
        let entries: Box<_> = pages.into_iter().map(|page| AtomicPtr::new(page.cast_mut())).collect();
        assert_eq!(entries.len(), 1 << depth, "a directory has a power of two of entries");
        Self { depth, entries }
    }

    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// The page for keys with this hash.
    pub(crate) fn page(&self, hash: KeyHash) -> *const Page {
        // Acquire pairs with the Release in `publish`: the page was filled before.
        self.entries[entry_of(hash, self.depth)].load(Ordering::Acquire)
    }

    /// Points entries to a page. For the writer.
    pub(crate) fn publish(&self, entries: std::ops::Range<usize>, page: *const Page) {
        for entry in &self.entries[entries] {
            // Release pairs with the Acquire in `page`.
            entry.store(page.cast_mut(), Ordering::Release);
        }
    }
}
