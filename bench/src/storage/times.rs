//! Processor time of the calling thread, and what windows of it add up to.

use std::fmt;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// The result of some work, and the processor time of this thread that it took, in nanoseconds.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let before = now();
    let result = work();
    (result, now() - before)
}

/// Time for pieces of work that were done in parts.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    done: u64,
    nanos: f64,
    /// Pieces a second of processor time, part by part.
    rates: Vec<f64>,
}

impl Stopwatch {
    /// Notes the time of a part.
    pub(crate) fn add(&mut self, done: u64, nanos: f64) {
        self.done += done;
        self.nanos += nanos;
        self.rates.push(per_second(done, nanos));
    }

    /// Pieces of work.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Pieces a second of processor time over all parts.
    pub(crate) fn rate(&self) -> f64 {
        per_second(self.done, self.nanos)
    }

    /// Pieces a second if it took so long.
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) fn rate_in(&self, time: Duration) -> f64 {
        self.done as f64 / time.as_secs_f64()
    }

    /// How much of this time was processor time of the work: less than 1 when other work had the processor.
    pub(crate) fn share_of(&self, time: Duration) -> f64 {
        self.nanos / 1e9 / time.as_secs_f64()
    }

    /// Pieces a second of processor time in the median part.
    pub(crate) fn median_rate(&self) -> f64 {
        median(&self.rates)
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn per_second(done: u64, nanos: f64) -> f64 {
    done as f64 * 1e9 / nanos
}

/// The least; not a number if there is none.
pub(crate) fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::min)
}

/// The greatest; not a number if there is none.
pub(crate) fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// The value in the middle, of two the greater; not a number if there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How many times longer one contestant took than another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    /// Of the least times.
    pub(crate) of_least: f64,
    /// The median of the ratios window by window.
    pub(crate) median: f64,
}

/// Nanoseconds for each piece of work, window by window, of contestants that took turns.
#[derive(Debug, Serialize)]
pub(crate) struct Times {
    what: String,
    contestants: Vec<Contestant>,
}

#[derive(Debug, Serialize)]
struct Contestant {
    name: &'static str,
    least: f64,
    median: f64,
    windows: Vec<f64>,
}

impl Times {
    /// No windows yet.
    pub(crate) fn new(what: String, names: &[&'static str]) -> Self {
        let contestant =
            |name: &&'static str| Contestant { name, least: f64::NAN, median: f64::NAN, windows: Vec::new() };
        Self { what, contestants: names.iter().map(contestant).collect() }
    }

    /// Notes a window's time for each piece of work.
    pub(crate) fn add(&mut self, contestant: usize, nanos: f64) {
        let Contestant { windows, least: smallest, median: middle, .. } = &mut self.contestants[contestant];
        windows.push(nanos);
        (*smallest, *middle) = (least(windows), median(windows));
    }

    /// The least time of a contestant.
    pub(crate) fn least(&self, contestant: usize) -> f64 {
        self.contestants[contestant].least
    }

    /// One contestant's time over another's.
    pub(crate) fn ratio(&self, one: usize, other: usize) -> Ratio {
        let (one, other) = (&self.contestants[one], &self.contestants[other]);
        let ratios: Vec<f64> = one.windows.iter().zip(&other.windows).map(|(one, other)| one / other).collect();
        Ratio { of_least: one.least / other.least, median: median(&ratios) }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<46} {:>10} {:>10}", self.what, "least", "median")?;
        for Contestant { name, least, median, .. } in &self.contestants {
            writeln!(f, "  {name:<44} {least:>7.0} ns {median:>7.0} ns")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_least_and_window_by_window() {
        let mut times = Times::new("something".to_owned(), &["one", "two"]);
        for (one, two) in [(30.0, 40.0), (10.0, 40.0), (20.0, 25.0)] {
            times.add(0, one);
            times.add(1, two);
        }
        assert_eq!(times.ratio(0, 1), Ratio { of_least: 10.0 / 25.0, median: 0.75 });
        let text = times.to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["one", "10", "ns", "20", "ns"]);
        assert_eq!(lines[2], ["two", "25", "ns", "40", "ns"]);
    }

    #[test]
    fn a_stopwatch_adds_parts() {
        let mut watch = Stopwatch::default();
        for nanos in [1e6, 3e6, 2e6] {
            watch.add(1000, nanos);
        }
        assert_eq!((watch.done(), watch.rate(), watch.median_rate()), (3000, 500_000.0, 500_000.0));
        assert_eq!(watch.rate_in(Duration::from_secs(3)), 1000.0);
        assert_eq!(watch.share_of(Duration::from_millis(12)), 0.5);
    }

    #[test]
    fn work_takes_time_and_nothing_has_no_median() {
        let (sum, nanos) = timed(|| (0..100_000_u64).map(std::hint::black_box).sum::<u64>());
        assert_eq!(sum, 4_999_950_000);
        assert!(nanos > 0.0);
        assert!(median(&[]).is_nan() && least(&[]).is_nan());
        assert_eq!((least(&[2.0, 1.0, 3.0]), median(&[2.0, 1.0, 3.0]), greatest(&[2.0, 1.0, 3.0])), (1.0, 2.0, 3.0));
    }
}
