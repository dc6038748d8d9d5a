//! What the rounds of a comparison add up to.
//!
//! Ratios are taken inside a round and only then summarised: a machine that is slow for a while slows all servers of a
//! round, and the ratio stands. The control, the same bare server a second time, shows what difference means nothing.

use std::fmt;

use serde::Serialize;

use crate::affinity::Split;
use crate::report::{BUSY, IDLE};

/// The servers of a comparison, in the order of columns.
pub(crate) const SERVERS: [&str; 3] = ["larder-server", "bare hyper", "bare hyper again"];

/// One server in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    /// Answers a second.
    pub(crate) rate: f64,
    /// Processor time of the server for each answer.
    pub(crate) cpu_micros: f64,
    /// Processors that the server kept busy.
    pub(crate) server_cores: f64,
    /// Processors that the generator kept busy.
    pub(crate) generator_cores: f64,
}

/// The least, middle and greatest of the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Range {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

/// One server over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) server: &'static str,
    pub(crate) lookups_per_second: Range,
    pub(crate) cpu_micros_per_request: Range,
    /// Its rate over the bare server's in the same round.
    pub(crate) rate_ratio: Range,
    /// Its processor time over the bare server's in the same round.
    pub(crate) cpu_ratio: Range,
    /// Rounds in which the generator was busy enough to be the limit.
    pub(crate) rounds_limited_by_generator: usize,
    /// Rounds in which neither side was busy: something else had the processors.
    pub(crate) rounds_limited_by_machine: usize,
}

/// The whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) records: u64,
    pub(crate) body_bytes: u32,
    pub(crate) headers: usize,
    pub(crate) connections: u32,
    pub(crate) pipelining: u32,
    pub(crate) rounds: usize,
    pub(crate) window_seconds: f64,
    /// The processors used; none when there was only one.
    pub(crate) pinned: Option<Split>,
    pub(crate) rows: Vec<Row>,
}

impl Window {
    fn is_idle(&self) -> bool {
        self.server_cores.max(self.generator_cores) < IDLE
    }
}

impl Range {
    /// Of at least one value.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self { min: f64::NAN, median: f64::NAN, max: f64::NAN };
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Self { min, median, max }
    }
}

/// Summarises rounds of one window a server, in the order of [`SERVERS`].
pub(crate) fn rows(rounds: &[[Window; 3]]) -> Vec<Row> {
    let row = |(at, server): (usize, &'static str)| Row {
        server,
        lookups_per_second: Range::of(rounds.iter().map(|round| round[at].rate)),
        cpu_micros_per_request: Range::of(rounds.iter().map(|round| round[at].cpu_micros)),
        rate_ratio: Range::of(rounds.iter().map(|round| round[at].rate / round[1].rate)),
        cpu_ratio: Range::of(rounds.iter().map(|round| round[at].cpu_micros / round[1].cpu_micros)),
        rounds_limited_by_generator: rounds.iter().filter(|round| round[at].generator_cores > BUSY).count(),
        rounds_limited_by_machine: rounds.iter().filter(|round| round[at].is_idle()).count(),
    };
    SERVERS.into_iter().enumerate().map(row).collect()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} records, {} bytes of body and {} headers an answer, {} connections, pipelining {}, {} rounds of {:.2} s",
            self.records,
            self.body_bytes,
            self.headers,
            self.connections,
            self.pipelining,
            self.rounds,
            self.window_seconds
        )?;
        match self.pinned {
            Some(Split { server, generator }) => {
                writeln!(f, "server on processor {server}, generator on processor {generator}")?;
            }
            None => writeln!(f, "server and generator share one processor: read the CPU columns, not the rates")?,
        }
        writeln!(f)?;
        writeln!(f, "{:<18}{:>27}{:>24}", "min / median / max", "answers/s", "server CPU us/answer")?;
        for row in &self.rows {
            let (rate, cpu) = (row.lookups_per_second, row.cpu_micros_per_request);
            let rates = format!("{:.0} / {:.0} / {:.0}", rate.min, rate.median, rate.max);
            let micros = format!("{:.2} / {:.2} / {:.2}", cpu.min, cpu.median, cpu.max);
            writeln!(f, "{:<18}{rates:>27}{micros:>24}", row.server)?;
        }
        writeln!(f)?;
        writeln!(f, "{:<18}{:>27}{:>24}", "beside bare hyper", "answers/s", "server CPU")?;
        for row in self.rows.iter().filter(|row| row.server != SERVERS[1]) {
            let line = |range: Range| format!("{:.2} / {:.2} / {:.2}", range.min, range.median, range.max);
            writeln!(f, "{:<18}{:>27}{:>24}", row.server, line(row.rate_ratio), line(row.cpu_ratio))?;
        }
        writeln!(f)?;
        if let Some(control) = self.rows.last() {
            let (rate, cpu) = (control.rate_ratio.median - 1.0, control.cpu_ratio.median - 1.0);
            writeln!(
                f,
                "The same server twice differed by {:.1} % in rate and {:.1} % in CPU (medians): less than that means nothing.",
                rate.abs() * 100.0,
                cpu.abs() * 100.0
            )?;
        }
        self.rows.iter().try_for_each(|row| self.write_warnings(row, f))
    }
}

