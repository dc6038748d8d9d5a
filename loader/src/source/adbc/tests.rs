//! Drivers for real, against PostgreSQL, DuckDB and SQLite; and workers that do not do what they should.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{Int64Array, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use larder_types::value::Value;
use proptest::prelude::*;

use super::frame::{DataWriter, Kind, write};
use super::*;
use crate::cancel::Why;
use crate::drivers;
use crate::mapping::column::{Column, is_supported};
use crate::postgres::{PASSWORD, Postgres};
use crate::project::Model;
use crate::project::Secret;
use crate::source::warehouse::count;

pub(crate) fn source(driver: &str, uri: Option<&str>) -> DriverSource {
    let library = drivers::library(driver);
    DriverSource {
        dialect: known::dialect_of_library(&library.file_name().unwrap().to_string_lossy()),
        entrypoint: (driver == "duckdb").then(|| "duckdb_adbc_init".to_owned()),
        driver: DriverName::Library(library),
        uri: uri.map(|uri| Secret(uri.to_owned())),
        options: BTreeMap::new(),
        secret_options: Vec::new(),
        written_out: None,
        login_timeout: Duration::from_secs(60),
        query_timeout: Duration::from_secs(60),
        root: std::env::temp_dir(),
    }
}

fn database(driver: &str, uri: Option<&str>) -> Adbc {
    Adbc::new(&source(driver, uri), &Cancel::default()).unwrap()
}

fn sql(text: &str) -> Statement {
    Statement::new("m", text)
}

fn with_params(text: &str, params: &[(&str, Value)]) -> Statement {
    let params = params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Statement { name: "m".to_owned(), text: text.to_owned(), params }
}

/// The rows as their cells read, NULL as `-`, what cannot be read as `!` and why.
fn texts(stream: RowStream) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for batch in stream.batches {
        let batch = batch.unwrap();
        assert!(batch.num_rows() <= crate::source::BATCH_ROWS);
        let schema = batch.schema();
        let columns: Vec<Column> = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, column)| Column::new(field, column).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let cells = columns.iter().map(|column| match column.cell(row) {
                Ok(Value::Null) => "-".to_owned(),
                Ok(value) => value.to_text(),
                Err(fault) => format!("! {fault}"),
            });
            rows.push(cells.collect());
        }
    }
    rows
}

/// The error that a stream ends with, and the rows that came before it.
fn error_after(stream: Result<RowStream, SourceError>) -> (String, usize) {
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => return (error.to_string(), 0),
    };
    let mut rows = 0;
    loop {
        match stream.batches.next() {
            Some(Ok(batch)) => rows += batch.num_rows(),
            Some(Err(error)) => {
                assert!(stream.batches.next().is_none(), "something followed the error");
                return (error.to_string(), rows);
            }
            None => panic!("the rows ended without an error after {rows}"),
        }
    }
}

