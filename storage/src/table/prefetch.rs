//! Asking the processor for memory before it is needed.
//!
//! A hint and nothing else: it reads nothing that the program could see, so any address will do.

#![allow(unsafe_code, reason = "the processor's hint is an intrinsic")]

/// Bytes that come with one hint.
pub(crate) const LINE_BYTES: usize = 64;

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
