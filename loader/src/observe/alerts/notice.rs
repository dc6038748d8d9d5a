//! A notice: one change of an alert, in the words that people get.
//!
//! It holds names, numbers and messages of errors, never the contents of rows. It is written down when the change
//! happens and sent as it was written, however much later.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::lifecycle::Change;
use super::rules::{Finding, Rule, span};
use crate::observe::between;
use crate::project::alerts::Level;

/// The number of this format, for programs that receive notices. It changes when a member changes its meaning or goes.
const VERSION: u32 = 1;

/// What happened to an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// It began, or got worse.
    Raised,
    /// It went from critical to warning.
    Eased,
    /// All is well again.
    Recovered,
    /// Nothing: somebody tries the channel.
    Test,
}

/// A notice, as a webhook gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    pub(crate) version: u32,
    /// The same each time this notice is sent, so that a receiver can tell a repetition.
    pub(crate) id: String,
    pub(crate) event: Event,
    pub(crate) sync: String,
    /// The destination, if the alert is of one of several.
    pub(crate) destination: Option<String>,
    /// The rule; `test` in a test.
    pub(crate) rule: String,
    /// The level now; none once all is well.
    pub(crate) level: Option<Level>,
    /// The level before.
    pub(crate) before: Option<Level>,
    /// The run that changed it, if one did.
    pub(crate) run: Option<String>,
    /// When, RFC 3339.
    pub(crate) at: String,
    /// Since when something is or was wrong.
    pub(crate) since: String,
    /// One line.
    pub(crate) title: String,
    /// What happened.
    pub(crate) what: String,
    /// What to do.
    pub(crate) todo: Option<String>,
    /// A command that shows more.
    pub(crate) command: Option<String>,
}

/// Where a change happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) sync: &'a str,
    pub(super) destination: Option<&'a str>,
    pub(super) run: Option<&'a str>,
    pub(super) at: Timestamp,
}

impl Notice {
    /// Puts a change into words. `id` must be its own.
    pub(super) fn of_change(id: String, place: Place<'_>, change: Change, finding: Finding) -> Self {
        let Finding { rule, what, .. } = finding;
        let event = match change.to {
            None => Event::Recovered,
            Some(_) if change.to > change.from => Event::Raised,
            Some(_) => Event::Eased,
        };
        let subject = match place.destination {
            Some(destination) => format!("sync {} to {destination}", place.sync),
            None => format!("sync {}", place.sync),
        };
        let title = match change.to {
            Some(level) => format!("[{}] {subject}: {}", level.as_str(), headline(rule)),
            None => {
                let lasted = span(between(change.since, place.at));
                format!("[recovered] {subject}: {} is over after {lasted}", headline(rule))
            }
        };
        let is_wrong = change.to.is_some();
        Self {
            version: VERSION,
            id,
            event,
            sync: place.sync.to_owned(),
            destination: place.destination.map(str::to_owned),
            rule: rule.as_str().to_owned(),
            level: change.to,
            before: change.from,
            run: place.run.map(str::to_owned),
            at: place.at.to_string(),
            since: change.since.to_string(),
            title,
            what,
            todo: is_wrong.then(|| advice(rule).to_owned()),
            command: is_wrong.then(|| command(rule, place)),
        }
    }

    /// A notice that only shows that a channel works.
    pub(super) fn of_test(id: String, channel: &str, now: Timestamp) -> Self {
        Self {
            version: VERSION,
            id,
            event: Event::Test,
            sync: "test".to_owned(),
            destination: None,
            rule: "test".to_owned(),
            level: None,
            before: None,
            run: None,
            at: now.to_string(),
            since: now.to_string(),
            title: format!("[test] Larder reaches channel {channel}"),
            what: "Somebody asked for this test. Nothing is wrong.".to_owned(),
            todo: None,
            command: None,
        }
    }

    /// The notice as plain text below its title.
    pub(super) fn body(&self) -> String {
        let mut text = self.what.clone();
        for line in self.todo.iter().chain(&self.command) {
            text.push_str("\n\n");
            text.push_str(line);
        }
        text
    }
}

fn headline(rule: Rule) -> &'static str {
    match rule {
        Rule::Failed => "runs fail",
        Rule::Blocked => "stopped by a guard",
        Rule::Rejected => "rows are rejected",
        Rule::Slow => "runs take too long",
        Rule::Stale => "no run has succeeded for too long",
        Rule::RowDrop => "the query returns fewer rows",
    }
}

fn advice(rule: Rule) -> &'static str {
    match rule {
        Rule::Failed => {
            "Correct the cause and run the sync again: what was acknowledged is kept, and the rest is sent."
        }
        Rule::Blocked => {
            "Nothing was sent. Look at the query and at what the run would do; then approve the run, or correct the \
             query and run again."
        }
        Rule::Rejected => "Correct the rows or the mapping. Each run tries rejected rows again.",
        Rule::Slow => "Look at which part takes the time: the query, the comparison or the cluster.",
        Rule::Stale => "See that the sync is scheduled, that the loader runs, and how its last runs ended.",
        Rule::RowDrop => "See that the query still returns what it should.",
    }
}

fn command(rule: Rule, place: Place<'_>) -> String {
    let sync = place.sync;
    match (rule, place.run) {
        (Rule::Rejected, Some(run)) => format!("larder-loader rows {run} --status rejected"),
        (Rule::Blocked, Some(run)) => format!("larder-loader plan {sync}, then larder-loader approve {run}"),
        (Rule::Blocked | Rule::RowDrop, _) => format!("larder-loader plan {sync}"),
        _ => format!("larder-loader history {sync}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(from: Option<Level>, to: Option<Level>) -> Notice {
        let since: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        let at: Timestamp = "2026-03-01T12:30:05Z".parse().unwrap();
        let change = Change { from, to, peak: Level::Critical, since };
        let place = Place { sync: "orders", destination: Some("eu"), run: Some("r1"), at };
        let finding =
            Finding { rule: Rule::Rejected, level: to, what: "Run r1: 7 of 9 rows were rejected.".to_owned() };
        Notice::of_change("n1".to_owned(), place, change, finding)
    }

    #[test]
    fn notice_says_what_happened_and_what_to_do() {
        let notice = notice(None, Some(Level::Critical));
        assert_eq!(notice.event, Event::Raised);
        assert_eq!(notice.title, "[critical] sync orders to eu: rows are rejected");
        assert_eq!(
            notice.body(),
            "Run r1: 7 of 9 rows were rejected.\n\nCorrect the rows or the mapping. Each run tries rejected rows \
             again.\n\nlarder-loader rows r1 --status rejected"
        );
    }

    #[test]
    fn recovery_says_for_how_long_and_asks_for_nothing() {
        let notice = notice(Some(Level::Warning), None);
        assert_eq!(notice.event, Event::Recovered);
        assert_eq!(notice.title, "[recovered] sync orders to eu: rows are rejected is over after 2h30m");
        assert_eq!((notice.todo, notice.command), (None, None));
    }

    #[test]
    fn falling_level_is_no_new_alarm() {
        assert_eq!(notice(Some(Level::Critical), Some(Level::Warning)).event, Event::Eased);
    }
}
