//! Rows on their way from a batch's body to the shards: checked one by one, bad ones set aside with their reason, good
//! ones encoded for the shard that their key belongs to.
//!
//! Invariants: two patches of one key keep their order, because they go to one shard in the order of rows; nothing is
//! proposed before the whole body was read; no message holds a value.

use std::collections::HashMap;

use bytes::Bytes;
use larder_replication::catalog::{Collection, Sync};
use larder_storage::command::{PatchEncoder, PatchOrigin};
use larder_types::api::RejectedRow;
use larder_types::convert::ConvertError;
use larder_types::error::ErrorCode;
use larder_types::hash::{KeyHash, ShardCount};
use larder_types::ids::{FieldId, ShardId};
use larder_types::key::{Key, KeyError};
use larder_types::limits::{MAX_BATCH_BYTES, MAX_BATCH_ROWS, MAX_RECORD_BYTES};
use larder_types::patch::{Change, Op, Patch};
use larder_types::value::{Value, ValueType};

use crate::error::ApiError;

/// Bytes of one log entry: large enough to amortise an fsync, small enough that heartbeats never wait behind it.
const ENTRY_BYTES: usize = 192 * 1024;

/// Bytes of values in one batch. More than the body may have, because text takes more room than numbers do; a bound all
/// the same, because in Arrow thousands of rows can share one large value of a dictionary.
const MAX_VALUE_BYTES: usize = 2 * MAX_BATCH_BYTES;

/// The code of a row whose record would be too large, whether found here or by the shard.
pub(super) const TOO_LARGE: &str = "record_too_large";

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: &'static str,
    pub(super) field: Option<String>,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, field: None, message: message.into() }
    }

    /// The row is no patch at all.
    pub(super) fn patch(message: impl Into<String>) -> Self {
        Self::new("invalid_patch", message)
    }

    pub(super) fn key(error: KeyError) -> Self {
        Self::new("invalid_key", error.to_string())
    }

    pub(super) fn in_field(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }

    /// The record would be too large.
    pub(super) fn too_large() -> Self {
        Self::new(TOO_LARGE, format!("the record would have more than {MAX_RECORD_BYTES} bytes"))
    }
}

/// One row of a body.
#[derive(Debug, PartialEq)]
pub(super) enum Row {
    Good(Patch),
    Bad { key: Option<Key>, op: Op, fault: Fault },
}

/// The fields of a collection as a sync's rows may name them.
pub(super) struct SyncFields<'c> {
    by_name: HashMap<&'c str, Known<'c>>,
}

/// A field of the collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known<'c> {
    /// The sync owns it.
    Own(FieldId, ValueType),
    /// This other sync owns it.
    Foreign(&'c str),
}

impl<'c> SyncFields<'c> {
    pub(super) fn new(collection: &'c Collection, sync: &Sync) -> Self {
        let known = |field: &'c larder_replication::catalog::Field| {
            if field.owner == sync.slot {
                return Known::Own(field.id, field.kind);
            }
            Known::Foreign(collection.sync_in(field.owner).map_or("", |owner| owner.name.as_str()))
        };
        Self { by_name: collection.fields.iter().map(|field| (field.name.as_str(), known(field))).collect() }
    }

    pub(super) fn get(&self, name: &str) -> Option<Known<'c>> {
        self.by_name.get(name).copied()
    }

    /// The field that a row may set.
    pub(super) fn own(&self, name: &str) -> Result<(FieldId, ValueType), Fault> {
        match self.get(name) {
            Some(Known::Own(id, kind)) => Ok((id, kind)),
            Some(Known::Foreign(owner)) => {
                let message = format!("the field belongs to the sync `{owner}`");
                Err(Fault::new("field_owned_by_other_sync", message).in_field(name))
            }
            None => Err(Fault::new("unknown_field", "the sync does not declare the field").in_field(name)),
        }
    }
}

/// A value as its field wants it.
pub(super) fn convert(value: Value, kind: ValueType, field: &str) -> Result<Value, Fault> {
    value.convert(kind).map_err(|error| {
        let code = if matches!(error, ConvertError::Mismatch { .. }) { "type_mismatch" } else { "invalid_value" };
        Fault::new(code, error.to_string()).in_field(field)
    })
}

/// A row that was rejected, and what it would have done.
#[derive(Debug, PartialEq)]
pub(super) struct Rejected {
    pub(super) op: Op,
    pub(super) row: RejectedRow,
}

/// Where rows go: a good one to its shard's encoder, a bad one among the rejected.
pub(super) struct Sorted {
    origin: PatchOrigin,
    place: Placement,
    parts: Vec<Option<Part>>,
    rejected: Vec<Rejected>,
    rows: u64,
    bytes: usize,
}

/// How keys are placed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placement {
    pub(super) seed: u64,
    pub(super) shards: ShardCount,
}

impl Placement {
    pub(super) fn of(&self, key: &Key) -> (KeyHash, ShardId) {
        let hash = KeyHash::of(self.seed, key.as_bytes());
        (hash, self.shards.shard_of(hash))
    }
}

