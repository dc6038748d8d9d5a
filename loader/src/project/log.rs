//! `retention` and `redact` of `larder.yml`: for how long the loader remembers what it did, and what it never shows.

use std::collections::BTreeSet;
use std::time::Duration;

use super::keys::{Key, Section, Shape, words};
use super::node::{Content, Node};
use super::sheet::Sheet;
use super::size::parse_size;

const KEYS: [(&str, bool); 2] = [("show", false), ("hash", true)];
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) static RETENTION: Section = Section {
    what: "`retention`",
    id: "retention",
    about: "For how long the loader remembers what it did.",
    keys: &[
        Key::optional("runs", Shape::Span, "Runs. Default 90d. The newest run of each sync is always kept."),
        Key::optional(
            "requests",
            Shape::Either(&[Shape::Span, Shape::Section(&REQUESTS)]),
            "The log of requests to the clusters. Default 7d, and 1GiB at most.",
        ),
        Key::optional("rejected_rows", Shape::Span, "Rejected rows. Default 30d."),
    ],
    one_of: &[],
};

static REQUESTS: Section = Section {
    what: "`requests`",
    id: "retention_requests",
    about: "For how long, and up to which size, requests are remembered.",
    keys: &[
        Key::optional("age", Shape::Span, "Default 7d."),
        Key::optional("size", Shape::Text, "For example `256MiB`. Default 1GiB."),
    ],
    one_of: &[],
};

pub(super) static REDACTION: Section = Section {
    what: "`redact`",
    id: "redact",
    about: "What is never shown, and not kept where it need not be.",
    keys: &[
        Key::optional("fields", Shape::List(&Shape::Text), "Fields and columns whose values are shown as `***`."),
        Key::optional("keys", Shape::Word(&words(&KEYS)), "`hash`: hashes stand for keys. Default `show`."),
    ],
    one_of: &[],
};

/// `redact`: a list of fields, or all of it.
pub(super) const REDACT: Shape = Shape::Either(&[Shape::List(&Shape::Text), Shape::Section(&REDACTION)]);

/// For how long the history is kept. What is older goes when the next run of any sync ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Runs. Default 90 days. The newest run of each sync is kept whatever its age.
    pub runs: Duration,
    /// The request log. Default 7 days.
    pub requests: Duration,
    /// Most bytes of the request log. Default 1 GiB.
    pub requests_bytes: u64,
    /// Rejected rows. Default 30 days.
    pub rejected_rows: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { runs: 90 * DAY, requests: 7 * DAY, requests_bytes: 1 << 30, rejected_rows: 30 * DAY }
    }
}

/// What is not shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redaction {
    /// Fields and columns whose values are replaced by `***` wherever rows are shown.
    pub fields: BTreeSet<String>,
    /// Show and keep hashes of keys in place of keys.
    pub keys: bool,
}

impl Redaction {
    /// Whether the values of a field or column may be shown.
    #[must_use]
    pub fn shows(&self, name: &str) -> bool {
        !self.fields.contains(name)
    }
}

/// Reads `retention`.
pub(super) fn read_retention(node: Node, sheet: &mut Sheet) -> Option<Retention> {
    let mut retention = Retention::default();
    let mut fields = sheet.fields(node, &RETENTION)?;
    if let Some(span) = fields.read("runs", sheet, |node, sheet| sheet.span(node, "runs")) {
        retention.runs = span;
    }
    if let Some(span) = fields.read("rejected_rows", sheet, |node, sheet| sheet.span(node, "rejected_rows")) {
        retention.rejected_rows = span;
    }
    if let Some(node) = fields.take("requests") {
        read_requests(node, &mut retention, sheet)?;
    }
    Some(retention)
}

/// An age, or an age and a size.
fn read_requests(node: Node, retention: &mut Retention, sheet: &mut Sheet) -> Option<()> {
    if let Content::Text { .. } = node.content {
        retention.requests = sheet.span(node, "requests")?;
        return Some(());
    }
    let mut fields = sheet.fields(node, &REQUESTS)?;
    if let Some(span) = fields.read("age", sheet, |node, sheet| sheet.span(node, "age")) {
        retention.requests = span;
    }
    if let Some(bytes) = fields.read("size", sheet, |node, sheet| sheet.parsed(node, "size", parse_size)) {
        retention.requests_bytes = bytes;
    }
    Some(())
}

/// Reads `redact`.
pub(super) fn read_redaction(node: Node, sheet: &mut Sheet) -> Option<Redaction> {
    if let Content::List(_) = node.content {
        return Some(Redaction { fields: read_names(node, sheet)?, keys: false });
    }
    let mut fields = sheet.fields(node, &REDACTION)?;
    let names = fields.read("fields", sheet, read_names).unwrap_or_default();
    let keys = fields.read("keys", sheet, |node, sheet| sheet.choice(node, "keys", &KEYS)).unwrap_or_default();
    Some(Redaction { fields: names, keys })
}

fn read_names(node: Node, sheet: &mut Sheet) -> Option<BTreeSet<String>> {
    sheet.list(node, "redact")?.into_iter().map(|node| sheet.text(node, "redact")).collect()
}
