//! The encoded forms of commands and snapshots: what is written today must be readable for ever.
//!
//! The files under `golden/` hold the forms of version 1, without the version byte. If one of these tests fails because
//! a form has changed, that change needs a new version, and code that still reads this one.

use larder_types::api::{Counts, Scope};
use larder_types::patch::ExitMode;

use super::super::command::COMMAND_VERSION;
use super::super::image::SNAPSHOT_VERSION;
use larder_types::ids::{NodeId, ReplicaId};

use super::super::{CatalogCommand, FormatError, NodeState, Place, Wanted, decode_command, encode_command};
use super::nodes::{contact, end, form_cluster, set_state, start};
use super::*;

const COMMANDS: &str = include_str!("golden/commands.ndjson");
const SNAPSHOT: &str = include_str!("golden/snapshot.json");
const MAP: &str = include_str!("golden/map.json");

/// One command of each kind, and of each shape that members can take.
fn every_command() -> Vec<CatalogCommand> {
    let scoped = vec![Scope::Read(None), Scope::Write(Some("planes".parse().unwrap()))];
    let primary_index = Some("tailnum".parse().unwrap());
    let fields = vec![field("name", ValueType::Any), field("öl", ValueType::Timestamp)];
    let mut cut = batch(4_000, 2, 3);
    cut.rejects_cut = true;
    cut.rejects[1].key = None;
    cut.rejects[1].field = None;
    vec![
        bootstrap(),
        put_collection("planes"),
        CatalogCommand::PutCollection { name: "planes".parse().unwrap(), primary_index },
        drop_collection("planes"),
        put_typed("planes", "facts", fields, ExitMode::Clear),
        put_sync("planes", "facts", &[], ExitMode::Delete),
        drop_sync("planes", "facts"),
        open_run("facts", "r1", RunKind::Full),
        open_run("facts", "r2", RunKind::Delta),
        record("r1", cut),
        begin_commit("facts", "r1"),
        end_commit("facts", "r1"),
        abort_run("facts", "r1"),
        CatalogCommand::CreateKey(ApiKey { scopes: scoped, ..key("k1") }),
        CatalogCommand::RevokeKey { id: "k1".into() },
        done(17, 1_000),
        form_cluster(),
        CatalogCommand::JoinNode { contact: contact(2, "b"), at: NEW_YEAR },
        CatalogCommand::UpdateNode { node: NodeId(2), contact: contact(2, "") },
        set_state(2, NodeState::Draining),
        start(1, Wanted::Add { place: Place::Voter(NodeId(2)), instead: Some(ReplicaId(2)) }),
        start(0, Wanted::Add { place: Place::Learner(NodeId(2)), instead: None }),
        start(0, Wanted::Promote { replica: ReplicaId(18), instead: None }),
        start(1, Wanted::Remove { replica: ReplicaId(2) }),
        end(1, 1, true),
    ]
}

/// The name of a command. A new kind does not compile until it is named here; then it belongs into `every_command`.
fn kind_of(command: &CatalogCommand) -> &'static str {
    match command {
        CatalogCommand::Bootstrap { .. } => "bootstrap",
        CatalogCommand::PutCollection { .. } => "put_collection",
        CatalogCommand::DropCollection { .. } => "drop_collection",
        CatalogCommand::PutSync { .. } => "put_sync",
        CatalogCommand::DropSync { .. } => "drop_sync",
        CatalogCommand::OpenRun { .. } => "open_run",
        CatalogCommand::RecordBatch { .. } => "record_batch",
        CatalogCommand::BeginCommit { .. } => "begin_commit",
        CatalogCommand::EndCommit { .. } => "end_commit",
        CatalogCommand::AbortRun { .. } => "abort_run",
        CatalogCommand::CreateKey(_) => "create_key",
        CatalogCommand::RevokeKey { .. } => "revoke_key",
        CatalogCommand::IntentDone { .. } => "intent_done",
        CatalogCommand::FormCluster { .. } => "form_cluster",
        CatalogCommand::JoinNode { .. } => "join_node",
        CatalogCommand::UpdateNode { .. } => "update_node",
        CatalogCommand::SetNodeState { .. } => "set_node_state",
        CatalogCommand::StartChange { .. } => "start_change",
        CatalogCommand::EndChange { .. } => "end_change",
    }
}

/// A state with something in every part.
fn full_state() -> CatalogState {
    let mut fixture = Fixture::with_facts(ExitMode::Clear);
    fixture.ok(put_typed("planes", "usage", vec![field("miles", ValueType::Int)], ExitMode::Keep));
    fixture.open("r1", RunKind::Full);
    fixture.ok(record("r1", batch(1, 1, 3)));
    let intent = fixture.begin_commit("r1").unwrap();
    fixture.ok(done(intent, 2));
    fixture.ok(end_commit("facts", "r1"));
    fixture.open("r2", RunKind::Full);
    fixture.begin_commit("r2");
    fixture.ok(put_collection("gone"));
    fixture.ok(drop_collection("gone"));
    fixture.ok(CatalogCommand::CreateKey(key("k1")));
    fixture.state
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(&bytes[1..]).unwrap()
}

