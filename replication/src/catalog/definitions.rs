//! The definitions that lookups and writes go by: collections, fields, syncs, API keys.
//!
//! Invariants: a [`Catalog`] that was handed out never changes; fields stand in order of id, every field has exactly one
//! living owner, and a sync lists exactly the fields that it owns. Only `state.rs` and `syncs.rs` make new ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_storage::record::Dictionary;
use larder_types::api::{RunKind, Scope};
use larder_types::hash::ShardCount;
use larder_types::ids::{CollectionId, FieldId, Generation, Micros, SyncSlot};
use larder_types::names::{CollectionName, FieldName, IndexName, SyncName};
use larder_types::patch::ExitMode;
use larder_types::value::ValueType;
use serde::{Deserialize, Serialize};

use super::cluster_map::ClusterMap;

/// The definitions at one position of the catalog's log. Immutable: a change makes a new one and shares what is same.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// The log index of the newest change in it. It stays true until a greater version is published: entries that
    /// change no definition, such as batches of a run, publish none.
    pub version: u64,
    /// What was fixed when the cluster was made; `None` before.
    pub cluster: Option<ClusterSettings>,
    /// All collections.
    pub collections: BTreeMap<CollectionName, Arc<Collection>>,
    /// All API keys by id.
    pub keys: BTreeMap<String, Arc<ApiKey>>,
    /// The nodes and where replicas are; without nodes before it was made.
    pub map: Arc<ClusterMap>,
}

/// What is fixed when a cluster is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[derive(Debug, Clone)]
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
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Its id.
    pub id: FieldId,
    /// Its name.
    pub name: FieldName,
    /// What it holds. A field that is declared with another type becomes a new field with a new id.
    pub kind: ValueType,
    /// The sync that owns it.
    pub owner: SyncSlot,
}

/// A sync of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
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

impl Catalog {
    /// The number of shards, once the cluster was made.
    #[must_use]
    pub fn shard_count(&self) -> Option<ShardCount> {
        self.cluster.as_ref().and_then(|cluster| ShardCount::new(cluster.shards))
    }
}

impl Collection {
    /// The living field with this name. Looks through all fields: whoever reads many rows asks once for each name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name.as_str() == name)
    }

    /// The sync in this slot.
    #[must_use]
    pub fn sync_in(&self, slot: SyncSlot) -> Option<&Arc<Sync>> {
        self.syncs.values().find(|sync| sync.slot == slot)
    }
}
