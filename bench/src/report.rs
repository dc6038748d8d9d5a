//! What a measurement says, for people and for programs, with the doubts that belong to it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::tally::{Percentiles, Tally};

/// A generator that used more of its processor than this may have been what limited the figures.
pub(crate) const BUSY: f64 = 0.9;

/// In a closed loop one side at least is busy, unless other work takes the processors from both.
pub(crate) const IDLE: f64 = 0.8;

/// How requests were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// At intended times.
    OpenLoop,
    /// Each after the answer to the last.
    ClosedLoop,
}

/// Processor time of one side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Cpu {
    /// Processors kept busy on average.
    pub(crate) cores: f64,
    /// Microseconds for each answer.
    pub(crate) micros_per_request: f64,
}

/// The report of `load` and `saturate`. Latencies are in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) mode: Mode,
    pub(crate) target: String,
    pub(crate) connections: usize,
    pub(crate) duration_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) asked_rate: Option<f64>,
    pub(crate) achieved_rate: f64,
    pub(crate) latency_us: Percentiles,
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) errors: BTreeMap<&'static str, u64>,
    pub(crate) bytes_received: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) release_lag_us: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak_waiting: Option<usize>,
    pub(crate) server_pids: Vec<u32>,
    pub(crate) server_cpu: Option<Cpu>,
    pub(crate) generator_cpu: Option<Cpu>,
    pub(crate) warnings: Vec<String>,
}

impl Cpu {
    /// Processor time `used` in `wall` for so many answers.
    #[allow(clippy::cast_precision_loss, reason = "fewer than 2^53 requests are made")]
    pub(crate) fn new(used: Duration, wall: Duration, answers: u64) -> Self {
        Self {
            cores: used.as_secs_f64() / wall.as_secs_f64(),
            micros_per_request: used.as_secs_f64() * 1e6 / (answers.max(1) as f64),
        }
    }
}

impl Report {
    /// A report on `tally`, to which the caller adds what else it knows, and then the warnings.
    #[allow(clippy::cast_precision_loss, reason = "fewer than 2^53 requests are made")]
    pub(crate) fn new(mode: Mode, target: String, connections: usize, duration: Duration, tally: &Tally) -> Self {
        Self {
            mode,
            target,
            connections,
            duration_seconds: duration.as_secs_f64(),
            asked_rate: None,
            achieved_rate: tally.answered_in_time as f64 / duration.as_secs_f64(),
            latency_us: tally.latencies.percentiles(),
            statuses: tally.statuses(),
            errors: tally.errors().clone(),
            bytes_received: tally.bytes,
            release_lag_us: None,
            peak_waiting: None,
            server_pids: Vec::new(),
            server_cpu: None,
            generator_cpu: None,
            warnings: Vec::new(),
        }
    }

    /// Requests a second that were due.
    #[allow(clippy::cast_precision_loss, reason = "fewer than 2^53 requests are made")]
    fn due_rate(&self) -> f64 {
        let requests: u64 = self.statuses.values().chain(self.errors.values()).sum();
        requests as f64 / self.duration_seconds
    }

    /// Adds every reason to doubt the figures.
    pub(crate) fn warn(&mut self) {
        let mut warnings = Vec::new();
        if let Some(cpu) = self.generator_cpu.filter(|cpu| cpu.cores > BUSY) {
            warnings.push(format!(
                "the generator kept its processor {:.0} % busy: it may have been the bottleneck, not the server",
                cpu.cores * 100.0
            ));
        }
        if let Some(lag) = self.release_lag_us.filter(|lag| lag.p99 > 1000.0 && lag.p99 > self.latency_us.p99 / 10.0) {
            warnings.push(format!(
                "the generator itself was late (p99 {} after the intended time): it was the bottleneck, and the \
                 latencies hold its share",
                millis(lag.p99)
            ));
        }
        if let Some(waiting) = self.peak_waiting.filter(|&waiting| waiting > 0) {
            warnings.push(format!(
                "up to {waiting} requests waited for a free connection, which counts in the latencies; more \
                 --connections tell a slow server from too few connections"
            ));
        }
        // Against the requests that were due, not the rate that was asked: random arrivals of a short run miss it.
        if self.mode == Mode::OpenLoop && self.achieved_rate < 0.95 * self.due_rate() {
            warnings.push(format!(
                "only {:.1} % of the requests were answered before the end of the run",
                100.0 * self.achieved_rate / self.due_rate()
            ));
        }
        let refused: u64 = self.statuses.iter().filter(|(status, _)| **status >= 400).map(|(_, count)| count).sum();
        if refused > 0 {
            warnings.push(format!("{refused} answers have a status of 400 or more; they count in the latencies"));
        }
        if self.mode == Mode::ClosedLoop {
            if let (Some(server), Some(generator)) = (self.server_cpu, self.generator_cpu)
                && server.cores.max(generator.cores) < IDLE
            {
                warnings
                    .push("neither side was busy: other work had the processors, or too few connections".to_owned());
            }
            warnings.push("a closed loop hides stalls: quote its rate, never its latencies".to_owned());
        }
        self.warnings = warnings;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, loop_word) = match self.mode {
            Mode::OpenLoop => ("the intended send time", "open loop"),
            Mode::ClosedLoop => ("the actual send time", "closed loop"),
        };
        write!(
            f,
            "{loop_word}, {} connections to {}, {:.1} s: ",
            self.connections, self.target, self.duration_seconds
        )?;
        if let Some(asked) = self.asked_rate {
            write!(f, "{asked:.0} requests/s asked, ")?;
        }
        writeln!(f, "{:.0} answers/s", self.achieved_rate)?;
        writeln!(f, "latency from {from}: {}", Line(&self.latency_us))?;
        if let Some(lag) = &self.release_lag_us {
            writeln!(f, "of that, the generator's own lag: {}", Line(lag))?;
        }
        writeln!(
            f,
            "answers by status: {}; {:.1} MB received",
            counts(&self.statuses),
            megabytes(self.bytes_received)
        )?;
        writeln!(f, "without an answer: {}", counts(&self.errors))?;
        writeln!(f, "server CPU: {}", Side(self.server_cpu, &self.server_pids))?;
        writeln!(f, "generator CPU: {}", Side(self.generator_cpu, &[]))?;
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

struct Line<'a>(&'a Percentiles);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Percentiles { p50, p90, p99, p999, max } = *self.0;
        write!(
            f,
            "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            millis(p50),
            millis(p90),
            millis(p99),
            millis(p999),
            millis(max)
        )
    }
}

