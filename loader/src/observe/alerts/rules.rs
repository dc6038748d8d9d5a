//! The rules: what a run, or the time that has passed since one, says of a sync.
//!
//! Pure: the run, the clock and what is remembered of earlier runs are parameters. What a run says nothing about (a
//! cancelled run of its outcome, a failed one of its rejected rows) has no finding, and leaves its alert as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::observe::between;
use crate::project::alerts::{Level, Rules};
use crate::project::span::write_span;

/// Row counts that are remembered: the median of so many follows a lasting change after half of them.
const REMEMBERED_COUNTS: usize = 10;
/// Longest text of an error in a notice, in characters.
const MAX_ERROR: usize = 500;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rule {
    /// Runs fail.
    Failed,
    /// A guard stops the run.
    Blocked,
    /// Rows are rejected.
    Rejected,
    /// A run takes long.
    Slow,
    /// No run has succeeded for long.
    Stale,
    /// The query returns fewer rows.
    RowDrop,
}

impl Rule {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Failed, Self::Blocked, Self::Rejected, Self::Slow, Self::Stale, Self::RowDrop];

    /// Its name in project files.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Blocked => "blocked",
            Self::Rejected => "rejected",
            Self::Slow => "slow",
            Self::Stale => "stale",
            Self::RowDrop => "row_drop",
        }
    }

    /// The rule of a name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == name)
    }

    /// True if the rules name no level for it.
    pub(super) fn is_off(self, rules: &Rules) -> bool {
        match self {
            Self::Failed => rules.failed.is_off(),
            Self::Blocked => rules.blocked.is_off(),
            Self::Rejected => rules.rejected.is_off(),
            Self::Slow => rules.slow.is_off(),
            Self::Stale => rules.stale.is_off(),
            Self::RowDrop => rules.row_drop.is_off(),
        }
    }

    /// True if each destination has an alert of its own, beside that of the run as a whole.
    pub(super) fn is_of_destinations(self) -> bool {
        matches!(self, Self::Failed | Self::Blocked | Self::Stale)
    }
}

/// How a run ended, or the part of it that went to one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Everything was sent, even if rows were rejected.
    Good,
    Blocked,
    Failed,
    Cancelled,
}

/// What a run has to say.
#[derive(Debug, Clone)]
pub(super) struct RunFacts {
    pub(super) run: String,
    pub(super) at: Timestamp,
    pub(super) took: Duration,
    /// The run as a whole, or all there is of it if the sync has one destination.
    pub(super) whole: Part,
    /// Its destinations, if the sync has several and the run got that far.
    pub(super) parts: BTreeMap<String, Part>,
    /// Rows that the whole query returned, if it was run to its end.
    pub(super) rows: Option<u64>,
    /// Rows that were rejected, at the destination that has most of them.
    pub(super) rejected: u64,
}

/// See [`RunFacts`].
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) end: End,
    pub(super) error: Option<String>,
}

/// What is remembered of a sync, or of one of its destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Memory {
    /// When it was first looked at.
    pub(crate) seen_at: Timestamp,
    /// When a run last succeeded.
    pub(crate) succeeded_at: Option<Timestamp>,
    /// Runs that have failed since one succeeded.
    pub(crate) failures: u64,
    /// Rows of the runs that succeeded last, the oldest first. Only of a sync as a whole.
    pub(crate) rows: Vec<u64>,
}

impl Memory {
    /// Of what was never seen before.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { seen_at: now, succeeded_at: None, failures: 0, rows: Vec::new() }
    }

    fn note(&mut self, end: End, at: Timestamp) {
        match end {
            End::Good => {
                self.failures = 0;
                self.succeeded_at = Some(at);
            }
            End::Failed => self.failures += 1,
            End::Blocked | End::Cancelled => {}
        }
    }

    fn usual_rows(&self) -> Option<u64> {
        let mut sorted = self.rows.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

/// What a rule finds: a level, or that all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) rule: Rule,
    /// The level, `None` if nothing is wrong.
    pub(super) level: Option<Level>,
    /// What was found, in a sentence.
    pub(super) what: String,
}

impl Finding {
    fn new<T>(rule: Rule, reached: Option<(Level, &T)>, what: String) -> Self {
        Self { rule, level: reached.map(|(level, _)| level), what }
    }
}

/// Judges a run as a whole, and remembers it.
pub(super) fn judge_run(rules: &Rules, run: &RunFacts, memory: &mut Memory) -> Vec<Finding> {
    let mut findings = judge_part(rules, run, &run.whole, memory);
    findings.extend(judge_rejected(rules, run));
    findings.extend(judge_took(rules, run));
    findings.extend(judge_rows(rules, run, memory));
    findings
}

