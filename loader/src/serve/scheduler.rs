//! The thread that decides, keeps leases alive, and starts the threads of runs.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use larder_types::names::SyncName;

use super::daemon::Daemon;
use crate::cancel::{Cancel, Why};
use crate::project::Project;
use crate::run::{self, Audience, RunError, RunOptions, Silent, Trigger};
use crate::schedule::book::{Ending, Rules, Started};
use crate::schedule::decide::{Remark, decide, next_decision};
use crate::state::StateError;
use crate::state::leases::HEARTBEAT;

/// How often it is looked whether another process has changed something.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a decision is made although nothing shows that there is one: another loader may have died.
const DECIDE_EVERY: Duration = Duration::from_secs(10);

/// How often it is looked whether a sync is overdue or a run takes long.
const TICK_EVERY: Duration = Duration::from_secs(10);

/// Starts the thread. It ends when the daemon is stopping, and its runs go on.
pub(super) fn start(daemon: &Arc<Daemon>) -> io::Result<JoinHandle<()>> {
    let scheduler =
        Scheduler { daemon: Arc::clone(daemon), next: None, version: None, beat: None, decided: None, ticked: None };
    Builder::new().name("scheduler".to_owned()).spawn(move || {
        // Without its scheduler the daemon is of no use, so it ends too if this panics.
        let _alarm = Alarm(Arc::clone(&scheduler.daemon));
        scheduler.run();
    })
}

struct Alarm(Arc<Daemon>);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.fail();
    }
}

struct Scheduler {
    daemon: Arc<Daemon>,
    /// When there is something to decide next, as far as is known.
    next: Option<Timestamp>,
    /// The version of the database at the last decision.
    version: Option<i64>,
    /// By the clock that leases end by, so that one that jumps, or a machine that slept, makes it beat before it decides.
    beat: Option<Timestamp>,
    decided: Option<Instant>,
    /// When it was last looked at what only the clock tells.
    ticked: Option<Instant>,
}

impl Scheduler {
    fn run(mut self) {
        let mut is_awake = true;
        while !self.daemon.is_stopping() {
            if let Err(error) = self.step(is_awake) {
                // It is tried again; the daemon is not ready if that goes on.
                tracing::error!(%error, "the schedule could not be read or written");
            }
            is_awake = self.daemon.sleep(self.pause());
        }
        // Runs that go on keep their leases until they end.
        while !self.daemon.running().is_empty() {
            if let Err(error) = self.keep_leases() {
                tracing::error!(%error, "leases could not be renewed");
            }
            self.daemon.sleep(LOOK_EVERY);
        }
    }

    fn pause(&self) -> Duration {
        let until = self.next.map(|next| next.duration_since(Timestamp::now()));
        let until = until.map_or(LOOK_EVERY, |until| Duration::try_from(until).unwrap_or_default());
        // Not less than a moment, so that a time that cannot be served yet does not keep the thread busy.
        until.clamp(Duration::from_millis(20), LOOK_EVERY)
    }

    fn step(&mut self, is_awake: bool) -> Result<(), StateError> {
        self.keep_leases()?;
        let version = Some(self.daemon.state.database.data_version()?);
        let is_due = self.next.is_some_and(|next| next <= Timestamp::now());
        let is_long_ago = self.decided.is_none_or(|at| at.elapsed() >= DECIDE_EVERY);
        if is_awake || is_due || is_long_ago || version != self.version {
            self.decide()?;
            self.version = version;
            self.decided = Some(Instant::now());
        }
        self.daemon.decided();
        if self.ticked.is_none_or(|at| at.elapsed() >= TICK_EVERY) {
            self.daemon.observing().tick(Timestamp::now());
            self.ticked = Some(Instant::now());
        }
        Ok(())
    }

    fn keep_leases(&mut self) -> Result<(), StateError> {
        let now = Timestamp::now();
        if !is_beat_due(self.beat, now) {
            return Ok(());
        }
        for (sync, running) in self.daemon.running() {
            if !self.daemon.state.database.renew(&sync, &self.daemon.holder, running.fence, now)? {
                tracing::error!(%sync, run = running.run, "another loader has taken this run over");
                running.cancel.cancel(Why::Ending);
            }
        }
        self.beat = Some(now);
        Ok(())
    }

    fn decide(&mut self) -> Result<(), StateError> {
        let daemon = Arc::clone(&self.daemon);
        let project = daemon.project();
        let rules = Rules::of(&project);
        let now = Timestamp::now();
        let (remarks, next) = daemon.state.database.with_book(project.syncs.keys(), &daemon.holder, now, |book| {
            let remarks = decide(book, &rules, now, &mut run::new_id);
            (remarks, next_decision(book, &rules, now))
        })?;
        self.next = next;
        for remark in remarks {
            match remark {
                Remark::Start(sync, started) => self.begin(&project, sync, started),
                other => log(&other),
            }
        }
        Ok(())
    }

