//! Batches: rows collected until there are enough of them, encoded once, and numbered.

use std::sync::atomic::{AtomicU32, Ordering};

use arrow_schema::ArrowError;
use bytes::Bytes;
use larder_types::limits::MAX_SEQ;
use larder_types::names::FieldName;
use larder_types::patch::{Nulls, Op};
use larder_types::value::{Value, ValueType};

use super::encode;
use crate::diff::hash::RowHash;
use crate::diff::join::Change;
use crate::state::journal::Intent;

/// Bytes of mapped cells and keys, before encoding, that make a batch. Large enough that a request's fixed costs
/// vanish, small enough that four in flight are nothing.
pub(crate) const BATCH_BYTES: usize = 1024 * 1024;
/// What a row costs beside its cells.
const ROW_BYTES: usize = 32;

/// One row on its way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Patch {
    pub(crate) key: String,
    pub(crate) change: Change,
    pub(crate) hash: RowHash,
    /// Its place in the query's result, from 1; 0 for a removal.
    pub(crate) number: u64,
    /// Its fields in order; none for a removal.
    pub(crate) values: Vec<Value>,
}

/// A batch on its way.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) seq: u32,
    pub(crate) op: Op,
    pub(crate) patches: Vec<Patch>,
    pub(crate) body: Bytes,
}

/// Why a batch cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    /// Arrow refused.
    #[error("rows could not be encoded: {0}")]
    Arrow(#[from] ArrowError),
    /// The run has used all its numbers.
    #[error("the run needs more than {MAX_SEQ} batches; split the sync")]
    TooMany,
}

/// Numbers and encodes batches. Shared by the thread that fills them and the one that splits them.
#[derive(Debug)]
pub(crate) struct Press {
    fields: Vec<(FieldName, ValueType, Nulls)>,
    next_seq: AtomicU32,
}

impl Press {
    pub(crate) fn new(fields: Vec<(FieldName, ValueType, Nulls)>) -> Self {
        Self { fields, next_seq: AtomicU32::new(1) }
    }

    /// Encodes patches of one operation under the next number.
    ///
    /// # Errors
    /// When the numbers are used up.
    pub(crate) fn batch(&self, op: Op, patches: Vec<Patch>) -> Result<Batch, BatchError> {
        let body = encode::body(op, &patches, &self.fields)?;
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        if seq > MAX_SEQ {
            return Err(BatchError::TooMany);
        }
        Ok(Batch { seq, op, patches, body })
    }
}

impl Batch {
    /// What the journal is to hold before the batch leaves.
    pub(crate) fn intents(&self) -> impl Iterator<Item = (&str, Intent)> {
        let intent = |patch: &Patch| if self.op == Op::Upsert { Intent::Upsert(patch.hash) } else { Intent::Removal };
        self.patches.iter().map(move |patch| (patch.key.as_str(), intent(patch)))
    }
}

/// Collects rows of one operation.
pub(crate) struct Collector {
    op: Op,
    most: usize,
    patches: Vec<Patch>,
    bytes: usize,
}

impl Collector {
    /// A batch has `most` rows at most; [`larder_types::limits::MAX_BATCH_ROWS`] is all that a cluster takes.
    pub(crate) fn new(op: Op, most: usize) -> Self {
        Self { op, most, patches: Vec::new(), bytes: 0 }
    }

    /// Adds a row whose cells take `bytes`. Returns the rows of a full batch.
    pub(crate) fn add(&mut self, patch: Patch, bytes: usize) -> Option<Vec<Patch>> {
        self.bytes += bytes + patch.key.len() + ROW_BYTES;
        self.patches.push(patch);
        let is_full = self.patches.len() >= self.most || self.bytes >= BATCH_BYTES;
        if is_full { Some(self.take()) } else { None }
    }

    /// The rows that are left.
    pub(crate) fn take(&mut self) -> Vec<Patch> {
        self.bytes = 0;
        std::mem::take(&mut self.patches)
    }

    pub(crate) fn op(&self) -> Op {
        self.op
    }
}

#[cfg(test)]
mod tests {
    use larder_types::limits::MAX_BATCH_ROWS;

    use super::*;

    fn patch() -> Patch {
        Patch { key: "k".into(), change: Change::Added, hash: RowHash::UNKNOWN, number: 1, values: Vec::new() }
    }

    #[test]
    fn batches_are_full_by_rows_or_by_bytes() {
        let mut collector = Collector::new(Op::Upsert, MAX_BATCH_ROWS);
        let rows = (1..).find(|_| collector.add(patch(), 1).is_some());
        assert_eq!(rows, Some(MAX_BATCH_ROWS));
        let rows = (1..).find(|_| collector.add(patch(), BATCH_BYTES / 4).is_some());
        assert_eq!(rows, Some(4));
        assert!(collector.take().is_empty());
    }

    #[test]
    fn numbers_run_out_with_an_error() {
        let press = Press { fields: Vec::new(), next_seq: AtomicU32::new(MAX_SEQ) };
        assert_eq!(press.batch(Op::Clear, vec![patch()]).unwrap().seq, MAX_SEQ);
        assert!(matches!(press.batch(Op::Clear, vec![patch()]), Err(BatchError::TooMany)));
    }
}
