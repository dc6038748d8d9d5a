//! What the daemon's threads share: the project, the state, and the runs of this process that are under way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use larder_types::names::SyncName;
use tokio::sync::watch;

use super::ServeError;
use super::access::Access;
use crate::cancel::{Cancel, Why};
use crate::observe::Observing;
use crate::project::Project;
use crate::project::schedule::Retries;
use crate::run::Trigger;
use crate::schedule::book::{Ending, Request, Started, Ticket};
use crate::schedule::decide::finish;
use crate::state::leases::Holder;
use crate::state::{State, StateError};

/// The daemon is ready as long as it has decided within this time: several times the longest pause between decisions.
const STALE: Duration = Duration::from_secs(60);
/// What the daemon's threads share.
pub(super) struct Daemon {
    root: PathBuf,
    project: Mutex<Arc<Project>>,
    access: Mutex<Arc<Access>>,
    observing: Mutex<Arc<Observing>>,
    pub(super) state: State,
    pub(super) holder: Holder,
    running: watch::Sender<BTreeMap<SyncName, Running>>,
    is_stopping: AtomicBool,
    /// Set when there may be something to decide.
    is_awake: Mutex<bool>,
    awoken: Condvar,
    decided: Mutex<Option<Instant>>,
    failed: watch::Sender<bool>,
}

/// A run of this process.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) run: String,
    pub(super) fence: i64,
    pub(super) cancel: Cancel,
}

/// What became of a wish to cancel a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancelled {
    /// It waited, and waits no more.
    Dropped,
    /// It is under way and was told to stop.
    Asked,
    /// It had ended.
    TooLate,
    /// There is no such run.
    Unknown,
}

impl Daemon {
    pub(super) fn new(root: &Path, project: Project) -> Result<Self, ServeError> {
        let state = State::open(&project.state_dir)?;
        let holder = Holder::enter(&state)?;
        let observing = Observing::start(&project).map_err(|error| ServeError::State(error.to_string()))?;
        Ok(Self {
            root: root.to_path_buf(),
            access: Mutex::new(Arc::new(Access::of(&project))),
            project: Mutex::new(Arc::new(project)),
            observing: Mutex::new(Arc::new(observing)),
            state,
            holder,
            running: watch::Sender::default(),
            is_stopping: AtomicBool::new(false),
            is_awake: Mutex::new(true),
            awoken: Condvar::new(),
            decided: Mutex::new(None),
            failed: watch::Sender::default(),
        })
    }

    /// The project as it was last loaded.
    pub(super) fn project(&self) -> Arc<Project> {
        Arc::clone(&locked(&self.project))
    }

    /// Who is told of runs.
    pub(super) fn observing(&self) -> Arc<Observing> {
        Arc::clone(&locked(&self.observing))
    }

    /// Who may use the API.
    pub(super) fn access(&self) -> Arc<Access> {
        Arc::clone(&locked(&self.access))
    }

    /// Loads the project again. One that is wrong is told of, and the old one stays.
    pub(super) fn reload(&self) {
        let project = match Project::load(&self.root, self.project().environment.as_deref()) {
            Ok(project) => project,
            Err(problems) => {
                for problem in &problems.0 {
                    tracing::error!("{problem}");
                }
                tracing::error!("the project was not loaded again: correct it and send SIGHUP; the old one stays");
                return;
            }
        };
        let old = self.project();
        if project.state_dir != old.state_dir {
            tracing::error!("`state` cannot be changed while the daemon runs: restart it; the old project stays");
            return;
        }
        if project.serve.listen != old.serve.listen {
            tracing::warn!("`serve.listen` was changed: it counts from the next start");
        }
        let observing = match self.observing().restart(&project) {
            Ok(observing) => observing,
            Err(error) => {
                tracing::error!(%error, "the project was not loaded again; the old one stays");
                return;
            }
        };
        project.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        *locked(&self.observing) = Arc::new(observing);
        *locked(&self.access) = Arc::new(Access::of(&project));
        *locked(&self.project) = Arc::new(project);
        tracing::info!("the project was loaded again");
        self.wake();
    }

    /// Asks for a run, and returns its id: that of the run that waits already, if one does.
    pub(super) fn trigger(&self, sync: &SyncName, cause: Trigger, request: Request) -> Result<String, StateError> {
        let project = self.project();
        let now = Timestamp::now();
        let run = self.state.database.with_book(project.syncs.keys(), &self.holder, now, |book| {
            let ticket = Ticket { run: crate::run::new_id(now), cause, request, due: now, failures: 0, vanished: 0 };
            book.0.entry(sync.clone()).or_default().queue(ticket).to_owned()
        })?;
        self.wake();
        Ok(run)
    }

