//! What people tell a sync beside running it: stop this run, go ahead with what a guard stopped, forget, try again.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use larder_types::names::SyncName;
use serde::Serialize;

use super::execution::text;
use super::report::{DeliveryEntry, HistoryEntry, RejectedRow, RunReport, Trigger};
use super::scope::KeySet;
use super::{Audience, Findings, RunError, RunOptions, Scope, failed, find, hold};
use crate::project::{DestinationName, Project};
use crate::state::{State, StateError};

/// What a guard stopped, and what it had found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// The sync.
    pub sync: String,
    /// The destination.
    pub destination: String,
    /// The run that was stopped.
    pub run: String,
    /// When, RFC 3339.
    pub held_at: String,
    /// When somebody approved it, RFC 3339.
    pub approved_at: Option<String>,
    /// What the guard said.
    pub message: String,
    /// What the run would have done.
    pub found: Findings,
}

/// Asks a run to stop, which may be under way in another process. It stops within about a second.
///
/// # Errors
/// When the state directory cannot be read or written, or the run is not under way.
pub fn cancel(project: &Project, run: &str) -> Result<(), RunError> {
    let state = State::open(&project.state_dir).map_err(failed)?;
    let Some(sync) = state.database.ask_cancel(run, &text(Timestamp::now())).map_err(failed)? else {
        return Err(config(format!("there is no run `{run}` under way; `larder-loader history` lists the runs")));
    };
    // Nobody holds the sync: the run has ended since, or its process died.
    match SyncName::new(&sync).ok().map(|sync| state.hold(&sync, false)) {
        Some(Err(StateError::Locked(_))) => Ok(()),
        Some(Err(error)) => Err(failed(error)),
        _ => Err(config(format!("run `{run}` is not under way any more; `larder-loader history` tells how it ended"))),
    }
}

/// Approves what a guard stopped: the next run of the sync may do as much as that run would have, once, and no more.
/// Returns what was approved.
///
/// # Errors
/// When the state directory cannot be read or written, or nothing of the run is held.
pub fn approve(project: &Project, run: &str) -> Result<Vec<Hold>, RunError> {
    let state = State::open(&project.state_dir).map_err(failed)?;
    let approved = state.database.approve(run, &text(Timestamp::now())).map_err(failed)?;
    if !approved.is_empty() {
        return Ok(approved);
    }
    let why = match state.database.run(run).map_err(failed)? {
        None => "there is no such run",
        Some(entry) if entry.deliveries.iter().any(|delivery| delivery.state == "blocked") => {
            "a newer run of the sync has taken its place"
        }
        Some(_) => "no guard stopped it",
    };
    Err(config(format!("run `{run}` does not wait for approval: {why}; `larder-loader history` lists the runs")))
}

/// What waits for approval, or for the run that it was approved for; of one sync or of all.
///
/// # Errors
/// When the state directory cannot be read.
pub fn holds(project: &Project, sync: Option<&SyncName>) -> Result<Vec<Hold>, RunError> {
    State::open(&project.state_dir).and_then(|state| state.database.holds(sync)).map_err(failed)
}

/// Forgets what a destination, or every one, has acknowledged of a sync, and pushes nothing: the next run sends all rows
/// to it, and cannot know which have left meanwhile. Also for a destination that the sync does not feed any more, whose
/// state is deleted. Returns the names.
///
/// # Errors
/// [`RunError::Locked`] while the sync is run; when there is no such destination, or the state cannot be written.
pub fn reset(project: &Project, sync: &SyncName, destination: Option<&str>) -> Result<Vec<DestinationName>, RunError> {
    let spec = find(project, sync)?;
    let state = State::open(&project.state_dir).map_err(failed)?;
    let held = hold(&state, sync, false)?;
    let remembered = state.database.destinations(sync).map_err(failed)?;
    let mut known: Vec<DestinationName> =
        remembered.iter().filter_map(|name| DestinationName::new(name).ok()).collect();
    known.extend(
        spec.destinations.iter().filter(|name| !remembered.iter().any(|other| other == name.as_str())).cloned(),
    );
    let named: Vec<DestinationName> = match destination {
        None => known,
        Some(wanted) => known.into_iter().filter(|name| name.as_str() == wanted).collect(),
    };
    if named.is_empty() {
        let wanted = destination.unwrap_or_default();
        return Err(config(format!("sync `{sync}` has no destination `{wanted}`, and its state knows none")));
    }
    named.iter().try_for_each(|name| state.reset(&held, name)).map_err(failed)?;
    Ok(named)
}