fn with_version(version: u8, json: &str) -> Vec<u8> {
    [&[version], json.as_bytes()].concat()
}

#[test]
fn commands_have_the_form_of_their_version() {
    let commands = every_command();
    let forms: Vec<_> = commands.iter().map(encode_command).collect();
    assert!(forms.iter().all(|form| form[0] == 1), "the version byte");
    let written: Vec<&str> = forms.iter().map(|form| text(form)).collect();
    assert_eq!(written, COMMANDS.lines().collect::<Vec<_>>(), "written now:\n{}", written.join("\n"));
    for (command, form) in commands.iter().zip(&forms) {
        assert!(text(form).starts_with(&format!("{{\"{}\":", kind_of(command))), "{}", text(form));
        assert_eq!(decode_command(form).unwrap(), *command);
    }
    let kinds: std::collections::BTreeSet<_> = commands.iter().map(kind_of).collect();
    assert_eq!(kinds.len(), 19, "every kind is among the examples");
}

#[test]
fn snapshots_have_the_form_of_their_version() {
    let snapshot = full_state().snapshot();
    assert_eq!(snapshot[0], 1, "the version byte");
    assert_eq!(text(&snapshot), SNAPSHOT.trim_end(), "written now:\n{}", text(&snapshot));
    let restored = CatalogState::restore(&snapshot).unwrap();
    assert_eq!(restored.snapshot(), snapshot);
}

#[test]
fn maps_have_the_form_of_their_version() {
    let map = Fixture::joined(2, 1).state.catalog().map.clone();
    let written = serde_json::to_string(&*map).unwrap();
    assert_eq!(written, MAP.trim_end(), "written now:\n{written}");
    let state = Fixture::joined(2, 1).state;
    assert_eq!(CatalogState::restore(&state.snapshot()).unwrap().catalog().map, map);
}

#[test]
fn maps_that_contradict_themselves_are_refused() {
    let snapshot = Fixture::joined(2, 1).state.snapshot();
    for (what, from, to) in [
        ("a node's id that was never given", "\"next_node\":3", "\"next_node\":2"),
        ("a replica's id that was never given", "\"next_replica\":5", "\"next_replica\":4"),
        ("a replica twice", "\"replica\":3,", "\"replica\":2,"),
        ("an unknown node", "\"replica\":4,\"node\":2", "\"replica\":4,\"node\":9"),
        ("two replicas on a node", "\"replica\":4,\"node\":2", "\"replica\":4,\"node\":1"),
        ("a group without voters", "\"role\":\"voter\"", "\"role\":\"learner\""),
        ("a change that was never made", "\"next_change\":2", "\"next_change\":1"),
        ("a change of an unknown replica", "{\"add_voter\":{\"replica\":4,", "{\"add_voter\":{\"replica\":1,"),
        ("a group too few", "\"shards\":1,", "\"shards\":2,"),
    ] {
        let with = text(&snapshot).replacen(from, to, 1);
        assert_ne!(with, text(&snapshot), "{what}: `{from}` is not in {}", text(&snapshot));
        match CatalogState::restore(&with_version(SNAPSHOT_VERSION, &with)) {
            Err(FormatError::Contradiction(_)) => {}
            other => panic!("{what}: {:?}", other.map(|_| "accepted")),
        }
    }
}

#[test]
fn other_versions_are_refused() {
    let command = encode_command(&done(1, 0));
    assert!(matches!(decode_command(&[]), Err(FormatError::Empty)));
    assert!(matches!(CatalogState::restore(&[]), Err(FormatError::Empty)));
    for found in [0, COMMAND_VERSION + 1, b'{'] {
        let other = with_version(found, text(&command));
        assert!(matches!(decode_command(&other), Err(FormatError::Version { found: f, known: 1 }) if f == found));
        let other = with_version(found, SNAPSHOT.trim_end());
        assert!(matches!(CatalogState::restore(&other), Err(FormatError::Version { found: f, .. }) if f == found));
    }
}

#[test]
fn unknown_members_of_commands_are_refused_at_every_depth() {
    for line in COMMANDS.lines() {
        // Behind each opening brace in turn, since an older program must not skip what it does not know.
        for (at, _) in line.match_indices('{') {
            let (before, after) = line.split_at(at + 1);
            let with = format!("{before}\"from_the_future\":1,{after}").replace(",}", "}");
            assert!(decode_command(&with_version(COMMAND_VERSION, &with)).is_err(), "{with}");
        }
    }
}