impl Summary {
    fn write_warnings(&self, row: &Row, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { server, rounds_limited_by_generator: generator, rounds_limited_by_machine: machine, .. } = row;
        let rounds = self.rounds;
        if *generator > 0 {
            writeln!(
                f,
                "warning: the generator was the limit in {generator} of {rounds} rounds of {server}: its answers/s are a \
                 lower bound"
            )?;
        }
        if *machine > 0 {
            writeln!(
                f,
                "warning: neither side was busy in {machine} of {rounds} rounds of {server}: other work had the \
                 processors; trust the CPU columns, not answers/s"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(speed: f64) -> [Window; 3] {
        let window = |rate: f64, cpu_micros: f64| Window {
            rate: rate * speed,
            cpu_micros: cpu_micros / speed,
            server_cores: 0.95,
            generator_cores: 0.5,
        };
        [window(80_000.0, 10.0), window(100_000.0, 8.0), window(99_000.0, 8.2)]
    }

    #[test]
    fn ratios_survive_a_machine_that_changes_its_speed() {
        let rows = rows(&[round(1.0), round(0.4), round(1.3)]);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(rows[0].rate_ratio.min, 0.8) && close(rows[0].rate_ratio.max, 0.8), "{rows:?}");
        assert!(close(rows[0].cpu_ratio.median, 1.25), "{rows:?}");
        assert!(close(rows[1].rate_ratio.median, 1.0), "{rows:?}");
        assert!(close(rows[0].lookups_per_second.min, 32_000.0), "{rows:?}");
        assert!(close(rows[0].lookups_per_second.median, 80_000.0), "{rows:?}");
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Range::of([9.0, 1.0, 4.0].into_iter()), Range { min: 1.0, median: 4.0, max: 9.0 });
        assert_eq!(Range::of([9.0, 1.0, 4.0, 5.0].into_iter()), Range { min: 1.0, median: 4.5, max: 9.0 });
    }

    #[test]
    fn rounds_that_the_server_did_not_limit_are_said_so() {
        let mut rounds = [round(1.0); 3];
        rounds[1][1].generator_cores = 0.98;
        rounds[2][2].server_cores = 0.6;
        let summary = Summary {
            records: 10,
            body_bytes: 300,
            headers: 5,
            connections: 64,
            pipelining: 1,
            rounds: rounds.len(),
            window_seconds: 1.0,
            pinned: None,
            rows: rows(&rounds),
        };
        let text = summary.to_string();
        assert!(text.contains("in 1 of 3 rounds of bare hyper:"), "{text}");
        assert!(text.contains("neither side was busy in 1 of 3 rounds of bare hyper again:"), "{text}");
        assert!(!text.contains("rounds of larder-server"), "{text}");
        assert!(text.contains("0.80 / 0.80 / 0.80"), "{text}");
    }
}
