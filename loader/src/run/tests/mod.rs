//! Runs against a cluster that misbehaves, and loaders that die.

mod cluster;
mod controls;
mod crashes;
mod destinations;
mod diffs;
mod faults;
mod guards;
mod migration;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_types::names::{FieldName, SyncName};
use larder_types::patch::ExitMode;
use larder_types::value::ValueType;
use rusqlite::Connection;
use tempfile::TempDir;

use self::cluster::{Content, FakeCluster, Fate, Record};
use super::*;
use crate::observe::Unobserved;
use crate::project::{
    AlertPolicy, Alerting, Cluster, Expression, FieldMapping, Guard, Limit, Model, OnDuplicate, Project, Secret,
    SourceSpec, SyncSpec, TlsFiles, log::Redaction, log::Retention, push::PushSpec, schedule::Schedule, serve::Serve,
};
use crate::push::retry::RetryPolicy;

/// A project of one sync over a table `t (id, a, b)`, its cluster, and its folder.
struct World {
    project: Project,
    cluster: FakeCluster,
    dir: TempDir,
    tuning: Tuning,
}

/// The rows of the table: key and the two mapped columns.
type Rows = BTreeMap<String, (i64, String)>;

const QUICK: RetryPolicy =
    RetryPolicy { first: Duration::from_millis(1), cap: Duration::from_millis(4), budget: Duration::from_secs(20) };

fn sync_name() -> SyncName {
    SyncName::new("s").unwrap()
}

fn cluster(url: &str) -> Cluster {
    Cluster { url: url.into(), key: Secret("secret".into()), tls: TlsFiles::default() }
}

fn main() -> DestinationName {
    DestinationName::new("main").unwrap()
}

/// A run that nobody watches.
fn quiet() -> Audience<'static> {
    Audience { progress: &Silent, observer: &Unobserved }
}

fn world(on_exit: ExitMode) -> World {
    let dir = tempfile::tempdir().unwrap();
    let cluster = FakeCluster::start(Content::default());
    let tuning = Tuning { spill_bytes: 400, batch_rows: 3, retry: QUICK };
    let project = project(dir.path(), &dir.path().join("state"), &cluster.url, on_exit);
    World { project, cluster, dir, tuning }
}

/// A sync of the columns `id`, `a` and `b` of a table `t`.
pub(crate) fn spec() -> SyncSpec {
    let field = |name: &str, kind, from| FieldMapping::new(FieldName::new(name).unwrap(), kind, from);
    SyncSpec {
        name: sync_name(),
        file: PathBuf::from("syncs/s.yml"),
        source: "w".into(),
        model: Model::sql("m", "SELECT id, a, b FROM t"),
        key: "id".into(),
        collection: "c".parse().unwrap(),
        destinations: vec![main()],
        primary_index: None,
        fields: vec![
            field("fa", ValueType::Int, Expression::Column("a".into())),
            field("fb", ValueType::String, Expression::Template("<{{ row.b }}>".into())),
        ],
        variables: BTreeMap::new(),
        on_exit: ExitMode::Keep,
        guard: Guard { min_rows: 0, ..Guard::default() },
        on_duplicate: OnDuplicate::Fail,
        alerts: AlertPolicy::default(),
        tags: Vec::new(),
        diff: crate::project::DiffSpec::Local,
        schedule: Schedule::default(),
        timeout: None,
    }
}

fn project(dir: &Path, state_dir: &Path, url: &str, on_exit: ExitMode) -> Project {
    let spec = SyncSpec { on_exit, ..spec() };
    Project {
        environment: None,
        root: dir.to_path_buf(),
        clusters: BTreeMap::from([(main(), cluster(url))]),
        state_dir: state_dir.to_path_buf(),
        sources: BTreeMap::from([("w".to_owned(), SourceSpec::Sqlite { path: dir.join("w.db") })]),
        syncs: BTreeMap::from([(sync_name(), spec)]),
        serve: Serve::default(),
        push: PushSpec::default(),
        retention: Retention::default(),
        redaction: Redaction::default(),
        alerting: Alerting::default(),
        lineage: None,
        warnings: Vec::new(),
    }
}