struct Side<'a>(Option<Cpu>, &'a [u32]);

impl fmt::Display for Side<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(cpu) => write!(f, "{:.2} cores, {:.1} us a request", cpu.cores, cpu.micros_per_request)?,
            None => f.write_str("unknown (no local process found; --server-pid names it)")?,
        }
        if self.1.is_empty() { Ok(()) } else { write!(f, " (process {})", join(self.1.iter().map(u32::to_string))) }
    }
}

fn millis(micros: f64) -> String {
    format!("{:.3} ms", micros / 1000.0)
}

#[allow(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn counts<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    join(counts.iter().map(|(what, count)| format!("{count} x {what}")))
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Head;

    fn report() -> Report {
        let mut tally = Tally::new();
        for _ in 0..1000 {
            let head = Head { status: 200, head_bytes: 100, body_bytes: 300, closes: false };
            tally.answered(&head, Duration::from_micros(80), true);
        }
        let mut report = Report::new(Mode::OpenLoop, "127.0.0.1:1".to_owned(), 8, Duration::from_secs(1), &tally);
        report.asked_rate = Some(1000.0);
        report.generator_cpu = Some(Cpu::new(Duration::from_millis(100), Duration::from_secs(1), 1000));
        report.release_lag_us = Some(Percentiles { p50: 9.0, p90: 20.0, p99: 70.0, p999: 90.0, max: 400.0 });
        report.peak_waiting = Some(0);
        report
    }

    fn warnings(change: impl FnOnce(&mut Report)) -> Vec<String> {
        let mut report = report();
        change(&mut report);
        report.warn();
        report.warnings
    }

    #[test]
    fn a_sound_measurement_carries_no_warnings() {
        assert_eq!(warnings(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn each_doubt_is_named() {
        let lag = Percentiles { p50: 9.0, p90: 900.0, p99: 1500.0, p999: 9000.0, max: 9000.0 };
        for (found, word) in [
            (warnings(|r| r.generator_cpu = Some(Cpu { cores: 0.97, micros_per_request: 9.0 })), "97 % busy"),
            (warnings(|r| r.release_lag_us = Some(lag)), "itself was late"),
            (warnings(|r| r.peak_waiting = Some(3)), "up to 3 requests waited"),
            (warnings(|r| r.errors = BTreeMap::from([("timed out", 1000)])), "only 50.0 %"),
            (warnings(|r| r.statuses = BTreeMap::from([(200, 993), (503, 7)])), "7 answers have a status"),
            (warnings(|r| r.mode = Mode::ClosedLoop), "hides stalls"),
        ] {
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(word), "{found:?}");
        }
    }

    #[test]
    fn a_closed_loop_in_which_nobody_was_busy_is_doubted() {
        let found = |server_cores| {
            warnings(|r| {
                r.mode = Mode::ClosedLoop;
                r.server_cpu = Some(Cpu { cores: server_cores, micros_per_request: 9.0 });
            })
        };
        assert!(found(0.5)[0].contains("neither side was busy"), "{:?}", found(0.5));
        assert!(!found(0.95)[0].contains("neither side was busy"), "{:?}", found(0.95));
    }

    #[test]
    fn the_generators_lag_is_forgiven_when_the_server_was_far_slower() {
        let found = warnings(|r| {
            r.release_lag_us = Some(Percentiles { p50: 9.0, p90: 900.0, p99: 1500.0, p999: 9000.0, max: 9000.0 });
            r.latency_us.p99 = 90_000.0;
        });
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn people_and_programs_read_the_same_figures() {
        let mut report = report();
        report.server_pids = vec![42];
        report.server_cpu = Some(Cpu::new(Duration::from_micros(9500), Duration::from_secs(1), 1000));
        let text = report.to_string();
        for part in [
            "1000 requests/s asked, 1000 answers/s",
            "p99 0.080 ms",
            "1000 x 200; 0.4 MB",
            "9.5 us a request (process 42)",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["statuses"]["200"], 1000);
        assert_eq!(json["mode"], "open_loop");
        assert!(json["latency_us"]["p99.9"].is_f64());
    }
}
