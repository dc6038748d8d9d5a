//! Where arena segments and table pages come from: memory in huge pages, shared by all shards of the process.
//!
//! ```text
//! span: 64 MiB of addresses       asked of the kernel, never given back: addresses cost nothing
//!   region: 2 MiB                 one huge page, if the kernel has one; its memory comes and goes as a whole
//!     block: 1 MiB                an arena segment, or a slab
//!       piece: 32 KiB             a page of a table
//! ```
//! Most of the time of a lookup is spent waiting for memory, and a good part of that is finding out where an address
//! lies. In a huge page that takes one step less, and the processor remembers 512 times as much of it.
//!
//! Huge pages are slow to get: the kernel clears 2 MiB at the first touch, which takes milliseconds on a virtual machine.
//! So a thread of its own, the keeper, gets some ahead of use, and what was used is kept for a while.
//!
//! Invariants:
//! 1. A block or piece belongs to whoever holds it and to nobody else, until it is dropped.
//! 2. Nothing is known of what a block or piece holds: it may be what its last owner left.
//! 3. Regions of which nothing is in use are kept up to a bound; the memory of the others goes back to the kernel. What is
//!    in use is taken from as few regions as can be, so that others become free.
//! 4. That memory is huge and that it comes ahead of use are wishes: a kernel that refuses slows things down and nothing
//!    else.

#[cfg_attr(larder_sanitize, allow(dead_code, reason = "memory is plain, and the pool is only tested"))]
mod keeper;
#[cfg(larder_sanitize)]
mod plain;
#[cfg_attr(larder_sanitize, allow(dead_code, reason = "memory is plain, and the pool is only tested"))]
mod pool;
mod region;
#[cfg_attr(larder_sanitize, allow(dead_code, reason = "memory is plain, and the pool is only tested"))]
mod slab;

#[cfg(larder_sanitize)]
pub(crate) use self::plain::{Block, Piece};
pub(crate) use self::pool::BLOCK_BYTES;
#[cfg(not(larder_sanitize))]
pub(crate) use self::pool::Block;
use self::pool::POOL;
pub(crate) use self::slab::PIECE_BYTES;
#[cfg(not(larder_sanitize))]
pub(crate) use self::slab::Piece;
use self::slab::SLABS;

/// What arena segments and table pages of all shards of the process really take, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Arena segments, in use or kept for snapshots and late readers.
    pub segment_bytes: u64,
    /// Table pages, in use or kept for snapshots and late readers.
    pub page_bytes: u64,
    /// Memory that is held for segments and pages to come: got ahead of use, kept for reuse, or left over between those
    /// in use.
    pub spare_bytes: u64,
}

/// What segments and pages take now. The sum of the three is what they take of the process's memory, give or take
/// segments that were not written to their ends.
#[must_use]
pub fn usage() -> Usage {
    let slabs = SLABS.count();
    let blocks = POOL.count();
    // A moment lies between the counts.
    let segments = blocks.lent.saturating_sub(slabs.blocks);
    Usage {
        segment_bytes: segments * BLOCK_BYTES as u64,
        page_bytes: slabs.lent * PIECE_BYTES as u64,
        spare_bytes: blocks.spare * BLOCK_BYTES as u64 + slabs.spare * PIECE_BYTES as u64,
    }
}

#[cfg(test)]
#[cfg(not(any(loom, larder_sanitize)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_is_counted() {
        let blocks: Vec<_> = (0..9).map(|_| Block::new()).collect();
        let pieces: Vec<_> = (0..100).map(|_| Piece::new()).collect();
        let Usage { segment_bytes, page_bytes, spare_bytes } = usage();
        // Other tests of this process may use memory too.
        assert!(segment_bytes >= 9 << 20, "{segment_bytes}");
        assert!(page_bytes >= 100 * 32 * 1024, "{page_bytes}");
        assert!(spare_bytes >= 28 * 32 * 1024, "the rest of four slabs is spare: {spare_bytes}");
        drop((blocks, pieces));
    }
}
