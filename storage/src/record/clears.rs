//! Clearing a sync in all records of a collection at once, by counting instead of visiting.
//!
//! Every group of fields in a record carries the number of clears that its sync had seen when the group was written.
//! One clear more makes all of these groups absent, for readers and for the next merge, which drops them. The clear that
//! a group has not seen is also the record's last change, so the log index of each clear is kept: at most 255 for a
//! sync, since a group counts no further and the table is rewritten before it would have to.
//!
//! Invariant: a record holds no group that has seen more clears than there were, except for readers that still see an
//! earlier state of the collection; for these such a group counts as present.

use larder_types::ids::SyncSlot;

/// Most clears that a group can count.
pub(crate) const MAX_CLEARS: usize = u8::MAX as usize;

/// For each sync of one collection in one shard, by slot, the log indexes of its clears in order. Never changes once
/// readers may see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clears(Vec<Vec<u64>>);

impl Clears {
    /// No sync was ever cleared.
    pub(crate) const fn none() -> Self {
        Self(Vec::new())
    }

    /// The log indexes of the sync's clears.
    pub(crate) fn of(&self, slot: SyncSlot) -> &[u64] {
        self.0.get(usize::from(slot.0)).map_or(&[], Vec::as_slice)
    }

    /// The log index of the clear that made a group absent which has seen this many; `None` if it is present.
    pub(crate) fn after(&self, slot: SyncSlot, seen: u8) -> Option<u64> {
        self.of(slot).get(usize::from(seen)).copied()
    }

    /// The number of clears that a new group has seen.
    pub(crate) fn seen(&self, slot: SyncSlot) -> u8 {
        let count = u8::try_from(self.of(slot).len());
        assert!(count.is_ok(), "the table is rewritten before a group could not count the clears of its sync");
        count.unwrap_or(u8::MAX)
    }

    /// These clears, but for one sync.
    #[must_use]
    pub(crate) fn with(&self, slot: SyncSlot, indexes: Vec<u64>) -> Self {
        let mut all = self.0.clone();
        let at = usize::from(slot.0);
        if all.len() <= at {
            all.resize(at + 1, Vec::new());
        }
        all[at] = indexes;
        Self(all)
    }

    /// The syncs that were cleared, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SyncSlot, &[u64])> + '_ {
        let all = (0..=u8::MAX).map(SyncSlot).zip(self.0.iter().map(Vec::as_slice));
        all.filter(|(_, indexes)| !indexes.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_cleared_one_by_one() {
        let last = SyncSlot(255);
        let clears = Clears::default().with(SyncSlot(3), vec![9]).with(last, vec![11, 12]);
        assert_eq!((clears.seen(SyncSlot(3)), clears.seen(SyncSlot(4)), clears.seen(last)), (1, 0, 2));
        assert_eq!(clears.iter().collect::<Vec<_>>(), [(SyncSlot(3), &[9][..]), (last, &[11, 12])]);
    }

    #[test]
    fn a_group_is_absent_since_the_first_clear_that_it_has_not_seen() {
        let clears = Clears::default().with(SyncSlot(3), vec![9, 11]);
        let after = [0, 1, 2, 3].map(|seen| clears.after(SyncSlot(3), seen));
        assert_eq!(after, [Some(9), Some(11), None, None]);
        assert_eq!(clears.after(SyncSlot(4), 0), None);
    }
}