impl World {
    fn cluster_of_project(&mut self) -> &mut Cluster {
        self.project.clusters.get_mut(&main()).unwrap()
    }

    fn spec(&mut self) -> &mut SyncSpec {
        self.project.syncs.get_mut("s").unwrap()
    }

    fn write(&self, rows: &Rows) {
        let rows: Vec<(Option<&str>, i64, &str)> =
            rows.iter().map(|(key, (a, b))| (Some(key.as_str()), *a, b.as_str())).collect();
        self.write_raw(&rows);
    }

    fn write_raw(&self, rows: &[(Option<&str>, i64, &str)]) {
        let mut warehouse = Connection::open(self.dir.path().join("w.db")).unwrap();
        let transaction = warehouse.transaction().unwrap();
        transaction.execute_batch("DROP TABLE IF EXISTS t; CREATE TABLE t (id TEXT, a INTEGER, b TEXT)").unwrap();
        for row in rows {
            transaction.execute("INSERT INTO t VALUES (?1, ?2, ?3)", *row).unwrap();
        }
        transaction.commit().unwrap();
    }

    fn try_run(&self, options: RunOptions) -> Result<RunReport, RunError> {
        run_tuned(&self.project, &sync_name(), &options, quiet(), self.tuning)
    }

    fn run(&self) -> RunReport {
        self.try_run(RunOptions::default()).unwrap()
    }

    fn run_full(&self) -> RunReport {
        self.try_run(RunOptions { full: true, ..RunOptions::default() }).unwrap()
    }

    fn fails(&self) -> String {
        self.try_run(RunOptions::default()).unwrap_err().to_string()
    }

    fn state_file(&self) -> PathBuf {
        let folder = self.project.state_dir.join("s/main");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut snapshots = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snapshot-"));
        let found = snapshots.next().unwrap();
        assert_eq!(snapshots.next(), None, "an old state file was left behind");
        found
    }
}

fn rows(range: std::ops::Range<i64>) -> Rows {
    range.map(|n| (format!("k{n}"), (n, format!("b{n}")))).collect()
}

/// What the cluster should hold of these rows.
fn expected(rows: &Rows) -> BTreeMap<String, Record> {
    let record = |(a, b): &(i64, String)| {
        BTreeMap::from([("fa".to_owned(), a.to_string()), ("fb".to_owned(), format!("<{b}>"))])
    };
    rows.iter().map(|(key, row)| (key.clone(), record(row))).collect()
}

fn counts(report: &RunReport) -> [u64; 4] {
    [report.rows.added, report.rows.changed, report.rows.removed, report.rows.unchanged]
}

#[test]
fn only_what_changed_is_sent() {
    let world = world(ExitMode::Delete);
    let mut table = rows(0..20);
    world.write(&table);
    let first = world.run();
    assert_eq!((counts(&first), first.sent, first.acknowledged, first.batches), ([20, 0, 0, 0], 20, 20, 7));
    assert_eq!(first.resend, Some(ResendReason::FirstRun));
    assert_eq!(world.cluster.records(), expected(&table));
    world.cluster.take_applied();

    let second = world.run();
    assert_eq!((counts(&second), second.sent, second.resend), ([0, 0, 0, 20], 0, None));
    assert_eq!(world.cluster.take_applied(), Vec::<String>::new());

    table.get_mut("k3").unwrap().0 = 99;
    table.remove("k4");
    table.insert("new".into(), (1, "x".into()));
    world.write(&table);
    let third = world.run();
    assert_eq!((counts(&third), third.sent), ([1, 1, 1, 18], 3));
    let applied: BTreeSet<String> = world.cluster.take_applied().into_iter().collect();
    assert_eq!(applied, BTreeSet::from(["k3".into(), "k4".into(), "new".into()]));
    assert_eq!(world.cluster.records(), expected(&table));
    assert_eq!(world.run().sent, 0);
    world.state_file();
}

