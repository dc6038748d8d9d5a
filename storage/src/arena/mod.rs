//! The arena: memory for records, appended to in segments of 1 MiB like a log.
//!
//! Updates leave dead records behind. The arena counts the live bytes of each segment, and a full segment without a
//! live record goes back as a whole. The cleaner empties the segments that are worth it, see [`cleaning`].
//!
//! Invariants:
//! 1. A record is written once and never moves: the cleaner writes another one. It is live until [`Arena::release`].
//! 2. The writer releases a record only after the word that pointed to it was replaced in the table.
//! 3. A segment is retired when it is sealed and nothing in it is live. Its memory is freed, and its id becomes free for
//!    another segment, only when every reader that was pinned at that time is gone: until then a reader that took a
//!    location earlier still finds its record there. Only whole segments are retired, never single records.
//! 4. A segment consists of the records that were appended to it, without gaps, and of the space behind them. For each
//!    of them the segment knows the collection.

#![allow(unsafe_code, reason = "the writer reads and writes the memory of segments in place")]

pub(crate) mod cleaning;
pub(crate) mod image;
pub(crate) mod location;
pub(crate) mod segment;

use std::sync::{Arc, Mutex, PoisonError};

use larder_types::ids::CollectionId;

use self::cleaning::Cursor;
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
    /// Bytes of records in all segments, live or dead, with their padding.
    used: u64,
    /// Of these, the live ones.
    live: u64,
    /// Of these, the ones in groups that a clear has made absent: as good as dead, but nobody has been there yet.
    stale: u64,
    /// How often groups have become absent.
    clears: u64,
    /// How often the arena was frozen.
    freezes: u64,
    /// Shared with every frozen arena that is still kept.
    frozen: Arc<()>,
    /// Where the cleaner is.
    cursor: Option<Cursor>,
    /// Bytes that the cleaner should visit for what was released since it last had nothing to do.
    owed: u64,
    /// Bytes that the cleaner has visited.
    #[cfg(test)]
    pub(crate) visited: u64,
    /// Plants a bug for the tests: segments are freed at once, readers or not.
    #[cfg(test)]
    pub(crate) frees_early: bool,
}

/// A segment in use.
struct Owned {
    segment: Arc<Segment>,
    used: usize,
    /// Bytes of live records with their padding.
    live: usize,
    /// Shared with frozen arenas.
    owners: Arc<Owners>,
    /// The arena's clears when the segment was opened: what was appended since has no absent group of earlier ones.
    clears: u64,
    /// The arena's freezes when the segment was opened.
    freezes: u64,
}

/// Where the records of a collection begin in a segment, in order; they reach to where those of the next begin.
pub(crate) type Owners = Vec<(usize, CollectionId)>;

/// The space a record takes.
pub(crate) fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

impl Arena {
    pub(crate) fn new() -> Self {
        Self {
            directory: Arc::default(),
            segments: vec![None],
            open: 0,
            free: Arc::default(),
            used: 0,
            live: 0,
            stale: 0,
            clears: 0,
            freezes: 0,
            frozen: Arc::default(),
            cursor: None,
            owed: 0,
            #[cfg(test)]
            visited: 0,
            #[cfg(test)]
            frees_early: false,
        }
    }

    /// What readers find records with.
    pub(crate) fn directory(&self) -> &Arc<SegmentDirectory> {
        &self.directory
    }

    /// Appends a record of a collection, which must begin with its header.
    pub(crate) fn append(&mut self, owner: CollectionId, record: &[u8]) -> Location {
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
        if open.owners.last().is_none_or(|(_, last)| *last != owner) {
            Arc::make_mut(&mut open.owners).push((offset, owner));
        }
        self.used += space as u64;
        self.live += space as u64;
        Location::new(id, offset)
    }

    /// The record at a location, live or dead, in a segment in use.
    pub(crate) fn record(&self, location: Location) -> &[u8] {
        let owned = self.segments.get(location.segment() as usize).and_then(Option::as_ref);
        let Some(owned) = owned.filter(|owned| location.offset() < owned.used) else {
            unreachable!("the location of a live record leads into a segment in use");
        };
        // SAFETY: locations are made by `append`, after the record was written, or read from a snapshot and found to lead
        // to a record of it; `live` keeps the segment.
        unsafe { owned.segment.record(location.offset()) }
    }

