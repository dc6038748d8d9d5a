//! Collections and syncs: names, ids, owners, limits, and what a change shares with the version before.

use std::sync::Arc;

use larder_types::api::FieldSpec;
use larder_types::error::ErrorCode;
use larder_types::limits::{MAX_FIELDS, MAX_SYNCS};
use larder_types::patch::ExitMode::{Clear, Delete, Keep};
use larder_types::value::ValueType;
use serde_json::json;

use super::super::state::MAX_PENDING_INTENTS;
use super::super::{CatalogCommand, CatalogReply, ClusterSettings, IntentAction, MAX_COLLECTIONS, MAX_LIVING_SYNCS};
use super::*;

const CREATED: CatalogReply = CatalogReply::Put { created: true };
const KNOWN: CatalogReply = CatalogReply::Put { created: false };

fn named_index(name: &str, index: &str) -> CatalogCommand {
    CatalogCommand::PutCollection { name: name.parse().unwrap(), primary_index: Some(index.parse().unwrap()) }
}

fn numbered(fields: std::ops::Range<usize>, kind: ValueType) -> Vec<FieldSpec> {
    fields.map(|number| field(&format!("f{number}"), kind)).collect()
}

#[test]
fn nothing_is_done_before_the_cluster_is_made() {
    let mut fixture = Fixture::empty();
    assert_eq!(fixture.state.catalog().shard_count(), None);
    fixture.refused(ErrorCode::ShardUnavailable, put_collection("planes"));
    fixture.refused(ErrorCode::ShardUnavailable, CatalogCommand::CreateKey(key("k")));
    assert_eq!(fixture.ok(bootstrap()), CatalogReply::Done);
    let catalog = fixture.state.catalog();
    assert_eq!(catalog.shard_count().map(larder_types::hash::ShardCount::get), Some(16));
    assert_eq!(catalog.keys["root"].scopes, [larder_types::api::Scope::Admin]);
    assert_eq!(catalog.version, 3);
}

#[test]
fn a_cluster_is_made_once() {
    let error = Fixture::new().refused(ErrorCode::Conflict, bootstrap());
    assert!(error.message.contains("0123456789abcdef0123456789abcdef"), "{error}");
}

#[test]
fn settings_that_cannot_be_are_refused_with_all_problems() {
    let settings = ClusterSettings { id: "c".into(), hash_seed: 1, shards: 12, created_at: 0 };
    let bad = CatalogCommand::Bootstrap { settings, root: ApiKey { scopes: Vec::new(), ..key("boss") } };
    let error = Fixture::empty().refused(ErrorCode::ValidationFailed, bad);
    assert_eq!(error.details["problems"].as_array().map(Vec::len), Some(3), "{error}");
}

#[test]
fn putting_a_collection_twice_makes_it_once() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.ok(put_collection("planes")), CREATED);
    assert_eq!(fixture.collection("planes").primary_index.as_str(), "id");
    let before = fixture.state.catalog();
    assert_eq!(fixture.ok(put_collection("planes")), KNOWN);
    assert_eq!(fixture.ok(named_index("planes", "id")), KNOWN);
    assert!(Arc::ptr_eq(&before, &fixture.state.catalog()));
    assert_eq!(fixture.ok(named_index("airports", "faa")), CREATED);
    assert_eq!(fixture.collection("airports").primary_index.as_str(), "faa");
}

#[test]
fn the_primary_index_keeps_its_name() {
    let mut fixture = Fixture::with_facts(Keep);
    let error = fixture.refused(ErrorCode::Conflict, named_index("planes", "tailnum"));
    assert_eq!(error.message, "the primary index of collection `planes` is `id` and cannot be renamed to `tailnum`");
}

#[test]
fn ids_of_dropped_things_never_come_back() {
    let mut fixture = Fixture::with_facts(Keep);
    fixture.ok(drop_sync("planes", "facts"));
    fixture.ok(put_sync("planes", "facts", &["name"], Keep));
    assert_eq!(fixture.sync("planes", "facts").slot, SyncSlot(1));
    assert_eq!(fixture.fields("planes"), [("name".into(), 2)]);
    fixture.ok(drop_collection("planes"));
    fixture.ok(put_collection("planes"));
    assert_eq!(fixture.collection("planes").id, CollectionId(1));
}

