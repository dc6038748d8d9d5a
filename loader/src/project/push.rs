//! `push` of `larder.yml`: how much is sent at a time, and for how long a cluster that fails is tried.

use std::time::Duration;

use super::keys::{Key, Section, Shape};
use super::node::Node;
use super::sheet::Sheet;

/// More in flight only wait at the cluster, each with its megabyte in memory here.
const MOST_IN_FLIGHT: u64 = 64;

pub(super) static PUSH: Section = Section {
    what: "`push`",
    id: "push",
    about: "How much is sent at a time, and for how long a cluster that fails is tried.",
    keys: &[
        Key::optional("in_flight", Shape::Section(&IN_FLIGHT), IN_FLIGHT.about),
        Key::optional(
            "give_up_after",
            Shape::Span,
            "How long a cluster may do nothing but fail before the run fails. Default 15m.",
        ),
    ],
    one_of: &[],
};

static IN_FLIGHT: Section = Section {
    what: "`in_flight`",
    id: "in_flight",
    about: "How many batches of about 1 MiB are under way; the loader finds out what the cluster keeps up with.",
    keys: &[Key::optional("max", Shape::Count, "Never more than these, 1 to 64. Default 8.")],
    one_of: &[],
};

/// How batches are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushSpec {
    /// Most batches of about 1 MiB that a delivery has under way. Default 8.
    pub max_in_flight: usize,
    /// For how long a cluster may do nothing but fail before the run gives up. Default 15 minutes: a rolling restart, or
    /// a failover with a person in it.
    pub give_up_after: Duration,
}

impl Default for PushSpec {
    fn default() -> Self {
        Self { max_in_flight: 8, give_up_after: Duration::from_secs(15 * 60) }
    }
}

/// Reads the section.
pub(super) fn read(node: Node, sheet: &mut Sheet) -> Option<PushSpec> {
    let mut push = PushSpec::default();
    let mut fields = sheet.fields(node, &PUSH)?;
    if let Some(span) = fields.read("give_up_after", sheet, |node, sheet| sheet.span(node, "give_up_after")) {
        push.give_up_after = span;
    }
    let in_flight = fields.read("in_flight", sheet, |node, sheet| sheet.fields(node, &IN_FLIGHT));
    let Some(mut in_flight) = in_flight else { return Some(push) };
    if let Some(max) = in_flight.read("max", sheet, read_max) {
        push.max_in_flight = max;
    }
    Some(push)
}

fn read_max(node: Node, sheet: &mut Sheet) -> Option<usize> {
    let line = node.line;
    let max = sheet.count(node, "in_flight.max")?;
    if !(1..=MOST_IN_FLIGHT).contains(&max) {
        sheet.report(line, format!("`in_flight.max` must be from 1 to {MOST_IN_FLIGHT}, not {max}"));
    }
    usize::try_from(max).ok()
}
