//! Making a shard's state from a snapshot's content, which is checked as if it came from anywhere.
//!
//! Pages and segments are taken as they are. If keys are looked for elsewhere than the pages have them, because the hash
//! or the layout of a table is not what it was when the snapshot was written, new tables are built from the records to
//! which the old pages lead.
//!
//! Invariants:
//! 1. Each word leads to a record of its own, which lies within its segment, and a lookup of the record's key finds it:
//!    so as many records are found from their keys as there are words. No key comes twice.
//! 2. A damaged block, of pages or of records, makes the whole snapshot damaged. Nothing is guessed from the rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_types::hash::KeyHash;

use super::loading::{Live, Loaded, Loader, Marks};
use super::meta::{Meta, PAGES_PER_BLOCK};
use super::records::Records;
use super::state::{Collection, State};
use super::{Origin, ShardError};
use crate::arena::location::Location;
use crate::record::cursor::Malformed;
use crate::record::intern::{Interner, Pools};
use crate::record::row::key_of;
use crate::snapshot::Snapshot;
use crate::table::image::{PAGE_IMAGE_BYTES, fingerprint};
use crate::table::page::Page;
use crate::table::page_box::PageBox;
use crate::table::writer::TableWriter;

/// The state with this content, made on so many threads.
pub(super) fn restore(seed: u64, snapshot: &Snapshot, origin: Origin, threads: usize) -> Result<State, ShardError> {
    let meta = &Meta::decode(snapshot.meta())?;
    let pages = read_pages(meta, snapshot)?;
    let interners = meta.collections.iter().map(|collection| Interner::thaw(&collection.texts, seed));
    let interners = interners.collect::<Result<Vec<_>, _>>()?;
    let pools = interners.iter().map(|interner| interner.pools().clone()).collect();
    let source = Source { snapshot, meta, pools, origin, threads };
    let mut state = State::new(seed);
    if meta.fingerprint == fingerprint(seed) {
        source.adopt(pages, interners, &mut state)?;
    } else {
        source.rebuild(&pages, interners, &mut state)?;
    }
    for (collection, held) in meta.collections.iter().zip(state.collections.values()) {
        if held.table.counters().records.load(Ordering::Relaxed) != collection.records {
            return Err(Malformed("a collection has more or fewer records than it says").into());
        }
    }
    state.measure();
    state.advance(meta.applied);
    Ok(state)
}

/// The number of blocks with pages.
fn page_blocks(meta: &Meta) -> usize {
    let pages: usize = meta.collections.iter().map(|collection| collection.depths.len()).sum();
    pages.div_ceil(PAGES_PER_BLOCK)
}

/// The pages of each collection.
fn read_pages(meta: &Meta, snapshot: &Snapshot) -> Result<Vec<Vec<PageBox>>, ShardError> {
    let blocks = page_blocks(meta);
    if snapshot.block_count() != blocks + meta.segments.len() {
        return Err(Malformed("it has more or fewer blocks than it says").into());
    }
    let mut pages = Vec::new();
    for number in 0..blocks {
        let block = snapshot.block(number)?;
        let images = block.chunks(PAGE_IMAGE_BYTES);
        if number + 1 < blocks && images.len() != PAGES_PER_BLOCK {
            return Err(Malformed("a block has not as many pages as it should").into());
        }
        images.map(Page::of_image).try_for_each(|page| page.map(|page| pages.push(PageBox::new(page))))?;
    }
    let mut pages = pages.into_iter();
    let of_each: Vec<Vec<_>> =
        meta.collections.iter().map(|collection| pages.by_ref().take(collection.depths.len()).collect()).collect();
    match pages.next() {
        None => Ok(of_each),
        Some(_) => Err(Malformed("it has more pages than it says").into()),
    }
}

/// What a state is made from.
struct Source<'a> {
    snapshot: &'a Snapshot,
    meta: &'a Meta,
    /// Of each collection.
    pools: Vec<Arc<Pools>>,
    origin: Origin,
    threads: usize,
}

