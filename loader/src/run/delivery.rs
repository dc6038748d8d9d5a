//! A delivery: the part of a run that goes to one destination, from the first look at its cluster to the new state.
//!
//! The order of things, and why a crash between any two loses nothing:
//!
//! 1. The cluster is asked which run of this sync was its newest. If that is not the one recorded here, the recorded
//!    state says nothing about the cluster, and that is recorded first.
//! 2. The rows, which are read once for all destinations, are compared; guards may stop the delivery. Until here the
//!    cluster is as it was.
//! 3. Collection and sync are declared, the run is opened, the journal begun, and batches are sent: keys first into the
//!    journal, then onto the wire.
//! 4. The run is committed at the cluster.
//! 5. State and journal become the new state, one transaction makes it count and ends the delivery's row.
//!
//! Deliveries of one run share nothing but the rows, so one whose cluster is away, refuses or is slow keeps no other from
//! its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use larder_types::api::{Counts, OpenRun, RunKind as WireKind};
use larder_types::patch::ExitMode;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::Phase;
use super::execution::{Shared, text};
use super::guard::{Findings, Judging, verdict};
use super::opening::CursorRead;
use super::planned::{Asked, Home, Planned};
use super::prepare::{Baseline, Comparison, Prepared, compare, to_send};
use super::produce::Producer;
use super::reading::Taken;
use super::rejections::Rejections;
use super::report::{DeliveryReport, Outcome, ResendReason, RowCounts, RunKind};
use super::stop::{Stop, describe};
use super::supply::{Greeting, Rows, Supplied};
use crate::cancel::Why;
use crate::diff::join::{Absence, Diff};
use crate::diff::snapshot::Hashes;
use crate::mapping::Mapping;
use crate::observe::SendAttempt;
use crate::project::span::write_span;
use crate::project::{DestinationName, DiffSpec};
use crate::push::batch::Press;
use crate::push::client::{Client, Known, PushError};
use crate::push::log::{Attempt, RequestLog};
use crate::push::sender::{Sender, Sent, locked};
use crate::state::bases::Base;
use crate::state::journal::{Journal, JournalHeader};
use crate::state::runs::{Closing, DeliveryId, NextBase, Tally};
use crate::state::{DestinationState, StateError};

/// Full batches that may wait for a free flight: one is being waited for, one is ready.
const WAITING: usize = 2;
/// Rejected rows in a report; the history keeps more.
pub(super) const REPORTED: usize = 20;
/// How long a cluster is given to hear that a cancelled run is given up. It would find out by the next run.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// What a destination says that turns out to need all rows when a window was read for the others already.
const RECENT_ONLY: &str = "every row must be sent again, and this run read only recent ones; the next run reads all";

pub(super) struct Delivery<'a> {
    shared: &'a Shared<'a>,
    client: Client,
    state: DestinationState,
    resend: Option<ResendReason>,
    counts: RowCounts,
    sent: Sent,
    swept: u64,
    rejections: Rejections,
    notes: Vec<String>,
    /// True once batches may have been sent, so that the journal has the last word.
    has_journal: bool,
    /// What the next run is to think of the state.
    distrust: Option<ResendReason>,
    /// What a guard stopped.
    held: Option<Findings>,
    /// Every row was sent and answered, but something else is left to do.
    incomplete: bool,
    /// What was seen of the cursor column, once every row was answered.
    cursor: Option<Arc<CursorRead>>,
    /// The result in the warehouse that this run compares.
    result: Option<Arc<Planned>>,
    /// The same as a base, once every row was answered.
    settled: Option<Base>,
    /// What the hashes of this run are made from.
    hashes: Hashes,
}

/// The request log, and the run's observer beside it.
struct Told<'a> {
    log: &'a dyn RequestLog,
    shared: &'a Shared<'a>,
    destination: &'a DestinationName,
}

