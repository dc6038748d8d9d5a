//! Regions: 2 MiB each, to be backed by one huge page, and the spans of addresses that they are cut from.
//!
//! Invariants:
//! 1. Regions do not overlap, and there is one value for each. So who has it may do with its memory what they like.
//! 2. A span is never unmapped: what a region points to is always mapped, be it backed by memory or not.

#![allow(unsafe_code, reason = "memory is touched and given back behind raw pointers")]

use std::io;

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};

/// Bytes of a region: a huge page on x86-64, and on ARM with pages of 4 KiB.
pub(super) const REGION_BYTES: usize = 2 << 20;
/// Regions in a span. Few mappings are made, since a process may only have so many.
const SPAN_REGIONS: usize = 32;
/// No page is smaller.
const SMALLEST_PAGE: usize = 4096;

/// Memory of its own at a multiple of [`REGION_BYTES`].
pub(super) struct Region {
    span: &'static MmapRaw,
    /// Where in the span.
    offset: usize,
}

impl Region {
    /// A span's worth of regions, none of which takes memory yet.
    ///
    /// # Errors
    /// When the kernel has no addresses or no memory left for the process.
    pub(super) fn reserve() -> io::Result<Vec<Self>> {
        // A region more, because the mapping may begin anywhere.
        let span = MmapOptions::new().len((SPAN_REGIONS + 1) * REGION_BYTES).no_reserve_swap().map_anon()?;
        let span: &'static MmapRaw = Box::leak(Box::new(span.into()));
        if let Err(error) = span.advise(Advice::HugePage) {
            tracing::debug!(%error, "the kernel has no huge pages");
        }
        let first = span.as_mut_ptr().align_offset(REGION_BYTES);
        Ok((0..SPAN_REGIONS).map(|number| Self { span, offset: first + number * REGION_BYTES }).collect())
    }

    /// Where it begins.
    pub(super) fn base(&self) -> *mut u8 {
        self.span.as_mut_ptr().wrapping_add(self.offset)
    }

    /// Gets the memory. Takes milliseconds.
    pub(super) fn populate(&mut self) {
        // Kernels before 5.14 cannot be asked.
        if self.span.advise_range(Advice::PopulateWrite, self.offset, REGION_BYTES).is_err() {
            self.touch();
        }
    }

    /// Gets the memory by writing to all of it. The region's content is lost.
    fn touch(&mut self) {
        for offset in (0..REGION_BYTES).step_by(SMALLEST_PAGE) {
            // SAFETY: the place lies in the region, which is mapped for ever and belongs to `self` alone.
            unsafe { self.base().add(offset).write_volatile(0) };
        }
    }

    /// Gives the memory back. The region's content is lost.
    pub(super) fn release(&mut self) {
        // SAFETY: the range is the region, which belongs to `self` alone, so nobody misses what was in it.
        let done = unsafe { self.span.unchecked_advise_range(UncheckedAdvice::DontNeed, self.offset, REGION_BYTES) };
        if let Err(error) = done {
            tracing::debug!(%error, "memory could not be given back to the kernel");
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
pub(super) mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Whether there is memory at an address, as the kernel shows it.
    fn is_backed(address: *const u8) -> bool {
        let mut entry = [0; 8];
        File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut entry, address as u64 / 4096 * 8).unwrap();
        u64::from_ne_bytes(entry) >> 63 == 1
    }

    /// The number of pages of a region that have memory.
    pub(in super::super) fn backed(region: &Region) -> usize {
        (0..REGION_BYTES).step_by(4096).filter(|offset| is_backed(region.base().wrapping_add(*offset))).count()
    }

    fn fill(region: &mut Region, byte: u8) {
        // SAFETY: the region belongs to the test.
        unsafe { region.base().write_bytes(byte, REGION_BYTES) };
    }

    fn holds(region: &Region, byte: u8) -> bool {
        // SAFETY: the region belongs to the test, and mapped memory is never uninitialised.
        unsafe { std::slice::from_raw_parts(region.base(), REGION_BYTES) }.iter().all(|b| *b == byte)
    }

    #[test]
    fn regions_are_aligned_and_apart() {
        let mut regions = Region::reserve().unwrap();
        assert_eq!(regions.len(), SPAN_REGIONS);
        for (byte, region) in (1..).zip(&mut regions) {
            assert_eq!(region.base() as usize % REGION_BYTES, 0);
            fill(region, byte);
        }
        for (byte, region) in (1..).zip(&mut regions) {
            assert!(holds(region, byte), "another region's bytes stand in region {byte}");
            region.release();
        }
    }

    #[test]
    fn memory_comes_when_it_is_asked_for_and_goes_when_it_is_not_needed() {
        let mut regions = Region::reserve().unwrap();
        let [populated, touched, neighbour, ..] = &mut regions[..] else { panic!("a span has several regions") };
        fill(neighbour, 7);
        assert_eq!([backed(populated), backed(touched)], [0, 0], "addresses alone take no memory");
        populated.populate();
        touched.touch();
        assert_eq!([backed(populated), backed(touched)], [512, 512]);
        fill(populated, 9);
        populated.release();
        assert_eq!([backed(populated), backed(touched)], [0, 512]);
        assert!(holds(populated, 0) && holds(neighbour, 7));
    }
}
