//! The table: a collection's records in one shard, found by key without locks.
//!
//! ```text
//! root: directory and clears           replaced as a whole
//!   directory: 2^depth entries         each changes with one store
//!     page of 32 KiB: 512 buckets      never reallocated in place
//!       bucket: 8 words of 64 bits     one cache line
//!         word: tag, overflow, location -> record in the arena
//! ```
//! A lookup loads root, entry, the words of a bucket and the record: two of these are cache misses. It compares the full
//! key, because a tag is only a hint.
//!
//! One writer, any number of readers. Invariants:
//! 1. One word is the whole truth of an entry: the record is written first, then the word is stored with Release;
//!    readers load it with Acquire.
//! 2. A published record never changes. An update writes another record and replaces the word.
//! 3. Entries never move within a page that readers can see; deleting keeps the overflow bit.
//! 4. A full bucket spills to the next; only then is its overflow bit set, and it stays until the page is rebuilt.
//! 5. Splitting, rebuilding and copying make a private page, complete it, and publish it with one store for each entry
//!    of the directory. Readers that hold the old page see it as it was: nobody writes to it any more.
//! 6. What readers may still hold is freed through the epoch only, and only whole pages, directories, roots and arena
//!    segments are, never single records. Nothing is retired before it is out of reach for new readers.
//!
//! A frozen table shares the pages of the moment. The writer copies a page before it first changes it after a freeze.

#![allow(unsafe_code, reason = "pages and records are read in place, kept by the epoch")]

mod directory;
pub(crate) mod image;
#[cfg(all(test, loom))]
mod loom_tests;
pub(crate) mod page;
pub(crate) mod page_box;
mod published;
pub(crate) mod word;
pub(crate) mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_epoch::Guard;
use larder_types::hash::KeyHash;
use larder_types::ids::SyncSlot;

use self::directory::Directory;
use self::page::Page;
pub(crate) use self::published::Published;
use self::word::{bucket_of, tag_of};
use crate::arena::segment::SegmentDirectory;
use crate::prefetch::{prefetch, prefetch_record};
use crate::record::clears::Clears;
use crate::record::row::key_of;

/// The readers' side of a table.
pub(crate) struct Table {
    root: Published<Root>,
    pub(crate) counters: Counters,
}

/// What readers of a table begin with.
pub(crate) struct Root {
    directory: Arc<Directory>,
    clears: Arc<Clears>,
}

/// Numbers that the writer keeps for whoever asks. Each is right by itself; together they may be a moment apart.
pub(crate) struct Counters {
    pub(crate) records: AtomicU64,
    /// Bytes of the records' content, see [`Row::content_len`](crate::record::row::Row::content_len).
    pub(crate) content_bytes: AtomicU64,
    /// Bytes of pages and directory.
    pub(crate) table_bytes: AtomicU64,
    /// Bytes of what is remembered of runs' batches.
    pub(crate) batch_bytes: AtomicU64,
    /// Bytes of pools and samples of texts, see [`Interner::held_bytes`](crate::record::intern::Interner::held_bytes).
    pub(crate) dictionary_bytes: AtomicU64,
    /// Records in which a sync has fields, by slot.
    records_of: [AtomicU64; 256],
    /// Bytes of the groups in which a sync has them, by slot.
    bytes_of: [AtomicU64; 256],
}

impl Table {
    /// The state of now.
    pub(crate) fn root<'g>(&'g self, guard: &'g Guard) -> &'g Root {
        self.root.load(guard)
    }
}

impl Root {
    /// The clears that belong to what is found through this root.
    pub(crate) fn clears(&self) -> &Clears {
        &self.clears
    }

    /// The record with this key. The arena must be the one whose locations the table holds.
    pub(crate) fn find<'g>(
        &'g self,
        hash: KeyHash,
        key: &[u8],
        arena: &'g SegmentDirectory,
        pinned: &'g Guard,
    ) -> Option<&'g [u8]> {
        self.page(hash, pinned).find(bucket_of(hash), tag_of(hash), |_, location| {
            // SAFETY: the location was loaded under this guard from a page of the table that belongs to the arena.
            let record: &'g [u8] = unsafe { arena.record(location) };
            (key_of(record) == key).then_some(record)
        })
    }

    /// Asks for the memory that finding a key needs first: its bucket.
    pub(crate) fn prefetch_bucket(&self, hash: KeyHash, pinned: &Guard) {
        prefetch(self.page(hash, pinned).address(bucket_of(hash)));
    }

    /// Asks for the memory that finding a key needs next: the record that its bucket hints at.
    pub(crate) fn prefetch_record(&self, hash: KeyHash, arena: &SegmentDirectory, pinned: &Guard) {
        if let Some(location) = self.page(hash, pinned).hint(bucket_of(hash), tag_of(hash)) {
            prefetch_record(arena.address(location));
        }
    }

    fn page<'g>(&'g self, hash: KeyHash, _pinned: &'g Guard) -> &'g Page {
        // SAFETY: the root was loaded under this guard, so by invariant 6 no page that it leads to is freed while the
        // guard is held.
        unsafe { &*self.directory.page(hash) }
    }
}

impl Counters {
    fn new() -> Self {
        Self {
            records: AtomicU64::new(0),
            content_bytes: AtomicU64::new(0),
            table_bytes: AtomicU64::new(0),
            batch_bytes: AtomicU64::new(0),
            dictionary_bytes: AtomicU64::new(0),
            records_of: std::array::from_fn(|_| AtomicU64::new(0)),
            bytes_of: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Bytes of content, table, remembered batches, pools and samples.
    pub(crate) fn bytes(&self) -> u64 {
        let parts = [&self.content_bytes, &self.table_bytes, &self.batch_bytes, &self.dictionary_bytes];
        parts.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn of(&self, slot: SyncSlot) -> &AtomicU64 {
        &self.records_of[usize::from(slot.0)]
    }

    pub(crate) fn bytes_of(&self, slot: SyncSlot) -> &AtomicU64 {
        &self.bytes_of[usize::from(slot.0)]
    }

    /// The slots that have fields in any record, and in how many.
    pub(crate) fn all_slots(&self) -> impl Iterator<Item = (SyncSlot, u64)> + '_ {
        let counts = self.records_of.iter().map(|count| count.load(Ordering::Relaxed));
        (0..=u8::MAX).map(SyncSlot).zip(counts).filter(|(_, count)| *count > 0)
    }
}
