//! Runs: one execution of a sync, from the query to the acknowledged state of each of its destinations.
//!
//! [`plan`] and [`run`] share everything up to the decision (modules `reading` and `prepare`); only [`run`] talks to the
//! clusters (modules `execution` and `delivery`). All blocking: a run has threads of its own for each destination. A
//! process may run several syncs at once: nothing is global, and each sync is held by one run at a time.

mod control;
mod counting;
mod delivery;
mod execution;
mod gauge;
mod guard;
mod opening;
mod plan;
mod planned;
mod prepare;
mod produce;
mod reading;
mod rejections;
mod report;
mod scope;
mod stop;
mod supply;
#[cfg(test)]
pub(crate) mod tests;
mod watch;
pub(crate) mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use larder_types::names::SyncName;

pub use control::{Hold, approve, cancel, holds, reset, retry};
pub use guard::Findings;
pub use report::{
    DeliveryEntry, DeliveryReport, ExitClass, FieldChange, HistoryEntry, OldRecord, Outcome, PlanReport,
    PlannedDelivery, RejectedRow, Rejection, ResendReason, RowCounts, RunKind, RunReport, Sample, Trigger,
};
pub use scope::{KeySet, Scope};

pub(crate) use self::execution::{new_id, text};

use self::counting::Counting;
use self::execution::{Setup, execute, not_begun};
use self::prepare::Tuning;
use self::stop::Stop;
use crate::cancel::Cancel;
use crate::mapping::{self, Mapping, Problem};
use crate::observe::Observer;
use crate::project::{DestinationName, DiffSpec, Project, SyncSpec};
use crate::push::client::Client;
use crate::push::retry::RetryPolicy;
use crate::source::{self, RowStream};
use crate::state::requests::RequestEntry;
use crate::state::{DestinationState, Interrupted, State, StateError, SyncState};

/// Which part of a run is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Rows are read from the source.
    Reading,
    /// Rows are compared with the acknowledged state.
    Comparing,
    /// Changes are sent.
    Pushing,
    /// The run is closed at the cluster and the new state written.
    Committing,
}

/// Told how a run gets on. Called from several threads; must return at once.
pub trait Progress: Sync {
    /// A run begins and has this id. A plan has none.
    fn started(&self, _run: &str) {}
    /// A phase begins. `total` is the number of rows it will handle, where that is known.
    fn phase(&self, phase: Phase, total: Option<u64>);
    /// The phase will handle so many more rows than was said.
    fn extend(&self, _rows: u64) {}
    /// So many rows of the phase were handled since the last call.
    fn advance(&self, rows: u64);
}

/// Progress that nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _phase: Phase, _total: Option<u64>) {}
    fn advance(&self, _rows: u64) {}
}

/// How to plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlanOptions {
    /// Plan a full run.
    pub full: bool,
    /// Rows to show of each kind of change.
    pub samples: usize,
}

/// How to run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Send every row and let the cluster sweep what the run did not confirm.
    pub full: bool,
    /// Forget first what the destinations have acknowledged, as [`reset`] does: every row is sent, and nothing is removed.
    pub reset: bool,
    /// Pass the guard on removals.
    pub accept_removals: bool,
    /// Which rows are taken in. A full run takes all.
    pub scope: Scope,
    /// Feed only these of the sync's destinations; all of them, if none is named.
    pub destinations: Vec<DestinationName>,
    /// Who asks for it.
    pub trigger: Trigger,
    /// What stops it. The run is cancelled with this, never this with the run.
    pub cancel: Cancel,
    /// The id that a scheduler has given it. It holds the lease on the sync then, so the run takes none of its own.
    pub order: Option<String>,
    /// How long it may take; what the sync's file says, if nothing.
    pub timeout: Option<Duration>,
}

/// Who is told of a run.
#[derive(Clone, Copy)]
pub struct Audience<'a> {
    /// How it gets on.
    pub progress: &'a dyn Progress,
    /// That it begins and ends.
    pub observer: &'a dyn Observer,
}

