//! A run: its begin, the one reading of its rows, its deliveries side by side, and its end.
//!
//! 1. The sync is held, and the run's row is begun, with one for each destination. A run found begun and not ended was
//!    cut off; the journals of its deliveries are worked into the state.
//! 2. Each destination has a thread (module `delivery`), which looks at its cluster and waits for the rows.
//! 3. The rows are read once, as soon as one destination is there (modules `supply` and `reading`).
//! 4. Deliveries end one by one, each with its own state. When the last has, the run's row is ended: as the worst of
//!    them.

use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use jiff::Timestamp;
use larder_types::time::write_timestamp;

use super::counting::Counting;
use super::delivery::{Delivered, Delivery, REPORTED};
use super::gauge::Gauge;
use super::opening::{Known, Opened, Request};
use super::planned::{Planned, sweep_left};
use super::prepare::Tuning;
use super::reading::take_in;
use super::report::{DeliveryReport, Outcome, ResendReason, RowCounts, RunKind, RunReport};
use super::stop::Stop;
use super::supply::{Rows, Supplied, Supply};
use super::watch::Watch;
use super::{Phase, Progress, RunError, RunOptions, note_of_interrupted, take_up};
use crate::cancel::Cancel;
use crate::diff::Intake;
use crate::diff::snapshot::Snapshot;
use crate::diff::spill::Parts;
use crate::inspect::redact::Veil;
use crate::observe::{Observer, RunEnded, RunStarted};
use crate::project::{DestinationName, DiffSpec, Project, SyncSpec};
use crate::push::client::Client;
use crate::push::sender::SendLimits;
use crate::state::requests::RequestBook;
use crate::state::runs::{Beginning, DeliveryId, Ending};
use crate::state::{DestinationState, Interrupted, State, SyncState};

/// Everything that a run has before it begins.
pub(super) struct Setup<'a> {
    pub(super) project: &'a Project,
    pub(super) spec: &'a SyncSpec,
    pub(super) options: &'a RunOptions,
    pub(super) progress: &'a dyn Progress,
    pub(super) observer: &'a dyn Observer,
    pub(super) tuning: Tuning,
    /// One for each destination, in the order of the sync's file.
    pub(super) clients: Vec<(DestinationName, Client)>,
    /// When the run was asked for.
    pub(super) began: Instant,
    pub(super) at: Timestamp,
}

/// What the deliveries of a run have in common.
pub(super) struct Shared<'a> {
    pub(super) project: &'a Project,
    pub(super) spec: &'a SyncSpec,
    pub(super) options: &'a RunOptions,
    pub(super) tuning: Tuning,
    pub(super) state: &'a State,
    pub(super) sync: &'a SyncState,
    pub(super) id: String,
    pub(super) kind: RunKind,
    pub(super) cancel: &'a Cancel,
    pub(super) gauge: &'a Gauge<'a>,
    pub(super) requests: &'a RequestBook,
    pub(super) limits: SendLimits,
    pub(super) veil: Veil<'a>,
    pub(super) observer: &'a dyn Observer,
    pub(super) counting: Counting<'a>,
}

impl Shared<'_> {
    /// Bytes of changes that one delivery may hold in memory: all together hold as much as one would.
    pub(super) fn change_budget(&self) -> usize {
        self.tuning.spill_bytes / self.spec.destinations.len().max(1)
    }
}

impl Setup<'_> {
    pub(super) fn kind(&self) -> RunKind {
        if self.options.full { RunKind::Full } else { RunKind::Delta }
    }

    fn started<'a>(&'a self, id: &'a str) -> RunStarted<'a> {
        RunStarted {
            project: self.project,
            spec: self.spec,
            run: id,
            kind: self.kind(),
            trigger: self.options.trigger,
            at: self.at,
        }
    }

    /// The id that a scheduler has chosen, or a new one.
    fn id(&self) -> String {
        self.options.order.clone().unwrap_or_else(|| new_id(self.at))
    }

    fn beginning<'a>(&'a self, id: &'a str, at: &'a str) -> Beginning<'a> {
        Beginning { id, sync: &self.spec.name, kind: self.kind(), trigger: self.options.trigger, at }
    }
}

