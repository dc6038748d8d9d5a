//! A shard's snapshot: what its blocks are, and everything else as bytes in the header.
//!
//! The blocks are first the pages of all tables, 32 KiB each and 32 to a block, in the order of the collections and within
//! each in the order of the hashes that they are for (see `table::image`); then the arena's segments (`arena::image`), each
//! a block.
//!
//! The header's numbers are varints (see `record::cursor`) unless a width is given.
//!
//! ```text
//! meta       := version u8, 3 | fingerprint u64 | applied index | open segment | number of segments | segment*
//!               | number of collections | collection*
//! segment    := number of owners | owner*
//! owner      := where its records begin, in units of 8 bytes | collection id
//! collection := id | number of records | number of pages | depth u8 of each
//!               | number of clears | clear* | number of runs | run* | texts, see `record::intern`
//! clear      := slot u8 | number of clears, 1 to 255 | log index of each
//! run        := slot u8 | generation | number of batches | batch*
//! batch      := seq | number of parts | part*
//! part       := fingerprint | added | changed | unchanged | removed | number of patches refused | number of such a patch*
//! ```
//! Collections, owners' beginnings, slots, indexes, batches and numbers of patches ascend.
//!
//! If the fingerprint is not this program's (see `table::image`), keys would be looked for elsewhere than the pages have
//! them. The records that the words lead to are the live ones all the same.
//!
//! Invariant: what is read is what would be written; anything else is refused without panic.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_types::ids::{CollectionId, Generation, SyncSlot};

use super::runs::{Part, Run};
use crate::arena::Owners;
use crate::arena::location::ALIGNMENT;
use crate::command::Patched;
use crate::record::clears::{Clears, MAX_CLEARS};
use crate::record::cursor::{Cursor, Malformed, put_varint};
use crate::record::intern::FrozenTexts;

const VERSION: u8 = 3;

/// Pages in a block; in the last block of pages there may be fewer.
pub(super) const PAGES_PER_BLOCK: usize = 32;

/// The content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The log index of the last entry applied.
    pub(crate) applied: u64,
    /// Where the keys stand in the pages.
    pub(crate) fingerprint: u64,
    /// The number of the segment to append to, 0 if there is none.
    pub(crate) open: u32,
    /// Whose records are where, for each segment.
    pub(crate) segments: Vec<Arc<Owners>>,
    /// The collections in order.
    pub(crate) collections: Vec<CollectionMeta>,
}

/// The content for one collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CollectionMeta {
    pub(crate) id: CollectionId,
    pub(crate) records: u64,
    /// The depth of each page.
    pub(crate) depths: Vec<u8>,
    pub(crate) clears: Clears,
    pub(crate) runs: BTreeMap<SyncSlot, Run>,
    pub(crate) texts: FrozenTexts,
}

impl Meta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        put_varint(self.applied, &mut out);
        put_varint(u64::from(self.open), &mut out);
        put_varint(self.segments.len() as u64, &mut out);
        for owners in &self.segments {
            put_varint(owners.len() as u64, &mut out);
            for (offset, id) in owners.iter() {
                put_varint((offset / ALIGNMENT) as u64, &mut out);
                put_varint(u64::from(id.0), &mut out);
            }
        }
        put_varint(self.collections.len() as u64, &mut out);
        for collection in &self.collections {
            collection.encode(&mut out);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if cursor.u8()? != VERSION {
            return Err(Malformed("the version of its header is unknown"));
        }
        let fingerprint = cursor.u64()?;
        let applied = cursor.varint()?;
        let open = cursor.varint_u32()?;
        let segments = cursor.varint()?;
        let segments = (0..segments).map(|_| decode_owners(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
        let collections = ascending(&mut cursor, CollectionMeta::decode, |collection| collection.id)?;
        if cursor.is_empty() {
            Ok(Self { applied, fingerprint, open, segments, collections })
        } else {
            Err(Malformed("its header is longer than its content"))
        }
    }
}

impl CollectionMeta {
    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(u64::from(self.id.0), out);
        put_varint(self.records, out);
        put_varint(self.depths.len() as u64, out);
        out.extend_from_slice(&self.depths);
        put_varint(self.clears.iter().count() as u64, out);
        for (slot, indexes) in self.clears.iter() {
            out.push(slot.0);
            put_varint(indexes.len() as u64, out);
            indexes.iter().for_each(|index| put_varint(*index, out));
        }
        put_varint(self.runs.len() as u64, out);
        for (slot, run) in &self.runs {
            out.push(slot.0);
            put_varint(u64::from(run.generation().0), out);
            put_varint(run.batches().len() as u64, out);
            for (seq, parts) in run.batches() {
                put_varint(u64::from(*seq), out);
                put_varint(parts.len() as u64, out);
                parts.iter().for_each(|part| encode_part(part, out));
            }
        }
        self.texts.encode(out);
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let id = CollectionId(cursor.varint_u32()?);
        let records = cursor.varint()?;
        let depths = cursor.sized()?.to_vec();
        let clears = ascending(cursor, decode_clear, |(slot, _)| *slot)?;
        let clears = clears.into_iter().fold(Clears::default(), |all, (slot, indexes)| all.with(slot, indexes));
        let runs = ascending(cursor, decode_run, |(slot, _)| *slot)?.into_iter().collect();
        Ok(Self { id, records, depths, clears, runs, texts: FrozenTexts::decode(cursor)? })
    }
}