#[test]
fn unknown_things_are_named() {
    let mut fixture = Fixture::with_facts(Keep);
    let unknown_collection = CatalogCommand::RecordBatch {
        collection: CollectionId(9),
        slot: SyncSlot(0),
        run: "r".into(),
        outcome: batch(0, 0, 0),
    };
    let unknown_slot = CatalogCommand::RecordBatch {
        collection: CollectionId(0),
        slot: SyncSlot(8),
        run: "r".into(),
        outcome: batch(0, 0, 0),
    };
    for (command, code, name) in [
        (drop_collection("ships"), ErrorCode::CollectionNotFound, "`ships`"),
        (put_sync("ships", "s", &[], Keep), ErrorCode::CollectionNotFound, "`ships`"),
        (drop_sync("ships", "s"), ErrorCode::CollectionNotFound, "`ships`"),
        (drop_sync("planes", "usage"), ErrorCode::SyncNotFound, "`usage`"),
        (open_run("usage", "r", RunKind::Full), ErrorCode::SyncNotFound, "`usage`"),
        (begin_commit("facts", "r9"), ErrorCode::RunNotFound, "`r9`"),
        (end_commit("facts", "r9"), ErrorCode::RunNotFound, "`r9`"),
        (abort_run("facts", "r9"), ErrorCode::RunNotFound, "`r9`"),
        (record("r9", batch(0, 0, 0)), ErrorCode::RunNotFound, "`r9`"),
        (unknown_collection, ErrorCode::CollectionNotFound, "id 9"),
        (unknown_slot, ErrorCode::SyncNotFound, "slot 8"),
        (CatalogCommand::RevokeKey { id: "k9".into() }, ErrorCode::KeyNotFound, "`k9`"),
    ] {
        let error = fixture.refused(code, command);
        assert!(error.message.contains(name), "{error}");
    }
}

#[test]
fn declaring_the_same_again_changes_nothing() {
    let mut fixture = Fixture::with_facts(Keep);
    let before = fixture.state.catalog();
    assert_eq!(fixture.ok(put_sync("planes", "facts", &["name", "seats"], Keep)), KNOWN);
    assert!(Arc::ptr_eq(&before, &fixture.state.catalog()));
}

#[test]
fn fields_keep_their_ids_while_declared_with_the_same_type() {
    let mut fixture = Fixture::with_facts(Keep);
    assert_eq!(fixture.ok(put_sync("planes", "facts", &["seats", "year", "name"], Clear)), KNOWN);
    let ids: Vec<u16> = fixture.sync("planes", "facts").fields.iter().map(|id| id.0).collect();
    assert_eq!(ids, [1, 2, 0], "a sync lists its fields in the order of its declaration");
    assert_eq!(fixture.sync("planes", "facts").on_exit, Clear);
    assert_eq!(fixture.fields("planes"), [("name".into(), 0), ("seats".into(), 1), ("year".into(), 2)]);
}

#[test]
fn a_new_type_makes_a_new_field() {
    let mut fixture = Fixture::with_facts(Keep);
    let fields = vec![field("name", ValueType::Any), field("seats", ValueType::Int)];
    fixture.ok(put_typed("planes", "facts", fields, Keep));
    assert_eq!(fixture.fields("planes"), [("name".into(), 0), ("seats".into(), 2)]);
    assert_eq!(fixture.collection("planes").field("seats").unwrap().kind, ValueType::Int);
}

#[test]
fn a_field_left_out_is_retired_and_free_for_any_sync() {
    let mut fixture = Fixture::with_facts(Keep);
    fixture.ok(put_sync("planes", "facts", &["name"], Keep));
    assert!(fixture.collection("planes").field("seats").is_none());
    fixture.ok(put_sync("planes", "usage", &["seats"], Keep));
    assert_eq!(fixture.collection("planes").field("seats").unwrap().owner, SyncSlot(1));
    assert_eq!(fixture.fields("planes"), [("name".into(), 0), ("seats".into(), 2)]);
    fixture.ok(put_sync("planes", "usage", &[], Keep));
    fixture.ok(put_sync("planes", "facts", &["name", "seats"], Keep));
    assert_eq!(fixture.fields("planes"), [("name".into(), 0), ("seats".into(), 3)]);
}

