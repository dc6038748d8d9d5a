//! How a sync finds what changed: `diff`, `planner_schema` and `incremental`.

use std::time::Duration;

use super::SourceSpec;
use super::keys::{Key, Section, Shape};
use super::node::{Content, Node};
use super::sheet::{Fields, Sheet};
use crate::source::statement::table_parts;

/// Where the tables of `diff: warehouse` are, unless the sync says otherwise.
const PLANNER_SCHEMA: &str = "larder_planner";
const FULL_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// How a sync finds what changed since its last run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DiffSpec {
    /// All rows are read and compared here.
    #[default]
    Local,
    /// The warehouse compares, in tables of its own, and only rows that differ are read.
    Warehouse {
        /// The schema of those tables, with what is before it.
        planner_schema: Vec<String>,
    },
    /// Only recent rows are read, and now and then all.
    Incremental(Incremental),
}

/// Which rows are recent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incremental {
    /// The column that says when a row was changed: times, dates or integers that only grow.
    pub column: String,
    /// How far before the newest value seen a run begins.
    pub lookback: Lookback,
    /// How long after all rows were read they are read again. Only then are rows missed that have left.
    pub full_every: Duration,
}

/// A distance on the cursor column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookback {
    /// For times and dates.
    Span(Duration),
    /// For integers.
    Count(u64),
}

pub(super) const PLACES: [(&str, bool); 2] = [("local", false), ("warehouse", true)];

pub(super) static INCREMENTAL: Section = Section {
    what: "`incremental`",
    id: "incremental",
    about: "Read only rows that changed recently, and now and then all.",
    keys: &[
        Key::required("column", Shape::Text, "The column that says when a row changed: times, dates or integers."),
        Key::optional(
            "lookback",
            Shape::Either(&[Shape::Span, Shape::Count]),
            "How far before the newest value seen a run begins to read. Default 0.",
        ),
        Key::optional("full_every", Shape::Span, "When all rows are read again. Default 1d."),
    ],
    one_of: &[],
};

/// Reads the section.
pub(super) fn read(sync: &mut Fields, sheet: &mut Sheet) -> DiffSpec {
    let (diff, planner_schema, incremental) =
        (sync.take("diff"), sync.take("planner_schema"), sync.take("incremental"));
    let diff_line = diff.as_ref().map(|node| node.line);
    let in_warehouse = diff.and_then(|node| sheet.choice(node, "diff", &PLACES)).unwrap_or_default();
    let in_warehouse = diff_line.filter(|_| in_warehouse);
    let schema_line = planner_schema.as_ref().map(|node| node.line);
    let schema = planner_schema.and_then(|node| {
        let parse =
            |text: &str| table_parts(text).ok_or("must be a schema's name, such as `larder_planner` or `db.schema`");
        sheet.parsed(node, "planner_schema", parse)
    });
    let incremental_line = incremental.as_ref().map(|node| node.line);
    let incremental = incremental.and_then(|node| read_incremental(node, sheet));
    match (in_warehouse, schema_line, incremental_line) {
        (Some(_), _, Some(line)) => {
            sheet.report(line, "`incremental` reads recent rows here and `diff: warehouse` compares there; keep one");
        }
        (None, Some(line), _) => sheet.report(line, "`planner_schema` is of use with `diff: warehouse` only"),
        _ => {}
    }
    match (in_warehouse, incremental) {
        (Some(_), _) => {
            let planner_schema = schema.unwrap_or_else(|| vec![PLANNER_SCHEMA.to_owned()]);
            DiffSpec::Warehouse { planner_schema }
        }
        (None, Some(incremental)) => DiffSpec::Incremental(incremental),
        (None, None) => DiffSpec::Local,
    }
}

/// What must be left to the database needs a source that has one.
pub(super) fn check_source(diff: &DiffSpec, source: Option<&Option<SourceSpec>>, line: u32, sheet: &mut Sheet) {
    let key = match diff {
        DiffSpec::Local => return,
        DiffSpec::Warehouse { .. } => "diff: warehouse",
        DiffSpec::Incremental(_) => "incremental",
    };
    if let Some(Some(SourceSpec::Files { .. })) = source {
        sheet.report(line, format!("`{key}` needs a database that runs SQL; files are always read whole"));
    }
    if let (Some(Some(SourceSpec::Sqlite { .. })), DiffSpec::Warehouse { .. }) = (source, diff) {
        sheet.report(line, "`diff: warehouse` writes tables and needs a warehouse; SQLite files are only read");
    }
}

fn read_incremental(node: Node, sheet: &mut Sheet) -> Option<Incremental> {
    let mut fields = sheet.fields(node, &INCREMENTAL)?;
    let column = fields.read("column", sheet, |node, sheet| sheet.text(node, "column"));
    let (lookback, full_every) = (fields.take("lookback"), fields.take("full_every"));
    let lookback = lookback.map_or(Some(Lookback::Count(0)), |node| read_lookback(node, sheet));
    let full_every = full_every.map_or(Some(FULL_EVERY), |node| sheet.span(node, "full_every"));
    Some(Incremental { column: column?, lookback: lookback?, full_every: full_every? })
}

fn read_lookback(node: Node, sheet: &mut Sheet) -> Option<Lookback> {
    match node.content {
        Content::Int(_) | Content::UInt(_) => sheet.count(node, "lookback").map(Lookback::Count),
        _ => sheet.span(node, "lookback").map(Lookback::Span),
    }
}