/// Sends what an earlier run left: rows that were rejected, or were not sent. Nothing is removed, and only destinations
/// that miss something are fed. `None` if there is nothing to try again.
///
/// # Errors
/// As [`super::run`]; and when there is no such run or sync, or a guard stopped the run.
pub fn retry(
    project: &Project,
    run_or_sync: &str,
    options: RunOptions,
    audience: Audience<'_>,
) -> Result<Option<RunReport>, RunError> {
    let state = State::open(&project.state_dir).map_err(failed)?;
    let entry = find_run(project, &state, run_or_sync)?;
    if entry.state == "running" {
        return Err(config(format!("run `{}` is under way; wait for it to end", entry.id)));
    }
    if entry.deliveries.iter().any(|delivery| delivery.state == "blocked") {
        let id = &entry.id;
        return Err(config(format!("a guard stopped run `{id}`; look at it, then `larder-loader approve {id}`")));
    }
    let sync = SyncName::new(&entry.sync).map_err(|error| config(error.to_string()))?;
    let spec = find(project, &sync)?;
    let rejected = state.database.rejected(&entry.id).map_err(failed)?.unwrap_or_default();
    let fed = |delivery: &&DeliveryEntry| spec.destinations.iter().any(|name| name.as_str() == delivery.destination);
    let missing: Vec<&DeliveryEntry> = entry.deliveries.iter().filter(fed).filter(|one| is_incomplete(one)).collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let salt = state.database.key_salt().map_err(failed)?;
    let of_keys = |keys| Scope::Keys(Arc::new(KeySet::new(keys, salt)));
    let scope = rejected_keys(&missing, &rejected).map_or(Scope::Additions, of_keys);
    let is_missing = |name: &&DestinationName| missing.iter().any(|delivery| delivery.destination == name.as_str());
    let destinations = spec.destinations.iter().filter(is_missing).cloned().collect();
    // Whoever runs it takes hold of the sync anew.
    drop(state);
    let options = RunOptions { scope, destinations, trigger: Trigger::Retry, ..options };
    super::run(project, &sync, &options, audience).map(Some)
}

/// A run by its id, or the newest of a sync.
fn find_run(project: &Project, state: &State, run_or_sync: &str) -> Result<HistoryEntry, RunError> {
    if let Some(entry) = state.database.run(run_or_sync).map_err(failed)? {
        return Ok(entry);
    }
    let sync = SyncName::new(run_or_sync).ok().filter(|sync| project.syncs.contains_key(sync));
    let newest = sync.map(|sync| state.database.history(Some(&sync), 1)).transpose().map_err(failed)?;
    let nothing = || config(format!("there is no run and no sync with a run called `{run_or_sync}`"));
    newest.and_then(|mut runs| runs.pop()).ok_or_else(nothing)
}

fn is_incomplete(delivery: &DeliveryEntry) -> bool {
    delivery.state != "succeeded" || delivery.rows.rejected > 0
}

/// The keys of all rows that were rejected, if those are all that is missing, and all of them are known.
fn rejected_keys(missing: &[&DeliveryEntry], rejected: &[RejectedRow]) -> Option<HashSet<String>> {
    let mut keys = HashSet::new();
    for delivery in missing {
        let of_delivery = rejected.iter().filter(|row| row.destination == delivery.destination);
        let named: Vec<&String> = of_delivery.filter_map(|row| row.rejection.key.as_ref()).collect();
        let is_partial = delivery.state == "partial" && delivery.reason.as_deref() != Some("interrupted");
        if !is_partial || (named.len() as u64) < delivery.rows.rejected {
            return None;
        }
        keys.extend(named.into_iter().cloned());
    }
    Some(keys)
}

fn config(problem: String) -> RunError {
    RunError::Config(vec![problem])
}
