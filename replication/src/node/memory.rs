//! The memory limit: patches that may make records grow are refused before a node has more of them than it may.
//!
//! Invariants:
//! 1. It is decided before proposing. What is in the log is applied, whatever it takes.
//! 2. It is decided by what is stored and was applied, not by where the records lie in memory.
//! 3. What makes room is never refused: deletes, clears, fences, sweeps, and dropping collections.
//!
//! The rest of the limit is for what that measure leaves out: dead records that are not cleaned up yet, which are up to
//! 15 percent, and writes in flight when the limit is reached.

use bytes::Bytes;
use larder_storage::command::may_grow;
use larder_storage::shard::{ShardMemory, ShardReader};
use serde_json::json;

use super::error::ProposeError;

/// Percent of the limit that records and tables may take.
const USABLE_PERCENT: u64 = 85;

/// Watches over the memory of all shards.
pub(super) struct MemoryLimit {
    /// Bytes that the node's records may take in all.
    max: u64,
    /// By shard.
    readers: Vec<ShardReader>,
}

impl MemoryLimit {
    pub(super) fn new(max: u64, readers: Vec<ShardReader>) -> Self {
        Self { max, readers }
    }

    /// Refuses entries that may make records grow if the limit is reached.
    ///
    /// # Errors
    /// `MemoryLimit`.
    pub(super) fn admit<'a>(&self, entries: impl IntoIterator<Item = &'a Bytes>) -> Result<(), ProposeError> {
        let (used, usable) = (self.memory().bytes, usable(self.max));
        if used < usable || !entries.into_iter().any(|entry| may_grow(entry)) {
            return Ok(());
        }
        Err(ProposeError::MemoryLimit { used, usable, max: self.max })
    }

    /// What all shards take.
    fn memory(&self) -> ShardMemory {
        self.readers.iter().map(ShardReader::memory).fold(ShardMemory::default(), |sum, shard| ShardMemory {
            bytes: sum.bytes + shard.bytes,
            arena_bytes: sum.arena_bytes + shard.arena_bytes,
        })
    }

    /// Numbers for the operator.
    pub(super) fn status(&self) -> serde_json::Value {
        let ShardMemory { bytes, arena_bytes } = self.memory();
        json!({ "bytes": bytes, "usable_bytes": usable(self.max), "max_bytes": self.max, "arena_bytes": arena_bytes })
    }
}

/// Bytes that records and tables may take of a limit.
fn usable(max: u64) -> u64 {
    max / 100 * USABLE_PERCENT + max % 100 * USABLE_PERCENT / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_limit_is_usable() {
        assert_eq!([0, 1, 99, 100, 199, 1000].map(usable), [0, 0, 84, 85, 169, 850]);
        assert_eq!(usable(u64::MAX) / (1 << 60), 13);
    }
}
