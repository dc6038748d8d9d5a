//! Prometheus' text format, version 0.0.4: how every program of Larder writes its metrics.
//!
//! Invariant: the samples of a family stand together, behind its help and its type, and no family comes twice.

use std::fmt::{Display, Write as _};

/// The text as it is written.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
    names: std::collections::BTreeSet<&'static str>,
}

/// A distribution: how often what was measured came to how much.
#[derive(Debug, Clone, Copy)]
pub struct Buckets<'a> {
    /// The greatest measurement that each bucket takes, ascending.
    pub bounds: &'a [u64],
    /// Measurements in each bucket; one more than bounds, as the last is for what exceeds them all.
    pub counts: &'a [u64],
    /// The sum of all measurements.
    pub sum: u64,
}

/// The samples of one family.
#[derive(Debug)]
pub struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl Text {
    /// Begins a family of numbers that go up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// Begins a family of numbers that only grow. The name ends with `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// Begins a family of distributions.
    pub fn histogram(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, "histogram", help)
    }

    /// The text of all families.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &'static str) -> Family<'_> {
        assert!(self.names.insert(name), "the family {name} comes twice");
        write(&mut self.out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { out: &mut self.out, name }
    }
}

impl Family<'_> {
    /// Writes a sample with these labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Writes a distribution with these labels, in which `unit` measurements are one of the unit that the name ends
    /// with.
    pub fn buckets(&mut self, labels: &[(&str, &str)], of: Buckets<'_>, unit: f64) {
        let mut count = 0;
        for (at, in_bucket) in of.counts.iter().enumerate() {
            count += in_bucket;
            let bound = of.bounds.get(at).map_or("+Inf".to_owned(), |bound| in_units(*bound, unit).to_string());
            self.line("_bucket", labels, Some(("le", &bound)), count);
        }
        self.line("_sum", labels, None, in_units(of.sum, unit));
        self.line("_count", labels, None, count);
    }

    fn line(&mut self, ending: &str, labels: &[(&str, &str)], last: Option<(&str, &str)>, value: impl Display) {
        write(self.out, format_args!("{}{ending}", self.name));
        for (at, (label, text)) in labels.iter().chain(&last).enumerate() {
            write(self.out, format_args!("{}{label}=\"", if at == 0 { '{' } else { ',' }));
            for character in text.chars() {
                match character {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        let is_bare = labels.is_empty() && last.is_none();
        write(self.out, format_args!("{} {value}\n", if is_bare { "" } else { "}" }));
    }

    /// Writes the one sample of a family without labels.
    pub fn value(mut self, value: impl Display) {
        self.sample(&[], value);
    }
}

/// The resident bytes of a process, out of what Linux says of it in `/proc/self/status`.
#[must_use]
pub fn resident_bytes(status: &str) -> Option<u64> {
    let size = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    size.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Numbers of the format are doubles, so more digits than they have mean nothing.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn in_units(measured: u64, unit: f64) -> f64 {
    measured as f64 / unit
}

fn write(out: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stand_behind_their_family() {
        let mut text = Text::default();
        text.gauge("a_bytes", "Bytes of a.").value(7);
        let mut family = text.counter("b_total", "All b.");
        family.sample(&[("kind", "x")], 1);
        family.sample(&[("kind", "y\"\\\n"), ("of", "z")], 2.5);
        let expected = "# HELP a_bytes Bytes of a.\n# TYPE a_bytes gauge\na_bytes 7\n\
                        # HELP b_total All b.\n# TYPE b_total counter\nb_total{kind=\"x\"} 1\n\
                        b_total{kind=\"y\\\"\\\\\\n\",of=\"z\"} 2.5\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn buckets_of_a_histogram_count_all_that_is_smaller() {
        let buckets = Buckets { bounds: &[100, 2000], counts: &[2, 1, 1], sum: 9850 };
        let mut text = Text::default();
        let mut family = text.histogram("t_seconds", "Time.");
        family.buckets(&[], buckets, 1000.0);
        family.buckets(&[("of", "x")], Buckets { bounds: &[], counts: &[3], sum: 7 }, 1.0);
        let expected = "# HELP t_seconds Time.\n# TYPE t_seconds histogram\nt_seconds_bucket{le=\"0.1\"} 2\n\
                        t_seconds_bucket{le=\"2\"} 3\nt_seconds_bucket{le=\"+Inf\"} 4\nt_seconds_sum 9.85\nt_seconds_count 4\n\
                        t_seconds_bucket{of=\"x\",le=\"+Inf\"} 3\nt_seconds_sum{of=\"x\"} 7\n\
                        t_seconds_count{of=\"x\"} 3\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn resident_bytes_are_read() {
        assert_eq!(resident_bytes("Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t   812 kB\nThreads:\t1\n"), Some(812 * 1024));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
    }

    #[test]
    #[should_panic(expected = "comes twice")]
    fn a_family_comes_once() {
        let mut text = Text::default();
        text.gauge("a", "A.").value(1);
        text.gauge("a", "A.").value(2);
    }
}
