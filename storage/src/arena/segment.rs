//! The memory of one arena segment, and the directory in which readers find segments by id.
//!
//! Invariants:
//! 1. Bytes of a segment are written once, by the writer, before their location is published; published bytes never
//!    change. So a slice over a published record and a write to the space behind it never overlap.
//! 2. What was not written is anything, left there by an earlier segment, and never read. The padding behind a record
//!    is written with it, so that what was appended is the same bytes wherever it stands.
//! 3. A published location leads into a segment that stays allocated for as long as anybody may follow it: readers are
//!    pinned, frozen shards hold the segment itself.

#![allow(unsafe_code, reason = "records are read in place from memory that the writer appends to at the same time")]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::location::{ALIGNMENT, Location, MAX_SEGMENT, SEGMENT_BYTES};
use crate::chunks::Chunks;
use crate::memory::{BLOCK_BYTES, Block};
use crate::record::row::{HEADER_BYTES, record_len};
use crate::sync::{AtomicPtr, Ordering};

const _: () = assert!(SEGMENT_BYTES == BLOCK_BYTES);

/// One mebibyte of memory. Frees it when dropped.
pub(crate) struct Segment {
    block: Block,
    /// Counts the bytes of all segments of the arena that were not freed yet.
    held: Arc<AtomicU64>,
}

impl Segment {
    /// A segment that is counted in `held` for as long as it takes memory.
    pub(crate) fn new(held: &Arc<AtomicU64>) -> Self {
        held.fetch_add(SEGMENT_BYTES as u64, Ordering::Relaxed);
        Self { block: Block::new(), held: held.clone() }
    }

    fn base(&self) -> *mut u8 {
        self.block.base()
    }

    /// Copies bytes to a place that nothing was written to before, and zeros behind them up to a multiple of
    /// [`ALIGNMENT`].
    ///
    /// # Safety
    /// No location at or behind `offset` was handed out yet, and only one thread writes.
    pub(crate) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        assert!(
            offset <= SEGMENT_BYTES && bytes.len() + padding <= SEGMENT_BYTES - offset,
            "a record must fit its segment"
        );
        // SAFETY: the range lies inside the block, and by the contract nobody reads or writes it.
        unsafe {
            let place = self.base().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
            place.add(bytes.len()).write_bytes(0, padding);
        }
    }

    /// The first bytes.
    ///
    /// # Safety
    /// All of them were written, that happened before this call, and they are not written again.
    pub(crate) unsafe fn first(&self, len: usize) -> &[u8] {
        assert!(len <= SEGMENT_BYTES, "a segment ends");
        // SAFETY: the bytes lie inside the block, and by the contract they were written and do not change.
        unsafe { std::slice::from_raw_parts(self.base(), len) }
    }

    /// The record at this offset.
    ///
    /// # Safety
    /// A record was written there, and that happened before this call.
    pub(crate) unsafe fn record(&self, offset: usize) -> &[u8] {
        // SAFETY: the contract is the same, and the segment lives as long as `self`.
        unsafe { record_at(self.base(), offset) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.held.fetch_sub(SEGMENT_BYTES as u64, Ordering::Relaxed);
    }
}

/// The record at this offset of a segment.
///
/// # Safety
/// `base` is a segment that outlives `'a`, and a record was written at `offset` before this call.
unsafe fn record_at<'a>(base: *const u8, offset: usize) -> &'a [u8] {
    debug_assert!(offset.is_multiple_of(ALIGNMENT) && offset < SEGMENT_BYTES, "a location leads into its segment");
    // SAFETY: a record begins with its header, so these bytes were written and never change.
    let header = unsafe { base.add(offset).cast::<[u8; HEADER_BYTES]>().read() };
    // SAFETY: the header counts the bytes that were written for this record.
    unsafe { std::slice::from_raw_parts(base.add(offset), record_len(header)) }
}

/// Segments by id, with room for all ids.
type Bases = Chunks<AtomicPtr<u8>, 8, 28>;
const _: () = assert!(Bases::CAPACITY > MAX_SEGMENT as u64);

/// Where readers find a segment's memory by its id. Grows without ever moving an entry.
#[derive(Default)]
pub(crate) struct SegmentDirectory {
    bases: Bases,
    held: Arc<AtomicU64>,
}

impl SegmentDirectory {
    /// Bytes of all segments that take memory, be it for frozen shards or late readers only.
    pub(crate) fn held(&self) -> &Arc<AtomicU64> {
        &self.held
    }

    /// Makes a segment known under an id. Any earlier segment of that id must be out of every reader's reach.
    pub(crate) fn publish(&self, id: u32, segment: &Segment) {
        // Release pairs with the Acquire in `record`; the location that leads here is published later anyway.
        self.bases.grow_to(id).store(segment.base(), Ordering::Release);
    }

    /// Where the record at a location is.
    pub(crate) fn address(&self, location: Location) -> *const u8 {
        self.base(location).wrapping_add(location.offset())
    }

    fn base(&self, location: Location) -> *const u8 {
        let base = self.bases.get(location.segment()).map_or(std::ptr::null_mut(), |base| base.load(Ordering::Acquire));
        assert!(!base.is_null(), "a location leads to a segment that was published");
        base
    }

    /// The record at a location.
    ///
    /// # Safety
    /// The location was loaded from a table of this arena under an epoch guard that is held throughout `'a`, or is
    /// called by the writer, who alone retires segments.
    pub(crate) unsafe fn record<'a>(&self, location: Location) -> &'a [u8] {
        // SAFETY: invariant 3 keeps the segment; the location was published after its record was written.
        unsafe { record_at(self.base(location), location.offset()) }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn padding_is_zero_whatever_was_there_before() {
        let segment = Segment::new(&Arc::default());
        let written = |length| {
            // SAFETY: the place is in the segment and was written to.
            unsafe { std::slice::from_raw_parts(segment.base().add(SEGMENT_BYTES - 16), length) }
        };
        // SAFETY: no location was handed out, and only this thread writes.
        unsafe { segment.write(SEGMENT_BYTES - 16, &[0xff; 16]) };
        assert_eq!(written(16), [0xff; 16]);
        // SAFETY: as above.
        unsafe { segment.write(SEGMENT_BYTES - 16, &[1, 2, 3, 4, 5]) };
        assert_eq!(written(16), [1, 2, 3, 4, 5, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    #[should_panic(expected = "a record must fit its segment")]
    fn nothing_is_written_behind_the_end() {
        // SAFETY: no location was handed out, and only this thread writes.
        unsafe { Segment::new(&Arc::default()).write(SEGMENT_BYTES - 8, &[0; 9]) };
    }
}
