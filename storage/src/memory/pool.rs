//! The pool: which regions there are, and which of their halves are lent.
//!
//! Invariants:
//! 1. A region is lent, ready or bare. Of a lent one at least one block is in use. A ready one has its memory, a bare one
//!    has none or is not known to.
//! 2. A free half of a lent region is used before another region is broken.
//! 3. A lock is held for a few steps only: the kernel is asked for memory outside it, by the keeper or by whoever touches
//!    a bare region first.

#![allow(unsafe_code, reason = "a block is shared between threads as a raw pointer")]

use std::alloc::{Layout, handle_alloc_error};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::region::{REGION_BYTES, Region};

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = REGION_BYTES / 2;
/// Regions that are made ready ahead of use, at most: 8 MiB, which records fill in a tenth of a second at best, while
/// the keeper needs a few milliseconds for a region.
pub(super) const MAX_AHEAD: usize = 4;
/// For so many lent regions one is made ready: a small process stays small.
pub(super) const LENT_PER_AHEAD: usize = 4;
/// Regions that are kept ready for reuse, at most: 32 MiB. Segments are freed in bursts, whenever readers let go.
pub(super) const MAX_READY: usize = 16;

/// The pool of the process.
pub(super) static POOL: Pool = Pool::new();

/// Regions, lent in halves.
pub(super) struct Pool {
    state: Mutex<State>,
    /// Tells the keeper that there may be something to do.
    pub(super) work: Condvar,
}

/// Which regions there are. Blocks and regions are named by their addresses.
pub(super) struct State {
    lent: BTreeMap<usize, Region>,
    /// The free blocks of lent regions.
    halves: BTreeSet<usize>,
    pub(super) ready: Vec<Region>,
    pub(super) bare: Vec<Region>,
    /// Whether the keeper is there.
    pub(super) is_kept: bool,
}

/// Numbers of blocks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) lent: u64,
    /// Blocks that have memory, or may have, and are not lent.
    pub(super) spare: u64,
}

/// 1 MiB of memory, aligned to as much. What it holds is anything. Goes back when dropped.
pub(crate) struct Block {
    base: *mut u8,
    pool: &'static Pool,
}

// SAFETY: the memory belongs to the block alone, and a block does nothing with it but say where it is.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// A block of the process's pool.
    pub(crate) fn new() -> Self {
        POOL.take()
    }

    /// Where it begins. Valid for as long as the block lives, for reads and writes of whoever has it.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.give(self.base as usize);
    }
}

impl Pool {
    pub(super) const fn new() -> Self {
        let state = State {
            lent: BTreeMap::new(),
            halves: BTreeSet::new(),
            ready: Vec::new(),
            bare: Vec::new(),
            is_kept: false,
        };
        Self { state: Mutex::new(state), work: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends a block.
    pub(super) fn take(&'static self) -> Block {
        let mut state = self.lock();
        let base = state.take();
        self.call_keeper(&mut state);
        drop(state);
        let Some(base) = base else { handle_alloc_error(Layout::new::<[u8; BLOCK_BYTES]>()) };
        Block { base, pool: self }
    }

    fn give(&'static self, block: usize) {
        let mut state = self.lock();
        state.give(block);
        self.call_keeper(&mut state);
    }

    pub(super) fn count(&self) -> Count {
        let state = self.lock();
        let halves = state.halves.len();
        let lent = state.lent.len() * 2 - halves;
        Count { lent: lent as u64, spare: (halves + state.ready.len() * 2) as u64 }
    }
}

impl State {
    /// Takes a block out. `None` if the kernel gives no more addresses.
    fn take(&mut self) -> Option<*mut u8> {
        if let Some(half) = self.halves.pop_first() {
            return Some(self.lent[&region_of(half)].base().wrapping_add(half % REGION_BYTES));
        }
        let region = match self.ready.pop() {
            Some(region) => region,
            None => self.bare()?,
        };
        let base = region.base();
        self.lent.insert(base as usize, region);
        self.halves.insert(other_half(base as usize));
        Some(base)
    }

    fn give(&mut self, block: usize) {
        if !self.halves.remove(&other_half(block)) {
            let fresh = self.halves.insert(block);
            assert!(fresh, "a block is given back once");
            return;
        }
        self.ready.extend(self.lent.remove(&region_of(block)));
    }

    /// Takes a region without memory out. `None` if the kernel gives no more addresses.
    pub(super) fn bare(&mut self) -> Option<Region> {
        if self.bare.is_empty() {
            self.bare = Region::reserve().ok()?;
        }
        self.bare.pop()
    }

    /// Regions that should be ready.
    pub(super) fn ahead(&self) -> usize {
        (self.lent.len() / LENT_PER_AHEAD).min(MAX_AHEAD)
    }
}

fn region_of(block: usize) -> usize {
    block / REGION_BYTES * REGION_BYTES
}

fn other_half(block: usize) -> usize {
    block ^ BLOCK_BYTES
}

#[cfg(test)]
#[cfg(not(loom))]
pub(super) mod tests {
    use super::*;

    /// A pool without a keeper.
    pub(in super::super) fn pool() -> &'static Pool {
        let pool = Box::leak(Box::new(Pool::new()));
        pool.lock().is_kept = true;
        pool
    }

    /// The numbers of lent and of ready regions.
    fn regions(pool: &Pool) -> (usize, usize) {
        let state = pool.lock();
        (state.lent.len(), state.ready.len())
    }

    fn fill(block: &Block, byte: u8) {
        // SAFETY: the block belongs to the test.
        unsafe { block.base().write_bytes(byte, BLOCK_BYTES) };
    }

    fn holds(block: &Block, byte: u8) -> bool {
        // SAFETY: the block belongs to the test, which has written all of it.
        unsafe { std::slice::from_raw_parts(block.base(), BLOCK_BYTES) }.iter().all(|b| *b == byte)
    }

    #[test]
    fn blocks_in_use_are_aligned_and_apart() {
        let pool = pool();
        let mut blocks: Vec<_> = (0..9).map(|_| pool.take()).collect();
        // Some come back and are lent again.
        drop(blocks.drain(2..5));
        blocks.extend((0..6).map(|_| pool.take()));
        for (byte, block) in (1..).zip(&blocks) {
            assert_eq!(block.base() as usize % BLOCK_BYTES, 0);
            fill(block, byte);
        }
        assert!((1..).zip(&blocks).all(|(byte, block)| holds(block, byte)), "two blocks overlap");
        assert_eq!(pool.count().lent, 12);
    }

    #[test]
    fn a_free_half_is_used_before_another_region_is_broken() {
        let pool = pool();
        let mut blocks: Vec<_> = (0..8).map(|_| pool.take()).collect();
        assert_eq!(pool.count(), Count { lent: 8, spare: 0 });
        let half = blocks.swap_remove(3);
        let address = half.base();
        drop(half);
        assert_eq!(pool.count(), Count { lent: 7, spare: 1 });
        let again = pool.take();
        assert_eq!(again.base(), address);
    }

    #[test]
    fn a_region_is_whole_when_both_halves_are_back() {
        let pool = pool();
        let blocks: Vec<_> = (0..8).map(|_| pool.take()).collect();
        let (even, odd): (Vec<_>, Vec<_>) = blocks.into_iter().enumerate().partition(|(number, _)| number % 2 == 0);
        drop(even);
        assert_eq!(regions(pool), (4, 0));
        drop(odd);
        assert_eq!(regions(pool), (0, 4));
        assert_eq!(pool.count(), Count { lent: 0, spare: 8 });
    }
}
