//! What the API and `schedule list` show of syncs and of runs that wait.

use jiff::Timestamp;
use larder_types::names::SyncName;
use serde::Serialize;

use crate::project::SyncSpec;
use crate::run::HistoryEntry;
use crate::schedule::book::{Entry, Ticket};
use crate::schedule::timetable::due;

/// A sync.
#[derive(Debug, Serialize)]
pub(crate) struct SyncView<'a> {
    pub(crate) name: &'a str,
    collection: &'a str,
    pub(crate) schedule: ScheduleView,
    /// The id of the run under way.
    pub(crate) running: Option<&'a str>,
    /// The run that waits.
    pub(crate) pending: Option<TicketView<'a>>,
    /// The newest run in the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_run: Option<HistoryEntry>,
}

/// A sync's schedule.
#[derive(Debug, Serialize)]
pub(crate) struct ScheduleView {
    /// In words.
    pub(crate) description: String,
    pub(crate) paused: bool,
    /// When it fires next, jitter included; absent if no time makes it fire, and as long as no daemon has seen it.
    pub(crate) next_at: Option<String>,
}

/// A run that waits.
#[derive(Debug, Serialize)]
pub(crate) struct TicketView<'a> {
    pub(crate) id: &'a str,
    sync: &'a str,
    state: &'static str,
    trigger: &'static str,
    full: bool,
    due_at: String,
}

impl<'a> SyncView<'a> {
    pub(crate) fn of(spec: &'a SyncSpec, entry: &'a Entry, last_run: Option<HistoryEntry>) -> Self {
        // What was computed from another definition does not count any more.
        let is_current = entry.definition.as_ref() == Some(&spec.schedule.definition());
        let next = entry.next.filter(|_| is_current && !entry.is_paused);
        Self {
            name: spec.name.as_str(),
            collection: spec.collection.as_str(),
            schedule: ScheduleView {
                description: spec.schedule.describe(),
                paused: entry.is_paused,
                next_at: next.map(|nominal| text(due(&spec.name, &spec.schedule, nominal))),
            },
            running: entry.started.as_ref().map(|started| started.ticket.run.as_str()),
            pending: entry.pending.as_ref().map(|ticket| TicketView::of(&spec.name, ticket)),
            last_run,
        }
    }
}

impl<'a> TicketView<'a> {
    pub(crate) fn of(sync: &'a SyncName, ticket: &'a Ticket) -> Self {
        Self {
            id: &ticket.run,
            sync: sync.as_str(),
            state: "pending",
            trigger: ticket.cause.as_str(),
            full: ticket.request.full,
            due_at: text(ticket.due),
        }
    }
}

/// A time as it is shown: RFC 3339, UTC.
pub(crate) fn text(at: Timestamp) -> String {
    crate::run::text(at)
}
