//! Prometheus' text format, version 0.0.4.
//!
//! Invariant: the samples of a family stand together, behind its help and its type, and no family comes twice.

use std::fmt::{Display, Write as _};

use larder_storage::distribution::Distribution;

/// The text as it is written.
#[derive(Default)]
pub(super) struct Text {
    out: String,
    names: std::collections::BTreeSet<&'static str>,
}

/// The samples of one family.
pub(super) struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl Text {
    /// Begins a family of numbers that go up and down.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// Begins a family of numbers that only grow. The name ends with `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// Writes a family of one distribution, in which `unit` measurements are one of the unit that the name ends with.
    pub(super) fn histogram(&mut self, name: &'static str, help: &'static str, of: &Distribution, unit: f64) {
        let family = self.family(name, "histogram", help);
        let mut count = 0;
        for (at, in_bucket) in of.counts.iter().enumerate() {
            count += in_bucket;
            let bound = of.bounds.get(at).map_or("+Inf".to_owned(), |bound| in_units(*bound, unit).to_string());
            write(family.out, format_args!("{name}_bucket{{le=\"{bound}\"}} {count}\n"));
        }
        write(family.out, format_args!("{name}_sum {}\n{name}_count {count}\n", in_units(of.sum, unit)));
    }

    pub(super) fn finish(self) -> String {
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
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(self.name);
        for (at, (label, text)) in labels.iter().enumerate() {
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
        write(self.out, format_args!("{} {value}\n", if labels.is_empty() { "" } else { "}" }));
    }

    /// Writes the one sample of a family without labels.
    pub(super) fn value(mut self, value: impl Display) {
        self.sample(&[], value);
    }
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
    use larder_storage::distribution::Recorder;

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
        let recorder = Recorder::new(&[100, 2000]);
        [50, 100, 700, 9000].iter().for_each(|measured| recorder.record(*measured));
        let mut text = Text::default();
        text.histogram("t_seconds", "Time.", &recorder.distribution(), 1000.0);
        let expected = "# HELP t_seconds Time.\n# TYPE t_seconds histogram\nt_seconds_bucket{le=\"0.1\"} 2\n\
                        t_seconds_bucket{le=\"2\"} 3\nt_seconds_bucket{le=\"+Inf\"} 4\nt_seconds_sum 9.85\nt_seconds_count 4\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    #[should_panic(expected = "comes twice")]
    fn a_family_comes_once() {
        let mut text = Text::default();
        text.gauge("a", "A.").value(1);
        text.gauge("a", "A.").value(2);
    }
}
