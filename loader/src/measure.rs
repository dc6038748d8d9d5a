//! The diff alone, for those who measure it: rows in, counts and a new state out, without a source and a cluster.
//!
//! What is measured is what a run does, with the same code: [`DiffBench::compare`] takes rows in and joins them with the
//! acknowledged state, [`DiffBench::acknowledge`] writes down that all of it was sent and answered, and makes the next
//! state. Reading, mapping and sending are left out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_types::key::Key;

use crate::cancel::Cancel;
use crate::diff::acknowledged::Acknowledged;
use crate::diff::hash::{HashSecret, SECRET_BYTES};
use crate::diff::join::{Absence, Change, Diff, JoinOptions, join};
use crate::diff::snapshot::{Hashes, Snapshot};
use crate::diff::spill::Parts;
use crate::diff::{Intake, SPILL_BYTES};
use crate::state::journal::{self, Intent, Journal, JournalHeader};
use crate::state::merge::merge;

/// Rows of a batch in the journal.
const BATCH_ROWS: usize = 10_000;

/// What the measured code said went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MeasureError(String);

/// The state of one sync in a folder of its own, and the diff against it.
pub struct DiffBench {
    folder: PathBuf,
    secret: HashSecret,
    old: Option<Snapshot>,
}

/// What a comparison found.
pub struct Compared {
    diff: Diff,
}

/// Rows of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComparedRows {
    /// Rows that are new.
    pub added: u64,
    /// Rows that are different from what was acknowledged.
    pub changed: u64,
    /// Keys that have left.
    pub removed: u64,
    /// Rows that are as they were.
    pub unchanged: u64,
}

impl DiffBench {
    /// Opens the state in a folder; an empty folder has none yet.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn open(folder: &Path) -> Result<Self, MeasureError> {
        let path = folder.join("state");
        let old = if path.exists() { Some(Snapshot::open(&path).map_err(failed)?) } else { None };
        // Always the same, so that two measurements do the same work.
        let secret = HashSecret::from_bytes([0x5a; SECRET_BYTES]);
        Ok(Self { folder: folder.to_path_buf(), secret, old })
    }

    /// Compares rows, given by their keys and mapped cells, with the state. `feed` is called once and passes every row
    /// to the function that it gets.
    ///
    /// # Errors
    /// When a key cannot be one, or a file cannot be read or written.
    pub fn compare(
        &self,
        feed: impl FnOnce(&mut dyn FnMut(&str, &[u8]) -> Result<(), MeasureError>) -> Result<(), MeasureError>,
    ) -> Result<Compared, MeasureError> {
        let parts = Parts::for_rows(self.old.as_ref().map_or(0, Snapshot::rows));
        let mut intake = Intake::new(&self.folder, parts, self.secret.clone(), SPILL_BYTES);
        let mut number = 0;
        feed(&mut |key, cells| {
            number += 1;
            intake.add(number, &Key::new(key).map_err(failed)?, cells).map_err(failed)
        })?;
        let never = Cancel::default();
        let options =
            JoinOptions { resend: false, all: false, absence: Absence::Removed, budget: SPILL_BYTES, cancel: &never };
        let diff = join(
            Arc::new(intake.finish()),
            self.old.as_ref().map(|old| old as &dyn Acknowledged),
            &self.folder,
            options,
        )
        .map_err(failed)?;
        Ok(Compared { diff })
    }

    /// Makes the next state as if every change had been sent and acknowledged.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn acknowledge(self, compared: &Compared) -> Result<(), MeasureError> {
        let path = self.folder.join("journal");
        let header = JournalHeader {
            run: "measured".to_owned(),
            sync: "measured".to_owned(),
            collection: "measured".to_owned(),
            fingerprint: 0,
            secret: self.secret.clone(),
            hashes: Hashes::Cells,
            base: self.old.as_ref().map(|_| 1),
            base_known: true,
        };
        let mut journal = Journal::create(&path, &header).map_err(failed)?;
        write_journal(&mut journal, compared)?;
        let content = journal::read(&path).map_err(failed)?.ok_or_else(|| failed("the journal is gone"))?;
        let next = self.folder.join("next");
        merge(&content, self.old.as_ref(), &self.folder, &next, SPILL_BYTES).map_err(failed)?;
        let replaced = fs::rename(&next, self.folder.join("state")).and_then(|()| fs::remove_file(&path));
        replaced.map_err(|error: io::Error| failed(error))
    }
}

impl Compared {
    /// How many rows there are of each kind.
    #[must_use]
    pub fn rows(&self) -> ComparedRows {
        let Diff { added, changed, removed, unchanged, .. } = self.diff;
        ComparedRows { added, changed, removed, unchanged }
    }
}

fn write_journal(journal: &mut Journal, compared: &Compared) -> Result<(), MeasureError> {
    let mut batch: Vec<(String, Intent)> = Vec::new();
    let mut seq = 0;
    let mut send = |batch: &mut Vec<(String, Intent)>| {
        let entries = batch.iter().map(|(key, intent)| (key.as_str(), *intent));
        journal.intend(seq, entries).and_then(|()| journal.answered(seq, &[])).map_err(failed)?;
        seq += 1;
        batch.clear();
        Ok(())
    };
    let mut changes = compared.diff.changes();
    while let Some(change) = changes.next().map_err(failed)? {
        let intent = if change.change == Change::Removed { Intent::Removal } else { Intent::Upsert(change.hash) };
        batch.push((change.key.to_owned(), intent));
        if batch.len() == BATCH_ROWS {
            send(&mut batch)?;
        }
    }
    send(&mut batch)
}

fn failed(error: impl ToString) -> MeasureError {
    MeasureError(error.to_string())
}