    /// Takes a run that waits out of the book, or tells one that is under way to stop, wherever it runs.
    pub(super) fn cancel(&self, run: &str) -> Result<Cancelled, StateError> {
        let project = self.project();
        let now = Timestamp::now();
        let was_waiting = self.state.database.with_book(project.syncs.keys(), &self.holder, now, |book| {
            book.0.values_mut().any(|entry| entry.pending.take_if(|ticket| ticket.run == run).is_some())
        })?;
        if was_waiting {
            return Ok(Cancelled::Dropped);
        }
        // The history knows first that a run has ended.
        let recorded = self.state.database.run(run)?;
        if recorded.as_ref().is_some_and(|entry| entry.state != "running") {
            return Ok(Cancelled::TooLate);
        }
        let here = self.running.borrow().values().find(|running| running.run == run).map(|run| run.cancel.clone());
        if let Some(cancel) = here {
            cancel.cancel(Why::Asked);
            return Ok(Cancelled::Asked);
        }
        if self.state.database.ask_cancel(run, &crate::run::text(now))?.is_some() {
            return Ok(Cancelled::Asked);
        }
        Ok(if recorded.is_some() { Cancelled::TooLate } else { Cancelled::Unknown })
    }

    /// Lets a run that was started count as one of this process.
    pub(super) fn began(&self, sync: &SyncName, started: &Started, cancel: &Cancel) {
        let running = Running { run: started.ticket.run.clone(), fence: started.fence, cancel: cancel.clone() };
        self.running.send_modify(|all| drop(all.insert(sync.clone(), running)));
    }

    /// Writes the end of a run into the book. If that fails, whoever decides next finds the end in the history.
    pub(super) fn ended(&self, sync: &SyncName, begun: &Started, ending: Ending) {
        let run = begun.ticket.run.as_str();
        let project = self.project();
        let retries = project.syncs.get(sync).map_or_else(Retries::default, |spec| spec.schedule.retries);
        let now = Timestamp::now();
        let written = self.state.database.with_book(project.syncs.keys(), &self.holder, now, |book| {
            let entry = book.0.entry(sync.clone()).or_default();
            finish(entry, begun, ending, retries, now, &mut crate::run::new_id);
        });
        if let Err(error) = written {
            tracing::error!(%sync, run, %error, "the end of a run could not be written; it is made up for");
        }
        // By its id: the next run of the sync may have begun already.
        self.running.send_modify(|all| all.retain(|_, running| running.run != run));
        self.wake();
    }

    /// The runs of this process.
    pub(super) fn running(&self) -> BTreeMap<SyncName, Running> {
        self.running.borrow().clone()
    }

    /// Resolves when no run of this process is under way.
    pub(super) async fn idle(&self) {
        // The sender is ours, so this does not fail.
        drop(self.running.subscribe().wait_for(BTreeMap::is_empty).await);
    }

    /// Tells all runs of this process to stop.
    pub(super) fn cancel_all(&self, why: Why) {
        self.running.borrow().values().for_each(|running| running.cancel.cancel(why));
    }

    /// From now on no run begins.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Whether no run begins any more.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Lets the scheduler look at once.
    pub(super) fn wake(&self) {
        *locked(&self.is_awake) = true;
        self.awoken.notify_all();
    }

    /// Waits for a while, or until there may be something to decide: then true.
    pub(super) fn sleep(&self, longest: Duration) -> bool {
        let awake = locked(&self.is_awake);
        let (mut awake, _) =
            self.awoken.wait_timeout_while(awake, longest, |awake| !*awake).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *awake)
    }

    /// Notes that a decision was made.
    pub(super) fn decided(&self) {
        *locked(&self.decided) = Some(Instant::now());
    }

    /// Whether decisions are made.
    pub(super) fn is_ready(&self) -> bool {
        !self.is_stopping() && locked(&self.decided).is_some_and(|at| at.elapsed() < STALE)
    }

    /// The scheduler has ended by itself.
    pub(super) fn fail(&self) {
        self.failed.send_replace(true);
    }

    /// Resolves when the scheduler has ended by itself.
    pub(super) async fn failed(&self) {
        drop(self.failed.subscribe().wait_for(|failed| *failed).await);
    }
}

/// A lock, also after a panic: what it guards is replaced as a whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
