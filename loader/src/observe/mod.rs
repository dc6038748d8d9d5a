//! Observing: whoever wants to know of runs is told here, alike for a run from the command line and one of the daemon.
//!
//! Invariants: an observer cannot fail a run, as nothing is returned, and must return within a bounded time, as it is
//! called on the run's own thread. What takes longer than a write to the state database is queued for another thread.
//! For each run that `started` tells of, `ended` is called once, unless the process is killed. A run that could not
//! begin is told of by `ended` alone; one that another loader kept out is no run.

pub(crate) mod alerts;
mod lineage;
mod metrics;
mod process;
#[cfg(test)]
mod sinks;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use larder_types::names::SyncName;

use self::alerts::Alerts;
use self::lineage::Lineage;
use self::metrics::Metrics;
use crate::project::{DestinationName, Project, SyncSpec};
use crate::run::{Outcome, RunError, RunKind, RunReport, Trigger};
use crate::state::StateError;

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
    /// Who asked for it.
    pub trigger: Trigger,
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

    /// How it ended. A run that did everything but could not write its state has failed.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.result {
            Ok(report) => report.outcome,
            Err(RunError::Blocked { .. }) => Outcome::Blocked,
            Err(RunError::Cancelled { .. }) => Outcome::Cancelled,
            Err(_) => Outcome::Failed,
        }
    }
}

/// An attempt to send a batch, which has been answered or given up.
#[derive(Debug, Clone, Copy)]
pub struct SendAttempt<'a> {
    /// The sync.
    pub sync: &'a SyncName,
    /// Where the batch went.
    pub destination: &'a DestinationName,
    /// From its sending to its answer.
    pub took: Duration,
    /// True if the batch had been sent before.
    pub is_repetition: bool,
    /// Batches that are sent to this destination and not answered, without this one.
    pub in_flight: u64,
}

/// Told of runs. Called from the threads that run syncs, several at a time.
pub trait Observer: Send + Sync {
    /// A run has begun.
    fn started(&self, run: &RunStarted<'_>);
    /// A run has ended, well or not. Its end is in the history already.
    fn ended(&self, run: &RunEnded<'_>);
    /// An attempt to send a batch has ended. Called very often.
    fn sent(&self, _attempt: &SendAttempt<'_>) {}
}

/// Nobody looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn started(&self, _run: &RunStarted<'_>) {}
    fn ended(&self, _run: &RunEnded<'_>) {}
}

/// All observers that a project's files ask for, and metrics. Told of runs, it tells each of them.
pub struct Observing {
    alerts: Option<Alerts>,
    metrics: Arc<Metrics>,
    lineage: Option<Lineage>,
}

impl Observing {
    /// Begins to observe: opens the state, starts the threads that send.
    ///
    /// # Errors
    /// When the state directory cannot be opened, without which no sync can be run either. Lineage that cannot be sent
    /// is done without, and the log says so.
    pub fn start(project: &Project) -> Result<Self, RunError> {
        Self::with(Arc::new(Metrics::start(project).map_err(failed)?), project)
    }

    /// Observes on, for a project that was loaded again with the same state. What was counted stays; what waits to be
    /// sent is sent.
    ///
    /// # Errors
    /// When the state directory cannot be opened.
    pub fn restart(&self, project: &Project) -> Result<Self, RunError> {
        self.metrics.follow(project).map_err(failed)?;
        Self::with(Arc::clone(&self.metrics), project)
    }

    fn with(metrics: Arc<Metrics>, project: &Project) -> Result<Self, RunError> {
        let lineage = Lineage::start(project).unwrap_or_else(|error| {
            tracing::error!(%error, "lineage events cannot be sent");
            None
        });
        Ok(Self { metrics, alerts: Alerts::start(project).map_err(failed)?, lineage })
    }

    /// Looks at what only the clock tells, such as a sync that has not succeeded for long. To be called every few
    /// seconds by a process that stays. Waits for nothing but the state database.
    pub fn tick(&self, now: Timestamp) {
        if let Some(alerts) = &self.alerts {
            alerts.tick(now);
        }
    }

    /// Notes how much later than planned a scheduled run of a sync began.
    pub fn lagged(&self, sync: &SyncName, lag: Duration) {
        self.metrics.lagged(sync, lag);
    }

    /// All metrics of now, in Prometheus' text format.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.metrics.render()
    }

    /// Ends: gives what waits to be sent so much time. Notices of alerts that are left are sent by the next process on
    /// the same state directory.
    pub fn finish(&self, patience: Duration) {
        let begun = Instant::now();
        if let Some(lineage) = &self.lineage {
            lineage.finish(patience / 2);
        }
        if let Some(alerts) = &self.alerts {
            alerts.finish(patience.saturating_sub(begun.elapsed()));
        }
    }

    fn each(&self) -> impl Iterator<Item = &dyn Observer> {
        let metrics: &dyn Observer = self.metrics.as_ref();
        let alerts = self.alerts.as_ref().map(|alerts| alerts as &dyn Observer);
        let lineage = self.lineage.as_ref().map(|lineage| lineage as &dyn Observer);
        [Some(metrics), alerts, lineage].into_iter().flatten()
    }
}

impl Observer for Observing {
    fn started(&self, run: &RunStarted<'_>) {
        self.each().for_each(|observer| observer.started(run));
    }

    fn ended(&self, run: &RunEnded<'_>) {
        self.each().for_each(|observer| observer.ended(run));
    }

    fn sent(&self, attempt: &SendAttempt<'_>) {
        self.each().for_each(|observer| observer.sent(attempt));
    }
}

fn failed(error: StateError) -> RunError {
    RunError::Failed { message: error.to_string(), report: None }
}

/// From one time to a later one; nothing, if the clock was set back in between.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
