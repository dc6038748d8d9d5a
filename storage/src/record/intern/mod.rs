//! Texts that a field says again and again, stored once: in records they are ids of one to three bytes.
//!
//! Each field of a collection has, in each shard, a pool of texts of its own. Whether it is worth one is found out from
//! what is written to it, beginning with the first text:
//!
//! | stage | what is kept | goes on when |
//! | --- | --- | --- |
//! | sampled | how often a text was written, and a hash of each different one | there are more than 4096 of them: plain; 1024 were written, each 16 times on average: pooled |
//! | pooled | the texts themselves, in the order in which they came, up to 4096 | never |
//! | plain | nothing | never |
//!
//! Only texts of 2 to 64 bytes count: of shorter ones an id saves nothing, longer ones rarely come again. A text that a
//! record has already is not written; so confirming rare texts again and again does not make them common. All others are,
//! even those of a patch that is refused because its record would be too large. A full pool takes no more texts: they
//! are stored as they are, like everything that was written before there was a pool.
//!
//! Invariants:
//! 1. What is stored is a function of what was written before, in order; so all replicas store the same.
//! 2. An id is the place of its text in the pool. It is given once, and the pool goes with the collection only: whatever
//!    becomes of the field, what was stored stays readable.
//! 3. A text is in the pool before its id can be seen in a record. Pools only grow, and nothing in them moves; so
//!    whoever sees an id finds its text, without lock.

mod frozen;
mod interner;
mod pools;
mod sample;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::frozen::FrozenTexts;
pub(crate) use self::interner::Interner;
pub(crate) use self::pools::Pools;

/// Bytes of the shortest text that is interned: it takes no less than the longest id.
const MIN_BYTES: usize = 2;
/// Bytes of the longest text that is interned.
const MAX_BYTES: usize = 64;
/// Most texts in a pool, and most different ones of a field that may get one.
const MAX_TEXTS: usize = 4096;
/// Texts that must have been written before a field gets a pool.
const MIN_WRITTEN: u32 = 1024;
/// How often each of them must have been written on average.
const MIN_USE: u32 = 16;
