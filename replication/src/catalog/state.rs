//! The state machine: applies commands in log order and publishes what they make of the catalog.
//!
//! Invariants: pure, so that replicas agree: `apply` reads the command and the state, no clock, no configuration, no
//! randomness, and iterates in order of keys. A refused command changes nothing: everything is checked before anything
//! is changed. Ids of collections, fields, syncs and intents ascend and are never used twice.
//!
//! Commands of collections and API keys are here, those of syncs in `syncs.rs`, those of runs in `lifecycle.rs`,
//! those of nodes and replicas in `membership.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use larder_types::api::DEFAULT_INDEX;
use larder_types::error::ErrorCode;
use larder_types::hash::ShardCount;
use larder_types::ids::{CollectionId, SyncSlot};
use larder_types::names::{CollectionName, IndexName, SyncName};
use serde::{Deserialize, Serialize};

use super::command::{CatalogCommand, CatalogReply};
use super::definitions::{ApiKey, Catalog, ClusterSettings, Collection, Sync};
use super::error::CatalogError;
use super::intent::{Intent, IntentAction, Intents, IntentsReader};
use super::runs::{RunRecord, RunsReader};

/// The id of the root key, which cannot be revoked.
pub const ROOT_KEY_ID: &str = "root";

/// Most collections at a time: every change of a definition copies one pointer for each.
pub const MAX_COLLECTIONS: usize = 1024;

/// Most API keys at a time: every change of a definition copies one pointer for each.
pub const MAX_KEYS: usize = 4096;

/// Longest label of an API key in bytes.
pub const MAX_LABEL_BYTES: usize = 128;

/// Most scopes of an API key: each request may look at all of them.
pub const MAX_SCOPES: usize = 64;

/// Beyond this many pending intents no collection or sync is made: whoever makes and drops them in turn is faster than
/// the shards.
pub(crate) const MAX_PENDING_INTENTS: usize = 10_000;

pub(crate) type Applied = Result<CatalogReply, CatalogError>;

/// The catalog, as whoever applies its log owns it.
#[derive(Debug, Default)]
pub struct CatalogState {
    pub(crate) applied: u64,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) counters: BTreeMap<CollectionId, Counters>,
    pub(crate) next_collection: u32,
    pub(crate) intents: Intents,
    pub(crate) runs: Arc<RwLock<RunRecord>>,
}

/// The ids of a collection that were not used yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counters {
    /// The next field's.
    pub(crate) next_field: u16,
    /// The next sync's.
    pub(crate) next_slot: u8,
}

impl CatalogState {
    /// Applies the command at this log index, which must be greater than all before.
    ///
    /// # Errors
    /// Why the command was refused: the state is then as before, and every replica refuses it in the same way.
    pub fn apply(&mut self, index: u64, command: &CatalogCommand) -> Applied {
        assert!(index > self.applied, "catalog entry {index} is applied after {}", self.applied);
        self.applied = index;
        if self.catalog.cluster.is_none() && !matches!(command, CatalogCommand::Bootstrap { .. }) {
            return Err(CatalogError::new(ErrorCode::ShardUnavailable, "the cluster has not been made yet"));
        }
        match command {
            CatalogCommand::Bootstrap { settings, root } => self.bootstrap(settings, root),
            CatalogCommand::PutCollection { name, primary_index } => self.put_collection(name, primary_index.as_ref()),
            CatalogCommand::DropCollection { name } => self.drop_collection(name),
            CatalogCommand::PutSync { collection, name, fields, on_exit } => {
                self.put_sync(collection, name, fields, *on_exit)
            }
            CatalogCommand::DropSync { collection, name } => self.drop_sync(collection, name),
            CatalogCommand::OpenRun { collection, sync, run, kind, planned, at } => {
                self.open_run((collection, sync), run, *kind, *planned, *at)
            }
            CatalogCommand::RecordBatch { collection, slot, run, outcome } => {
                self.record_batch((*collection, *slot), run, outcome)
            }
            CatalogCommand::BeginCommit { collection, sync, run } => self.begin_commit((collection, sync), run),
            CatalogCommand::EndCommit { collection, sync, run, at } => self.end_commit((collection, sync), run, *at),
            CatalogCommand::AbortRun { collection, sync, run, at } => self.abort_run((collection, sync), run, *at),
            CatalogCommand::CreateKey(key) => self.create_key(key),
            CatalogCommand::RevokeKey { id } => self.revoke_key(id),
            CatalogCommand::IntentDone { id, swept } => self.intent_done(*id, *swept),
            CatalogCommand::FormCluster { replication_factor, contact, replicas, at } => {
                self.form_cluster(*replication_factor, contact, replicas, *at)
            }
            CatalogCommand::JoinNode { contact, at } => self.join_node(contact, *at),
            CatalogCommand::UpdateNode { node, contact } => self.update_node(*node, contact),
            CatalogCommand::SetNodeState { node, state } => self.set_node_state(*node, *state),
            CatalogCommand::StartChange { group, wanted } => self.start_change(*group, *wanted),
            CatalogCommand::EndChange { group, change, done } => self.end_change(*group, *change, *done),
        }
    }

