//! The catalog: what all nodes must agree on. Itself a Raft group (group 0).
//!
//! CONTRACT STUB: data and signatures for `server`; the owner of `replication/` may add to, but not break, them.
//!
//! The state machine is pure: `apply` reads only the command and the state. Readers hold an immutable [`Catalog`] with
//! the definitions; the record of runs, which grows with every batch, is kept apart (`runs.rs`).
//!
//! A change that shards must hear of (a fence, a sweep, a cleared sync, a dropped collection) is an *intent*: committed
//! with the change that causes it, then carried out on every shard by entries that are idempotent, then removed. A node
//! that starts finds what was left and carries it out.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_storage::record::Dictionary;
use larder_types::api::{Counts, FieldSpec, RejectedRow, RequestInfo, RunInfo, RunKind, Scope};
use larder_types::error::ErrorCode;
use larder_types::hash::ShardCount;
use larder_types::ids::{CollectionId, FieldId, Generation, Micros, SyncSlot};
use larder_types::names::{CollectionName, FieldName, IndexName, SyncName};
use larder_types::patch::ExitMode;
use larder_types::value::ValueType;
use serde::{Deserialize, Serialize};

/// The definitions at one position of the catalog's log. Immutable: a change makes a new one and shares what is same.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The log index up to which this is true.
    pub version: u64,
    /// What was fixed when the cluster was made; `None` before.
    pub cluster: Option<ClusterSettings>,
    /// All collections.
    pub collections: BTreeMap<CollectionName, Arc<Collection>>,
    /// All API keys by id.
    pub keys: BTreeMap<String, Arc<ApiKey>>,
}

/// What is fixed when a cluster is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// A random id that no other cluster has: 32 hexadecimal digits.
    pub id: String,
    /// The seed of the placement hash.
    pub hash_seed: u64,
    /// The number of shards.
    pub shards: u16,
    /// When the cluster was made.
    pub created_at: Micros,
}

/// A collection.
#[derive(Debug)]
pub struct Collection {
    /// Its id.
    pub id: CollectionId,
    /// Its name.
    pub name: CollectionName,
    /// The name of its primary index.
    pub primary_index: IndexName,
    /// Its living fields in order of id, which is the order of their declaration.
    pub fields: Vec<Field>,
    /// Its living syncs by name.
    pub syncs: BTreeMap<SyncName, Arc<Sync>>,
    /// The names of its fields, rendered for lookups.
    pub dictionary: Arc<Dictionary>,
}

/// A field of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its id.
    pub id: FieldId,
    /// Its name.
    pub name: FieldName,
    /// What it holds.
    pub kind: ValueType,
    /// The sync that owns it.
    pub owner: SyncSlot,
}

/// A sync of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// Its slot.
    pub slot: SyncSlot,
    /// Its name.
    pub name: SyncName,
    /// The ids of its fields, in the order of its declaration.
    pub fields: Vec<FieldId>,
    /// What a sweep does.
    pub on_exit: ExitMode,
    /// The generation of its newest run; 0 before the first.
    pub generation: Generation,
    /// The newest run, if it is open or committing.
    pub open_run: Option<OpenRunState>,
    /// When the newest committed run was opened.
    pub last_good_run: Option<Micros>,
}

/// The run of a sync that takes batches or is being committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRunState {
    /// The run's id.
    pub run: String,
    /// Delta or full.
    pub kind: RunKind,
    /// False once its commit has begun.
    pub takes_batches: bool,
}

/// An API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id; `root` for the root key.
    pub id: String,
    /// SHA-256 of the whole key as presented, in hexadecimal.
    pub sha256: String,
    /// What it is for.
    pub label: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Micros,
}

/// A change of the catalog. Everything random or temporal in it was chosen by the proposer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CatalogCommand {
    /// Makes the cluster: settings and root key. Refused if done already.
    Bootstrap {
        /// The settings.
        settings: ClusterSettings,
        /// The root key, with all scopes.
        root: ApiKey,
    },
    /// Makes or alters a collection. The primary index's name cannot change.
    PutCollection {
        /// Its name.
        name: CollectionName,
        /// The primary index's name, `id` if `None` and the collection is new.
        primary_index: Option<IndexName>,
    },
    /// Drops a collection. Intent: drop it in all shards.
    DropCollection {
        /// Its name.
        name: CollectionName,
    },
    /// Declares or alters a sync. A field that another sync owns is refused (409, details `{field, owner}`); a field
    /// named twice or too many fields: 422. A changed type of a field makes a new field id. A field left out that the
    /// sync owned before is retired: lookups stop showing it, and any sync may declare the name anew.
    PutSync {
        /// The collection.
        collection: CollectionName,
        /// The sync's name.
        name: SyncName,
        /// The fields it owns, in order.
        fields: Vec<FieldSpec>,
        /// Its exit mode.
        on_exit: ExitMode,
    },
    /// Forgets a sync, its runs and fields. Intent: clear it in all shards.
    DropSync {
        /// The collection.
        collection: CollectionName,
        /// The sync.
        name: SyncName,
    },
    /// Opens a run: the next generation; an older open run of the sync becomes superseded. Intent: fence in all shards.
    OpenRun {
        /// The collection.
        collection: CollectionName,
        /// The sync.
        sync: SyncName,
        /// The run's id, chosen by the proposer, unique.
        run: String,
        /// Delta or full.
        kind: RunKind,
        /// What it means to do.
        planned: Counts,
        /// When it was opened.
        at: Micros,
    },
    /// Notes the outcome of a batch, once per (run, seq): a repeat changes nothing. Not refused after the run has ended
    /// or was superseded, since the patches were applied.
    RecordBatch {
        /// The collection.
        collection: CollectionId,
        /// The sync.
        slot: SyncSlot,
        /// The run.
        run: String,
        /// The outcome.
        outcome: BatchOutcome,
    },
    /// Begins the commit of an open run: it takes no more batches. Intent for a full run whose exit mode is not `keep`:
    /// sweep in all shards. Repeatable while the run is committing or committed.
    BeginCommit {
        /// The collection.
        collection: CollectionName,
        /// The sync.
        sync: SyncName,
        /// The run.
        run: String,
    },
    /// Ends the commit of a run whose intent, if any, was carried out. Repeatable.
    EndCommit {
        /// The collection.
        collection: CollectionName,
        /// The sync.
        sync: SyncName,
        /// The run.
        run: String,
        /// When it ended.
        at: Micros,
    },
    /// Gives a run up. Repeatable; refused once its commit has begun.
    AbortRun {
        /// The collection.
        collection: CollectionName,
        /// The sync.
        sync: SyncName,
        /// The run.
        run: String,
        /// When it ended.
        at: Micros,
    },
    /// Makes an API key.
    CreateKey(ApiKey),
    /// Revokes an API key. The root key cannot be revoked (409).
    RevokeKey {
        /// Its id.
        id: String,
    },
    /// Notes that an intent was carried out on all shards. Repeatable.
    IntentDone {
        /// The intent.
        id: u64,
        /// Records that a sweep cleared or deleted.
        swept: u64,
    },
}