/// Judges the part of a run that went to one destination, and remembers it.
pub(super) fn judge_part(rules: &Rules, run: &RunFacts, part: &Part, memory: &mut Memory) -> Vec<Finding> {
    let RunFacts { run: id, at, .. } = run;
    memory.note(part.end, *at);
    let error = part.error.as_deref().map_or_else(|| "no reason is known".to_owned(), shorten);
    let mut findings = Vec::new();
    match part.end {
        End::Failed => {
            let count = memory.failures;
            let in_a_row = if count > 1 { format!(", the {} in a row", ordinal(count)) } else { String::new() };
            let what = format!("Run {id} failed{in_a_row}: {error}");
            findings.push(Finding::new(Rule::Failed, rules.failed.reached(|runs| count >= *runs), what));
        }
        End::Blocked => {
            let what = format!("Run {id} was stopped by a guard: {error}");
            findings.push(Finding::new(Rule::Blocked, rules.blocked.reached(|()| true), what));
        }
        End::Good => {
            let well = |rule, what| Finding { rule, level: None, what };
            findings.push(well(Rule::Failed, format!("Run {id} went through.")));
            findings.push(well(Rule::Blocked, format!("Run {id} passed its guards.")));
            findings.push(well(Rule::Stale, format!("Run {id} succeeded.")));
        }
        End::Cancelled => {}
    }
    findings
}

/// Judges how long ago a run succeeded.
pub(super) fn judge_age(rules: &Rules, memory: &Memory, now: Timestamp) -> Option<Finding> {
    let age = between(memory.succeeded_at.unwrap_or(memory.seen_at), now);
    let (level, _) = rules.stale.reached(|limit| age >= *limit)?;
    let what = match memory.succeeded_at {
        Some(at) => format!("No run has succeeded for {}; the last one that did ended {at:.0}.", span(age)),
        None => format!("No run has succeeded in the {} since this sync is watched.", span(age)),
    };
    Some(Finding { rule: Rule::Stale, level: Some(level), what })
}

/// Judges for how long a run that has not ended has been under way. It can only become too long.
pub(super) fn judge_running(rules: &Rules, run: &str, since: Timestamp, now: Timestamp) -> Option<Finding> {
    let took = between(since, now);
    let (level, limit) = rules.slow.reached(|limit| took >= *limit)?;
    let what = format!("Run {run} has been under way for {}, longer than {}.", span(took), write_span(*limit));
    Some(Finding { rule: Rule::Slow, level: Some(level), what })
}

fn judge_took(rules: &Rules, run: &RunFacts) -> Option<Finding> {
    let reached = rules.slow.reached(|limit| run.took >= *limit);
    // That a run ended early because it failed does not make the sync fast again.
    let is_telling = reached.is_some() || run.whole.end == End::Good;
    let what = match reached {
        Some((_, limit)) => {
            format!("Run {} took {}, longer than {}.", run.run, span(run.took), write_span(*limit))
        }
        None => format!("Run {} took {}.", run.run, span(run.took)),
    };
    is_telling.then(|| Finding::new(Rule::Slow, reached, what))
}

fn judge_rejected(rules: &Rules, run: &RunFacts) -> Option<Finding> {
    let (rejected, rows) = (run.rejected, run.rows?);
    let share = percent(rejected, rows);
    let reached = rules.rejected.reached(|limit| {
        limit.rows.is_some_and(|limit| rejected >= limit) || limit.percent.is_some_and(|limit| share >= limit)
    });
    let is_telling = reached.is_some() || run.whole.end == End::Good;
    let what = format!("Run {}: {rejected} of {rows} rows were rejected ({share:.1} %).", run.run);
    is_telling.then(|| Finding::new(Rule::Rejected, reached, what))
}

/// Compares the number of rows with what earlier runs had. A lasting change becomes the new usual after a few runs.
fn judge_rows(rules: &Rules, run: &RunFacts, memory: &mut Memory) -> Option<Finding> {
    let rows = run.rows?;
    let usual = memory.usual_rows();
    if run.whole.end == End::Good {
        memory.rows.push(rows);
        let surplus = memory.rows.len().saturating_sub(REMEMBERED_COUNTS);
        memory.rows.drain(..surplus);
    }
    let usual = usual?;
    let drop = percent(usual.saturating_sub(rows), usual);
    let reached = rules.row_drop.reached(|limit| drop >= *limit);
    let what = match reached {
        Some(_) => {
            format!("Run {}: the query returned {rows} rows, {drop:.1} % fewer than the usual {usual}.", run.run)
        }
        None => format!("Run {}: the query returned {rows} rows; usual are {usual}.", run.run),
    };
    Some(Finding::new(Rule::RowDrop, reached, what))
}

#[allow(clippy::cast_precision_loss, reason = "a share for people")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// A span for people: no seconds in hours, no minutes in days.
pub(super) fn span(span: Duration) -> String {
    let unit = match span.as_secs() {
        0 => 1,
        1..3_600 => 1_000,
        3_600..86_400 => 60_000,
        _ => 3_600_000,
    };
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    write_span(Duration::from_millis(millis / unit * unit))
}

fn ordinal(count: u64) -> String {
    let ending = match (count % 10, count % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{count}{ending}")
}

fn shorten(error: &str) -> String {
    let mut text: String = error.chars().take(MAX_ERROR).collect();
    if text.len() < error.len() {
        text.push('…');
    }
    text
}