#[test]
fn each_exit_mode_does_what_it_says_once() {
    for (mode, left, sent) in [(ExitMode::Keep, Some(2), 0), (ExitMode::Clear, Some(0), 1), (ExitMode::Delete, None, 1)]
    {
        let world = world(mode);
        world.write(&rows(0..5));
        world.run();
        world.write(&rows(0..4));
        let report = world.run();
        assert_eq!((report.rows.removed, report.sent), (1, sent), "{mode:?}");
        assert_eq!(world.cluster.records().get("k4").map(BTreeMap::len), left, "{mode:?}");
        assert_eq!(world.run().rows.removed, 0, "{mode:?} counted a row that left twice");
        world.write(&rows(0..5));
        assert_eq!(world.run().rows.added, 1, "{mode:?}");
        assert_eq!(world.cluster.records(), expected(&rows(0..5)), "{mode:?}");
    }
}

#[test]
fn too_many_removals_are_blocked_until_accepted() {
    let mut world = world(ExitMode::Delete);
    world.spec().guard = Guard { max_removed: Limit { percent: 10.0, rows: 2 }, ..Guard::default() };
    world.write(&rows(0..30));
    world.run();
    world.cluster.take_applied();
    world.write(&rows(4..30));
    let error = world.try_run(RunOptions::default()).unwrap_err();
    assert_eq!(error.exit_class(), ExitClass::Blocked);
    assert_eq!((error.report().unwrap().rows.removed, error.report().unwrap().sent), (4, 0));
    assert!(error.to_string().contains("--accept-removals"), "{error}");
    assert!(plan(&world.project, &sync_name(), PlanOptions::default(), &Silent).unwrap().blocked.is_some());
    assert!(world.try_run(RunOptions { full: true, ..RunOptions::default() }).is_err());
    assert_eq!(world.cluster.take_applied(), Vec::<String>::new());
    assert_eq!(world.cluster.records().len(), 30);

    let accepted = world.try_run(RunOptions { accept_removals: true, ..RunOptions::default() }).unwrap();
    assert_eq!(accepted.rows.removed, 4);
    assert_eq!(world.cluster.records(), expected(&rows(4..30)));
    world.write(&Rows::new());
    let error = world.try_run(RunOptions { accept_removals: true, ..RunOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("min_rows"), "{error}");
    let states: Vec<String> =
        history(&world.project, Some(&sync_name()), 10).unwrap().into_iter().map(|entry| entry.state).collect();
    assert_eq!(states, ["blocked", "succeeded", "blocked", "blocked", "succeeded"]);
}

#[test]
fn a_changed_mapping_sends_every_row_again() {
    let mut world = world(ExitMode::Keep);
    world.write(&rows(0..10));
    world.run();
    world.spec().fields[1].from = Expression::Template("[{{ row.b }}]".into());
    let report = world.run();
    assert_eq!((counts(&report), report.sent), ([0, 10, 0, 0], 10));
    assert_eq!(report.resend, Some(ResendReason::MappingChanged));
    assert_eq!(world.cluster.records()["k1"]["fb"], "[b1]");
    assert_eq!(world.run().sent, 0);
}

#[test]
fn another_collection_starts_afresh() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.run();
    world.write(&rows(0..9));
    world.spec().collection = "other".parse().unwrap();
    let report = world.run();
    assert_eq!((counts(&report), report.resend), ([9, 0, 0, 0], Some(ResendReason::CollectionChanged)));
    assert_eq!(world.run().sent, 0);
}

