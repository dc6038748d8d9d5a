//! How each sync is doing: its newest run, its last success, and what comes next.

use jiff::Timestamp;
use larder_types::names::{CollectionName, SyncName};
use serde::Serialize;

use crate::project::{DestinationName, Project, SyncSpec};
use crate::run::{HistoryEntry, RunError};
use crate::schedule::timetable::{due, next_nominal};
use crate::state::{State, StateError};

/// A sync as it is doing.
#[derive(Debug, Serialize)]
pub struct SyncStatus {
    /// The sync.
    pub sync: SyncName,
    /// Where it writes.
    pub collection: CollectionName,
    /// The id of the run under way.
    pub running: Option<String>,
    /// The newest run.
    pub last_run: Option<HistoryEntry>,
    /// When the newest run ended that sent everything, RFC 3339.
    pub last_success_at: Option<String>,
    /// Seconds since then.
    pub age_seconds: Option<u64>,
    /// The run that a guard stopped and that waits for somebody to approve it.
    pub held: Option<String>,
    /// When it runs, in words.
    pub schedule: String,
    /// Whether its schedule is paused.
    #[serde(rename = "paused")]
    pub is_paused: bool,
    /// When its schedule starts it next, RFC 3339, if a time does.
    pub next_at: Option<String>,
    /// What each destination has acknowledged.
    pub destinations: Vec<DestinationStatus>,
}

/// A destination of a sync.
#[derive(Debug, Serialize)]
pub struct DestinationStatus {
    /// Which.
    pub destination: DestinationName,
    /// Rows that it has acknowledged and that are in its state; none before the first run, or if that cannot be read.
    pub rows: Option<u64>,
    /// Why the next run sends it every row, if so.
    pub resend: Option<&'static str>,
}

/// Looks at the state of all the given syncs.
///
/// # Errors
/// When the state directory cannot be read.
pub fn status(project: &Project, syncs: &[&SyncSpec], now: Timestamp) -> Result<Vec<SyncStatus>, RunError> {
    let failed = |error: StateError| RunError::Failed { message: error.to_string(), report: None };
    let state = State::open(&project.state_dir).map_err(failed)?;
    syncs.iter().map(|spec| of(&state, spec, now).map_err(failed)).collect()
}

fn of(state: &State, spec: &SyncSpec, now: Timestamp) -> Result<SyncStatus, StateError> {
    let last_run = state.database.history(Some(&spec.name), 1)?.into_iter().next();
    let last_success_at = state.database.last_success(&spec.name)?;
    let age = last_success_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok()).map(|at| now.duration_since(at));
    let in_state = |wanted: &str| last_run.as_ref().filter(|run| run.state == wanted).map(|run| run.id.clone());
    let book = state.database.book([&spec.name])?;
    let is_paused = book.0.get(&spec.name).is_some_and(|entry| entry.is_paused);
    let next = next_nominal(&spec.schedule.when, now).filter(|_| !is_paused);
    let next = next.map(|nominal| due(&spec.name, &spec.schedule, nominal));
    let destinations = spec.destinations.iter().map(|name| {
        let glance = state.glance(&spec.name, name)?;
        let in_warehouse = glance.base.as_ref().map(|base| base.keys);
        let rows = in_warehouse.or_else(|| glance.snapshot().ok().flatten().map(|snapshot| snapshot.rows()));
        let resend = glance.row.distrust.map(crate::run::ResendReason::as_str);
        Ok(DestinationStatus { destination: name.clone(), rows, resend })
    });
    Ok(SyncStatus {
        sync: spec.name.clone(),
        collection: spec.collection.clone(),
        running: in_state("running"),
        held: in_state("blocked"),
        last_success_at,
        age_seconds: age.and_then(|age| u64::try_from(age.as_secs()).ok()),
        schedule: spec.schedule.describe(),
        is_paused,
        next_at: next.map(crate::run::text),
        destinations: destinations.collect::<Result<_, StateError>>()?,
        last_run,
    })
}
