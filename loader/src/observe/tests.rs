//! What a project's files ask for, over simulated runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::sinks::HttpSink;
use super::*;
use crate::run::{DeliveryReport, RowCounts};

const SYNC: &str = "source: w\nmodel: m\nkey: id\ncollection: things\ncolumns: [a]\n";

/// A project of sync `s`, which feeds `eu` and `us`, and has more in its larder.yml.
fn project(dir: &Path, more: &str) -> Project {
    let cluster = |port: u16| format!("{{url: \"http://127.0.0.1:{port}\", key: x}}");
    let settings = format!("clusters:\n  eu: {}\n  us: {}\n{more}", cluster(1), cluster(2));
    for (name, text) in [
        ("larder.yml", settings.as_str()),
        ("sources/w.yml", "driver: sqlite\npath: w.db\n"),
        ("models/m.sql", "SELECT id, a FROM t"),
        ("syncs/s.yml", SYNC),
    ] {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Project::load(dir, None).unwrap()
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_772_323_200 + second).unwrap()
}

fn started(project: &Project) -> RunStarted<'_> {
    let spec = project.syncs.values().next().unwrap();
    RunStarted { project, spec, run: "r1", kind: RunKind::Delta, trigger: Trigger::Cli, at: time(0) }
}

/// A run of ten rows, all of which `eu` has taken and none of which `us` has.
fn report(project: &Project) -> RunReport {
    let spec = project.syncs.values().next().unwrap();
    let rows = RowCounts { read: 10, added: 7, unchanged: 2, rejected: 1, ..RowCounts::default() };
    let delivery = |at: usize, outcome, acknowledged: u64| DeliveryReport {
        destination: spec.destinations[at].clone(),
        outcome,
        resend: None,
        rows,
        sent: 7,
        acknowledged,
        swept: 0,
        batches: 1,
        bytes: acknowledged * 10,
        error: (outcome == Outcome::Failed).then(|| "the cluster is away".to_owned()),
        notes: Vec::new(),
        replaced: BTreeMap::new(),
        rejections: Vec::new(),
    };
    RunReport {
        id: "r1".to_owned(),
        sync: spec.name.clone(),
        collection: spec.collection.clone(),
        kind: RunKind::Delta,
        trigger: Trigger::Cli,
        resend: None,
        outcome: Outcome::Failed,
        rows,
        sent: 14,
        acknowledged: 7,
        swept: 0,
        batches: 1,
        bytes: 70,
        seconds: 3.0,
        notes: Vec::new(),
        rejections: Vec::new(),
        deliveries: vec![delivery(0, Outcome::Partial, 7), delivery(1, Outcome::Failed, 0)],
    }
}

/// Tells of one whole run.
fn run(observing: &Observing, project: &Project) {
    let started = started(project);
    observing.started(&started);
    let destination = &started.spec.destinations[0];
    let attempt = SendAttempt {
        sync: &started.spec.name,
        destination,
        took: Duration::from_millis(20),
        is_repetition: true,
        in_flight: 3,
    };
    observing.sent(&attempt);
    let report = Some(Box::new(report(project)));
    let error = RunError::Failed { message: "us: the cluster is away".to_owned(), report };
    observing.ended(&RunEnded { started, at: time(3), result: Err(&error) });
}

#[test]
fn metrics_tell_what_runs_did() {
    let dir = tempfile::tempdir().unwrap();
    let project = project(dir.path(), "alerts: {rules: {failed: critical}}\n");
    let observing = Observing::start(&project).unwrap();
    let idle = observing.metrics();
    assert!(idle.contains("larder_loader_runs_running{sync=\"s\"} 0"), "{idle}");
    run(&observing, &project);
    let snapshot = dir.path().join(".larder/s/eu");
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("snapshot-3"), [0; 123]).unwrap();
    let SyncSpec { name, .. } = project.syncs.values().next().unwrap();
    observing.lagged(name, Duration::from_millis(1500));
    let text = observing.metrics();
    for line in [
        "larder_loader_runs_running{sync=\"s\"} 0",
        "larder_loader_run_duration_seconds_bucket{sync=\"s\",outcome=\"failed\",le=\"1\"} 0",
        "larder_loader_run_duration_seconds_bucket{sync=\"s\",outcome=\"failed\",le=\"5\"} 1",
        "larder_loader_run_duration_seconds_sum{sync=\"s\",outcome=\"failed\"} 3",
        "larder_loader_read_rows_total{sync=\"s\"} 10",
        "larder_loader_rows_total{sync=\"s\",destination=\"eu\",kind=\"acknowledged\"} 7",
        "larder_loader_rows_total{sync=\"s\",destination=\"us\",kind=\"acknowledged\"} 0",
        "larder_loader_rows_total{sync=\"s\",destination=\"us\",kind=\"added\"} 7",
        "larder_loader_last_success_timestamp_seconds{sync=\"s\",destination=\"eu\"} 1772323203",
        "larder_loader_push_seconds_count{sync=\"s\",destination=\"eu\"} 1",
        "larder_loader_push_retries_total{sync=\"s\",destination=\"eu\"} 1",
        "larder_loader_inflight_batches{sync=\"s\",destination=\"eu\"} 0",
        "larder_loader_snapshot_bytes{sync=\"s\",destination=\"eu\"} 123",
        "larder_loader_schedule_lag_seconds{sync=\"s\"} 1.5",
        "larder_loader_alerts{sync=\"s\",destination=\"us\",rule=\"failed\",level=\"critical\"} 1",
        "larder_loader_notices_waiting 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("last_success_timestamp_seconds{sync=\"s\",destination=\"us\"}"), "{text}");
    assert_eq!(text.matches("larder_loader_alerts{").count(), 1, "{text}");
}

