//! The state of one destination of a sync: which rows its cluster has acknowledged.

use std::fs;
use std::path::{Path, PathBuf};

use larder_types::names::SyncName;

use super::destinations::DestinationRow;
use super::journal::{self, JournalError};
use super::{StateError, merge};
use crate::diff::SPILL_BYTES;
use crate::diff::snapshot::{Snapshot, SnapshotError};
use crate::project::DestinationName;

const JOURNAL: &str = "journal";
const SNAPSHOT: &str = "snapshot-";

/// The state of one destination. Only whoever holds the sync has it.
#[derive(Debug)]
pub(crate) struct DestinationState {
    pub(crate) sync: SyncName,
    pub(crate) name: DestinationName,
    pub(crate) row: DestinationRow,
    pub(super) folder: PathBuf,
}

/// What a journal made of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Merged {
    /// The snapshot that is to count.
    pub(crate) snapshot: Option<u64>,
    /// True if the run had begun to send, so that the snapshot says what is known of every row.
    pub(crate) settled: bool,
    /// Rows sent.
    pub(crate) sent: u64,
    /// Rows acknowledged.
    pub(crate) acknowledged: u64,
}

/// Whether a file in the folder of a destination is a part of its state.
pub(super) fn is_state_file(name: &str) -> bool {
    name == JOURNAL || name.starts_with(SNAPSHOT)
}

impl DestinationState {
    /// The folder for temporary files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The acknowledged state, if there is any.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>, SnapshotError> {
        self.row.snapshot.map(|number| Snapshot::open(&self.snapshot_path(number))).transpose()
    }

    /// Where the journal of the run under way is.
    pub(crate) fn journal_path(&self) -> PathBuf {
        self.folder.join(JOURNAL)
    }

    /// Works the journal of `run` into a new snapshot, unless it says nothing new. The database must then be told.
    ///
    /// # Errors
    /// When a file cannot be read or written, or is damaged.
    pub(crate) fn merge(&self, run: &str) -> Result<Merged, StateError> {
        let mut merged = Merged { snapshot: self.row.snapshot, settled: false, sent: 0, acknowledged: 0 };
        let journal = journal::read(&self.journal_path())?;
        let Some(journal) = journal.filter(|journal| journal.header.run == run) else { return Ok(merged) };
        let base = match journal.header.base {
            None => None,
            Some(number) if self.row.snapshot == Some(number) => Some(Snapshot::open(&self.snapshot_path(number))?),
            Some(_) => {
                let reason = "it was begun on another state than the one recorded";
                return Err(JournalError::Damaged { path: self.journal_path(), reason }.into());
            }
        };
        merged.settled = true;
        let tally = journal.tally()?;
        (merged.sent, merged.acknowledged) = (tally.sent, tally.acknowledged);
        if journal.changes_state(base.as_ref()) {
            let number = self.row.snapshot.map_or(1, |number| number + 1);
            merge::merge(&journal, base.as_ref(), &self.folder, &self.snapshot_path(number), SPILL_BYTES)?;
            merged.snapshot = Some(number);
        }
        Ok(merged)
    }

    /// Deletes files that belong to no state: of runs that have ended, of snapshots that were replaced.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn sweep_files(&self) -> Result<(), StateError> {
        let io = |source| StateError::Io { path: self.folder.clone(), source };
        let kept = self.row.snapshot.map(|number| format!("{SNAPSHOT}{number}"));
        for entry in fs::read_dir(&self.folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if is_state_file(name) && Some(name) != kept.as_deref() {
                fs::remove_file(self.folder.join(name)).map_err(io)?;
            }
        }
        Ok(())
    }

    fn snapshot_path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{SNAPSHOT}{number}"))
    }
}
