//! The window of an incremental run: which rows are recent enough to be read, and how far the next run may trust that.
//!
//! The *cursor* of a destination is the greatest value of the column that any row had when the last run read it; the next
//! one reads from there, less the lookback. Only values of the column are compared with each other, never a clock, so
//! the clocks of warehouse and loader may differ. Rows of the cursor's own value are read again, because others may have
//! got the same value since, and rows without a value are always read. What has not changed is recognised by its hash,
//! so whatever is read twice is not sent twice.
//!
//! Invariants:
//!
//! * The cursor moves only when every row that was read has been answered. Rows that were rejected are read again by
//!   their own values of the column, until they are accepted or all rows are read; if they are more than are kept by
//!   name, the cursor stays.
//! * That a row was not read means nothing, unless all rows were: so rows that have left are missed only every
//!   `full_every`.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use larder_types::time::write_timestamp;
use larder_types::value::Value;

use crate::project::{Incremental, Lookback, Model};
use crate::source::dialect::Dialect;
use crate::source::statement::{Statement, without_semicolon};

/// Most values of rejected rows that a statement asks for.
const MAX_RETRIED: usize = 1000;
/// The mark of a row without a value: such rows are always read.
pub(crate) const NO_VALUE: u64 = i64::MIN.cast_unsigned();

/// What a cursor column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CursorKind {
    /// Microseconds since 1970 of no zone.
    Timestamp,
    /// Microseconds since 1970, UTC.
    Instant,
    /// Days since 1970.
    Date,
    Int,
}

/// How far the rows of a destination were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) column: String,
    pub(crate) kind: CursorKind,
    /// The greatest value.
    pub(crate) seen: i64,
    /// The values of rows that were rejected.
    pub(crate) rejected: BTreeSet<i64>,
    /// When all rows were read last.
    pub(crate) full_at: Timestamp,
}

/// The rows that a run reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) column: String,
    pub(crate) kind: CursorKind,
    pub(crate) since: i64,
    pub(crate) rejected: BTreeSet<i64>,
}

/// What a run saw of the cursor column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) column: String,
    /// None if there was no row with a value.
    pub(crate) newest: Option<(CursorKind, i64)>,
    /// When all rows were read, if they were.
    pub(crate) full_at: Option<Timestamp>,
}

impl CursorKind {
    const ALL: [(&'static str, Self); 4] =
        [("timestamp", Self::Timestamp), ("instant", Self::Instant), ("date", Self::Date), ("int", Self::Int)];

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("int", |(word, _)| word)
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind)
    }

    /// `value` less the lookback.
    fn before(self, value: i64, lookback: Lookback) -> Result<i64, String> {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        let days = |span: Duration| i64::try_from(span.as_secs().div_ceil(86_400)).unwrap_or(i64::MAX);
        match (self, lookback) {
            (_, Lookback::Count(0)) => Ok(value),
            (Self::Int, Lookback::Count(count)) => Ok(value.saturating_sub_unsigned(count)),
            (Self::Timestamp | Self::Instant, Lookback::Span(span)) => Ok(value.saturating_sub(micros(span))),
            (Self::Date, Lookback::Span(span)) => Ok(value.saturating_sub(days(span))),
            (Self::Int, Lookback::Span(_)) => {
                Err("holds integers, so `incremental.lookback` must be an integer and not a span of time".to_owned())
            }
            (_, Lookback::Count(_)) => {
                Err("holds times, so `incremental.lookback` must be a span of time such as `10m`".to_owned())
            }
        }
    }

    /// A value as the parameter of a statement, and the SQL that makes it a value of the column's type. Times are bound
    /// as texts, because databases disagree on how a bound time and a column without a zone compare.
    fn parameter(self, value: i64, name: &str, dialect: Dialect) -> (Value, String) {
        let text = |micros: i64| {
            let mut text = String::new();
            write_timestamp(micros, &mut text);
            text
        };
        let cast = |kind: &str| format!("CAST(:{name} AS {kind})");
        match self {
            Self::Int => (Value::Int(value), format!(":{name}")),
            Self::Date => {
                let day = text(value.saturating_mul(86_400_000_000));
                (Value::String(day.chars().take(10).collect()), cast("DATE"))
            }
            Self::Timestamp => {
                let kind = match dialect {
                    Dialect::Snowflake | Dialect::Databricks => "TIMESTAMP_NTZ",
                    Dialect::BigQuery | Dialect::MySql => "DATETIME",
                    Dialect::SqlServer => "DATETIME2",
                    _ => "TIMESTAMP",
                };
                (Value::String(text(value).trim_end_matches('Z').replace('T', " ")), cast(kind))
            }
            Self::Instant => {
                let kind = match dialect {
                    Dialect::Snowflake => "TIMESTAMP_TZ",
                    Dialect::BigQuery | Dialect::Databricks => "TIMESTAMP",
                    Dialect::SqlServer => "DATETIMEOFFSET",
                    Dialect::MySql => "DATETIME",
                    _ => "TIMESTAMP WITH TIME ZONE",
                };
                (Value::String(text(value).trim_end_matches('Z').replace('T', " ") + "+00:00"), cast(kind))
            }
        }
    }
}

