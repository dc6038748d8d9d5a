//! The test warehouses themselves: what other tests take for granted of them.

use std::fs;

use larder_tests::drivers;
use larder_tests::postgres::Postgres;

#[test]
fn postgresql_starts_answers_and_leaves_nothing_behind() {
    let server = Postgres::start().unwrap();
    server.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2)").unwrap();
    assert_eq!(server.sql("SELECT id, id * 2 FROM t ORDER BY id").unwrap(), "1|2\n2|4");
    assert!(server.sql("SELECT nothing").unwrap_err().to_string().contains("nothing"));
    let data = server.sql("SHOW data_directory").unwrap();
    let state = fs::read_to_string(format!("{data}/postmaster.pid")).unwrap();
    let process = state.lines().next().unwrap().to_owned();
    assert!(fs::exists(&data).unwrap() && fs::exists(format!("/proc/{process}")).unwrap());
    let port = server.port();
    drop(server);
    assert!(!fs::exists(&data).unwrap(), "{data} is still there");
    assert!(!fs::exists(format!("/proc/{process}")).unwrap(), "a process is still there");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn drivers_are_there_with_their_manifests() {
    for name in ["postgresql", "sqlite", "duckdb", "flightsql", "snowflake", "bigquery"] {
        let manifest = fs::read_to_string(drivers::folder().join(format!("{name}.toml"))).unwrap();
        assert!(manifest.contains(&*drivers::library(name).to_string_lossy()), "{manifest}");
    }
}
