//! The join: incoming rows against acknowledged rows, part by part.

use std::path::Path;
use std::sync::Arc;

use super::acknowledged::Acknowledged;
use super::hash::RowHash;
use super::slots::{Slots, TooMany};
use super::snapshot::SnapshotError;
use super::spill::{PartRecords, Parts, Records, Spill, SpillError, Spilled};
use super::{RowRecord, put_key, take, take_key};
use crate::cancel::Cancel;

/// Examples that are kept of each kind of trouble.
pub(crate) const MAX_EXAMPLES: usize = 10;

/// What a row, or a key that has left, is to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Change {
    Added = 1,
    Changed = 2,
    Removed = 3,
    /// Only found when all rows are asked for.
    Unchanged = 4,
}

/// What it means that a key which was acknowledged does not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Absence {
    /// Its row has left the query.
    #[default]
    Removed,
    /// Nothing: only some of the rows were asked for.
    Unknown,
}

/// How to join.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JoinOptions<'a> {
    /// Nothing that was acknowledged is to be relied on: every row counts as changed.
    pub(crate) resend: bool,
    /// Give unchanged rows too.
    pub(crate) all: bool,
    pub(crate) absence: Absence,
    /// Bytes of changes held in memory.
    pub(crate) budget: usize,
    pub(crate) cancel: &'a Cancel,
}

/// What was found.
pub(crate) struct Diff {
    pub(crate) added: u64,
    pub(crate) changed: u64,
    pub(crate) removed: u64,
    pub(crate) unchanged: u64,
    /// Rows left out because their key comes more than once.
    pub(crate) duplicate_rows: u64,
    pub(crate) duplicates: Vec<Duplicate>,
    /// Rows acknowledged before.
    pub(crate) known: u64,
    changes: Spilled,
}

/// A key that came more than once, by the first two rows that have it, from 1. The key itself is left out, because
/// this ends in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Duplicate(pub(crate) [u64; 2]);

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChangeRecord<'a> {
    pub(crate) change: Change,
    pub(crate) key: &'a str,
    /// Of the row as it is now; meaningless for a removal.
    pub(crate) hash: RowHash,
    /// The row's place in the result, from 1; 0 for a removal.
    pub(crate) number: u64,
    /// The row's mapped cells; empty for a removal.
    pub(crate) cells: &'a [u8],
}

/// Why there is no diff.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiffError {
    /// See [`SpillError`].
    #[error(transparent)]
    Spill(#[from] SpillError),
    /// See [`SnapshotError`].
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The join was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A spilled row does not read back.
    #[error("a temporary file was damaged while it was in use")]
    Record,
    /// See [`TooMany`].
    #[error(transparent)]
    TooMany(#[from] TooMany),
}

/// What is known of a key while its part is joined.
struct Slot {
    acknowledged: Option<RowHash>,
    first_row: u64,
    rows: u32,
}

/// Joins the rows that came in with those that were acknowledged. Whoever has the rows to itself frees each part when it
/// is done with it.
///
/// # Errors
/// When a file cannot be read or written, or is damaged.
pub(crate) fn join(
    mut rows: Arc<Spilled>,
    old: Option<&dyn Acknowledged>,
    dir: &Path,
    options: JoinOptions<'_>,
) -> Result<Diff, DiffError> {
    let mut joiner = Joiner {
        options,
        changes: Spill::new(dir, Parts::ONE, options.budget),
        diff: Diff {
            added: 0,
            changed: 0,
            removed: 0,
            unchanged: 0,
            duplicate_rows: 0,
            duplicates: Vec::new(),
            known: old.map_or(0, |old| old.rows()),
            changes: Spill::new(dir, Parts::ONE, 0).finish(),
        },
    };
    let mut slots = Slots::new();
    let mut slot_of_row = Vec::new();
    for part in 0..rows.parts().get() {
        if options.cancel.why().is_some() {
            return Err(DiffError::Cancelled);
        }
        slots.clear();
        if let Some(old) = old {
            read_old(old, rows.parts(), part, &mut slots)?;
        }
        let records = rows.part(part)?;
        joiner.gather(&records, &mut slots, &mut slot_of_row)?;
        joiner.compare(&records, &slots, &slot_of_row)?;
        if options.absence == Absence::Removed {
            joiner.remove(&slots)?;
        }
        if let Some(rows) = Arc::get_mut(&mut rows) {
            rows.forget(part);
        }
    }
    joiner.diff.changes = joiner.changes.finish();
    Ok(joiner.diff)
}

struct Joiner<'a> {
    options: JoinOptions<'a>,
    changes: Spill,
    diff: Diff,
}

