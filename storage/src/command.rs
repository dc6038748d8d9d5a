//! What a shard's log entries say: the bytes that are proposed, replicated and applied.
//!
//! CONTRACT STUB: the owner of `storage/` designs the byte format (documented here byte by byte, versioned, values in
//! the record's own value encoding so that apply copies bytes) and may add to, but not break, these signatures.

use bytes::Bytes;
use larder_types::ids::{CollectionId, FieldId, Generation, Micros, SyncSlot};
use larder_types::key::Key;
use larder_types::patch::ExitMode;
use larder_types::value::Value;

/// Where a batch part belongs: the sync's run, and its place in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchOrigin {
    /// The collection.
    pub collection: CollectionId,
    /// The sync that owns the fields.
    pub slot: SyncSlot,
    /// The run's generation.
    pub generation: Generation,
    /// The batch number within the run.
    pub seq: u32,
    /// When the batch arrived: becomes the fields' time of update.
    pub at: Micros,
}

/// Builds the entries of one batch for one shard: as many parts as needed, each at most `max_entry_bytes` (one patch
/// larger than that gets an entry of its own). Parts are numbered from 0 and must be proposed in order.
pub struct PatchEncoder {}

impl PatchEncoder {
    /// An encoder for one batch and one shard.
    #[must_use]
    pub fn new(origin: PatchOrigin, max_entry_bytes: usize) -> Self {
        todo!()
    }

    /// Adds an upsert. Fields must belong to the origin's sync; of a field named twice the last value counts.
    pub fn upsert(&mut self, key: &Key, fields: &[(FieldId, Value)]) {
        todo!()
    }

    /// Adds a clear of the sync's fields.
    pub fn clear(&mut self, key: &Key) {
        todo!()
    }

    /// Adds a delete of the whole record.
    pub fn delete(&mut self, key: &Key) {
        todo!()
    }

    /// True while nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        todo!()
    }

    /// The entries, in the order in which they must be proposed.
    #[must_use]
    pub fn finish(self) -> Vec<Bytes> {
        todo!()
    }
}

/// An entry that opens a generation of a sync in a shard: parts of older generations are refused from then on, and the
/// batch numbers seen start afresh. Idempotent.
#[must_use]
pub fn fence(collection: CollectionId, slot: SyncSlot, generation: Generation) -> Bytes {
    todo!()
}

/// An entry that applies the exit mode to every record in which the sync has fields last written before `generation`.
/// `chunk` of `chunks` names the slice of the hash space, so that one entry never takes long to apply. Idempotent.
#[must_use]
pub fn sweep(
    collection: CollectionId,
    slot: SyncSlot,
    generation: Generation,
    mode: ExitMode,
    (chunk, chunks): (u32, u32),
) -> Bytes {
    todo!()
}

/// An entry that clears all fields of a sync in all records of the collection. Idempotent.
#[must_use]
pub fn clear_sync(collection: CollectionId, slot: SyncSlot) -> Bytes {
    todo!()
}

/// An entry that drops a collection with all that the shard knows of it. Idempotent.
#[must_use]
pub fn drop_collection(collection: CollectionId) -> Bytes {
    todo!()
}

/// What applying an entry did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A batch part was applied, now or at an earlier delivery; then these are the numbers of the first time.
    Patched(Patched),
    /// The part belongs to a generation that a newer one has fenced off; nothing was done.
    Stale {
        /// The newest generation known.
        newest: Generation,
    },
    /// An earlier part of the same batch is missing; nothing was done. Propose the batch again from part 0.
    OutOfOrder,
    /// A sweep was applied.
    Swept {
        /// Records cleared or deleted by it.
        records: u64,
    },
    /// A fence, clear or drop was applied.
    Done,
}

/// The numbers of one applied part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patched {
    /// Records made, or given fields by this sync for the first time.
    pub added: u64,
    /// Records whose fields of this sync changed.
    pub changed: u64,
    /// Patches that changed no value (a record confirmed as it is).
    pub unchanged: u64,
    /// Records that lost this sync's fields, or were deleted.
    pub removed: u64,
    /// Patches refused because the record would grow beyond `MAX_RECORD_BYTES`, by their number among the patches
    /// added to the encoder (counted over all parts of the shard's batch, from 0), ascending.
    pub too_large: Vec<u32>,
}
