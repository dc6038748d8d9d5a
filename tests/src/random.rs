//! Random choices that a failed test can repeat: the seed is part of every message and can be given from outside.

use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>).
#[derive(Debug)]
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// Takes the seed from `LARDER_TEST_SEED`, else from the clock.
    #[must_use]
    pub fn from_environment() -> Self {
        let given = std::env::var("LARDER_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| u64::from(since.subsec_nanos()) + 1)
        });
        Self { seed, state: seed }
    }

    /// How to repeat these choices, for messages.
    #[must_use]
    pub fn seed(&self) -> String {
        format!("LARDER_TEST_SEED={}", self.seed)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