/// Why a plan or run did not end well. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The project is wrong; nothing was sent. All problems are listed, one a line. What only the source can tell, for
    /// example that a column is missing, is found when the run has begun, and ends it in the history.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    /// The sync is being run or planned already, here or by another loader on this state directory.
    #[error("sync `{0}` is being run by another loader on this state directory; wait for it to end")]
    Locked(SyncName),
    /// A guard stopped the run; nothing was sent.
    #[error("{message}")]
    Blocked {
        /// Which guard, and how to pass it.
        message: String,
        /// What the run found; boxed because it is large.
        report: Box<RunReport>,
    },
    /// The run was cancelled. What was acknowledged before is recorded: running again sends the rest.
    #[error("{message}")]
    Cancelled {
        /// Who or what cancelled it.
        message: String,
        /// What the run did until then.
        report: Box<RunReport>,
    },
    /// The run failed. What was acknowledged before is recorded: running again sends the rest.
    #[error("{message}")]
    Failed {
        /// What happened and what to do.
        message: String,
        /// What the run did until then, if it got so far as to exist.
        report: Option<Box<RunReport>>,
    },
}

impl RunError {
    /// What the process should exit with.
    #[must_use]
    pub fn exit_class(&self) -> ExitClass {
        match self {
            Self::Config(_) => ExitClass::Config,
            Self::Locked(_) => ExitClass::Locked,
            Self::Blocked { .. } => ExitClass::Blocked,
            Self::Cancelled { .. } | Self::Failed { .. } => ExitClass::Failed,
        }
    }

    /// What the run did until it stopped, if it got so far as to exist.
    #[must_use]
    pub fn report(&self) -> Option<&RunReport> {
        match self {
            Self::Blocked { report, .. } | Self::Cancelled { report, .. } => Some(report),
            Self::Failed { report, .. } => report.as_deref(),
            Self::Config(_) | Self::Locked(_) => None,
        }
    }
}

/// Finds what a run of `sync` would do, without asking or telling the cluster anything. Blocking.
///
/// # Errors
/// As for [`run`], except that a guard is reported in the plan instead.
pub fn plan(
    project: &Project,
    sync: &SyncName,
    options: PlanOptions,
    progress: &dyn Progress,
) -> Result<PlanReport, RunError> {
    let began = Instant::now();
    let spec = find(project, sync)?;
    let state = State::open(&project.state_dir).map_err(failed)?;
    let held = hold(&state, sync, false)?;
    let mut destinations: Vec<DestinationState> = spec
        .destinations
        .iter()
        .map(|name| take_up(&state, &held, name, options.full).map(|(state, _)| state))
        .collect::<Result<_, _>>()?;
    progress.phase(Phase::Reading, None);
    let never = Cancel::default();
    let scopes =
        destinations.iter().map(|destination| opening::Known::load(&state, &held, spec, destination)).collect();
    let (all, now, dir) = (options.full, Timestamp::now(), held.folder());
    let request =
        opening::Request { project, spec, destinations: scopes, all, partial: false, now, dir, cancel: &never };
    let opened = open_for_plan(&request, &state, &held).map_err(not_planned)?;
    let (mapping, counting) = (&opened.mapping, Counting::new(project, spec, &never));
    let planning = plan::Planning { project, spec, state: &state, mapping, sync: &held, options, progress, counting };
    let plan = match opened.source {
        PlanSource::Rows(rows) => planning.plan(*rows, &mut destinations),
        PlanSource::Result(result) => planning.plan_result(&result, &mut destinations),
    };
    let mut plan = plan.map_err(not_planned)?;
    plan.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(plan)
}

/// What is planned from.
struct OpenedForPlan {
    mapping: Mapping,
    source: PlanSource,
}

enum PlanSource {
    Rows(Box<(RowStream, opening::Extent)>),
    Result(Arc<planned::Planned>),
}

