//! A delta: the rows of the warehouse's answer, made into what the join takes.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, LargeStringArray, RecordBatch};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType};
use larder_types::key::KeyError;

use super::acknowledged::BaseRows;
use super::layout::{HASH, ID, ID_DIGITS, OLD};
use crate::diff::hash::{HashSecret, RowHash};
use crate::diff::marks::{Marks, MarksWriter};
use crate::diff::snapshot::{Hashes, Snapshot};
use crate::diff::spill::{Parts, Spill, SpillError, Spilled};
use crate::diff::{Intake, put_key};
use crate::mapping::Mapping;

/// Why a delta cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeltaError {
    /// See [`SpillError`].
    #[error(transparent)]
    Spill(#[from] SpillError),
    /// The ids cannot be kept.
    #[error("a temporary file failed: {0}")]
    Marks(#[from] io::Error),
    /// A column is of a type that cannot be read.
    #[error("the source's rows cannot be read: {0}")]
    Column(#[from] ArrowError),
    /// The planner's own columns do not hold what was asked for.
    #[error("the warehouse answered the diff with something else than was asked for")]
    Answer,
}

/// A delta that was taken in.
pub(crate) struct Delta {
    /// Rows that are there now, with their hashes.
    pub(crate) rows: Spilled,
    /// What was acknowledged of the keys of all rows.
    pub(crate) old: BaseRows,
    /// The ids of the rows, by their places.
    pub(crate) ids: Marks,
    /// Rows that are there now.
    pub(crate) present: u64,
}

/// Takes a delta in, batch by batch.
pub(crate) struct DeltaReader<'a> {
    pub(crate) mapping: &'a Mapping,
    rows: Intake,
    base: Spill,
    secret: HashSecret,
    doubts: HashSet<u64>,
    ids: MarksWriter,
    hashes: Hashes,
    place: u64,
    present: u64,
}

/// The warehouse's own columns of a batch.
struct OwnColumns {
    id: LargeStringArray,
    hash: LargeStringArray,
    old: Option<LargeStringArray>,
}

impl<'a> DeltaReader<'a> {
    /// `dir` takes what does not fit into `budget` bytes.
    pub(crate) fn new(
        mapping: &'a Mapping,
        dir: &Path,
        (parts, budget): (Parts, usize),
        secret: HashSecret,
        hashes: Hashes,
    ) -> Result<Self, DeltaError> {
        Ok(Self {
            mapping,
            rows: Intake::new(dir, parts, secret.clone(), budget),
            base: Spill::new(dir, parts, budget / 4),
            secret,
            doubts: HashSet::new(),
            ids: MarksWriter::new(dir)?,
            hashes,
            place: 0,
            present: 0,
        })
    }

    /// Rows with these ids were not acknowledged although they are in the base.
    pub(crate) fn doubt(mut self, ids: &[u64]) -> Self {
        self.doubts.extend(ids);
        self
    }

    /// Rows that came so far.
    pub(crate) fn rows(&self) -> u64 {
        self.place
    }

    /// Takes a batch, but for rows whose keys are not `wanted`. Rows whose key cannot be one are given to `bad`, with
    /// their places.
    pub(crate) fn take(
        &mut self,
        batch: &RecordBatch,
        wanted: impl Fn(&str) -> bool,
        mut bad: impl FnMut(u64, KeyError),
    ) -> Result<(), DeltaError> {
        let own = OwnColumns::of(batch)?;
        let reader = self.mapping.reader(batch)?;
        let mut cells = Vec::new();
        for row in 0..batch.num_rows() {
            self.place += 1;
            let present = own.hash.is_valid(row);
            let id = if present { read_id(&own.id, row)? } else { 0 };
            self.ids.push(id)?;
            self.present += u64::from(present);
            let key = match reader.key(row) {
                Ok(key) if !wanted(key.as_str()) => continue,
                Ok(key) => key,
                Err(error) => {
                    bad(self.place, error);
                    continue;
                }
            };
            if let Some(old) = own.old.as_ref().filter(|old| old.is_valid(row)) {
                let old = if self.doubts.contains(&id) { RowHash::UNKNOWN } else { read_hash(old, row)? };
                self.base.push(self.secret.key(key.as_bytes()), |out| {
                    out.extend_from_slice(&old.to_bytes());
                    put_key(key.as_str(), out);
                })?;
            }
            if present {
                cells.clear();
                reader.encode(row, &mut cells);
                match self.hashes {
                    Hashes::Cells => self.rows.add(self.place, &key, &cells)?,
                    Hashes::Planner => self.rows.add_hashed((self.place, read_hash(&own.hash, row)?), &key, &cells)?,
                }
            }
        }
        Ok(())
    }

    /// All batches are in. `known` keys are in the base, and `over` goes over it.
    pub(crate) fn finish(self, known: u64, over: Option<Snapshot>) -> Result<Delta, DeltaError> {
        let old = BaseRows { base: self.base.finish(), rows: known, over };
        Ok(Delta { rows: self.rows.finish(), old, ids: self.ids.finish()?, present: self.present })
    }
}

impl OwnColumns {
    fn of(batch: &RecordBatch) -> Result<Self, DeltaError> {
        let schema = batch.schema();
        let text = |name: &str| {
            // Some databases write names in capitals that are not quoted.
            let found = schema.fields().iter().position(|field| field.name().eq_ignore_ascii_case(name));
            let column = found.map(|index| cast(batch.column(index), &DataType::LargeUtf8)).transpose()?;
            Ok::<_, DeltaError>(column.map(|column| column.as_string::<i64>().clone()))
        };
        let (id, hash, old) = (text(ID)?, text(HASH)?, text(OLD)?);
        Ok(Self { id: id.ok_or(DeltaError::Answer)?, hash: hash.ok_or(DeltaError::Answer)?, old })
    }
}

fn read_id(ids: &LargeStringArray, row: usize) -> Result<u64, DeltaError> {
    let text = if ids.is_valid(row) { ids.value(row) } else { "" };
    if text.len() != ID_DIGITS {
        return Err(DeltaError::Answer);
    }
    u64::from_str_radix(text, 16).map_err(|_| DeltaError::Answer)
}

/// A hash as the warehouse writes it: 32 hexadecimal digits, or nothing if it is not known.
fn read_hash(hashes: &LargeStringArray, row: usize) -> Result<RowHash, DeltaError> {
    match hashes.value(row) {
        "" => Ok(RowHash::UNKNOWN),
        text if text.len() == 32 => u128::from_str_radix(text, 16).map(RowHash::of_row).map_err(|_| DeltaError::Answer),
        _ => Err(DeltaError::Answer),
    }
}