impl RequestLog for Told<'_> {
    fn note(&self, attempt: &Attempt<'_>) {
        self.log.note(attempt);
        self.shared.observer.sent(&SendAttempt {
            sync: &self.shared.spec.name,
            destination: self.destination,
            took: attempt.latency,
            is_repetition: attempt.number > 1,
            in_flight: attempt.in_flight,
        });
    }
}

/// A delivery that has ended.
pub(super) struct Delivered {
    pub(super) report: DeliveryReport,
    /// What is wrong with the project, if that is what stopped it.
    pub(super) problems: Vec<String>,
}

impl Delivered {
    /// A delivery that came to nothing.
    pub(super) fn failed(destination: DestinationName, error: String) -> Self {
        let report = DeliveryReport {
            destination,
            outcome: Outcome::Failed,
            resend: None,
            rows: RowCounts::default(),
            sent: 0,
            acknowledged: 0,
            swept: 0,
            batches: 0,
            bytes: 0,
            error: Some(error),
            notes: Vec::new(),
            replaced: BTreeMap::new(),
            rejections: Vec::new(),
        };
        Self { report, problems: Vec::new() }
    }
}

impl<'a> Delivery<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, client: Client, state: DestinationState, notes: Vec<String>) -> Self {
        Self {
            shared,
            client,
            distrust: state.row.distrust,
            state,
            resend: None,
            counts: RowCounts::default(),
            sent: Sent::default(),
            swept: 0,
            rejections: Rejections::default(),
            notes,
            has_journal: false,
            held: None,
            incomplete: false,
            cursor: None,
            result: None,
            settled: None,
            hashes: Hashes::Cells,
        }
    }

    /// Carries the delivery out.
    pub(super) fn deliver(mut self, greeting: Greeting<'_>) -> Delivered {
        let result = self.attempt(greeting);
        self.finish(result)
    }

    fn attempt(&mut self, greeting: Greeting<'_>) -> Result<(), Stop> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Stop::failed)?;
        let Shared { project, spec, state, sync, kind, cancel, .. } = *self.shared;
        let mut baseline =
            Baseline::open(&self.state, &sync.secret, spec, kind == RunKind::Full).map_err(Stop::Failed)?;
        let cluster = self.ask(&runtime, self.client.look(spec))?;
        self.check_destination(&runtime, cluster)?;
        let Supplied { mapping, rows } = greeting.wait(self.distrust.is_some())?;
        let home = Home { project, spec, state, sync, full: kind == RunKind::Full, cancel };
        self.notes.extend(home.settle(&mut self.state, &mut baseline, &rows, mapping.fingerprint())?);
        self.notes.extend(baseline.note.clone());
        let taken = self.take(rows, &baseline)?;
        let is_window = taken.cursor.is_some() && taken.absence == Absence::Unknown;
        if is_window && !baseline.is_known() {
            return Err(Stop::Failed(RECENT_ONLY.to_owned()));
        }
        self.resend = baseline.resend;
        self.counts.read = taken.read;
        if is_window {
            self.remark_on_window();
        }
        let (absence, cursor, planned) = (taken.absence, taken.cursor.clone(), taken.planned.clone());

        let in_phase = tracing::info_span!("compare").entered();
        self.shared.gauge.enter(Phase::Comparing, Some(taken.read));
        let prepared = compare(spec, &self.state, &baseline, taken, self.comparison(absence))?;
        let diff = self.decide(prepared, cluster)?;
        drop(in_phase);

        self.ask(&runtime, self.client.declare(spec))?;
        let opened = self.ask(&runtime, self.client.open_run(&self.opening()))?;
        self.shared.state.database.opened(self.id(), opened.generation.0).map_err(Stop::failed)?;
        let journal = Mutex::new(self.begin_journal(&baseline, mapping.fingerprint()).map_err(Stop::failed)?);
        self.has_journal = true;
        // Somebody may have opened a run since we asked; what it sent is not in our state.
        self.distrust = Some(ResendReason::Overtaken);
        let between = cluster.generation + 1..=opened.generation.0.saturating_sub(1);
        if opened.generation.0 > cluster.generation && self.ask(&runtime, self.client.were_idle(between))? {
            self.distrust = None;
        }
        // A newer run that fences this one off is noticed by the next run here, by its generation.
        let result = self.push(&runtime, &opened.run, &mapping, &diff, &journal);
        let result = result.and_then(|()| self.commit(&runtime, &opened.run, &journal));
        if let Err(Stop::Cancelled(_)) = result {
            // If it does not get through, the next run closes this one.
            let abort = self.client.abort(&opened.run);
            drop(runtime.block_on(async { tokio::time::timeout(ABORT_TIMEOUT, abort).await }));
        }
        result?;
        self.cursor = cursor;
        let is_all = self.shared.options.scope.is_all() && !self.incomplete;
        if let (Some(result), Some(rows), true) = (&self.result, planned, is_all) {
            let Rejections { count, kept, .. } = &self.rejections;
            self.settled = result.base(mapping.fingerprint(), &rows, kept, *count);
        }
        Ok(())
    }

    /// Waits for an answer of the cluster, or for the run to be cancelled.
    fn ask<T>(&self, runtime: &Runtime, answer: impl Future<Output = Result<T, PushError>>) -> Result<T, Stop> {
        runtime.block_on(async {
            tokio::select! {
                why = self.shared.cancel.cancelled() => Err(Stop::Cancelled(why)),
                answer = answer => answer.map_err(Stop::failed),
            }
        })
    }

    fn id(&self) -> DeliveryId<'_> {
        DeliveryId { run: &self.shared.id, sync: &self.state.sync, destination: &self.state.name }
    }

    fn is_full(&self) -> bool {
        self.shared.kind == RunKind::Full
    }

    /// Compares what the cluster knows of this sync's runs with what is recorded here.
    fn check_destination(&mut self, runtime: &Runtime, cluster: Known) -> Result<(), Stop> {
        let recorded = self.state.row.generation;
        let knows_nothing = self.state.row.snapshot.is_none() && self.state.base.is_none();
        if knows_nothing || cluster.generation == recorded {
            return Ok(());
        }
        let since = recorded + 1..=cluster.generation;
        if cluster.generation > recorded && self.ask(runtime, self.client.were_idle(since))? {
            return Ok(());
        }
        let reason = if cluster.generation < recorded { ResendReason::DestinationNew } else { ResendReason::Overtaken };
        let database = &self.shared.state.database;
        database.distrust(&self.state.sync, &self.state.name, reason).map_err(Stop::failed)?;
        self.state.row.distrust = Some(reason);
        self.distrust = Some(reason);
        Ok(())
    }

    fn comparison(&self, absence: Absence) -> Comparison<'a> {
        Comparison { all: self.is_full(), absence, budget: self.shared.change_budget(), cancel: self.shared.cancel }
    }

    /// Says what was found, and asks the guards.
    fn decide(&mut self, prepared: Prepared, cluster: Known) -> Result<Diff, Stop> {
        let Prepared { diff, counts, keyless, absence, rejections } = prepared;
        self.counts = counts;
        self.rejections = rejections;
        if absence == Absence::Removed {
            self.remark(keyless, diff.known, cluster);
        }
        self.guard(self.findings(absence, diff.known, cluster)?, absence)?;
        let reason = self.resend.map(ResendReason::as_str);
        self.shared.state.database.planned(self.id(), self.counts, reason).map_err(Stop::failed)?;
        Ok(diff)
    }

    /// Says what this run cannot know of records that should go.
    fn remark(&mut self, keyless: u64, known: u64, cluster: Known) {
        if self.shared.spec.on_exit == ExitMode::Keep {
            return;
        }
        if keyless > 0 && self.counts.removed > 0 {
            self.notes.push(format!(
                "{keyless} rows have no usable key and were left out; records that they had before are among the {} \
                 that count as removed",
                self.counts.removed
            ));
        }
        if !self.is_full() && cluster.records > known {
            let state = if known == 0 { "is new".to_owned() } else { format!("knows only {known} records") };
            self.notes.push(format!(
                "this state {state} but the cluster holds {} records of this sync: `larder-loader run {} --full` \
                 removes those whose rows have left",
                cluster.records, self.state.sync
            ));
        }
    }

    /// What the guards are to judge.
    fn findings(&self, absence: Absence, known: u64, cluster: Known) -> Result<Findings, Stop> {
        let RowCounts { read, added, changed, removed, unchanged, .. } = self.counts;
        let judged = if self.resend.is_some() { 0 } else { changed };
        let mut findings = Findings { read, removed, changed: judged, known, missing: 0 };
        if self.is_full() && self.rejections.count == 0 {
            // The sweep takes everything that is not confirmed, also records that the state here does not know. After
            // a rejected row there is none.
            let swept = cluster.records.saturating_sub(added + changed + unchanged);
            if swept > removed {
                findings = Findings { removed: swept, known: cluster.records, ..findings };
            }
        }
        if self.shared.spec.on_exit == ExitMode::Keep {
            findings.removed = 0;
        }
        // What the warehouse has made into tables is counted there.
        if absence == Absence::Removed && findings.removed > 0 && self.result.is_none() {
            findings.missing = self.shared.counting.missing(read)?;
        }
        Ok(findings)
    }

    /// Stops the delivery if a guard objects, unless somebody has approved just that.
    fn guard(&mut self, findings: Findings, absence: Absence) -> Result<(), Stop> {
        let Shared { spec, options, state, .. } = *self.shared;
        let judging = Judging { accept_removals: options.accept_removals, all_rows: absence == Absence::Removed };
        let reasons = verdict(&spec.guard, findings, judging);
        if reasons.is_empty() {
            return Ok(());
        }
        let approved = state.database.hold(self.id()).map_err(Stop::failed)?.filter(|hold| hold.approved_at.is_some());
        let mut outgrown = String::new();
        if let Some(hold) = approved {
            if findings.is_within(&hold.found) {
                self.notes.push(format!("passed the guard by the approval of run {}", hold.run));
                return Ok(());
            }
            outgrown = format!("; run {} was approved, but this is more than it had found", hold.run);
        }
        // What the run would have removed, as the report of a blocked run says it.
        self.counts.removed = findings.removed;
        self.held = Some(findings);
        Err(Stop::Blocked(format!(
            "sync `{}` was stopped before it sent anything: {}{outgrown}; if that is right, `larder-loader approve {}` \
             lets the next run do as much",
            spec.name,
            reasons.join("; "),
            self.shared.id
        )))
    }

    fn opening(&self) -> OpenRun {
        let RowCounts { added, changed, removed, .. } = self.counts;
        let removed = if self.shared.spec.on_exit == ExitMode::Keep { 0 } else { removed };
        let kind = if self.is_full() { WireKind::Full } else { WireKind::Delta };
        OpenRun { kind, planned: Counts { added, changed, removed } }
    }

    fn begin_journal(&self, baseline: &Baseline, fingerprint: u128) -> Result<Journal, StateError> {
        let header = JournalHeader {
            run: self.shared.id.clone(),
            sync: self.state.sync.to_string(),
            collection: self.shared.spec.collection.to_string(),
            fingerprint,
            secret: self.shared.sync.secret.clone(),
            hashes: self.hashes,
            base: baseline.number,
            base_known: baseline.is_known(),
        };
        Ok(Journal::create(&self.state.journal_path(), &header)?)
    }

    fn push(
        &mut self,
        runtime: &Runtime,
        run: &str,
        mapping: &Mapping,
        diff: &Diff,
        journal: &Mutex<Journal>,
    ) -> Result<(), Stop> {
        let Shared { spec, gauge, cancel, kind, .. } = *self.shared;
        let _in_phase = tracing::info_span!("push").entered();
        gauge.enter(Phase::Pushing, Some(to_send(kind, spec.on_exit, self.counts)));
        let fields = mapping.declared().map(|(name, kind, nulls)| (name.clone(), kind, nulls)).collect();
        let press = Press::new(fields);
        let (full_batches, waiting) = mpsc::channel(WAITING);
        let producer = Producer {
            mapping,
            on_exit: spec.on_exit,
            full: self.is_full(),
            batch_rows: self.shared.tuning.batch_rows,
            press: &press,
            journal,
            batches: full_batches,
            rejections: Rejections::default(),
        };
        let mut refused = Rejections::default();
        let mut reject = |rejection| refused.add(rejection);
        let advance = |rows| gauge.advance(Phase::Pushing, rows);
        let log = self.shared.requests.of(&self.state.name);
        let sender = Sender {
            wire: &self.client,
            run,
            press: &press,
            journal,
            reject: &mut reject,
            advance: &advance,
            log: &Told { log: &log, shared: self.shared, destination: &self.state.name },
            limits: self.shared.limits,
            cancel,
        };
        let (produced, (sent, result)) = std::thread::scope(|scope| {
            let producing = scope.spawn(|| producer.produce(diff));
            let sent = runtime.block_on(sender.send_all(waiting));
            (producing.join(), sent)
        });
        self.sent = sent;
        self.rejections.append(refused);
        let produced = produced.map_err(|_| Stop::Failed("the thread that maps rows panicked".to_owned()));
        let (rejections, filled) = produced?;
        self.rejections.append(rejections);
        // If the sender stopped, the producer only noticed that nobody takes batches any more.
        result.and(filled).map_err(|error| Stop::of_sending(error, cancel.why()))
    }

    fn commit(&mut self, runtime: &Runtime, run: &str, journal: &Mutex<Journal>) -> Result<(), Stop> {
        let _in_phase = tracing::info_span!("commit").entered();
        self.shared.gauge.enter(Phase::Committing, None);
        locked(journal).sync().map_err(Stop::failed)?;
        if self.is_full() && self.rejections.count > 0 && self.shared.spec.on_exit != ExitMode::Keep {
            // A rejected row was not confirmed, so the sweep would take its record although the row is still there.
            self.ask(runtime, self.client.abort(run))?;
            self.incomplete = true;
            self.notes.push(format!(
                "{} rows were rejected, so the cluster was not asked to sweep what this run did not confirm; correct \
                 them and run --full again",
                self.rejections.count
            ));
            return Ok(());
        }
        let info = self.ask(runtime, self.client.commit(run))?;
        self.swept = info.swept;
        if self.is_full() {
            let mut journal = locked(journal);
            journal.swept().and_then(|()| journal.sync()).map_err(Stop::failed)?;
        }
        Ok(())
    }

    /// The rows for this destination: they are there, or are read from the warehouse now.
    fn take(&mut self, rows: Rows, baseline: &Baseline) -> Result<Taken, Stop> {
        let result = match rows {
            Rows::Taken(taken) => return Ok(taken),
            Rows::Planned(result) => result,
        };
        self.hashes = baseline.hashes();
        let Shared { spec, sync, gauge, cancel, .. } = *self.shared;
        let asked = Asked {
            spec,
            scope: &self.shared.options.scope,
            baseline,
            full: self.is_full(),
            state: &self.state,
            secret: &sync.secret,
            budget: self.shared.change_budget(),
            gauge,
            cancel,
        };
        let taken = result.read(&asked).map_err(|stop| cancel.why().map_or(stop, Stop::Cancelled))?;
        self.result = Some(result);
        Ok(taken)
    }

    /// Says that not all rows were read.
    fn remark_on_window(&mut self) {
        if let DiffSpec::Incremental(spec) = &self.shared.spec.diff {
            self.notes.push(format!(
                "only rows with a recent `{}` were read; rows that have left are found when all rows are read, every {}",
                spec.column,
                write_span(spec.full_every)
            ));
        }
    }

    /// Moves the cursor of an incremental sync, now that every row was answered and the state says so.
    fn move_cursor(&mut self) -> Result<(), StateError> {
        let Some(read) = self.cursor.take() else { return Ok(()) };
        let database = &self.shared.state.database;
        let before = database.cursor(&self.state.sync, &self.state.name)?;
        let marks = read.marks_of(&self.rejections.kept, self.rejections.count);
        match read.sight.next(before.as_ref(), marks) {
            Some(cursor) => database.set_cursor(&self.state.sync, &self.state.name, &cursor),
            None => Ok(()),
        }
    }

    /// Makes the new state and ends the delivery's row, however the delivery went.
    fn finish(mut self, result: Result<(), Stop>) -> Delivered {
        let mut problems = Vec::new();
        let (mut outcome, mut message) = match result {
            Ok(()) if self.rejections.count > 0 || self.incomplete => (Outcome::Partial, None),
            Ok(()) => (Outcome::Succeeded, None),
            Err(Stop::Blocked(message)) => (Outcome::Blocked, Some(message)),
            Err(Stop::Cancelled(Why::TimeLimit)) => (Outcome::Failed, Some(describe(Why::TimeLimit).to_owned())),
            Err(Stop::Cancelled(why)) => (Outcome::Cancelled, Some(describe(why).to_owned())),
            Err(Stop::Failed(message)) => (Outcome::Failed, Some(message)),
            Err(Stop::Config(found)) => {
                problems = found;
                (Outcome::Failed, Some(problems.join("\n")))
            }
        };
        self.counts.rejected = self.rejections.count;
        let veil = self.shared.veil;
        for rejection in &mut self.rejections.kept {
            rejection.key = rejection.key.as_ref().map(|key| veil.key(key).into_owned());
        }
        if let Err(error) = self.close(outcome, message.as_deref()) {
            // The delivery stays open in the database, and the next run will work its journal into the state.
            let said = message.map_or_else(
                || "everything was sent, but the new state could not be written".to_owned(),
                |message| format!("{message}; then the state could not be written"),
            );
            (outcome, message) = (Outcome::Failed, Some(format!("{said}: {error}")));
        }
        Delivered { report: self.report(outcome, message), problems }
    }

    fn close(&mut self, outcome: Outcome, error: Option<&str>) -> Result<(), StateError> {
        let mut snapshot = self.state.row.snapshot;
        let mut base = NextBase::Same;
        if let Some(settled) = &self.settled {
            (snapshot, base) = (None, NextBase::Some(settled));
        } else if self.has_journal {
            let merged = self.state.merge(&self.shared.id)?;
            snapshot = merged.snapshot;
            if merged.whole {
                base = NextBase::None;
            }
        }
        let now = text(Timestamp::now());
        let closing = Closing {
            state: outcome.as_str(),
            reason: self.resend.map(ResendReason::as_str),
            error,
            tally: Tally {
                rows: self.counts,
                sent: self.sent.rows,
                acknowledged: self.sent.acknowledged,
                swept: self.swept,
                batches: self.sent.batches,
                bytes: self.sent.bytes,
            },
            rejections: &self.rejections.kept,
            snapshot,
            distrust: self.distrust,
            held: self.held.map(|found| (found, now.as_str())),
            base,
        };
        self.shared.state.database.close(self.id(), &closing)?;
        self.state.row.snapshot = snapshot;
        self.move_cursor()?;
        self.state.sweep_files()
    }

    fn report(self, outcome: Outcome, error: Option<String>) -> DeliveryReport {
        let mut notes = self.notes;
        notes.extend(self.rejections.replaced.0.iter().map(|(field, count)| {
            format!("field `{field}`: {count} values could not be made and were replaced, as its on_error says")
        }));
        let mut rejections = self.rejections.kept;
        rejections.truncate(REPORTED);
        DeliveryReport {
            destination: self.state.name,
            outcome,
            resend: self.resend,
            rows: self.counts,
            sent: self.sent.rows,
            acknowledged: self.sent.acknowledged,
            swept: self.swept,
            batches: self.sent.batches,
            bytes: self.sent.bytes,
            error,
            notes,
            replaced: self.rejections.replaced.0,
            rejections,
        }
    }
}
