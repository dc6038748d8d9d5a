//! Bodies of the HTTP interface that both server and loader speak.
//!
//! Requests refuse members that they do not know, so that a misspelt option is an error and not a surprise. Answers
//! ignore them, so that an older loader can talk to a newer server.

use serde::{Deserialize, Serialize};

use crate::ids::Generation;
use crate::names::{CollectionName, FieldName, IndexName, SyncName};
use crate::patch::ExitMode;
use crate::value::ValueType;

/// The media type of a batch of patches, one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";
/// The media type of a batch of patches as an Arrow IPC stream.
pub const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
/// The Arrow column that holds the primary key of each patch.
pub const KEY_COLUMN: &str = "_key";
/// The Arrow column that holds the [`crate::patch::Op`] of each patch; without it, or null: `upsert`.
pub const OP_COLUMN: &str = "_op";
/// The Arrow extension name, in the field metadata `ARROW:extension:name`, of text columns that hold JSON.
pub const ARROW_JSON: &str = "arrow.json";
/// The key, in the field metadata of a column, of the word for what its nulls mean, see [`Nulls`](crate::patch::Nulls).
pub const ARROW_NULLS: &str = "larder.nulls";
/// The name of the primary index unless the collection names another.
pub const DEFAULT_INDEX: &str = "id";

/// `PUT /v1/collections/{c}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutCollection {
    /// The name of the primary index; `id` if left out when the collection is made, as it was if left out later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_index: Option<IndexName>,
}

/// `PUT /v1/collections/{c}/syncs/{sync}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutSync {
    /// The fields that the sync owns, in the order in which lookups show them.
    pub fields: Vec<FieldSpec>,
    /// What a full run's sweep does to records that the run did not confirm.
    #[serde(default)]
    pub on_exit: ExitMode,
}

/// One field of a sync: a bare name, or a name and a type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FieldSpecForm", into = "FieldSpecForm")]
pub struct FieldSpec {
    /// The field's name.
    pub name: FieldName,
    /// What it holds.
    pub kind: ValueType,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum FieldSpecForm {
    Name(FieldName),
    Typed(TypedField),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedField {
    name: FieldName,
    #[serde(rename = "type", default)]
    kind: ValueType,
}

impl From<FieldSpecForm> for FieldSpec {
    fn from(form: FieldSpecForm) -> Self {
        match form {
            FieldSpecForm::Name(name) => Self { name, kind: ValueType::Any },
            FieldSpecForm::Typed(TypedField { name, kind }) => Self { name, kind },
        }
    }
}

impl From<FieldSpec> for FieldSpecForm {
    fn from(spec: FieldSpec) -> Self {
        match spec.kind {
            ValueType::Any => Self::Name(spec.name),
            kind => Self::Typed(TypedField { name: spec.name, kind }),
        }
    }
}

/// How a run treats what it does not mention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// Only what changed is sent; what is not mentioned stays.
    Delta,
    /// Every row is sent; on commit the sync's exit mode is applied to records that it wrote earlier and this run did
    /// not confirm.
    Full,
}

/// Numbers of patches by what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Counts {
    /// Records made, or given fields by this sync for the first time.
    pub added: u64,
    /// Records whose fields of this sync changed.
    pub changed: u64,
    /// Records that left: cleared or deleted.
    pub removed: u64,
}

/// `POST /v1/collections/{c}/syncs/{sync}/runs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRun {
    /// Delta or full.
    pub kind: RunKind,
    /// What the run means to do, for the record.
    #[serde(default)]
    pub planned: Counts,
}

/// The answer to [`OpenRun`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedRun {
    /// The run's id.
    pub run: String,
    /// Its generation.
    pub generation: Generation,
}

/// The answer to `POST …/runs/{run}/batches/{seq}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// Patches that are on disk and applied.
    pub accepted: u64,
    /// Patches that are not, each with its reason, in order of rows.
    pub rejected: Vec<RejectedRow>,
    /// The position at which a reader sees the batch.
    pub revision: String,
}

/// A patch that was not applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedRow {
    /// Its place in the batch, from 0.
    pub row: u64,
    /// Its key, if it had one that could be read.
    pub key: Option<String>,
    /// Why, in one word: `invalid_key`, `unknown_field`, `type_mismatch`, `record_too_large`, …
    pub code: String,
    /// The field at fault, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Why, in a sentence that holds no values.
    pub message: String,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Takes batches.
    Open,
    /// Takes no more batches; a full run's sweep is under way.
    Committing,
    /// Ended well.
    Committed,
    /// Given up by its loader. What it has applied stays.
    Aborted,
    /// Fenced off by a newer run.
    Superseded,
}

/// A run: `GET …/runs`, `GET …/runs/{run}`, and the answer to commit and abort. Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The run's id.
    pub run: String,
    /// Its generation.
    pub generation: Generation,
    /// Delta or full.
    pub kind: RunKind,
    /// Where it stands.
    pub state: RunState,
    /// When it was opened.
    pub opened_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
    /// What it meant to do.
    pub planned: Counts,
    /// What it did.
    pub successful: Counts,
    /// What was rejected.
    pub failed: Counts,
    /// Batches acknowledged.
    pub batches: u64,
    /// Patches that changed nothing.
    pub unchanged: u64,
    /// Records that the sweep of a full run cleared or deleted; they count as removed too.
    pub swept: u64,
}

