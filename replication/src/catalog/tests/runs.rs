//! The life of a run: which command leads from which state to which, and the intents that come of it.

use std::sync::Arc;

use larder_types::api::RunState;
use larder_types::error::ErrorCode;
use larder_types::limits::MAX_SEQ;
use larder_types::patch::ExitMode;
use serde_json::json;

use super::super::definitions::OpenRunState;
use super::super::lifecycle::MAX_RUN_ID_BYTES;
use super::super::{CatalogReply, IntentAction};
use super::*;

fn state_of(fixture: &Fixture, run: &str) -> RunState {
    fixture.state.runs().get(FACTS.0, FACTS.1, run).unwrap().state
}

fn sweep(generation_: u32, mode: ExitMode) -> IntentAction {
    IntentAction::Sweep { collection: FACTS.0, slot: FACTS.1, generation: generation(generation_), mode }
}

fn fence(generation_: u32) -> IntentAction {
    IntentAction::Fence { collection: FACTS.0, slot: FACTS.1, generation: generation(generation_) }
}

fn pending(fixture: &Fixture) -> Vec<IntentAction> {
    fixture.state.intents().into_iter().map(|intent| intent.action).collect()
}

#[test]
fn opening_a_run_fences_older_ones() {
    let mut fixture = Fixture::with_facts(ExitMode::Keep);
    assert_eq!(fixture.sync("planes", "facts").generation, generation(0));
    let reply = fixture.ok(open_run("facts", "r1", RunKind::Full));
    let intents = fixture.state.intents();
    assert_eq!(reply, CatalogReply::Opened { generation: generation(1), intent: intents[0].id });
    assert_eq!(intents[0].action, fence(1));
    let sync = fixture.sync("planes", "facts");
    let open = OpenRunState { run: "r1".into(), kind: RunKind::Full, takes_batches: true };
    assert_eq!((sync.generation, &sync.open_run), (generation(1), &Some(open)));

    assert_eq!(fixture.open("r2", RunKind::Delta), 2);
    assert_eq!(pending(&fixture), [fence(2)], "the newer fence is the stricter one");
    assert_eq!(state_of(&fixture, "r1"), RunState::Superseded);
    assert_eq!(state_of(&fixture, "r2"), RunState::Open);
    assert_eq!(fixture.sync("planes", "facts").open_run.as_ref().unwrap().run, "r2");
}

#[test]
fn calls_of_a_superseded_run_name_the_newest_generation() {
    let mut fixture = Fixture::with_facts(ExitMode::Keep);
    fixture.open("r1", RunKind::Full);
    fixture.open("r2", RunKind::Full);
    fixture.open("r3", RunKind::Full);
    for command in [begin_commit("facts", "r1"), end_commit("facts", "r1"), abort_run("facts", "r1")] {
        let error = fixture.refused(ErrorCode::StaleGeneration, command);
        assert!(error.message.contains("a run of generation 3 was opened"), "{error}");
        assert_eq!(error.details, json!({ "generation": 1, "newest": 3 }));
    }
}

#[test]
fn ids_of_runs_are_unique_and_short() {
    let mut fixture = Fixture::with_facts(ExitMode::Keep);
    fixture.open("r1", RunKind::Full);
    fixture.refused(ErrorCode::Conflict, open_run("facts", "r1", RunKind::Full));
    fixture.open(&"x".repeat(MAX_RUN_ID_BYTES), RunKind::Full);
    fixture.refused(ErrorCode::ValidationFailed, open_run("facts", &"x".repeat(MAX_RUN_ID_BYTES + 1), RunKind::Full));
    fixture.refused(ErrorCode::ValidationFailed, open_run("facts", "", RunKind::Full));
}

/// Leads run `r` of a new cluster into a state.
fn run_in(state: RunState) -> Fixture {
    let mut fixture = Fixture::with_facts(ExitMode::Clear);
    fixture.open("r", RunKind::Full);
    match state {
        RunState::Open => {}
        RunState::Committing | RunState::Committed => {
            let intent = fixture.begin_commit("r").unwrap();
            if state == RunState::Committed {
                fixture.ok(done(intent, 0));
                fixture.ok(end_commit("facts", "r"));
            }
        }
        RunState::Aborted => drop(fixture.ok(abort_run("facts", "r"))),
        RunState::Superseded => drop(fixture.open("newer", RunKind::Delta)),
    }
    assert_eq!(state_of(&fixture, "r"), state);
    fixture
}

