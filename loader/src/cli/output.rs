//! What is printed, and how numbers and times read.

use std::fmt::Display;
use std::io::Write;

use crate::run::RowCounts;

/// Prints a line of the result. A reader that has gone away must not stop a run, so that failure is not looked at.
pub(super) fn say(line: impl Display) {
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

/// Prints a line beside the result: a problem, a remark, progress.
pub(super) fn complain(line: impl Display) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
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
