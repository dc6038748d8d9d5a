//! A shard's state: its collections' tables, what it remembers of runs, and how entries change them.
//!
//! One writer (`Shard`, owned by whoever applies), many readers (`ShardReader`, cheap to clone, never blocks, never
//! retries for ever).
//!
//! Invariants:
//! 1. Apply reads only the entry and the state: no clock, no configuration, no randomness, no order of a hash map. Equal
//!    entries make equal states on all replicas.
//! 2. A part of a batch is applied once: the shard remembers for the newest generation of each sync which parts it has
//!    applied and what they did, and answers a repeat from memory.
//! 3. A reader that has seen an applied index sees everything that entries up to it have done.
//! 4. A frozen shard is the state at one index, whatever is applied later; it keeps the memory that it needs.

mod cleaner;
#[cfg(test)]
#[cfg(not(loom))]
mod cleaner_tests;
mod frozen;
#[cfg(test)]
#[cfg(not(loom))]
mod intern_tests;
mod loading;
mod meta;
#[cfg(test)]
#[cfg(not(loom))]
mod model_tests;
mod reader;
mod records;
#[cfg(test)]
#[cfg(not(loom))]
mod reference;
mod restore;
#[cfg(test)]
#[cfg(not(loom))]
mod restore_tests;
mod runs;
mod state;
#[cfg(test)]
#[cfg(not(loom))]
mod stress_tests;
mod tally;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use std::num::NonZeroUsize;
use std::sync::Arc;

use larder_types::ids::{ShardId, SyncSlot};

pub use self::frozen::FrozenShard;
pub use self::reader::ShardReader;
use self::reader::Shared;
use self::state::State;
use crate::command::Outcome;
use crate::command::decode::decode;
use crate::record::cursor::Malformed;
pub use crate::record::{GroupInfo, RecordView};
use crate::snapshot::{Snapshot, SnapshotError};

/// What distinguishes one shard from another.
#[derive(Debug, Clone, Copy)]
pub struct ShardOptions {
    /// Which shard of the cluster.
    pub id: ShardId,
    /// The seed of the placement hash, the same on all nodes.
    pub hash_seed: u64,
}

/// An entry or snapshot that cannot be what this node or its peers wrote: the replica must stop.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The bytes of an entry break the format.
    #[error("log entry {index} cannot be decoded: {what}")]
    Command {
        /// Its log index.
        index: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A snapshot's content breaks the format.
    #[error("the snapshot cannot be decoded: {0}")]
    Snapshot(&'static str),
    /// A snapshot's file is damaged.
    #[error(transparent)]
    File(#[from] SnapshotError),
}

impl From<Malformed> for ShardError {
    fn from(malformed: Malformed) -> Self {
        Self::Snapshot(malformed.0)
    }
}

/// Numbers of one collection in one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionStats {
    /// Records.
    pub records: u64,
    /// Bytes of memory: the content of its records, the table, what is remembered of batches, and the texts that records
    /// share. Depends on nothing but the entries that were applied.
    pub bytes: u64,
    /// Of these, bytes of the table.
    pub table_bytes: u64,
    /// Of these, bytes of what is remembered of the batches of open runs.
    pub batch_bytes: u64,
    /// Of these, bytes of the texts that stand in records as ids, and of what is kept of other fields to find out whether
    /// their texts should.
    pub dictionary_bytes: u64,
    /// Records in which a sync has fields, for each slot that has any.
    pub records_of: Vec<(SyncSlot, u64)>,
}

impl CollectionStats {
    /// Bytes of the content of its records.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.bytes - self.table_bytes - self.batch_bytes - self.dictionary_bytes
    }
}

/// What a shard takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardMemory {
    /// The sum of [`CollectionStats::bytes`]: the next four.
    pub bytes: u64,
    /// Bytes of the content of all records.
    pub content_bytes: u64,
    /// Bytes of all tables.
    pub table_bytes: u64,
    /// Bytes of what is remembered of the batches of open runs.
    pub batch_bytes: u64,
    /// Bytes of the texts that records share.
    pub dictionary_bytes: u64,
    /// Bytes of arena segments, in use or kept for snapshots and late readers. The cleaner keeps those in use below the
    /// records' bytes and a sixth, and a few segments.
    pub arena_bytes: u64,
}

/// Who has written a snapshot. Nobody's is trusted to be what memory must be; but what records say is taken from one's own
/// as it was written, which the checksums tell, since to check it takes as long as all else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This node.
    Own,
    /// Another: every field is checked.
    Peer,
}

/// A state that was read from a snapshot and is nobody's yet.
pub struct RestoredShard(State);

/// The writer's side of a shard.
pub struct Shard {
    options: ShardOptions,
    shared: Arc<Shared>,
    state: State,
}

impl Shard {
    /// An empty shard.
    #[must_use]
    pub fn new(options: ShardOptions) -> Self {
        let state = State::new(options.hash_seed);
        Self { options, shared: Arc::new(Shared::new(state.view())), state }
    }

    /// Which shard of the cluster this is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.options.id
    }

    /// A handle for readers. It stays valid when a snapshot is restored into the shard, and shows the last state when
    /// the shard is gone.
    #[must_use]
    pub fn reader(&self) -> ShardReader {
        ShardReader::new(self.shared.clone())
    }

    /// Applies the entry with this log index. The index becomes the version of the records it changes.
    ///
    /// # Errors
    /// When the bytes are no entry; the state is then as before and the replica must stop.
    pub fn apply(&mut self, index: u64, entry: &[u8]) -> Result<Outcome, ShardError> {
        let command = decode(entry).map_err(|error| ShardError::Command { index, what: error.0 })?;
        let outcome = self.state.apply(index, command, &self.shared);
        self.state.advance(index);
        Ok(outcome)
    }

    /// Notes that the log has passed an entry that does not concern the state (blank, membership).
    pub fn advance(&mut self, index: u64) {
        self.state.advance(index);
    }

    /// The shard as it is now, in microseconds: pages are shared and copied by the writer when it next touches them.
    pub fn freeze(&mut self) -> FrozenShard {
        FrozenShard::of(&mut self.state)
    }

    /// Reads a snapshot's state, on so many threads, to be put in the place of the present one by [`Shard::install`].
    ///
    /// # Errors
    /// When the file is damaged or the content breaks the format.
    pub fn read(
        &self,
        snapshot: &Snapshot,
        origin: Origin,
        threads: NonZeroUsize,
    ) -> Result<RestoredShard, ShardError> {
        restore::restore(self.options.hash_seed, snapshot, origin, threads.get()).map(RestoredShard)
    }

    /// Replaces the whole state by one that was read. Readers see the old state until then.
    pub fn install(&mut self, restored: RestoredShard) {
        self.shared.show(restored.0.view());
        // The old state goes only now that no new reader can reach it.
        self.state = restored.0;
    }

    /// The collections of which this shard holds anything.
    #[cfg(test)]
    pub(crate) fn collections(&self) -> Vec<larder_types::ids::CollectionId> {
        self.state.collections().collect()
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, State::new(self.options.hash_seed));
        self.shared.keep(state);
    }
}
