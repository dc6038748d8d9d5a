//! A short second implementation of what a shard promises, for tests to compare with: maps, no bytes, no sharing.

use std::collections::BTreeMap;

use larder_types::hash::KeyHash;
use larder_types::ids::{CollectionId, FieldId, Generation, SyncSlot};
use larder_types::patch::{Change, ExitMode};
use larder_types::value::Value;

use super::{CollectionStats, GroupInfo, ShardReader};
use crate::command::{Outcome, PatchOrigin, Patched};
use crate::record::Dictionary;
use crate::table::word::spread;

/// The seed of the shards under test.
pub(super) const SEED: u64 = 7;

#[derive(Debug, Clone, Default)]
pub(super) struct Reference {
    collections: BTreeMap<CollectionId, Collection>,
}

#[derive(Debug, Clone, Default)]
struct Collection {
    records: BTreeMap<String, Record>,
    runs: BTreeMap<SyncSlot, (Generation, BTreeMap<u32, Vec<Part>>)>,
}

/// A part that was applied: its patches, and what they did.
type Part = (Vec<(String, Change)>, Patched);

#[derive(Debug, Clone, Default)]
struct Record {
    version: u64,
    groups: BTreeMap<SyncSlot, Group>,
}

#[derive(Debug, Clone)]
struct Group {
    generation: Generation,
    seconds: i64,
    fields: BTreeMap<FieldId, Value>,
}

impl Reference {
    pub(super) fn part(
        &mut self,
        index: u64,
        origin: PatchOrigin,
        part: usize,
        patches: &[(String, Change)],
    ) -> Outcome {
        if !self.collections.contains_key(&origin.collection) {
            return Outcome::OutOfOrder;
        }
        if let Some(stale) = self.fence(origin.collection, origin.slot, origin.generation) {
            return stale;
        }
        let collection = self.collections.entry(origin.collection).or_default();
        let applied = collection.runs.entry(origin.slot).or_insert((origin.generation, BTreeMap::new()));
        let applied = applied.1.entry(origin.seq).or_default();
        if part > applied.len() {
            return Outcome::OutOfOrder;
        }
        let said = effective(patches);
        if let Some((first, outcome)) = applied.get(part) {
            return if *first == said { Outcome::Patched(outcome.clone()) } else { Outcome::OtherBody };
        }
        let mut outcome = Patched::default();
        for (key, change) in patches {
            let record = collection.records.get_mut(key);
            match change {
                Change::Upsert(fields) => match record.and_then(|record| record.groups.get_mut(&origin.slot)) {
                    Some(group) => {
                        let before = group.fields.clone();
                        set(&mut group.fields, fields);
                        (group.generation, group.seconds) = (origin.generation, origin.at.div_euclid(1_000_000));
                        if group.fields == before {
                            outcome.unchanged += 1;
                            continue;
                        }
                        outcome.changed += 1;
                    }
                    None => {
                        let record = collection.records.entry(key.clone()).or_default();
                        let mut group = Group {
                            generation: origin.generation,
                            seconds: origin.at.div_euclid(1_000_000),
                            fields: BTreeMap::new(),
                        };
                        set(&mut group.fields, fields);
                        record.groups.insert(origin.slot, group);
                        outcome.added += 1;
                    }
                },
                Change::Clear if record.is_some_and(|record| record.groups.remove(&origin.slot).is_some()) => {
                    outcome.removed += 1;
                }
                Change::Delete if collection.records.remove(key).is_some() => outcome.removed += 1,
                Change::Clear | Change::Delete => {
                    outcome.unchanged += 1;
                    continue;
                }
            }
            if let Some(record) = collection.records.get_mut(key) {
                record.version = index;
            }
        }
        applied.push((said, outcome.clone()));
        Outcome::Patched(outcome)
    }

    /// What is answered if the generation is stale.
    pub(super) fn fence(&mut self, id: CollectionId, slot: SyncSlot, generation: Generation) -> Option<Outcome> {
        let runs = &mut self.collections.entry(id).or_default().runs;
        let run = runs.entry(slot).or_insert((Generation(0), BTreeMap::new()));
        if generation < run.0 {
            return Some(Outcome::Stale { newest: run.0 });
        }
        if generation > run.0 {
            *run = (generation, BTreeMap::new());
        }
        None
    }

    pub(super) fn sweep(
        &mut self,
        index: u64,
        (id, slot, generation): (CollectionId, SyncSlot, Generation),
        mode: ExitMode,
        chunk: (u32, u32),
    ) -> Outcome {
        if let Some(stale) = self.fence(id, slot, generation) {
            return stale;
        }
        let records = &mut self.collections.entry(id).or_default().records;
        let mut swept = 0;
        records.retain(|key, record| {
            let outdated = record.groups.get(&slot).is_some_and(|group| group.generation < generation);
            if mode == ExitMode::Keep || !outdated || !is_in(key, chunk) {
                return true;
            }
            swept += 1;
            record.groups.remove(&slot);
            record.version = index;
            mode == ExitMode::Clear
        });
        Outcome::Swept { records: swept }
    }