#[test]
fn bad_keys_fail_the_run_with_examples_or_are_left_out() {
    let mut world = world(ExitMode::Delete);
    let long = "x".repeat(1025);
    world.write_raw(&[(Some("a"), 1, ""), (None, 2, ""), (Some("b"), 3, ""), (Some("a"), 4, "")]);
    let message = world.fails();
    for word in [
        "`id`",
        "1 rows have no key (row 2)",
        "2 rows share their key with another (rows 1 and 4)",
        "on_duplicate: skip",
    ] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert_eq!(world.cluster.records().len(), 0);
    world.write_raw(&[(Some("a"), 1, ""), (Some(&long), 2, ""), (Some(""), 3, "")]);
    let message = world.fails();
    assert!(message.contains("2 rows have a key that cannot be used (row 2, 3: a key may be 1024 bytes"), "{message}");

    world.spec().on_duplicate = OnDuplicate::Skip;
    world.write_raw(&[(Some("a"), 1, ""), (None, 2, ""), (Some("b"), 3, ""), (Some("a"), 4, ""), (Some(&long), 5, "")]);
    let report = world.run();
    assert_eq!((report.outcome, report.rows.rejected, report.sent), (Outcome::Partial, 4, 1));
    let codes: Vec<&str> = report.rejections.iter().map(|rejection| rejection.code.as_str()).collect();
    assert_eq!(codes, ["invalid_key", "invalid_key", "duplicate_key", "duplicate_key"]);
    assert_eq!(world.cluster.records().keys().collect::<Vec<_>>(), ["b"]);
    let kept: Vec<Rejection> =
        rejected(&world.project, &report.id).unwrap().into_iter().map(|row| row.rejection).collect();
    assert_eq!(kept, report.rejections);
}

#[test]
fn a_duplicate_key_is_shown_nowhere() {
    let mut world = world(ExitMode::Keep);
    world.write_raw(&[(Some("ann@example"), 1, ""), (Some("ann@example"), 2, ""), (Some("bob"), 3, "")]);
    let message = world.fails();
    world.spec().on_duplicate = OnDuplicate::Skip;
    let report = world.run();
    let kept = format!("{message} {:?} {:?}", history(&world.project, None, 9).unwrap(), report.rejections);
    assert!(kept.contains("rows 1 and 2") && !kept.contains("ann@example"), "{kept}");
}

#[test]
fn removals_beside_rows_without_a_key_are_remarked() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..3));
    world.run();
    let long = "x".repeat(1025);
    // k1 has gone, or is one of the two.
    world.write_raw(&[(Some("k0"), 0, "b0"), (Some(&long), 1, "b1"), (None, 1, "b1"), (Some("k2"), 2, "b2")]);
    assert!(world.fails().contains("1 rows have a key that cannot be used (row 2:"));
    assert_eq!(world.cluster.records(), expected(&rows(0..3)));
    world.spec().on_duplicate = OnDuplicate::Skip;
    let report = world.run();
    assert_eq!((report.rows.removed, report.rows.rejected, report.outcome), (1, 2, Outcome::Partial));
    assert!(report.notes[0].contains("2 rows have no usable key"), "{:?}", report.notes);
}

#[test]
fn a_duplicate_that_is_left_out_keeps_its_record() {
    let mut world = world(ExitMode::Delete);
    world.spec().on_duplicate = OnDuplicate::Skip;
    world.write(&rows(0..3));
    world.run();
    world.write_raw(&[(Some("k0"), 0, "b0"), (Some("k1"), 1, "b1"), (Some("k1"), 7, "b7"), (Some("k2"), 2, "b2")]);
    let report = world.run();
    assert_eq!((report.rows.removed, report.sent, report.rows.rejected), (0, 0, 2));
    assert_eq!(world.cluster.records(), expected(&rows(0..3)));
}