#[test]
fn a_field_of_another_sync_is_refused() {
    let mut fixture = Fixture::with_facts(Keep);
    let error = fixture
        .refused(ErrorCode::FieldOwnedByOtherSync, put_sync("planes", "usage", &["miles", "seats", "name"], Keep));
    assert_eq!(error.details, json!({ "field": "seats", "owner": "facts" }));
    // Another type does not make it another field.
    let typed = vec![field("seats", ValueType::Int)];
    fixture.refused(ErrorCode::FieldOwnedByOtherSync, put_typed("planes", "usage", typed, Keep));
}

#[test]
fn all_problems_of_a_declaration_are_listed_at_once() {
    let mut fixture = Fixture::with_facts(Keep);
    let mut fields = numbered(0..MAX_FIELDS, ValueType::Any);
    fields.extend(["b", "a", "b", "a", "b"].map(|name| field(name, ValueType::Any)));
    let error = fixture.refused(ErrorCode::ValidationFailed, put_typed("planes", "usage", fields, Keep));
    let problems = error.details["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 3, "{error}");
    assert_eq!(problems[0], "field `a` is named more than once");
    assert_eq!(problems[1], "field `b` is named more than once");
    assert!(problems[2].as_str().unwrap().contains("would exceed 4096"), "{error}");
}

#[test]
fn a_collection_declares_up_to_its_limit_of_fields_ever() {
    let mut fixture = Fixture::new();
    fixture.ok(put_collection("planes"));
    fixture.ok(put_typed("planes", "s", numbered(0..MAX_FIELDS, ValueType::Any), Keep));
    fixture.ok(put_typed("planes", "s", numbered(0..MAX_FIELDS, ValueType::Any), Clear));
    fixture.refused(
        ErrorCode::ValidationFailed,
        put_typed("planes", "s", numbered(0..MAX_FIELDS + 1, ValueType::Any), Keep),
    );
    // Neither retiring one nor another type makes room: ids are not used twice.
    fixture.ok(put_typed("planes", "s", numbered(1..MAX_FIELDS, ValueType::Any), Keep));
    fixture.refused(ErrorCode::ValidationFailed, put_sync("planes", "t", &["one more"], Keep));
    fixture.refused(ErrorCode::FieldOwnedByOtherSync, put_sync("planes", "t", &["f1"], Keep));
    fixture.refused(ErrorCode::ValidationFailed, put_typed("planes", "s", numbered(1..2, ValueType::Int), Keep));
}

#[test]
fn a_collection_declares_up_to_its_limit_of_syncs_ever() {
    let mut fixture = Fixture::new();
    fixture.ok(put_collection("planes"));
    for number in 0..MAX_SYNCS {
        fixture.ok(put_sync("planes", &format!("s{number}"), &[], Keep));
    }
    fixture.ok(drop_sync("planes", "s0"));
    fixture.refused(ErrorCode::ValidationFailed, put_sync("planes", "s0", &[], Keep));
    fixture.ok(put_sync("planes", "s1", &["x"], Keep));
}

#[test]
fn a_cluster_takes_up_to_its_limit_of_living_syncs() {
    let mut fixture = Fixture::new();
    for number in 0..MAX_LIVING_SYNCS {
        let collection = format!("c{}", number / MAX_SYNCS);
        fixture.ok(put_collection(&collection));
        fixture.ok(put_sync(&collection, &format!("s{number}"), &[], Keep));
    }
    fixture.ok(put_collection("more"));
    fixture.refused(ErrorCode::ValidationFailed, put_sync("more", "s", &[], Keep));
    fixture.ok(drop_collection("c0"));
    fixture.ok(put_sync("more", "s", &[], Keep));
}

#[test]
fn a_cluster_takes_up_to_its_limit_of_collections() {
    let mut fixture = Fixture::new();
    for number in 0..MAX_COLLECTIONS {
        fixture.ok(put_collection(&format!("c{number}")));
    }
    fixture.refused(ErrorCode::ValidationFailed, put_collection("more"));
    assert_eq!(fixture.ok(put_collection("c0")), KNOWN);
    fixture.ok(drop_collection("c0"));
    fixture.ok(put_collection("more"));
}

#[test]
fn nothing_is_made_while_the_shards_are_far_behind() {
    let mut fixture = Fixture::with_facts(Keep);
    for _ in 0..MAX_PENDING_INTENTS {
        fixture.ok(put_collection("short"));
        fixture.ok(drop_collection("short"));
    }
    let pending = fixture.state.intents();
    assert_eq!(pending.len(), MAX_PENDING_INTENTS);
    fixture.refused(ErrorCode::Overloaded, put_collection("short"));
    fixture.refused(ErrorCode::Overloaded, put_sync("planes", "usage", &[], Keep));
    fixture.ok(put_sync("planes", "facts", &["name"], Keep));
    fixture.ok(done(pending[0].id, 0));
    fixture.ok(put_collection("short"));
}

#[test]
fn dropping_a_sync_forgets_its_fields_and_runs_and_leaves_only_its_clearing() {
    let mut fixture = Fixture::with_facts(Delete);
    fixture.ok(put_sync("planes", "usage", &["miles"], Keep));
    fixture.ok(open_run("usage", "u1", RunKind::Delta));
    fixture.open("r1", RunKind::Full);
    fixture.begin_commit("r1").unwrap();
    let reply = fixture.ok(drop_sync("planes", "facts"));
    assert_eq!(fixture.fields("planes"), [("miles".into(), 2)]);
    assert!(fixture.state.runs().list(FACTS.0, FACTS.1).is_empty());
    let of_facts: Vec<_> = fixture
        .state
        .intents()
        .into_iter()
        .filter(|intent| !matches!(intent.action, IntentAction::Fence { slot: SyncSlot(1), .. }))
        .collect();
    assert_eq!(of_facts.len(), 1);
    assert_eq!(of_facts[0].action, IntentAction::ClearSync { collection: FACTS.0, slot: FACTS.1 });
    assert_eq!(reply, CatalogReply::Intent(of_facts[0].id));
    assert_eq!(fixture.state.intents().len(), 2, "the other sync's fence stays");
}

#[test]
fn dropping_a_collection_leaves_only_its_drop() {
    let mut fixture = Fixture::with_facts(Delete);
    fixture.ok(put_collection("airports"));
    fixture.ok(put_sync("airports", "a", &["name"], Keep));
    fixture.ok(drop_sync("airports", "a"));
    fixture.ok(put_sync("planes", "usage", &[], Keep));
    fixture.ok(drop_sync("planes", "usage"));
    fixture.open("r1", RunKind::Full);
    fixture.begin_commit("r1").unwrap();
    let CatalogReply::Intent(id) = fixture.ok(drop_collection("planes")) else { panic!("no intent") };
    let pending = fixture.state.intents();
    assert_eq!(pending.len(), 2);
    assert!(matches!(pending[0].action, IntentAction::ClearSync { collection: CollectionId(1), .. }));
    assert_eq!((pending[1].id, &pending[1].action), (id, &IntentAction::DropCollection { collection: FACTS.0 }));
    assert!(fixture.state.runs().list(FACTS.0, FACTS.1).is_empty());
    assert!(!fixture.state.catalog().collections.contains_key("planes"));
}

#[test]
fn a_change_shares_what_it_leaves_alone() {
    let mut fixture = Fixture::with_facts(Keep);
    fixture.ok(put_collection("airports"));
    let (planes, airports) = (fixture.collection("planes"), fixture.collection("airports"));
    let (facts, old) = (fixture.sync("planes", "facts"), fixture.state.catalog());
    fixture.ok(put_sync("planes", "usage", &["miles"], Keep));
    assert!(Arc::ptr_eq(&airports, &fixture.collection("airports")));
    assert!(Arc::ptr_eq(&facts, &fixture.sync("planes", "facts")));
    assert!(!Arc::ptr_eq(&planes.dictionary, &fixture.collection("planes").dictionary));
    assert_eq!(old.collections["planes"].fields.len(), 2, "a version that was handed out does not change");
    assert_eq!(fixture.state.catalog().version, fixture.index);
}

#[test]
fn the_dictionary_is_rendered_anew_only_when_fields_change() {
    let mut fixture = Fixture::with_facts(Keep);
    let dictionary = Arc::clone(&fixture.collection("planes").dictionary);
    fixture.ok(put_sync("planes", "facts", &["seats", "name"], Clear));
    fixture.open("r1", RunKind::Delta);
    fixture.ok(abort_run("facts", "r1"));
    assert!(Arc::ptr_eq(&dictionary, &fixture.collection("planes").dictionary));
    fixture.ok(put_sync("planes", "facts", &["seats"], Clear));
    assert!(!Arc::ptr_eq(&dictionary, &fixture.collection("planes").dictionary));
}