/// Carries out a run whose sync is held.
pub(super) fn execute(setup: &Setup<'_>, state: &State, sync: &SyncState) -> Result<RunReport, RunError> {
    let (id, began) = (setup.id(), text(setup.at));
    let destinations: Vec<DestinationName> = setup.clients.iter().map(|(name, _)| name.clone()).collect();
    // Before the run begins, because it is the newest delivery under way that is taken up.
    let full = setup.kind() == RunKind::Full;
    let taken_up: Vec<TakenUp> = destinations.iter().map(|name| take_up(state, sync, name, full)).collect();
    let salt = state.database.key_salt().map_err(super::failed)?;
    state.database.begin(setup.beginning(&id, &began), &destinations).map_err(super::failed)?;
    setup.progress.started(&id);
    setup.observer.started(&setup.started(&id));

    // Whatever level is logged, its lines say to which run they belong.
    let _in_run = tracing::error_span!("run", sync = %setup.spec.name, run = %id).entered();
    let cancel = setup.options.cancel.child();
    // Whoever has taken the sync over goes on from what this run has recorded.
    let _overtaken = sync.when_lost({
        let cancel = cancel.clone();
        move |why| cancel.cancel(why)
    });
    let gauge = Gauge::new(setup.progress);
    let Setup { project, spec, options, tuning, .. } = *setup;
    let requests = RequestBook::begin(&state.database, &id, salt);
    let shared = Shared {
        project: setup.project,
        spec,
        options,
        tuning,
        state,
        sync,
        id: id.clone(),
        kind: setup.kind(),
        cancel: &cancel,
        gauge: &gauge,
        requests: &requests,
        limits: SendLimits { in_flight: project.push.max_in_flight, retry: tuning.retry },
        veil: Veil { redaction: &project.redaction, salt },
        observer: setup.observer,
        counting: Counting::new(setup.project, spec, &cancel),
    };
    let delivered = carry_out(setup, &shared, taken_up);

    let result = end(setup, &shared, delivered);
    drop(requests);
    if let Err(error) = state.database.forget(&project.retention, Timestamp::now()) {
        tracing::warn!(%error, "what is older than the project wants to keep could not be forgotten");
    }
    setup.observer.ended(&RunEnded { started: setup.started(&id), at: Timestamp::now(), result: result.as_ref() });
    result
}

/// Enters a run that failed before it could begin into the history. One that another run kept out is no run.
pub(super) fn not_begun(setup: &Setup<'_>, state: &State, error: RunError) -> RunError {
    let RunError::Failed { message, report } = error else { return error };
    let (id, began) = (setup.id(), text(setup.at));
    let message = match state.database.failed_to_begin(setup.beginning(&id, &began), &message) {
        Ok(()) => message,
        Err(error) => format!("{message}; then the state could not be written: {error}"),
    };
    let error = RunError::Failed { message, report };
    setup.observer.ended(&RunEnded { started: setup.started(&id), at: Timestamp::now(), result: Err(&error) });
    error
}

/// The state of a destination, or why there is none.
type TakenUp = Result<(DestinationState, Option<Interrupted>), RunError>;

