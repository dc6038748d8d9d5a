//! One sync, two clusters: whatever is killed, each ends up with the rows of the query; and runs that are stopped by
//! people.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::process::{Node, ROOT_KEY, binary, loader, run};
use larder_tests::random::Random;
use larder_tests::scratch::{folder, write};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const ROWS: u64 = 40_000;
const KILLS: u32 = 8;

fn project(dir: &Path, edit: u64) -> Result<()> {
    let cluster = |name: &str| format!("  {name}: {{url: \"${{{name}_URL}}\", key: \"{ROOT_KEY}\"}}\n");
    write(&dir.join("larder.yml"), &format!("clusters:\n{}{}", cluster("EU"), cluster("US")))?;
    write(&dir.join("sources/files.yml"), "driver: files\ntables: {things: things.csv}\n")?;
    let sync = "source: files\ntable: things\nkey: id\ncollection: things\non_exit: delete\ncolumns: [name, edit]\n";
    write(&dir.join("syncs/things.yml"), sync)?;
    let mut rows = "id,name,edit\n".to_owned();
    // Each edit changes all rows, and a hundred leave and come.
    for row in edit * 100..ROWS + edit * 100 {
        writeln!(rows, "k{row},thing {row},{edit}")?;
    }
    write(&dir.join("things.csv"), &rows)
}

fn start(dir: &Path, eu: &str, us: &str) -> Result<Child> {
    Command::new(binary("larder-loader")?)
        .args(["run", "things", "--project"])
        .arg(dir)
        .env("EU_URL", eu)
        .env("US_URL", us)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start larder-loader")
}

fn command(dir: &Path, eu: &str, us: &str, arguments: &[&str]) -> Result<Output> {
    let place = dir.to_string_lossy();
    run("larder-loader", &[arguments, &["--project", &place]].concat(), &[("EU_URL", eu), ("US_URL", us)])
}

#[test]
fn both_regions_hold_the_rows_after_kills_of_the_loader_and_of_one_node() -> Result<()> {
    let mut random = Random::from_environment();
    let (dir, eu_dir, us_dir) = (folder()?, folder()?, folder()?);
    let (eu, mut us) = (Node::start(eu_dir.path())?, Node::start(us_dir.path())?);
    let (eu_url, us_url) = (eu.url(), us.url());
    let mut edit = 0;
    project(dir.path(), edit)?;
    let mut load = start(dir.path(), &eu_url, &us_url)?;
    for _ in 0..KILLS {
        std::thread::sleep(Duration::from_millis(50 + random.below(400)));
        if random.below(2) == 0 {
            load.kill()?;
        } else {
            us = us.crash_and_restart()?;
        }
        if let Some(status) = load.try_wait()? {
            if status.success() {
                edit += 1;
                project(dir.path(), edit)?;
            }
            load = start(dir.path(), &eu_url, &us_url)?;
        }
    }
    load.wait()?;
    let last = command(dir.path(), &eu_url, &us_url, &["run", "--json"])?;
    assert!(last.status.success(), "{}, {}", String::from_utf8_lossy(&last.stdout), random.seed());
    for node in [&eu, &us] {
        let client = node.client();
        let info = client.get("/v1/collections/things")?.expect(200).value();
        assert_eq!(info["records"], ROWS, "{}", random.seed());
        for _ in 0..200 {
            let row = edit * 100 + random.below(ROWS);
            let record = client.get(&format!("/v1/collections/things/records/id/k{row}"))?.expect(200).value();
            assert_eq!(record, json!({"name": format!("thing {row}"), "edit": edit}), "{}", random.seed());
        }
    }
    let plan = command(dir.path(), &eu_url, &us_url, &["plan", "--json"])?;
    let plan: Value = serde_json::from_slice(&plan.stdout)?;
    assert_eq!(plan["plan"]["to_send"], 0, "{plan}");
    Ok(())
}

#[test]
fn a_region_that_is_down_is_named_and_the_other_is_fed() -> Result<()> {
    let (dir, node_dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    project(dir.path(), 0)?;
    let settings = dir.path().join("larder.yml");
    let impatient = format!("{}push: {{give_up_after: 1s}}\n", std::fs::read_to_string(&settings)?);
    write(&settings, &impatient)?;
    let output = command(dir.path(), &node.url(), "http://127.0.0.1:1", &["run"])?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("EU: succeeded added") && text.contains("US: gave up trying"), "{text}");
    assert_eq!(node.client().get("/v1/collections/things")?.expect(200).value()["records"], ROWS);
    Ok(())
}

