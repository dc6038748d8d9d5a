//! Guessing the types of columns of files that have none: CSV and NDJSON.
//!
//! The first [`SAMPLE_ROWS`] rows of each file decide, all files of a table together. A guess is taken only if it keeps
//! every text whole: `007` and `1e999` are text, and so are numbers with more digits than a double keeps. A later value
//! that does not fit is an error, and `types` of the source file is the way out.

use larder_types::time::{parse_date, parse_timestamp};

use crate::project::ColumnType;

/// How many rows of each file are looked at.
pub(super) const SAMPLE_ROWS: usize = 10_000;

/// Significant digits that every double keeps.
const KEPT_DIGITS: usize = 15;
/// Significant digits that tell every double from all others. More say nothing that a double could keep.
const MAX_DIGITS: usize = 17;

/// What has been seen of a column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Guess(Option<ColumnType>);

impl Guess {
    /// Looks at one more value of the column; `otherwise` holds everything, and is the answer where types differ.
    pub(super) fn see(&mut self, seen: ColumnType, otherwise: ColumnType) {
        use ColumnType::{Date, Float, Int, Timestamp};
        self.0 = Some(match (self.0, seen) {
            (None, seen) => seen,
            (Some(known), seen) if known == seen => known,
            (Some(Int | Float), Int | Float) => Float,
            (Some(Date | Timestamp), Date | Timestamp) => Timestamp,
            _ => otherwise,
        });
    }

    /// The type; a column without any value is text.
    pub(super) fn decide(self) -> ColumnType {
        self.0.unwrap_or(ColumnType::String)
    }
}

/// The type of a text that has none of its own, as in CSV.
pub(super) fn type_of_text(text: &str) -> ColumnType {
    if parse_bool(text).is_some() {
        ColumnType::Bool
    } else if parse_int(text).is_some() {
        ColumnType::Int
    } else if parse_float(text).is_some() {
        ColumnType::Float
    } else if strict_date(text).is_some() {
        ColumnType::Date
    } else if strict_timestamp(text).is_some() {
        ColumnType::Timestamp
    } else {
        ColumnType::String
    }
}

/// `true` or `false` in any case.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// An integer of 64 bits in its one form: no leading zeros, no plus sign.
pub(super) fn parse_int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let canonical = digits == "0" && digits.len() == text.len() || digits.starts_with(|c: char| matches!(c, '1'..='9'));
    if canonical { text.parse().ok() } else { None }
}

/// A finite number of which a double keeps every digit, without leading zeros before other digits.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let begins_well = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let leading_zero = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
    let significant = significant_digits(digits);
    if !begins_well || leading_zero || significant.len() > MAX_DIGITS {
        return None;
    }
    let float = text.parse().ok().filter(|float: &f64| float.is_finite())?;
    if float == 0.0 && !significant.is_empty() {
        return None;
    }
    // Of 16 or 17 digits a double keeps those that it prints itself when asked for as many.
    let is_kept = significant.len() <= KEPT_DIGITS
        || significant_digits(&format!("{:.*e}", significant.len() - 1, float.abs())) == significant;
    is_kept.then_some(float)
}

fn significant_digits(number: &str) -> String {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_start_matches('0').to_owned()
}

/// `YYYY-MM-DD` and nothing else, as days since 1970-01-01.
pub(super) fn strict_date(text: &str) -> Option<i32> {
    if text.len() == 10 { parse_date(text) } else { None }
}

/// A date with a time of day, as microseconds since 1970-01-01T00:00:00Z.
fn strict_timestamp(text: &str) -> Option<i64> {
    if text.len() > 10 { parse_timestamp(text) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_that_keep_the_text_whole_are_guessed() {
        use ColumnType::{Bool, Date, Float, Int, String, Timestamp};
        for (text, expected) in [
            ("0", Int),
            ("-17", Int),
            ("9223372036854775807", Int),
            ("9223372036854775808", String),
            ("-0", Float),
            ("007", String),
            ("+1", String),
            ("1.5", Float),
            (".5", Float),
            ("1e3", Float),
            ("1e999", String),
            ("1e-999", String),
            ("0.00", Float),
            ("00.5", String),
            ("0.30000000000000004", Float),
            ("0.10000000000000001", Float),
            ("1234567890123456.7", String),
            ("9007199254740993.0", String),
            ("9007199254740992.0", Float),
            ("12345678901234567.89", String),
            ("inf", String),
            ("NaN", String),
            ("true", Bool),
            ("FALSE", Bool),
            ("yes", String),
            ("2013-01-01", Date),
            ("2013-02-30", String),
            ("2013-01-01 05:00:00", Timestamp),
            ("2013-01-01T05:00:00.5+02:00", Timestamp),
            ("N10156", String),
            (" 1", String),
        ] {
            assert_eq!(type_of_text(text), expected, "{text}");
        }
    }

    #[test]
    fn whole_numbers_among_fractions_keep_their_digits() {
        assert_eq!(parse_float("9007199254740992"), Some(9_007_199_254_740_992.0));
        assert_eq!(parse_float("-9007199254740993"), None, "it would become another number");
        assert_eq!(parse_float("100000000000000000"), None, "more than are looked at");
    }

    #[test]
    fn what_differs_is_widened() {
        use ColumnType::{Bool, Date, Float, Int, Json, String, Timestamp};
        for (seen, otherwise, expected) in [
            (&[][..], String, String),
            (&[Int, Int], String, Int),
            (&[Int, Float, Int], String, Float),
            (&[Date, Timestamp], String, Timestamp),
            (&[Int, Bool], String, String),
            (&[Int, String], Json, Json),
            (&[Int, Date, Int], String, String),
        ] {
            let mut guess = Guess::default();
            seen.iter().for_each(|kind| guess.see(*kind, otherwise));
            assert_eq!(guess.decide(), expected, "{seen:?}");
        }
    }
}