/// Reads, and delivers to all destinations.
fn carry_out(setup: &Setup<'_>, shared: &Shared<'_>, taken_up: Vec<TakenUp>) -> Vec<Delivered> {
    let known_rows = |(state, _): &(DestinationState, Option<Interrupted>)| {
        let base = state.base.as_ref().map_or(0, |base| base.keys);
        state.snapshot().ok().flatten().as_ref().map_or(base, Snapshot::rows).max(base)
    };
    let known = taken_up.iter().flatten().map(known_rows).max().unwrap_or_default();
    let scopes = taken_up
        .iter()
        .flatten()
        .map(|(state, _)| Known::load(shared.state, shared.sync, shared.spec, state))
        .collect();
    let supply = Supply::new(taken_up.iter().flatten().count());
    let watch = Watch::default();
    let deadline = setup.options.timeout.or(setup.spec.timeout).map(|limit| setup.began + limit);
    let mut result = None;
    let delivered = std::thread::scope(|scope| {
        let _ends_the_watch = watch.until_dropped();
        scope.spawn(|| watch.watch(shared.state, &shared.id, deadline, shared.cancel));
        let mut under_way = Vec::new();
        for ((name, client), taken_up) in setup.clients.iter().zip(taken_up) {
            under_way.push(taken_up.map(|(state, interrupted)| {
                let notes = interrupted.iter().map(note_of_interrupted).collect();
                let delivery = Delivery::new(shared, client.clone(), state, notes);
                let greeting = supply.greeting();
                let span = tracing::error_span!("delivery", destination = %name);
                (name, scope.spawn(move || span.in_scope(|| delivery.deliver(greeting))))
            }));
        }
        if let Some(reader) = supply.reader() {
            let all = shared.kind == RunKind::Full || reader.needs_all();
            let Setup { project, spec, at: now, .. } = *setup;
            let request = Request {
                project,
                spec,
                destinations: scopes,
                all,
                partial: !shared.options.scope.is_all(),
                now,
                dir: shared.sync.folder(),
                cancel: shared.cancel,
            };
            let rows = read(shared, &request, known);
            if let Ok(Supplied { rows: Rows::Planned(made), .. }) = &rows {
                result = Some(Arc::clone(made));
            }
            reader.supply(rows);
        }
        let land = |((name, _), delivery): (&(DestinationName, Client), Result<_, RunError>)| match delivery {
            Ok(delivery) => land(delivery),
            Err(error) => not_taken_up(shared, name, error.to_string()),
        };
        setup.clients.iter().zip(under_way).map(land).collect()
    });
    sweep(shared, result.as_deref());
    delivered
}

/// Drops what nobody needs of the tables in the warehouse. What cannot be dropped now is dropped by the next run.
fn sweep(shared: &Shared<'_>, result: Option<&Planned>) {
    let Shared { project, spec, state, sync, .. } = *shared;
    let swept = match result {
        Some(result) => result.sweep(state, sync),
        None => sweep_left(project, spec, state, sync),
    };
    if let Err(Stop::Failed(reason)) = swept {
        tracing::warn!(sync = %shared.sync.name, %reason, "tables that are no longer needed stay in the warehouse until the next run");
    }
}

