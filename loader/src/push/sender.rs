//! The sender: keeps a few batches in flight until each has its outcome, and writes outcomes to the journal.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use larder_types::api::BatchAnswer;
use larder_types::patch::Op;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::batch::{Batch, BatchError, Patch, Press};
use super::client::{Client, PushError};
use crate::diff::join::{Change, DiffError};
use crate::run::Rejection;
use crate::state::journal::{Journal, JournalError};

/// Batches in flight. Two keep the cluster busy while answers travel; more than a few only wait there.
pub(crate) const IN_FLIGHT: usize = 4;

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
    /// A sending task died.
    #[error("a task that sends batches died: {0}")]
    Task(String),
}

/// What a sender works with.
pub(crate) struct Sender<'a> {
    pub(crate) client: &'a Client,
    /// The cluster's id of the run.
    pub(crate) run: &'a str,
    pub(crate) press: &'a Press,
    pub(crate) journal: &'a Mutex<Journal>,
    /// Told of every row that the cluster refused.
    pub(crate) reject: &'a mut (dyn FnMut(Rejection) + Send),
    /// Told of rows that have their outcome.
    pub(crate) advance: &'a (dyn Fn(u64) + Sync),
}

/// The journal, also if another thread died while holding it: it is one append at a time, so it is whole.
pub(crate) fn locked(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

type Outcome = (Batch, Result<BatchAnswer, PushError>);

impl Sender<'_> {
    /// Sends all batches that come, which the journal must hold already, and returns what was sent, with the error
    /// that stopped it, if one did. Batches in flight at that moment stay in doubt.
    pub(crate) async fn send_all(mut self, mut batches: Receiver<Batch>) -> (Sent, Result<(), SendError>) {
        let mut sent = Sent::default();
        let mut flights: JoinSet<Outcome> = JoinSet::new();
        let mut more = true;
        while more || !flights.is_empty() {
            let result = tokio::select! {
                batch = batches.recv(), if more && flights.len() < IN_FLIGHT => {
                    match batch {
                        Some(batch) => {
                            sent.rows += batch.patches.len() as u64;
                            self.launch(batch, &mut flights);
                        }
                        None => more = false,
                    }
                    Ok(())
                }
                Some(landed) = flights.join_next(), if !flights.is_empty() => match landed {
                    Ok((batch, answer)) => self.settle(batch, answer, &mut flights, &mut sent),
                    Err(error) => Err(SendError::Task(error.to_string())),
                },
            };
            if let Err(error) = result {
                flights.shutdown().await;
                return (sent, Err(error));
            }
        }
        (sent, Ok(()))
    }

    fn launch(&self, batch: Batch, flights: &mut JoinSet<Outcome>) {
        let (client, run) = (self.client.clone(), self.run.to_owned());
        flights.spawn(async move {
            let answer = client.send(&run, batch.seq, batch.body.clone()).await;
            (batch, answer)
        });
    }

    fn settle(
        &mut self,
        batch: Batch,
        answer: Result<BatchAnswer, PushError>,
        flights: &mut JoinSet<Outcome>,
        sent: &mut Sent,
    ) -> Result<(), SendError> {
        match answer {
            Ok(answer) => self.acknowledge(&batch, &answer, sent),
            Err(PushError::TooLarge(message)) => self.split(batch, &message, flights, sent),
            Err(error) => {
                if let PushError::Refused { in_doubt: false, .. } = error {
                    locked(self.journal).refused(batch.seq)?;
                }
                Err(error.into())
            }
        }
    }

    fn acknowledge(&mut self, batch: &Batch, answer: &BatchAnswer, sent: &mut Sent) -> Result<(), SendError> {
        let rejected = rejected_rows(batch, answer)?;
        locked(self.journal).answered(batch.seq, &rejected)?;
        for row in &answer.rejected {
            let patch = usize::try_from(row.row).ok().and_then(|at| batch.patches.get(at));
            (self.reject)(Rejection {
                key: patch.map(|patch| patch.key.clone()),
                row: patch.map(|patch| patch.number).filter(|number| *number > 0),
                field: row.field.clone(),
                code: row.code.clone(),
                message: row.message.clone(),
            });
        }
        let is_rejected: HashSet<usize> = rejected.iter().map(|row| *row as usize).collect();
        let stored = batch.patches.iter().enumerate().filter(|(at, _)| !is_rejected.contains(at));
        sent.removed += stored.filter(|(_, patch)| patch.change == Change::Removed).count() as u64;
        sent.acknowledged += (batch.patches.len() - rejected.len()) as u64;
        sent.rejected += rejected.len() as u64;
        sent.batches += 1;
        sent.bytes += batch.body.len() as u64;
        (self.advance)(batch.patches.len() as u64);
        Ok(())
    }

    /// The batch is too large: its halves go out under numbers of their own. A single row that is too large is
    /// rejected.
    fn split(
        &mut self,
        batch: Batch,
        message: &str,
        flights: &mut JoinSet<Outcome>,
        sent: &mut Sent,
    ) -> Result<(), SendError> {
        locked(self.journal).refused(batch.seq)?;
        let Batch { op, mut patches, .. } = batch;
        if patches.len() == 1 {
            let Patch { key, number, .. } = patches.remove(0);
            let code = "payload_too_large".to_owned();
            let message = format!("the row alone is larger than the cluster takes: {message}");
            (self.reject)(Rejection { key: Some(key), row: Some(number), field: None, code, message });
            sent.rejected += 1;
            (self.advance)(1);
            return Ok(());
        }
        let rest = patches.split_off(patches.len() / 2);
        self.relaunch(op, patches, flights)?;
        self.relaunch(op, rest, flights)
    }

    fn relaunch(&self, op: Op, patches: Vec<Patch>, flights: &mut JoinSet<Outcome>) -> Result<(), SendError> {
        let batch = self.press.batch(op, patches)?;
        locked(self.journal).intend(batch.seq, batch.intents())?;
        self.launch(batch, flights);
        Ok(())
    }
}

/// The places of rejected rows, checked: an answer that does not add up says nothing about any row.
fn rejected_rows(batch: &Batch, answer: &BatchAnswer) -> Result<Vec<u32>, PushError> {
    let rows = batch.patches.len() as u64;
    let nonsense = |reason: String| PushError::Answer { what: "take a batch", reason };
    let rejected: HashSet<u32> = answer
        .rejected
        .iter()
        .map(|row| u32::try_from(row.row).ok().filter(|row| u64::from(*row) < rows))
        .collect::<Option<_>>()
        .ok_or_else(|| nonsense("it rejects a row that was not sent".to_owned()))?;
    if answer.accepted + rejected.len() as u64 != rows {
        let reason = format!("{rows} rows were sent, {} accepted and {} rejected", answer.accepted, rejected.len());
        return Err(nonsense(reason));
    }
    let mut rejected: Vec<u32> = rejected.into_iter().collect();
    rejected.sort_unstable();
    Ok(rejected)
}
