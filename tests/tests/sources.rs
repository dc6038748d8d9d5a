//! Databases as sources of the loader, as a user meets them: commands over a project that reads PostgreSQL and DuckDB
//! by the names of their drivers.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::Result;
use larder_tests::postgres::{PASSWORD, Postgres};
use larder_tests::process::{Node, ROOT_KEY, binary};
use larder_tests::{drivers, scratch};
use serde_json::{Value, json};

const SYNC: &str = "
source: shop
model: users
params: {least: 2, since: '2024-01-01'}
key: id
collection: users
columns: [name, balance]
fields:
  greeting: {template: 'Hello {{ row.name }}'}
on_exit: delete
";

/// A loader that finds the drivers of the tests and no others.
fn loader(project: &Path, url: &str, arguments: &[&str]) -> Result<Output> {
    let done = Command::new(binary("larder-loader")?)
        .args(arguments)
        .current_dir(project)
        .env("ADBC_DRIVER_PATH", drivers::folder())
        .env("HOME", project)
        .env_remove("XDG_CONFIG_HOME")
        .env("LARDER_URL", url)
        .env("LARDER_KEY", ROOT_KEY)
        .env("PGPASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .output()?;
    Ok(done)
}

fn texts(done: &Output) -> (i32, String, String) {
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!out.contains(PASSWORD) && !err.contains(PASSWORD), "the password is shown:\n{out}\n{err}");
    (done.status.code().unwrap_or(-1), out, err)
}

fn lines(done: &Output) -> Vec<Value> {
    let (_, out, err) = texts(done);
    let lines: Vec<Value> = out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(!lines.is_empty() && lines.len() == out.lines().count(), "{out}\n{err}");
    lines
}

fn project(folder: &Path, server: &Postgres) -> Result<()> {
    let uri = server.uri().replace(PASSWORD, "${PGPASSWORD}");
    for (name, text) in [
        ("larder.yml", "cluster: {url: \"${LARDER_URL}\", key: \"${LARDER_KEY}\"}\n".to_owned()),
        ("sources/shop.yml", format!("driver: postgresql\nuri: {uri}\n")),
        ("sources/lake.yml", "driver: duckdb\n".to_owned()),
        (
            "models/users.sql",
            "SELECT id, name, balance, joined FROM app.users\n\
             WHERE id >= :least AND joined >= CAST(:since AS date) -- recent\n"
                .to_owned(),
        ),
        ("models/copy.sql", "SELECT id, name FROM read_csv('data/*.csv');\n".to_owned()),
        ("data/a.csv", "id,name\n1,ann\n2,bob\n".to_owned()),
        ("syncs/users.yml", SYNC.to_owned()),
        ("syncs/files.yml", "source: lake\nmodel: copy\nkey: id\ncollection: files\ncolumns: [name]\n".to_owned()),
        (
            "syncs/table.yml",
            "source: shop\ntable: app.users\nkey: id\ncollection: everyone\ncolumns: [name]\n".to_owned(),
        ),
    ] {
        scratch::write(&folder.join(name), &text)?;
    }
    server
        .sql(
            "CREATE SCHEMA app;
             CREATE TABLE app.users (id int PRIMARY KEY, name text, balance numeric(10, 2), joined date);
             INSERT INTO app.users VALUES (1, 'ann', 1.50, '2024-02-01'), (2, 'bob', 20.00, '2024-02-01'),
                                          (3, 'eve', NULL, '2024-02-01'), (4, 'old', 1.00, '2020-01-01')",
        )
        .map(drop)
}

#[test]
fn databases_are_synced_as_files_are() {
    let server = Postgres::start().unwrap();
    let folder = scratch::folder().unwrap();
    project(folder.path(), &server).unwrap();
    let data = scratch::folder().unwrap();
    let node = Node::start(data.path()).unwrap();
    let run = |arguments: &[&str]| loader(folder.path(), &node.url(), arguments).unwrap();

    for arguments in [&["validate"][..], &["debug"], &["run"]] {
        let (code, out, err) = texts(&run(arguments));
        assert_eq!(code, 0, "{arguments:?}\n{out}\n{err}");
    }
    let record = |collection: &str, id: &str| {
        let answer = node.client().get(&format!("/v1/collections/{collection}/records/id/{id}")).unwrap();
        format!("{} {}", answer.status, answer.text())
    };
    assert!(record("users", "2").contains("\"balance\":20.00"), "{}", record("users", "2"));
    assert!(record("users", "2").contains("Hello bob"));
    assert!(record("users", "1").starts_with("404") && record("users", "4").starts_with("404"));
    assert!(record("files", "1").contains("ann") && record("everyone", "4").contains("old"));

    // Only what changed is sent, and what left goes.
    server.sql("DELETE FROM app.users WHERE id = 3; UPDATE app.users SET balance = 21 WHERE id = 2").unwrap();
    let report = lines(&run(&["run", "users", "--json"]));
    assert_eq!(report[0]["exit_code"], 0, "{report:?}");
    assert!(record("users", "2").contains("\"balance\":21.00"));
    assert!(record("users", "3").starts_with("404"));
}