impl Source<'_> {
    /// Fills an empty state, with these pages for its tables.
    fn adopt(&self, pages: Vec<Vec<PageBox>>, interners: Vec<Interner>, state: &mut State) -> Result<(), ShardError> {
        let collections = self.meta.collections.iter();
        let tables = collections.clone().zip(pages);
        let tables =
            tables.map(|(collection, pages)| TableWriter::adopt(collection.clears.clone(), &collection.depths, pages));
        let tables = tables.collect::<Result<Vec<_>, _>>()?;
        let mut loaded = self.load(Live::Found(&tables), state)?;
        for (table, tally) in tables.iter().zip(&loaded.tallies) {
            if table.entry_count() != tally.records {
                return Err(Malformed("a table has words that lead to none of its records").into());
            }
            tally.store(table.counters());
        }
        let rivals = std::mem::take(&mut loaded.rivals);
        self.take_segments(loaded, state)?;
        let key = |location: Location| key_of(state.arena.record(location));
        if rivals.iter().any(|(one, other)| key(*one) == key(*other)) {
            return Err(Malformed("a record comes twice").into());
        }
        for ((collection, table), interner) in collections.zip(tables).zip(interners) {
            state.collections.insert(collection.id, Collection::new(table, collection.runs.clone(), interner));
        }
        Ok(())
    }

    /// Fills an empty state, with tables built from the records to which these pages lead.
    fn rebuild(&self, pages: &[Vec<PageBox>], interners: Vec<Interner>, state: &mut State) -> Result<(), ShardError> {
        let mut marks = Marks::new(self.meta.segments.len());
        pages.iter().flatten().flat_map(|page| page.entries()).try_for_each(|(_, location)| marks.mark(location))?;
        let mut loaded = self.load(Live::Marked(&marks), state)?;
        if loaded.tallies.iter().map(|tally| tally.records).sum::<u64>() != marks.count() {
            return Err(Malformed("a table has words that lead to no record").into());
        }
        // Entering the records counts them again.
        loaded.tallies.clear();
        self.take_segments(loaded, state)?;
        for ((collection, pages), interner) in self.meta.collections.iter().zip(pages).zip(interners) {
            let table = TableWriter::new(collection.clears.clone());
            state.collections.insert(collection.id, Collection::new(table, collection.runs.clone(), interner));
            let Some(mut records) = state.records(0, collection.id) else { continue };
            pages.iter().flat_map(|page| page.entries()).try_for_each(|(_, location)| records.adopt(location))?;
        }
        Ok(())
    }

    fn load(&self, live: Live<'_>, state: &State) -> Result<Loaded, ShardError> {
        let Self { snapshot, meta, pools, origin, threads } = self;
        let loader = Loader {
            seed: state.seed(),
            snapshot,
            first_block: page_blocks(meta),
            meta,
            pools,
            origin: *origin,
            live,
            held: state.arena.directory().held(),
        };
        loader.load(*threads)
    }

    /// Gives the arena its segments.
    fn take_segments(&self, loaded: Loaded, state: &mut State) -> Result<(), Malformed> {
        let stale = loaded.tallies.iter().map(|tally| tally.stale).sum();
        let segments = loaded.segments.into_iter().map(|(_, segment)| segment).collect();
        state.arena.adopt(segments, self.meta.open, stale)
    }
}

impl Records<'_> {
    /// Adds a record that was checked and stands in the arena, if it is one of this collection.
    fn adopt(&mut self, location: Location) -> Result<(), Malformed> {
        if self.arena.owner(location) != self.id {
            return Err(Malformed("a word leads to a record of another collection"));
        }
        let key = key_of(self.arena.record(location));
        let hash = KeyHash::of(self.seed, key);
        if self.table.find(hash, key, self.arena).is_some() {
            return Err(Malformed("a record comes twice"));
        }
        self.enter(hash, location).map_err(|_| Malformed("more keys than a page holds share their hash"))
    }
}