impl Window {
    /// The window that serves all destinations, given how far the rows of each were read; none if one of them needs all
    /// rows.
    ///
    /// # Errors
    /// When the lookback does not fit the column.
    pub(crate) fn of(spec: &Incremental, cursors: &[Option<Cursor>], now: Timestamp) -> Result<Option<Self>, String> {
        let mut window: Option<Self> = None;
        for cursor in cursors {
            let usable = cursor.as_ref().filter(|cursor| cursor.column == spec.column && is_recent(cursor, spec, now));
            let Some(cursor) = usable else { return Ok(None) };
            let before = cursor.kind.before(cursor.seen, spec.lookback);
            let since = before.map_err(|reason| format!("the column `{}` {reason}", spec.column))?;
            match &mut window {
                None => {
                    let rejected = cursor.rejected.clone();
                    window = Some(Self { column: spec.column.clone(), kind: cursor.kind, since, rejected });
                }
                Some(window) if window.kind == cursor.kind => {
                    window.since = window.since.min(since);
                    window.rejected.extend(&cursor.rejected);
                }
                Some(_) => return Ok(None),
            }
        }
        if let Some(window) = &mut window {
            let since = window.since;
            window.rejected.retain(|value| *value < since);
        }
        Ok(window.filter(|window| window.rejected.len() <= MAX_RETRIED))
    }

    /// The statement that reads the window's rows of a model.
    pub(crate) fn statement(&self, model: &Model, dialect: Dialect) -> Statement {
        let mut statement = Statement::of(model, dialect);
        let mut bind = |value: i64, name: String| {
            let (value, sql) = self.kind.parameter(value, &name, dialect);
            statement.params.insert(name, value);
            sql
        };
        let column = dialect.quoted(&self.column);
        let since = bind(self.since, "larder_since".to_owned());
        let rejected: Vec<String> = (0..)
            .zip(&self.rejected)
            .map(|(at, value): (usize, _)| bind(*value, format!("larder_retried_{at}")))
            .collect();
        let retried =
            if rejected.is_empty() { String::new() } else { format!(" OR {column} IN ({})", rejected.join(", ")) };
        statement.text = format!(
            "SELECT * FROM (\n{}\n) AS larder_rows WHERE {column} >= {since} OR {column} IS NULL{retried}",
            without_semicolon(&statement.text, dialect)
        );
        statement
    }
}

fn is_recent(cursor: &Cursor, spec: &Incremental, now: Timestamp) -> bool {
    let age = now.as_millisecond().checked_sub(cursor.full_at.as_millisecond());
    // A clock that was set back makes an age that is no age.
    age.and_then(|age| u64::try_from(age).ok()).is_some_and(|age| Duration::from_millis(age) < spec.full_every)
}

