//! Loading the arena segments of a snapshot: read once from front to back, copied, checked and counted by several threads.
//!
//! Invariants:
//! 1. A record is live if a word leads to its place, as for the cleaner. Of each live record the key and the groups are
//!    checked, and the fields too unless this node has written them itself; of the others the length and the key are,
//!    which is all that is read of them later.
//! 2. Nothing is taken from the snapshot that can be counted: what the shard counts of its records comes from the records.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use larder_types::hash::KeyHash;
use larder_types::ids::CollectionId;

use super::meta::{CollectionMeta, Meta};
use super::tally::Tally;
use super::{Origin, ShardError};
use crate::arena::image::LoadedSegment;
use crate::arena::location::{ALIGNMENT, Location, SEGMENT_BYTES};
use crate::arena::padded;
use crate::prefetch::GROUP;
use crate::record::cursor::Malformed;
use crate::record::intern::Pools;
use crate::record::row::Row;
use crate::snapshot::Snapshot;
use crate::table::writer::TableWriter;

/// Which records are live.
pub(super) enum Live<'a> {
    /// Those to which these tables, in the order of the collections, lead from their keys.
    Found(&'a [TableWriter]),
    /// Those that have a mark.
    Marked(&'a Marks),
}

/// Marks on places of records.
pub(super) struct Marks {
    /// For each segment a bit for each place.
    segments: Vec<Vec<u64>>,
    count: u64,
}

/// What is loaded.
pub(super) struct Loader<'a> {
    pub(super) seed: u64,
    pub(super) snapshot: &'a Snapshot,
    pub(super) meta: &'a Meta,
    /// Of each collection.
    pub(super) pools: &'a [Arc<Pools>],
    pub(super) origin: Origin,
    /// The block of the first segment.
    pub(super) first_block: usize,
    pub(super) live: Live<'a>,
    /// Counts the bytes of segments.
    pub(super) held: &'a Arc<AtomicU64>,
}

/// What has been loaded, by one thread or by all.
pub(super) struct Loaded {
    /// With their places in the snapshot.
    pub(super) segments: Vec<(usize, LoadedSegment)>,
    /// Of the live records of each collection.
    pub(super) tallies: Vec<Tally>,
    /// Live records that a lookup compares to each other, which must have different keys.
    pub(super) rivals: Vec<(Location, Location)>,
}

/// A record that may be live.
struct Candidate<'a> {
    location: Location,
    record: &'a [u8],
    hash: KeyHash,
    /// The place of its collection, if there still is such a collection.
    owner: Option<usize>,
}

impl Marks {
    pub(super) fn new(segments: usize) -> Self {
        Self { segments: vec![vec![0; SEGMENT_BYTES / ALIGNMENT / 64]; segments], count: 0 }
    }

    /// Marks a place.
    pub(super) fn mark(&mut self, location: Location) -> Result<(), Malformed> {
        let (at, bit) = Self::place(location);
        let segment = (location.segment() as usize).checked_sub(1).and_then(|number| self.segments.get_mut(number));
        let word = &mut segment.ok_or(Malformed("a word leads to a segment that is missing"))?[at];
        if *word & bit != 0 {
            return Err(Malformed("two words lead to one record"));
        }
        *word |= bit;
        self.count += 1;
        Ok(())
    }

    /// The number of marks.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Whether a place in a segment that there is has a mark.
    pub(super) fn has(&self, location: Location) -> bool {
        let (at, bit) = Self::place(location);
        self.segments[location.segment() as usize - 1][at] & bit != 0
    }

    fn place(location: Location) -> (usize, u64) {
        let place = location.offset() / ALIGNMENT;
        (place / 64, 1 << (place % 64))
    }
}

