//! Decisions: from the book and the time to the runs that begin now.
//!
//! Everything here is a function of its parameters. Ids of runs come from the caller, as they are random.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use larder_types::names::SyncName;

use super::book::{Book, Ending, Entry, Past, Record, Request, Rule, Rules, Started, Ticket};
use super::timetable::{due, earlier, later, next_nominal};
use crate::project::schedule::{CatchUp, On, Overlap, Retries, When};
use crate::run::Trigger;

/// A fire that is later than this was missed: nobody was there for it. A restart should not count as that.
pub(crate) const GRACE: Duration = Duration::from_secs(60);
/// After so long a run is tried again that found its sync in other hands.
const LOCKED_PAUSE: Duration = Duration::from_secs(5);
/// A run whose loaders vanish so often takes them along: it is given up.
const MAX_VANISHED: u32 = 3;

/// Makes the id of a run that begins about then.
pub(crate) type NewId<'a> = &'a mut dyn FnMut(Timestamp) -> String;

/// What was decided and somebody should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remark {
    /// The run of this ticket is to be started. Its lease is to be taken in the same transaction.
    Start(SyncName, Started),
    /// A fire is left out, as the run of an earlier one is under way.
    Skipped(SyncName, Timestamp),
    /// Fires were missed and are forgotten, up to and with this one.
    Forgotten(SyncName, Timestamp),
    /// The loader that had begun a run has vanished; the run is made again.
    Resumed(SyncName, String),
    /// A run is given up, as every loader that began it vanished.
    GivenUp(SyncName, String),
    /// A run that waited is dropped, as the project has no such sync any more.
    Dropped(SyncName, String),
}

/// Decides what happens now. The book must have a page for each sync of the rules.
pub(crate) fn decide(book: &mut Book, rules: &Rules<'_>, now: Timestamp, new_id: NewId<'_>) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let pasts: BTreeMap<SyncName, Past> = book.0.iter().map(|(name, entry)| (name.clone(), entry.past)).collect();
    for (name, entry) in &mut book.0 {
        let Some(rule) = rules.syncs.get(name) else {
            forget(name, entry, &mut remarks);
            continue;
        };
        settle_vanished(name, entry, rule, now, new_id, &mut remarks);
        keep_definition(entry, rule, now);
        if entry.is_paused {
            continue;
        }
        fire(name, entry, rule, now, new_id, &mut remarks);
        follow(entry, rule, &pasts, now, new_id);
    }
    start(book, rules, now, &mut remarks);
    remarks
}

/// When there may be something to decide next, if nothing else happens before.
pub(crate) fn next_decision(book: &Book, rules: &Rules<'_>, now: Timestamp) -> Option<Timestamp> {
    let of_entry = |(name, entry): (&SyncName, &Entry)| {
        let rule = rules.syncs.get(name)?;
        let fires = entry.next.filter(|_| !entry.is_paused).map(|nominal| due(name, rule.schedule, nominal));
        // A run that is due already waits for another to end, and not for the time.
        let waits = entry.pending.as_ref().map(|ticket| ticket.due).filter(|due| *due > now);
        [fires, waits].into_iter().flatten().min()
    };
    book.0.iter().filter_map(of_entry).min()
}

/// Lets the end of a run count. Nothing happens if it is not under way any more, as another loader has taken it over.
pub(crate) fn finish(
    entry: &mut Entry,
    begun: &Started,
    ending: Ending,
    retries: Retries,
    now: Timestamp,
    new_id: NewId<'_>,
) {
    let is_same = |one: &Started| (one.fence, &one.ticket.run) == (begun.fence, &begun.ticket.run);
    let Some(started) = entry.started.take_if(|started| is_same(started)) else { return };
    entry.lease.is_live = false;
    let ticket = started.ticket;
    match ending {
        Ending::Settled => {}
        Ending::Failed if ticket.failures < retries.times => {
            let pause = retries.backoff.saturating_mul(2_u32.saturating_pow(ticket.failures)).min(retries.max_backoff);
            let due = later(now, pause);
            let failures = ticket.failures + 1;
            entry.queue(Ticket { run: new_id(due), cause: Trigger::Retry, due, failures, ..ticket });
        }
        Ending::Failed => {}
        Ending::Locked => {
            entry.queue(Ticket { due: later(now, LOCKED_PAUSE), ..ticket });
        }
        Ending::Stopped => {
            entry.queue(Ticket { run: new_id(now), due: now, ..ticket });
        }
    }
}

/// A sync that the project does not have any more has no schedule.
fn forget(name: &SyncName, entry: &mut Entry, remarks: &mut Vec<Remark>) {
    (entry.definition, entry.next) = (None, None);
    let lease = entry.lease;
    let orphan = entry.started.take_if(|started| !(lease.is_live && lease.fence == started.fence));
    let gone = entry.pending.take().into_iter().chain(orphan.map(|started| started.ticket));
    remarks.extend(gone.map(|ticket| Remark::Dropped(name.clone(), ticket.run)));
}