#[test]
fn commands_explain_what_a_sync_reads() {
    let server = Postgres::start().unwrap();
    let folder = scratch::folder().unwrap();
    project(folder.path(), &server).unwrap();
    let run = |arguments: &[&str]| loader(folder.path(), "http://127.0.0.1:1", arguments).unwrap();

    let compiled = &lines(&run(&["compile", "users", "--json"]))[0];
    assert_eq!(compiled["dialect"], "postgresql");
    assert_eq!(compiled["params"], json!(["least", "since"]));
    let used: Vec<(&str, bool)> = compiled["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| (column["name"].as_str().unwrap(), column["used"].as_bool().unwrap()))
        .collect();
    assert_eq!(used, [("id", true), ("name", true), ("balance", true), ("joined", false)]);
    assert!(compiled["sql"].as_str().unwrap().contains("app.users"));

    let rows = lines(&run(&["preview", "users", "--json", "--key", "2"]));
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["key"], "2");
    let joined = rows[0]["source"].as_array().unwrap().iter().find(|cell| cell["name"] == "joined").unwrap();
    assert_eq!(joined["value"], "2024-02-01");
    let greeting = rows[0]["record"].as_array().unwrap().iter().find(|cell| cell["name"] == "greeting").unwrap();
    assert_eq!(greeting["value"], "Hello bob");
    assert_eq!(lines(&run(&["preview", "table", "--json", "--limit", "3"])).len(), 3);
    let (code, out, _) = texts(&run(&["preview", "users"]));
    assert!(code == 0 && out.contains("record  balance: 20.00"), "{out}");
    let (code, _, err) = texts(&run(&["preview", "users", "--key", "77"]));
    assert!(code == 0 && err.contains("no row has the key `77`"), "{err}");

    // The source is fine and the cluster is away.
    let checks = lines(&run(&["debug", "--json"]));
    let of = |subject: &str| checks.iter().filter(|check| check["subject"] == subject).collect::<Vec<_>>();
    assert!(of("source shop").iter().all(|check| check["ok"] == true), "{checks:?}");
    assert!(of("source shop").iter().any(|check| check["detail"].as_str().unwrap().contains("PostgreSQL")));
    assert!(checks.iter().any(|check| check["ok"] == false), "{checks:?}");
    let (code, out, err) = texts(&run(&["debug", "shop"]));
    assert_eq!(code, 0, "{out}\n{err}");
    assert_eq!(texts(&run(&["debug", "nothing"])).0, 2);
}

#[test]
fn drivers_are_found_checked_and_explained() {
    let folder = scratch::folder().unwrap();
    let run = |arguments: &[&str]| loader(folder.path(), "", arguments).unwrap();
    let list = lines(&run(&["drivers", "list", "--json"]));
    let of = |name: &str| list.iter().find(|line| line["driver"] == name).unwrap();
    assert_eq!((&of("postgresql")["found"], &of("redshift")["found"]), (&json!(true), &json!(false)));
    assert_eq!(of("redshift")["install"], "dbc install redshift");
    let checked = run(&["drivers", "check", "--json"]);
    let lines = lines(&checked);
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert!(lines.iter().all(|line| line["loads"] == true), "{lines:?}");
    assert_eq!(texts(&run(&["drivers", "check", "redshift"])).0, 1);
    let (code, out, _) = texts(&run(&["drivers", "explain", "snowflake"]));
    assert!(code == 0 && out.contains("uri") && out.contains("libadbc_driver_snowflake.so"), "{out}");
    let (code, _, err) = texts(&run(&["drivers", "explain", "postgres"]));
    assert!(code == 2 && err.contains("postgresql"), "{err}");
}
