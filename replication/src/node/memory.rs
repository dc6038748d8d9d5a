//! The memory limit: patches that may make records grow are refused before a node has more of them than it may.
//!
//! Invariants:
//! 1. It is decided before proposing. What is in the log is applied, whatever it takes.
//! 2. It is decided by what is stored and was applied, not by where the records lie in memory.
//! 3. What makes room is never refused: deletes, clears, fences, sweeps, and dropping collections.
//!
//! The rest of the limit is for what that measure leaves out: dead records that are not cleaned up yet, which are up to
//! 15 percent, and writes in flight when the limit is reached.

use std::sync::Arc;

use bytes::Bytes;
use larder_storage::command::may_grow;
use larder_storage::shard::{ShardMemory, ShardReader};

use super::error::ProposeError;
use super::replicas::Replicas;
use super::status::MemoryStatus;
use crate::catalog::{DETAIL_BYTES, RunsReader};

/// Percent of the limit that may be used.
const USABLE_PERCENT: u64 = 85;

/// Watches over the memory of all shards.
pub(super) struct MemoryLimit {
    /// Bytes that the node's records may take in all.
    max: u64,
    replicas: Arc<Replicas>,
    runs: RunsReader,
}

impl MemoryLimit {
    pub(super) fn new(max: u64, replicas: Arc<Replicas>, runs: RunsReader) -> Self {
        Self { max, replicas, runs }
    }

    /// Refuses entries that may make records grow if the limit is reached.
    ///
    /// # Errors
    /// `MemoryLimit`.
    pub(super) fn admit<'a>(&self, entries: impl IntoIterator<Item = &'a Bytes>) -> Result<(), ProposeError> {
        let (used, usable) = (self.used(), usable(self.max));
        if used < usable || !entries.into_iter().any(|entry| may_grow(entry)) {
            return Ok(());
        }
        Err(ProposeError::MemoryLimit { used, usable, max: self.max })
    }

    /// What counts against the limit.
    fn used(&self) -> u64 {
        let replicas = self.replicas.all();
        let shards = replicas.iter().filter_map(|replica| replica.reader.as_ref());
        shards.map(ShardReader::bytes).sum::<u64>() + beyond_reserve(self.runs.detail_bytes())
    }

    /// Numbers for the operator.
    pub(super) fn status(&self) -> MemoryStatus {
        let replicas = self.replicas.all();
        let shards: Vec<_> = replicas.iter().filter_map(|replica| replica.reader.as_ref()).collect();
        let sum = |of: fn(&ShardMemory) -> u64| shards.iter().map(|reader| of(&reader.memory())).sum();
        MemoryStatus {
            bytes: self.used(),
            usable_bytes: usable(self.max),
            max_bytes: self.max,
            content_bytes: sum(|shard| shard.content_bytes),
            table_bytes: sum(|shard| shard.table_bytes),
            dictionary_bytes: sum(|shard| shard.dictionary_bytes),
            batch_bytes: sum(|shard| shard.batch_bytes),
            run_bytes: self.runs.detail_bytes(),
            arena_bytes: sum(|shard| shard.arena_bytes),
        }
    }
}

/// What the catalog remembers of runs beyond what a node sets aside for it, which is what ended runs may take: only open
/// runs with very many batches take more.
fn beyond_reserve(run_bytes: u64) -> u64 {
    run_bytes.saturating_sub(DETAIL_BYTES)
}

/// Bytes of a limit that may be used.
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
