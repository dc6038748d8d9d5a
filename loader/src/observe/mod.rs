//! Observing: whoever wants to know of runs is told here, alike for a run from the command line and one of the daemon.
//!
//! Invariants: an observer cannot fail a run, as nothing is returned, and must return within a bounded time, as it is
//! called on the run's own thread. What takes longer than a write to the state database is queued for another thread.
//! For each run that `started` tells of, `ended` is called once, unless the process is killed. A run that could not
//! begin is told of by `ended` alone; one that another loader kept out is no run.

use jiff::Timestamp;

use crate::project::{Project, SyncSpec};
use crate::run::{RunError, RunKind, RunReport};

/// A run, as far as it is known when it begins.
#[derive(Debug, Clone, Copy)]
pub struct RunStarted<'a> {
    /// The project that defines it.
    pub project: &'a Project,
    /// The sync.
    pub spec: &'a SyncSpec,
    /// Its id in the loader's history.
    pub run: &'a str,
    /// Delta or full.
    pub kind: RunKind,
    /// When it began.
    pub at: Timestamp,
}

/// A run that has ended, and that the history knows.
#[derive(Debug, Clone, Copy)]
pub struct RunEnded<'a> {
    /// What was known when it began.
    pub started: RunStarted<'a>,
    /// When it ended.
    pub at: Timestamp,
    /// How.
    pub result: Result<&'a RunReport, &'a RunError>,
}

impl<'a> RunEnded<'a> {
    /// What the run did, if it got so far as to have something to report.
    #[must_use]
    pub fn report(&self) -> Option<&'a RunReport> {
        self.result.map_or_else(RunError::report, Some)
    }
}

/// Told of runs. Called from the threads that run syncs, several at a time.
pub trait Observer: Send + Sync {
    /// A run has begun.
    fn started(&self, run: &RunStarted<'_>);
    /// A run has ended, well or not. Its end is in the history already.
    fn ended(&self, run: &RunEnded<'_>);
}

/// Nobody looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn started(&self, _run: &RunStarted<'_>) {}
    fn ended(&self, _run: &RunEnded<'_>) {}
}

/// Several observers, told one after the other in the order in which they were given.
#[derive(Default)]
pub struct Observers(pub Vec<Box<dyn Observer>>);

impl Observer for Observers {
    fn started(&self, run: &RunStarted<'_>) {
        self.0.iter().for_each(|observer| observer.started(run));
    }

    fn ended(&self, run: &RunEnded<'_>) {
        self.0.iter().for_each(|observer| observer.ended(run));
    }
}