impl Loader<'_> {
    /// Loads all segments, on so many threads.
    pub(super) fn load(&self, threads: usize) -> Result<Loaded, ShardError> {
        let next = AtomicUsize::new(0);
        let mut shares = thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| self.work(&next))).collect();
            let mut shares = vec![self.work(&next)];
            shares
                .extend(others.into_iter().map(|other| other.join().unwrap_or_else(|p| std::panic::resume_unwind(p))));
            shares
        })
        .into_iter();
        let mut all = Loaded::new(self.meta.collections.len());
        shares.try_for_each(|share| share.map(|share| all.add(share)))?;
        all.segments.sort_unstable_by_key(|(number, _)| *number);
        Ok(all)
    }

    /// Loads one segment after the other, as long as there are any that nobody has begun.
    fn work(&self, next: &AtomicUsize) -> Result<Loaded, ShardError> {
        let mut share = Loaded::new(self.meta.collections.len());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.meta.segments.len() {
                return Ok(share);
            }
            let segment = self.segment(number, &mut share).inspect_err(|_| {
                // The others need not go on.
                next.store(self.meta.segments.len(), Ordering::Relaxed);
            })?;
            share.segments.push((number, segment));
        }
    }

    fn segment(&self, number: usize, share: &mut Loaded) -> Result<LoadedSegment, ShardError> {
        let image = self.snapshot.block(self.first_block + number)?;
        let owners = &self.meta.segments[number];
        if owners.last().is_none_or(|(offset, _)| *offset >= image.len()) {
            return Err(Malformed("a segment has records of nobody").into());
        }
        let mut segment = LoadedSegment::new(image, owners.clone(), self.held)?;
        segment.live = self.count(number, &segment, share)?;
        Ok(segment)
    }

    /// Counts the live records of a segment, and returns the space that they take.
    fn count(&self, number: usize, segment: &LoadedSegment, share: &mut Loaded) -> Result<usize, Malformed> {
        let id = u32::try_from(number + 1).map_err(|_| Malformed("it has more segments than an arena"))?;
        let mut owners = Owner::new(segment.owners(), &self.meta.collections);
        let mut group = Vec::with_capacity(GROUP);
        let mut live = 0;
        let mut records = segment.records();
        loop {
            for item in records.by_ref().take(GROUP) {
                let (offset, record) = item?;
                let hash = KeyHash::of(self.seed, Row::split(record)?.key);
                let owner = owners.at(offset);
                self.live.prefetch(owner, hash);
                group.push(Candidate { location: Location::new(id, offset), record, hash, owner });
            }
            if group.is_empty() {
                return Ok(live);
            }
            for candidate in group.drain(..) {
                if self.live.is_live(&candidate, &mut share.rivals) {
                    self.tally(&candidate, share)?;
                    live += padded(candidate.record.len());
                }
            }
        }
    }

    /// Checks and counts a live record.
    fn tally(&self, candidate: &Candidate<'_>, share: &mut Loaded) -> Result<(), Malformed> {
        let owner = candidate.owner.ok_or(Malformed("a record belongs to no collection"))?;
        let collection = &self.meta.collections[owner];
        let row = match self.origin {
            Origin::Own => Row::check_frame(candidate.record)?,
            Origin::Peer => Row::check(candidate.record, &self.pools[owner])?,
        };
        if row.version(&collection.clears) > self.meta.applied {
            return Err(Malformed("a record is newer than the snapshot"));
        }
        if row.groups().any(|group| usize::from(group.clears) > collection.clears.of(group.slot).len()) {
            return Err(Malformed("a record has seen clears that never were"));
        }
        share.tallies[owner].add(row, &collection.clears);
        Ok(())
    }
}

impl Live<'_> {
    fn prefetch(&self, owner: Option<usize>, hash: KeyHash) {
        if let (Self::Found(tables), Some(owner)) = (self, owner) {
            tables[owner].prefetch_bucket(hash);
        }
    }

    fn is_live(&self, candidate: &Candidate<'_>, rivals: &mut Vec<(Location, Location)>) -> bool {
        let Candidate { location, hash, owner, .. } = *candidate;
        match self {
            Self::Marked(marks) => marks.has(location),
            Self::Found(tables) => {
                let before = rivals.len();
                let other = |other| rivals.push((location, other));
                let is_live = owner.is_some_and(|owner| tables[owner].leads_to(hash, location, other));
                // A dead record's rival is the next version of the same.
                if !is_live {
                    rivals.truncate(before);
                }
                is_live
            }
        }
    }
}

impl Loaded {
    fn new(collections: usize) -> Self {
        let tallies = (0..collections).map(|_| Tally::default()).collect();
        Self { segments: Vec::new(), tallies, rivals: Vec::new() }
    }

    fn add(&mut self, share: Self) {
        self.segments.extend(share.segments);
        self.rivals.extend(share.rivals);
        self.tallies.iter_mut().zip(&share.tallies).for_each(|(all, one)| all.merge(one));
    }
}

/// Whose the records of a segment are, while it is walked.
struct Owner<'a> {
    rest: &'a [(usize, CollectionId)],
    collections: &'a [CollectionMeta],
    current: Option<usize>,
}

impl<'a> Owner<'a> {
    fn new(owners: &'a [(usize, CollectionId)], collections: &'a [CollectionMeta]) -> Self {
        Self { rest: owners, collections, current: None }
    }

    /// The place of the collection of the record at this offset. Offsets must ascend.
    fn at(&mut self, offset: usize) -> Option<usize> {
        while let [(from, id), rest @ ..] = self.rest
            && *from <= offset
        {
            self.current = self.collections.binary_search_by_key(id, |collection| collection.id).ok();
            self.rest = rest;
        }
        self.current
    }
}
