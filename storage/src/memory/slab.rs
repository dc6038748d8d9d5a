//! Slabs: blocks that are cut into pieces for the pages of tables.
//!
//! Pages come and go in any order. A page is taken from the fullest slab that has room, so that the others run empty and
//! go back to the pool.
//!
//! Invariant: a piece is lent once at a time, and a slab is there for as long as one of its pieces is lent.

#![allow(unsafe_code, reason = "a piece is shared between threads as a raw pointer")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pool::{BLOCK_BYTES, Block, POOL, Pool};

/// Bytes of a piece.
pub(crate) const PIECE_BYTES: usize = 32 * 1024;
/// Pieces of a slab: as many as a mask has bits.
const PIECES: usize = BLOCK_BYTES / PIECE_BYTES;
const _: () = assert!(PIECES == u32::BITS as usize);

/// The slabs of the process.
pub(super) static SLABS: Slabs = Slabs::new(&POOL);

/// Slabs, lent piece by piece.
pub(super) struct Slabs {
    pool: &'static Pool,
    state: Mutex<State>,
}

/// Which slabs there are, by address.
struct State {
    all: BTreeMap<usize, Slab>,
    /// The ones that have room, the fullest first: the number of free pieces and the address.
    open: BTreeSet<(u32, usize)>,
    /// Pieces that are lent.
    lent: u64,
}

struct Slab {
    block: Block,
    /// A bit for each piece.
    free: u32,
}

/// Numbers of slabs and pieces.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// Blocks that are slabs.
    pub(super) blocks: u64,
    /// Pieces that are lent.
    pub(super) lent: u64,
    /// Pieces that are not.
    pub(super) spare: u64,
}

/// 32 KiB of memory, aligned to as much. What it holds is anything. Goes back when dropped.
pub(crate) struct Piece {
    base: *mut u8,
    slabs: &'static Slabs,
}

// SAFETY: the memory belongs to the piece alone, and a piece does nothing with it but say where it is.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Piece {
    /// A piece of the process's slabs.
    pub(crate) fn new() -> Self {
        SLABS.take()
    }

    /// Where it begins. Valid for as long as the piece lives, for reads and writes of whoever has it.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.slabs.give(self.base as usize);
    }
}

impl Slabs {
    const fn new(pool: &'static Pool) -> Self {
        let state = State { all: BTreeMap::new(), open: BTreeSet::new(), lent: 0 };
        Self { pool, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&'static self) -> Piece {
        let base = self.lock().take(self.pool);
        Piece { base, slabs: self }
    }

    fn give(&self, piece: usize) {
        // The lock is let go of before the slab is.
        let empty = self.lock().give(piece);
        drop(empty);
    }

    pub(super) fn count(&self) -> Count {
        let state = self.lock();
        let blocks = state.all.len() as u64;
        Count { blocks, lent: state.lent, spare: blocks * PIECES as u64 - state.lent }
    }
}

impl State {
    fn take(&mut self, pool: &'static Pool) -> *mut u8 {
        let at = self.open.pop_first().map_or_else(|| self.add(pool.take()), |(_, at)| at);
        let slab = self.slab(at);
        let number = slab.free.trailing_zeros();
        slab.free &= slab.free - 1;
        let (base, free) = (slab.block.base().wrapping_add(number as usize * PIECE_BYTES), slab.free.count_ones());
        if free > 0 {
            self.open.insert((free, at));
        }
        self.lent += 1;
        base
    }

    /// Takes a piece back. Returns its slab if nothing of it is lent any more.
    fn give(&mut self, piece: usize) -> Option<Slab> {
        let at = piece / BLOCK_BYTES * BLOCK_BYTES;
        let slab = self.slab(at);
        let bit = 1 << (piece % BLOCK_BYTES / PIECE_BYTES);
        assert!(slab.free & bit == 0, "a piece is given back once");
        let before = slab.free.count_ones();
        slab.free |= bit;
        self.open.remove(&(before, at));
        self.lent -= 1;
        if before + 1 == u32::BITS {
            return self.all.remove(&at);
        }
        self.open.insert((before + 1, at));
        None
    }

