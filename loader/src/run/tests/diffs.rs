//! The ways of finding what changed, and switching between them, against what the collection should hold.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::crashes::copy;
use super::*;
use crate::project::{DiffSpec, Incremental, KeySpec, Lookback};
use crate::source::writable::PLANNER;

fn incremental(lookback: u64, full_every: Duration) -> DiffSpec {
    DiffSpec::Incremental(Incremental { column: "a".to_owned(), lookback: Lookback::Count(lookback), full_every })
}

const DAY: Duration = Duration::from_secs(86_400);

fn in_warehouse() -> DiffSpec {
    DiffSpec::Warehouse { planner_schema: vec!["larder_planner".to_owned()] }
}

/// A world whose source is a warehouse.
fn warehouse_world(on_exit: ExitMode) -> World {
    let mut world = world(on_exit);
    std::fs::write(world.dir.path().join(PLANNER), "").unwrap();
    world.spec().diff = in_warehouse();
    world
}

/// The tables in the planner schema.
fn planner_tables(world: &World) -> Vec<String> {
    let planner = Connection::open(world.dir.path().join(PLANNER)).unwrap();
    let mut query = planner.prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").unwrap();
    let names = query.query_map([], |row| row.get(0)).unwrap();
    names.collect::<Result<_, _>>().unwrap()
}

fn in_planner(world: &World, sql: &str) {
    Connection::open(world.dir.path().join(PLANNER)).unwrap().execute_batch(sql).unwrap();
}

fn applied(world: &World) -> BTreeSet<String> {
    world.cluster.take_applied().into_iter().collect()
}

#[test]
fn the_warehouse_finds_what_changed() {
    let world = warehouse_world(ExitMode::Delete);
    let mut table = rows(0..20);
    world.write(&table);
    let first = world.run();
    assert_eq!((counts(&first), first.sent, first.resend), ([20, 0, 0, 0], 20, Some(ResendReason::FirstRun)));
    assert_eq!(world.cluster.records(), expected(&table));
    applied(&world);
    let second = world.run();
    assert_eq!((counts(&second), second.sent, second.resend, second.rows.read), ([0, 0, 0, 20], 0, None, 20));
    table.get_mut("k3").unwrap().0 = 99;
    table.remove("k4");
    table.insert("new".into(), (1, "x".into()));
    world.write(&table);
    let third = world.run();
    assert_eq!((counts(&third), third.sent), ([1, 1, 1, 18], 3));
    assert_eq!(applied(&world), BTreeSet::from(["k3".into(), "k4".into(), "new".into()]));
    assert_eq!(world.cluster.records(), expected(&table));
    let tables = planner_tables(&world);
    assert!(tables.len() == 1 && tables[0].ends_with("_keys_3"), "{tables:?}");
}

#[test]
fn a_plan_counts_the_same_and_leaves_no_table() {
    let world = warehouse_world(ExitMode::Delete);
    let mut table = rows(0..20);
    world.write(&table);
    world.run();
    table.remove("k4");
    table.insert("new".into(), (1, "x".into()));
    world.write(&table);
    let report = plan(&world.project, &sync_name(), PlanOptions::default(), &Silent).unwrap();
    let rows = report.rows;
    assert_eq!([rows.added, rows.changed, rows.removed, rows.unchanged], [1, 0, 1, 19]);
    assert_eq!(planner_tables(&world).len(), 1);
    assert_eq!(counts(&world.run()), [1, 0, 1, 19]);
}

#[test]
fn rejected_rows_are_asked_for_again_by_their_ids() {
    let world = warehouse_world(ExitMode::Delete);
    let table = rows(0..20);
    world.write(&table);
    world.cluster.decide(|_| Fate::Reject(vec!["k7".into(), "k9".into()]));
    assert_eq!(world.run().rows.rejected, 2);
    assert_eq!(world.run().sent, 2, "only what was rejected");
    world.cluster.decide(|_| Fate::Apply);
    let accepted = world.run();
    assert_eq!((counts(&accepted), accepted.sent), ([0, 2, 0, 18], 2));
    assert_eq!(world.cluster.records(), expected(&table));
    assert_eq!(world.run().sent, 0);
}

