//! The memory of one arena segment, and the directory in which readers find segments by id.
//!
//! Invariants:
//! 1. Bytes of a segment are written once, by the writer, before their location is published; published bytes never
//!    change. So a slice over a published record and a write to the space behind it never overlap.
//! 2. A published location leads into a segment that stays allocated for as long as anybody may follow it: readers are
//!    pinned, frozen shards hold the segment itself.

#![allow(unsafe_code, reason = "records are read in place from memory that the writer appends to at the same time")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::location::{ALIGNMENT, Location, MAX_SEGMENT, SEGMENT_BYTES};
use crate::record::row::{HEADER_BYTES, record_len};

/// A cache line, so that a record that fits one touches one.
const LAYOUT: Layout = match Layout::from_size_align(SEGMENT_BYTES, 64) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two is an alignment"),
};

/// One mebibyte of memory, zeroed. Frees it when dropped.
pub(crate) struct Segment {
    base: NonNull<u8>,
    /// Counts the bytes of all segments of the arena that were not freed yet.
    held: Arc<AtomicU64>,
}

// SAFETY: the memory belongs to this value alone, and invariant 1 keeps writes apart from everything that is read.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A segment that is counted in `held` for as long as it takes memory.
    pub(crate) fn new(held: &Arc<AtomicU64>) -> Self {
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(LAYOUT) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(LAYOUT));
        held.fetch_add(SEGMENT_BYTES as u64, Ordering::Relaxed);
        Self { base, held: held.clone() }
    }

    fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Copies bytes to a place that nothing was written to before.
    ///
    /// # Safety
    /// No location at or behind `offset` was handed out yet, and only one thread writes.
    pub(crate) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= SEGMENT_BYTES && bytes.len() <= SEGMENT_BYTES - offset, "a record must fit its segment");
        // SAFETY: the range lies inside the allocation, and by the contract nobody reads or writes it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base().add(offset), bytes.len()) };
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
        // SAFETY: the memory came from the allocator with this layout.
        unsafe { dealloc(self.base(), LAYOUT) };
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

/// Segments in the first chunk of a directory; each further chunk has twice as many.
const FIRST_CHUNK: u32 = 8;
/// Enough chunks for all ids.
const CHUNKS: usize = 28;
const _: () = assert!((FIRST_CHUNK as u64) * ((1 << CHUNKS) - 1) > MAX_SEGMENT as u64);

/// Where readers find a segment's memory by its id. Grows without ever moving an entry.
#[derive(Default)]
pub(crate) struct SegmentDirectory {
    chunks: [OnceLock<Box<[AtomicPtr<u8>]>>; CHUNKS],
    held: Arc<AtomicU64>,
}

impl SegmentDirectory {
    /// Bytes of all segments that take memory, be it for frozen shards or late readers only.
    pub(crate) fn held(&self) -> &Arc<AtomicU64> {
        &self.held
    }

    /// The chunk that holds an id, and where in it.
    fn place(id: u32) -> (usize, usize) {
        let shifted = u64::from(id) + u64::from(FIRST_CHUNK);
        let chunk = shifted.ilog2() - FIRST_CHUNK.ilog2();
        (chunk as usize, usize::try_from(shifted - (u64::from(FIRST_CHUNK) << chunk)).unwrap_or(usize::MAX))
    }

    /// Makes a segment known under an id. Any earlier segment of that id must be out of every reader's reach.
    pub(crate) fn publish(&self, id: u32, segment: &Segment) {
        let (chunk, at) = Self::place(id);
        let entries = self.chunks[chunk]
            .get_or_init(|| (0..FIRST_CHUNK << chunk).map(|_| AtomicPtr::new(std::ptr::null_mut())).collect());
        // Release pairs with the Acquire in `record`; the location that leads here is published later anyway.
        entries[at].store(segment.base(), Ordering::Release);
    }

    /// Where the record at a location is.
    pub(crate) fn address(&self, location: Location) -> *const u8 {
        self.base(location).wrapping_add(location.offset())
    }

    fn base(&self, location: Location) -> *const u8 {
        let (chunk, at) = Self::place(location.segment());
        let base = self.chunks[chunk].get().map_or(std::ptr::null_mut(), |chunk| chunk[at].load(Ordering::Acquire));
        assert!(!base.is_null(), "a location leads to a segment that was published");
        base
    }

    /// The record at a location.
    ///
    /// # Safety
    /// The location was loaded from a table of this arena under an epoch guard that is held throughout `'a`, or is
    /// called by the writer, who alone retires segments.
    pub(crate) unsafe fn record<'a>(&self, location: Location) -> &'a [u8] {
        // SAFETY: invariant 2 keeps the segment; the location was published after its record was written.
        unsafe { record_at(self.base(location), location.offset()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_fill_the_chunks_without_gaps() {
        let mut expected = (0, 0);
        for id in 0..10_000u32 {
            assert_eq!(SegmentDirectory::place(id), expected);
            expected.1 += 1;
            if expected.1 == (FIRST_CHUNK as usize) << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        assert!(SegmentDirectory::place(MAX_SEGMENT).0 < CHUNKS);
    }
}