    /// Notes that the log has passed an entry that does not concern the state (blank, membership).
    pub fn advance(&mut self, index: u64) {
        assert!(index >= self.applied, "catalog entry {index} is passed after {}", self.applied);
        self.applied = index;
    }

    /// The log index of the last entry applied or passed.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The newest definitions. The same pointer as before if the entries since then changed none.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog)
    }

    /// A reader of the record of runs.
    #[must_use]
    pub fn runs(&self) -> RunsReader {
        RunsReader::new(Arc::clone(&self.runs))
    }

    /// The pending intents in order of id.
    #[must_use]
    pub fn intents(&self) -> Vec<Intent> {
        self.intents.reader().list()
    }

    /// A reader of the pending intents.
    #[must_use]
    pub fn intents_reader(&self) -> IntentsReader {
        self.intents.reader()
    }

    fn bootstrap(&mut self, settings: &ClusterSettings, root: &ApiKey) -> Applied {
        if let Some(cluster) = &self.catalog.cluster {
            return Err(conflict(format!("the cluster was made already; its id is {}", cluster.id)));
        }
        let mut problems = problems_of_key(root);
        if ShardCount::new(settings.shards).is_none() {
            problems.push(format!("{} shards: must be a power of two from 1 to 1024", settings.shards));
        }
        if root.id != ROOT_KEY_ID {
            problems.push(format!("the root key's id is `{}`, must be `{ROOT_KEY_ID}`", root.id));
        }
        refuse_any(&problems)?;
        let catalog = self.edit();
        catalog.cluster = Some(settings.clone());
        catalog.keys.insert(root.id.clone(), Arc::new(root.clone()));
        Ok(CatalogReply::Done)
    }

    fn put_collection(&mut self, name: &CollectionName, primary_index: Option<&IndexName>) -> Applied {
        if let Some(collection) = self.catalog.collections.get(name) {
            return match primary_index {
                Some(asked) if *asked != collection.primary_index => Err(conflict(format!(
                    "the primary index of collection `{name}` is `{}` and cannot be renamed to `{asked}`",
                    collection.primary_index
                ))),
                _ => Ok(CatalogReply::Put { created: false }),
            };
        }
        self.refuse_if_behind()?;
        if self.catalog.collections.len() >= MAX_COLLECTIONS {
            return Err(CatalogError::problems(&[format!("there are {MAX_COLLECTIONS} collections, no more fit")]));
        }
        let (Some(next_collection), Some(primary_index)) = (
            self.next_collection.checked_add(1),
            primary_index.cloned().or_else(|| IndexName::new(DEFAULT_INDEX).ok()),
        ) else {
            return Err(CatalogError::problems(&["all ids of collections were used".to_owned()]));
        };
        let id = CollectionId(self.next_collection);
        self.next_collection = next_collection;
        self.counters.insert(id, Counters::default());
        let collection = Collection {
            id,
            name: name.clone(),
            primary_index,
            fields: Vec::new(),
            syncs: BTreeMap::new(),
            dictionary: Arc::default(),
        };
        self.edit().collections.insert(name.clone(), Arc::new(collection));
        Ok(CatalogReply::Put { created: true })
    }

    fn drop_collection(&mut self, name: &CollectionName) -> Applied {
        let id = self.collection(name)?.id;
        self.edit().collections.remove(name);
        self.counters.remove(&id);
        self.runs_mut().forget_collection(id);
        Ok(CatalogReply::Intent(self.intents.add(IntentAction::DropCollection { collection: id })))
    }

    fn create_key(&mut self, key: &ApiKey) -> Applied {
        if self.catalog.keys.contains_key(&key.id) {
            return Err(conflict(format!("there is an API key with the id `{}` already", key.id)));
        }
        let mut problems = problems_of_key(key);
        if self.catalog.keys.len() >= MAX_KEYS {
            problems.push(format!("there are {MAX_KEYS} API keys, no more fit: revoke some"));
        }
        refuse_any(&problems)?;
        self.edit().keys.insert(key.id.clone(), Arc::new(key.clone()));
        Ok(CatalogReply::Done)
    }

    fn revoke_key(&mut self, id: &str) -> Applied {
        if id == ROOT_KEY_ID {
            return Err(conflict("the root key cannot be revoked".to_owned()));
        }
        if !self.catalog.keys.contains_key(id) {
            return Err(CatalogError::new(ErrorCode::KeyNotFound, format!("there is no API key with the id `{id}`")));
        }
        self.edit().keys.remove(id);
        Ok(CatalogReply::Done)
    }

    fn intent_done(&mut self, id: u64, swept: u64) -> Applied {
        if id >= self.intents.next() {
            return Err(CatalogError::new(ErrorCode::InvalidRequest, format!("intent {id} was never made")));
        }
        if let Some(IntentAction::Sweep { collection, slot, generation, .. }) = self.intents.remove(id) {
            self.runs_mut().add_swept((collection, slot), generation, swept);
        }
        Ok(CatalogReply::Done)
    }

    /// The definitions, to be changed by the entry that is being applied; shared parts are copied first.
    pub(crate) fn edit(&mut self) -> &mut Catalog {
        let catalog = Arc::make_mut(&mut self.catalog);
        catalog.version = self.applied;
        catalog
    }

    /// A collection to be changed; `None` if there is none of this name, and then nothing is.
    pub(crate) fn edit_collection(&mut self, name: &CollectionName) -> Option<&mut Collection> {
        if !self.catalog.collections.contains_key(name) {
            return None;
        }
        self.edit().collections.get_mut(name).map(Arc::make_mut)
    }

    /// A sync to be changed; `None` if there is none of this name.
    pub(crate) fn edit_sync(&mut self, collection: &CollectionName, sync: &SyncName) -> Option<&mut Sync> {
        self.edit_collection(collection)?.syncs.get_mut(sync).map(Arc::make_mut)
    }

    pub(crate) fn collection(&self, name: &CollectionName) -> Result<&Arc<Collection>, CatalogError> {
        self.catalog
            .collections
            .get(name)
            .ok_or_else(|| CatalogError::new(ErrorCode::CollectionNotFound, format!("there is no collection `{name}`")))
    }

    pub(crate) fn sync(
        &self,
        collection: &CollectionName,
        sync: &SyncName,
    ) -> Result<(CollectionId, &Arc<Sync>), CatalogError> {
        let found = self.collection(collection)?;
        found.syncs.get(sync).map(|sync| (found.id, sync)).ok_or_else(|| {
            CatalogError::new(
                ErrorCode::SyncNotFound,
                format!("collection `{collection}` has no sync `{sync}`: declare it first"),
            )
        })
    }

    /// The collection and sync with these ids.
    pub(crate) fn sync_in(&self, collection: CollectionId, slot: SyncSlot) -> Result<&Arc<Sync>, CatalogError> {
        let found = self.catalog.collections.values().find(|c| c.id == collection).ok_or_else(|| {
            CatalogError::new(
                ErrorCode::CollectionNotFound,
                format!("there is no collection with the id {collection}: it was dropped"),
            )
        })?;
        found.sync_in(slot).ok_or_else(|| {
            CatalogError::new(
                ErrorCode::SyncNotFound,
                format!("collection `{}` has no sync in slot {slot}: it was dropped", found.name),
            )
        })
    }

    pub(crate) fn refuse_if_behind(&self) -> Result<(), CatalogError> {
        if self.intents.len() < MAX_PENDING_INTENTS {
            return Ok(());
        }
        Err(CatalogError::new(
            ErrorCode::Overloaded,
            format!("{} changes of the catalog wait for the shards: try again later", self.intents.len()),
        ))
    }

    pub(crate) fn read_runs(&self) -> RwLockReadGuard<'_, RunRecord> {
        self.runs.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn runs_mut(&self) -> RwLockWriteGuard<'_, RunRecord> {
        self.runs.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn conflict(message: String) -> CatalogError {
    CatalogError::new(ErrorCode::Conflict, message)
}

/// Refuses if there is any problem, naming all.
pub(crate) fn refuse_any(problems: &[String]) -> Result<(), CatalogError> {
    if problems.is_empty() { Ok(()) } else { Err(CatalogError::problems(problems)) }
}

fn problems_of_key(key: &ApiKey) -> Vec<String> {
    let mut problems = Vec::new();
    if key.id.is_empty() || key.id.len() > MAX_LABEL_BYTES {
        problems.push(format!("the key's id has {} bytes, must have 1 to {MAX_LABEL_BYTES}", key.id.len()));
    }
    if key.label.len() > MAX_LABEL_BYTES {
        problems.push(format!("the label has {} bytes, may have {MAX_LABEL_BYTES} at most", key.label.len()));
    }
    if key.scopes.is_empty() || key.scopes.len() > MAX_SCOPES {
        problems.push(format!("the key has {} scopes, must have 1 to {MAX_SCOPES}", key.scopes.len()));
    }
    problems
}
