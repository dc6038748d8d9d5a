//! What is printed, and how numbers and times read.

use std::fmt::Display;
use std::io::Write;
use std::sync::OnceLock;

use clap::ValueEnum;

use crate::run::RowCounts;

/// Prints a line of the result. A reader that has gone away must not stop a run, so that failure is not looked at.
pub(super) fn say(line: impl Display) {
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

/// How what stands beside results is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line, with `timestamp`, `level` and `message`.
    Json,
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Decides for the whole process; the first decision counts.
pub(super) fn set_format(format: LogFormat) {
    FORMAT.get_or_init(|| format);
}

/// Whether programs read what stands beside results.
pub(super) fn is_for_programs() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Prints a line beside the result: a problem, a remark, progress.
pub(super) fn complain(line: impl Display) {
    let text = if is_for_programs() { as_json(&line.to_string()) } else { line.to_string() };
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// A line as a log entry, like those of the rest of the program.
fn as_json(line: &str) -> String {
    let of_sync = line.split_once(": error: ").is_some_and(|(sync, _)| !sync.contains(' '));
    let level = match line {
        _ if of_sync || line.starts_with("error: ") => "ERROR",
        _ if line.starts_with("warning: ") => "WARN",
        _ => "INFO",
    };
    let timestamp = crate::run::text(jiff::Timestamp::now());
    serde_json::json!({ "timestamp": timestamp, "level": level, "message": line }).to_string()
}

/// A number of rows as people read it: exact up to 9999, then with three digits at most.
pub(super) fn rows(count: u64) -> String {
    let (unit, sign) = match count {
        0..=9_999 => return count.to_string(),
        10_000..=999_999 => (1_000, "k"),
        1_000_000..=999_999_999 => (1_000_000, "M"),
        _ => (1_000_000_000, "G"),
    };
    let tenths = count / (unit / 10);
    if tenths < 1_000 { format!("{}.{}{sign}", tenths / 10, tenths % 10) } else { format!("{}{sign}", tenths / 10) }
}

/// A number of bytes as people read it.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..=9_999 => format!("{count} B"),
        10_000..=9_999_999 => format!("{} kB", count / 1_000),
        _ => format!("{} MB", count / 1_000_000),
    }
}

/// What a run that a guard stopped would have done with the rows, on one line.
pub(super) fn blocked(counts: &RowCounts) -> String {
    format!(
        "blocked: would remove {} add {} change {}; unchanged {} rejected {}",
        rows(counts.removed),
        rows(counts.added),
        rows(counts.changed),
        rows(counts.unchanged),
        rows(counts.rejected)
    )
}

/// What became of the rows, on one line.
pub(super) fn counts(counts: &RowCounts) -> String {
    format!(
        "added {} changed {} removed {} unchanged {} rejected {}",
        rows(counts.added),
        rows(counts.changed),
        rows(counts.removed),
        rows(counts.unchanged),
        rows(counts.rejected)
    )
}

/// A duration: milliseconds below a second, tenths below ten seconds, seconds below an hour.
pub(super) fn duration(seconds: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
    let millis = (seconds * 1_000.0).clamp(0.0, 1e15) as u64;
    match millis {
        0..=999 => format!("{millis}ms"),
        1_000..=9_999 => format!("{}.{}s", millis / 1_000, millis % 1_000 / 100),
        10_000..=119_999 => format!("{}s", millis / 1_000),
        120_000..=3_599_999 => format!("{}m{:02}s", millis / 60_000, millis / 1_000 % 60),
        _ => format!("{}h{:02}m", millis / 3_600_000, millis / 60_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_programs_have_a_level() {
        for (line, level) in [
            ("error: no", "ERROR"),
            ("planes: error: no", "ERROR"),
            ("warning: hm", "WARN"),
            ("an error: text", "INFO"),
        ] {
            let entry: serde_json::Value = serde_json::from_str(&as_json(line)).unwrap();
            assert_eq!((&entry["level"], &entry["message"]), (&level.into(), &line.into()));
            assert!(entry["timestamp"].as_str().unwrap().ends_with('Z'));
        }
    }

    #[test]
    fn blocked_run_is_not_told_as_if_it_had_done_something() {
        let found = RowCounts { removed: 12_000, unchanged: 8, ..RowCounts::default() };
        assert_eq!(blocked(&found), "blocked: would remove 12.0k add 0 change 0; unchanged 8 rejected 0");
        assert_eq!(counts(&found), "added 0 changed 0 removed 12.0k unchanged 8 rejected 0");
    }

    #[test]
    fn numbers_read_well() {
        let cases =
            [(0, "0"), (1_204, "1204"), (9_999, "9999"), (10_000, "10.0k"), (123_456, "123k"), (4_100_000, "4.1M")];
        for (count, expected) in cases {
            assert_eq!(rows(count), expected);
        }
        for (seconds, expected) in
            [(0.0, "0ms"), (0.25, "250ms"), (4.25, "4.2s"), (41.9, "41s"), (125.0, "2m05s"), (7_260.0, "2h01m")]
        {
            assert_eq!(duration(seconds), expected);
        }
    }
}
