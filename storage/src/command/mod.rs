//! What a shard's log entries say: the bytes that are proposed, replicated and applied.
//!
//! An entry begins with a version, 1, and a kind; numbers are varints (see `record::cursor`) unless a width is given.
//!
//! | kind | what follows |
//! | --- | --- |
//! | 1 patches | collection, slot (1 byte), generation, seq, part, folded time in microseconds, number of the first patch, number of patches, and the patches |
//! | 2 fence | collection, slot (1 byte), generation |
//! | 3 sweep | collection, slot (1 byte), generation, exit mode (1 byte: 0 keep, 1 clear, 2 delete), chunk, chunks |
//! | 4 clear a sync | collection, slot (1 byte) |
//! | 5 drop a collection | collection |
//! | 6 drop records of a collection | collection, chunk, chunks |
//!
//! A patch is a number, four times the key's length plus what is done (0 upsert, 1 clear, 2 delete), then the key, and
//! for an upsert the length of its fields and these fields in the record's own encoding (`record::fields`), so that
//! applying it copies bytes.
//!
//! Invariants:
//! 1. An entry is checked whole before any of it is applied: it applies completely or is refused with an error.
//! 2. Entries are read by newer versions of this crate: a change of this format needs another version number, and the
//!    old one must stay readable for as long as a log may hold it.

pub(crate) mod decode;
mod encode;
#[cfg(test)]
mod tests;

use larder_types::ids::{CollectionId, Generation, Micros, SyncSlot};

pub use decode::may_grow;
pub use encode::{PatchEncoder, clear_sync, drop_collection, drop_records, fence, sweep};

/// The version of the format.
const VERSION: u8 = 1;

/// The kinds of entries.
mod kind {
    pub(super) const PATCHES: u8 = 1;
    pub(super) const FENCE: u8 = 2;
    pub(super) const SWEEP: u8 = 3;
    pub(super) const CLEAR_SYNC: u8 = 4;
    pub(super) const DROP_COLLECTION: u8 = 5;
    pub(super) const DROP_RECORDS: u8 = 6;
}

/// What a patch does.
mod op {
    pub(super) const UPSERT: u64 = 0;
    pub(super) const CLEAR: u64 = 1;
    pub(super) const DELETE: u64 = 2;
}

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
    /// When the batch arrived: becomes the fields' time of update, to the second.
    pub at: Micros,
}

/// What applying an entry did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A batch part was applied, now or at an earlier delivery; then these are the numbers of the first time.
    Patched(Patched),
    /// The part, fence or sweep belongs to a generation that a newer one has fenced off; nothing was done.
    Stale {
        /// The newest generation known.
        newest: Generation,
    },
    /// Another part was applied under this number: the batch number was used for other patches, or the batch was split
    /// in another way. Nothing was done, and no repeat of this part ever will do anything.
    OtherBody,
    /// An earlier part of the same batch is missing; nothing was done. Propose the batch again from part 0. The same if
    /// the shard does not know the collection: only a fence makes it known, so what is under way when a collection is
    /// dropped does not bring it back.
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
    /// added to the encoder (counted over all parts of the shard's batch, from 0), ascending. A new record is refused
    /// like this too if 4096 others share its hash in all bits that tell pages apart, which only crafted keys do.
    pub too_large: Vec<u32>,
}
