//! The arena: memory for records, appended to in segments of 1 MiB like a log.
//!
//! Updates leave dead records behind. The arena counts the live bytes of each segment, and a full segment without a
//! live record goes back as a whole.
//!
//! Invariants:
//! 1. A record is written once and never moves. It is live until [`Arena::release`].
//! 2. The writer releases a record only after the word that pointed to it was replaced in the table.
//! 3. A segment is retired when it is sealed and nothing in it is live. Its memory is freed, and its id becomes free for
//!    another segment, only when every reader that was pinned at that time is gone: until then a reader that took a
//!    location earlier still finds its record there. Only whole segments are retired, never single records.

#![allow(unsafe_code, reason = "the writer reads and writes the memory of segments in place")]

pub(crate) mod location;
pub(crate) mod segment;

use std::sync::{Arc, Mutex, PoisonError};

use self::location::{ALIGNMENT, Location, MAX_SEGMENT, SEGMENT_BYTES};
use self::segment::{Segment, SegmentDirectory};

/// The writer's side of a shard's records.
pub(crate) struct Arena {
    directory: Arc<SegmentDirectory>,
    /// By id. Id 0 is never used, so that no location is 0.
    segments: Vec<Option<Owned>>,
    /// The segment that is appended to, 0 before the first record.
    open: u32,
    /// Ids whose segments no reader can reach any more.
    free: Arc<Mutex<Vec<u32>>>,
}

/// A segment in use.
struct Owned {
    segment: Arc<Segment>,
    used: usize,
    /// Bytes of live records with their padding.
    live: usize,
}

/// The segments of an arena at one time, kept alive.
pub(crate) struct FrozenArena {
    segments: Vec<Option<Arc<Segment>>>,
}

/// The space a record takes.
pub(crate) fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

impl Arena {
    pub(crate) fn new() -> Self {
        Self { directory: Arc::default(), segments: vec![None], open: 0, free: Arc::default() }
    }

    /// What readers find records with.
    pub(crate) fn directory(&self) -> &Arc<SegmentDirectory> {
        &self.directory
    }

    /// Appends a record, which must begin with its header.
    pub(crate) fn append(&mut self, record: &[u8]) -> Location {
        let space = padded(record.len());
        assert!((1..=SEGMENT_BYTES).contains(&space), "a record must fit a segment");
        if self.segments[self.open as usize].as_ref().is_none_or(|open| SEGMENT_BYTES - open.used < space) {
            self.open_next();
        }
        let id = self.open;
        let open = self.owned(id);
        let offset = open.used;
        // SAFETY: nothing at or behind `used` was handed out, and `&mut self` is the only writer.
        unsafe { open.segment.write(offset, record) };
        open.used += space;
        open.live += space;
        Location::new(id, offset)
    }

    /// The live record at a location.
    pub(crate) fn record(&self, location: Location) -> &[u8] {
        let owned = self.segments.get(location.segment() as usize).and_then(Option::as_ref);
        let Some(owned) = owned.filter(|owned| location.offset() < owned.used) else {
            unreachable!("a live location leads into a segment in use");
        };
        // SAFETY: locations are made by `append` alone, after the record was written; `live` keeps the segment.
        unsafe { owned.segment.record(location.offset()) }
    }

    /// Counts a record as dead. The table must not point to it any more.
    pub(crate) fn release(&mut self, location: Location) {
        let space = padded(self.record(location).len());
        let id = location.segment();
        let owned = self.owned(id);
        assert!(owned.live >= space, "a record is released once");
        owned.live -= space;
        if owned.live == 0 && id != self.open {
            self.retire(id);
        }
    }

    /// Keeps all segments of now.
    pub(crate) fn freeze(&self) -> FrozenArena {
        FrozenArena { segments: self.segments.iter().map(|s| s.as_ref().map(|owned| owned.segment.clone())).collect() }
    }

    fn owned(&mut self, id: u32) -> &mut Owned {
        let Some(owned) = &mut self.segments[id as usize] else { unreachable!("a segment in use has memory") };
        owned
    }

    /// Seals the open segment and opens another.
    fn open_next(&mut self) {
        let sealed = self.open;
        let segment = Arc::new(Segment::new());
        let id = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let id = id.unwrap_or_else(|| {
            self.segments.push(None);
            u32::try_from(self.segments.len() - 1).unwrap_or(u32::MAX)
        });
        assert!(id <= MAX_SEGMENT, "an arena holds 2^30 segments at most");
        self.directory.publish(id, &segment);
        self.segments[id as usize] = Some(Owned { segment, used: 0, live: 0 });
        self.open = id;
        if self.segments[sealed as usize].as_ref().is_some_and(|owned| owned.live == 0) {
            self.retire(sealed);
        }
    }

    fn retire(&mut self, id: u32) {
        let Some(owned) = self.segments[id as usize].take() else { return };
        let free = self.free.clone();
        let guard = crossbeam_epoch::pin();
        guard.defer(move || {
            drop(owned);
            free.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        });
        // A segment is large and retired rarely: do not leave it in this thread's bag until that is full.
        guard.flush();
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Readers that were pinned before the arena went out of reach may still be reading its segments.
        let segments = std::mem::take(&mut self.segments);
        crossbeam_epoch::pin().defer(move || drop(segments));
    }
}

