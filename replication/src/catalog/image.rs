//! Snapshots of the catalog: the whole state as one value.
//!
//! Invariants: equal states have equal images; what can be derived (dictionaries, budgets) is not in the image. An
//! image that contradicts itself is refused as a whole, since a replica that began with it would drift.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use larder_types::ids::{CollectionId, SyncSlot};
use larder_types::names::{CollectionName, IndexName};
use serde::{Deserialize, Serialize};

use super::cluster_map::ClusterMap;
use super::definitions::{ApiKey, Catalog, ClusterSettings, Collection, Field, Sync};
use super::format::{self, FormatError};
use super::intent::IntentAction;
use super::run::Run;
use super::runs::RunRecord;
use super::state::{CatalogState, Counters};
use super::syncs::dictionary_of;

/// The version of the encoded form of snapshots.
pub(crate) const SNAPSHOT_VERSION: u8 = 1;

/// The state. `R` is `&RunRecord` when written, so that runs are not copied, and a list of runs when read.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image<R> {
    applied: u64,
    version: u64,
    cluster: Option<ClusterSettings>,
    next_collection: u32,
    collections: Vec<CollectionImage>,
    keys: Vec<ApiKey>,
    next_intent: u64,
    intents: BTreeMap<u64, IntentAction>,
    runs: R,
    /// Left out before the map was made, as by versions that had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    map: Option<ClusterMap>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectionImage {
    id: CollectionId,
    name: CollectionName,
    primary_index: IndexName,
    counters: Counters,
    fields: Vec<Field>,
    syncs: Vec<Sync>,
}

type Runs = Vec<(CollectionId, SyncSlot, Run)>;

impl CatalogState {
    /// The whole state, encoded. The caller may cut it into blocks as it likes and must join them for
    /// [`CatalogState::restore`].
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let catalog = &self.catalog;
        let runs = self.read_runs();
        let image = Image {
            applied: self.applied,
            version: catalog.version,
            cluster: catalog.cluster.clone(),
            next_collection: self.next_collection,
            collections: catalog.collections.values().map(|collection| self.image_of(collection)).collect(),
            keys: catalog.keys.values().map(|key| ApiKey::clone(key)).collect(),
            next_intent: self.intents.next(),
            intents: self.intents.pending(),
            runs: &*runs,
            map: (!catalog.map.nodes.is_empty()).then(|| ClusterMap::clone(&catalog.map)),
        };
        format::encode(SNAPSHOT_VERSION, &image)
    }

    /// The state of a snapshot.
    ///
    /// # Errors
    /// See [`FormatError`]; the replica must not start from it.
    pub fn restore(bytes: &[u8]) -> Result<Self, FormatError> {
        let image: Image<Runs> = format::decode(SNAPSHOT_VERSION, bytes)?;
        let mut catalog = Catalog { version: image.version, cluster: image.cluster, ..Catalog::default() };
        let mut counters = BTreeMap::new();
        for read in image.collections {
            check_collection(&read, image.next_collection).map_err(FormatError::Contradiction)?;
            if counters.insert(read.id, read.counters).is_some() {
                return Err(FormatError::Contradiction(format!("two collections have the id {}", read.id)));
            }
            catalog.collections.insert(read.name.clone(), Arc::new(read.into()));
        }
        catalog.keys = image.keys.into_iter().map(|key| (key.id.clone(), Arc::new(key))).collect();
        let runs = RunRecord::from_runs(image.runs).map_err(FormatError::Contradiction)?;
        check_runs(&catalog, &runs).map_err(FormatError::Contradiction)?;
        if let Some(map) = image.map {
            check_map(&map, catalog.cluster.as_ref()).map_err(|what| FormatError::Contradiction(what.to_owned()))?;
            catalog.map = Arc::new(map);
        }
        if image.intents.last_key_value().is_some_and(|(last, _)| *last >= image.next_intent) {
            return Err(FormatError::Contradiction("an intent has an id that was never given".to_owned()));
        }

        let mut state = Self {
            applied: image.applied,
            catalog: Arc::new(catalog),
            counters,
            next_collection: image.next_collection,
            ..Self::default()
        };
        state.intents.replace(image.next_intent, image.intents);
        *state.runs_mut() = runs;
        Ok(state)
    }

    /// Replaces the state by another. Readers of runs and intents stay valid and see it at once.
    pub fn install(&mut self, restored: Self) {
        self.intents.replace(restored.intents.next(), restored.intents.pending());
        *self.runs_mut() = std::mem::take(&mut *restored.runs_mut());
        self.applied = restored.applied;
        self.catalog = restored.catalog;
        self.counters = restored.counters;
        self.next_collection = restored.next_collection;
    }

    fn image_of(&self, collection: &Collection) -> CollectionImage {
        CollectionImage {
            id: collection.id,
            name: collection.name.clone(),
            primary_index: collection.primary_index.clone(),
            counters: self.counters.get(&collection.id).copied().unwrap_or_default(),
            fields: collection.fields.clone(),
            syncs: collection.syncs.values().map(|sync| Sync::clone(sync)).collect(),
        }
    }
}

