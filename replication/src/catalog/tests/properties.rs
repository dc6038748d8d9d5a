//! Random histories: two replicas, one of which starts again from its snapshot now and then, and a model of what must
//! never happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use larder_types::api::{RunInfo, RunState};
use larder_types::ids::FieldId;
use larder_types::patch::ExitMode;
use proptest::prelude::*;

use super::super::{Catalog, CatalogCommand, Field, IntentAction, RunsReader};
use super::*;

fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(words)
}

fn collections() -> impl Strategy<Value = &'static str> {
    one_of(&["planes", "airports"])
}

fn syncs() -> impl Strategy<Value = &'static str> {
    one_of(&["a", "b", "c"])
}

fn run_ids() -> impl Strategy<Value = String> {
    (0..8u8).prop_map(|number| format!("r{number}"))
}

fn modes() -> impl Strategy<Value = ExitMode> {
    prop::sample::select(&[ExitMode::Keep, ExitMode::Clear, ExitMode::Delete][..])
}

fn kinds() -> impl Strategy<Value = RunKind> {
    prop::sample::select(&[RunKind::Delta, RunKind::Full, RunKind::Full][..])
}

fn fields() -> impl Strategy<Value = Vec<FieldSpec>> {
    let types = prop::sample::select(&[ValueType::Any, ValueType::Any, ValueType::Int][..]);
    let spec = (one_of(&["u", "v", "w", "x", "y", "z"]), types).prop_map(|(name, kind)| field(name, kind));
    prop::collection::vec(spec, 0..4)
}

fn commands() -> impl Strategy<Value = CatalogCommand> {
    let of_run = || (collections(), syncs(), run_ids());
    prop_oneof![
        1 => Just(bootstrap()),
        3 => collections().prop_map(put_collection),
        1 => collections().prop_map(drop_collection),
        8 => (collections(), syncs(), fields(), modes()).prop_map(|(c, s, f, mode)| put_typed(c, s, f, mode)),
        1 => (collections(), syncs()).prop_map(|(c, s)| drop_sync(c, s)),
        8 => (of_run(), kinds(), 0..9i64).prop_map(|((c, s, run), kind, at)| CatalogCommand::OpenRun {
            collection: c.parse().unwrap(),
            sync: s.parse().unwrap(),
            run,
            kind,
            planned: Counts::default(),
            at,
        }),
        8 => (0..4u32, 0..5u8, run_ids(), 0..3u32, 0..4u64).prop_map(|(c, s, run, seq, rejects)| {
            let mut outcome = batch(seq, rejects, 5);
            outcome.body_hash = rejects / 2;
            CatalogCommand::RecordBatch { collection: CollectionId(c), slot: SyncSlot(s), run, outcome }
        }),
        6 => of_run().prop_map(|(c, s, run)| CatalogCommand::BeginCommit {
            collection: c.parse().unwrap(),
            sync: s.parse().unwrap(),
            run,
        }),
        5 => (of_run(), 0..9i64).prop_map(|((c, s, run), at)| CatalogCommand::EndCommit {
            collection: c.parse().unwrap(),
            sync: s.parse().unwrap(),
            run,
            at,
        }),
        2 => (of_run(), 0..9i64).prop_map(|((c, s, run), at)| CatalogCommand::AbortRun {
            collection: c.parse().unwrap(),
            sync: s.parse().unwrap(),
            run,
            at,
        }),
        1 => one_of(&["k1", "k2"]).prop_map(|id| CatalogCommand::CreateKey(key(id))),
        1 => one_of(&["k1", "k2", "root"]).prop_map(|id| CatalogCommand::RevokeKey { id: id.into() }),
        6 => (1..12u64, 0..5u64).prop_map(|(id, swept)| done(id, swept)),
    ]
}

/// What a history has shown so far, to notice when it goes back on it.
#[derive(Default)]
struct Seen {
    generations: BTreeMap<(CollectionId, SyncSlot), Generation>,
    fields: BTreeMap<(CollectionId, FieldId), Field>,
    collections: BTreeMap<CollectionId, String>,
    ended: BTreeMap<(CollectionId, SyncSlot, String), RunState>,
}

impl Seen {
    fn check(&mut self, state: &CatalogState) {
        let catalog = state.catalog();
        let runs = state.runs();
        for (name, collection) in &catalog.collections {
            let first = self.collections.entry(collection.id).or_insert_with(|| name.to_string());
            assert_eq!(first, name.as_str(), "the id of a collection was used twice");
            check_ownership(collection);
            for field in &collection.fields {
                let first = self.fields.entry((collection.id, field.id)).or_insert_with(|| field.clone());
                assert_eq!(first, field, "the id of a field was used twice");
            }
            for sync in collection.syncs.values() {
                let before = self.generations.insert((collection.id, sync.slot), sync.generation);
                assert!(before <= Some(sync.generation), "a generation went back");
                self.check_runs(collection.id, sync, &runs);
            }
        }
        check_intents(state);
    }

