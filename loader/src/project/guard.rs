//! The `guard` of a sync: when a run is stopped before it sends anything.

use super::keys::{Key, Section, Shape};
use super::node::Node;
use super::sheet::Sheet;

pub(super) static GUARD: Section = Section {
    what: "`guard`",
    id: "guard",
    about: "When a run is stopped before it sends anything.",
    keys: &[
        Key::optional("max_removed", Shape::Section(&MAX_REMOVED), "How many rows may leave the query in one run."),
        Key::optional(
            "max_changed",
            Shape::Section(&MAX_CHANGED),
            "How many rows may change in one run. Not limited if left out.",
        ),
        Key::optional("min_rows", Shape::Count, "The query must return at least as many rows. Default 1."),
        Key::optional(
            "verify_row_count",
            Shape::Bool,
            "Count the rows by a query of its own before any are removed. Default true for databases behind a driver.",
        ),
    ],
    one_of: &[],
};

static MAX_REMOVED: Section = Section {
    what: "`max_removed`",
    id: "max_removed",
    about: "A run is stopped if it would remove more than both.",
    keys: &LIMIT,
    one_of: &[],
};

static MAX_CHANGED: Section = Section {
    what: "`max_changed`",
    id: "max_changed",
    about: "A run is stopped if it would change more than both.",
    keys: &LIMIT,
    one_of: &[],
};

static LIMIT: [Key; 2] = [
    Key::optional("percent", Shape::Percent, "Percent of the rows that the cluster has acknowledged. Default 10."),
    Key::optional("rows", Shape::Count, "A number of rows. Default 1000."),
];

/// When a run is stopped before it pushes anything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guard {
    /// Rows that may leave in one run.
    pub max_removed: Limit,
    /// Rows that may change in one run; any number, if nothing.
    pub max_changed: Option<Limit>,
    /// The query must return at least as many rows. Default 1.
    pub min_rows: u64,
    /// Whether a run that would remove something counts the rows of the model by a query of its own, to find out that
    /// some were lost on the way. By default if the rows come from a database outside this process.
    pub verify_row_count: Option<bool>,
}

/// So many rows pass: the share or the number, whichever is more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// A share of the rows last acknowledged, in percent. Default 10.
    pub percent: f64,
    /// A number, whatever the share. Default 1000.
    pub rows: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self { percent: 10.0, rows: 1000 }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self { max_removed: Limit::default(), max_changed: None, min_rows: 1, verify_row_count: None }
    }
}

/// Reads the guard of a sync. What is missing has its default.
pub(super) fn read(node: Node, sheet: &mut Sheet) -> Option<Guard> {
    let mut fields = sheet.fields(node, &GUARD)?;
    let max_removed = fields.read("max_removed", sheet, |node, sheet| limit(node, &MAX_REMOVED, sheet));
    let max_changed = fields.read("max_changed", sheet, |node, sheet| limit(node, &MAX_CHANGED, sheet));
    let min_rows = fields.read("min_rows", sheet, |node, sheet| sheet.count(node, "min_rows"));
    let verify_row_count = fields.read("verify_row_count", sheet, |node, sheet| sheet.bool(node, "verify_row_count"));
    let default = Guard::default();
    Some(Guard {
        max_removed: max_removed.unwrap_or(default.max_removed),
        max_changed,
        min_rows: min_rows.unwrap_or(default.min_rows),
        verify_row_count,
    })
}

fn limit(node: Node, section: &'static Section, sheet: &mut Sheet) -> Option<Limit> {
    let mut fields = sheet.fields(node, section)?;
    let percent = fields.read("percent", sheet, |node, sheet| sheet.percent(node, "percent"));
    let rows = fields.read("rows", sheet, |node, sheet| sheet.count(node, "rows"));
    let default = Limit::default();
    Some(Limit { percent: percent.unwrap_or(default.percent), rows: rows.unwrap_or(default.rows) })
}
