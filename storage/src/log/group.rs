//! One group's log in memory: the index of its entries, and the payloads that are cached.
//!
//! Invariants:
//! 1. Entries are contiguous: `slots[i]` has the index `first + i`, and `first` follows what was purged.
//! 2. A slot has a payload or a place on disk, or both. Only the writer's thread gives places and takes payloads away.
//! 3. Each slot has a number of its own. The writer names slots by index and number, so that it never mistakes an entry
//!    for the one it replaced at the same index.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use larder_types::ids::{GroupId, ReplicaId};

use super::segment::Segment;
use super::{EntryKind, GroupState, LogEntry, LogId, Vote, frame, lock};

/// A group with its locks. `order` is held from a change in memory until it is queued for the writer, so that both see
/// the same order; `state` never is, so that the writer can always get it.
pub(super) struct GroupCell {
    pub(super) id: GroupId,
    order: Mutex<()>,
    state: Mutex<Group>,
}

/// What a group's log amounts to.
#[derive(Default)]
pub(super) struct Group {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    slots: VecDeque<Slot>,
    /// Bytes of the frames of all slots.
    bytes: u64,
    next_number: u64,
}

/// An entry.
#[derive(Clone)]
pub(super) struct Slot {
    number: u64,
    term: u64,
    leader: ReplicaId,
    kind: EntryKind,
    payload_bytes: u32,
    payload: Option<Bytes>,
    place: Option<Place>,
}

/// Where an entry's frame is.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u32,
}

/// An entry that is to be read, without a lock, from memory or disk.
pub(super) enum Found {
    Cached(LogEntry),
    OnDisk { id: LogId, kind: EntryKind, payload_bytes: usize, place: Place },
}

impl GroupCell {
    pub(super) fn new(id: GroupId, group: Group) -> Arc<Self> {
        Arc::new(Self { id, order: Mutex::default(), state: Mutex::new(group) })
    }

    pub(super) fn order(&self) -> MutexGuard<'_, ()> {
        lock(&self.order)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, Group> {
        lock(&self.state)
    }
}

impl Group {
    /// A group as it was recovered: its entries are on disk and none is cached.
    pub(super) fn recovered(state: &GroupState, slots: VecDeque<Slot>) -> Self {
        let bytes = slots.iter().map(Slot::frame_bytes).sum();
        let (vote, committed, purged) = (state.vote, state.committed, state.purged);
        Self { vote, committed, purged, slots, bytes, next_number: 0 }
    }

    pub(super) fn state(&self) -> GroupState {
        let last = self.slots.len().checked_sub(1).map(|at| self.slots[at].id(self.first() + at as u64));
        GroupState { vote: self.vote, committed: self.committed, purged: self.purged, last: last.or(self.purged) }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entries, and the bytes of memory of their places.
    pub(super) fn index_size(&self) -> (u64, u64) {
        (self.slots.len() as u64, (self.slots.capacity() * size_of::<Slot>()) as u64)
    }

    /// The index of the first entry, or of the next one if there is none.
    pub(super) fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    /// The index of the entry that may be appended.
    pub(super) fn next(&self) -> u64 {
        self.first() + self.slots.len() as u64
    }

    /// The log id of an entry.
    pub(super) fn id_at(&self, index: u64) -> Option<LogId> {
        Some(self.slots.get(self.position(index)?)?.id(index))
    }

    /// Appends entries, which follow the last without a gap, and returns the number of the first.
    pub(super) fn append(&mut self, entries: &[LogEntry]) -> u64 {
        let first = self.next_number;
        for entry in entries {
            let slot = Slot {
                number: self.next_number,
                term: entry.id.term,
                leader: entry.id.leader,
                kind: entry.kind,
                payload_bytes: u32::try_from(entry.payload.len()).unwrap_or(u32::MAX),
                payload: Some(entry.payload.clone()),
                place: None,
            };
            self.next_number += 1;
            self.bytes += slot.frame_bytes();
            self.slots.push_back(slot);
        }
        first
    }

    /// Removes the entries from this index on. Returns whether there were any.
    pub(super) fn truncate_from(&mut self, index: u64) -> bool {
        let keep = index.saturating_sub(self.first());
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).min(self.slots.len());
        let gone: u64 = self.slots.range(keep..).map(Slot::frame_bytes).sum();
        let any = keep < self.slots.len();
        self.slots.truncate(keep);
        self.bytes -= gone;
        any
    }

