//! Arena segments as bytes in a snapshot, and an arena made from such bytes.
//!
//! The image of a segment is its records as they stand in memory, live and dead, up to where it was filled when the arena
//! was frozen. A snapshot numbers the segments from 1 in the order of their ids; an arena made from it uses the numbers
//! as ids.
//!
//! Invariants:
//! 1. A frozen arena keeps its segments, and what was in them does not change, whatever the writer appends behind it.
//! 2. An image is walked from record to record before an arena has it, and no location leads anywhere but to the start
//!    of one of these records: so wherever a reader goes, it finds a record that lies within its segment.

#![allow(unsafe_code, reason = "segments are read as a whole while the writer appends behind what is read")]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use larder_types::ids::CollectionId;

use super::location::{ALIGNMENT, SEGMENT_BYTES};
use super::segment::Segment;
use super::{Arena, Owned, Owners, padded};
use crate::record::cursor::Malformed;
use crate::record::row::{HEADER_BYTES, record_len};

/// The segments of an arena at one time, kept alive.
pub(crate) struct FrozenArena {
    /// In the order of their ids. Those without a record are left out.
    segments: Vec<FrozenSegment>,
    /// The id of the one that was open.
    open: u32,
    _kept: Arc<()>,
}

struct FrozenSegment {
    id: u32,
    segment: Arc<Segment>,
    used: usize,
    owners: Arc<Owners>,
}

/// A segment that was made from an image and belongs to no arena yet.
pub(crate) struct LoadedSegment {
    segment: Segment,
    used: usize,
    owners: Arc<Owners>,
    /// Bytes of live records with their padding. For whoever knows which are.
    pub(crate) live: usize,
}

/// Walks over the records of a segment: where each begins, and its bytes.
pub(crate) struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Arena {
    /// Keeps all segments of now.
    pub(crate) fn freeze(&mut self) -> FrozenArena {
        self.freezes += 1;
        // What is being cleaned is held from now on.
        self.cursor = None;
        let frozen = |(id, owned): (u32, &Option<Owned>)| {
            let Owned { segment, used, owners, .. } = owned.as_ref().filter(|owned| owned.used > 0)?;
            Some(FrozenSegment { id, segment: segment.clone(), used: *used, owners: owners.clone() })
        };
        let segments = (0..).zip(&self.segments).filter_map(frozen).collect();
        FrozenArena { segments, open: self.open, _kept: self.frozen.clone() }
    }

    /// Takes the segments of a snapshot in order, into an arena that has none. `open` is the number of the one to append
    /// to, 0 for none. `stale` counts the bytes of groups in live records that a clear has made absent.
    pub(crate) fn adopt(&mut self, loaded: Vec<LoadedSegment>, open: u32, stale: u64) -> Result<(), Malformed> {
        assert!(self.segments.len() == 1, "only a new arena adopts segments");
        if open as usize > loaded.len() {
            return Err(Malformed("the segment to append to is missing"));
        }
        for (id, LoadedSegment { segment, used, owners, live }) in (1..).zip(loaded) {
            // A sealed segment goes with its last live record, and there is none left to go.
            if live == 0 && id != open {
                return Err(Malformed("a segment has no live record"));
            }
            self.directory.publish(id, &segment);
            self.used += used as u64;
            self.live += live as u64;
            self.segments.push(Some(Owned { segment: Arc::new(segment), used, live, owners, clears: 0, freezes: 0 }));
        }
        self.open = open;
        // Each segment may have absent groups.
        self.add_stale(stale);
        Ok(())
    }
}

impl FrozenArena {
    /// For each id the number of its segment in the snapshot; 0 if it has none.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let mut numbers = vec![0; self.segments.last().map_or(0, |last| last.id as usize + 1)];
        (1..).zip(&self.segments).for_each(|(number, segment)| numbers[segment.id as usize] = number);
        numbers
    }

    /// The number of the open segment; 0 if there is none.
    pub(crate) fn open(&self) -> u32 {
        (1..).zip(&self.segments).find(|(_, frozen)| frozen.id == self.open).map_or(0, |(number, _)| number)
    }

    /// Whose records are where, for each segment.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &Arc<Owners>> {
        self.segments.iter().map(|frozen| &frozen.owners)
    }

    /// The segments' images.
    pub(crate) fn images(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: what was used at the freeze was written before it, without gaps, and does not change.
        self.segments.iter().map(|frozen| unsafe { frozen.segment.first(frozen.used) })
    }
}

impl LoadedSegment {
    /// A segment with this image, counted in `held`.
    pub(crate) fn new(image: &[u8], owners: Arc<Owners>, held: &Arc<AtomicU64>) -> Result<Self, Malformed> {
        if image.len() > SEGMENT_BYTES || !image.len().is_multiple_of(ALIGNMENT) {
            return Err(Malformed("a segment has a length that cannot be"));
        }
        let segment = Segment::new(held);
        // SAFETY: nobody else has the segment.
        unsafe { segment.write(0, image) };
        Ok(Self { segment, used: image.len(), owners, live: 0 })
    }