#[test]
fn documentation_lists_every_family() {
    let dir = tempfile::tempdir().unwrap();
    let project = project(dir.path(), "");
    let text = Observing::start(&project).unwrap().metrics();
    let families: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let page = include_str!("../../../docs/loader-metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let named = rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2));
    let documented: BTreeSet<&str> = named.map(|name| name.split('{').next().unwrap_or(name)).collect();
    assert_eq!(families, documented);
}

#[test]
fn last_success_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let project = project(dir.path(), "");
    drop(Observing::start(&project).unwrap());
    let state = rusqlite::Connection::open(dir.path().join(".larder/state.db")).unwrap();
    state
        .execute_batch(
            "INSERT INTO runs (id, sync, kind, cause, state, started_at, ended_at) VALUES
                ('a', 's', 'delta', 'cli', 'failed', '2026-03-01T00:00:00Z', '2026-03-01T00:00:10Z'),
                ('b', 's', 'delta', 'cli', 'failed', '2026-03-01T00:01:00Z', '2026-03-01T00:01:10Z');
            INSERT INTO deliveries (run, destination, state, reason) VALUES
                ('a', 'eu', 'succeeded', NULL), ('a', 'us', 'failed', NULL),
                ('b', 'eu', 'failed', NULL), ('b', 'us', 'partial', 'interrupted')",
        )
        .unwrap();
    let text = Observing::start(&project).unwrap().metrics();
    let family: Vec<&str> =
        text.lines().filter(|line| line.starts_with("larder_loader_last_success_timestamp_seconds")).collect();
    assert_eq!(family, ["larder_loader_last_success_timestamp_seconds{sync=\"s\",destination=\"eu\"} 1772323210"]);
}

fn assert_lineage(begin: &Value, end: &Value) {
    assert_eq!((&begin["eventType"], &end["eventType"]), (&"START".into(), &"FAIL".into()));
    assert_eq!(begin["run"]["runId"], end["run"]["runId"]);
    assert_eq!(end["run"]["facets"]["errorMessage"]["message"], "us: the cluster is away");
    assert_eq!((&end["job"]["namespace"], &end["job"]["name"]), (&"prod".into(), &"s".into()));
    assert_eq!(end["job"]["facets"]["sql"]["query"], "SELECT id, a FROM t");
    let input = &end["inputs"][0];
    assert_eq!((&input["namespace"], &input["name"]), (&"sqlite://w".into(), &"m".into()));
    assert_eq!(input["inputFacets"]["inputStatistics"]["rowCount"], 10);
    let outputs = end["outputs"].as_array().unwrap();
    let written = |at: usize| &outputs[at]["outputFacets"]["outputStatistics"]["rowCount"];
    assert_eq!((outputs.len(), written(0), written(1)), (2, &7.into(), &0.into()));
    assert_eq!(outputs[0]["namespace"], "larder://127.0.0.1:1");
    assert_eq!(outputs[0]["facets"]["schema"]["fields"][0]["name"], "a");
}

#[test]
fn begin_and_end_of_a_run_are_events_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let more = "lineage: {file: lineage.ndjson, namespace: prod, sources: {w: \"sqlite://w\"}}\n";
    let project = project(dir.path(), more);
    let observing = Observing::start(&project).unwrap();
    run(&observing, &project);
    observing.finish(Duration::from_secs(20));
    let text = fs::read_to_string(dir.path().join("lineage.ndjson")).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2);
    assert_lineage(&events[0], &events[1]);
}

#[test]
fn events_are_posted_with_the_key_and_again_after_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let sink = HttpSink::start();
    let url = sink.url();
    let more =
        format!("lineage: {{url: \"{url}\", api_key: the-key, namespace: prod, sources: {{w: \"sqlite://w\"}}}}\n");
    let project = project(dir.path(), &more);
    let observing = Observing::start(&project).unwrap();
    sink.answer_with(503);
    observing.started(&started(&project));
    sink.take();
    sink.answer_with(200);
    let begin = sink.take();
    assert!(begin.head().starts_with("POST /hook/api/v1/lineage HTTP/1.1\r\n"), "{}", begin.head());
    assert_eq!(begin.header("authorization"), "Bearer the-key");
    let report = Some(Box::new(report(&project)));
    let error = RunError::Failed { message: "us: the cluster is away".to_owned(), report };
    observing.ended(&RunEnded { started: started(&project), at: time(3), result: Err(&error) });
    observing.finish(Duration::from_secs(20));
    let end = sink.take();
    assert_lineage(&serde_json::from_str(&begin.body).unwrap(), &serde_json::from_str(&end.body).unwrap());
}

#[test]
fn run_that_could_not_write_its_state_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let project = project(dir.path(), "");
    let outcome = |outcome, error: fn(Box<RunReport>) -> RunError| {
        let report = RunReport { outcome, ..report(&project) };
        let error = error(Box::new(report));
        RunEnded { started: started(&project), at: time(3), result: Err(&error) }.outcome()
    };
    let failed = |report| RunError::Failed { message: String::new(), report: Some(report) };
    assert_eq!(outcome(Outcome::Succeeded, failed), Outcome::Failed);
    let cancelled = |report| RunError::Cancelled { message: String::new(), report };
    assert_eq!(outcome(Outcome::Cancelled, cancelled), Outcome::Cancelled);
    let blocked = |report| RunError::Blocked { message: String::new(), report };
    assert_eq!(outcome(Outcome::Blocked, blocked), Outcome::Blocked);
}
