//! When requests are meant to be sent.
//!
//! The times depend on the rate and the seed alone, never on how fast answers come: this is what makes the loop open.

use std::time::Duration;

use crate::random::Random;

/// How requests are spread in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Spread {
    /// Independent of each other, as from many users: gaps are exponentially distributed.
    Poisson,
    /// All gaps equal.
    Uniform,
}

/// The intended send times of a run, in order, as offsets from its start.
#[derive(Debug)]
pub(crate) struct Arrivals {
    spread: Spread,
    /// Seconds between two requests on average.
    mean_gap: f64,
    /// Seconds until the last request at most.
    duration: f64,
    at: f64,
    random: Random,
}

impl Arrivals {
    /// `rate` requests a second, which must be positive and finite, for `duration`.
    pub(crate) fn new(spread: Spread, rate: f64, duration: Duration, random: Random) -> Self {
        assert!(rate > 0.0 && rate.is_finite(), "a rate is positive and finite");
        Self { spread, mean_gap: rate.recip(), duration: duration.as_secs_f64(), at: 0.0, random }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at += match self.spread {
            Spread::Uniform => self.mean_gap,
            Spread::Poisson => -self.random.unit().ln() * self.mean_gap,
        };
        (self.at <= self.duration).then(|| Duration::from_secs_f64(self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(spread: Spread) -> Vec<f64> {
        let times: Vec<f64> = Arrivals::new(spread, 1000.0, Duration::from_secs(20), Random::new(3))
            .map(|time| time.as_secs_f64())
            .collect();
        assert!(times.iter().all(|&time| time <= 20.0));
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[test]
    fn uniform_arrivals_are_evenly_spaced() {
        let gaps = gaps(Spread::Uniform);
        assert!((19_990..=20_000).contains(&(gaps.len() + 1)), "{}", gaps.len());
        assert!(gaps.iter().all(|gap| (gap - 0.001).abs() < 1e-6));
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_spread_exponentially() {
        let gaps = gaps(Spread::Poisson);
        // 20 000 expected, standard deviation 141: five of them leave no doubt, and the seed is fixed anyway.
        assert!((19_300..20_700).contains(&gaps.len()), "{}", gaps.len());
        let longer_than_mean = gaps.iter().filter(|&&gap| gap > 0.001).count() as f64 / gaps.len() as f64;
        assert!((longer_than_mean - (-1.0_f64).exp()).abs() < 0.02, "{longer_than_mean}");
    }
}