    /// Its records, which are those that will be served, and not those of the image.
    pub(crate) fn records(&self) -> Walk<'_> {
        // SAFETY: nobody writes to a segment before an arena has it, and then behind what is used.
        Walk { bytes: unsafe { self.segment.first(self.used) }, at: 0 }
    }

    /// Whose records begin where.
    pub(crate) fn owners(&self) -> &[(usize, CollectionId)] {
        &self.owners
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<(usize, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest.first_chunk::<HEADER_BYTES>().map_or(0, |header| record_len(*header));
        let Some(record) = rest.get(..length).filter(|_| length >= HEADER_BYTES) else {
            // There is no telling where the next one begins.
            self.bytes = &[];
            return Some(Err(Malformed("a segment holds what is no record")));
        };
        let offset = self.at;
        self.at += padded(length);
        Some(Ok((offset, record)))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use larder_types::limits::MAX_RECORD_BYTES;

    use super::super::tests::{OWNER, record};
    use super::*;

    fn images(frozen: &FrozenArena) -> Vec<Vec<u8>> {
        frozen.images().map(<[u8]>::to_vec).collect()
    }

    fn load(images: &[Vec<u8>], owners: &Arc<Owners>, live: usize) -> Vec<LoadedSegment> {
        let held = Arc::default();
        let load = |image: &Vec<u8>| LoadedSegment::new(image, owners.clone(), &held).unwrap();
        images.iter().map(|image| LoadedSegment { live, ..load(image) }).collect()
    }

    #[test]
    fn a_frozen_arena_keeps_what_is_released_and_does_not_see_what_comes() {
        let mut arena = Arena::new();
        let large = record(MAX_RECORD_BYTES, 1);
        let kept = arena.append(OWNER, &large);
        let frozen = arena.freeze();
        let before = images(&frozen);
        assert_eq!(before[0][..large.len()], large);
        arena.release(kept);
        (0..40).for_each(|version| {
            let location = arena.append(OWNER, &record(MAX_RECORD_BYTES, version));
            arena.release(location);
            crossbeam_epoch::pin().flush();
        });
        drop(arena);
        assert_eq!(images(&frozen), before);
    }

    #[test]
    fn segments_are_numbered_without_the_gaps_between_their_ids() {
        let mut arena = Arena::new();
        let large = record(MAX_RECORD_BYTES, 1);
        let locations: Vec<_> = (0..12).map(|_| arena.append(OWNER, &large)).collect();
        locations[4..8].iter().for_each(|location| arena.release(*location));
        let frozen = arena.freeze();
        assert_eq!((frozen.numbers(), frozen.open()), (vec![0, 1, 0, 2], 2));
        let mut copy = Arena::new();
        let owners = Arc::new(vec![(0, OWNER)]);
        copy.adopt(load(&images(&frozen), &owners, 4 * padded(large.len())), 2, 0).unwrap();
        assert_eq!(images(&copy.freeze()), images(&frozen));
        let next = copy.append(OWNER, &large);
        assert_eq!(next.segment(), 3, "the open segment was full");
    }

    #[test]
    fn segments_that_could_never_go_are_refused() {
        let images = [vec![0; 64]];
        let adopt = |open, live| Arena::new().adopt(load(&images, &Arc::default(), live), open, 0);
        assert_eq!((adopt(1, 0), adopt(1, 8), adopt(0, 8)), (Ok(()), Ok(()), Ok(())));
        assert!(adopt(0, 0).is_err() && adopt(2, 8).is_err());
    }

    #[test]
    fn a_walk_ends_at_what_is_no_record() {
        let first = record(30, 1);
        let mut image = [&first[..], &[0; 2], &record(41, 2), &[0; 7]].concat();
        let held = Arc::default();
        let walk = |image: &[u8]| {
            let loaded = LoadedSegment::new(image, Arc::default(), &held).unwrap();
            loaded.records().map(|item| item.map(|(offset, record)| (offset, record.len()))).collect::<Vec<_>>()
        };
        assert_eq!(walk(&image), [Ok((0, 30)), Ok((32, 41))]);
        // The second one's length is beyond the segment, or too small.
        for (at, byte) in [(33, 0xff), (32, 3)] {
            let before = std::mem::replace(&mut image[at], byte);
            assert!(matches!(walk(&image)[..], [Ok((0, 30)), Err(_)]), "byte {at}");
            image[at] = before;
        }
        assert!(LoadedSegment::new(&image[..30], Arc::default(), &held).is_err());
        assert!(LoadedSegment::new(&vec![0; SEGMENT_BYTES + 8], Arc::default(), &held).is_err());
    }
}