    /// Makes a slab of a block. Returns its address.
    fn add(&mut self, block: Block) -> usize {
        let at = block.base() as usize;
        self.all.insert(at, Slab { block, free: u32::MAX });
        at
    }

    fn slab(&mut self, at: usize) -> &mut Slab {
        let Some(slab) = self.all.get_mut(&at) else { unreachable!("a slab is known while pieces of it are") };
        slab
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::super::pool::tests::pool;
    use super::*;

    fn slabs() -> &'static Slabs {
        Box::leak(Box::new(Slabs::new(pool())))
    }

    fn slab_of(piece: &Piece) -> usize {
        piece.base() as usize / BLOCK_BYTES
    }

    #[test]
    fn pieces_in_use_are_aligned_and_apart() {
        let slabs = slabs();
        let mut pieces: Vec<_> = (0..70).map(|_| slabs.take()).collect();
        // Some come back and are lent again.
        drop(pieces.drain(10..30));
        pieces.extend((0..30).map(|_| slabs.take()));
        for (byte, piece) in (1..).zip(&pieces) {
            assert_eq!(piece.base() as usize % PIECE_BYTES, 0);
            // SAFETY: the piece belongs to the test.
            unsafe { piece.base().write_bytes(byte, PIECE_BYTES) };
        }
        for (byte, piece) in (1..).zip(&pieces) {
            // SAFETY: the piece belongs to the test, which has written all of it.
            let content = unsafe { std::slice::from_raw_parts(piece.base(), PIECE_BYTES) };
            assert!(content.iter().all(|b| *b == byte), "two pieces overlap");
        }
        assert_eq!(slabs.count(), Count { blocks: 3, lent: 80, spare: 16 });
    }

    #[test]
    fn the_fullest_slab_with_room_is_used_first() {
        let slabs = slabs();
        let mut pieces: Vec<_> = (0..3 * PIECES).map(|_| slabs.take()).collect();
        let [first, second] = [0, PIECES].map(|number| slab_of(&pieces[number]));
        // One piece of the second slab comes back, then ten of the first.
        drop(pieces.remove(PIECES));
        drop(pieces.drain(..10));
        let order: Vec<_> = (0..11).map(|_| slabs.take()).collect();
        assert_eq!(slab_of(&order[0]), second);
        assert!(order[1..].iter().all(|piece| slab_of(piece) == first));
    }

    #[test]
    fn a_slab_goes_back_when_its_last_piece_does() {
        let slabs = slabs();
        let mut pieces: Vec<_> = (0..2 * PIECES).map(|_| slabs.take()).collect();
        assert_eq!(slabs.pool.count().lent, 2);
        drop(pieces.drain(1..PIECES));
        assert_eq!(slabs.count(), Count { blocks: 2, lent: 33, spare: 31 });
        pieces.remove(0);
        assert_eq!(slabs.count(), Count { blocks: 1, lent: 32, spare: 0 });
        assert_eq!(slabs.pool.count().lent, 1);
        pieces.clear();
        assert_eq!(slabs.pool.count().lent, 0);
    }

    /// Pages that live long are spread over all slabs; when most others have gone, few slabs are left.
    #[test]
    fn slabs_run_empty_while_pieces_come_and_go_in_any_order() {
        let slabs = slabs();
        let mut pieces: Vec<_> = (0..64 * PIECES).map(|_| slabs.take()).collect();
        let mut state = 5_u64;
        let mut below = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % bound
        };
        while pieces.len() > 16 * PIECES {
            let gone = below(pieces.len());
            pieces.swap_remove(gone);
        }
        assert!(slabs.count().blocks > 48, "{:?}", slabs.count());
        for _ in 0..64 * PIECES {
            let gone = below(pieces.len());
            pieces.swap_remove(gone);
            pieces.push(slabs.take());
        }
        assert!(slabs.count().blocks < 32, "{:?}", slabs.count());
    }
}