/// What was acknowledged of the keys of a part.
fn read_old(old: &dyn Acknowledged, parts: Parts, part: usize, slots: &mut Slots<Slot>) -> Result<(), DiffError> {
    let mut full = None;
    old.read_part(parts, part, &mut |key, hash| {
        let known = slots.slot(key, || Slot { acknowledged: hash, first_row: 0, rows: 0 });
        full = full.or(known.err());
    })?;
    full.map_or(Ok(()), |error| Err(error.into()))
}

impl Joiner<'_> {
    /// First pass over a part: its keys. Notes each row's slot, so that the second pass need not look for it again.
    fn gather(
        &mut self,
        rows: &PartRecords<'_>,
        slots: &mut Slots<Slot>,
        slot_of_row: &mut Vec<u32>,
    ) -> Result<(), DiffError> {
        slot_of_row.clear();
        let mut records = rows.iter();
        while let Some(record) = records.next()? {
            let row = RowRecord::read(record).ok_or(DiffError::Record)?;
            let new = || Slot { acknowledged: None, first_row: row.number, rows: 1 };
            let (at, is_new) = slots.slot(row.key, new)?;
            slot_of_row.push(at);
            if is_new {
                continue;
            }
            let slot = slots.get_mut(at).ok_or(DiffError::Record)?;
            slot.rows += 1;
            match slot.rows {
                1 => slot.first_row = row.number,
                2 if self.diff.duplicates.len() < MAX_EXAMPLES => {
                    self.diff.duplicates.push(Duplicate([slot.first_row, row.number]));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Second pass over a part: its rows.
    fn compare(&mut self, rows: &PartRecords<'_>, slots: &Slots<Slot>, slot_of_row: &[u32]) -> Result<(), DiffError> {
        let mut records = rows.iter();
        let mut slot_of_row = slot_of_row.iter();
        while let Some(record) = records.next()? {
            let row = RowRecord::read(record).ok_or(DiffError::Record)?;
            let slot = slot_of_row.next().and_then(|slot| slots.get(*slot)).ok_or(DiffError::Record)?;
            if slot.rows > 1 {
                self.diff.duplicate_rows += 1;
                continue;
            }
            let change = match slot.acknowledged {
                None => Change::Added,
                Some(hash) if hash == row.hash && !self.options.resend => Change::Unchanged,
                Some(_) => Change::Changed,
            };
            match change {
                Change::Added => self.diff.added += 1,
                Change::Changed => self.diff.changed += 1,
                Change::Unchanged => self.diff.unchanged += 1,
                Change::Removed => {}
            }
            if change != Change::Unchanged || self.options.all {
                self.put(change, row)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, slots: &Slots<Slot>) -> Result<(), DiffError> {
        for (key, _) in slots.iter().filter(|(_, slot)| slot.rows == 0 && slot.acknowledged.is_some()) {
            self.diff.removed += 1;
            self.put(Change::Removed, RowRecord { number: 0, hash: RowHash::UNKNOWN, key, cells: &[] })?;
        }
        Ok(())
    }

    fn put(&mut self, change: Change, row: RowRecord<'_>) -> Result<(), SpillError> {
        self.changes.push(0, |out| {
            out.push(change as u8);
            out.extend_from_slice(&row.number.to_le_bytes());
            out.extend_from_slice(&row.hash.to_bytes());
            put_key(row.key, out);
            out.extend_from_slice(row.cells);
        })
    }
}

impl Diff {
    /// The changes; can be asked for again.
    pub(crate) fn changes(&self) -> Changes<'_> {
        Changes(self.changes.records(0))
    }
}

/// The changes, one after the other.
pub(crate) struct Changes<'a>(Records<'a>);

impl Changes<'_> {
    /// The next change. It borrows from this, so it is no `Iterator`.
    pub(crate) fn next(&mut self) -> Result<Option<ChangeRecord<'_>>, DiffError> {
        match self.0.next()? {
            Some(record) => ChangeRecord::read(record).map(Some).ok_or(DiffError::Record),
            None => Ok(None),
        }
    }
}

impl<'a> ChangeRecord<'a> {
    fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let [change] = take(&mut bytes)?;
        let change = [Change::Added, Change::Changed, Change::Removed, Change::Unchanged]
            .into_iter()
            .find(|known| *known as u8 == change)?;
        let number = u64::from_le_bytes(take(&mut bytes)?);
        let hash = RowHash::from_bytes(take(&mut bytes)?);
        let key = take_key(&mut bytes)?;
        Some(Self { change, key, hash, number, cells: bytes })
    }
}
