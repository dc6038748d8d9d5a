//! What a measurement of the storage engine has found.

use std::fmt;

use serde::Serialize;

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) records: u64,
    /// Bytes of content and table for each record.
    pub(crate) record_bytes: f64,
    /// Bytes of segments and table for each record.
    pub(crate) held_bytes: f64,
    /// Bytes of a record as JSON.
    pub(crate) json_bytes: f64,
    pub(crate) times: Vec<Times>,
}

/// Nanoseconds for each piece of work, window by window, of contestants that took turns.
#[derive(Debug, Serialize)]
pub(crate) struct Times(Vec<Contestant>);

#[derive(Debug, Serialize)]
struct Contestant {
    name: &'static str,
    windows: Vec<f64>,
}

impl Times {
    pub(crate) fn of<const N: usize>(names: [&'static str; N]) -> Self {
        Self(names.map(|name| Contestant { name, windows: Vec::new() }).into())
    }

    pub(crate) fn add(&mut self, contestant: usize, nanos: f64) {
        self.0[contestant].windows.push(nanos);
    }
}

impl Contestant {
    /// The least and the median.
    fn summary(&self) -> (f64, f64) {
        let mut windows = self.windows.clone();
        windows.sort_by(f64::total_cmp);
        (windows.first().copied().unwrap_or(f64::NAN), windows.get(windows.len() / 2).copied().unwrap_or(f64::NAN))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} records of {:.0} bytes as JSON", self.records, self.json_bytes)?;
        writeln!(
            f,
            "bytes for each: {:.1} content and table, {:.1} with segments",
            self.record_bytes, self.held_bytes
        )?;
        self.times.iter().try_for_each(|times| write!(f, "\n{times}"))
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<26} {:>9} {:>9}   least, as a part of each other one's", "ns", "least", "median")?;
        for contestant in &self.0 {
            let (least, median) = contestant.summary();
            write!(f, "{:<26} {least:>9.0} {median:>9.0}  ", contestant.name)?;
            self.0.iter().try_for_each(|other| write!(f, " {:>6.2}", least / other.summary().0))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_and_the_median_are_shown_with_ratios() {
        let mut times = Times::of(["one", "two"]);
        [30.0, 10.0, 20.0].iter().for_each(|nanos| times.add(0, *nanos));
        times.add(1, 40.0);
        let text = times.to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["one", "10", "20", "1.00", "0.25"]);
        assert_eq!(lines[2], ["two", "40", "40", "4.00", "1.00"]);
    }
}
