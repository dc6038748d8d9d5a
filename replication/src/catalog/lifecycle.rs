//! The life of a run: open, then committing and committed, or aborted, or superseded by a newer one.
//!
//! Invariants: the generations of a sync only grow. At most one run of a sync is open or committing, it is the newest,
//! and the sync's definition names it. A run that has ended never changes its state again.
//!
//! ```text
//!   OpenRun --> open --BeginCommit--> committing --EndCommit--> committed
//!                 |                        |
//!                 +--AbortRun--> aborted   |
//!                 +-------- a newer OpenRun +-----------------> superseded
//! ```
//!
//! A run that has ended is fenced in all shards, by the run that supersedes it or by its end.
//!
//! A run that is superseded while its sweep is pending does not lose the sweep: its loader had said that it sent every
//! row, and the sweep does not touch what the newer run writes.

use larder_types::api::{Counts, RunKind, RunState};
use larder_types::error::ErrorCode;
use larder_types::ids::{Generation, Micros};
use larder_types::limits::MAX_SEQ;
use larder_types::names::{CollectionName, SyncName};
use larder_types::patch::ExitMode;
use serde_json::json;

use super::command::{BatchOutcome, CatalogReply};
use super::definitions::OpenRunState;
use super::error::CatalogError;
use super::intent::IntentAction;
use super::run::{Noted, Run};
use super::runs::SyncId;
use super::state::{Applied, CatalogState, conflict};

/// Longest id of a run in bytes.
pub(crate) const MAX_RUN_ID_BYTES: usize = 64;

type Names<'a> = (&'a CollectionName, &'a SyncName);

/// What the commands need to know of a run that exists.
struct Found {
    sync: SyncId,
    generation: Generation,
    newest: Generation,
    state: RunState,
    kind: RunKind,
    opened_at: Micros,
    on_exit: ExitMode,
}

impl CatalogState {
    pub(crate) fn open_run(
        &mut self,
        (collection, sync): Names<'_>,
        run: &str,
        kind: RunKind,
        planned: Counts,
        at: Micros,
    ) -> Applied {
        let (id, current) = self.sync(collection, sync)?;
        let of = (id, current.slot);
        if run.is_empty() || run.len() > MAX_RUN_ID_BYTES {
            let problem = format!("the run's id has {} bytes, must have 1 to {MAX_RUN_ID_BYTES}", run.len());
            return Err(CatalogError::problems(&[problem]));
        }
        if self.read_runs().find(of, run).is_some() {
            return Err(conflict(format!("sync `{sync}` of collection `{collection}` has a run `{run}` already")));
        }
        let older = current.open_run.as_ref().map(|_| current.generation);
        let generation = current.generation.next();
        if generation == Generation::LAST {
            return Err(conflict(format!("sync `{sync}` has used all generations: drop it and declare it anew")));
        }

        let index = self.applied;
        if let Some(current) = self.edit_sync(collection, sync) {
            current.generation = generation;
            current.open_run = Some(OpenRunState { run: run.to_owned(), kind, takes_batches: true });
        }
        let mut runs = self.runs_mut();
        if let Some(older) = older {
            runs.end((of, older), RunState::Superseded, at, index);
        }
        runs.open(of, Run::open(run, generation, kind, planned, at));
        drop(runs);
        let intent = self.intents.add(IntentAction::Fence { collection: of.0, slot: of.1, generation });
        Ok(CatalogReply::Opened { generation, intent })
    }

    pub(crate) fn record_batch(&mut self, of: SyncId, run: &str, outcome: &BatchOutcome) -> Applied {
        let sync = &self.sync_in(of.0, of.1)?.name;
        if outcome.seq > MAX_SEQ {
            let problem = format!("batch number {} is greater than {MAX_SEQ}", outcome.seq);
            return Err(CatalogError::problems(&[problem]));
        }
        match self.runs_mut().note(of, run, outcome) {
            None => Err(run_not_found(sync, run)),
            Some(Noted::OtherBody) => Err(CatalogError::new(
                ErrorCode::SeqReused,
                format!("batch {} of run `{run}` was sent before with another body", outcome.seq),
            )),
            Some(Noted::Now | Noted::Before | Noted::Shed) => Ok(CatalogReply::Done),
        }
    }

