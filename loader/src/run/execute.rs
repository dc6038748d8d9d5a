//! A run: from the decision to the new state.
//!
//! The order of things, and why a crash between any two loses nothing:
//!
//! 1. The run's row is begun. A run found begun and not ended was cut off; its journal is worked into the state.
//! 2. The cluster is asked which run of this sync was its newest. If that is not the one recorded here, the recorded
//!    state says nothing about the cluster, and that is recorded first.
//! 3. Rows are read and compared; guards may stop the run. Until here the cluster is as it was.
//! 4. Collection and sync are declared, the run is opened, the journal begun, and batches are sent: keys first into the
//!    journal, then onto the wire.
//! 5. The run is committed at the cluster.
//! 6. State and journal become the new state, one transaction makes it count and ends the run's row.

use std::sync::Mutex;
use std::time::Instant;

use larder_types::api::{Counts, OpenRun, RunKind as WireKind};
use larder_types::names::SyncName;
use larder_types::patch::{ExitMode, Op};
use larder_types::time::write_timestamp;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::guard::{Findings, verdict};
use super::prepare::{Baseline, Context, Prepared, Tuning, prepare};
use super::produce::Producer;
use super::rejections::Rejections;
use super::report::{Outcome, ResendReason, RowCounts, RunKind, RunReport};
use super::{Phase, Progress, RunError, RunOptions, open};
use crate::diff::join::Diff;
use crate::mapping::Mapping;
use crate::project::{Project, SyncSpec};
use crate::push::batch::Press;
use crate::push::client::{Client, Known};
use crate::push::log::Unlogged;
use crate::push::sender::{SendError, SendLimits, Sender, Sent, locked};
use crate::source::RowStream;
use crate::state::database::{Closing, Tally};
use crate::state::journal::{Journal, JournalHeader};
use crate::state::{State, StateError, SyncState};

/// Full batches that may wait for a free flight: one is being waited for, one is ready.
const WAITING: usize = 2;
/// Rejected rows in a report; the history keeps more.
const REPORTED: usize = 20;

/// Everything that a run has before it begins.
pub(super) struct Setup<'a> {
    pub(super) project: &'a Project,
    pub(super) spec: &'a SyncSpec,
    pub(super) options: RunOptions,
    pub(super) progress: &'a dyn Progress,
    pub(super) tuning: Tuning,
    pub(super) client: Client,
    pub(super) notes: Vec<String>,
    /// When the run was asked for: its query may have run for long by now.
    pub(super) began: Instant,
}

/// Why a run stops before its end.
enum Stop {
    Config(Vec<String>),
    Blocked(String),
    Failed(String),
}

impl<E: std::fmt::Display> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

struct Execution<'a> {
    setup: Setup<'a>,
    state: State,
    sync: SyncState,
    id: String,
    kind: RunKind,
    resend: Option<ResendReason>,
    counts: RowCounts,
    sent: Sent,
    swept: u64,
    rejections: Rejections,
    /// True once batches may have been sent, so that the journal has the last word.
    has_journal: bool,
    /// What the next run is to think of the state.
    distrust: Option<ResendReason>,
    /// Every row was sent and answered, but something else is left to do.
    incomplete: bool,
}

/// Carries out a run whose sync is held.
pub(super) fn execute(setup: Setup<'_>, state: State, sync: SyncState) -> Result<RunReport, RunError> {
    let failed = |error: StateError| RunError::Failed { message: error.to_string(), report: None };
    let kind = if setup.options.full { RunKind::Full } else { RunKind::Delta };
    let (id, now) = (new_id(), now());
    state.database.begin(&id, &sync.name, kind, &now).map_err(failed)?;
    setup.progress.started(&id);
    let mut run = Execution {
        distrust: sync.row.distrust,
        setup,
        state,
        sync,
        id,
        kind,
        resend: None,
        counts: RowCounts::default(),
        sent: Sent::default(),
        swept: 0,
        rejections: Rejections::default(),
        has_journal: false,
        incomplete: false,
    };
    let result = run.attempt();
    run.finish(result)
}

/// Enters a run that failed before it could begin into the history. One that another loader kept out is no run.
pub(super) fn not_begun(state: &State, sync: &SyncName, full: bool, error: RunError) -> RunError {
    let RunError::Failed { message, report } = error else { return error };
    let kind = if full { RunKind::Full } else { RunKind::Delta };
    let message = match state.database.failed_to_begin(&new_id(), sync, kind, &now(), &message) {
        Ok(()) => message,
        Err(error) => format!("{message}; then the state could not be written: {error}"),
    };
    RunError::Failed { message, report }
}

