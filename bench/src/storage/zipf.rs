//! Numbers of records as they are asked for in practice: a few of them very often.

use crate::random::Random;

/// The usual skew: the hundred most wanted of three million records get a third of the lookups.
const EXPONENT: f64 = 0.99;

/// Zipf's distribution over the numbers below a bound, spread over them so that neighbours are not alike.
///
/// The method is Gray's ("Quickly generating billion-record synthetic databases", 1994): one power for each number.
pub(crate) struct Zipf {
    bound: u64,
    /// The sum of the weights of all ranks.
    sum: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    /// The distribution over the numbers below `bound`, which must not be 0.
    #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^53 records")]
    pub(crate) fn new(bound: u64) -> Self {
        let weight = |rank: u64| (rank as f64).powf(-EXPONENT);
        let sum: f64 = (1..=bound).map(weight).sum();
        let two = 1.0 + weight(2);
        let eta = (1.0 - (2.0 / bound as f64).powf(1.0 - EXPONENT)) / (1.0 - two / sum);
        Self { bound, sum, alpha: 1.0 / (1.0 - EXPONENT), eta }
    }

    /// The next number.
    pub(crate) fn next(&self, random: &mut Random) -> u64 {
        let rank = self.rank(random.unit());
        // A hash of the rank. Some numbers get two ranks and others none, which changes nothing that matters here.
        Random::new(rank).below(self.bound)
    }

    /// The rank, from 0, at this share of all weight.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as above")]
    fn rank(&self, share: f64) -> u64 {
        let weight = share * self.sum;
        if weight < 1.0 || self.bound < 3 {
            return 0;
        }
        if weight < 1.0 + 0.5_f64.powf(EXPONENT) {
            return 1;
        }
        let rank = self.bound as f64 * (self.eta * share - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.bound - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_numbers_take_most_of_the_weight() {
        let (zipf, mut random) = (Zipf::new(100_000), Random::new(3));
        let mut counts = std::collections::HashMap::new();
        for _ in 0..100_000 {
            let number = zipf.next(&mut random);
            assert!(number < 100_000);
            *counts.entry(number).or_insert(0) += 1;
        }
        let mut counts: Vec<i32> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let top: i32 = counts[..100].iter().sum();
        // The sum of 1/rank^0.99 to 100 over that to 100 000 is 0.42.
        assert!((38_000..47_000).contains(&top), "{top}");
        assert!((7_000..9_500).contains(&counts[0]), "{}", counts[0]);
    }

    #[test]
    fn the_smallest_bounds_work() {
        let mut random = Random::new(3);
        for bound in 1..5 {
            let zipf = Zipf::new(bound);
            assert!((0..100).all(|_| zipf.next(&mut random) < bound));
        }
    }
}
