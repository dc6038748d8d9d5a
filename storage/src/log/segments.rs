//! What the log knows of its segments: how long they are, and which entries keep each of them.

use std::collections::{BTreeMap, VecDeque};

use larder_types::ids::GroupId;

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentInfo {
    /// Its place in the log.
    pub(super) sequence: u64,
    /// Length of its file.
    pub(super) bytes: u64,
    /// The greatest index of each group that has entries in it, truncated ones included.
    pub(super) newest: BTreeMap<GroupId, u64>,
}

/// All segments, oldest first. The last one is being written and always needed.
#[derive(Debug, Default)]
pub(super) struct Segments(pub(super) VecDeque<SegmentInfo>);

impl SegmentInfo {
    pub(super) fn new(sequence: u64, bytes: u64) -> Self {
        Self { sequence, bytes, newest: BTreeMap::new() }
    }

    /// Notes an entry that the segment holds.
    pub(super) fn note(&mut self, group: GroupId, index: u64) {
        let newest = self.newest.entry(group).or_insert(index);
        *newest = index.max(*newest);
    }

    /// Notes that nobody needs a group's entries in it any more.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.newest.remove(&group);
    }
}

impl Segments {
    /// Notes that nobody needs a group's entries any more, whatever their indexes.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.0.iter_mut().for_each(|segment| segment.forget(group));
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|segment| segment.bytes).sum()
    }

    /// The oldest segment, if nobody needs it: it is not the last, and all groups have purged what they have in it.
    /// `first` tells the index of a group's first entry that is not purged.
    pub(super) fn dead(&self, first: impl Fn(GroupId) -> u64) -> Option<&SegmentInfo> {
        let oldest = self.0.front().filter(|_| self.0.len() > 1)?;
        oldest.newest.iter().all(|(&group, &newest)| newest < first(group)).then_some(oldest)
    }

    /// For each segment that would have to go for the rest to fit the budget, oldest first: what it holds.
    pub(super) fn beyond(&self, budget_bytes: u64) -> Vec<BTreeMap<GroupId, u64>> {
        let mut bytes = self.bytes();
        let mut beyond = Vec::new();
        for segment in self.0.iter().take(self.0.len().saturating_sub(1)) {
            if bytes <= budget_bytes {
                break;
            }
            bytes -= segment.bytes;
            beyond.push(segment.newest.clone());
        }
        beyond
    }
}