struct Part {
    encoder: PatchEncoder,
    rows: Vec<PlacedRow>,
}

/// Which row a patch of a shard came from.
#[derive(Debug, Clone)]
pub(super) struct PlacedRow {
    pub(super) row: u64,
    pub(super) op: Op,
    pub(super) key: Key,
}

/// A batch, ready to be proposed.
pub(super) struct Prepared {
    pub(super) rows: u64,
    pub(super) rejected: Vec<Rejected>,
    /// For each shard concerned its entries, and the rows of its patches in the order in which they were added.
    pub(super) shards: Vec<(ShardId, Vec<Bytes>, Vec<PlacedRow>)>,
}

impl Sorted {
    pub(super) fn new(origin: PatchOrigin, place: Placement) -> Self {
        let parts = place.shards.all().map(|_| None).collect();
        Self { origin, place, parts, rejected: Vec::new(), rows: 0, bytes: 0 }
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// `payload_too_large` when the batch has more rows or values than one may have.
    pub(super) fn push(&mut self, row: Row) -> Result<(), ApiError> {
        let number = self.rows;
        self.rows += 1;
        if self.rows > MAX_BATCH_ROWS as u64 {
            return Err(too_many_rows());
        }
        match row {
            Row::Bad { key, op, fault } => self.reject(number, key.as_ref(), op, fault),
            Row::Good(patch) => {
                let (op, weight) = measure(&patch);
                if weight > MAX_RECORD_BYTES {
                    self.reject(number, Some(&patch.key), op, Fault::too_large());
                    return Ok(());
                }
                self.bytes += weight;
                if self.bytes > MAX_VALUE_BYTES {
                    let message = format!("the values of a batch may have {MAX_VALUE_BYTES} bytes together");
                    return Err(ApiError::new(ErrorCode::PayloadTooLarge, message));
                }
                self.accept(number, op, patch);
            }
        }
        Ok(())
    }

    fn accept(&mut self, row: u64, op: Op, patch: Patch) {
        let (_, shard) = self.place.of(&patch.key);
        let new = || Part { encoder: PatchEncoder::new(self.origin, ENTRY_BYTES), rows: Vec::new() };
        let part = self.parts[usize::from(shard.0)].get_or_insert_with(new);
        match &patch.change {
            Change::Upsert(fields) => part.encoder.upsert(&patch.key, fields),
            Change::Clear => part.encoder.clear(&patch.key),
            Change::Delete => part.encoder.delete(&patch.key),
        }
        part.rows.push(PlacedRow { row, op, key: patch.key });
    }

    fn reject(&mut self, row: u64, key: Option<&Key>, op: Op, fault: Fault) {
        self.rejected.push(Rejected { op, row: rejected_row(row, key, fault) });
    }

    pub(super) fn finish(self) -> Prepared {
        let shards = self.place.shards.all().zip(self.parts);
        let shards = shards.filter_map(|(shard, part)| {
            let Part { encoder, rows } = part?;
            Some((shard, encoder.finish(), rows))
        });
        Prepared { rows: self.rows, rejected: self.rejected, shards: shards.collect() }
    }
}

pub(super) fn too_many_rows() -> ApiError {
    let message = format!("a batch may hold {MAX_BATCH_ROWS} patches at most: send several");
    ApiError::new(ErrorCode::PayloadTooLarge, message)
}

pub(super) fn rejected_row(row: u64, key: Option<&Key>, fault: Fault) -> RejectedRow {
    let Fault { code, field, message } = fault;
    RejectedRow { row, key: key.map(|key| key.as_str().to_owned()), code: code.to_owned(), field, message }
}

fn measure(patch: &Patch) -> (Op, usize) {
    match &patch.change {
        Change::Upsert(fields) => {
            let values: usize = fields.iter().filter_map(|(_, value)| value.as_ref()).map(weight).sum();
            (Op::Upsert, patch.key.as_bytes().len() + values)
        }
        Change::Clear => (Op::Clear, 0),
        Change::Delete => (Op::Delete, 0),
    }
}

/// About the bytes that a value takes in a record; never more than it does take, so that no record that fits is refused.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Binary(bytes) => bytes.len(),
        Value::List(fragment) | Value::Struct(fragment) => fragment.as_str().len(),
        _ => 1,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use larder_replication::catalog::Field;
    use larder_types::ids::{CollectionId, Generation, SyncSlot};
    use larder_types::names::{CollectionName, FieldName, IndexName, SyncName};
    use larder_types::patch::ExitMode;

    use super::*;