#[test]
fn a_model_that_is_never_the_same_twice_is_read_once() {
    let mut world = warehouse_world(ExitMode::Delete);
    world.write(&rows(0..20));
    world.spec().model = Model::sql("m", "SELECT id, random() AS a, b FROM t");
    assert_eq!(world.run().sent, 20);
    let before = world.cluster.records();
    let second = world.run();
    assert_eq!((counts(&second), second.sent), ([0, 20, 0, 0], 20));
    assert_ne!(world.cluster.records(), before);
}

#[test]
fn moving_the_diff_there_sends_nothing_and_moving_it_back_says_why_it_sends() {
    let mut world = warehouse_world(ExitMode::Delete);
    world.spec().diff = DiffSpec::Local;
    let mut table = rows(0..20);
    world.write(&table);
    world.run();
    world.spec().diff = in_warehouse();
    table.remove("k2");
    world.write(&table);
    let there = world.run();
    assert_eq!((counts(&there), there.sent, there.resend), ([0, 0, 1, 19], 1, None));
    assert_eq!(world.run().sent, 0);
    world.spec().diff = DiffSpec::Local;
    table.remove("k3");
    world.write(&table);
    let back = world.run();
    assert_eq!((counts(&back), back.resend), ([0, 18, 1, 0], Some(ResendReason::DiffMoved)));
    assert_eq!(world.cluster.records(), expected(&table));
    assert_eq!(world.run().sent, 0);
}

#[test]
fn a_key_of_several_columns_is_joined_by_all_of_them_and_outlives_a_change_of_the_key() {
    let mut world = warehouse_world(ExitMode::Delete);
    world.spec().key = KeySpec::of(vec!["id".to_owned(), "b".to_owned()]);
    world.write_raw(&[(Some("k"), 1, "x"), (Some("k"), 2, "y"), (Some("l"), 3, "x")]);
    assert_eq!(counts(&world.run()), [3, 0, 0, 0]);
    world.write_raw(&[(Some("k"), 1, "x"), (Some("k"), 5, "y"), (Some("m"), 3, "x")]);
    assert_eq!(counts(&world.run()), [1, 1, 1, 1]);
    let keys: Vec<String> = world.cluster.records().into_keys().collect();
    world.spec().key = KeySpec::of(vec!["b".to_owned(), "id".to_owned()]);
    let report = world.run();
    assert_eq!((counts(&report), report.resend), ([3, 0, 3, 0], Some(ResendReason::MappingChanged)));
    assert!(world.cluster.records().keys().all(|key| !keys.contains(key)), "{keys:?}");
    assert_eq!(world.run().sent, 0);
}

#[test]
fn a_changed_mapping_sends_all_rows_and_still_sees_removals() {
    let mut world = warehouse_world(ExitMode::Delete);
    let mut table = rows(0..20);
    world.write(&table);
    world.run();
    world.spec().fields.truncate(1);
    table.remove("k3");
    world.write(&table);
    let report = world.run();
    assert_eq!((counts(&report), report.resend), ([0, 19, 1, 0], Some(ResendReason::MappingChanged)));
    assert_eq!(world.run().sent, 0);
}

#[test]
fn a_table_that_was_lost_or_emptied_stops_the_run_and_a_full_run_replaces_it() {
    let world = warehouse_world(ExitMode::Delete);
    let table = rows(0..20);
    world.write(&table);
    world.run();
    let name = planner_tables(&world).remove(0);
    in_planner(&world, &format!("DELETE FROM \"{name}\" WHERE id = 'k3'"));
    let message = world.fails();
    assert!(message.contains("does not hold the keys") && message.contains("--full"), "{message}");
    in_planner(&world, &format!("DROP TABLE \"{name}\""));
    let message = world.fails();
    assert!(message.contains("--full"), "{message}");
    world.run_full();
    assert_eq!(world.run().sent, 0);
    assert_eq!(world.cluster.records(), expected(&table));
}