    pub(crate) fn begin_commit(&mut self, (collection, sync): Names<'_>, run: &str) -> Applied {
        let found = self.find_run(collection, sync, run)?;
        let of @ (id, slot) = found.sync;
        let generation = found.generation;
        match found.state {
            RunState::Open => {}
            RunState::Committing => {
                let intent = self.intents.sweep_of((id, slot, generation));
                return Ok(CatalogReply::Committing { intent });
            }
            RunState::Committed => return Ok(CatalogReply::Committing { intent: None }),
            RunState::Aborted | RunState::Superseded => return Err(found.ended(sync, run)),
        }
        if let Some(open) = self.edit_sync(collection, sync).and_then(|sync| sync.open_run.as_mut()) {
            open.takes_batches = false;
        }
        self.runs_mut().begin_commit(of, generation);
        let mode = found.on_exit;
        let sweeps = found.kind == RunKind::Full && mode != ExitMode::Keep;
        let sweep = IntentAction::Sweep { collection: id, slot, generation, mode };
        Ok(CatalogReply::Committing { intent: sweeps.then(|| self.intents.add(sweep)) })
    }

    pub(crate) fn end_commit(&mut self, (collection, sync): Names<'_>, run: &str, at: Micros) -> Applied {
        let found = self.find_run(collection, sync, run)?;
        match found.state {
            RunState::Committing => {}
            RunState::Committed => return Ok(CatalogReply::Done),
            RunState::Open => {
                return Err(conflict(format!("the commit of run `{run}` of sync `{sync}` has not begun")));
            }
            RunState::Aborted | RunState::Superseded => return Err(found.ended(sync, run)),
        }
        let (id, slot) = found.sync;
        if self.intents.sweep_of((id, slot, found.generation)).is_some() {
            return Err(conflict(format!("the sweep of run `{run}` of sync `{sync}` is not done: commit again")));
        }
        if let Some(current) = self.edit_sync(collection, sync) {
            current.open_run = None;
            current.last_good_run = Some(found.opened_at);
        }
        self.end_run(&found, RunState::Committed, at);
        Ok(CatalogReply::Done)
    }

    pub(crate) fn abort_run(&mut self, (collection, sync): Names<'_>, run: &str, at: Micros) -> Applied {
        let found = self.find_run(collection, sync, run)?;
        match found.state {
            RunState::Open => {}
            RunState::Aborted => return Ok(CatalogReply::Done),
            RunState::Committing | RunState::Committed | RunState::Superseded => return Err(found.ended(sync, run)),
        }
        if let Some(current) = self.edit_sync(collection, sync) {
            current.open_run = None;
        }
        self.end_run(&found, RunState::Aborted, at);
        Ok(CatalogReply::Done)
    }

    /// Notes the end of a sync's newest run. Nobody waits for the fence: it stops batches that were under way, as the
    /// next run's would, and lets the shards forget those of this run.
    fn end_run(&mut self, found: &Found, state: RunState, at: Micros) {
        let (collection, slot) = found.sync;
        self.runs_mut().end((found.sync, found.generation), state, at, self.applied);
        let generation = found.generation.next();
        self.intents.add(IntentAction::Fence { collection, slot, generation });
    }

    fn find_run(&self, collection: &CollectionName, sync: &SyncName, run: &str) -> Result<Found, CatalogError> {
        let (id, current) = self.sync(collection, sync)?;
        let of = (id, current.slot);
        let runs = self.read_runs();
        let found = runs.find(of, run).ok_or_else(|| run_not_found(sync, run))?;
        Ok(Found {
            sync: of,
            generation: found.generation,
            newest: current.generation,
            state: found.state,
            kind: found.kind,
            opened_at: found.opened_at,
            on_exit: current.on_exit,
        })
    }
}

impl Found {
    /// Why a run in this state, which is not open, cannot be changed any more.
    fn ended(&self, sync: &SyncName, run: &str) -> CatalogError {
        let word = match self.state {
            RunState::Superseded => {
                return CatalogError::new(
                    ErrorCode::StaleGeneration,
                    format!(
                        "run `{run}` of sync `{sync}` has generation {}, a run of generation {} was opened since",
                        self.generation, self.newest
                    ),
                )
                .with(json!({ "generation": self.generation, "newest": self.newest }));
            }
            RunState::Open => "is open",
            RunState::Committing => "is being committed",
            RunState::Committed => "was committed",
            RunState::Aborted => "was aborted",
        };
        CatalogError::new(ErrorCode::RunClosed, format!("run `{run}` of sync `{sync}` {word}: open a new run"))
    }
}

fn run_not_found(sync: &SyncName, run: &str) -> CatalogError {
    CatalogError::new(
        ErrorCode::RunNotFound,
        format!("sync `{sync}` has no run `{run}`, or it was so long ago that it is forgotten"),
    )
}
