//! Declaring and dropping syncs: which sync owns which field, and when a field gets an id.
//!
//! Invariants: a field's name has one living owner. A field keeps its id for as long as its owner declares it with the
//! same type. Declared with another type it becomes a new field: the old values keep the old id, so they vanish from
//! lookups until the next run has written the field again. The same holds for a field that was left out and comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use larder_storage::record::Dictionary;
use larder_types::api::FieldSpec;
use larder_types::error::ErrorCode;
use larder_types::ids::{FieldId, Generation, SyncSlot};
use larder_types::limits::{MAX_FIELDS, MAX_SYNCS};
use larder_types::names::{CollectionName, FieldName, SyncName};
use larder_types::patch::ExitMode;
use serde_json::json;

use super::command::CatalogReply;
use super::definitions::{Collection, Field, Sync};
use super::error::CatalogError;
use super::intent::IntentAction;
use super::state::{Applied, CatalogState, Counters, refuse_any};

/// Most syncs at a time in the whole cluster: bounds the record of runs (see `runs.rs`).
pub const MAX_LIVING_SYNCS: usize = 2048;

/// What a declaration comes to: the fields of the sync in the order of declaration, and the ids that are then unused.
struct Declared {
    fields: Vec<Field>,
    counters: Counters,
}

impl CatalogState {
    pub(crate) fn put_sync(
        &mut self,
        collection: &CollectionName,
        name: &SyncName,
        specs: &[FieldSpec],
        on_exit: ExitMode,
    ) -> Applied {
        let current = self.collection(collection)?;
        let counters = self.counters.get(&current.id).copied().unwrap_or_default();
        let declared = declare(current, counters, name, specs)?;
        let known = current.syncs.get(name);
        let ids: Vec<FieldId> = declared.fields.iter().map(|field| field.id).collect();
        if known.is_some_and(|sync| sync.fields == ids && sync.on_exit == on_exit) {
            return Ok(CatalogReply::Put { created: false });
        }
        let created = known.is_none();
        if created {
            self.refuse_if_behind()?;
            self.refuse_if_too_many_syncs()?;
        }
        let sync = match known {
            Some(sync) => Sync { fields: ids, on_exit, ..Sync::clone(sync) },
            None => Sync {
                slot: SyncSlot(counters.next_slot),
                name: name.clone(),
                fields: ids,
                on_exit,
                generation: Generation(0),
                open_run: None,
                last_good_run: None,
            },
        };
        self.counters.insert(current.id, declared.counters);
        if let Some(altered) = self.edit_collection(collection) {
            altered.replace_fields(sync.slot, declared.fields);
            altered.syncs.insert(name.clone(), Arc::new(sync));
        }
        Ok(CatalogReply::Put { created })
    }

    pub(crate) fn drop_sync(&mut self, collection: &CollectionName, name: &SyncName) -> Applied {
        let (id, sync) = self.sync(collection, name)?;
        let slot = sync.slot;
        if let Some(altered) = self.edit_collection(collection) {
            altered.syncs.remove(name);
            altered.replace_fields(slot, Vec::new());
        }
        self.runs_mut().forget_sync((id, slot));
        Ok(CatalogReply::Intent(self.intents.add(IntentAction::ClearSync { collection: id, slot })))
    }

    fn refuse_if_too_many_syncs(&self) -> Result<(), CatalogError> {
        let living: usize = self.catalog.collections.values().map(|collection| collection.syncs.len()).sum();
        if living < MAX_LIVING_SYNCS {
            return Ok(());
        }
        Err(CatalogError::problems(&[format!("there are {MAX_LIVING_SYNCS} syncs in this cluster, no more fit")]))
    }
}

impl Collection {
    /// Replaces the fields of a sync, and renders the dictionary anew if that changes any field.
    fn replace_fields(&mut self, slot: SyncSlot, of_sync: Vec<Field>) {
        let others = self.fields.iter().filter(|field| field.owner != slot).cloned();
        let mut fields: Vec<Field> = others.chain(of_sync).collect();
        fields.sort_unstable_by_key(|field| field.id);
        if fields != self.fields {
            self.dictionary = Arc::new(dictionary_of(&fields));
            self.fields = fields;
        }
    }

    fn owner_of(&self, field: &Field) -> Option<&Arc<Sync>> {
        self.sync_in(field.owner)
    }
}

/// The dictionary of these living fields.
pub(crate) fn dictionary_of(fields: &[Field]) -> Dictionary {
    Dictionary::new(fields.iter().map(|field| (field.id, field.name.as_str())))
}

/// Gives every declared field its id.
///
/// # Errors
/// Everything that is wrong with the declaration at once; after that the first field that another sync owns.
fn declare(
    collection: &Collection,
    mut counters: Counters,
    name: &SyncName,
    specs: &[FieldSpec],
) -> Result<Declared, CatalogError> {
    let known = collection.syncs.get(name).map(|sync| sync.slot);
    let slot = known.unwrap_or(SyncSlot(counters.next_slot));
    let living: BTreeMap<&FieldName, &Field> = collection.fields.iter().map(|field| (&field.name, field)).collect();
    let is_new =
        |spec: &&FieldSpec| living.get(&spec.name).is_none_or(|field| field.owner == slot && field.kind != spec.kind);

    let mut problems = problems_of_names(specs);
    let new_fields = specs.iter().filter(is_new).count();
    if usize::from(counters.next_field) + new_fields > MAX_FIELDS {
        problems.push(format!(
            "collection `{}` has declared {} fields so far, {new_fields} more would exceed {MAX_FIELDS}; a field that \
             changes its type counts again",
            collection.name, counters.next_field
        ));
    }
    if known.is_none() && usize::from(counters.next_slot) >= MAX_SYNCS {
        problems.push(format!(
            "collection `{}` has declared {MAX_SYNCS} syncs so far, dropped ones included: no more fit",
            collection.name
        ));
    }
    refuse_any(&problems)?;

    let mut fields = Vec::with_capacity(specs.len());
    for spec in specs {
        let id = match living.get(&spec.name) {
            Some(field) if field.owner != slot => return Err(owned_by_other(collection, field)),
            Some(field) if field.kind == spec.kind => field.id,
            _ => {
                let id = FieldId(counters.next_field);
                counters.next_field += 1;
                id
            }
        };
        fields.push(Field { id, name: spec.name.clone(), kind: spec.kind, owner: slot });
    }
    counters.next_slot += u8::from(known.is_none());
    Ok(Declared { fields, counters })
}

fn problems_of_names(specs: &[FieldSpec]) -> Vec<String> {
    let mut seen: BTreeSet<&FieldName> = BTreeSet::new();
    let mut twice: BTreeSet<&FieldName> = BTreeSet::new();
    for spec in specs {
        if !seen.insert(&spec.name) {
            twice.insert(&spec.name);
        }
    }
    twice.into_iter().map(|name| format!("field `{name}` is named more than once")).collect()
}

fn owned_by_other(collection: &Collection, field: &Field) -> CatalogError {
    let owner = collection.owner_of(field).map_or_else(String::new, |sync| sync.name.to_string());
    CatalogError::new(
        ErrorCode::FieldOwnedByOtherSync,
        format!(
            "field `{}` of collection `{}` belongs to sync `{owner}`: leave it out here, or there first",
            field.name, collection.name
        ),
    )
    .with(json!({ "field": field.name, "owner": owner }))
}