impl Sight {
    /// The cursor after a run in which every row was answered. `marks` are those of the rows that were rejected; none if
    /// they are not all known.
    pub(crate) fn next(&self, before: Option<&Cursor>, marks: Option<BTreeSet<i64>>) -> Option<Cursor> {
        let before = before.filter(|before| before.column == self.column);
        let (kind, newest) = match (self.newest, before) {
            (Some(newest), _) => newest,
            (None, Some(before)) => (before.kind, before.seen),
            (None, None) => return None,
        };
        let before = before.filter(|before| before.kind == kind);
        let full_at = self.full_at.or(before.map(|before| before.full_at))?;
        // A window that is read again has a newest row that may be older than what was seen before it was deleted.
        let seen = before.map_or(newest, |before| before.seen.max(newest));
        let rejected = marks?;
        (rejected.len() <= MAX_RETRIED).then(|| Cursor { column: self.column.clone(), kind, seen, rejected, full_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn spec(lookback: Lookback) -> Incremental {
        Incremental { column: "updated_at".to_owned(), lookback, full_every: Duration::from_secs(3600) }
    }

    fn cursor(seen: i64, rejected: &[i64], full_at: i64) -> Option<Cursor> {
        Some(Cursor {
            column: "updated_at".to_owned(),
            kind: CursorKind::Timestamp,
            seen,
            rejected: rejected.iter().copied().collect(),
            full_at: Timestamp::from_second(full_at).unwrap(),
        })
    }

    fn window(cursors: &[Option<Cursor>], now: i64) -> Option<Window> {
        let lookback = Lookback::Span(Duration::from_secs(600));
        Window::of(&spec(lookback), cursors, Timestamp::from_second(now).unwrap()).unwrap()
    }

    #[test]
    fn a_window_begins_before_the_oldest_cursor_and_has_all_rejected_rows_before_it() {
        let found = window(&[cursor(90 * MINUTE, &[5, 85 * MINUTE], 0), cursor(70 * MINUTE, &[7], 60)], 3599).unwrap();
        assert_eq!((found.since, found.rejected), (60 * MINUTE, BTreeSet::from([5, 7])));
    }

    #[test]
    fn all_rows_are_read_when_one_destination_needs_them_or_it_is_time() {
        assert_eq!(window(&[cursor(1, &[], 0), None], 10), None);
        assert_eq!(window(&[cursor(1, &[], 0)], 3600), None);
        assert_eq!(window(&[cursor(1, &[], 100)], 99), None, "a clock that was set back");
        let other = cursor(1, &[], 0).map(|cursor| Cursor { column: "other".to_owned(), ..cursor });
        assert_eq!(window(&[other], 10), None);
        let many: Vec<i64> = (0..1001).collect();
        assert_eq!(window(&[cursor(600 * MINUTE, &many, 0)], 10), None);
        assert!(window(&[cursor(600 * MINUTE, &many[1..], 0)], 10).is_some());
    }

    #[test]
    fn a_lookback_fits_its_column() {
        let now = Timestamp::from_second(10).unwrap();
        let error = Window::of(&spec(Lookback::Count(5)), &[cursor(1, &[], 0)], now).unwrap_err();
        assert!(error.contains("span of time"), "{error}");
        let int = cursor(100, &[], 0).map(|cursor| Cursor { kind: CursorKind::Int, ..cursor });
        assert!(Window::of(&spec(Lookback::Span(Duration::from_secs(1))), std::slice::from_ref(&int), now).is_err());
        assert_eq!(Window::of(&spec(Lookback::Count(30)), &[int], now).unwrap().unwrap().since, 70);
        let date = cursor(100, &[], 0).map(|cursor| Cursor { kind: CursorKind::Date, ..cursor });
        let day = Lookback::Span(Duration::from_secs(90_000));
        assert_eq!(Window::of(&spec(day), &[date], now).unwrap().unwrap().since, 98);
    }

    #[test]
    fn the_statement_binds_its_values() {
        let model = Model::Sql {
            name: "m".to_owned(),
            text: "SELECT * FROM t -- all\n;".to_owned(),
            params: std::collections::BTreeMap::new(),
        };
        let mut window = window(&[cursor(90 * MINUTE, &[5], 0)], 10).unwrap();
        let statement = window.statement(&model, Dialect::Postgres);
        assert_eq!(
            statement.bind(Dialect::Postgres).unwrap().text,
            "SELECT * FROM (\nSELECT * FROM t -- all\n\n) AS larder_rows WHERE \"updated_at\" >= CAST($1 AS TIMESTAMP) \
             OR \"updated_at\" IS NULL OR \"updated_at\" IN (CAST($2 AS TIMESTAMP))"
        );
        assert_eq!(statement.params["larder_since"], Value::String("1970-01-01 01:20:00".to_owned()));
        assert_eq!(statement.params["larder_retried_0"], Value::String("1970-01-01 00:00:00.000005".to_owned()));
        window.kind = CursorKind::Instant;
        let statement = window.statement(&model, Dialect::Snowflake);
        assert!(statement.text.contains("CAST(:larder_since AS TIMESTAMP_TZ)"), "{}", statement.text);
        assert_eq!(statement.params["larder_since"], Value::String("1970-01-01 01:20:00+00:00".to_owned()));
        (window.kind, window.since) = (CursorKind::Date, 366);
        let statement = window.statement(&model, Dialect::DuckDb);
        assert_eq!(statement.params["larder_since"], Value::String("1971-01-02".to_owned()));
    }

    #[test]
    fn the_cursor_moves_only_when_every_row_was_answered_and_never_back() {
        let before = cursor(100, &[3], 50);
        let sight = |newest: Option<i64>, full_at: Option<i64>| Sight {
            column: "updated_at".to_owned(),
            newest: newest.map(|value| (CursorKind::Timestamp, value)),
            full_at: full_at.map(|at| Timestamp::from_second(at).unwrap()),
        };
        let none = || Some(BTreeSet::new());
        assert_eq!(sight(Some(120), None).next(before.as_ref(), none()), cursor(120, &[], 50));
        assert_eq!(sight(Some(90), Some(70)).next(before.as_ref(), none()), cursor(100, &[], 70));
        assert_eq!(sight(None, None).next(before.as_ref(), Some(BTreeSet::from([9]))), cursor(100, &[9], 50));
        assert_eq!(sight(Some(120), None).next(before.as_ref(), None), None, "too many were rejected");
        assert_eq!(sight(Some(5), Some(70)).next(None, none()), cursor(5, &[], 70));
        assert_eq!(sight(None, Some(70)).next(None, none()), None, "no row had a value");
        assert_eq!(sight(Some(5), None).next(None, none()), None);
    }
}