impl Execution<'_> {
    fn attempt(&mut self) -> Result<(), Stop> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        self.setup.progress.phase(Phase::Reading, None);
        let cluster = runtime.block_on(self.setup.client.look(self.setup.spec))?;
        self.check_destination(&runtime, cluster)?;
        let (rows, mapping) = open(self.setup.project, self.setup.spec).map_err(|error| match error {
            RunError::Config(problems) => Stop::Config(problems),
            other => other.into(),
        })?;
        let baseline = Baseline::load(&self.sync, self.setup.spec, &mapping, self.kind == RunKind::Full)?;
        let diff = self.decide(rows, &mapping, &baseline, cluster)?;

        runtime.block_on(self.setup.client.declare(self.setup.spec))?;
        let opened = runtime.block_on(self.setup.client.open_run(&self.opening()))?;
        self.state.database.opened(&self.id, &self.sync.name, opened.generation.0)?;
        let journal = Mutex::new(self.begin_journal(&baseline, mapping.fingerprint())?);
        self.has_journal = true;
        // Somebody may have opened a run since we asked; what it sent is not in our state.
        self.distrust = Some(ResendReason::Overtaken);
        let between = cluster.generation + 1..=opened.generation.0.saturating_sub(1);
        if opened.generation.0 > cluster.generation && runtime.block_on(self.setup.client.were_idle(between))? {
            self.distrust = None;
        }
        // A newer run that fences this one off is noticed by the next run here, by its generation.
        self.push(&runtime, &opened.run, &mapping, &diff, &journal)?;
        self.commit(&runtime, &opened.run, &journal)
    }

    /// Reads and compares the rows, and asks the guards.
    fn decide(
        &mut self,
        rows: RowStream,
        mapping: &Mapping,
        baseline: &Baseline,
        cluster: Known,
    ) -> Result<Diff, Stop> {
        self.setup.notes.extend(baseline.note.clone());
        self.resend = baseline.resend;
        let all = self.kind == RunKind::Full;
        let context = Context { state: &self.sync, all, progress: self.setup.progress, tuning: self.setup.tuning };
        let Prepared { diff, counts, keyless, rejections } =
            prepare(self.setup.spec, mapping, rows, baseline, context)?;
        self.counts = counts;
        self.rejections = rejections;
        self.remark(keyless, diff.known, cluster);
        self.guard(diff.known, cluster)?;
        let reason = self.resend.map(ResendReason::as_str);
        self.state.database.planned(&self.id, self.counts, reason)?;
        Ok(diff)
    }

    /// Says what this run cannot know of records that should go.
    fn remark(&mut self, keyless: u64, known: u64, cluster: Known) {
        if self.setup.spec.on_exit == ExitMode::Keep {
            return;
        }
        if keyless > 0 && self.counts.removed > 0 {
            self.setup.notes.push(format!(
                "{keyless} rows have no usable key and were left out; records that they had before are among the {} \
                 that count as removed",
                self.counts.removed
            ));
        }
        if self.kind == RunKind::Delta && cluster.records > known {
            let state = if known == 0 { "is new".to_owned() } else { format!("knows only {known} records") };
            self.setup.notes.push(format!(
                "this state {state} but the cluster holds {} records of this sync: `larder-loader run {} --full` \
                 removes those whose rows have left",
                cluster.records, self.sync.name
            ));
        }
    }

    /// Compares what the cluster knows of this sync's runs with what is recorded here.
    fn check_destination(&mut self, runtime: &Runtime, cluster: Known) -> Result<(), Stop> {
        let recorded = self.sync.row.generation;
        if self.sync.row.snapshot.is_none() || cluster.generation == recorded {
            return Ok(());
        }
        let since = recorded + 1..=cluster.generation;
        if cluster.generation > recorded && runtime.block_on(self.setup.client.were_idle(since))? {
            return Ok(());
        }
        let reason = if cluster.generation < recorded { ResendReason::DestinationNew } else { ResendReason::Overtaken };
        self.state.database.distrust(&self.sync.name, reason)?;
        self.sync.row.distrust = Some(reason);
        self.distrust = Some(reason);
        Ok(())
    }

    fn guard(&mut self, known: u64, cluster: Known) -> Result<(), Stop> {
        let spec = self.setup.spec;
        let RowCounts { read, added, changed, removed, unchanged, .. } = self.counts;
        let mut findings = Findings { read, removed, known };
        if self.kind == RunKind::Full && self.rejections.count == 0 {
            // The sweep takes everything that is not confirmed, also records that the state here does not know. After
            // a rejected row there is none.
            let swept = cluster.records.saturating_sub(added + changed + unchanged);
            if swept > removed {
                findings = Findings { read, removed: swept, known: cluster.records };
            }
        }
        if spec.on_exit == ExitMode::Keep {
            findings.removed = 0;
        }
        match verdict(&spec.guard, findings, self.setup.options.accept_removals) {
            Some(message) => {
                // What the run would have removed, as the report of a blocked run says it.
                self.counts.removed = findings.removed;
                Err(Stop::Blocked(format!("sync `{}` was stopped before it sent anything: {message}", spec.name)))
            }
            None => Ok(()),
        }
    }

    fn opening(&self) -> OpenRun {
        let RowCounts { added, changed, removed, .. } = self.counts;
        let removed = if self.setup.spec.on_exit == ExitMode::Keep { 0 } else { removed };
        let kind = if self.kind == RunKind::Full { WireKind::Full } else { WireKind::Delta };
        OpenRun { kind, planned: Counts { added, changed, removed } }
    }

    fn begin_journal(&self, baseline: &Baseline, fingerprint: u128) -> Result<Journal, StateError> {
        let header = JournalHeader {
            run: self.id.clone(),
            sync: self.sync.name.to_string(),
            collection: self.setup.spec.collection.to_string(),
            fingerprint,
            secret: baseline.secret.clone(),
            base: baseline.number,
            base_known: baseline.is_known(),
        };
        Ok(Journal::create(&self.sync.journal_path(), &header)?)
    }

    fn push(
        &mut self,
        runtime: &Runtime,
        run: &str,
        mapping: &Mapping,
        diff: &Diff,
        journal: &Mutex<Journal>,
    ) -> Result<(), SendError> {
        let progress = self.setup.progress;
        progress.phase(Phase::Pushing, Some(to_send(self.kind, self.setup.spec.on_exit, self.counts)));
        let fields = mapping.declared().map(|(name, kind)| (name.clone(), kind)).collect();
        let press = Press::new(fields);
        let (full_batches, waiting) = mpsc::channel(WAITING);
        let producer = Producer {
            mapping,
            on_exit: self.setup.spec.on_exit,
            full: self.kind == RunKind::Full,
            batch_rows: self.setup.tuning.batch_rows,
            press: &press,
            journal,
            batches: full_batches,
            rejections: Rejections::default(),
        };
        let mut refused = Rejections::default();
        let mut reject = |rejection| refused.add(rejection);
        let advance = |rows| progress.advance(rows);
        let client = &self.setup.client;
        let sender = Sender {
            wire: client,
            run,
            press: &press,
            journal,
            reject: &mut reject,
            advance: &advance,
            log: &Unlogged,
            limits: SendLimits { in_flight: self.setup.project.push.max_in_flight, retry: self.setup.tuning.retry },
        };
        let (produced, (sent, result)) = std::thread::scope(|scope| {
            let producing = scope.spawn(|| producer.produce(diff));
            let sent = runtime.block_on(sender.send_all(waiting));
            (producing.join(), sent)
        });
        self.sent = sent;
        self.rejections.append(refused);
        let produced = produced.map_err(|_| SendError::Task("the thread that maps rows panicked".to_owned()));
        let (rejections, filled) = produced?;
        self.rejections.append(rejections);
        // If the sender stopped, the producer only noticed that nobody takes batches any more.
        result.and(filled)
    }

    fn commit(&mut self, runtime: &Runtime, run: &str, journal: &Mutex<Journal>) -> Result<(), Stop> {
        self.setup.progress.phase(Phase::Committing, None);
        locked(journal).sync()?;
        let full = self.kind == RunKind::Full;
        if full && self.rejections.count > 0 && self.setup.spec.on_exit != ExitMode::Keep {
            // A rejected row was not confirmed, so the sweep would take its record although the row is still there.
            runtime.block_on(self.setup.client.abort(run))?;
            self.incomplete = true;
            self.setup.notes.push(format!(
                "{} rows were rejected, so the cluster was not asked to sweep what this run did not confirm; correct \
                 them and run --full again",
                self.rejections.count
            ));
            return Ok(());
        }
        let info = runtime.block_on(self.setup.client.commit(run))?;
        self.swept = info.swept;
        if full {
            locked(journal).swept()?;
            locked(journal).sync()?;
        }
        Ok(())
    }

    /// Makes the new state and ends the run's row, however the run went.
    fn finish(mut self, result: Result<(), Stop>) -> Result<RunReport, RunError> {
        let mut problems = Vec::new();
        let (outcome, message) = match result {
            Ok(()) if self.rejections.count > 0 || self.incomplete => (Outcome::Partial, None),
            Ok(()) => (Outcome::Succeeded, None),
            Err(Stop::Blocked(message)) => (Outcome::Blocked, Some(message)),
            Err(Stop::Failed(message)) => (Outcome::Failed, Some(message)),
            Err(Stop::Config(found)) => {
                problems = found;
                (Outcome::Failed, Some(problems.join("\n")))
            }
        };
        self.counts.rejected = self.rejections.count;
        let closed = self.close(outcome, message.as_deref());
        let report = Box::new(self.report(outcome));
        match (message, closed) {
            (None, Ok(())) => Ok(*report),
            // The run stays open in the database, and the next one will work its journal into the state.
            (None, Err(error)) => Err(RunError::Failed {
                message: format!("everything was sent, but the new state could not be written: {error}"),
                report: Some(report),
            }),
            (Some(_), Ok(())) if !problems.is_empty() => Err(RunError::Config(problems)),
            (Some(message), _) if outcome == Outcome::Blocked => Err(RunError::Blocked { message, report }),
            (Some(message), Ok(())) => Err(RunError::Failed { message, report: Some(report) }),
            (Some(message), Err(error)) => Err(RunError::Failed {
                message: format!("{message}; then the state could not be written: {error}"),
                report: Some(report),
            }),
        }
    }

    fn close(&mut self, outcome: Outcome, error: Option<&str>) -> Result<(), StateError> {
        let mut snapshot = self.sync.row.snapshot;
        if self.has_journal {
            snapshot = self.sync.merge(&self.id)?.snapshot;
        }
        let ended_at = now();
        let closing = Closing {
            state: match outcome {
                Outcome::Succeeded => "succeeded",
                Outcome::Partial => "partial",
                Outcome::Blocked => "blocked",
                Outcome::Failed => "failed",
            },
            reason: self.resend.map(ResendReason::as_str),
            error,
            tally: Tally {
                rows: self.counts,
                sent: self.sent.rows,
                acknowledged: self.sent.acknowledged,
                batches: self.sent.batches,
                bytes: self.sent.bytes,
            },
            rejections: &self.rejections.kept,
            snapshot,
            distrust: self.distrust,
            ended_at: &ended_at,
        };
        self.state.database.close(&self.id, &self.sync.name, &closing)?;
        self.sync.row.snapshot = snapshot;
        self.sync.sweep_files()
    }

    fn report(self, outcome: Outcome) -> RunReport {
        let mut rejections = self.rejections.kept;
        rejections.truncate(REPORTED);
        RunReport {
            id: self.id,
            sync: self.setup.spec.name.clone(),
            collection: self.setup.spec.collection.clone(),
            kind: self.kind,
            resend: self.resend,
            outcome,
            rows: self.counts,
            sent: self.sent.rows,
            acknowledged: self.sent.acknowledged,
            swept: self.swept,
            batches: self.sent.batches,
            bytes: self.sent.bytes,
            seconds: self.setup.began.elapsed().as_secs_f64(),
            notes: self.setup.notes,
            rejections,
        }
    }
}

/// Rows that a run with these counts sends, if all can be mapped.
pub(super) fn to_send(kind: RunKind, on_exit: ExitMode, counts: RowCounts) -> u64 {
    let upserts = counts.added + counts.changed;
    match (kind, on_exit) {
        (RunKind::Full, _) => upserts + counts.unchanged,
        (RunKind::Delta, ExitMode::Keep) => upserts,
        (RunKind::Delta, ExitMode::Clear | ExitMode::Delete) => upserts + counts.removed,
    }
}

/// What the cluster is told of rows that left; nothing, if their records stay as they are.
pub(super) fn exit_op(on_exit: ExitMode) -> Option<Op> {
    match on_exit {
        ExitMode::Keep => None,
        ExitMode::Clear => Some(Op::Clear),
        ExitMode::Delete => Some(Op::Delete),
    }
}

fn now() -> String {
    let mut text = String::new();
    write_timestamp(jiff::Timestamp::now().as_microsecond(), &mut text);
    text
}

/// An id that sorts by time and that people can tell apart.
fn new_id() -> String {
    let digits: String = now().chars().take(19).filter(char::is_ascii_digit).collect();
    format!("{digits}-{:08x}", crate::push::retry::random())
}