#[test]
fn rows_that_share_a_key_or_have_none_are_left_out_or_stop_the_run() {
    let mut world = warehouse_world(ExitMode::Delete);
    world.write_raw(&[(Some("a"), 1, "x"), (Some("a"), 2, "y"), (None, 3, "z"), (Some("b"), 4, "w")]);
    let message = world.fails();
    assert!(message.contains("1 rows have no key") && message.contains("2 rows share their key"), "{message}");
    world.spec().on_duplicate = OnDuplicate::Skip;
    let report = world.run();
    assert_eq!((report.sent, report.rows.rejected), (1, 3));
    let again = world.run();
    assert_eq!((again.sent, again.rows.rejected), (0, 3));
    world.write_raw(&[(Some("a"), 1, "x"), (Some("b"), 4, "w")]);
    assert_eq!(counts(&world.run()), [0, 1, 0, 1]);
}

#[test]
fn only_recent_rows_are_read_and_removals_wait_for_all() {
    let mut world = world(ExitMode::Delete);
    world.spec().diff = incremental(2, DAY);
    let mut table = rows(0..20);
    world.write(&table);
    assert_eq!(world.run().rows.read, 20);
    table.insert("new".into(), (25, "x".into()));
    table.remove("k5");
    world.write(&table);
    let report = world.run();
    // From 19 - 2 on.
    assert_eq!((report.rows.read, counts(&report), report.sent), (4, [1, 0, 0, 3], 1));
    assert!(report.notes.iter().any(|note| note.contains("recent `a`")), "{:?}", report.notes);
    assert!(world.cluster.records().contains_key("k5"));
    world.spec().diff = incremental(2, Duration::ZERO);
    let report = world.run();
    assert_eq!((report.rows.read, counts(&report)), (20, [0, 0, 1, 20]));
    assert_eq!(world.cluster.records(), expected(&table));
}

#[test]
fn the_cursor_waits_for_answers_and_rejected_rows_are_read_again() {
    let mut world = world(ExitMode::Delete);
    world.spec().diff = incremental(0, DAY);
    let mut table = rows(0..20);
    world.write(&table);
    world.cluster.decide(|_| Fate::Reject(vec!["k3".into()]));
    assert_eq!(world.run().rows.rejected, 1);
    let again = world.run();
    assert_eq!((again.rows.read, again.sent, again.rows.rejected), (2, 1, 1), "the newest row and the rejected one");
    table.insert("n1".into(), (30, "x".into()));
    world.write(&table);
    world.cluster.decide(|_| Fate::Status(403, "forbidden", None));
    world.fails();
    world.cluster.decide(|_| Fate::Apply);
    let after = world.run();
    assert_eq!((after.rows.read, after.sent), (3, 2));
    assert_eq!(world.cluster.records(), expected(&table));
    assert_eq!((world.run().rows.read, world.run().sent), (1, 0));
}

#[test]
fn a_changed_mapping_or_another_loader_makes_an_incremental_sync_read_all_rows() {
    let mut world = world(ExitMode::Delete);
    world.spec().diff = incremental(0, DAY);
    world.write(&rows(0..20));
    world.run();
    world.spec().fields.truncate(1);
    let report = world.run();
    assert_eq!((report.rows.read, report.sent, report.resend), (20, 20, Some(ResendReason::MappingChanged)));
    assert_eq!(world.run().rows.read, 1);
    world.cluster.content().generation += 5;
    let report = world.run();
    assert_eq!((report.rows.read, report.sent, report.resend), (20, 20, Some(ResendReason::Overtaken)));
}

#[test]
fn a_cursor_column_that_cannot_be_one_is_a_mistake_of_the_project() {
    let mut world = world(ExitMode::Delete);
    world.write(&rows(0..3));
    for (column, words) in [("b", "cast it in SQL"), ("nope", "not in the query's result")] {
        world.spec().diff = DiffSpec::Incremental(Incremental {
            column: column.to_owned(),
            lookback: Lookback::Count(0),
            full_every: DAY,
        });
        let message = world.fails();
        assert!(message.contains(words), "{message}");
    }
}

/// The loader's state, the planner schema and the cluster's content when a batch arrives.
struct Moment {
    state: TempDir,
    planner: Vec<u8>,
    content: Content,
}

