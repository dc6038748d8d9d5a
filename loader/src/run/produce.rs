//! The producer: turns changes into batches, on a thread of its own, so that mapping and sending overlap.

use std::sync::Mutex;

use larder_types::patch::{ExitMode, Op};
use tokio::sync::mpsc::Sender;

use super::prepare::exit_op;
use super::rejections::Rejections;
use super::report::Rejection;
use crate::diff::join::{Change, ChangeRecord, Diff, DiffError};
use crate::mapping::cell::NotARow;
use crate::mapping::{FieldError, Mapping, Replaced};
use crate::push::batch::{Batch, Collector, Patch, Press};
use crate::push::sender::{SendError, locked};
use crate::state::journal::Journal;

/// Keys that are forgotten together.
const FORGET_TOGETHER: usize = 10_000;

pub(super) struct Producer<'a> {
    pub(super) mapping: &'a Mapping,
    pub(super) on_exit: ExitMode,
    pub(super) full: bool,
    /// Most rows of a batch.
    pub(super) batch_rows: usize,
    pub(super) press: &'a Press,
    pub(super) journal: &'a Mutex<Journal>,
    pub(super) batches: Sender<Batch>,
    pub(super) rejections: Rejections,
}

impl Producer<'_> {
    /// Sends every change on, and returns the rows that could not be mapped with the error that stopped it, if one did.
    pub(super) fn produce(mut self, diff: &Diff) -> (Rejections, Result<(), SendError>) {
        let result = self.send_all(diff);
        (self.rejections, result)
    }

    fn send_all(&mut self, diff: &Diff) -> Result<(), SendError> {
        let exit = exit_op(self.on_exit);
        let mut upserts = Collector::new(Op::Upsert, self.batch_rows);
        let mut removals = Collector::new(exit.unwrap_or_default(), self.batch_rows);
        let mut forgotten = Vec::new();
        let mut changes = diff.changes();
        while let Some(change) = changes.next().map_err(SendError::Diff)? {
            let full_batch = match (change.change, exit) {
                // The sweep at the end of a full run takes care of these.
                (Change::Removed, _) if self.full => None,
                (Change::Removed, None) => {
                    forgotten.push(change.key.to_owned());
                    if forgotten.len() == FORGET_TOGETHER {
                        self.forget(&mut forgotten)?;
                    }
                    None
                }
                (Change::Removed, Some(op)) => removals.add(patch(&change, Vec::new()), 0).map(|patches| (op, patches)),
                _ => match map(self.mapping, &change, &mut self.rejections.replaced)? {
                    Ok(patch) => upserts.add(patch, change.cells.len()).map(|patches| (Op::Upsert, patches)),
                    Err(error) => {
                        self.rejections.add(rejection(&change, error));
                        None
                    }
                },
            };
            if let Some((op, patches)) = full_batch
                && !self.hand_over(op, patches)?
            {
                return Ok(());
            }
        }
        self.forget(&mut forgotten)?;
        for mut collector in [removals, upserts] {
            let patches = collector.take();
            if !patches.is_empty() && !self.hand_over(collector.op(), patches)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes a batch into the journal and gives it to the sender. False if the sender has stopped.
    fn hand_over(&self, op: Op, patches: Vec<Patch>) -> Result<bool, SendError> {
        if self.batches.is_closed() {
            return Ok(false);
        }
        let batch = self.press.batch(op, patches)?;
        locked(self.journal).intend(batch.seq, batch.intents())?;
        Ok(self.batches.blocking_send(batch).is_ok())
    }

    fn forget(&self, keys: &mut Vec<String>) -> Result<(), SendError> {
        if !keys.is_empty() {
            locked(self.journal).forget(keys.iter().map(String::as_str))?;
            keys.clear();
        }
        Ok(())
    }
}

/// The fields of a changed row, or why it has none.
pub(super) fn map(
    mapping: &Mapping,
    change: &ChangeRecord<'_>,
    replaced: &mut Replaced,
) -> Result<Result<Patch, FieldError>, SendError> {
    let cells = mapping.decode(change.cells).map_err(|NotARow| SendError::Diff(DiffError::Record))?;
    Ok(mapping.fields(&cells, replaced).map(|values| patch(change, values)))
}

fn patch(change: &ChangeRecord<'_>, values: Vec<larder_types::value::Value>) -> Patch {
    let ChangeRecord { change, key, hash, number, .. } = *change;
    Patch { key: key.to_owned(), change, hash, number, values }
}

/// A row that cannot be mapped, as it is reported.
pub(super) fn rejection(change: &ChangeRecord<'_>, error: FieldError) -> Rejection {
    Rejection {
        key: Some(change.key.to_owned()),
        row: Some(change.number),
        field: Some(error.field.to_string()),
        code: error.code.to_owned(),
        message: error.message,
    }
}
