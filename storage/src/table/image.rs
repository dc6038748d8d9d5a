//! A table's pages as bytes in a snapshot, and a table made from such bytes.
//!
//! The image of a page is its words in order, each little-endian. Their locations count segments from 1 as the snapshot
//! holds them, whatever ids these had in memory. The pages of a table stand in the order of the hashes that they are for.
//! Of each the depth is known beside it; which hashes it is for follows from the depths before.
//!
//! Invariants:
//! 1. What is read is what would be written: an empty word has no tag, no bucket overflows but by its last word, and the
//!    pages of a table cover all hashes once.
//! 2. Nothing is known of where the words lead. Whoever adopts pages must have found a record for each of their words
//!    before anybody else sees the table.

use std::sync::Arc;

use larder_types::hash::KeyHash;

use super::page::{BUCKETS, MAX_DEPTH, Page, SLOTS};
use super::page_box::PageBox;
use super::word::{Word, bucket_of, entry_of, tag_of};
use super::writer::{OwnedPage, TableWriter};
use crate::arena::location::Location;
use crate::record::clears::Clears;
use crate::record::cursor::Malformed;

/// Bytes of a page's image.
pub(crate) const PAGE_IMAGE_BYTES: usize = BUCKETS * SLOTS * size_of::<u64>();

/// Keys of each length up to this are hashed for the fingerprint: the hash takes its ways by the length.
const FINGERPRINT_KEYS: usize = 300;

/// A table's pages at one moment.
pub(crate) struct FrozenTable {
    /// In the order of the hashes that they are for.
    pub(super) pages: Vec<Arc<PageBox>>,
}

impl FrozenTable {
    /// The pages, in the order of their depths in [`TableWriter::depths`].
    pub(crate) fn pages(&self) -> impl Iterator<Item = &Page> {
        self.pages.iter().map(|page| &***page)
    }
}

impl Page {
    /// Appends the page's image. `number_of` gives a segment's number in the snapshot.
    pub(crate) fn write_image(&self, number_of: impl Fn(u32) -> u32, out: &mut Vec<u8>) {
        for word in self.words() {
            let numbered = word.location().map(|at| {
                let moved = Location::new(number_of(at.segment()), at.offset());
                Word::new(word.tag(), moved).with_overflow_of(word)
            });
            out.extend_from_slice(&numbered.unwrap_or(word).0.to_le_bytes());
        }
    }

    /// The page with this image.
    pub(crate) fn of_image(image: &[u8]) -> Result<Self, Malformed> {
        let (words, rest) = image.as_chunks();
        if words.len() != BUCKETS * SLOTS || !rest.is_empty() {
            return Err(Malformed("a page has not as many words as it should"));
        }
        let word = |bucket: usize, at: usize| Word(u64::from_le_bytes(words[bucket * SLOTS + at]));
        for bucket in 0..BUCKETS {
            for at in 0..SLOTS {
                let word = word(bucket, at);
                let is_stray = word.location().is_none() && word != word.emptied();
                if is_stray || at + 1 < SLOTS && word.overflows() {
                    return Err(Malformed("a page has a word that nobody writes"));
                }
            }
        }
        Ok(Self::of_words(word))
    }
}

impl TableWriter {
    /// The depths of the pages, in the order of the hashes that they are for.
    pub(crate) fn depths(&self) -> Vec<u8> {
        // A depth is at most `MAX_DEPTH`.
        self.pages_in_order().map(|owned| u8::try_from(owned.depth).unwrap_or(u8::MAX)).collect()
    }

    /// A table of pages with these depths, in order.
    pub(crate) fn adopt(clears: Clears, depths: &[u8], pages: Vec<PageBox>) -> Result<Self, Malformed> {
        let depth = depths.iter().copied().max().map_or(0, u32::from);
        if depth > MAX_DEPTH || pages.len() != depths.len() {
            return Err(Malformed("a table has pages that cannot be"));
        }
        let mut numbers = Vec::with_capacity(1 << depth);
        let mut owned = Vec::with_capacity(pages.len());
        for (number, (page, page_depth)) in (0..).zip(pages.into_iter().zip(depths)) {
            let page_depth = u32::from(*page_depth);
            let span = 1 << (depth - page_depth);
            if !numbers.len().is_multiple_of(span) || numbers.len() + span > 1 << depth {
                return Err(Malformed("the pages of a table do not follow each other"));
            }
            owned.push(OwnedPage::adopt(page, page_depth, numbers.len() / span));
            numbers.resize(numbers.len() + span, number);
        }
        if numbers.len() != 1 << depth {
            return Err(Malformed("a table has pages for some hashes only"));
        }
        Ok(Self::of_pages(clears, owned, numbers, depth))
    }