    fn check_runs(&mut self, collection: CollectionId, sync: &Sync, runs: &RunsReader) {
        let list = runs.list(collection, sync.slot);
        assert!(list.is_sorted_by(|newer, older| newer.generation > older.generation));
        assert_eq!(list.first().map_or(generation(0), |newest| newest.generation), sync.generation);
        for info in &list {
            let living = matches!(info.state, RunState::Open | RunState::Committing);
            let named = sync.open_run.as_ref().filter(|open| open.run == info.run);
            assert_eq!(living, named.is_some(), "definition and record disagree on what is open: {info:?}");
            assert!(named.is_none_or(|open| open.takes_batches == (info.state == RunState::Open)));
            assert_eq!(living, info.ended_at.is_none());
            if !living {
                let id = (collection, sync.slot, info.run.clone());
                assert_eq!(*self.ended.entry(id).or_insert(info.state), info.state, "a run came back to life");
            }
            check_numbers(info, collection, sync.slot, runs);
        }
    }
}

fn check_ownership(collection: &Collection) {
    let names: BTreeSet<_> = collection.fields.iter().map(|field| &field.name).collect();
    assert_eq!(names.len(), collection.fields.len(), "a field's name has two owners");
    assert!(collection.fields.is_sorted_by(|a, b| a.id < b.id));
    let owned: BTreeSet<_> = collection.fields.iter().map(|field| (field.owner, field.id)).collect();
    let listed: Vec<_> =
        collection.syncs.values().flat_map(|sync| sync.fields.iter().map(|id| (sync.slot, *id))).collect();
    assert_eq!(listed.len(), owned.len());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), owned, "syncs and fields disagree on who owns what");
}

fn check_numbers(info: &RunInfo, collection: CollectionId, slot: SyncSlot, runs: &RunsReader) {
    let requests = runs.requests(collection, slot, &info.run, 0, usize::MAX);
    let outcomes: Vec<_> =
        requests.iter().filter_map(|request| runs.outcome(collection, slot, &info.run, request.seq)).collect();
    assert_eq!((outcomes.len() as u64, requests.len() as u64), (info.batches, info.batches));
    let seqs: BTreeSet<_> = requests.iter().map(|request| request.seq).collect();
    assert_eq!(seqs.len(), requests.len(), "a batch was noted twice");
    assert_eq!(info.successful.added, outcomes.iter().map(|outcome| outcome.successful.added).sum::<u64>());
    let removed: u64 = outcomes.iter().map(|outcome| outcome.successful.removed).sum();
    assert_eq!(info.successful.removed, removed + info.swept);
    assert_eq!(info.failed.added, outcomes.iter().map(|outcome| outcome.failed.added).sum::<u64>());
}

/// No intent is pending for what is gone, and at most one of a kind for what is there.
fn check_intents(state: &CatalogState) {
    let catalog = state.catalog();
    let lives = |collection: CollectionId, slot: SyncSlot| {
        catalog.collections.values().any(|c| c.id == collection && c.sync_in(slot).is_some())
    };
    let mut seen = BTreeSet::new();
    for intent in state.intents() {
        let unique = match intent.action {
            IntentAction::DropCollection { collection } => {
                assert!(catalog.collections.values().all(|c| c.id != collection));
                seen.insert((0, collection, SyncSlot(0)))
            }
            IntentAction::ClearSync { collection, slot } => {
                assert!(catalog.collections.values().any(|c| c.id == collection) && !lives(collection, slot));
                seen.insert((1, collection, slot))
            }
            IntentAction::Fence { collection, slot, generation } => {
                assert!(lives(collection, slot) && generation.0 > 0);
                seen.insert((2, collection, slot))
            }
            IntentAction::Sweep { collection, slot, mode, .. } => {
                assert!(lives(collection, slot) && mode != ExitMode::Keep);
                seen.insert((3, collection, slot))
            }
        };
        assert!(unique, "two intents mean the same: {intent:?}");
    }
}

/// Everything in a catalog but its dictionaries, which have no way to be compared.
fn definitions(catalog: &Catalog) -> String {
    let collections: Vec<_> = catalog
        .collections
        .iter()
        .map(|(name, c)| format!("{name} {} {} {} {:?} {:?}", c.id, c.name, c.primary_index, c.fields, c.syncs))
        .collect();
    format!("{} {:?} {:?} {collections:#?}", catalog.version, catalog.cluster, catalog.keys)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn replicas_agree_and_never_go_back(
        history in prop::collection::vec((commands(), prop::bool::weighted(0.15)), 1..120),
    ) {
        let (mut one, mut other) = (Fixture::new(), Fixture::new());
        let mut seen = Seen::default();
        for (command, restart) in history {
            let before = one.state.catalog();
            let snapshot = one.state.snapshot();
            let reply = one.apply(&command);
            prop_assert_eq!(&reply, &other.apply(&command));
            if reply.is_err() {
                let mut unchanged = CatalogState::restore(&snapshot).unwrap();
                unchanged.advance(one.index);
                prop_assert!(one.state.snapshot() == unchanged.snapshot(), "{:?} was refused but changed something", command);
                prop_assert!(Arc::ptr_eq(&before, &one.state.catalog()));
            }
            prop_assert!(one.state.catalog().version <= one.index);
            seen.check(&one.state);
            if restart {
                other.state = CatalogState::restore(&other.state.snapshot()).unwrap();
                // What is derived and not in the snapshot is the same as well.
                prop_assert!(*one.state.read_runs() == *other.state.read_runs(), "budgets of the record drifted apart");
                prop_assert_eq!(&one.state.counters, &other.state.counters);
                prop_assert_eq!(definitions(&one.state.catalog()), definitions(&other.state.catalog()));
            }
        }
        prop_assert!(one.state.snapshot() == other.state.snapshot(), "the replicas drifted apart");
        prop_assert_eq!(one.state.intents(), other.state.intents());
    }
}