/// What a batch did: kept for the debugger and for repeats of the same batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchOutcome {
    /// The batch number.
    pub seq: u32,
    /// Hash of the body as received, so that a repeat is told from another body under the same number.
    pub body_hash: u64,
    /// When it arrived.
    pub at: Micros,
    /// From arrival until all shards had applied it.
    pub latency_micros: u64,
    /// Patches in it.
    pub rows: u64,
    /// Bytes of the body as sent.
    pub bytes: u64,
    /// Patches applied.
    pub accepted: u64,
    /// What they did.
    pub successful: Counts,
    /// Patches that changed nothing.
    pub unchanged: u64,
    /// What was rejected, by what it would have done.
    pub failed: Counts,
    /// The rejected rows; the first ones only if `rejects_cut`.
    pub rejects: Vec<RejectedRow>,
    /// True if not all rejected rows are listed, because together they would be too large for an entry.
    pub rejects_cut: bool,
    /// The revision of the answer, as text.
    pub revision: String,
}

/// Why a command was refused; the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CatalogError {
    /// The code for the caller.
    pub code: ErrorCode,
    /// What is wrong and what to do.
    pub message: String,
    /// Members for the error's `details`.
    pub details: serde_json::Value,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogReply {
    /// Done; nothing more to say.
    Done,
    /// A collection or sync was made (`true`) or existed already (`false`).
    Put {
        /// Whether it is new.
        created: bool,
    },
    /// Something that shards must hear of. `run_intent` carries it out.
    Intent(u64),
    /// A run was opened; its fence is an intent.
    Opened {
        /// Its generation.
        generation: Generation,
        /// The intent.
        intent: u64,
    },
    /// A commit has begun or was done before. `intent` is `None` if no sweep is needed or it is done.
    Committing {
        /// The intent.
        intent: Option<u64>,
    },
}

impl Catalog {
    /// The number of shards, once the cluster was made.
    #[must_use]
    pub fn shard_count(&self) -> Option<ShardCount> {
        todo!()
    }
}

impl Collection {
    /// The living field with this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        todo!()
    }

    /// The sync in this slot.
    #[must_use]
    pub fn sync_in(&self, slot: SyncSlot) -> Option<&Arc<Sync>> {
        todo!()
    }
}

/// Reads the record of runs. Cheap to clone; takes a short lock, so it is for descriptions and writes, not for lookups.
#[derive(Clone)]
pub struct RunsReader {}

impl RunsReader {
    /// The kept runs of a sync, newest first.
    #[must_use]
    pub fn list(&self, collection: CollectionId, slot: SyncSlot) -> Vec<RunInfo> {
        todo!()
    }

    /// One run.
    #[must_use]
    pub fn get(&self, collection: CollectionId, slot: SyncSlot, run: &str) -> Option<RunInfo> {
        todo!()
    }

    /// The batches of a run in order of arrival: at most `limit` of those after the first `offset`.
    #[must_use]
    pub fn requests(
        &self,
        collection: CollectionId,
        slot: SyncSlot,
        run: &str,
        offset: usize,
        limit: usize,
    ) -> Vec<RequestInfo> {
        todo!()
    }

    /// The rejected rows of a run that were kept, in order of arrival: at most `limit` of those after the first
    /// `offset`. The first member of each pair is the batch number.
    #[must_use]
    pub fn rejects(
        &self,
        collection: CollectionId,
        slot: SyncSlot,
        run: &str,
        offset: usize,
        limit: usize,
    ) -> Vec<(u32, RejectedRow)> {
        todo!()
    }

    /// The outcome noted for a batch of a run, if it was.
    #[must_use]
    pub fn outcome(
        &self,
        collection: CollectionId,
        slot: SyncSlot,
        run: &str,
        seq: u32,
    ) -> Option<BatchOutcome> {
        todo!()
    }
}