/// Runs, and returns the moments at which batches arrived.
fn run_and_watch(world: &World) -> Vec<Moment> {
    let moments: Arc<Mutex<Vec<Moment>>> = Arc::default();
    let (watching, state_dir) = (Arc::clone(&moments), world.project.state_dir.clone());
    let planner = world.dir.path().join(PLANNER);
    world.cluster.decide(move |arrival| {
        let (state, planner) = (copy(&state_dir), std::fs::read(&planner).unwrap());
        watching.lock().unwrap().push(Moment { state, planner, content: arrival.content.clone() });
        Fate::Apply
    });
    world.run();
    std::mem::take(&mut moments.lock().unwrap())
}

#[test]
fn a_loader_that_dies_goes_on_from_what_was_acknowledged_over_the_base() {
    let world = warehouse_world(ExitMode::Delete);
    world.write(&rows(0..12));
    world.run();
    let mut table = rows(4..24);
    table.values_mut().skip(2).for_each(|row| row.0 += 1000);
    world.write(&table);
    let moments = run_and_watch(&world);
    assert!(moments.len() > 5, "{}", moments.len());
    for (at, moment) in moments.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(world.dir.path().join("w.db"), dir.path().join("w.db")).unwrap();
        std::fs::write(dir.path().join(PLANNER), &moment.planner).unwrap();
        let cluster = FakeCluster::start(moment.content.clone());
        let mut project = project(dir.path(), moment.state.path(), &cluster.url, ExitMode::Delete);
        project.syncs.get_mut("s").unwrap().diff = in_warehouse();
        let run = || run_tuned(&project, &sync_name(), &RunOptions::default(), quiet(), world.tuning).unwrap();
        let resumed = run();
        assert_eq!(cluster.records(), expected(&table), "moment {at}");
        // Of 24 differences at most those that were answered are not sent again, but for four batches of three on their way.
        let most = 24_u64.saturating_sub(3 * at as u64) + 12;
        assert!(resumed.sent <= most, "moment {at}: {} sent again", resumed.sent);
        let idle = run();
        assert_eq!((idle.sent, idle.rows.unchanged), (0, 20), "moment {at}");
    }
}

/// What happens between two runs, or to one.
#[derive(Debug, Clone)]
enum Step {
    /// Rows get these values.
    Write(Vec<(u8, u8)>),
    Remove(Vec<u8>),
    Remap,
    Mode(u8),
    /// The next run loses its cluster after so many batches.
    Cut(usize),
    /// The next run has these rows rejected.
    Reject(Vec<u8>),
    Run,
    Full,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..24u8;
    prop_oneof![
        4 => proptest::collection::vec((key.clone(), 0..6u8), 1..8).prop_map(Step::Write),
        2 => proptest::collection::vec(key.clone(), 1..4).prop_map(Step::Remove),
        1 => Just(Step::Remap),
        2 => (0..3u8).prop_map(Step::Mode),
        2 => (0..4usize).prop_map(Step::Cut),
        2 => proptest::collection::vec(key, 1..3).prop_map(Step::Reject),
        6 => Just(Step::Run),
        1 => Just(Step::Full),
    ]
}

fn play(steps: Vec<Step>) {
    let mut world = warehouse_world(ExitMode::Delete);
    world.spec().guard.max_removed.percent = 100.0;
    let all_fields = world.spec().fields.clone();
    let (mut table, mut clock) = (Rows::new(), 0);
    for step in steps {
        match step {
            Step::Write(values) => {
                for (key, value) in values {
                    let row = table.entry(format!("k{key}")).or_insert((0, String::new()));
                    if row.1 != value.to_string() || row.0 == 0 {
                        clock += 1;
                        *row = (clock, value.to_string());
                    }
                }
            }
            Step::Remove(keys) => keys.iter().for_each(|key| drop(table.remove(&format!("k{key}")))),
            Step::Remap => {
                let fields = &mut world.spec().fields;
                if fields.len() == 1 { *fields = all_fields.clone() } else { fields.truncate(1) }
            }
            Step::Mode(0) => world.spec().diff = DiffSpec::Local,
            Step::Mode(1) => world.spec().diff = in_warehouse(),
            Step::Mode(_) => world.spec().diff = incremental(1, Duration::ZERO),
            Step::Cut(batches) => {
                let mut left = batches;
                world.cluster.decide(move |_| {
                    if left == 0 {
                        return Fate::Status(403, "forbidden", None);
                    }
                    left -= 1;
                    Fate::Apply
                });
            }
            Step::Reject(keys) => {
                let keys: Vec<String> = keys.iter().map(|key| format!("k{key}")).collect();
                world.cluster.decide(move |_| Fate::Reject(keys.clone()));
            }
            Step::Run | Step::Full => {
                world.write(&table);
                let options = RunOptions { full: matches!(step, Step::Full), ..RunOptions::default() };
                // Cut or rejected: whatever it left behind, the next run makes it right.
                let _ = world.try_run(options);
                world.cluster.decide(|_| Fate::Apply);
                check(&world, &table);
            }
        }
    }
}

