//! The sender: keeps batches in flight until each has its outcome, and writes outcomes to the journal.
//!
//! All of it happens on one task. A batch is in flight, waiting for its next attempt, or parked as a
//! [suspect](super::suspects); together they are never more than the window's bound, which is what bounds memory. How many
//! fly is for the [window](super::window) to say, and when to try again for the [patience](super::retry). What was not
//! answered is repeated byte for byte under its number, which the cluster applies once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use larder_types::api::{BatchAnswer, RejectedRow};
use larder_types::error::ErrorCode;
use larder_types::patch::Op;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::batch::{Batch, BatchError, Patch, Press};
use super::client::{PushError, TAKE_BATCH};
use super::flight::Flight;
use super::log::{Attempt, RequestLog};
use super::retry::{Patience, RetryPolicy, random};
use super::suspects::{MAX_ISOLATED, Suspect, Suspects};
use super::window::{Ticket, Window};
use super::wire::{Failure, Fault, FaultKind, Posted, Wire};
use crate::cancel::Cancel;
use crate::diff::join::{Change, DiffError};
use crate::run::Rejection;
use crate::state::journal::{Journal, JournalError};

/// Attempts after which a batch that fails where others may not is a suspect.
const DUBIOUS_ATTEMPTS: u32 = 4;
/// How often rows that are rejected for a reason that passes are sent again.
const MAX_DEFERRALS: u32 = 5;

/// How long batches in flight may take to arrive once the run is cancelled.
const LANDING: Duration = Duration::from_millis(500);

/// What was sent and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sent {
    /// Rows in batches that went out; a row that was sent twice counts once.
    pub(crate) rows: u64,
    /// Rows that the cluster has stored.
    pub(crate) acknowledged: u64,
    /// Of those, removals.
    pub(crate) removed: u64,
    /// Rows that the cluster has refused.
    pub(crate) rejected: u64,
    /// Batches acknowledged.
    pub(crate) batches: u64,
    /// Bytes of their bodies.
    pub(crate) bytes: u64,
}

/// Why sending stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// See [`PushError`].
    #[error(transparent)]
    Push(#[from] PushError),
    /// See [`JournalError`].
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// See [`BatchError`].
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A change does not read back.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// Row after row cannot be taken.
    #[error(
        "the cluster does not take more than {MAX_ISOLATED} rows one by one, which is no accident; the last was answered: \
         {0}"
    )]
    TooManyIsolated(String),
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A sending task died.
    #[error("a task that sends batches died: {0}")]
    Task(String),
}

/// How much is sent at a time, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SendLimits {
    /// Most batches in memory beside those that wait to be taken.
    pub(crate) in_flight: usize,
    pub(crate) retry: RetryPolicy,
}

/// What a sender works with.
pub(crate) struct Sender<'a, W> {
    pub(crate) wire: &'a W,
    /// The cluster's id of the run.
    pub(crate) run: &'a str,
    pub(crate) press: &'a Press,
    pub(crate) journal: &'a Mutex<Journal>,
    /// Told of every row that the cluster refused.
    pub(crate) reject: &'a mut (dyn FnMut(Rejection) + Send),
    /// Told of rows that have their outcome.
    pub(crate) advance: &'a (dyn Fn(u64) + Sync),
    pub(crate) log: &'a dyn RequestLog,
    pub(crate) limits: SendLimits,
    pub(crate) cancel: &'a Cancel,
}

/// The journal, also if another thread died while holding it: it is one append at a time, so it is whole.
pub(crate) fn locked(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<W: Wire> Sender<'_, W> {
    /// Sends all batches that come, which the journal must hold already, and returns what was sent, with the error
    /// that stopped it, if one did. Batches in flight at that moment stay in doubt.
    pub(crate) async fn send_all(self, batches: Receiver<Batch>) -> (Sent, Result<(), SendError>) {
        let mut sending = Sending {
            window: Window::new(self.limits.in_flight),
            patience: Patience::new(self.limits.retry),
            suspects: Suspects::default(),
            flights: JoinSet::new(),
            waiting: BTreeMap::new(),
            sent: Sent::default(),
            with: self,
        };
        let cancel = sending.with.cancel;
        let result = tokio::select! {
            result = sending.run(batches) => result,
            _ = cancel.cancelled() => Err(SendError::Cancelled),
        };
        if let Err(SendError::Cancelled) = result {
            drop(tokio::time::timeout(LANDING, sending.touch_down()).await);
        }
        sending.flights.shutdown().await;
        (sending.sent, result)
    }
}