fn open_for_plan(request: &opening::Request<'_>, state: &State, sync: &SyncState) -> Result<OpenedForPlan, Stop> {
    if let DiffSpec::Warehouse { planner_schema } = &request.spec.diff {
        let (result, mapping) = planned::Planned::make(request, planner_schema, state, sync)?;
        return Ok(OpenedForPlan { mapping, source: PlanSource::Result(Arc::new(result)) });
    }
    let opening::Opened { rows, mapping, extent } = request.open()?;
    Ok(OpenedForPlan { mapping, source: PlanSource::Rows(Box::new((rows, extent))) })
}

fn not_planned(stop: Stop) -> RunError {
    let message = match stop {
        Stop::Config(problems) => return RunError::Config(problems),
        Stop::Cancelled(why) => stop::describe(why).to_owned(),
        Stop::Blocked(message) | Stop::Failed(message) => message,
    };
    RunError::Failed { message, report: None }
}

/// Runs `sync`: reads its rows, finds what changed since the acknowledged state of each destination, and sends it.
/// Blocking.
///
/// # Errors
/// [`RunError`] says how far it got. Stopped at any point, even by a power cut, the next run sends what is missing.
pub fn run(
    project: &Project,
    sync: &SyncName,
    options: &RunOptions,
    audience: Audience<'_>,
) -> Result<RunReport, RunError> {
    run_tuned(project, sync, options, audience, Tuning::of(project))
}

fn run_tuned(
    project: &Project,
    sync: &SyncName,
    options: &RunOptions,
    audience: Audience<'_>,
    tuning: Tuning,
) -> Result<RunReport, RunError> {
    let (began, at) = (Instant::now(), Timestamp::now());
    let spec = find(project, sync)?;
    if options.full && !options.scope.is_all() {
        return Err(RunError::Config(vec![
            "a full run takes all rows: it confirms what it sends, and sweeps the rest".into(),
        ]));
    }
    let clients = clients(project, spec, &options.destinations, tuning.retry)?;
    let state = State::open(&project.state_dir).map_err(failed)?;
    let Audience { progress, observer } = audience;
    let setup = Setup { project, spec, options, progress, observer, tuning, clients, began, at };
    let held = hold(&state, sync, options.order.is_some())
        .and_then(|held| forget(&setup, &state, held))
        .map_err(|error| not_begun(&setup, &state, error))?;
    execute(&setup, &state, &held)
}

/// Forgets what was acknowledged, if the run is to begin with that.
fn forget(setup: &Setup<'_>, state: &State, held: SyncState) -> Result<SyncState, RunError> {
    if setup.options.reset {
        setup.clients.iter().try_for_each(|(name, _)| state.reset(&held, name)).map_err(failed)?;
    }
    Ok(held)
}

/// One client for each destination. Nothing is asked yet.
fn clients(
    project: &Project,
    spec: &SyncSpec,
    wanted: &[DestinationName],
    retry: RetryPolicy,
) -> Result<Vec<(DestinationName, Client)>, RunError> {
    if let Some(name) = wanted.iter().find(|name| !spec.destinations.contains(name)) {
        let known: Vec<&str> = spec.destinations.iter().map(DestinationName::as_str).collect();
        let (sync, known) = (&spec.name, known.join(", "));
        return Err(RunError::Config(vec![format!("sync `{sync}` does not feed `{name}`; it feeds: {known}")]));
    }
    let is_wanted = |name: &&DestinationName| wanted.is_empty() || wanted.contains(name);
    let client = |name: &DestinationName| {
        let cluster = project.clusters.get(name).ok_or_else(|| {
            RunError::Config(vec![format!("sync `{}`: there is no cluster `{name}` in larder.yml", spec.name)])
        })?;
        if cluster.key.0.is_empty() {
            let message = format!("the key of cluster `{name}` in larder.yml is empty; set the variable that it names");
            return Err(RunError::Config(vec![message]));
        }
        let client = Client::new(cluster, spec, retry).map_err(|error| RunError::Config(vec![error.to_string()]))?;
        Ok((name.clone(), client))
    };
    spec.destinations.iter().filter(is_wanted).map(client).collect()
}