/// The next run makes the collection what the query says, and the one after it sends nothing.
fn check(world: &World, table: &Rows) {
    let report = world.run();
    let fields = world.project.syncs["s"].fields.len();
    let mut expected = expected(table);
    let mut records = world.cluster.records();
    if fields == 1 {
        for record in expected.values_mut().chain(records.values_mut()) {
            record.remove("fb");
        }
    }
    assert_eq!(records, expected, "after {:?}", report.notes);
    world.cluster.take_applied();
    let idle = world.run();
    assert_eq!((idle.sent, idle.rows.unchanged), (0, table.len() as u64), "{:?}", idle.resend);
    assert_eq!(world.cluster.take_applied(), Vec::<String>::new());
    assert!(planner_tables(world).len() <= 1, "{:?}", planner_tables(world));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn whatever_happens_the_collection_is_what_the_query_says(steps in proptest::collection::vec(step(), 1..16)) {
        play(steps);
    }
}

/// A table with a column of every kind whose text a session could print in another way, and statements that change one
/// value each, by its least part.
const TYPED: &str = "CREATE TABLE t (id bigint, n numeric(20,6), f double precision, s text, flag boolean, d date, \
    made timestamp, seen timestamptz, raw bytea, tags text[], j json)";
const TYPED_ROWS: &str = "INSERT INTO t SELECT i, i, i / 3.0, 's' || i, i % 2 = 0, date '2024-01-01', \
    timestamp '2024-01-01 10:00:00.000001', timestamptz '2024-01-01 10:00:00.000001+02', \
    RAW, CAST(TAGS AS text[]), CAST('{\"a\": 1}' AS json) FROM generate_series(1, 30) AS g(i)";
const TYPED_CHANGES: [&str; 10] = [
    "UPDATE t SET n = n + 0.000001 WHERE id = 1",
    "UPDATE t SET f = f * (1 + 2.220446049250313e-16) WHERE id = 2",
    "UPDATE t SET s = NULL WHERE id = 3",
    "UPDATE t SET flag = NOT flag WHERE id = 4",
    "UPDATE t SET d = date '2024-01-02' WHERE id = 5",
    "UPDATE t SET made = timestamp '2024-01-01 10:00:00.000002' WHERE id = 6",
    "UPDATE t SET seen = timestamptz '2024-01-01 10:00:00.000002+02' WHERE id = 7",
    "UPDATE t SET raw = RAW2 WHERE id = 8",
    "UPDATE t SET tags = NULL WHERE id = 9",
    "UPDATE t SET j = CAST('{\"a\": 2}' AS json) WHERE id = 10",
];

/// Changes of the smallest kind are found, and nothing else is sent.
fn finds_the_smallest_changes(mut world: World, execute: impl Fn(&str)) {
    let columns = ["n", "f", "s", "flag", "d", "made", "seen", "raw", "tags", "j"];
    let like = world.spec().fields[0].clone();
    let field = |name: &&str| FieldMapping {
        name: FieldName::new(name).unwrap(),
        kind: ValueType::String,
        from: Expression::Column((*name).to_owned()),
        ..like.clone()
    };
    world.spec().fields = columns.iter().map(field).collect();
    world.spec().model = Model::sql("m", "SELECT * FROM t;");
    execute(TYPED);
    execute(TYPED_ROWS);
    assert_eq!(world.run().sent, 30);
    // Each in a row of its own.
    TYPED_CHANGES.iter().for_each(|change| execute(change));
    let report = world.run();
    assert_eq!((counts(&report), report.sent), ([0, 10, 0, 20], 10));
    // The mark that stands for null is none when it is a text.
    execute("UPDATE t SET s = '-' WHERE id = 3");
    execute("DELETE FROM t WHERE id > 28");
    assert_eq!(counts(&world.run()), [0, 1, 2, 27]);
    world.cluster.decide(|_| Fate::Reject(vec!["12".into()]));
    execute("UPDATE t SET s = 'x' WHERE id IN (12, 13)");
    assert_eq!(world.run().rows.rejected, 1);
    world.cluster.decide(|_| Fate::Apply);
    assert_eq!((world.run().sent, world.run().sent), (1, 0));
    world.spec().diff = DiffSpec::Local;
    assert_eq!((counts(&world.run()), world.run().sent), ([0, 28, 0, 0], 0));
}

