//! What is remembered of every sync for the sake of its schedule, as plain data.

use std::collections::BTreeMap;

use jiff::Timestamp;
use larder_types::names::SyncName;

use crate::project::Project;
use crate::project::schedule::Schedule;
use crate::run::Trigger;

/// Everything that is remembered. The state database holds it between decisions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Book(pub(crate) BTreeMap<SyncName, Entry>);

/// What is remembered of one sync, and what was seen of it when the book was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    /// True if its schedule is not to fire.
    pub(crate) is_paused: bool,
    /// What `next` was computed from: a schedule that was changed starts anew.
    pub(crate) definition: Option<String>,
    /// The nominal time of the next fire.
    pub(crate) next: Option<Timestamp>,
    /// Runs of other syncs that ended up to here have done their part in making this one run.
    pub(crate) used: Option<Timestamp>,
    /// The run that waits.
    pub(crate) pending: Option<Ticket>,
    /// The run under way.
    pub(crate) started: Option<Started>,
    /// Seen: the lease on the sync.
    pub(crate) lease: LeaseSeen,
    /// Seen: its runs.
    pub(crate) past: Past,
    /// Seen: what the history says of the run of `started`.
    pub(crate) record: Record,
}

/// A run that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The id that the run has, or will have.
    pub(crate) run: String,
    /// Who asked.
    pub(crate) cause: Trigger,
    /// What for.
    pub(crate) request: Request,
    /// It does not begin before.
    pub(crate) due: Timestamp,
    /// How often it was tried and failed.
    pub(crate) failures: u32,
    /// How often it was begun by a loader that vanished.
    pub(crate) vanished: u32,
}

/// A run that is under way, under a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) ticket: Ticket,
    /// The fence of the lease under which it runs.
    pub(crate) fence: i64,
}

/// What a run is asked for. Two requests are joined by asking for all that either asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Request {
    /// Send every row and sweep.
    pub(crate) full: bool,
    /// Forget first what is recorded of the cluster.
    pub(crate) reset: bool,
}

impl Request {
    fn join(&mut self, other: Self) {
        self.full |= other.full;
        self.reset |= other.reset;
    }
}

/// The lease on a sync, as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LeaseSeen {
    /// The fence of the newest lease there was; 0 before the first.
    pub(crate) fence: i64,
    /// Whether its holder lives.
    pub(crate) is_live: bool,
}

/// The runs of a sync, as the history has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Past {
    /// When the newest began.
    pub(crate) began: Option<Timestamp>,
    /// When the newest ended that sent everything.
    pub(crate) succeeded: Option<Timestamp>,
    /// When the newest ended, however it did.
    pub(crate) finished: Option<Timestamp>,
}

/// What the history says of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Record {
    /// Nothing: it has not begun.
    #[default]
    None,
    /// It has begun and not ended.
    Begun,
    /// It has ended.
    Ended(Ending),
}

/// How a run ended, as far as that matters to what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// There is nothing left to do by itself: it went well, or waits for somebody, or was cancelled, or the project must
    /// be corrected first.
    Settled,
    /// It may go better the next time.
    Failed,
    /// Another loader had the sync; the run did not begin.
    Locked,
    /// It was cut short because its loader was told to stop.
    Stopped,
}

impl Entry {
    /// Whether a run of the sync may not begin now.
    pub(crate) fn is_busy(&self) -> bool {
        self.lease.is_live || self.started.is_some()
    }

    /// Lets a run wait. If one waits already, the two become one; the id is that of the run that will be made.
    pub(crate) fn queue(&mut self, ticket: Ticket) -> &str {
        let pending = match self.pending.take() {
            None => ticket,
            Some(mut pending) => {
                // Who asked last is named, unless that was only a retry or nobody while somebody waits.
                if ticket.cause.is_call() || (pending.cause == Trigger::Retry && ticket.cause != Trigger::Retry) {
                    pending.cause = ticket.cause;
                }
                pending.request.join(ticket.request);
                pending.due = pending.due.min(ticket.due);
                pending.failures = pending.failures.min(ticket.failures);
                pending.vanished = pending.vanished.min(ticket.vanished);
                pending
            }
        };
        &self.pending.insert(pending).run
    }
}

/// What the project says of the syncs, as far as schedules go.
pub(crate) struct Rules<'a> {
    /// The syncs by name.
    pub(crate) syncs: BTreeMap<&'a SyncName, Rule<'a>>,
    /// Most runs at a time.
    pub(crate) most: usize,
    /// Most runs at a time of the sources that have a limit.
    pub(crate) most_of_source: BTreeMap<&'a str, usize>,
}

/// What the project says of one sync.
pub(crate) struct Rule<'a> {
    pub(crate) schedule: &'a Schedule,
    pub(crate) source: &'a str,
}

impl<'a> Rules<'a> {
    /// The rules of a project.
    pub(crate) fn of(project: &'a Project) -> Self {
        let rule = |(name, spec): (&'a SyncName, &'a crate::project::SyncSpec)| {
            (name, Rule { schedule: &spec.schedule, source: spec.source.as_str() })
        };
        let limits = &project.serve.max_of_source;
        Self {
            syncs: project.syncs.iter().map(rule).collect(),
            most: project.serve.max_concurrent_runs,
            most_of_source: limits.iter().map(|(source, most)| (source.as_str(), *most)).collect(),
        }
    }
}