/// A number of items, which must be in order, and the items.
fn ascending<T, K: Ord>(
    cursor: &mut Cursor<'_>,
    item: impl Fn(&mut Cursor<'_>) -> Result<T, Malformed>,
    key: impl Fn(&T) -> K,
) -> Result<Vec<T>, Malformed> {
    let count = cursor.varint()?;
    let mut items: Vec<T> = Vec::new();
    for _ in 0..count {
        let next = item(cursor)?;
        if items.last().is_some_and(|last| key(last) >= key(&next)) {
            return Err(Malformed("its header is not in order"));
        }
        items.push(next);
    }
    Ok(items)
}

fn decode_owners(cursor: &mut Cursor<'_>) -> Result<Arc<Owners>, Malformed> {
    let owner = |cursor: &mut Cursor<'_>| {
        let offset = usize::try_from(cursor.varint()?).ok().and_then(|units| units.checked_mul(ALIGNMENT));
        Ok((offset.ok_or(Malformed("a record is beyond its segment"))?, CollectionId(cursor.varint_u32()?)))
    };
    let owners = ascending(cursor, owner, |(offset, _)| *offset)?;
    match owners.first() {
        Some((0, _)) => Ok(Arc::new(owners)),
        _ => Err(Malformed("a segment begins with nobody's records")),
    }
}

fn decode_clear(cursor: &mut Cursor<'_>) -> Result<(SyncSlot, Vec<u64>), Malformed> {
    let slot = SyncSlot(cursor.u8()?);
    let indexes = ascending(cursor, |cursor| cursor.varint(), |index| *index)?;
    match indexes.len() {
        1..=MAX_CLEARS => Ok((slot, indexes)),
        _ => Err(Malformed("a sync was cleared never or more often than a record can count")),
    }
}

fn decode_run(cursor: &mut Cursor<'_>) -> Result<(SyncSlot, Run), Malformed> {
    let slot = SyncSlot(cursor.u8()?);
    let generation = Generation(cursor.varint_u32()?);
    let batches = ascending(cursor, decode_batch, |(seq, _)| *seq)?.into_iter().collect();
    Ok((slot, Run::new(generation, batches)))
}

fn decode_batch(cursor: &mut Cursor<'_>) -> Result<(u32, Vec<Part>), Malformed> {
    let seq = cursor.varint_u32()?;
    let parts = cursor.varint()?;
    let mut parts = (0..parts).map(|_| decode_part(cursor)).collect::<Result<Vec<_>, _>>()?;
    // There are many batches, nearly all of one part.
    parts.shrink_to_fit();
    if parts.is_empty() { Err(Malformed("it lists a batch without parts")) } else { Ok((seq, parts)) }
}

fn encode_part(part: &Part, out: &mut Vec<u8>) {
    let Patched { added, changed, unchanged, removed, too_large } = &part.outcome;
    put_varint(part.fingerprint, out);
    [*added, *changed, *unchanged, *removed, too_large.len() as u64].iter().for_each(|n| put_varint(*n, out));
    too_large.iter().for_each(|number| put_varint(u64::from(*number), out));
}

fn decode_part(cursor: &mut Cursor<'_>) -> Result<Part, Malformed> {
    let fingerprint = cursor.varint()?;
    let outcome = Patched {
        added: cursor.varint()?,
        changed: cursor.varint()?,
        unchanged: cursor.varint()?,
        removed: cursor.varint()?,
        too_large: ascending(cursor, |cursor| cursor.varint_u32(), |number| *number)?,
    };
    Ok(Part { fingerprint, outcome })
}