fn land((name, delivery): (&DestinationName, ScopedJoinHandle<'_, Delivered>)) -> Delivered {
    let died = || Delivered::failed(name.clone(), "the thread of this destination panicked".to_owned());
    delivery.join().unwrap_or_else(|_| died())
}

/// A destination whose state cannot be read: its delivery is over before it has begun.
fn not_taken_up(shared: &Shared<'_>, name: &DestinationName, message: String) -> Delivered {
    let delivery = DeliveryId { run: &shared.id, sync: &shared.sync.name, destination: name };
    let message = match shared.state.database.give_up(delivery, &message) {
        Ok(()) => message,
        Err(error) => format!("{message}; then the state could not be written: {error}"),
    };
    Delivered::failed(name.clone(), message)
}

/// Reads the rows that are compared with `known` rows at most.
fn read(shared: &Shared<'_>, request: &Request<'_>, known: u64) -> Result<Supplied, Stop> {
    let _in_phase = tracing::info_span!("read").entered();
    shared.gauge.enter(Phase::Reading, None);
    let stopped = |stop| shared.cancel.why().map_or(stop, Stop::Cancelled);
    if let DiffSpec::Warehouse { planner_schema } = &request.spec.diff {
        let made = Planned::make(request, planner_schema, shared.state, shared.sync);
        let (planned, mapping) = made.map_err(stopped)?;
        return Ok(Supplied { mapping: Arc::new(mapping), rows: Rows::Planned(Arc::new(planned)) });
    }
    let Opened { rows, mapping, extent } = request.open().map_err(stopped)?;
    let secret = shared.sync.secret.clone();
    let intake = Intake::new(shared.sync.folder(), Parts::for_rows(known), secret, shared.tuning.spill_bytes);
    let scope = &shared.options.scope;
    let taken = take_in(&mapping, (rows, extent), intake, shared.gauge, shared.cancel, scope)?;
    Ok(Supplied { mapping: Arc::new(mapping), rows: Rows::Taken(taken) })
}

/// Ends the run's row and says how it went.
fn end(setup: &Setup<'_>, shared: &Shared<'_>, delivered: Vec<Delivered>) -> Result<RunReport, RunError> {
    let problems = delivered.iter().find(|delivered| !delivered.problems.is_empty());
    let problems = problems.map(|delivered| delivered.problems.clone()).unwrap_or_default();
    let report = report(setup, shared, delivered.into_iter().map(|delivered| delivered.report).collect());
    let message = describe_failures(&report.deliveries);
    let at = text(Timestamp::now());
    let ending = Ending {
        state: report.outcome.as_str(),
        reason: report.resend.map(ResendReason::as_str),
        error: message.as_deref(),
        read: report.rows.read,
        at: &at,
    };
    if let Err(error) = shared.state.database.end(&shared.id, ending) {
        let message = message.unwrap_or_else(|| "everything was sent".to_owned());
        let message = format!("{message}; then the state could not be written: {error}");
        return Err(RunError::Failed { message, report: Some(Box::new(report)) });
    }
    let report = Box::new(report);
    match (report.outcome, message) {
        (Outcome::Succeeded | Outcome::Partial, _) | (_, None) => Ok(*report),
        (Outcome::Blocked, Some(message)) => Err(RunError::Blocked { message, report }),
        (Outcome::Cancelled, Some(message)) => Err(RunError::Cancelled { message, report }),
        (Outcome::Failed, Some(_)) if !problems.is_empty() => Err(RunError::Config(problems)),
        (Outcome::Failed, Some(message)) => Err(RunError::Failed { message, report: Some(report) }),
    }
}

/// What went wrong, each with the name of its destination if there are several.
fn describe_failures(deliveries: &[DeliveryReport]) -> Option<String> {
    let named = |delivery: &DeliveryReport| {
        let error = delivery.error.clone()?;
        Some(if deliveries.len() == 1 { error } else { format!("{}: {error}", delivery.destination) })
    };
    let failures: Vec<String> = deliveries.iter().filter_map(named).collect();
    (!failures.is_empty()).then(|| failures.join("\n"))
}

fn report(setup: &Setup<'_>, shared: &Shared<'_>, deliveries: Vec<DeliveryReport>) -> RunReport {
    let mut rows = RowCounts::default();
    deliveries.iter().for_each(|delivery| rows.add(&delivery.rows));
    rows.read = deliveries.iter().map(|delivery| delivery.rows.read).max().unwrap_or_default();
    let sum = |count: fn(&DeliveryReport) -> u64| deliveries.iter().map(count).sum();
    let note = |delivery: &DeliveryReport, note: &String| match deliveries.len() {
        1 => note.clone(),
        _ => format!("{}: {note}", delivery.destination),
    };
    let notes = deliveries.iter().flat_map(|delivery| delivery.notes.iter().map(move |text| note(delivery, text)));
    let rejections = deliveries.iter().flat_map(|delivery| delivery.rejections.iter().cloned());
    RunReport {
        id: shared.id.clone(),
        sync: setup.spec.name.clone(),
        collection: setup.spec.collection.clone(),
        kind: shared.kind,
        trigger: setup.options.trigger,
        resend: deliveries.iter().find_map(|delivery| delivery.resend),
        outcome: deliveries.iter().map(|delivery| delivery.outcome).max().unwrap_or(Outcome::Succeeded),
        rows,
        sent: sum(|delivery| delivery.sent),
        acknowledged: sum(|delivery| delivery.acknowledged),
        swept: sum(|delivery| delivery.swept),
        batches: sum(|delivery| delivery.batches),
        bytes: sum(|delivery| delivery.bytes),
        seconds: setup.began.elapsed().as_secs_f64(),
        notes: notes.collect(),
        rejections: rejections.take(REPORTED).collect(),
        deliveries,
    }
}

/// A time as the database keeps it.
pub(crate) fn text(at: Timestamp) -> String {
    let mut text = String::new();
    write_timestamp(at.as_microsecond(), &mut text);
    text
}

/// An id that sorts by time and that people can tell apart.
pub(crate) fn new_id(at: Timestamp) -> String {
    let digits: String = text(at).chars().take(19).filter(char::is_ascii_digit).collect();
    format!("{digits}-{:08x}", crate::push::retry::random())
}