    /// A collection whose sync `mine` owns these fields and whose sync `theirs` owns one named `foreign`.
    pub(in crate::batch) fn collection(fields: &[(&str, ValueType)]) -> (Collection, Arc<Sync>) {
        let sync = |slot, name: &str| {
            Arc::new(Sync {
                slot: SyncSlot(slot),
                name: SyncName::new(name).unwrap(),
                fields: Vec::new(),
                on_exit: ExitMode::Keep,
                generation: Generation(1),
                open_run: None,
                last_good_run: None,
            })
        };
        let mine = fields.iter().map(|(name, kind)| (*name, *kind, 0));
        let fields = mine.chain([("foreign", ValueType::Any, 1)]).zip(1..).map(|((name, kind, owner), id)| Field {
            id: FieldId(id),
            name: FieldName::new(name).unwrap(),
            kind,
            owner: SyncSlot(owner),
        });
        let syncs = [sync(0, "mine"), sync(1, "theirs")];
        let mine = Arc::clone(&syncs[0]);
        let collection = Collection {
            id: CollectionId(1),
            name: CollectionName::new("c").unwrap(),
            primary_index: IndexName::new("id").unwrap(),
            fields: fields.collect(),
            syncs: syncs.into_iter().map(|sync| (sync.name.clone(), sync)).collect::<BTreeMap<_, _>>(),
            dictionary: Arc::default(),
        };
        (collection, mine)
    }

    pub(in crate::batch) fn sorted() -> Sorted {
        let origin =
            PatchOrigin { collection: CollectionId(1), slot: SyncSlot(0), generation: Generation(1), seq: 1, at: 0 };
        Sorted::new(origin, Placement { seed: 7, shards: ShardCount::new(4).unwrap() })
    }

    fn upsert(key: &str, values: Vec<Value>) -> Row {
        let fields = values.into_iter().zip(1..).map(|(value, id)| (FieldId(id), Some(value))).collect();
        Row::Good(Patch { key: Key::new(key).unwrap(), change: Change::Upsert(fields) })
    }

    #[test]
    fn rows_go_to_the_shard_of_their_key_in_order() {
        let mut sorted = sorted();
        for round in 0..3 {
            for key in 0..50 {
                sorted.push(upsert(&format!("k{key}"), vec![Value::Int(round)])).unwrap();
            }
        }
        let prepared = sorted.finish();
        assert_eq!(prepared.rows, 150);
        assert_eq!(prepared.shards.iter().map(|(_, _, rows)| rows.len()).sum::<usize>(), 150);
        let place = Placement { seed: 7, shards: ShardCount::new(4).unwrap() };
        for (shard, entries, rows) in &prepared.shards {
            assert!(!entries.is_empty());
            assert!(rows.windows(2).all(|pair| pair[0].row < pair[1].row));
            assert!(rows.iter().all(|row| place.of(&row.key).1 == *shard));
        }
    }

    #[test]
    fn the_number_of_rows_is_bounded() {
        let mut sorted = sorted();
        for _ in 0..MAX_BATCH_ROWS {
            sorted.push(upsert("k", vec![])).unwrap();
        }
        assert_eq!(sorted.push(upsert("k", vec![])).unwrap_err().code, ErrorCode::PayloadTooLarge);
    }

    #[test]
    fn a_record_that_cannot_fit_is_rejected_alone() {
        let mut sorted = sorted();
        let text = |len: usize| vec![Value::String("x".repeat(len))];
        sorted.push(upsert("k", text(MAX_RECORD_BYTES - 1))).unwrap();
        sorted.push(upsert("k", text(MAX_RECORD_BYTES))).unwrap();
        let prepared = sorted.finish();
        assert_eq!(prepared.rejected.len(), 1);
        assert_eq!((prepared.rejected[0].row.row, prepared.rejected[0].row.code.as_str()), (1, TOO_LARGE));
    }

    #[test]
    fn values_that_many_rows_share_are_bounded() {
        let mut sorted = sorted();
        let large = vec![Value::String("x".repeat(MAX_RECORD_BYTES / 2))];
        let error = (0..MAX_BATCH_ROWS).find_map(|_| sorted.push(upsert("k", large.clone())).err()).unwrap();
        assert_eq!(error.code, ErrorCode::PayloadTooLarge);
    }

    #[test]
    fn fields_of_others_and_unknown_ones_are_told_apart() {
        let (collection, sync) = collection(&[("n", ValueType::Int)]);
        let fields = SyncFields::new(&collection, &sync);
        assert_eq!(fields.own("n"), Ok((FieldId(1), ValueType::Int)));
        let foreign = fields.own("foreign").unwrap_err();
        assert_eq!(foreign.code, "field_owned_by_other_sync");
        assert!(foreign.message.contains("theirs"));
        assert_eq!(fields.own("nope").unwrap_err().code, "unknown_field");
    }

    #[test]
    fn conversions_that_fail_name_the_field_and_no_value() {
        let fault = convert(Value::String("secret".into()), ValueType::Int, "n").unwrap_err();
        assert_eq!((fault.code, fault.field.as_deref()), ("type_mismatch", Some("n")));
        assert!(!fault.message.contains("secret"));
        assert_eq!(convert(Value::Float(f64::NAN), ValueType::Any, "n").unwrap_err().code, "invalid_value");
    }
}
