//! Counting the records of a collection one by one, to the numbers that a table keeps of them.

use std::sync::atomic::Ordering;

use larder_types::ids::SyncSlot;

use crate::record::clears::Clears;
use crate::record::row::Row;
use crate::table::Counters;

/// What was counted.
pub(super) struct Tally {
    pub(super) records: u64,
    content_bytes: u64,
    /// Bytes of groups that a clear has made absent.
    pub(super) stale: u64,
    /// Records in which a sync has fields, and the bytes of these groups, by slot.
    slots: Box<[(u64, u64); 256]>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { records: 0, content_bytes: 0, stale: 0, slots: Box::new([(0, 0); 256]) }
    }
}

impl Tally {
    /// Counts a record.
    pub(super) fn add(&mut self, row: Row<'_>, clears: &Clears) {
        self.records += 1;
        self.content_bytes += row.content_len(clears) as u64;
        self.stale += row.stale_len(clears) as u64;
        for group in row.live(clears) {
            let (records, bytes) = &mut self.slots[usize::from(group.slot.0)];
            *records += 1;
            *bytes += group.encoded_len() as u64;
        }
    }

    /// Counts what another has counted.
    pub(super) fn merge(&mut self, other: &Self) {
        self.records += other.records;
        self.content_bytes += other.content_bytes;
        self.stale += other.stale;
        for ((records, bytes), (more, larger)) in self.slots.iter_mut().zip(other.slots.iter()) {
            *records += more;
            *bytes += larger;
        }
    }

    /// Makes it the numbers of a table.
    pub(super) fn store(&self, counters: &Counters) {
        counters.records.store(self.records, Ordering::Relaxed);
        counters.content_bytes.store(self.content_bytes, Ordering::Relaxed);
        for (slot, (records, bytes)) in (0..=u8::MAX).map(SyncSlot).zip(self.slots.iter()) {
            counters.of(slot).store(*records, Ordering::Relaxed);
            counters.bytes_of(slot).store(*bytes, Ordering::Relaxed);
        }
    }
}
