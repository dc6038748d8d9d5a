//! Which segments are worth cleaning, and how much of it is due.
//!
//! A segment is cleaned by visiting all its records and moving those that are live to the open segment; then nothing in
//! it is live, and it is retired like any other. What moves a record knows tables, so it stands in `shard::cleaner`; what
//! is decided here needs none.
//!
//! Waste is what records take that are dead, or of which a clear has made groups absent. It is allowed to grow to
//! [`WASTE_PERCENT`] of what the arena holds: moving gets dearer the less of it is allowed (3.6 bytes moved for each
//! written with 15 % at random updates, 9 with 10 %, 49 with 5 %). The segment that gives back most goes first.
//!
//! Invariants:
//! 1. Cleaning is bounded: for each byte that was released, [`VISITED_PER_RELEASED`] may be visited, and a small part of
//!    a segment with every entry; never more than [`MAX_VISIT_BYTES`] at once. What is left is owed.
//! 2. The open segment is never cleaned; nor is one that a frozen arena holds, since that would free nothing: it is
//!    owed until the frozen arena has gone.
//! 3. The layout of an arena decides when records move and nothing else: all that can be seen of records stays.

use std::sync::Arc;

use larder_types::ids::CollectionId;

use super::location::{Location, SEGMENT_BYTES};
use super::{Arena, Owned, padded};
use crate::prefetch::GROUP;

/// Percent of the records' bytes in an arena that may be waste.
const WASTE_PERCENT: u64 = 15;
/// Waste that is allowed beyond it: as much as the open segment may hold, which cannot be cleaned, and as much again so
/// that small arenas are left alone.
const SPARE_BYTES: u64 = 2 * SEGMENT_BYTES as u64;
/// Bytes visited for each byte released, at most. Random updates need 4.6 of them, very skewed ones 6.3.
const VISITED_PER_RELEASED: u64 = 8;
/// Bytes that may be visited with any entry: a few hundred records, a fraction of a millisecond.
const MIN_VISIT_BYTES: u64 = 64 * 1024;
/// Bytes visited with one entry at most: only entries that release megabytes come near.
const MAX_VISIT_BYTES: u64 = 16 * SEGMENT_BYTES as u64;

/// The next record to visit in the segment that is being cleaned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    segment: u32,
    offset: usize,
    /// Which of the segment's owners the record before it had.
    owner: usize,
}

/// Records to be moved if they are live.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Whose they are.
    pub(crate) owner: CollectionId,
    pub(crate) locations: Vec<Location>,
    /// Bytes that they take.
    pub(crate) space: usize,
}

impl Arena {
    /// Bytes that may be visited now.
    pub(crate) fn due(&self) -> u64 {
        self.owed.clamp(MIN_VISIT_BYTES, MAX_VISIT_BYTES)
    }

    /// Notes that so many bytes were visited.
    pub(crate) fn pay(&mut self, visited: u64) {
        #[cfg(test)]
        {
            self.visited += visited;
        }
        self.owed = if self.is_wasteful() { self.owed.saturating_sub(visited) } else { 0 };
    }

    pub(super) fn owe(&mut self, released: usize) {
        self.owed += released as u64 * VISITED_PER_RELEASED;
    }

    /// Whether more is wasted than may be.
    pub(crate) fn is_wasteful(&self) -> bool {
        let waste = self.used - self.live + self.stale;
        let rest = self.live - self.stale;
        waste > SPARE_BYTES + rest * WASTE_PERCENT / (100 - WASTE_PERCENT)
    }

    /// The next records to visit, in the segment that is being cleaned or, if there is none, in the one that is worth
    /// most: a group, all of one collection, but no more than it takes to visit so many bytes. `None` if no segment is
    /// worth it.
    pub(crate) fn visit(&mut self, bytes: u64) -> Option<Visit> {
        let cursor = match self.cursor {
            Some(cursor) => cursor,
            None => Cursor { segment: self.victim()?, offset: 0, owner: 0 },
        };
        Some(self.visit_from(cursor, bytes))
    }

    fn visit_from(&mut self, Cursor { segment, mut offset, mut owner }: Cursor, bytes: u64) -> Visit {
        let Owned { owners, used, .. } = self.owned(segment);
        assert!(offset < *used, "a segment is retired when all its live records were moved");
        while owners.get(owner + 1).is_some_and(|(from, _)| *from <= offset) {
            owner += 1;
        }
        let id = owners[owner].1;
        let owned_to = owners.get(owner + 1).map_or(*used, |(from, _)| *from);
        let end = owned_to.min(offset.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX)));
        let start = offset;
        let mut locations = Vec::with_capacity(GROUP);
        while offset < end && locations.len() < GROUP {
            let location = Location::new(segment, offset);
            locations.push(location);
            offset += padded(self.record(location).len());
        }
        self.cursor = Some(Cursor { segment, offset, owner });
        Visit { owner: id, locations, space: offset - start }
    }

    /// Counts a record as dead that was visited and moved.
    pub(crate) fn release_moved(&mut self, location: Location) {
        self.bury(location);
    }

    /// Notes that the segment is gone.
    pub(super) fn leave(&mut self, id: u32) {
        self.cursor = self.cursor.filter(|cursor| cursor.segment != id);
    }

    /// Bytes of absent groups in live records.
    pub(crate) fn stale(&self) -> u64 {
        self.stale
    }

    /// Notes that groups in live records have become absent, so many bytes more than were counted.
    pub(crate) fn add_stale(&mut self, bytes: u64) {
        self.stale += bytes;
        self.clears += 1;
    }

    /// Notes that absent groups have come or gone with their records.
    pub(crate) fn count_stale(&mut self, before: u64, after: u64) {
        self.stale = self.stale + after - before;
    }

    /// The sealed segment in which most is wasted.
    fn victim(&self) -> Option<u32> {
        let held = Arc::strong_count(&self.frozen) > 1;
        let sealed = (0..).zip(&self.segments).filter(|(id, _)| *id != self.open);
        let free = sealed.filter_map(|(id, owned)| {
            let owned = owned.as_ref().filter(|owned| !held || owned.freezes == self.freezes)?;
            Some((self.waste_in(owned), id))
        });
        free.filter(|(waste, _)| *waste > 0).max_by_key(|(waste, _)| *waste).map(|(_, id)| id)
    }

    /// What is wasted in a segment. How much of it is stale is known for all segments together only, and shared out.
    fn waste_in(&self, owned: &Owned) -> u64 {
        let dead = (owned.used - owned.live) as u64;
        if self.stale == 0 || owned.clears == self.clears {
            return dead;
        }
        dead + (owned.live as u64 * self.stale / self.live).max(1)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
impl Arena {
    /// Opens another segment, so that all of now can be cleaned.
    pub(crate) fn seal(&mut self) {
        self.open_next();
    }

    /// The sealed segments, none of which is said to be worth cleaning.
    pub(crate) fn sealed(&self) -> Vec<u32> {
        let ids = (0..).zip(&self.segments).filter(|(id, owned)| owned.is_some() && *id != self.open);
        ids.map(|(id, _)| id).collect()
    }

    /// The next records to visit in this segment, until it is retired.
    pub(crate) fn visit_in(&mut self, segment: u32) -> Option<Visit> {
        self.segments[segment as usize].as_ref()?;
        let cursor = self.cursor.filter(|cursor| cursor.segment == segment);
        Some(self.visit_from(cursor.unwrap_or(Cursor { segment, offset: 0, owner: 0 }), u64::MAX))
    }
}
