//! A shard as it was at one log index.
//!
//! Invariant: it shares pages and arena segments with the shard and keeps them; the writer copies a page before it
//! changes it, and never changes a record. So it can be read from any thread while the shard goes on.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use super::meta::{CollectionMeta, Meta, PAGES_PER_BLOCK};
use super::state::State;
use crate::arena::image::FrozenArena;
use crate::table::image::{FrozenTable, PAGE_IMAGE_BYTES, fingerprint};

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
        let mut meta = Meta {
            applied: state.applied(),
            fingerprint: fingerprint(state.seed()),
            open: arena.open(),
            segments: arena.owners().cloned().collect(),
            collections: Vec::with_capacity(state.collections.len()),
        };
        let mut tables = Vec::with_capacity(state.collections.len());
        for (id, held) in &mut state.collections {
            meta.collections.push(CollectionMeta {
                id: *id,
                records: held.table.counters().records.load(Ordering::Relaxed),
                depths: held.table.depths(),
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

    /// Everything but pages and records, encoded: goes into the snapshot's header.
    #[must_use]
    pub fn meta(&self) -> Vec<u8> {
        self.meta.encode()
    }

    /// Pages and records, in blocks of at most 1 MiB. Only pages are copied, a block of them at a time.
    pub fn blocks(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        let numbers = self.arena.numbers();
        let mut pages = self.tables.iter().flat_map(FrozenTable::pages).peekable();
        let page_blocks = std::iter::from_fn(move || {
            pages.peek()?;
            let mut block = Vec::with_capacity(PAGES_PER_BLOCK * PAGE_IMAGE_BYTES);
            let images = pages.by_ref().take(PAGES_PER_BLOCK);
            images.for_each(|page| page.write_image(|segment| numbers[segment as usize], &mut block));
            Some(Cow::Owned(block))
        });
        page_blocks.chain(self.arena.images().map(Cow::Borrowed))
    }
}