/// Finds a run whose loader has vanished, and makes it again unless its end was recorded.
fn settle_vanished(
    name: &SyncName,
    entry: &mut Entry,
    rule: &Rule<'_>,
    now: Timestamp,
    new_id: NewId<'_>,
    remarks: &mut Vec<Remark>,
) {
    let lease = entry.lease;
    let Some(started) = &entry.started else { return };
    if lease.is_live && lease.fence == started.fence {
        return;
    }
    if let Record::Ended(ending) = entry.record {
        let started = started.clone();
        finish(entry, &started, ending, rule.schedule.retries, now, new_id);
        // The lease that was found may be somebody else's by now.
        entry.lease = lease;
        return;
    }
    let Some(Started { ticket, .. }) = entry.started.take() else { return };
    if ticket.vanished + 1 >= MAX_VANISHED {
        remarks.push(Remark::GivenUp(name.clone(), ticket.run));
        return;
    }
    remarks.push(Remark::Resumed(name.clone(), ticket.run.clone()));
    // A run that did not begin keeps its id, as somebody may have been told it.
    let run = if entry.record == Record::None { ticket.run } else { new_id(now) };
    entry.queue(Ticket { run, due: now, vanished: ticket.vanished + 1, ..ticket });
}

/// A schedule that is new, or was changed, counts from now on.
fn keep_definition(entry: &mut Entry, rule: &Rule<'_>, now: Timestamp) {
    let definition = rule.schedule.definition();
    if entry.definition.as_ref() == Some(&definition) {
        return;
    }
    entry.next = match rule.schedule.when {
        // Whoever writes `every: 1d` does not mean to look at an empty collection for a day.
        When::Every(_) if entry.past.began.is_none() => Some(now),
        _ => next_nominal(&rule.schedule.when, now),
    };
    entry.definition = Some(definition);
}

/// Lets the time fire. However many times have passed, one run comes of them.
fn fire(
    name: &SyncName,
    entry: &mut Entry,
    rule: &Rule<'_>,
    now: Timestamp,
    new_id: NewId<'_>,
    remarks: &mut Vec<Remark>,
) {
    let schedule = rule.schedule;
    let Some(first) = entry.next.filter(|nominal| due(name, schedule, *nominal) <= now) else { return };
    // The times between that are too old to matter are not looked at one by one.
    let recent = earlier(earlier(now, schedule.jitter), GRACE);
    let mut latest = due(name, schedule, first);
    let mut next = next_nominal(&schedule.when, first.max(recent));
    while let Some(nominal) = next.filter(|nominal| due(name, schedule, *nominal) <= now) {
        latest = latest.max(due(name, schedule, nominal));
        next = next_nominal(&schedule.when, nominal);
    }
    entry.next = next;
    if schedule.catch_up == CatchUp::None && latest < earlier(now, GRACE) {
        remarks.push(Remark::Forgotten(name.clone(), latest));
    } else if schedule.overlap == Overlap::Skip && entry.started.is_some() {
        remarks.push(Remark::Skipped(name.clone(), latest));
    } else {
        entry.queue(fresh(new_id(now), Trigger::Schedule, latest));
    }
}

/// Lets the runs of other syncs make this one run: all of them, since its own last run began.
fn follow(entry: &mut Entry, rule: &Rule<'_>, pasts: &BTreeMap<SyncName, Past>, now: Timestamp, new_id: NewId<'_>) {
    let When::After { syncs, on } = &rule.schedule.when else { return };
    let since = entry.used.max(entry.past.began);
    let mut newest = None;
    for sync in syncs {
        let past = pasts.get(sync).copied().unwrap_or_default();
        let ended = match on {
            On::Success => past.succeeded,
            On::Finished => past.finished,
        };
        if ended.is_none() || ended <= since {
            return;
        }
        newest = newest.max(ended);
    }
    entry.used = newest;
    entry.queue(fresh(new_id(now), Trigger::After, now));
}

fn fresh(run: String, cause: Trigger, due: Timestamp) -> Ticket {
    Ticket { run, cause, request: Request::default(), due, failures: 0, vanished: 0 }
}

/// Starts the runs that wait, the longest waiting first, as far as the limits go.
fn start(book: &mut Book, rules: &Rules<'_>, now: Timestamp, remarks: &mut Vec<Remark>) {
    let mut of_source: BTreeMap<&str, usize> = BTreeMap::new();
    let mut running = 0;
    let mut waiting = Vec::new();
    for (name, entry) in &book.0 {
        let Some(rule) = rules.syncs.get(name) else { continue };
        if entry.is_busy() {
            running += 1;
            *of_source.entry(rule.source).or_default() += 1;
        } else if let Some(ticket) = &entry.pending
            && ticket.due <= now
            && (!entry.is_paused || ticket.cause.is_call())
        {
            waiting.push((ticket.due, name.clone()));
        }
    }
    waiting.sort();
    for (_, name) in waiting {
        let Some(rule) = rules.syncs.get(&name) else { continue };
        let of_source = of_source.entry(rule.source).or_default();
        let most = rules.most_of_source.get(rule.source).copied().unwrap_or(usize::MAX);
        if running >= rules.most || *of_source >= most {
            continue;
        }
        let Some(entry) = book.0.get_mut(&name) else { continue };
        let Some(ticket) = entry.pending.take() else { continue };
        let started = Started { ticket, fence: entry.lease.fence + 1 };
        entry.lease.fence = started.fence;
        entry.lease.is_live = true;
        entry.started = Some(started.clone());
        remarks.push(Remark::Start(name, started));
        running += 1;
        *of_source += 1;
    }
}