/// The newest runs first, of one sync or of all.
///
/// # Errors
/// When the state directory cannot be read.
pub fn history(project: &Project, sync: Option<&SyncName>, limit: usize) -> Result<Vec<HistoryEntry>, RunError> {
    let state = State::open(&project.state_dir).map_err(failed)?;
    state.database.history(sync, limit).map_err(failed)
}

/// The attempts of one run to send batches, by its id, as far as they are remembered.
///
/// # Errors
/// When the state directory cannot be read or holds no such run.
pub fn requests(project: &Project, run: &str) -> Result<Vec<RequestEntry>, RunError> {
    let state = State::open(&project.state_dir).map_err(failed)?;
    state.database.requests(run).map_err(failed)?.ok_or_else(|| no_such_run(run))
}

/// The rejected rows that were kept of one run, by its id.
///
/// # Errors
/// When the state directory cannot be read or holds no such run.
pub fn rejected(project: &Project, run: &str) -> Result<Vec<RejectedRow>, RunError> {
    let state = State::open(&project.state_dir).map_err(failed)?;
    state.database.rejected(run).map_err(failed)?.ok_or_else(|| no_such_run(run))
}

fn no_such_run(run: &str) -> RunError {
    RunError::Config(vec![format!("there is no run `{run}`; `larder-loader history` lists them")])
}

pub(crate) fn find<'a>(project: &'a Project, sync: &SyncName) -> Result<&'a SyncSpec, RunError> {
    project.syncs.get(sync).ok_or_else(|| {
        let known: Vec<&str> = project.syncs.keys().map(SyncName::as_str).collect();
        RunError::Config(vec![format!("there is no sync `{sync}`; the project has: {}", known.join(", "))])
    })
}

fn hold(state: &State, sync: &SyncName, is_leased: bool) -> Result<SyncState, RunError> {
    state.hold(sync, is_leased).map_err(|error| match error {
        StateError::Locked(sync) => RunError::Locked(sync),
        error => failed(error),
    })
}

fn take_up(
    state: &State,
    sync: &SyncState,
    destination: &DestinationName,
    full: bool,
) -> Result<(DestinationState, Option<Interrupted>), RunError> {
    state.take_up(sync, destination, full).map_err(|error| match error {
        StateError::Journal(_) | StateError::Snapshot(_) => RunError::Failed {
            message: format!("{error}; `larder-loader run {} --full` sends every row and makes a new state", sync.name),
            report: None,
        },
        error => failed(error),
    })
}

/// Opens the source and compiles the mapping against its columns.
pub(crate) fn open(project: &Project, spec: &SyncSpec, cancel: &Cancel) -> Result<(RowStream, Mapping), RunError> {
    let source = project
        .sources
        .get(&spec.source)
        .ok_or_else(|| RunError::Config(vec![format!("sync `{}`: there is no source `{}`", spec.name, spec.source)]))?;
    let rows = source::open(project, source, &spec.model, cancel)
        .map_err(|error| RunError::Failed { message: format!("sync `{}`: {error}", spec.name), report: None })?;
    let mapping = mapping::compile(spec, &rows.schema)
        .map_err(|problems| RunError::Config(problems.iter().map(Problem::to_string).collect()))?;
    Ok((rows, mapping))
}

fn note_of_interrupted(run: &Interrupted) -> String {
    if run.is_unknown {
        return format!(
            "run {} was cut off, and what it sent is not known, because its record is damaged; this full run \
             sends every row",
            run.run
        );
    }
    if run.sent == 0 {
        return format!("run {} was cut off before it sent anything", run.run);
    }
    format!(
        "run {} was cut off after {} of {} rows it had sent were acknowledged; this run sends what is missing",
        run.run, run.acknowledged, run.sent
    )
}

fn failed(error: StateError) -> RunError {
    RunError::Failed { message: error.to_string(), report: None }
}