    /// Removes the entries up to and including this one. Returns whether that is news.
    pub(super) fn purge(&mut self, upto: LogId) -> bool {
        let Some(count) = (upto.index + 1).checked_sub(self.first()).filter(|&count| count > 0) else {
            return false;
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.slots.len());
        let gone: u64 = self.slots.drain(..count).map(|slot| slot.frame_bytes()).sum();
        self.bytes -= gone;
        self.purged = Some(upto);
        true
    }

    /// Is as if nothing had ever been in it. Numbers of slots go on: what is on its way to disk is nobody's any more.
    pub(super) fn forget(&mut self) {
        *self = Self { next_number: self.next_number, ..Self::default() };
    }

    pub(super) fn set_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
    }

    /// Notes how far the log is committed. Returns whether that is news.
    pub(super) fn set_committed(&mut self, committed: Option<LogId>) -> bool {
        let news = self.committed != committed;
        self.committed = committed;
        news
    }

    /// The entries in this range that exist; at least one, else as many as fit.
    pub(super) fn find(&self, range: Range<u64>, max_bytes: u64) -> Vec<Found> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in range.start.max(self.first())..range.end.min(self.next()) {
            let Some(slot) = self.position(index).and_then(|at| self.slots.get(at)) else { break };
            bytes += u64::from(slot.payload_bytes);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.extend(slot.find(index));
        }
        found
    }

    /// Notes where an entry is on disk, if it still is the one of that number.
    pub(super) fn place(&mut self, index: u64, number: u64, place: Place) {
        if let Some(slot) = self.slot_mut(index, number) {
            slot.place = Some(place);
        }
    }

    /// Forgets the payload of an entry that is on disk, if it still is the one of that number.
    pub(super) fn evict(&mut self, index: u64, number: u64) {
        if let Some(slot) = self.slot_mut(index, number)
            && slot.place.is_some()
        {
            slot.payload = None;
        }
    }

    fn slot_mut(&mut self, index: u64, number: u64) -> Option<&mut Slot> {
        let at = self.position(index)?;
        self.slots.get_mut(at).filter(|slot| slot.number == number)
    }

    fn position(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.first())?).ok()
    }
}

impl Slot {
    /// An entry that was found on disk.
    pub(super) fn on_disk(id: LogId, kind: EntryKind, payload_bytes: u32, place: Place) -> Self {
        // No entry that is being written has this number.
        let number = u64::MAX;
        Self { number, term: id.term, leader: id.leader, kind, payload_bytes, payload: None, place: Some(place) }
    }

    pub(super) fn id(&self, index: u64) -> LogId {
        LogId { term: self.term, leader: self.leader, index }
    }

    fn frame_bytes(&self) -> u64 {
        frame::frame_bytes(self.payload_bytes as usize) as u64
    }

    /// By invariant 2 one of the two is there.
    fn find(&self, index: u64) -> Option<Found> {
        let (id, kind) = (self.id(index), self.kind);
        if let Some(payload) = &self.payload {
            return Some(Found::Cached(LogEntry { id, kind, payload: payload.clone() }));
        }
        let payload_bytes = self.payload_bytes as usize;
        self.place.clone().map(|place| Found::OnDisk { id, kind, payload_bytes, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, FakeDisk};

    fn entry(term: u64) -> LogEntry {
        let id = LogId { term, leader: ReplicaId(1), index: 0 };
        LogEntry { id, kind: EntryKind::Command, payload: Bytes::from(vec![7; 10]) }
    }

    fn place() -> Place {
        let disk = FakeDisk::new();
        disk.create_dir("d".as_ref()).unwrap();
        let file = disk.create("d/f".as_ref()).unwrap();
        Place { segment: Arc::new(Segment { sequence: 1, salt: 0, bytes: 0, file }), offset: 0 }
    }

    #[test]
    fn an_entry_that_was_replaced_is_not_mistaken_for_the_new_one() {
        let mut group = Group::default();
        let old = group.append(&[entry(1)]);
        assert!(group.truncate_from(0));
        let new = group.append(&[entry(2)]);
        group.place(0, old, place());
        assert!(group.slots[0].place.is_none());
        group.place(0, new, place());
        group.evict(0, old);
        assert!(group.slots[0].payload.is_some());
        group.evict(0, new);
        assert!(group.slots[0].payload.is_none());
    }

    #[test]
    fn an_entry_that_is_not_on_disk_keeps_its_payload() {
        let mut group = Group::default();
        let number = group.append(&[entry(1)]);
        group.evict(0, number);
        assert!(matches!(&group.find(0..1, 1)[..], [Found::Cached(found)] if *found == entry(1)));
    }
}