    /// The collection that a record in a segment in use was appended for.
    pub(crate) fn owner(&self, location: Location) -> CollectionId {
        let owners = self.segments.get(location.segment() as usize).and_then(Option::as_ref).map(|owned| &owned.owners);
        let before = |from: &usize| *from <= location.offset();
        let owner = owners.and_then(|owners| owners[..owners.partition_point(|(from, _)| before(from))].last());
        let Some((_, owner)) = owner else { unreachable!("each record of a segment belongs to a collection") };
        *owner
    }

    /// Counts a record as dead. The table must not point to it any more.
    pub(crate) fn release(&mut self, location: Location) {
        let space = self.bury(location);
        self.owe(space);
    }

    /// Counts a record as dead, without asking for more cleaning in return. Returns its space.
    fn bury(&mut self, location: Location) -> usize {
        let space = padded(self.record(location).len());
        let id = location.segment();
        let owned = self.owned(id);
        assert!(owned.live >= space, "a record is released once");
        owned.live -= space;
        let is_empty = owned.live == 0;
        self.live -= space as u64;
        if is_empty && id != self.open {
            self.retire(id);
        }
        space
    }

    fn owned(&mut self, id: u32) -> &mut Owned {
        let Some(owned) = &mut self.segments[id as usize] else { unreachable!("a segment in use has memory") };
        owned
    }

    /// Seals the open segment and opens another.
    fn open_next(&mut self) {
        let sealed = self.open;
        let segment = Arc::new(Segment::new(self.directory.held()));
        let id = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let id = id.unwrap_or_else(|| {
            self.segments.push(None);
            u32::try_from(self.segments.len() - 1).unwrap_or(u32::MAX)
        });
        assert!(id <= MAX_SEGMENT, "an arena holds 2^30 segments at most");
        self.directory.publish(id, &segment);
        let (clears, freezes) = (self.clears, self.freezes);
        self.segments[id as usize] = Some(Owned { segment, used: 0, live: 0, owners: Arc::default(), clears, freezes });
        self.open = id;
        if self.segments[sealed as usize].as_ref().is_some_and(|owned| owned.live == 0) {
            self.retire(sealed);
        }
    }

    fn retire(&mut self, id: u32) {
        let Some(owned) = self.segments[id as usize].take() else { return };
        self.used -= owned.used as u64;
        self.leave(id);
        #[cfg(test)]
        if self.frees_early {
            return;
        }
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
        let guard = crossbeam_epoch::pin();
        guard.defer(move || drop(segments));
        guard.flush();
    }
}

#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod tests {
    use std::time::{Duration, Instant};

    use larder_types::limits::MAX_RECORD_BYTES;

    use super::*;
    use crate::record::row::RowWriter;

    pub(crate) const OWNER: CollectionId = CollectionId(1);

    /// A record of this many bytes.
    pub(crate) fn record(len: usize, version: u64) -> Vec<u8> {
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
        let locations: Vec<_> = records.iter().map(|record| arena.append(OWNER, record)).collect();
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
        let locations: Vec<_> = (0..9).map(|_| arena.append(OWNER, &largest)).collect();
        assert_eq!(in_use(&arena), 3);
        assert!(locations.iter().all(|location| arena.record(*location) == largest));
    }

    #[test]
    fn a_segment_goes_when_its_last_record_does() {
        let mut arena = Arena::new();
        let large = record(MAX_RECORD_BYTES, 1);
        let first: Vec<_> = (0..4).map(|_| arena.append(OWNER, &large)).collect();
        let next = arena.append(OWNER, &large);
        first[..3].iter().for_each(|location| arena.release(*location));
        assert_eq!(in_use(&arena), 2);
        arena.release(first[3]);
        assert_eq!(in_use(&arena), 1);
        arena.release(next);
        assert_eq!(in_use(&arena), 1, "the open segment stays");
        let filled: Vec<_> = (0..4).map(|_| arena.append(OWNER, &large).segment()).collect();
        assert_eq!(filled, [next.segment(), next.segment(), next.segment(), filled[3]]);
        assert_eq!(in_use(&arena), 2, "dead records still take their space in it");
    }

    #[test]
    fn an_open_segment_without_live_records_goes_when_it_is_sealed() {
        let mut arena = Arena::new();
        let large = record(MAX_RECORD_BYTES, 1);
        for _ in 0..40 {
            let location = arena.append(OWNER, &large);
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
        let first = arena.append(OWNER, &large);
        let churn = |arena: &mut Arena| {
            let location = arena.append(OWNER, &large);
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
}