/// The processes that this test has started as workers.
fn workers() -> Vec<PathBuf> {
    let children = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let parent = format!("\nPPid:\t{}\n", std::process::id());
    children
        .filter(|path| fs::read_to_string(path.join("status")).is_ok_and(|status| status.contains(&parent)))
        .filter(|path| {
            fs::read(path.join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(WORKER_COMMAND))
        })
        .collect()
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn kill(process: &Path) {
    let number = process.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(number).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn postgresql_types_are_exact_or_refused() {
    let server = Postgres::start().unwrap();
    server.sql("CREATE TYPE mood AS ENUM ('sad', 'fine'); CREATE TYPE pair AS (a int, b text)").unwrap();
    let database = database("postgresql", Some(&server.uri()));
    let columns = [
        ("1::smallint", "1"),
        ("2147483647", "2147483647"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("1.5::real", "1.5"),
        ("0.1::float8", "0.1"),
        ("33.50::numeric", "33.50"),
        ("12345678901234567890.123456789::numeric(38, 9)", "12345678901234567890.123456789"),
        ("'NaN'::numeric", "! holds a number that is not finite"),
        ("1e40::numeric", "! holds a decimal of more than 38 digits"),
        ("true", "true"),
        ("'é'::text", "é"),
        ("'ab'::varchar(5)", "ab"),
        ("'ab'::char(4)", "ab  "),
        ("'fine'::mood", "fine"),
        ("'\\x00ff'::bytea", "AP8="),
        ("DATE '2024-02-29'", "2024-02-29"),
        ("TIME '23:59:59.5'", "23:59:59.500000"),
        ("TIMESTAMP '2024-02-29 12:00:00.000001'", "2024-02-29T12:00:00.000001Z"),
        ("TIMESTAMPTZ '2024-02-29 12:00:00+02'", "2024-02-29T10:00:00Z"),
        ("'{\"b\": 1, \"a\": [1.50]}'::json", "{\"b\":1,\"a\":[1.50]}"),
        ("'{\"b\": 1}'::jsonb", "{\"b\":1}"),
        ("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("ARRAY[1, NULL, 3]", "[1,null,3]"),
        ("ARRAY['a', 'b']", "[\"a\",\"b\"]"),
        ("ARRAY[1.50, 2]::numeric[]", "[1.50,2]"),
        ("ROW(1, 'x')::pair", "{\"a\":1,\"b\":\"x\"}"),
        ("NULL::int", "-"),
        ("NULL::numeric", "-"),
    ];
    let expressions: Vec<String> =
        columns.iter().zip(0..).map(|((expression, _), number)| format!("{expression} AS c{number}")).collect();
    let statement = sql(&format!("SELECT {}", expressions.join(", ")));
    let described = database.describe(&statement).unwrap();
    let stream = database.query(&statement).unwrap();
    assert_eq!(described, stream.schema);
    let found = texts(stream);
    for ((expression, expected), found) in columns.iter().zip(&found[0]) {
        assert_eq!(found, expected, "{expression}");
    }

    // What only the database can read is refused by name, before a row is read.
    server.sql("CREATE EXTENSION hstore").unwrap();
    for odd in [
        "INTERVAL '1 day'",
        "'10.0.0.1'::inet",
        "'10.0.0.0/8'::cidr",
        "'08:00:2b:01:02:03'::macaddr",
        "'(1,2)'::point",
        "'1'::money",
        "'101'::bit(3)",
        "TIMETZ '12:00:00+02'",
        "'[1,5)'::int4range",
        "'a b'::tsvector",
        "'a=>1'::hstore",
        "ARRAY['10.0.0.1'::inet]",
        "pg_current_wal_lsn()",
        "'$.a'::jsonpath",
    ] {
        let described = database.describe(&sql(&format!("SELECT {odd} AS c"))).unwrap();
        assert!(!is_supported(described.field(0)), "{odd}: {:?}", described.field(0));
    }
}

#[test]
fn postgresql_streams_many_rows_and_counts_them() {
    let server = Postgres::start().unwrap();
    server.sql("CREATE TABLE t AS SELECT i AS id, repeat('x', 100) AS v FROM generate_series(1, 50000) AS i").unwrap();
    server.sql("CREATE SCHEMA \"my.app\"; CREATE VIEW \"my.app\".\"V\" AS SELECT id FROM t WHERE id <= 7").unwrap();
    let database = database("postgresql", Some(&server.uri()));
    let stream = database.query(&sql("SELECT id, v FROM t; -- all of them")).unwrap();
    let rows: usize = stream.batches.map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows, 50_000);
    assert_eq!(count(&database, &Model::Table("t".to_owned())).unwrap(), 50_000);
    assert_eq!(count(&database, &Model::Table("\"my.app\".V".to_owned())).unwrap(), 7);
    assert!(workers().is_empty(), "{:?}", workers());
}

#[test]
fn parameters_are_bound() {
    let server = Postgres::start().unwrap();
    let text = "SELECT x FROM (VALUES (1, 'a', DATE '2024-01-01'), (2, 'b''; DROP', DATE '2025-01-01')) AS t(x, y, z)
                WHERE y = :y AND z >= :z AND :n IS NULL AND :f > 1 AND :b";
    let params = [
        ("y", Value::String("b'; DROP".to_owned())),
        ("z", Value::Date(20_000)),
        ("n", Value::Null),
        ("f", Value::Float(1.5)),
        ("b", Value::Bool(true)),
    ];
    for database in [database("postgresql", Some(&server.uri())), database("duckdb", None)] {
        let statement = with_params(text, &params);
        assert_eq!(texts(database.query(&statement).unwrap()), [["2"]]);
        assert_eq!(database.describe(&statement).unwrap().fields().len(), 1);
    }
}

#[test]
fn error_in_the_middle_of_the_rows_is_no_end() {
    let server = Postgres::start().unwrap();
    let uri = server.uri();
    let database = database("postgresql", Some(&uri));
    let (error, rows) = error_after(database.query(&sql("SELECT 1 / (150000 - i) FROM generate_series(1, 200000) i")));
    assert!(error.ends_with("ERROR: division by zero"), "{error}");
    assert!(rows > 0);

    let late = "SELECT CASE WHEN i < 150000 THEN '1' ELSE 'private' END::int FROM generate_series(1, 200000) i";
    let (error, _) = error_after(database.query(&sql(late)));
    assert!(error.contains("invalid input syntax") && !error.contains("private"), "{error}");

    // The database goes away.
    let mut stream = database.query(&sql("SELECT i, repeat('x', 500) FROM generate_series(1, 5000000) i")).unwrap();
    stream.batches.next().unwrap().unwrap();
    assert!(server.disconnect_all().unwrap() > 0);
    let (error, _) = error_after(Ok(stream));
    assert!(!error.contains(PASSWORD), "{error}");

    // The worker is killed.
    let mut stream = database.query(&sql("SELECT i, repeat('x', 500) FROM generate_series(1, 5000000) i")).unwrap();
    stream.batches.next().unwrap().unwrap();
    workers().iter().for_each(|process| kill(process));
    let (error, _) = error_after(Ok(stream));
    assert!(error.contains("ended before its time") && error.contains("signal: 9"), "{error}");
}

#[test]
fn dropped_rows_take_their_worker_along() {
    let server = Postgres::start().unwrap();
    let database = database("postgresql", Some(&server.uri()));
    let mut stream = database.query(&sql("SELECT i, repeat('x', 500) FROM generate_series(1, 5000000) i")).unwrap();
    stream.batches.next().unwrap().unwrap();
    assert_eq!(workers().len(), 1);
    drop(stream);
    assert!(workers().is_empty());
}

#[test]
fn worker_ends_when_the_loader_is_gone() {
    let server = Postgres::start().unwrap();
    let database = database("postgresql", Some(&server.uri()));
    let (before, call) = call::of(&sql("SELECT pg_sleep(600)"), Dialect::Postgres).unwrap();
    let request = database.request(Task::Query { before, call }, true).unwrap();
    let mut line = serde_json::to_vec(&request).unwrap();
    line.push(b'\n');
    let built = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("larder-loader");
    let mut worker = Command::new(built)
        .arg(WORKER_COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = worker.stdin.take().unwrap();
    input.write_all(&line).unwrap();
    let mut output = worker.stdout.take().unwrap();
    assert_eq!(frame::read(&mut output, &mut Vec::new()).unwrap(), Kind::Connected);
    assert!(worker.try_wait().unwrap().is_none());
    drop(input);
    worker.wait().unwrap();
}

#[test]
fn queries_cannot_write_and_execute_does_all_or_nothing() {
    let server = Postgres::start().unwrap();
    server.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)").unwrap();
    let database = database("postgresql", Some(&server.uri()));
    let (error, _) = error_after(database.query(&sql("WITH d AS (DELETE FROM t RETURNING id) SELECT * FROM d")));
    assert!(error.contains("read-only"), "{error}");
    let (error, _) = error_after(database.query(&sql("DELETE FROM t RETURNING id")));
    assert!(error.contains("begins with `DELETE`"), "{error}");

    let insert = with_params("INSERT INTO t SELECT :a + i FROM generate_series(1, 3) i", &[("a", Value::Int(10))]);
    assert_eq!(database.execute(&[sql("CREATE TABLE u (id int)"), insert]).unwrap(), Some(3));
    let error = database.execute(&[sql("DELETE FROM t"), sql("INSERT INTO u VALUES (1), (1 / 0)")]).unwrap_err();
    assert!(error.to_string().contains("division by zero"), "{error}");
    assert_eq!(server.sql("SELECT count(*) FROM t").unwrap(), "5");
    assert_eq!(server.sql("SELECT count(*) FROM u").unwrap(), "0");
    // Lost answers are not taken for a no.
    let doing = std::thread::spawn(move || {
        let done = database.execute(&[sql("INSERT INTO u SELECT 1 FROM pg_sleep(600)")]);
        (database, done.unwrap_err().to_string())
    });
    wait_for(|| server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT%'").unwrap() == "1");
    workers().iter().for_each(|process| kill(process));
    let (database, error) = doing.join().unwrap();
    assert!(error.contains("took effect is not known"), "{error}");
    let error = database.execute(&[sql("INSERT INTO t VALUES (1)")]).unwrap_err().to_string();
    assert!(error.contains("23505") && !error.contains("(1)"), "{error}");
}

#[test]
fn waits_have_limits() {
    let server = Postgres::start().unwrap();
    let mut slow = source("postgresql", Some(&server.uri()));
    slow.query_timeout = Duration::from_millis(300);
    let (error, _) = error_after(Adbc::new(&slow, &Cancel::default()).unwrap().query(&sql("SELECT pg_sleep(600)")));
    assert!(error.contains("no answer within 300ms") && error.contains("timeouts.query"), "{error}");

    // Somebody who takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("postgresql://me:{PASSWORD}@{}/db", silent.local_addr().unwrap());
    let mut mute = source("postgresql", Some(&uri));
    mute.login_timeout = Duration::from_millis(300);
    let error = Adbc::new(&mute, &Cancel::default()).unwrap().info().unwrap_err().to_string();
    assert!(error.contains("no login within 300ms") && !error.contains(PASSWORD), "{error}");
    assert!(workers().is_empty());
}

#[test]
fn cancelled_queries_end_soon() {
    let server = Postgres::start().unwrap();
    let cancel = Cancel::default();
    let database = Adbc::new(&source("postgresql", Some(&server.uri())), &cancel).unwrap();
    let waiting = std::thread::spawn(move || error_after(database.query(&sql("SELECT pg_sleep(600)"))).0);
    wait_for(|| server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%'").unwrap() == "2");
    cancel.cancel(Why::Asked);
    assert_eq!(waiting.join().unwrap(), SourceError::Cancelled.to_string());
    assert!(workers().is_empty());
    // The server notices, too, that nobody waits.
    wait_for(|| server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%'").unwrap() == "1");
}

#[test]
fn refused_logins_and_statements_are_told_without_secrets() {
    let server = Postgres::start().unwrap();
    let wrong = server.uri().replace(PASSWORD, "wr%40ng-secret");
    let error = database("postgresql", Some(&wrong)).info().unwrap_err().to_string();
    assert!(error.contains("cannot log in") && error.contains("authentication failed"), "{error}");
    let nowhere = format!("postgresql://me:{PASSWORD}@127.0.0.1:1/db");
    let unreachable = database("postgresql", Some(&nowhere)).info().unwrap_err().to_string();
    assert!(unreachable.contains("cannot log in"), "{unreachable}");
    let bad = format!("postgresql://me:{PASSWORD}@[::1/db");
    let malformed = database("postgresql", Some(&bad)).info().unwrap_err().to_string();
    let database = database("postgresql", Some(&server.uri()));
    let (missing, _) = error_after(database.query(&sql("SELECT * FROM missing")));
    assert!(missing.contains("\"missing\" does not exist") && missing.contains("42P01"), "{missing}");
    let (data, _) = error_after(database.query(&sql("SELECT v::int FROM (VALUES ('private')) AS t(v)")));
    assert!(data.contains("22P02"), "{data}");
    for text in [error, unreachable, malformed, missing, data] {
        assert!(!text.contains(PASSWORD) && !text.contains("ng-secret") && !text.contains("private"), "{text}");
    }
    let info = database.info().unwrap();
    assert_eq!(info.database.as_deref(), Some("PostgreSQL"));
    assert!(info.database_version.is_some() && info.driver.is_some(), "{info:?}");
}

#[test]
fn duckdb_types_and_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = source("duckdb", None);
    source.root = folder.path().to_path_buf();
    let memory = Adbc::new(&source, &Cancel::default()).unwrap();
    let columns = [
        ("12.50::DECIMAL(10, 2)", "12.50"),
        ("170141183460469231731687303715884105::HUGEINT", "170141183460469231731687303715884105"),
        ("18446744073709551615::UBIGINT", "18446744073709551615"),
        ("'a'::ENUM('a', 'b')", "a"),
        ("DATE '2024-02-29'", "2024-02-29"),
        ("TIME '01:02:03'", "01:02:03"),
        ("TIMESTAMP_NS '2024-02-29 12:00:00.000000001'", "2024-02-29T12:00:00Z"),
        ("TIMESTAMPTZ '2024-02-29 12:00:00+02'", "2024-02-29T10:00:00Z"),
        ("{'a': 1, 'b': [1.5::DECIMAL(3,1)]}", "{\"a\":1,\"b\":[1.5]}"),
        ("MAP {'k': 1}", "{\"k\":1}"),
        ("[1, NULL]", "[1,null]"),
        ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::UUID", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("'\\x00\\xFF'::BLOB", "AP8="),
        ("NULL", "-"),
    ];
    let expressions: Vec<String> =
        columns.iter().zip(0..).map(|((expression, _), number)| format!("{expression} AS c{number}")).collect();
    let statement = sql(&format!("SELECT {}", expressions.join(", ")));
    let stream = memory.query(&statement).unwrap();
    assert_eq!(memory.describe(&statement).unwrap(), stream.schema);
    let found = texts(stream);
    for ((expression, expected), found) in columns.iter().zip(&found[0]) {
        assert_eq!(found, expected, "{expression}");
    }

    let write = "COPY (SELECT i AS id, 'v' || i AS v FROM range(100000) t(i)) TO 'rows.parquet' (FORMAT parquet)";
    memory.execute(&[sql(write)]).unwrap();
    assert!(folder.path().join("rows.parquet").is_file(), "paths are not relative to the project");
    let all = memory.query(&sql("SELECT * FROM 'rows.parquet'")).unwrap();
    assert_eq!(all.batches.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 100_000);
    let some = memory.query(&sql("FROM read_parquet('*.parquet') SELECT v WHERE id = 7")).unwrap();
    assert_eq!(texts(some), [["v7"]]);
    let (error, _) = error_after(memory.query(&sql("SELECT CAST('private' AS INT)")));
    assert!(error.contains("Conversion Error") && !error.contains("private"), "{error}");
}

#[test]
fn duckdb_files_are_opened_read_only_and_never_made() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = source("duckdb", Some("shop.duckdb"));
    source.root = folder.path().to_path_buf();
    let error = Adbc::new(&source, &Cancel::default()).unwrap().info().unwrap_err().to_string();
    assert!(error.contains("no such database file"), "{error}");
    let mut memory = source.clone();
    memory.uri = None;
    Adbc::new(&memory, &Cancel::default())
        .unwrap()
        .execute(&[sql("ATTACH 'shop.duckdb' AS s"), sql("CREATE TABLE s.t AS SELECT 1 AS id")])
        .unwrap();
    let file = Adbc::new(&source, &Cancel::default()).unwrap();
    assert_eq!(texts(file.query(&sql("SELECT id FROM t")).unwrap()), [["1"]]);
    assert_eq!(file.execute(&[sql("INSERT INTO t VALUES (2)")]).unwrap().unwrap_or(1), 1);
    assert_eq!(count(&file, &Model::Table("t".to_owned())).unwrap(), 2);
}

#[test]
fn sqlite_through_its_driver_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("w.db");
    rusqlite::Connection::open(&file)
        .unwrap()
        .execute_batch(
            "CREATE TABLE t (id INTEGER, v TEXT, f REAL); INSERT INTO t VALUES (1, 'a', 1.5), (2, NULL, NULL);",
        )
        .unwrap();
    let database = database("sqlite", Some(&file.to_string_lossy()));
    let statement = with_params("SELECT id, v, f FROM t WHERE id >= :least ORDER BY id", &[("least", Value::Int(1))]);
    assert_eq!(texts(database.query(&statement).unwrap()), [["1", "a", "1.5"], ["2", "-", "-"]]);
    assert_eq!(count(&database, &Model::Table("t".to_owned())).unwrap(), 2);
    let (error, _) = error_after(database.query(&sql("SELECT nope FROM t")));
    assert!(error.contains("nope"), "{error}");
}

#[test]
fn drivers_without_their_service_load_and_fail_clearly() {
    for (name, uri, options) in [
        ("flightsql", Some("grpc://127.0.0.1:1"), &[][..]),
        (
            "bigquery",
            None,
            &[
                ("adbc.bigquery.sql.project_id", "p"),
                ("adbc.bigquery.sql.auth_type", "adbc.bigquery.sql.auth_type.json_credential_string"),
                ("adbc.bigquery.sql.auth_credentials", "no-credentials"),
            ],
        ),
        ("snowflake", Some("me:the-secret@localhost/db?warehouse=w"), &[]),
    ] {
        let mut source = source(name, uri);
        source.login_timeout = Duration::from_secs(3);
        source.options =
            options.iter().map(|(name, value)| ((*name).to_owned(), Secret((*value).to_owned()))).collect();
        let database = Adbc::new(&source, &Cancel::default()).unwrap();
        let (error, _) = error_after(database.query(&sql("SELECT 1")));
        assert!(!error.contains("the-secret") && !error.contains("ended before its time"), "{name}: {error}");
    }
    assert!(workers().is_empty());
}

#[test]
fn what_is_no_driver_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lib.so");
    fs::write(&file, "not a library").unwrap();
    let mut source = source("postgresql", None);
    source.driver = DriverName::Library(file);
    let error = Adbc::new(&source, &Cancel::default()).unwrap().load().unwrap_err().to_string();
    assert!(error.contains("cannot be loaded"), "{error}");
    source.driver = DriverName::Library(folder.path().join("gone.so"));
    assert!(Adbc::new(&source, &Cancel::default()).map(|_| ()).unwrap_err().to_string().contains("there is no file"));
    source.driver = DriverName::Name("no-such-driver".to_owned());
    assert!(Adbc::new(&source, &Cancel::default()).map(|_| ()).unwrap_err().to_string().contains("is not installed"));
}

/// A session of one login and these numbers, as a worker would send it.
fn recorded(batches: &[Vec<i64>]) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, Kind::Connected, &[]).unwrap();
    let batch = |numbers: &Vec<i64>| {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(numbers.clone())) as _)]).unwrap()
    };
    let mut writer = StreamWriter::try_new(DataWriter::new(&mut out), &batch(&vec![]).schema()).unwrap();
    for numbers in batches {
        writer.write(&batch(numbers)).unwrap();
        writer.flush().unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    let rows = batches.iter().map(Vec::len).sum::<usize>() as u64;
    let done = serde_json::to_vec(&Done { rows, ..Done::default() }).unwrap();
    write(&mut out, Kind::Done, &done).unwrap();
    out
}

