//! One table of the configuration file, with what is wrong with it.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;

/// One table of the file: keys are taken out as they are read, so that what is left at the end is not known.
pub(super) struct Section<'a> {
    pub(super) prefix: &'static str,
    pub(super) table: toml::Table,
    pub(super) problems: &'a mut Vec<String>,
}

impl Section<'_> {
    pub(super) fn problem(&mut self, key: &str, what: impl fmt::Display) {
        let dot = if self.prefix.is_empty() { "" } else { "." };
        self.problems.push(format!("`{}{dot}{key}` {what}", self.prefix));
    }

    /// The table of this name, which is called `prefix` in messages.
    pub(super) fn section(&mut self, name: &str, prefix: &'static str) -> Option<Section<'_>> {
        match self.table.remove(name)? {
            toml::Value::Table(table) => Some(Section { prefix, table, problems: self.problems }),
            _ => {
                self.problem(name, "must be a table");
                None
            }
        }
    }

    pub(super) fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        match self.table.remove(key)?.try_into() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(key, format_args!("is not valid: {}", error.to_string().trim()));
                None
            }
        }
    }

    pub(super) fn take<T: DeserializeOwned>(&mut self, key: &str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// A value that has no default.
    pub(super) fn required<T: DeserializeOwned>(&mut self, key: &str, how: &str) -> Option<T> {
        if !self.table.contains_key(key) {
            self.problem(key, format_args!("is missing: {how}"));
        }
        self.optional(key)
    }

    pub(super) fn size(&mut self, key: &str, default: u64, allowed: std::ops::RangeInclusive<u64>) -> u64 {
        let size = self.optional::<ByteSize>(key).map_or(default, |size| size.0);
        if !allowed.contains(&size) {
            self.problem(key, format_args!("must be from {} to {} bytes", allowed.start(), allowed.end()));
        }
        size
    }

    pub(super) fn bytes(&mut self, key: &str, default: usize, least: u64) -> usize {
        let size = self.size(key, default as u64, least..=1 << 30);
        usize::try_from(size).unwrap_or(default)
    }

    pub(super) fn count(&mut self, key: &str, default: usize) -> usize {
        let count = self.take(key, default);
        if !(1..=1_000_000).contains(&count) {
            self.problem(key, "must be from 1 to 1000000");
        }
        count
    }

    pub(super) fn time(&mut self, key: &str, default: Duration) -> Duration {
        let time = self.optional::<Span>(key).map_or(default, |span| span.0);
        if !(Duration::from_millis(10)..=Duration::from_secs(86_400)).contains(&time) {
            self.problem(key, "must be from 10ms to 24h");
        }
        time
    }

    pub(super) fn finish(self) {
        let mut rest = self;
        let unknown: Vec<String> = rest.table.keys().cloned().collect();
        for key in unknown {
            rest.problem(&key, "is not known");
        }
    }
}

/// A size such as `"64MiB"`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ByteSize(pub(super) u64);

impl TryFrom<String> for ByteSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let units = [("KiB", KIB), ("MiB", MIB), ("GiB", 1024 * MIB), ("B", 1)];
        let split = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?.trim(), factor)));
        split
            .and_then(|(number, factor)| number.parse::<u64>().ok()?.checked_mul(*factor))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no size: write a whole number and B, KiB, MiB or GiB"))
    }
}

/// A duration such as `"5s"`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Span(Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
        let split = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?.trim(), factor)));
        split
            .and_then(|(number, factor)| number.parse::<u64>().ok()?.checked_mul(*factor))
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| format!("`{text}` is no duration: write a whole number and ms, s, m or h"))
    }
}