    fn begin(&self, project: &Arc<Project>, sync: SyncName, started: Started) {
        let ticket = &started.ticket;
        tracing::info!(%sync, run = ticket.run, cause = ticket.cause.as_str(), "a run begins");
        if ticket.cause == Trigger::Schedule {
            let lag = Timestamp::now().duration_since(ticket.due);
            self.daemon.observing().lagged(&sync, Duration::try_from(lag).unwrap_or_default());
        }
        let cancel = Cancel::default();
        self.daemon.began(&sync, &started, &cancel);
        let (daemon, project) = (Arc::clone(&self.daemon), Arc::clone(project));
        let (name, begun) = (sync.clone(), started.clone());
        let work = move || {
            let ending = perform(&daemon, &project, &name, &started, &cancel);
            daemon.ended(&name, &started, ending);
        };
        if let Err(error) = Builder::new().name(format!("run-{sync}")).spawn(work) {
            tracing::error!(%sync, %error, "no thread for a run");
            self.daemon.ended(&sync, &begun, Ending::Failed);
        }
    }
}

/// Whether leases are to be renewed, if they were `last` renewed then.
fn is_beat_due(last: Option<Timestamp>, now: Timestamp) -> bool {
    last.is_none_or(|last| now.duration_since(last).unsigned_abs() >= HEARTBEAT)
}

/// Carries out a run, and tells what its end means for the schedule.
fn perform(daemon: &Daemon, project: &Project, sync: &SyncName, started: &Started, cancel: &Cancel) -> Ending {
    let ticket = &started.ticket;
    let options = RunOptions {
        full: ticket.request.full,
        reset: ticket.request.reset,
        trigger: ticket.cause,
        cancel: cancel.clone(),
        order: Some(ticket.run.clone()),
        ..RunOptions::default()
    };
    let observing = daemon.observing();
    let audience = Audience { progress: &Silent, observer: observing.as_ref() };
    match run::run(project, sync, &options, audience) {
        Ok(report) => {
            let (run, outcome) = (report.id.as_str(), report.outcome.as_str());
            tracing::info!(%sync, run, outcome, seconds = report.seconds, "a run has ended");
            Ending::Settled
        }
        Err(error) => ending_of(daemon, sync, &ticket.run, &error, cancel),
    }
}

fn ending_of(daemon: &Daemon, sync: &SyncName, run: &str, error: &RunError, cancel: &Cancel) -> Ending {
    let ending = match error {
        RunError::Locked(_) => Ending::Locked,
        RunError::Config(_) | RunError::Blocked { .. } => Ending::Settled,
        RunError::Cancelled { .. } => match cancel.why() {
            Some(Why::Ending) => Ending::Stopped,
            Some(Why::Asked) => Ending::Settled,
            // Asked for by another process, or else at its time limit.
            _ if daemon.state.database.is_cancel_asked(run).unwrap_or(true) => Ending::Settled,
            _ => Ending::Failed,
        },
        RunError::Failed { .. } => Ending::Failed,
    };
    if daemon.is_stopping() && ending == Ending::Stopped {
        tracing::info!(%sync, run, "a run was cut short, and is made again when a loader starts");
    } else {
        tracing::warn!(%sync, run, %error, "a run did not end well");
    }
    ending
}

fn log(remark: &Remark) {
    match remark {
        Remark::Start(..) => {}
        Remark::Skipped(sync, due) => {
            tracing::info!(%sync, %due, "a time is left out, as the last run is still under way");
        }
        Remark::Forgotten(sync, due) => {
            tracing::warn!(%sync, %due, "times have passed while no loader was there; `catch_up: none` forgets them");
        }
        Remark::Resumed(sync, run) => {
            tracing::warn!(%sync, run, "the loader of this run has vanished; it is made again")
        }
        Remark::GivenUp(sync, run) => {
            tracing::error!(%sync, run, "every loader that began this run has vanished; it is given up");
        }
        Remark::Dropped(sync, run) => tracing::warn!(%sync, run, "a run is dropped: the project has no such sync"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::timetable::{earlier, later};

    #[test]
    fn leases_are_renewed_after_a_while_and_whenever_the_clock_has_jumped() {
        let now = Timestamp::now();
        assert!(is_beat_due(None, now));
        assert!(!is_beat_due(Some(now), later(now, HEARTBEAT / 2)));
        assert!(is_beat_due(Some(now), later(now, HEARTBEAT)));
        assert!(is_beat_due(Some(now), later(now, HEARTBEAT * 100)));
        assert!(is_beat_due(Some(now), earlier(now, HEARTBEAT * 100)));
    }
}