impl From<CollectionImage> for Collection {
    fn from(image: CollectionImage) -> Self {
        Self {
            id: image.id,
            name: image.name,
            primary_index: image.primary_index,
            dictionary: Arc::new(dictionary_of(&image.fields)),
            fields: image.fields,
            syncs: image.syncs.into_iter().map(|sync| (sync.name.clone(), Arc::new(sync))).collect(),
        }
    }
}

/// Checks that ids and names are unique, that the counters gave the ids, and that syncs and fields agree on who owns
/// what.
fn check_collection(image: &CollectionImage, next_collection: u32) -> Result<(), String> {
    let name = &image.name;
    if image.id.0 >= next_collection {
        return Err(format!("collection `{name}` has an id that was never given"));
    }
    if !image.fields.is_sorted_by(|one, next| one.id < next.id) {
        return Err(format!("fields of collection `{name}` are not in order of id"));
    }
    if image.fields.last().is_some_and(|last| last.id.0 >= image.counters.next_field) {
        return Err(format!("a field of collection `{name}` has an id that was never given"));
    }
    let names: BTreeSet<_> = image.fields.iter().map(|field| &field.name).collect();
    if names.len() < image.fields.len() {
        return Err(format!("two fields of collection `{name}` have the same name"));
    }
    let slots: BTreeSet<_> = image.syncs.iter().map(|sync| sync.slot).collect();
    if slots.len() < image.syncs.len() || slots.last().is_some_and(|last| last.0 >= image.counters.next_slot) {
        return Err(format!("a sync of collection `{name}` has a slot that another has or that was never given"));
    }
    let mut unowned: BTreeMap<_, _> = image.fields.iter().map(|field| (field.id, field.owner)).collect();
    for sync in &image.syncs {
        if sync.fields.iter().any(|field| unowned.remove(field) != Some(sync.slot)) {
            return Err(format!("sync `{}` of collection `{name}` lists a field that it does not own", sync.name));
        }
    }
    if unowned.is_empty() { Ok(()) } else { Err(format!("a field of collection `{name}` has no owner")) }
}

/// Checks that the map keeps its invariants.
fn check_map(map: &ClusterMap, cluster: Option<&ClusterSettings>) -> Result<(), &'static str> {
    if cluster.is_none_or(|cluster| map.groups.len() != usize::from(cluster.shards) + 1) {
        return Err("the map has not one placement for each group");
    }
    if map.nodes.is_empty() || map.nodes.keys().any(|node| node.0 >= map.next_node) {
        return Err("a node has an id that was never given");
    }
    let mut replicas = BTreeSet::new();
    for group in &map.groups {
        let mut nodes = BTreeSet::new();
        for place in &group.replicas {
            if place.replica.0 >= map.next_replica || !replicas.insert(place.replica) {
                return Err("a replica has an id that another has or that was never given");
            }
            if !map.nodes.contains_key(&place.node) || !nodes.insert(place.node) {
                return Err("a replica is on a node that is unknown or holds another of its group");
            }
        }
        if group.voters().next().is_none() {
            return Err("a group has no voter");
        }
        if let Some(change) = group.change
            && (change.id >= map.next_change || group.place(change.kind.replica()).is_none())
        {
            return Err("a change is about a replica that is not on the map");
        }
    }
    Ok(())
}

/// Checks that definitions and record agree on which runs are open.
fn check_runs(catalog: &Catalog, runs: &RunRecord) -> Result<(), String> {
    for collection in catalog.collections.values() {
        for sync in collection.syncs.values() {
            let newest = runs.runs((collection.id, sync.slot)).next_back();
            let open = newest.filter(|run| run.ended.is_none()).map(|run| (run.id.as_str(), run.generation));
            if open != sync.open_run.as_ref().map(|open| (open.run.as_str(), sync.generation)) {
                return Err(format!(
                    "sync `{}` of collection `{}` and the record of runs disagree on what is open",
                    sync.name, collection.name
                ));
            }
        }
    }
    Ok(())
}
