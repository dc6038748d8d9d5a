//! Runs: one execution of a sync from the query to the acknowledged state.
//!
//! CONTRACT STUB: signatures for the command line; may be added to, not broken.

mod report;

use larder_types::names::SyncName;

pub use report::{
    ExitClass, HistoryEntry, Outcome, PlanReport, Rejection, ResendReason, RowCounts, RunKind, RunReport, Sample,
};

use crate::project::Project;

/// Which part of a run is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// A phase begins. `total` is the number of rows it will handle, where that is known.
    fn phase(&self, phase: Phase, total: Option<u64>);
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
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// Send every row and let the cluster sweep what the run did not confirm.
    pub full: bool,
    /// Pass the guard on removals.
    pub accept_removals: bool,
}

/// Why a plan or run did not end well. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The project is wrong; nothing was sent. All problems are listed, one a line.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    /// Another loader is running this sync.
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
            Self::Failed { .. } => ExitClass::Failed,
        }
    }

    /// What the run did until it stopped, if it got so far as to exist.
    #[must_use]
    pub fn report(&self) -> Option<&RunReport> {
        match self {
            Self::Blocked { report, .. } => Some(report),
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
    todo!()
}

/// Runs `sync`: reads its rows, finds what changed since the acknowledged state, and sends it. Blocking.
///
/// # Errors
/// [`RunError`] says how far it got. Stopped at any point, even by a power cut, the next run sends what is missing.
pub fn run(
    project: &Project,
    sync: &SyncName,
    options: RunOptions,
    progress: &dyn Progress,
) -> Result<RunReport, RunError> {
    todo!()
}

/// The newest runs first, of one sync or of all.
///
/// # Errors
/// When the state directory cannot be read.
pub fn history(project: &Project, sync: Option<&SyncName>, limit: usize) -> Result<Vec<HistoryEntry>, RunError> {
    todo!()
}

/// The rejected rows that were kept of one run, by its id.
///
/// # Errors
/// When the state directory cannot be read or holds no such run.
pub fn rejected(project: &Project, run: &str) -> Result<Vec<Rejection>, RunError> {
    todo!()
}