#[test]
fn rows_that_cannot_be_mapped_are_rejected_and_tried_again() {
    let mut world = world(ExitMode::Delete);
    world.spec().fields[0].from = Expression::Template("{{ row.b | to_number }}".into());
    world.write_raw(&[(Some("a"), 1, "1"), (Some("b"), 1, "x"), (Some("c"), 1, "3")]);
    let report = world.run();
    assert_eq!((report.outcome, report.exit_class()), (Outcome::Partial, ExitClass::Partial));
    assert_eq!((report.sent, report.rows.rejected), (2, 1));
    let rejection = &report.rejections[0];
    assert_eq!((rejection.key.as_deref(), rejection.row, rejection.field.as_deref()), (Some("b"), Some(2), Some("fa")));
    let planned = plan(&world.project, &sync_name(), PlanOptions { full: false, samples: 2 }, &Silent).unwrap();
    assert_eq!((planned.rows.added, planned.rows.rejected, planned.to_send), (1, 1, 0));
    world.write_raw(&[(Some("a"), 1, "1"), (Some("b"), 1, "2"), (Some("c"), 1, "3")]);
    let report = world.run();
    assert_eq!((report.outcome, report.sent), (Outcome::Succeeded, 1));
    assert_eq!(world.cluster.records()["b"]["fa"], "2");
}

#[test]
fn a_plan_says_what_a_run_would_do_and_asks_nobody() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.run();
    let mut table = rows(1..10);
    table.get_mut("k5").unwrap().1 = "q\"".into();
    table.insert("new".into(), (1, "x".into()));
    world.write(&table);
    world.cluster_of_project().url = "http://127.0.0.1:1".into();
    let planned = plan(&world.project, &sync_name(), PlanOptions { full: false, samples: 5 }, &Silent).unwrap();
    let RowCounts { read, added, changed, removed, unchanged, rejected } = planned.rows;
    assert_eq!([read, added, changed, removed, unchanged, rejected], [10, 1, 1, 1, 8, 0]);
    assert_eq!(planned.to_send, 3);
    let changed = planned.samples.iter().find(|sample| sample.change == "changed").unwrap();
    let new = |field: &FieldChange| field.new.as_ref().map(|new| format!("{} {}", field.field, new.get()));
    let fields: Vec<String> = changed.fields.iter().filter_map(new).collect();
    assert_eq!((changed.key.as_str(), fields), ("k5", vec!["fa 5".to_owned(), r#"fb "<q\">""#.to_owned()]));
    let full = plan(&world.project, &sync_name(), PlanOptions { full: true, samples: 0 }, &Silent).unwrap();
    assert_eq!((full.to_send, full.samples.len()), (10, 0));
}

#[test]
fn one_sync_is_run_by_one_loader_at_a_time() {
    let world = world(ExitMode::Keep);
    world.write(&rows(0..3));
    let state = State::open(&world.project.state_dir).unwrap();
    let held = state.hold(&sync_name(), false).unwrap();
    let error = world.try_run(RunOptions::default()).unwrap_err();
    assert_eq!((error.exit_class(), error.exit_class().code()), (ExitClass::Locked, 5));
    drop(held);
    world.run();
}

#[test]
fn a_wrong_project_is_told_before_anything_is_sent() {
    let mut world = world(ExitMode::Keep);
    world.write(&rows(0..3));
    world.spec().fields[0].from = Expression::Column("nope".into());
    let error = world.try_run(RunOptions::default()).unwrap_err();
    assert_eq!(error.exit_class(), ExitClass::Config);
    assert!(error.to_string().contains("sync `s`, field `fa`: the column `nope`"), "{error}");
    world.cluster_of_project().url = "https://larder.example".into();
    let missing = world.dir.path().join("no.pem");
    world.cluster_of_project().tls.ca = Some(missing);
    let error = world.try_run(RunOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no.pem") && error.exit_class() == ExitClass::Config, "{error}");
    let error = run(&world.project, &SyncName::new("x").unwrap(), &RunOptions::default(), quiet()).unwrap_err();
    assert!(error.to_string().contains("the project has: s"), "{error}");
    let states: Vec<String> = history(&world.project, None, 10).unwrap().into_iter().map(|run| run.state).collect();
    assert_eq!(states, ["failed"], "only the run that asked the source is in the history");
    assert!(!world.cluster.content().declared);
    assert!(rejected(&world.project, "none").is_err());
}
