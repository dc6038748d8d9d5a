//! The state of one destination of a sync: which rows its cluster has acknowledged.

use std::fs;
use std::path::{Path, PathBuf};

use larder_types::names::SyncName;

use super::bases::Base;
use super::database::Database;
use super::destinations::DestinationRow;
use super::journal::{self, JournalError};
use super::{StateError, merge};
use crate::diff::SPILL_BYTES;
use crate::diff::hash::{HashSecret, RowHash};
use crate::diff::join::DiffError;
use crate::diff::slots::Slots;
use crate::diff::snapshot::{Hashes, Header, Snapshot, SnapshotError, SnapshotWriter};
use crate::diff::spill::{Parts, Spill, Spilled};
use crate::diff::{put_key, take_key};
use crate::project::DestinationName;

const JOURNAL: &str = "journal";
const SNAPSHOT: &str = "snapshot-";

/// The state of one destination. Only whoever holds the sync has it.
#[derive(Debug)]
pub(crate) struct DestinationState {
    pub(crate) sync: SyncName,
    pub(crate) name: DestinationName,
    pub(crate) row: DestinationRow,
    /// What is acknowledged in the warehouse, if that compares.
    pub(crate) base: Option<Base>,
    pub(super) folder: PathBuf,
}

/// What a journal made of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Merged {
    /// True if the snapshot names every key that has a record, so that it lies over no base.
    pub(crate) whole: bool,
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
        let mut merged = Merged { whole: false, snapshot: self.row.snapshot, settled: false, sent: 0, acknowledged: 0 };
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
        merged.whole = journal.is_swept();
        let tally = journal.tally()?;
        (merged.sent, merged.acknowledged) = (tally.sent, tally.acknowledged);
        if journal.changes_state(base.as_ref()) {
            let number = self.row.snapshot.map_or(1, |number| number + 1);
            merge::merge(&journal, base.as_ref(), &self.folder, &self.snapshot_path(number), SPILL_BYTES)?;
            merged.snapshot = Some(number);
        }
        Ok(merged)
    }

    /// Makes a snapshot of the keys of a base, which `keys` gives one by one, with unknown hashes; what lies over the base
    /// counts first. From now on it is the state, and there is no base.
    ///
    /// # Errors
    /// When `keys` fails, or a file or the database cannot be written.
    pub(crate) fn take_home<E: From<StateError>>(
        &mut self,
        database: &Database,
        secret: &HashSecret,
        base: &Base,
        keys: impl FnOnce(&mut dyn FnMut(&str) -> Result<(), StateError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let over = self.snapshot().map_err(StateError::from)?;
        let parts = Parts::for_rows(base.keys + over.as_ref().map_or(0, Snapshot::rows));
        let mut spill = Spill::new(&self.folder, parts, SPILL_BYTES);
        keys(&mut |key| {
            let pushed = spill.push(secret.key(key.as_bytes()), |out| put_key(key, out));
            pushed.map_err(|error| StateError::Diff(error.into()))
        })?;
        let header = Header {
            sync: self.sync.to_string(),
            collection: base.collection.clone(),
            fingerprint: base.fingerprint,
            secret: secret.clone(),
            hashes: Hashes::Planner,
            parts,
        };
        let number = self.row.snapshot.map_or(1, |number| number + 1);
        write_home(&self.snapshot_path(number), &header, &spill.finish(), over.as_ref())?;
        database.rebase(&self.sync, &self.name, Some(number))?;
        self.row.snapshot = Some(number);
        Ok(self.sweep_files()?)
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

fn write_home(path: &Path, header: &Header, keys: &Spilled, over: Option<&Snapshot>) -> Result<(), StateError> {
    let mut writer = SnapshotWriter::create(path, header)?;
    let mut rows: Slots<Option<RowHash>> = Slots::new();
    for part in 0..header.parts.get() {
        rows.clear();
        let mut full = None;
        if let Some(over) = over {
            over.read_part(header.parts, part, |key, hash| {
                let unknown = hash.of_record().map(|_| RowHash::UNKNOWN);
                full = full.or(rows.slot(key, || unknown).err());
            })?;
        }
        full.map_or(Ok(()), |error| Err(DiffError::from(error)))?;
        let mut records = keys.records(part);
        while let Some(mut record) = records.next().map_err(DiffError::from)? {
            let key = take_key(&mut record).ok_or(DiffError::Record)?;
            rows.slot(key, || Some(RowHash::UNKNOWN)).map_err(DiffError::from)?;
        }
        writer.part(rows.iter().filter_map(|(key, hash)| hash.map(|hash| (key, hash))))?;
    }
    writer.finish()?;
    Ok(())
}
