//! Blocks and pieces straight from the allocator, for builds that a sanitizer watches (`--cfg larder_sanitize`).
//!
//! A sanitizer knows what is allocated and what is freed, and nothing of what a pool lends and takes back. With one
//! allocation for each block and piece it sees who uses one that has gone.

#![allow(unsafe_code, reason = "memory is got from the allocator and given back to it")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use super::pool::BLOCK_BYTES;
use super::slab::PIECE_BYTES;

pub(crate) type Block = Plain<BLOCK_BYTES>;
pub(crate) type Piece = Plain<PIECE_BYTES>;

/// So many bytes of memory, aligned to as many. What it holds is anything. Goes back when dropped.
pub(crate) struct Plain<const BYTES: usize>(NonNull<u8>);

// SAFETY: the memory belongs to this value alone, which does nothing with it but say where it is.
unsafe impl<const BYTES: usize> Send for Plain<BYTES> {}
// SAFETY: as above.
unsafe impl<const BYTES: usize> Sync for Plain<BYTES> {}

impl<const BYTES: usize> Plain<BYTES> {
    const LAYOUT: Layout = match Layout::from_size_align(BYTES, BYTES) {
        Ok(layout) => layout,
        Err(_) => panic!("the number of bytes is a power of two"),
    };

    pub(crate) fn new() -> Self {
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc(Self::LAYOUT) });
        Self(base.unwrap_or_else(|| handle_alloc_error(Self::LAYOUT)))
    }

    /// Where it begins. Valid for as long as the value lives, for reads and writes of whoever has it.
    pub(crate) fn base(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}

impl<const BYTES: usize> Drop for Plain<BYTES> {
    fn drop(&mut self) {
        // SAFETY: the memory came from the allocator with this layout.
        unsafe { dealloc(self.base(), Self::LAYOUT) };
    }
}
