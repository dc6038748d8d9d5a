//! The one hash that places keys: which shard, and where in its table.
//!
//! It must give the same answer on every node, in every version, and in clients that route by themselves. So it is
//! XXH3-64 (<https://github.com/Cyan4973/xxHash>) over the key's bytes with the cluster's seed, and nothing else.
//! Its top bits name the shard; the table uses the rest. The hash leaves out the collection: one key has one shard in
//! all collections, which lets one request gather what several collections know of one customer in one place.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::ShardId;

/// The hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyHash(pub u64);

/// The number of shards of a cluster: a power of two from 1 to 1024, fixed when the cluster is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardCount(u16);

impl KeyHash {
    /// Hashes a key's bytes with the cluster's seed.
    #[must_use]
    pub fn of(seed: u64, key: &[u8]) -> Self {
        Self(xxh3_64_with_seed(key, seed))
    }
}

impl ShardCount {
    /// What a cluster gets unless its operator chooses otherwise.
    pub const DEFAULT: Self = Self(16);

    /// Checks a number of shards: a power of two from 1 to 1024. `None` for any other.
    #[must_use]
    pub fn new(count: u16) -> Option<Self> {
        (count.is_power_of_two() && count <= 1024).then_some(Self(count))
    }

    /// The number itself.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// The number of hash bits that name the shard.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// The shard that holds keys with this hash.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "at most 10 bits are left")]
    pub fn shard_of(self, hash: KeyHash) -> ShardId {
        // Two shifts, because a shift by all 64 bits is undefined and one shard has no bits to name it.
        ShardId((hash.0 >> 1 >> (63 - self.bits())) as u16)
    }

    /// All shards in order.
    pub fn all(self) -> impl Iterator<Item = ShardId> {
        (0..self.0).map(ShardId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_fixed_for_ever() {
        // Values of the reference implementation: a change here would misplace every stored key.
        assert_eq!(KeyHash::of(0, b"").0, 0x2d06_8005_38d3_94c2);
        assert_eq!(KeyHash::of(0, b"12345").0, xxh3_64_with_seed(b"12345", 0));
        assert_ne!(KeyHash::of(0, b"12345"), KeyHash::of(1, b"12345"));
    }

    #[test]
    fn top_bits_name_the_shard() {
        let sixteen = ShardCount::new(16).unwrap();
        assert_eq!(sixteen.shard_of(KeyHash(0)), ShardId(0));
        assert_eq!(sixteen.shard_of(KeyHash(u64::MAX)), ShardId(15));
        assert_eq!(sixteen.shard_of(KeyHash(0x7fff_ffff_ffff_ffff)), ShardId(7));
        assert_eq!(ShardCount::new(1).unwrap().shard_of(KeyHash(u64::MAX)), ShardId(0));
        assert_eq!(ShardCount::new(1024).unwrap().shard_of(KeyHash(u64::MAX)), ShardId(1023));
    }

    #[test]
    fn only_powers_of_two_count_shards() {
        for bad in [0, 3, 12, 1025, 2048] {
            assert_eq!(ShardCount::new(bad), None);
        }
        assert_eq!(ShardCount::new(8).unwrap().all().count(), 8);
    }
}