/// Starts a run that waits for clusters which are away, and returns it with its id.
fn waiting_run(dir: &Path) -> Result<(Child, String)> {
    project(dir, 0)?;
    let away = "http://127.0.0.1:1";
    let mut load = start(dir, away, away)?;
    let mut line = String::new();
    BufReader::new(load.stdout.take().context("no output")?).read_line(&mut line)?;
    let id = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    assert!(line.starts_with("things: run "), "{line}");
    Ok((load, id))
}

fn state_of(dir: &Path, id: &str) -> Result<String> {
    let history = command(dir, "http://127.0.0.1:1", "http://127.0.0.1:1", &["history", "--json"])?;
    let lines = String::from_utf8(history.stdout)?;
    let runs = lines.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let run = runs.iter().find(|run| run["id"] == id).context("the run is not in the history")?;
    Ok(run["state"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_signal_stops_a_run_and_is_in_the_history() -> Result<()> {
    let dir = folder()?;
    let (mut load, id) = waiting_run(dir.path())?;
    let pid = Pid::from_child(&load);
    kill_process(pid, Signal::TERM)?;
    assert_eq!(load.wait()?.code(), Some(1));
    assert_eq!(state_of(dir.path(), &id)?, "cancelled");
    Ok(())
}

#[test]
fn another_process_cancels_a_run() -> Result<()> {
    let dir = folder()?;
    let (mut load, id) = waiting_run(dir.path())?;
    let away = "http://127.0.0.1:1";
    let cancelled = command(dir.path(), away, away, &["cancel", &id])?;
    assert!(cancelled.status.success(), "{}", String::from_utf8_lossy(&cancelled.stderr));
    assert_eq!(load.wait()?.code(), Some(1));
    assert_eq!(state_of(dir.path(), &id)?, "cancelled");
    let again = command(dir.path(), away, away, &["cancel", &id])?;
    assert_eq!(again.status.code(), Some(2), "a run that has ended was cancelled");
    Ok(())
}

#[test]
fn a_blocked_run_is_approved_and_passes_once() -> Result<()> {
    let (dir, node_dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    let (dir, url) = (dir.path(), node.url());
    let rows = |count: u32| (0..count).fold("id,name\n".to_owned(), |text, id| text + &format!("{id},n{id}\n"));
    write(&dir.join("larder.yml"), "cluster: {url: \"${LARDER_URL}\", key: \"${LARDER_KEY}\"}\n")?;
    write(&dir.join("sources/files.yml"), "driver: files\ntables: {people: people.csv}\n")?;
    write(
        &dir.join("syncs/people.yml"),
        "source: files\ntable: people\nkey: id\ncollection: people\non_exit: delete\ncolumns: [name]\ntags: [small]\n\
         guard: {max_removed: {percent: 0, rows: 0}}\n",
    )?;
    write(&dir.join("people.csv"), &rows(9))?;
    assert!(loader(dir, &url, &["run", "--select", "tag:small"])?.status.success());
    assert_eq!(loader(dir, &url, &["run", "--select", "tag:large"])?.status.code(), Some(2));
    write(&dir.join("people.csv"), &rows(5))?;
    let blocked = loader(dir, &url, &["run", "--json"])?;
    assert_eq!(blocked.status.code(), Some(4));
    let blocked: Value = serde_json::from_slice(&blocked.stdout)?;
    let id = blocked["run"]["id"].as_str().context("no id")?.to_owned();
    let approved = loader(dir, &url, &["approve", &id])?;
    assert!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));
    let people =
        || -> Result<Value> { Ok(node.client().get("/v1/collections/people")?.expect(200).value()["records"].clone()) };
    assert_eq!(people()?, 9, "approving has pushed");
    assert!(loader(dir, &url, &["run"])?.status.success());
    assert_eq!(people()?, 5);
    assert_eq!(loader(dir, &url, &["approve", &id])?.status.code(), Some(2));
    assert!(loader(dir, &url, &["reset", "people"])?.status.success());
    assert!(loader(dir, &url, &["resync", "people"])?.status.success());
    assert_eq!(loader(dir, &url, &["retry", "people"])?.status.code(), Some(0));
    Ok(())
}
