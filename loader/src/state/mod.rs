//! State: what this loader remembers between runs, in one folder.
//!
//! ```text
//! <state_dir>/state.db                          SQLite: syncs, destinations, runs, rejected rows, holds
//! <state_dir>/loaders/<process>                 locked as long as the process lives, see [`leases`]
//! <state_dir>/<sync>/lock                       held while a run or plan of the sync is under way
//! <state_dir>/<sync>/<destination>/snapshot-N   what that cluster has acknowledged, see `diff::snapshot`
//! <state_dir>/<sync>/<destination>/journal      what the run under way has sent it and heard, see [`journal`]
//! ```
//!
//! The database names the snapshot that counts. A delivery ends in this order: new snapshot durable under its name, then
//! one transaction that points to it and closes the delivery, then the journal and the old snapshot are deleted. A crash
//! between any two leaves either the old state with a journal to finish, or the new state with rubbish to sweep.

pub(crate) mod alerts;
pub(crate) mod bases;
mod cursors;
pub(crate) mod database;
mod destination;
pub(crate) mod destinations;
mod holds;
pub(crate) mod journal;
pub(crate) mod leases;
pub(crate) mod merge;
mod migrate;
mod overview;
mod rejected;
pub(crate) mod requests;
mod retention;
pub(crate) mod runs;
mod schedule;
mod syncs;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use larder_types::names::SyncName;

pub(crate) use self::destination::{DestinationState, Merged};

use self::database::Database;
use self::journal::JournalError;
use self::leases::Lease;
use self::runs::DeliveryId;
use crate::cancel::{Hook, Why};
use crate::diff::hash::HashSecret;
use crate::diff::join::DiffError;
use crate::diff::snapshot::SnapshotError;
use crate::project::DestinationName;
use crate::run::ResendReason;

const DATABASE: &str = "state.db";
const LOCK: &str = "lock";

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
    /// Another run holds the sync.
    #[error("sync `{0}` is locked by another run")]
    Locked(SyncName),
    /// There is no randomness for a secret.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
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

/// The state of all syncs. May be shared by threads.
pub(crate) struct State {
    dir: PathBuf,
    pub(crate) database: Database,
}

