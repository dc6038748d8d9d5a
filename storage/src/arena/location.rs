//! Where a record is.

/// Bytes of one arena segment.
pub(crate) const SEGMENT_BYTES: usize = 1 << 20;
/// Records begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;
/// Bits of a location that name the place in the segment, in units of [`ALIGNMENT`].
const OFFSET_BITS: u32 = 17;
/// Bits of a location that name the segment.
const SEGMENT_BITS: u32 = 30;
/// Bits of a location.
pub(crate) const LOCATION_BITS: u32 = SEGMENT_BITS + OFFSET_BITS;

const _: () = assert!(SEGMENT_BYTES == ALIGNMENT << OFFSET_BITS && LOCATION_BITS == 47);

/// The largest segment id.
pub(crate) const MAX_SEGMENT: u32 = (1 << SEGMENT_BITS) - 1;

/// A segment's id (30 bits, never 0) and an offset in it (17 bits, in units of 8 bytes). So a location is never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Location(u64);

impl Location {
    /// The place `offset` bytes into a segment.
    pub(crate) fn new(segment: u32, offset: usize) -> Self {
        assert!((1..=MAX_SEGMENT).contains(&segment), "a segment id must be from 1 to 2^30 - 1");
        assert!(offset < SEGMENT_BYTES && offset.is_multiple_of(ALIGNMENT), "an offset must be aligned and inside");
        Self(u64::from(segment) << OFFSET_BITS | (offset / ALIGNMENT) as u64)
    }

    /// The location with these 47 bits, `None` for 0.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    #[allow(clippy::cast_possible_truncation, reason = "30 bits are left")]
    pub(crate) fn segment(self) -> u32 {
        (self.0 >> OFFSET_BITS) as u32
    }

    /// The offset in bytes.
    #[allow(clippy::cast_possible_truncation, reason = "20 bits are left")]
    pub(crate) fn offset(self) -> usize {
        (self.0 & ((1 << OFFSET_BITS) - 1)) as usize * ALIGNMENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_survive_at_their_limits() {
        for (segment, offset) in [(1, 0), (1, SEGMENT_BYTES - ALIGNMENT), (MAX_SEGMENT, 0), (MAX_SEGMENT, 8)] {
            let location = Location::new(segment, offset);
            assert_eq!((location.segment(), location.offset()), (segment, offset));
            assert_eq!(Location::from_bits(location.bits()), Some(location));
            assert_eq!(location.bits() >> LOCATION_BITS, 0);
        }
        assert_eq!(Location::from_bits(0), None);
    }
}