    pub(super) fn clear_sync(&mut self, index: u64, id: CollectionId, slot: SyncSlot) {
        for record in self.collections.get_mut(&id).into_iter().flat_map(|c| c.records.values_mut()) {
            if record.groups.remove(&slot).is_some() {
                record.version = index;
            }
        }
    }

    pub(super) fn drop_records(&mut self, id: CollectionId, chunk: (u32, u32)) {
        if let Some(collection) = self.collections.get_mut(&id) {
            collection.records.retain(|key, _| !is_in(key, chunk));
        }
    }

    pub(super) fn drop_collection(&mut self, id: CollectionId) {
        self.collections.remove(&id);
    }

    pub(super) fn ids(&self) -> Vec<CollectionId> {
        self.collections.keys().copied().collect()
    }

    /// Compares all that readers can see of one collection, looking for these keys.
    pub(super) fn assert_same(&self, reader: &ShardReader, id: CollectionId, keys: &[String]) {
        let nothing = Collection::default();
        let collection = self.collections.get(&id).unwrap_or(&nothing);
        for key in keys {
            let seen = reader.get(id, KeyHash::of(SEED, key.as_bytes()), key.as_bytes(), |view| {
                let mut json = Vec::new();
                view.write_json(&names(), None, &mut json);
                (view.version(), view.groups().collect::<Vec<_>>(), String::from_utf8(json).unwrap())
            });
            let expected = collection.records.get(key).map(Record::shown);
            assert_eq!(seen, expected, "key {key} of collection {id}");
        }
        let hashed: Vec<_> = keys.iter().map(|key| (KeyHash::of(SEED, key.as_bytes()), key.as_bytes())).collect();
        let mut next = 0;
        reader.get_many(id, &hashed, |at, view| {
            assert_eq!(at, next, "keys are shown in order");
            next += 1;
            let seen = view.map(|view| view.version());
            assert_eq!(seen, collection.records.get(&keys[at]).map(|record| record.version), "key {}", keys[at]);
        });
        assert_eq!(next, keys.len());
        let stats = reader.stats(id);
        let mut records_of = BTreeMap::new();
        for slot in collection.records.values().flat_map(|record| record.groups.keys()) {
            *records_of.entry(*slot).or_insert(0) += 1;
        }
        let expected = CollectionStats {
            records: collection.records.len() as u64,
            bytes: stats.bytes,
            table_bytes: stats.table_bytes,
            batch_bytes: stats.batch_bytes,
            dictionary_bytes: stats.dictionary_bytes,
            records_of: records_of.into_iter().collect(),
        };
        assert_eq!(stats, expected);
    }
}

fn is_in(key: &str, (chunk, chunks): (u32, u32)) -> bool {
    let place = u128::from(spread(KeyHash::of(SEED, key.as_bytes())));
    (place * u128::from(chunks)) >> 64 == u128::from(chunk)
}

impl Record {
    fn shown(&self) -> (u64, Vec<GroupInfo>, String) {
        let mut json = String::new();
        for (id, value) in self.groups.values().flat_map(|group| &group.fields) {
            json.push_str(if json.is_empty() { "{" } else { "," });
            json.push_str(&format!("\"f{id}\":"));
            value.write_json(&mut json);
        }
        json.push_str(if json.is_empty() { "{}" } else { "}" });
        let info = |(slot, group): (&SyncSlot, &Group)| GroupInfo {
            slot: *slot,
            generation: group.generation,
            updated_at: group.seconds * 1_000_000,
        };
        (self.version, self.groups.iter().map(info).collect(), json)
    }
}

fn set(fields: &mut BTreeMap<FieldId, Value>, patch: &[(FieldId, Option<Value>)]) {
    for (id, value) in patch {
        match value {
            Some(value) => fields.insert(*id, value.clone()),
            None => fields.remove(id),
        };
    }
}

/// The patches with their fields in order of id, each once: of a field named twice the last value counts.
fn effective(patches: &[(String, Change)]) -> Vec<(String, Change)> {
    let effective = |change: &Change| match change {
        Change::Upsert(fields) => {
            Change::Upsert(fields.iter().cloned().collect::<BTreeMap<_, _>>().into_iter().collect())
        }
        other => other.clone(),
    };
    patches.iter().map(|(key, change)| (key.clone(), effective(change))).collect()
}

/// The names of the fields under test: `f` and the id.
pub(super) fn names() -> Dictionary {
    let names: Vec<_> = (0..64).map(|id| (FieldId(id), format!("f{id}"))).collect();
    Dictionary::new(names.iter().map(|(id, name)| (*id, name.as_str())))
}