    /// The number of entries in all pages.
    pub(crate) fn entry_count(&self) -> u64 {
        self.pages_in_order().map(|owned| owned.used as u64).sum()
    }

    /// Whether the table leads to this location from this hash. Shows to `others` what a lookup compares before.
    pub(crate) fn leads_to(&self, hash: KeyHash, wanted: Location, mut others: impl FnMut(Location)) -> bool {
        let page = &self.page(self.number(hash)).page;
        let found = page.find(bucket_of(hash), tag_of(hash), |_, location| {
            if location == wanted {
                return Some(());
            }
            others(location);
            None
        });
        found.is_some()
    }
}

/// A number that changes when any key would stand elsewhere in a table: with another hash or seed, or other parts of
/// the hash that name page, bucket and tag.
pub(crate) fn fingerprint(seed: u64) -> u64 {
    let key: Vec<u8> = (0..=u8::MAX).cycle().take(FINGERPRINT_KEYS).collect();
    let mut places = Vec::with_capacity(FINGERPRINT_KEYS * 24);
    for length in 1..=FINGERPRINT_KEYS {
        let hash = KeyHash::of(seed, &key[..length]);
        let place = [entry_of(hash, MAX_DEPTH), bucket_of(hash), usize::from(tag_of(hash))];
        place.iter().for_each(|part| places.extend_from_slice(&(*part as u64).to_le_bytes()));
    }
    KeyHash::of(0, &places).0
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn image(page: &Page) -> Vec<u8> {
        let mut image = Vec::new();
        page.write_image(|segment| segment, &mut image);
        image
    }

    fn filled() -> Page {
        let page = Page::new();
        for number in 0..9 {
            page.insert(3, Word::new(7, Location::new(9, 8 * number))).unwrap();
        }
        page
    }

    #[test]
    fn a_page_is_read_as_it_was_written_but_for_the_numbers_of_segments() {
        let mut bytes = Vec::new();
        filled().write_image(|segment| segment - 7, &mut bytes);
        assert_eq!(bytes.len(), PAGE_IMAGE_BYTES);
        let page = Page::of_image(&bytes).unwrap();
        assert_eq!(image(&page), bytes);
        assert_eq!(page.overflowing(), 1);
        let locations: Vec<_> = page.entries().map(|(_, location)| location).collect();
        assert_eq!(locations, (0..9).map(|number| Location::new(2, 8 * number)).collect::<Vec<_>>());
    }

    #[test]
    fn words_that_nobody_writes_are_refused() {
        let good = image(&filled());
        assert!(Page::of_image(&good[8..]).is_err());
        // An overflow bit in the first word, a tag in an empty one.
        for (word, bit) in [(3 * SLOTS, 47), (100, 48), (100, 63)] {
            let mut bytes = good.clone();
            bytes[word * 8 + bit / 8] |= 1 << (bit % 8);
            assert!(Page::of_image(&bytes).is_err(), "bit {bit} of word {word}");
        }
    }

    #[test]
    fn pages_must_cover_all_hashes_once() {
        let adopt = |depths: &[u8]| {
            let pages = depths.iter().map(|_| PageBox::new(Page::new())).collect();
            TableWriter::adopt(Clears::default(), depths, pages).map(|table| table.depths())
        };
        for depths in [&[0][..], &[1, 1], &[2, 2, 1], &[1, 2, 3, 3], &[2, 3, 3, 1]] {
            assert_eq!(adopt(depths).unwrap(), depths);
        }
        for depths in [&[][..], &[1], &[0, 0], &[1, 1, 1], &[2, 1, 2], &[1, 2], &[1, 2, 2, 1], &[23]] {
            assert!(adopt(depths).is_err(), "{depths:?}");
        }
        assert!(TableWriter::adopt(Clears::default(), &[1, 1], vec![PageBox::new(Page::new())]).is_err());
    }

    #[test]
    fn the_fingerprint_is_this_one_and_the_seeds_own() {
        assert_ne!(fingerprint(0), fingerprint(1));
        // If this fails, tables of snapshots that earlier versions wrote are built anew at the next start.
        assert_eq!(fingerprint(3), 0x95eb_c20a_e529_a1d3);
    }
}
