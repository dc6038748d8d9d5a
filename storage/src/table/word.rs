//! The word: all that a table knows of one record, in 64 bits that change in one step.
//!
//! | bits | what |
//! | --- | --- |
//! | 48 to 63 | tag: 16 bits of the key's hash, so that few other keys need to be compared |
//! | 47 | overflow: keys that belong to this bucket may stand in the next one (only in a bucket's last word) |
//! | 0 to 46 | where the record is, 0 for an empty word |
//!
//! And which bits of a key's hash are used for what, from the top:
//!
//! | bits | what |
//! | --- | --- |
//! | 54 to 63 | may name the shard; the same for all keys of a table if they do, so a table does not use them |
//! | 32 to 53 | the page, as many of them as the directory is deep |
//! | 16 to 24 | the bucket |
//! | 0 to 15 | the tag |

use larder_types::hash::KeyHash;

use super::page::{BUCKETS, MAX_DEPTH};
use crate::arena::location::{LOCATION_BITS, Location};

/// The most bits of a hash that name a shard.
pub(crate) const SHARD_BITS: u32 = 10;

const OVERFLOW: u64 = 1 << LOCATION_BITS;
const TAG_SHIFT: u32 = LOCATION_BITS + 1;
const LOCATION_MASK: u64 = OVERFLOW - 1;

/// One entry of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    pub(crate) fn new(tag: u16, location: Location) -> Self {
        Self(u64::from(tag) << TAG_SHIFT | location.bits())
    }

    /// Where the record is; `None` for an empty word.
    pub(crate) fn location(self) -> Option<Location> {
        Location::from_bits(self.0 & LOCATION_MASK)
    }

    #[allow(clippy::cast_possible_truncation, reason = "16 bits are left")]
    pub(crate) fn tag(self) -> u16 {
        (self.0 >> TAG_SHIFT) as u16
    }

    pub(crate) fn overflows(self) -> bool {
        self.0 & OVERFLOW != 0
    }

    /// This word with the other's overflow bit.
    #[must_use]
    pub(crate) fn with_overflow_of(self, other: Self) -> Self {
        Self(self.0 & !OVERFLOW | other.0 & OVERFLOW)
    }

    #[must_use]
    pub(crate) fn overflowing(self) -> Self {
        Self(self.0 | OVERFLOW)
    }

    /// Nothing but this word's overflow bit.
    #[must_use]
    pub(crate) fn emptied(self) -> Self {
        Self(self.0 & OVERFLOW)
    }
}

/// The tag of keys with this hash.
#[allow(clippy::cast_possible_truncation, reason = "the low 16 bits are meant")]
pub(crate) fn tag_of(hash: KeyHash) -> u16 {
    hash.0 as u16
}

/// The bucket to which keys with this hash belong.
#[allow(clippy::cast_possible_truncation, reason = "a page has few buckets")]
pub(crate) fn bucket_of(hash: KeyHash) -> usize {
    (hash.0 >> 16) as usize % BUCKETS
}

/// The part of the hash that spreads the keys of one shard, in the top bits.
pub(crate) fn spread(hash: KeyHash) -> u64 {
    hash.0 << SHARD_BITS
}

/// The entry of a directory of this depth for keys with this hash.
pub(crate) fn entry_of(hash: KeyHash, depth: u32) -> usize {
    entry_at(spread(hash), depth)
}

/// The entry of a directory of this depth for keys whose hash spreads to this.
#[allow(clippy::cast_possible_truncation, reason = "a directory has at most 2^22 entries")]
pub(crate) fn entry_at(spread: u64, depth: u32) -> usize {
    debug_assert!(depth <= MAX_DEPTH, "a directory's depth is limited");
    // Two shifts, because a shift by all 64 bits is undefined and one entry has no bits to name it.
    (spread >> 1 >> (63 - depth)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_word_do_not_touch() {
        let location = Location::new((1 << 30) - 1, (1 << 20) - 8);
        let word = Word::new(u16::MAX, location);
        assert_eq!((word.tag(), word.overflows(), word.location()), (u16::MAX, false, Some(location)));
        let word = word.overflowing();
        assert_eq!((word.tag(), word.overflows(), word.location()), (u16::MAX, true, Some(location)));
        assert_eq!((word.emptied().location(), word.emptied().overflows()), (None, true));
        assert_eq!(Word::new(0, location).with_overflow_of(word).location(), Some(location));
        assert_eq!(Word(0).location(), None);
    }

    #[test]
    fn bits_that_name_the_shard_do_not_choose_the_page() {
        for top in 0..1u64 << SHARD_BITS {
            assert_eq!(entry_of(KeyHash(top << 54), MAX_DEPTH), 0);
        }
        assert_eq!(entry_of(KeyHash(1 << 53), 1), 1);
        assert_eq!(entry_of(KeyHash(u64::MAX), MAX_DEPTH), (1 << MAX_DEPTH) - 1);
        assert_eq!(entry_of(KeyHash(u64::MAX), 0), 0);
    }
}
