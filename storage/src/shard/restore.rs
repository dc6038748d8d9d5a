//! Making a shard's state from a snapshot's content, which is checked as if it came from anywhere.

use larder_types::hash::KeyHash;

use super::meta::{CollectionMeta, Meta};
use super::records::Records;
use super::state::{Collection, State};
use crate::arena::padded;
use crate::record::cursor::Malformed;
use crate::record::intern::{Interner, Pools};
use crate::record::row::{HEADER_BYTES, Row, record_len};

/// The state with this content.
pub(super) fn restore(seed: u64, meta: &[u8], blocks: &mut dyn Iterator<Item = &[u8]>) -> Result<State, Malformed> {
    let meta = Meta::decode(meta)?;
    let mut state = State::new(seed);
    let mut records = BlockRecords { blocks, rest: &[] };
    for collection in &meta.collections {
        let interner = Interner::thaw(&collection.texts, seed)?;
        let pools = interner.pools().clone();
        let held = Collection::new(collection.clears.clone(), collection.runs.clone(), interner);
        state.collections.insert(collection.id, held);
        let Some(mut target) = state.records(0, collection.id) else { continue };
        for _ in 0..collection.records {
            let record = records.next()?.ok_or(Malformed("it has fewer records than it says"))?;
            let row = check(record, &pools, collection, meta.applied)?;
            target.restore(record, row)?;
        }
    }
    if records.next()?.is_some() {
        return Err(Malformed("it has more records than it says"));
    }
    // The records may have groups that clears of before have made absent.
    state.arena.add_stale(0);
    state.measure();
    state.advance(meta.applied);
    Ok(state)
}

fn check<'a>(record: &'a [u8], pools: &Pools, collection: &CollectionMeta, applied: u64) -> Result<Row<'a>, Malformed> {
    let row = Row::check(record, pools)?;
    if row.version(&collection.clears) > applied {
        return Err(Malformed("a record is newer than the snapshot"));
    }
    if row.groups().any(|group| usize::from(group.clears) > collection.clears.of(group.slot).len()) {
        return Err(Malformed("a record has seen clears that never were"));
    }
    Ok(row)
}

/// The records in a row of blocks.
struct BlockRecords<'a, 'b> {
    blocks: &'b mut dyn Iterator<Item = &'a [u8]>,
    rest: &'a [u8],
}

impl<'a> BlockRecords<'a, '_> {
    fn next(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        while self.rest.is_empty() {
            let Some(block) = self.blocks.next() else { return Ok(None) };
            self.rest = block;
        }
        let header: [u8; HEADER_BYTES] = *self.rest.first_chunk().ok_or(Malformed("a block ends within a record"))?;
        let length = record_len(header);
        if length < HEADER_BYTES {
            return Err(Malformed("a record's length is wrong"));
        }
        let (record, rest) =
            self.rest.split_at_checked(padded(length)).ok_or(Malformed("a block ends within a record"))?;
        self.rest = rest;
        let (record, padding) = record.split_at(length);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Malformed("the space between two records is not empty"));
        }
        Ok(Some(record))
    }
}

impl Records<'_> {
    /// Adds a record that was checked.
    fn restore(&mut self, record: &[u8], row: Row<'_>) -> Result<(), Malformed> {
        let hash = KeyHash::of(self.seed, row.key);
        if self.table.find(hash, row.key, self.arena).is_some() {
            return Err(Malformed("a record comes twice"));
        }
        self.scratch.record.clear();
        self.scratch.record.extend_from_slice(record);
        self.insert(hash).map_err(|_| Malformed("more keys than a page holds share their hash"))
    }
}
