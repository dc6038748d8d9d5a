//! `guard`: when a run is refused.

use super::Guard;
use super::keys::{Key, Section, Shape};
use super::node::Node;
use super::sheet::Sheet;

pub(super) static GUARD: Section = Section {
    what: "`guard`",
    id: "guard",
    about: "When a run is refused before it sends anything.",
    keys: &[
        Key::optional("max_removed", Shape::Section(&MAX_REMOVED), "How many rows may leave the query in one run."),
        Key::optional("min_rows", Shape::Count, "The query must return at least as many rows. Default 1."),
    ],
    one_of: &[],
};

static MAX_REMOVED: Section = Section {
    what: "`max_removed`",
    id: "max_removed",
    about: "A run is refused if it would remove more than both.",
    keys: &[
        Key::optional("percent", Shape::Percent, "Percent of the rows that the cluster has acknowledged. Default 10."),
        Key::optional("rows", Shape::Count, "A number of rows. Default 1000."),
    ],
    one_of: &[],
};

/// Reads the guard of a sync.
pub(super) fn read(node: Node, sheet: &mut Sheet) -> Option<Guard> {
    let mut guard = Guard::default();
    let mut fields = sheet.fields(node, &GUARD)?;
    if let Some(rows) = fields.read("min_rows", sheet, |node, sheet| sheet.count(node, "min_rows")) {
        guard.min_rows = rows;
    }
    let removed = fields.read("max_removed", sheet, |node, sheet| sheet.fields(node, &MAX_REMOVED));
    let Some(mut removed) = removed else { return Some(guard) };
    if let Some(percent) = removed.read("percent", sheet, |node, sheet| sheet.percent(node, "percent")) {
        guard.max_removed_percent = percent;
    }
    if let Some(rows) = removed.read("rows", sheet, |node, sheet| sheet.count(node, "rows")) {
        guard.max_removed_rows = rows;
    }
    Some(guard)
}
