//! A shard as it was at one log index.
//!
//! Invariant: it shares pages and arena segments with the shard and keeps them; the writer copies a page before it
//! changes it, and never changes a record. So it can be read from any thread while the shard goes on.

use super::meta::{CollectionMeta, Meta};
use super::state::State;
use crate::arena::location::SEGMENT_BYTES;
use crate::arena::{FrozenArena, padded};
use crate::table::FrozenTable;

/// A shard as it was at one log index, to be written to a snapshot while the shard goes on.
pub struct FrozenShard {
    meta: Meta,
    arena: FrozenArena,
    /// In the order of the collections in `meta`.
    tables: Vec<FrozenTable>,
}

impl FrozenShard {
    pub(super) fn of(state: &mut State) -> Self {
        let arena = state.arena.freeze();
        let mut meta = Meta { applied: state.applied(), collections: Vec::new() };
        let mut tables = Vec::new();
        for (id, held) in &mut state.collections {
            meta.collections.push(CollectionMeta {
                id: *id,
                records: held.table.counters().records.load(std::sync::atomic::Ordering::Relaxed),
                clears: held.table.clears().clone(),
                runs: held.runs.clone(),
                texts: held.interner.freeze(),
            });
            tables.push(held.table.freeze());
        }
        Self { meta, arena, tables }
    }

    /// The log index at which the shard was frozen.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.meta.applied
    }

    /// Everything but the records, encoded: goes into the snapshot's header.
    #[must_use]
    pub fn meta(&self) -> Vec<u8> {
        self.meta.encode()
    }

    /// The records, in blocks of at most 1 MiB: each as it is in memory, the next one at a multiple of 8 bytes.
    pub fn blocks(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let mut records = self.tables.iter().flat_map(|table| table.records(&self.arena)).peekable();
        std::iter::from_fn(move || {
            records.peek()?;
            let mut block = Vec::with_capacity(SEGMENT_BYTES);
            while let Some(record) = records.next_if(|record| block.len() + padded(record.len()) <= SEGMENT_BYTES) {
                block.extend_from_slice(record);
                block.resize(padded(block.len()), 0);
            }
            Some(block)
        })
    }
}