impl FrozenArena {
    /// The record at a location.
    ///
    /// # Safety
    /// The location was live when the arena was frozen.
    pub(crate) unsafe fn record(&self, location: Location) -> &[u8] {
        let Some(segment) = self.segments.get(location.segment() as usize).and_then(Option::as_ref) else {
            unreachable!("a location that was live at the freeze leads into a segment that was kept");
        };
        // SAFETY: by the contract a record stands there, written before the freeze.
        unsafe { segment.record(location.offset()) }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::time::{Duration, Instant};

    use larder_types::limits::MAX_RECORD_BYTES;

    use super::*;
    use crate::record::row::RowWriter;

    /// A record of this many bytes.
    fn record(len: usize, version: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let key = vec![b'k'; (len - 5).min(1000)];
        RowWriter::new(&key, version, &mut bytes).finish().unwrap();
        bytes.resize(len, 0);
        let header = u32::from_le_bytes(*bytes.first_chunk().unwrap()) & !0x7_ffff | u32::try_from(len).unwrap();
        bytes[..4].copy_from_slice(&header.to_le_bytes());
        bytes
    }

    fn in_use(arena: &Arena) -> usize {
        arena.segments.iter().flatten().count()
    }

    #[test]
    fn records_are_found_where_they_were_put() {
        let mut arena = Arena::new();
        let records: Vec<_> = (0..400u64).map(|n| record(6 + usize::try_from(n).unwrap() * 23, n % 128)).collect();
        let locations: Vec<_> = records.iter().map(|record| arena.append(record)).collect();
        assert!(in_use(&arena) > 1);
        for (record, location) in records.iter().zip(&locations) {
            assert_eq!(arena.record(*location), record);
            // SAFETY: this thread is the writer, and nothing was retired.
            assert_eq!(unsafe { arena.directory().record(*location) }, record);
        }
    }

    #[test]
    fn the_largest_records_fit_four_to_a_segment() {
        let mut arena = Arena::new();
        let largest = record(MAX_RECORD_BYTES, 1);
        let locations: Vec<_> = (0..9).map(|_| arena.append(&largest)).collect();
        assert_eq!(in_use(&arena), 3);
        assert!(locations.iter().all(|location| arena.record(*location) == largest));
    }

    #[test]
    fn a_segment_goes_when_its_last_record_does() {
        let mut arena = Arena::new();
        let large = record(MAX_RECORD_BYTES, 1);
        let first: Vec<_> = (0..4).map(|_| arena.append(&large)).collect();
        let next = arena.append(&large);
        first[..3].iter().for_each(|location| arena.release(*location));
        assert_eq!(in_use(&arena), 2);
        arena.release(first[3]);
        assert_eq!(in_use(&arena), 1);
        arena.release(next);
        assert_eq!(in_use(&arena), 1, "the open segment stays");
        let filled: Vec<_> = (0..4).map(|_| arena.append(&large).segment()).collect();
        assert_eq!(filled, [next.segment(), next.segment(), next.segment(), filled[3]]);
        assert_eq!(in_use(&arena), 2, "dead records still take their space in it");
    }

    #[test]
    fn an_open_segment_without_live_records_goes_when_it_is_sealed() {
        let mut arena = Arena::new();
        let large = record(MAX_RECORD_BYTES, 1);
        for _ in 0..40 {
            let location = arena.append(&large);
            arena.release(location);
        }
        assert_eq!(in_use(&arena), 1);
    }

    #[test]
    fn ids_are_used_again_only_when_no_reader_can_know_them() {
        let mut arena = Arena::new();
        let large = record(MAX_RECORD_BYTES, 1);
        // Pinned like a reader that has just loaded the first location.
        let guard = crossbeam_epoch::pin();
        let first = arena.append(&large);
        let churn = |arena: &mut Arena| {
            let location = arena.append(&large);
            arena.release(location);
            location.segment()
        };
        arena.release(first);
        let later: Vec<_> = (0..40).map(|_| churn(&mut arena)).collect();
        assert!(arena.segments[1].is_none(), "the first segment is retired");
        assert!(later[4..].iter().all(|id| *id != 1), "its id was used while a reader could know it");
        // SAFETY: `guard` was pinned before the segment was retired.
        assert_eq!(unsafe { arena.directory().record(first) }, large);
        drop(guard);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !later.contains(&churn(&mut arena)) {
            crossbeam_epoch::pin().flush();
            assert!(Instant::now() < deadline, "the id of a retired segment was never used again");
        }
    }

    #[test]
    fn a_frozen_arena_keeps_what_is_released() {
        let mut arena = Arena::new();
        let large = record(MAX_RECORD_BYTES, 1);
        let kept = arena.append(&large);
        let frozen = arena.freeze();
        arena.release(kept);
        (0..40).for_each(|version| {
            let location = arena.append(&record(MAX_RECORD_BYTES, version));
            arena.release(location);
            crossbeam_epoch::pin().flush();
        });
        drop(arena);
        // SAFETY: the record was live at the freeze.
        assert_eq!(unsafe { frozen.record(kept) }, large);
    }
}
