//! Writing entries.

use bytes::Bytes;
use larder_types::ids::{CollectionId, FieldId, Generation, SyncSlot};
use larder_types::key::Key;
use larder_types::patch::ExitMode;
use larder_types::value::Value;

use super::{PatchOrigin, VERSION, kind, op};
use crate::record::cursor::{fold, put_varint};
use crate::record::fields::FieldsWriter;
use crate::record::value::{encode, put_nothing};

/// The most bytes that stand before the patches of an entry.
const MAX_HEADER_BYTES: usize = 43;

/// Builds the entries of one batch for one shard: as many parts as needed, each at most `max_entry_bytes` (one patch
/// larger than that gets an entry of its own). Parts are numbered from 0 and must be proposed in order.
pub struct PatchEncoder {
    origin: PatchOrigin,
    max_body_bytes: usize,
    entries: Vec<Bytes>,
    /// The patches of the part that is being built.
    body: Vec<u8>,
    /// Patches in it.
    count: u32,
    /// Patches in earlier parts.
    first: u32,
    patch: Vec<u8>,
}

impl PatchEncoder {
    /// An encoder for one batch and one shard.
    #[must_use]
    pub fn new(origin: PatchOrigin, max_entry_bytes: usize) -> Self {
        let max_body_bytes = max_entry_bytes.saturating_sub(MAX_HEADER_BYTES);
        Self { origin, max_body_bytes, entries: Vec::new(), body: Vec::new(), count: 0, first: 0, patch: Vec::new() }
    }

    /// Adds an upsert. Fields must belong to the origin's sync; one without a value is taken out of the record. Of a field
    /// named twice the last counts.
    pub fn upsert<V>(&mut self, key: &Key, fields: &[(FieldId, V)])
    where
        for<'v> &'v V: Into<Option<&'v Value>>,
    {
        let mut sorted: Vec<_> = fields.iter().collect();
        // Stable, so the last of equal ids stays last.
        sorted.sort_by_key(|(id, _)| *id);
        let mut encoded = Vec::new();
        let mut writer = FieldsWriter::new(&mut encoded);
        for same in sorted.chunk_by(|a, b| a.0 == b.0) {
            if let [.., (id, value)] = same {
                let out = writer.field(*id);
                match value.into() {
                    Some(value) => encode(value, out),
                    None => put_nothing(out),
                }
            }
        }
        self.begin(key, op::UPSERT);
        put_varint(encoded.len() as u64, &mut self.patch);
        self.patch.extend_from_slice(&encoded);
        self.push();
    }

    /// Adds a clear of the sync's fields.
    pub fn clear(&mut self, key: &Key) {
        self.begin(key, op::CLEAR);
        self.push();
    }

    /// Adds a delete of the whole record.
    pub fn delete(&mut self, key: &Key) {
        self.begin(key, op::DELETE);
        self.push();
    }

    /// True while nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first == 0 && self.count == 0
    }

    /// The entries, in the order in which they must be proposed.
    #[must_use]
    pub fn finish(mut self) -> Vec<Bytes> {
        self.seal();
        self.entries
    }

    fn begin(&mut self, key: &Key, op: u64) {
        self.patch.clear();
        put_varint((key.as_bytes().len() as u64) << 2 | op, &mut self.patch);
        self.patch.extend_from_slice(key.as_bytes());
    }

    fn push(&mut self) {
        if self.body.len() + self.patch.len() > self.max_body_bytes {
            self.seal();
        }
        self.body.extend_from_slice(&self.patch);
        self.count += 1;
    }

    /// Makes an entry of what was collected.
    fn seal(&mut self) {
        if self.count == 0 {
            return;
        }
        let PatchOrigin { collection, slot, generation, seq, at } = self.origin;
        let mut entry = Vec::with_capacity(MAX_HEADER_BYTES + self.body.len());
        begin(kind::PATCHES, collection, &mut entry);
        entry.push(slot.0);
        put_varint(u64::from(generation.0), &mut entry);
        put_varint(u64::from(seq), &mut entry);
        put_varint(self.entries.len() as u64, &mut entry);
        put_varint(fold(at), &mut entry);
        put_varint(u64::from(self.first), &mut entry);
        put_varint(u64::from(self.count), &mut entry);
        debug_assert!(entry.len() <= MAX_HEADER_BYTES, "a header is never longer than was allowed for");
        entry.append(&mut self.body);
        self.entries.push(entry.into());
        self.first += std::mem::take(&mut self.count);
    }
}

/// An entry that opens a generation of a sync in a shard: parts of older generations are refused from then on, and the
/// batch numbers seen start afresh. Idempotent.
#[must_use]
pub fn fence(collection: CollectionId, slot: SyncSlot, generation: Generation) -> Bytes {
    let mut entry = Vec::new();
    begin(kind::FENCE, collection, &mut entry);
    entry.push(slot.0);
    put_varint(u64::from(generation.0), &mut entry);
    entry.into()
}

/// An entry that applies the exit mode to every record in which the sync has fields last written before `generation`.
/// `chunk` of `chunks` names the slice of the hash space, so that one entry never takes long to apply: each holds the
/// same share of a shard's records. Idempotent.
#[must_use]
pub fn sweep(
    collection: CollectionId,
    slot: SyncSlot,
    generation: Generation,
    mode: ExitMode,
    (chunk, chunks): (u32, u32),
) -> Bytes {
    let mut entry = Vec::new();
    begin(kind::SWEEP, collection, &mut entry);
    entry.push(slot.0);
    put_varint(u64::from(generation.0), &mut entry);
    entry.push(match mode {
        ExitMode::Keep => 0,
        ExitMode::Clear => 1,
        ExitMode::Delete => 2,
    });
    put_chunk(chunk, chunks, &mut entry);
    entry.into()
}

/// An entry that clears all fields of a sync in all records of the collection. Idempotent.
#[must_use]
pub fn clear_sync(collection: CollectionId, slot: SyncSlot) -> Bytes {
    let mut entry = Vec::new();
    begin(kind::CLEAR_SYNC, collection, &mut entry);
    entry.push(slot.0);
    entry.into()
}

/// An entry that drops a collection with all that the shard knows of it. Idempotent. Takes long to apply if there are
/// many records: [`drop_records`] takes them away first.
#[must_use]
pub fn drop_collection(collection: CollectionId) -> Bytes {
    let mut entry = Vec::new();
    begin(kind::DROP_COLLECTION, collection, &mut entry);
    entry.into()
}

/// An entry that removes the records of a chunk of a collection, which is about to be dropped; for chunks see [`sweep`].
/// Idempotent.
#[must_use]
pub fn drop_records(collection: CollectionId, (chunk, chunks): (u32, u32)) -> Bytes {
    let mut entry = Vec::new();
    begin(kind::DROP_RECORDS, collection, &mut entry);
    put_chunk(chunk, chunks, &mut entry);
    entry.into()
}

fn put_chunk(chunk: u32, chunks: u32, entry: &mut Vec<u8>) {
    assert!(chunk < chunks, "chunks are numbered from 0");
    put_varint(u64::from(chunk), entry);
    put_varint(u64::from(chunks), entry);
}

fn begin(kind: u8, collection: CollectionId, entry: &mut Vec<u8>) {
    entry.extend_from_slice(&[VERSION, kind]);
    put_varint(u64::from(collection.0), entry);
}
