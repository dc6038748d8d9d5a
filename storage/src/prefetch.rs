//! Asking the processor for memory before it is needed.
//!
//! A hint and nothing else: it reads nothing that the program could see, so any address will do.

#![allow(unsafe_code, reason = "the processor's hint is an intrinsic")]

/// Keys whose memory is asked for before the first of them is looked up. More of them would push each other's records out
/// of the nearest cache.
pub(crate) const GROUP: usize = 16;

/// Bytes that come with one hint.
const LINE_BYTES: usize = 64;
/// Bytes of a record that are asked for: most records are shorter, and of the others the first fields are there.
const RECORD_BYTES: usize = 4 * LINE_BYTES;

/// Asks for the beginning of the record at this address.
#[inline]
pub(crate) fn prefetch_record(address: *const u8) {
    (0..RECORD_BYTES).step_by(LINE_BYTES).for_each(|line| prefetch(address.wrapping_add(line)));
}

/// Asks for the cache line at this address.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, and every x86-64 has the instruction.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    // Elsewhere the loads themselves have to do.
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
