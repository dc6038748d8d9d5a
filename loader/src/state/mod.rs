//! State: what this loader remembers between runs, in one folder.
//!
//! ```text
//! <state_dir>/state.db            SQLite: syncs, runs, rejected rows
//! <state_dir>/<sync>/lock         held while a run or plan of the sync is under way
//! <state_dir>/<sync>/snapshot-N   what the cluster has acknowledged, see `diff::snapshot`
//! <state_dir>/<sync>/journal      what the run under way has sent and heard, see [`journal`]
//! ```
//!
//! The database names the snapshot that counts. A run ends in this order: new snapshot durable under its name, then
//! one transaction that points to it and closes the run, then the journal and the old snapshot are deleted. A crash
//! between any two leaves either the old state with a journal to finish, or the new state with rubbish to sweep.

pub(crate) mod database;
pub(crate) mod journal;
mod merge;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use larder_types::names::SyncName;

use self::database::{Database, SyncRow};
use self::journal::JournalError;
use crate::diff::SPILL_BYTES;
use crate::diff::join::DiffError;
use crate::diff::snapshot::{Snapshot, SnapshotError};
use crate::run::ResendReason;

const DATABASE: &str = "state.db";
const LOCK: &str = "lock";
const JOURNAL: &str = "journal";
const SNAPSHOT: &str = "snapshot-";

/// Why state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// A folder or file.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database.
    #[error("the state database {path}: {source}")]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A newer loader wrote the database.
    #[error("the state database {path} was written by a newer loader (format {found}); use that one")]
    Version {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// Another process holds the sync.
    #[error("sync `{0}` is locked by another loader")]
    Locked(SyncName),
    /// See [`SnapshotError`].
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// See [`JournalError`].
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// See [`DiffError`].
    #[error(transparent)]
    Diff(#[from] DiffError),
}

/// The state of all syncs.
pub(crate) struct State {
    dir: PathBuf,
    pub(crate) database: Database,
}

/// The state of one sync, held against other processes until it is dropped.
pub(crate) struct SyncState {
    pub(crate) name: SyncName,
    pub(crate) row: SyncRow,
    folder: PathBuf,
    _lock: File,
}

/// What was found of a run that did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interrupted {
    /// The run's id.
    pub(crate) run: String,
    /// Rows that it had sent.
    pub(crate) sent: u64,
    /// Rows of those whose acknowledgement was heard.
    pub(crate) acknowledged: u64,
    /// True if what was recorded of it is damaged: what it sent is not known, and the numbers are 0.
    pub(crate) is_unknown: bool,
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

impl State {
    /// Opens the folder, making it if need be.
    ///
    /// # Errors
    /// When it cannot be made, or its database cannot be opened.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(dir).map_err(|source| StateError::Io { path: dir.to_path_buf(), source })?;
        let database = Database::open(&dir.join(DATABASE))?;
        Ok(Self { dir: dir.to_path_buf(), database })
    }

    /// Takes hold of a sync. If a run of it did not end, its journal is worked into the state first; if that fails
    /// and `full` says that the next run sends everything anyway, the state is marked as not to be relied on instead.
    /// Without `full` the run is marked as cut off, and everything else is left as it is.
    ///
    /// # Errors
    /// [`StateError::Locked`] if another process holds it; otherwise what failed.
    pub(crate) fn hold(&self, name: &SyncName, full: bool) -> Result<(SyncState, Option<Interrupted>), StateError> {
        let folder = self.dir.join(name.as_str());
        let io = |source| StateError::Io { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(io)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(LOCK)).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::Locked(name.clone())),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let row = self.database.sync(name)?;
        let mut state = SyncState { name: name.clone(), row, folder, _lock: lock };
        let interrupted = self.finish_interrupted(&mut state, full)?;
        state.sweep_files()?;
        Ok((state, interrupted))
    }

    fn finish_interrupted(&self, state: &mut SyncState, full: bool) -> Result<Option<Interrupted>, StateError> {
        let Some(run) = self.database.running(&state.name)? else { return Ok(None) };
        let mut is_unknown = false;
        let merged = match state.merge(&run) {
            Err(StateError::Journal(_) | StateError::Snapshot(_)) if full => {
                self.database.distrust(&state.name, ResendReason::StateDamaged)?;
                is_unknown = true;
                Merged { snapshot: state.row.snapshot, settled: false, sent: 0, acknowledged: 0 }
            }
            Err(error) => {
                self.database.cut_off(&run)?;
                return Err(error);
            }
            Ok(merged) => merged,
        };
        self.database.close_interrupted(&run, &state.name, merged)?;
        state.row = self.database.sync(&state.name)?;
        Ok(Some(Interrupted { run, sent: merged.sent, acknowledged: merged.acknowledged, is_unknown }))
    }
}

impl SyncState {
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
            let is_old = (name.starts_with(SNAPSHOT) && Some(name) != kept.as_deref()) || name == JOURNAL;
            if is_old {
                fs::remove_file(self.folder.join(name)).map_err(io)?;
            }
        }
        Ok(())
    }

    fn snapshot_path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{SNAPSHOT}{number}"))
    }
}