/// A batch that has come back.
struct Landed {
    flight: Flight,
    ticket: Ticket,
    at: Timestamp,
    latency: Duration,
    posted: Posted,
}

struct Sending<'a, W> {
    with: Sender<'a, W>,
    window: Window,
    patience: Patience,
    suspects: Suspects,
    flights: JoinSet<Landed>,
    /// By when they are due, and number.
    waiting: BTreeMap<(Instant, u32), Flight>,
    sent: Sent,
}

impl<W: Wire> Sending<'_, W> {
    async fn run(&mut self, mut batches: Receiver<Batch>) -> Result<(), SendError> {
        let mut more = true;
        loop {
            self.launch_due();
            let limit = self.window.limit();
            let has_room = more && self.flights.len() + self.waiting.len() + self.suspects.parked() < limit;
            let is_quiet = self.flights.is_empty() && self.waiting.is_empty() && !has_room;
            if let Some(suspect) = self.suspects.next(!is_quiet) {
                self.examine(suspect).await?;
                continue;
            }
            if is_quiet {
                return Ok(());
            }
            let due = self.waiting.keys().next().map(|(due, _)| *due).filter(|_| self.flights.len() < limit);
            tokio::select! {
                Some(landed) = self.flights.join_next(), if !self.flights.is_empty() => {
                    self.land(landed.map_err(|error| SendError::Task(error.to_string()))?)?;
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                batch = batches.recv(), if has_room => match batch {
                    Some(batch) => {
                        self.sent.rows += batch.patches.len() as u64;
                        self.launch(Flight::new(batch, self.suspects.taken()));
                    }
                    None => more = false,
                },
            }
        }
    }

    /// Waits for what is in flight, because every answer that is heard spares rows from being sent again.
    async fn touch_down(&mut self) {
        while let Some(landed) = self.flights.join_next().await {
            let Ok(landed) = landed else { continue };
            self.note(&landed);
            let Landed { flight, posted, .. } = landed;
            // What it says is not to be relied on, or cannot be written down: it stays in doubt.
            if posted.result.is_ok_and(|answer| self.acknowledge(flight, &answer).is_err()) {
                return;
            }
        }
    }

    fn launch_due(&mut self) {
        while self.flights.len() < self.window.limit()
            && let Some(next) = self.waiting.first_entry()
            && next.key().0 <= Instant::now()
        {
            let flight = next.remove();
            self.launch(flight);
        }
    }

    fn launch(&mut self, flight: Flight) {
        let (wire, run, ticket) =
            (self.with.wire.clone(), self.with.run.to_owned(), self.window.launch(self.flights.len() + 1));
        self.flights.spawn(async move {
            let (at, began) = (Timestamp::now(), Instant::now());
            let Batch { seq, body, .. } = &flight.batch;
            let posted = wire.post(&run, *seq, body.clone(), flight.failed > 0).await;
            Landed { flight, ticket, at, latency: began.elapsed(), posted }
        });
    }

    fn land(&mut self, landed: Landed) -> Result<(), SendError> {
        self.note(&landed);
        let Landed { flight, ticket, latency, posted, .. } = landed;
        match posted.result {
            Ok(answer) => {
                self.window.taken(ticket, latency, flight.batch.body.len());
                self.patience.restore();
                self.suspects.count_taken();
                self.acknowledge(flight, &answer)
            }
            Err(Failure::Fault(fault)) => self.fail(flight, ticket, fault),
            Err(Failure::Never(error)) => {
                if matches!(error, PushError::Refused { .. }) {
                    self.refused(&flight)?;
                }
                Err(error.into())
            }
        }
    }

    fn note(&self, landed: &Landed) {
        let Landed { flight, at, latency, posted, .. } = landed;
        let error = match &posted.result {
            Ok(_) => None,
            Err(Failure::Fault(fault)) => Some(fault.message.clone()),
            Err(Failure::Never(error)) => Some(error.to_string()),
        };
        let code = match &posted.result {
            Err(Failure::Fault(Fault { code, .. }) | Failure::Never(PushError::Refused { code, .. })) => code.as_str(),
            _ => "",
        };
        let attempt = Attempt {
            batch: &flight.batch,
            number: flight.failed + 1,
            at: *at,
            latency: *latency,
            status: posted.status,
            code: Some(code).filter(|code| !code.is_empty()),
            error: error.as_deref(),
            rejected: posted.result.as_ref().map_or(0, |answer| answer.rejected.len() as u64),
            in_flight: self.flights.len() as u64,
        };
        tracing::debug!(
            batch = attempt.batch.seq,
            attempt = attempt.number,
            sent_at = %attempt.at,
            latency_ms = attempt.latency.as_millis(),
            status = attempt.status,
            code = attempt.code,
            error = attempt.error,
            rejected = attempt.rejected,
            in_flight = self.flights.len(),
            window = self.window.limit(),
            "a batch has come back"
        );
        self.with.log.note(&attempt);
    }

    fn acknowledge(&mut self, flight: Flight, answer: &BatchAnswer) -> Result<(), SendError> {
        let nonsense = |reason: String| PushError::Answer { what: TAKE_BATCH, reason };
        let rejected = flight.rejected(answer).map_err(nonsense)?;
        let Flight { batch, deferrals, .. } = flight;
        locked(self.with.journal).answered(batch.seq, &rejected)?;
        let may_defer = deferrals < MAX_DEFERRALS;
        let rows: BTreeMap<u64, &RejectedRow> = answer.rejected.iter().rev().map(|row| (row.row, row)).collect();
        let mut deferred = Vec::new();
        let (mut removed, mut refused) = (0, 0);
        for (place, patch) in (0..).zip(&batch.patches) {
            match rows.get(&place) {
                None => removed += u64::from(patch.change == Change::Removed),
                Some(row) if may_defer && passes(&row.code) => deferred.push(patch.clone()),
                Some(row) => {
                    refused += 1;
                    self.reject(patch, row.field.clone(), row.code.clone(), row.message.clone());
                }
            }
        }
        self.sent.removed += removed;
        self.sent.acknowledged += (batch.patches.len() - rejected.len()) as u64;
        self.sent.rejected += refused;
        self.sent.batches += 1;
        self.sent.bytes += batch.body.len() as u64;
        (self.with.advance)((batch.patches.len() - deferred.len()) as u64);
        if deferred.is_empty() { Ok(()) } else { self.defer(batch.op, deferred, deferrals) }
    }

    /// Sends rows again, later, that were rejected for a reason that passes.
    fn defer(&mut self, op: Op, patches: Vec<Patch>, deferrals: u32) -> Result<(), SendError> {
        let delay = self.with.limits.retry.jittered(deferrals, random());
        let batch = self.intend(op, patches)?;
        let flight = Flight { deferrals: deferrals + 1, ..Flight::new(batch, self.suspects.taken()) };
        self.wait(flight, delay);
        Ok(())
    }

    fn wait(&mut self, flight: Flight, delay: Duration) {
        self.waiting.insert((Instant::now() + delay, flight.batch.seq), flight);
    }

    fn reject(&mut self, patch: &Patch, field: Option<String>, code: String, message: String) {
        let row = Some(patch.number).filter(|number| *number > 0);
        (self.with.reject)(Rejection { key: Some(patch.key.clone()), row, field, code, message });
    }

    fn fail(&mut self, mut flight: Flight, ticket: Ticket, fault: Fault) -> Result<(), SendError> {
        flight.failed += 1;
        flight.in_doubt |= fault.in_doubt;
        match fault.kind {
            FaultKind::TooLarge if flight.batch.patches.len() > 1 => return self.halve(flight),
            FaultKind::TooLarge => {
                let message = format!("the row alone is larger than the cluster takes: {}", fault.message);
                return self.give_up_row(&flight, "payload_too_large".to_owned(), message);
            }
            FaultKind::Refused => {
                self.suspects.park(Suspect { flight, fault });
                return Ok(());
            }
            FaultKind::Dubious => {
                flight.dubious += 1;
                self.window.push_back(ticket);
                if flight.dubious >= DUBIOUS_ATTEMPTS {
                    self.suspects.park(Suspect { flight, fault });
                    return Ok(());
                }
            }
            FaultKind::Busy | FaultKind::Away => self.window.push_back(ticket),
        }
        self.repeat(flight, &fault)
    }

    /// Repeats a batch after a while, unless patience is at its end.
    fn repeat(&mut self, flight: Flight, fault: &Fault) -> Result<(), SendError> {
        let Some(delay) = self.patience.delay(flight.failed - 1, fault.asked, random()) else {
            let seconds = self.patience.strained().as_secs();
            return Err(PushError::GaveUp { what: TAKE_BATCH, seconds, last: fault.why() }.into());
        };
        tracing::warn!(
            batch = flight.batch.seq,
            failed = flight.failed,
            why = fault.why(),
            delay_ms = delay.as_millis(),
            "the cluster did not take a batch; trying again"
        );
        self.wait(flight, delay);
        Ok(())
    }

    /// Decides what becomes of a suspect: see [`super::suspects`].
    async fn examine(&mut self, suspect: Suspect) -> Result<(), SendError> {
        let has_evidence = self.suspects.has_evidence(&suspect);
        let Suspect { mut flight, fault } = suspect;
        // Who refuses is well.
        let is_refused = fault.kind == FaultKind::Refused;
        if !is_refused && let Err(failure) = self.with.wire.probe().await {
            return match failure {
                Failure::Never(error) => Err(error.into()),
                Failure::Fault(fault) => {
                    flight.dubious = 0;
                    self.repeat(flight, &fault)
                }
            };
        }
        if flight.batch.patches.len() > 1 {
            return self.halve(flight);
        }
        match (has_evidence, is_refused) {
            (false, true) => {
                self.refused(&flight)?;
                Err(fault.refusal(TAKE_BATCH).into())
            }
            (true, true) => {
                let message = format!("the cluster refused the row, sent alone: {}", fault.message);
                self.isolate(&flight, fault, message)
            }
            (true, false) if flight.retried => {
                let message = format!(
                    "the cluster failed at this row each of {} times, and took others meanwhile: {}",
                    flight.failed, fault.message
                );
                self.isolate(&flight, fault, message)
            }
            (_, false) => {
                flight.retried = has_evidence;
                flight.dubious = DUBIOUS_ATTEMPTS - 1;
                self.repeat(flight, &fault)
            }
        }
    }

    fn isolate(&mut self, flight: &Flight, fault: Fault, message: String) -> Result<(), SendError> {
        if !self.suspects.isolate() {
            return Err(SendError::TooManyIsolated(fault.why()));
        }
        let code = if fault.code.is_empty() { "not_taken".to_owned() } else { fault.code };
        self.give_up_row(flight, code, message)
    }

    /// The only row of a batch is rejected.
    fn give_up_row(&mut self, flight: &Flight, code: String, message: String) -> Result<(), SendError> {
        self.refused(flight)?;
        for patch in &flight.batch.patches {
            self.reject(patch, None, code.clone(), message.clone());
            self.sent.rejected += 1;
            (self.with.advance)(1);
        }
        Ok(())
    }

    /// Writes down that nothing of a batch was applied, if that is known.
    fn refused(&self, flight: &Flight) -> Result<(), JournalError> {
        if flight.in_doubt { Ok(()) } else { locked(self.with.journal).refused(flight.batch.seq) }
    }

    /// The halves of a batch go out in its place, under numbers of their own. Rows of it that were applied are applied
    /// again, which changes nothing.
    fn halve(&mut self, flight: Flight) -> Result<(), SendError> {
        self.refused(&flight)?;
        let Batch { op, mut patches, .. } = flight.batch;
        let rest = patches.split_off(patches.len() / 2);
        for half in [patches, rest] {
            let batch = self.intend(op, half)?;
            let half = Flight { deferrals: flight.deferrals, ..Flight::new(batch, self.suspects.taken()) };
            self.wait(half, Duration::ZERO);
        }
        Ok(())
    }

    fn intend(&self, op: Op, patches: Vec<Patch>) -> Result<Batch, SendError> {
        let batch = self.with.press.batch(op, patches)?;
        locked(self.with.journal).intend(batch.seq, batch.intents())?;
        Ok(batch)
    }
}

/// Whether a row that was rejected with this code may be taken later as it is.
fn passes(code: &str) -> bool {
    ErrorCode::parse(code).is_some_and(ErrorCode::is_transient)
}
