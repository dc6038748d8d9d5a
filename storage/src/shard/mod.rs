//! A shard's state: its collections' tables, what it remembers of runs, and how entries change them.
//!
//! CONTRACT STUB: signatures for the other crates; the owner of `storage/` may add to, but not break, them.
//!
//! One writer (`Shard`, owned by whoever applies), many readers (`ShardReader`, cheap to clone, never blocks, never
//! retries for ever). Apply reads only the entry and the state: no clock, no configuration, no randomness.

use larder_types::hash::KeyHash;
use larder_types::ids::{CollectionId, Generation, Micros, ShardId, SyncSlot};

use crate::command::Outcome;
use crate::record::Dictionary;

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
}

/// The writer's side of a shard.
pub struct Shard {}

/// A shard as it was at one log index, to be written to a snapshot while the shard goes on.
pub struct FrozenShard {}

/// The readers' side of a shard.
#[derive(Clone)]
pub struct ShardReader {}

/// Numbers of one collection in one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionStats {
    /// Records.
    pub records: u64,
    /// Bytes of memory: live records and the table.
    pub bytes: u64,
    /// Records in which a sync has fields, for each slot that has any.
    pub records_of: Vec<(SyncSlot, u64)>,
}

impl Shard {
    /// An empty shard.
    #[must_use]
    pub fn new(options: ShardOptions) -> Self {
        todo!()
    }

    /// A handle for readers. It stays valid when a snapshot is restored into the shard.
    #[must_use]
    pub fn reader(&self) -> ShardReader {
        todo!()
    }

    /// Applies the entry with this log index. The index becomes the version of the records it changes.
    ///
    /// # Errors
    /// When the bytes are no entry; the state is then as before and the replica must stop.
    pub fn apply(&mut self, index: u64, entry: &[u8]) -> Result<Outcome, ShardError> {
        todo!()
    }

    /// Notes that the log has passed an entry that does not concern the state (blank, membership).
    pub fn advance(&mut self, index: u64) {
        todo!()
    }

    /// The shard as it is now, in microseconds: pages are shared and copied by the writer when it next touches them.
    pub fn freeze(&mut self) -> FrozenShard {
        todo!()
    }

    /// Replaces the whole state by a snapshot's. Readers see the old state until the new one is complete.
    ///
    /// # Errors
    /// When the content breaks the format; the state is then as before.
    pub fn restore<'a>(
        &mut self,
        meta: &[u8],
        blocks: &mut dyn Iterator<Item = &'a [u8]>,
    ) -> Result<(), ShardError> {
        todo!()
    }

    /// The collections of which this shard holds anything.
    #[must_use]
    pub fn collections(&self) -> Vec<CollectionId> {
        todo!()
    }
}

impl FrozenShard {
    /// The log index at which the shard was frozen.
    #[must_use]
    pub fn applied(&self) -> u64 {
        todo!()
    }

    /// Everything but the records, encoded: goes into the snapshot's header.
    #[must_use]
    pub fn meta(&self) -> Vec<u8> {
        todo!()
    }

    /// The records, in blocks of at most 1 MiB.
    pub fn blocks(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        std::iter::empty()
    }
}

impl ShardReader {
    /// Looks a record up and shows it to `visit`, or returns `None` if the shard holds no such record. `hash` must be
    /// the key's placement hash.
    pub fn get<R>(
        &self,
        collection: CollectionId,
        hash: KeyHash,
        key: &[u8],
        visit: impl FnOnce(RecordView<'_>) -> R,
    ) -> Option<R> {
        todo!()
    }

    /// The log index of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        todo!()
    }

    /// Numbers of a collection; zeros if the shard holds nothing of it.
    #[must_use]
    pub fn stats(&self, collection: CollectionId) -> CollectionStats {
        todo!()
    }
}

/// A record at one version, valid while it is being visited.
pub struct RecordView<'a> {
    bytes: &'a [u8],
}

/// What a sync last did to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupInfo {
    /// The sync.
    pub slot: SyncSlot,
    /// The generation of the run that last touched the record.
    pub generation: Generation,
    /// When it did.
    pub updated_at: Micros,
}

impl RecordView<'_> {
    /// The log index of the record's last patch.
    #[must_use]
    pub fn version(&self) -> u64 {
        todo!()
    }

    /// The syncs that have fields in the record.
    pub fn groups(&self) -> impl Iterator<Item = GroupInfo> + '_ {
        std::iter::empty()
    }

    /// Appends the record as a JSON object: fields in order of slot and field id, those that the dictionary does not
    /// know left out. `only` limits it to some fields.
    pub fn write_json(&self, dictionary: &Dictionary, only: Option<&[larder_types::ids::FieldId]>, out: &mut Vec<u8>) {
        todo!()
    }
}
