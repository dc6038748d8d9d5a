//! A page in a piece of huge memory.
//!
//! Invariant: from the beginning to the end of the box its piece holds a page.

#![allow(unsafe_code, reason = "a page is made in memory that does not come from the allocator")]

use std::ops::Deref;

use super::page::Page;
use crate::memory::{PIECE_BYTES, Piece};

const _: () = assert!(size_of::<Page>() <= PIECE_BYTES && PIECE_BYTES.is_multiple_of(align_of::<Page>()));

/// A page that does not move. Its memory goes back when dropped.
pub(crate) struct PageBox(Piece);

impl PageBox {
    pub(crate) fn new(page: Page) -> Self {
        let new = Self(Piece::new());
        // SAFETY: the piece is as large as a page at least and aligned to its own size, and nobody else has it.
        unsafe { new.address().write(page) };
        new
    }

    /// Where the page is.
    pub(crate) fn as_ptr(&self) -> *const Page {
        self.address()
    }

    fn address(&self) -> *mut Page {
        self.0.base().cast()
    }
}

impl Deref for PageBox {
    type Target = Page;

    fn deref(&self) -> &Page {
        // SAFETY: by the invariant a page is there, and it changes by way of its atomics only.
        unsafe { &*self.address() }
    }
}

impl Drop for PageBox {
    fn drop(&mut self) {
        // SAFETY: by the invariant a page is there; it is used no more.
        unsafe { self.address().drop_in_place() };
    }
}

#[cfg(test)]
#[cfg(not(any(loom, larder_sanitize)))]
mod tests {
    use super::super::word::Word;
    use super::*;
    use crate::arena::location::Location;

    #[test]
    fn a_new_page_is_empty_whatever_was_there_before() {
        let full = || {
            let page = PageBox::new(Page::new());
            (0..4096).for_each(|n| assert!(page.insert(n / 8, Word::new(7, Location::new(1, n * 8))).is_some()));
            page
        };
        let pages: Vec<_> = (0..40).map(|_| full()).collect();
        assert!(pages.iter().all(|page| page.entries().count() == 4096), "two pages overlap");
        let places: Vec<_> = pages.iter().map(PageBox::as_ptr).collect();
        drop(pages);
        let again: Vec<_> = (0..40).map(|_| PageBox::new(Page::new())).collect();
        assert!(again.iter().any(|page| places.contains(&page.as_ptr())), "no memory was used again");
        assert!(again.iter().all(|page| page.entries().next().is_none()));
    }
}