/// A sync held against everybody else, in this process or another, until this is dropped.
pub(crate) struct SyncState {
    pub(crate) name: SyncName,
    /// What all its destinations' keys and rows are hashed with.
    pub(crate) secret: HashSecret,
    folder: PathBuf,
    _lock: File,
    /// None if a scheduler holds it. Given back last.
    lease: Option<Lease>,
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

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes hold of a sync. A run of it that did not end is marked as cut off; see [`Self::take_up`]. `is_leased` says
    /// that the caller has the lease on it already.
    ///
    /// # Errors
    /// [`StateError::Locked`] if somebody else holds it; otherwise what failed.
    pub(crate) fn hold(&self, name: &SyncName, is_leased: bool) -> Result<SyncState, StateError> {
        let lease = if is_leased { None } else { Some(Lease::take(self, name)?) };
        let folder = self.dir.join(name.as_str());
        let io = |source| StateError::Io { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(io)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(LOCK)).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::Locked(name.clone())),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        migrate::move_files(&folder, &folder.join(DestinationName::main().as_str())).map_err(io)?;
        self.database.cut_off(name)?;
        let secret = self.secret(name, &folder)?;
        Ok(SyncState { name: name.clone(), secret, folder, _lock: lock, lease })
    }

    /// The secret of a sync; made, or found in state of format 1, if it has none yet.
    fn secret(&self, sync: &SyncName, folder: &Path) -> Result<HashSecret, StateError> {
        if let Some(secret) = self.database.secret(sync)? {
            return Ok(secret);
        }
        let main = self.destination(sync, folder, &DestinationName::main())?;
        // If neither can be read, its destination says so when it is taken up.
        let of_snapshot = main.snapshot().ok().flatten().map(|snapshot| snapshot.header().secret.clone());
        let of_journal = || journal::read(&main.journal_path()).ok().flatten().map(|journal| journal.header.secret);
        let secret = match of_snapshot.or_else(of_journal) {
            Some(secret) => secret,
            None => HashSecret::random().map_err(StateError::Random)?,
        };
        self.database.set_secret(sync, &secret)?;
        Ok(secret)
    }

    /// What is recorded of a destination, without holding the sync: a run may change it at any time.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn glance(&self, sync: &SyncName, name: &DestinationName) -> Result<DestinationState, StateError> {
        self.destination(sync, &self.dir.join(sync.as_str()), name)
    }

    fn destination(
        &self,
        sync: &SyncName,
        folder: &Path,
        name: &DestinationName,
    ) -> Result<DestinationState, StateError> {
        let row = self.database.destination(sync, name)?;
        let base = self.database.base(sync, name)?;
        let folder = folder.join(name.as_str());
        Ok(DestinationState { sync: sync.clone(), name: name.clone(), row, base, folder })
    }

    /// Takes up the state of a destination of a sync that is held. If the delivery of a run did not end, its journal is
    /// worked into the state first; if that fails and `full` says that the next run sends everything anyway, the state
    /// is marked as not to be relied on instead. Without `full` everything is left as it is.
    ///
    /// # Errors
    /// What failed.
    pub(crate) fn take_up(
        &self,
        sync: &SyncState,
        name: &DestinationName,
        full: bool,
    ) -> Result<(DestinationState, Option<Interrupted>), StateError> {
        let mut state = self.destination(&sync.name, &sync.folder, name)?;
        fs::create_dir_all(&state.folder).map_err(|source| StateError::Io { path: state.folder.clone(), source })?;
        let interrupted = self.finish_interrupted(&mut state, full)?;
        state.sweep_files()?;
        Ok((state, interrupted))
    }

    /// Forgets what a destination has acknowledged of a sync that is held. Nothing is pushed; the next run sends all.
    ///
    /// # Errors
    /// When the database or the folder cannot be written.
    pub(crate) fn reset(&self, sync: &SyncState, name: &DestinationName) -> Result<(), StateError> {
        // What is left if the second step is not reached belongs to no state, and is swept when it is next taken up.
        self.database.forget_destination(&sync.name, name)?;
        let folder = sync.folder.join(name.as_str());
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StateError::Io { path: folder, source: error })
            }
            _ => Ok(()),
        }
    }

    fn finish_interrupted(&self, state: &mut DestinationState, full: bool) -> Result<Option<Interrupted>, StateError> {
        let Some(run) = self.database.unfinished(&state.sync, &state.name)? else { return Ok(None) };
        let (merged, distrust, is_unknown) = match state.merge(&run) {
            Err(StateError::Journal(_) | StateError::Snapshot(_)) if full => {
                let nothing =
                    Merged { whole: false, snapshot: state.row.snapshot, settled: false, sent: 0, acknowledged: 0 };
                (nothing, Some(ResendReason::StateDamaged), true)
            }
            // Once a run has begun to send, the snapshot itself marks every row of which nothing is known.
            merged => merged.map(|merged| (merged, state.row.distrust.filter(|_| !merged.settled), false))?,
        };
        let delivery = DeliveryId { run: &run, sync: &state.sync, destination: &state.name };
        self.database.close_interrupted(delivery, merged, distrust)?;
        state.row = self.database.destination(&state.sync, &state.name)?;
        state.base = self.database.base(&state.sync, &state.name)?;
        Ok(Some(Interrupted { run, sent: merged.sent, acknowledged: merged.acknowledged, is_unknown }))
    }
}

impl SyncState {
    /// Does something if another loader takes the sync over.
    pub(crate) fn when_lost(&self, action: impl FnOnce(Why) + Send + 'static) -> Option<Hook> {
        self.lease.as_ref().map(|lease| lease.lost().hook(action))
    }

    /// The folder for temporary files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}
