//! An array that grows while others read it.
//!
//! It consists of chunks, each twice as large as the one before, which are made when they are first needed.
//!
//! Invariant: an entry never moves, so a reference to it is good for as long as the array.

use std::sync::OnceLock;

/// The array. Its first chunk has `FIRST` entries, a power of two, and there are at most `CHUNKS` chunks.
pub(crate) struct Chunks<T, const FIRST: usize, const CHUNKS: usize>([OnceLock<Box<[T]>>; CHUNKS]);

impl<T, const FIRST: usize, const CHUNKS: usize> Chunks<T, FIRST, CHUNKS> {
    /// Entries that the array can hold.
    pub(crate) const CAPACITY: u64 = FIRST as u64 * ((1 << CHUNKS) - 1);

    pub(crate) const fn new() -> Self {
        assert!(FIRST.is_power_of_two(), "chunks are found by the position of a bit");
        Self([const { OnceLock::new() }; CHUNKS])
    }

    /// The entry, unless its chunk was never needed.
    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        let (chunk, at) = Self::place(at);
        self.0.get(chunk)?.get()?.get(at)
    }

    /// The entry, which must lie within the capacity; as `T` makes it if its chunk was never needed.
    pub(crate) fn grow_to(&self, at: u32) -> &T
    where
        T: Default,
    {
        let (chunk, at) = Self::place(at);
        &self.0[chunk].get_or_init(|| (0..FIRST << chunk).map(|_| T::default()).collect())[at]
    }

    /// The chunk that holds an entry, and where in it.
    #[allow(clippy::cast_possible_truncation, reason = "a place in a chunk is below 2^32, and so is the entry")]
    fn place(at: u32) -> (usize, usize) {
        let shifted = u64::from(at) + FIRST as u64;
        let chunk = shifted.ilog2() - FIRST.ilog2();
        (chunk as usize, (shifted - ((FIRST as u64) << chunk)) as usize)
    }
}

impl<T, const FIRST: usize, const CHUNKS: usize> Default for Chunks<T, FIRST, CHUNKS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Small = Chunks<OnceLock<u32>, 8, 28>;

    #[test]
    fn entries_fill_the_chunks_without_gaps() {
        let mut expected = (0, 0);
        for at in 0..10_000u32 {
            assert_eq!(Small::place(at), expected);
            expected.1 += 1;
            if expected.1 == 8 << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        assert!(Small::place(u32::MAX).0 >= 28, "beyond the last chunk");
        let last = u32::try_from(Small::CAPACITY - 1).unwrap();
        assert_eq!(Small::place(last), (27, (8 << 27) - 1));
    }

    #[test]
    fn entries_stay_where_they_are() {
        let array = Small::new();
        assert!(array.get(0).is_none() && array.get(u32::MAX).is_none());
        let first = array.grow_to(0);
        (0..1000).for_each(|at| assert_eq!(array.grow_to(at).set(at), Ok(())));
        assert_eq!(first.get(), Some(&0));
        assert!((0..1000).all(|at| array.get(at).and_then(OnceLock::get) == Some(&at)));
        assert!(array.get(1015).is_some_and(|entry| entry.get().is_none()), "made with its chunk");
        assert!(array.get(1016).is_none());
    }
}