fn driver_world(driver: &str, uri: &str) -> World {
    let mut world = world(ExitMode::Delete);
    world.spec().diff = in_warehouse();
    let source = crate::source::adbc::tests::source(driver, Some(uri));
    world.project.sources.insert("w".to_owned(), SourceSpec::Driver(Box::new(source)));
    world
}

#[test]
fn postgresql_finds_the_smallest_change_of_every_type() {
    let postgres = crate::postgres::Postgres::start().unwrap();
    let bytes = |sql: &str| sql.replace("RAW2", "'\\x0002'::bytea").replace("RAW", "'\\x0001'::bytea");
    let execute = |sql: &str| drop(postgres.sql(&bytes(sql).replace("TAGS", "ARRAY['a', 'b,c']")).unwrap());
    finds_the_smallest_changes(driver_world("postgresql", &postgres.uri()), execute);
    let left = postgres.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'larder_planner'").unwrap();
    assert_eq!(left.trim(), "0", "the tables of a sync that compares here again are dropped");
}

#[test]
fn duckdb_finds_the_smallest_change_of_every_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.duckdb");
    let open = |source: &SourceSpec| crate::source::warehouse::warehouse(source, &Cancel::default()).unwrap().unwrap();
    let statement = |sql: &str| crate::source::statement::Statement::new("test", sql);
    let memory = open(&SourceSpec::Driver(Box::new(crate::source::adbc::tests::source("duckdb", None))));
    // A file that is not there is not made by opening it.
    memory.execute(&[statement(&format!("ATTACH '{}' AS w", path.display()))]).unwrap();
    let world = driver_world("duckdb", path.to_str().unwrap());
    let database = open(&world.project.sources["w"]);
    let bytes = |sql: &str| sql.replace("RAW2", "'\\x00\\x02'::blob").replace("RAW", "'\\x00\\x01'::blob");
    let execute = |sql: &str| {
        let sql = bytes(sql).replace("TAGS", "['a', 'b,c']");
        database.execute(&[statement(&sql)]).unwrap();
    };
    finds_the_smallest_changes(world, execute);
}

#[test]
fn postgresql_reads_recent_rows_by_times_of_both_kinds() {
    let postgres = crate::postgres::Postgres::start().unwrap();
    postgres.sql("ALTER DATABASE postgres SET timezone = 'Asia/Tokyo'").unwrap();
    for (kind, table) in [("timestamp", "a"), ("timestamptz", "b"), ("date", "c")] {
        postgres
            .sql(&format!(
                "CREATE TABLE {table} AS SELECT i AS id, i AS a, 'x' AS b,
                 CAST(timestamp '2024-01-01' + i * interval '1 day' AS {kind}) AS at FROM generate_series(1, 30) AS g(i)"
            ))
            .unwrap();
        let mut world = driver_world("postgresql", &postgres.uri());
        world.spec().model = Model::sql("m", &format!("SELECT * FROM {table} -- all"));
        world.spec().diff = DiffSpec::Incremental(Incremental {
            column: "at".to_owned(),
            lookback: Lookback::Span(2 * DAY),
            full_every: DAY,
        });
        assert_eq!(world.run().rows.read, 30);
        postgres.sql(&format!("INSERT INTO {table} VALUES (31, 31, 'y', '2024-03-01'), (32, 32, 'z', NULL)")).unwrap();
        let report = world.run();
        assert_eq!((report.rows.read, report.sent), (5, 2), "{kind}: three of the old, and both new ones");
    }
}