#[test]
fn each_state_takes_its_commands_and_refuses_the_others() {
    use ErrorCode::{Conflict, RunClosed, StaleGeneration};
    use RunState::{Aborted, Committed, Committing, Open, Superseded};
    type Expected = Result<RunState, ErrorCode>;
    let table: [(RunState, Expected, Expected, Expected); 5] = [
        // from, BeginCommit, EndCommit, AbortRun
        (Open, Ok(Committing), Err(Conflict), Ok(Aborted)),
        (Committing, Ok(Committing), Err(Conflict), Err(RunClosed)),
        (Committed, Ok(Committed), Ok(Committed), Err(RunClosed)),
        (Aborted, Err(RunClosed), Err(RunClosed), Ok(Aborted)),
        (Superseded, Err(StaleGeneration), Err(StaleGeneration), Err(StaleGeneration)),
    ];
    for (from, begin, end, abort) in table {
        for (command, expected) in
            [(begin_commit("facts", "r"), begin), (end_commit("facts", "r"), end), (abort_run("facts", "r"), abort)]
        {
            let mut fixture = run_in(from);
            match expected {
                Err(code) => drop(fixture.refused(code, command)),
                Ok(to) => {
                    let before = fixture.state.catalog();
                    fixture.ok(command);
                    assert_eq!(state_of(&fixture, "r"), to);
                    if from == to {
                        assert!(
                            Arc::ptr_eq(&before, &fixture.state.catalog()),
                            "a repeat in {from:?} changed something"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn only_full_runs_whose_rows_may_leave_are_swept() {
    for (kind, mode, swept) in [
        (RunKind::Full, ExitMode::Clear, true),
        (RunKind::Full, ExitMode::Delete, true),
        (RunKind::Full, ExitMode::Keep, false),
        (RunKind::Delta, ExitMode::Clear, false),
        (RunKind::Delta, ExitMode::Delete, false),
    ] {
        let mut fixture = Fixture::with_facts(mode);
        fixture.open("r", kind);
        let intent = fixture.begin_commit("r");
        assert_eq!(intent.is_some(), swept, "{kind:?} {mode:?}");
        let sync = fixture.sync("planes", "facts");
        assert!(!sync.open_run.as_ref().unwrap().takes_batches);
        if let Some(id) = intent {
            assert_eq!(fixture.state.intents_reader().get(id).unwrap().action, sweep(1, mode));
        } else {
            fixture.ok(end_commit("facts", "r"));
        }
    }
}

#[test]
fn a_commit_ends_only_after_its_sweep() {
    let mut fixture = Fixture::with_facts(ExitMode::Delete);
    fixture.open("r", RunKind::Full);
    let intent = fixture.begin_commit("r").unwrap();
    assert_eq!(fixture.begin_commit("r"), Some(intent), "a repeat names the same intent");
    fixture.refused(ErrorCode::Conflict, end_commit("facts", "r"));
    fixture.ok(done(intent, 5));
    assert_eq!(fixture.begin_commit("r"), None);
    fixture.ok(end_commit("facts", "r"));

    let sync = fixture.sync("planes", "facts");
    assert_eq!((sync.open_run.as_ref(), sync.last_good_run), (None, Some(NEW_YEAR)));
    let info = fixture.state.runs().get(FACTS.0, FACTS.1, "r").unwrap();
    assert_eq!((info.state, info.ended_at.as_deref()), (RunState::Committed, Some("2026-01-01T00:00:02Z")));
    assert_eq!((info.swept, info.successful.removed), (5, 5));
}

#[test]
fn a_run_that_ends_is_fenced() {
    let mut fixture = Fixture::with_facts(ExitMode::Keep);
    fixture.open("r1", RunKind::Delta);
    fixture.ok(abort_run("facts", "r1"));
    assert_eq!(pending(&fixture), [fence(2)]);
    assert_eq!(fixture.open("r2", RunKind::Full), 2);
    assert_eq!(pending(&fixture), [fence(2)], "the newer run's fence is the same");
    assert_eq!(fixture.begin_commit("r2"), None);
    assert_eq!(pending(&fixture), [fence(2)], "its batches may still be under way");
    fixture.ok(end_commit("facts", "r2"));
    assert_eq!(pending(&fixture), [fence(3)]);
    let before = fixture.state.intents();
    fixture.ok(end_commit("facts", "r2"));
    assert_eq!(fixture.state.intents(), before, "a repeat makes no other");
}

#[test]
fn an_intent_is_done_once() {
    let mut fixture = Fixture::with_facts(ExitMode::Delete);
    fixture.open("r", RunKind::Full);
    let intent = fixture.begin_commit("r").unwrap();
    for _ in 0..3 {
        fixture.ok(done(intent, 5));
    }
    assert_eq!(fixture.state.runs().get(FACTS.0, FACTS.1, "r").unwrap().swept, 5);
    assert_eq!(pending(&fixture), [fence(1)]);
    assert_eq!(fixture.state.intents_reader().get(intent), None);
    fixture.refused(ErrorCode::InvalidRequest, done(intent + 1, 0));
}

#[test]
fn a_commit_sweeps_by_the_exit_mode_of_its_beginning() {
    let mut fixture = Fixture::with_facts(ExitMode::Delete);
    fixture.open("r", RunKind::Full);
    fixture.begin_commit("r").unwrap();
    fixture.ok(put_sync("planes", "facts", &["name", "seats"], ExitMode::Keep));
    assert_eq!(pending(&fixture), [fence(1), sweep(1, ExitMode::Delete)]);
}

#[test]
fn a_superseded_commit_keeps_its_sweep_until_a_newer_one_covers_it() {
    let mut fixture = Fixture::with_facts(ExitMode::Clear);
    fixture.open("r1", RunKind::Full);
    let first = fixture.begin_commit("r1").unwrap();
    fixture.open("r2", RunKind::Full);
    assert_eq!(state_of(&fixture, "r1"), RunState::Superseded);
    assert_eq!(pending(&fixture), [sweep(1, ExitMode::Clear), fence(2)]);
    fixture.begin_commit("r2").unwrap();
    assert_eq!(pending(&fixture), [fence(2), sweep(2, ExitMode::Clear)]);
    fixture.ok(done(first, 9));
    assert_eq!(fixture.state.runs().get(FACTS.0, FACTS.1, "r1").unwrap().swept, 0);
}

#[test]
fn an_aborted_run_leaves_the_last_good_one() {
    let mut fixture = Fixture::with_facts(ExitMode::Keep);
    fixture.open("r1", RunKind::Full);
    fixture.begin_commit("r1");
    fixture.ok(end_commit("facts", "r1"));
    fixture.open("r2", RunKind::Full);
    fixture.ok(abort_run("facts", "r2"));
    let sync = fixture.sync("planes", "facts");
    assert_eq!((sync.open_run.as_ref(), sync.last_good_run), (None, Some(NEW_YEAR)));
    assert_eq!(fixture.open("r3", RunKind::Full), 3, "generations go on after an abort");
    assert_eq!(state_of(&fixture, "r2"), RunState::Aborted);
}

#[test]
fn batches_are_noted_after_the_end_of_their_run() {
    for state in [RunState::Committing, RunState::Committed, RunState::Aborted, RunState::Superseded] {
        let mut fixture = run_in(state);
        fixture.ok(record("r", batch(1, 0, 0)));
        let info = fixture.state.runs().get(FACTS.0, FACTS.1, "r").unwrap();
        assert_eq!((info.state, info.batches), (state, 1));
    }
}

#[test]
fn batches_publish_no_definitions() {
    let mut fixture = run_in(RunState::Open);
    let before = fixture.state.catalog();
    fixture.ok(record("r", batch(1, 0, 0)));
    assert!(Arc::ptr_eq(&before, &fixture.state.catalog()));
    assert_eq!(fixture.state.applied(), fixture.index);
}

#[test]
fn batch_numbers_have_a_limit() {
    let mut fixture = run_in(RunState::Open);
    fixture.ok(record("r", batch(MAX_SEQ, 0, 0)));
    fixture.refused(ErrorCode::ValidationFailed, record("r", batch(MAX_SEQ + 1, 0, 0)));
}

#[test]
fn syncs_of_one_collection_run_side_by_side() {
    let mut fixture = run_in(RunState::Open);
    fixture.ok(put_sync("planes", "usage", &["miles"], ExitMode::Keep));
    fixture.ok(open_run("usage", "r", RunKind::Delta));
    assert_eq!(state_of(&fixture, "r"), RunState::Open);
    let fences: Vec<_> = pending(&fixture);
    assert_eq!(fences.len(), 2, "each sync has its own fence: {fences:?}");
    fixture.ok(abort_run("usage", "r"));
    assert_eq!(state_of(&fixture, "r"), RunState::Open);
}
