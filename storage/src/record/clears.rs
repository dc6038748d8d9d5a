//! Clearing a sync in all records of a collection at once, by counting instead of visiting.
//!
//! Every group of fields in a record carries the number of clears that its sync had seen when the group was written.
//! Adding one to the sync's number makes all older groups absent, for readers and for the next merge, which drops them.
//!
//! Invariant: a record in a table holds no group of a future number, except for readers that still see an earlier state
//! of the collection; so a group is absent if its number is *below* the sync's, and counts otherwise.

use larder_types::ids::SyncSlot;

/// The clears of all syncs of one collection in one shard. Never changes once readers may see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clears(Vec<Clear>);

/// What is known of the clears of one sync.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Clear {
    /// Their number, since the table was last rewritten. Above 255, which no group carries, until that is done.
    pub(crate) count: u16,
    /// The log index of the last one: the version of the records that it changed. 0 if there was none.
    pub(crate) index: u64,
}

impl Clears {
    pub(crate) fn of(&self, slot: SyncSlot) -> Clear {
        self.0.get(usize::from(slot.0)).copied().unwrap_or_default()
    }

    /// These clears, but for one sync.
    #[must_use]
    pub(crate) fn with(&self, slot: SyncSlot, clear: Clear) -> Self {
        let mut all = self.0.clone();
        let at = usize::from(slot.0);
        if all.len() <= at {
            all.resize(at + 1, Clear::default());
        }
        all[at] = clear;
        Self(all)
    }

    /// The syncs that were ever cleared, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SyncSlot, Clear)> + '_ {
        (0..=u8::MAX).map(SyncSlot).zip(self.0.iter().copied()).filter(|(_, clear)| *clear != Clear::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_cleared_one_by_one() {
        let last = SyncSlot(255);
        let clears = Clears::default().with(SyncSlot(3), Clear { count: 1, index: 9 });
        let clears = clears.with(last, Clear { count: 2, index: 11 });
        assert_eq!(clears.of(SyncSlot(3)), Clear { count: 1, index: 9 });
        assert_eq!(clears.of(SyncSlot(4)), Clear::default());
        assert_eq!(clears.iter().map(|(slot, _)| slot).collect::<Vec<_>>(), [SyncSlot(3), last]);
    }
}