/// One acknowledged batch of a run: `GET …/runs/{run}/requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestInfo {
    /// The batch number.
    pub seq: u32,
    /// When it arrived, RFC 3339.
    pub at: String,
    /// Patches in it.
    pub rows: u64,
    /// Bytes of its body as sent.
    pub bytes: u64,
    /// Patches applied.
    pub accepted: u64,
    /// Patches rejected.
    pub rejected: u64,
    /// The HTTP status of the answer.
    pub status: u16,
    /// Milliseconds from arrival to answer.
    pub latency_ms: u64,
}

/// A collection: `GET /v1/collections/{c}`, and as an element of `GET /v1/collections`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionInfo {
    /// Its name.
    pub name: CollectionName,
    /// Its indexes, the primary first.
    pub indexes: Vec<IndexInfo>,
    /// Its fields in the order in which lookups show them.
    pub fields: Vec<FieldInfo>,
    /// Its syncs.
    pub syncs: Vec<SyncInfo>,
    /// Records.
    pub records: u64,
    /// Bytes of memory that it takes, over all shards: the sum of `usage`.
    pub bytes: u64,
    /// What these bytes are for.
    #[serde(default)]
    pub usage: CollectionUsage,
    /// Its position.
    pub revision: String,
}

/// Bytes of memory of a collection, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CollectionUsage {
    /// The content of its records.
    pub record_bytes: u64,
    /// The tables in which records are found.
    pub index_bytes: u64,
    /// The texts that its records share.
    pub dictionary_bytes: u64,
    /// What is remembered of the batches of open runs, to answer repeats.
    pub batch_bytes: u64,
}

/// An index of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexInfo {
    /// Its name.
    pub name: IndexName,
    /// True for the index by which the collection was made.
    pub primary: bool,
}

/// A field of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldInfo {
    /// Its name.
    pub name: FieldName,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: ValueType,
    /// The sync that owns it.
    pub sync: SyncName,
}

/// A sync of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncInfo {
    /// Its name.
    pub name: SyncName,
    /// Its exit mode.
    pub on_exit: ExitMode,
    /// The fields it owns.
    pub fields: Vec<FieldName>,
    /// The generation of its newest run; 0 before the first.
    pub generation: Generation,
    /// Records in which this sync has fields.
    pub records: u64,
    /// When the newest committed run was opened, RFC 3339.
    pub last_good_run: Option<String>,
    /// Seconds since then.
    pub age_seconds: Option<u64>,
}

/// What an API key allows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// Everything.
    Admin,
    /// Lookups and descriptions, of one collection or of all.
    Read(Option<CollectionName>),
    /// Syncs, runs and batches, of one collection or of all.
    Write(Option<CollectionName>),
}

impl TryFrom<String> for Scope {
    type Error = String;

    /// Reads `admin`, `read`, `read:planes`, `write`, `write:planes`.
    fn try_from(text: String) -> Result<Self, String> {
        let (word, collection) = match text.split_once(':') {
            Some((word, name)) => (word, Some(CollectionName::new(name).map_err(|e| e.to_string())?)),
            None => (text.as_str(), None),
        };
        match (word, collection) {
            ("admin", None) => Ok(Self::Admin),
            ("read", collection) => Ok(Self::Read(collection)),
            ("write", collection) => Ok(Self::Write(collection)),
            _ => Err(format!("`{text}` is no scope; known: admin, read, read:COLLECTION, write, write:COLLECTION")),
        }
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Admin => "admin".into(),
            Scope::Read(None) => "read".into(),
            Scope::Read(Some(name)) => format!("read:{name}"),
            Scope::Write(None) => "write".into(),
            Scope::Write(Some(name)) => format!("write:{name}"),
        }
    }
}

/// `POST /v1/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// What the key is for, for the people who see the list: up to 128 bytes.
    #[serde(default)]
    pub label: String,
    /// What it allows; at least one.
    pub scopes: Vec<Scope>,
}

/// A key as the list shows it: `GET /v1/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Its id, which is no secret.
    pub id: String,
    /// What it is for.
    pub label: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

/// The answer to [`CreateKey`]; the only time that the secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedKey {
    /// The whole key: what goes behind `Authorization: Bearer`.
    pub key: String,
    /// The key as the list shows it.
    #[serde(flatten)]
    pub info: KeyInfo,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_plainly_or_with_a_type() {
        let body = r#"{"fields":["name",{"name":"ltv","type":"decimal"}],"on_exit":"clear"}"#;
        let sync: PutSync = serde_json::from_str(body).unwrap();
        assert_eq!(sync.fields[0].kind, ValueType::Any);
        assert_eq!(sync.fields[1].kind, ValueType::Decimal);
        assert_eq!(sync.on_exit, ExitMode::Clear);
        assert_eq!(serde_json::to_string(&sync).unwrap(), body);
    }

    #[test]
    fn unknown_members_of_requests_are_refused() {
        assert!(serde_json::from_str::<PutSync>(r#"{"fields":[],"onexit":"clear"}"#).is_err());
        assert!(serde_json::from_str::<OpenRun>(r#"{"kind":"delta","plan":{}}"#).is_err());
        assert!(serde_json::from_str::<PutCollection>(r#"{"primary":"id"}"#).is_err());
    }

    #[test]
    fn scopes_are_words() {
        for word in ["admin", "read", "read:planes", "write", "write:planes"] {
            assert_eq!(String::from(Scope::try_from(word.to_owned()).unwrap()), word);
        }
        for bad in ["", "all", "admin:planes", "read:", "write:a b"] {
            assert!(Scope::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