/// What the loader makes of bytes that a worker sends before it ends: the number of rows, or why not.
fn read_back(bytes: &[u8]) -> Result<usize, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let mut command = Command::new("cat");
    command.arg(file.path());
    let worker = Worker::spawn(command, Vec::new()).unwrap();
    let (frames, session) = database("duckdb", None).session(worker, Some(&sql("SELECT 1")));
    let stream = rows(frames, session).map_err(|error| error.to_string())?;
    let mut rows = 0;
    for batch in stream.batches {
        rows += batch.map_err(|error| error.to_string())?.num_rows();
    }
    Ok(rows)
}

#[test]
fn session_that_is_cut_anywhere_is_an_error() {
    let whole = recorded(&[vec![1, 2, 3], vec![4]]);
    assert_eq!(read_back(&whole), Ok(4));
    for length in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        let error = read_back(&whole[..length]).unwrap_err();
        assert!(error.contains("driver"), "{length}: {error}");
    }
}

#[test]
fn rows_that_are_lost_on_the_way_are_noticed() {
    let mut out = recorded(&[vec![1, 2, 3]]);
    let done = serde_json::to_vec(&Done { rows: 3, ..Done::default() }).unwrap();
    out.truncate(out.len() - done.len() - frame::HEAD);
    let mut more = out.clone();
    write(&mut more, Kind::Done, &serde_json::to_vec(&Done { rows: 4, ..Done::default() }).unwrap()).unwrap();
    assert!(read_back(&more).unwrap_err().contains("sent 4 rows, and 3 arrived"));
    let fault = Fault::new(Stage::Statement, "out of luck");
    write(&mut out, Kind::Fault, &serde_json::to_vec(&fault).unwrap()).unwrap();
    assert!(read_back(&out).unwrap_err().contains("out of luck"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn garbage_is_an_error_and_nothing_worse(bytes in proptest::collection::vec(any::<u8>(), 0..200), keep in 0..200usize) {
        let mut out = recorded(&[vec![1, 2, 3]]);
        out.truncate(keep.min(out.len() - 1));
        out.extend(bytes);
        prop_assert!(read_back(&out).is_err());
    }

    #[test]
    fn damage_never_panics(at in 0..400usize, byte in any::<u8>()) {
        let mut out = recorded(&[vec![1, 2, 3]]);
        let at = at % out.len();
        out[at] = byte;
        drop(read_back(&out));
    }
}