#[test]
fn damaged_commands_are_refused() {
    for line in COMMANDS.lines() {
        for end in (0..line.len()).filter(|end| line.is_char_boundary(*end)) {
            assert!(decode_command(&with_version(COMMAND_VERSION, &line[..end])).is_err(), "{}", &line[..end]);
        }
        assert!(decode_command(&with_version(COMMAND_VERSION, &format!("{line} "))).is_err(), "trailing blank");
    }
}

#[test]
fn unknown_members_of_snapshots_are_refused() {
    for known in ["\"applied\":", "\"primary_index\":", "\"on_exit\":", "\"takes_batches\":", "\"sha256\":", "\"seq\":"]
    {
        let with = SNAPSHOT.trim_end().replacen(known, &format!("\"from_the_future\":1,{known}"), 1);
        assert_ne!(with, SNAPSHOT.trim_end(), "{known} is no member");
        let error = CatalogState::restore(&with_version(SNAPSHOT_VERSION, &with)).unwrap_err();
        assert!(matches!(error, FormatError::Json(_)), "{known}: {error}");
    }
}

#[test]
fn snapshots_that_contradict_themselves_are_refused() {
    for (what, from, to) in [
        ("a collection's id that was never given", "\"next_collection\":2", "\"next_collection\":0"),
        ("a field's id that was never given", "\"next_field\":3", "\"next_field\":2"),
        ("a slot that was never given", "\"next_slot\":2", "\"next_slot\":1"),
        ("fields out of order", "\"id\":1,\"name\":\"seats\"", "\"id\":9,\"name\":\"seats\""),
        ("a field twice", "\"id\":1,\"name\":\"seats\"", "\"id\":0,\"name\":\"seats\""),
        ("two fields of one name", "\"name\":\"seats\"", "\"name\":\"name\""),
        ("a field of another sync", "\"kind\":\"int\",\"owner\":1", "\"kind\":\"int\",\"owner\":0"),
        ("a field without a sync", "\"fields\":[2]", "\"fields\":[]"),
        (
            "two syncs in one slot",
            "\"slot\":1,\"name\":\"usage\",\"fields\":[2]",
            "\"slot\":0,\"name\":\"usage\",\"fields\":[]",
        ),
        ("an open run that is not recorded", "\"open_run\":{\"run\":\"r2\"", "\"open_run\":{\"run\":\"r9\""),
        ("two runs of one id", "\"id\":\"r2\"", "\"id\":\"r1\""),
        ("an intent that was never made", "\"next_intent\":7", "\"next_intent\":6"),
    ] {
        let with = SNAPSHOT.trim_end().replacen(from, to, 1);
        assert_ne!(with, SNAPSHOT.trim_end(), "{what}: `{from}` is not in the snapshot");
        match CatalogState::restore(&with_version(SNAPSHOT_VERSION, &with)) {
            Err(FormatError::Contradiction(_)) => {}
            other => panic!("{what}: {:?}", other.map(|_| "accepted")),
        }
    }
}

#[test]
fn a_batch_twice_in_a_snapshot_is_refused() {
    let noted = serde_json::to_string(&batch(1, 1, 3)).unwrap();
    let with = SNAPSHOT.trim_end().replacen(&noted, &format!("{noted},{noted}"), 1);
    assert_ne!(with, SNAPSHOT.trim_end());
    let error = CatalogState::restore(&with_version(SNAPSHOT_VERSION, &with)).unwrap_err();
    assert!(matches!(&error, FormatError::Json(json) if json.to_string().contains("noted twice")), "{error:?}");
}

#[test]
fn installing_a_snapshot_replaces_everything_and_keeps_readers() {
    let source = full_state();
    let mut fixture = Fixture::new();
    fixture.ok(put_collection("planes"));
    fixture.ok(put_sync("planes", "other", &["x"], ExitMode::Keep));
    fixture.ok(open_run("other", "old", RunKind::Delta));
    let (runs, intents) = (fixture.state.runs(), fixture.state.intents_reader());
    let restored = CatalogState::restore(&source.snapshot()).unwrap();
    assert!(runs.get(FACTS.0, FACTS.1, "old").is_some(), "a snapshot that is only read changes nothing");

    fixture.state.install(restored);
    assert_eq!(fixture.state.snapshot(), source.snapshot());
    assert_eq!(fixture.state.applied(), source.applied());
    assert!(runs.get(FACTS.0, FACTS.1, "old").is_none());
    let info = runs.get(FACTS.0, FACTS.1, "r1").unwrap();
    assert_eq!(info.successful, Counts { added: 4, changed: 3, removed: 3 });
    assert_eq!(intents.list(), source.intents());
}
