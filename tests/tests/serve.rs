//! The loader's daemon against a real node: schedules, calls, crashes, and two daemons on one state folder.

use std::path::Path;

use anyhow::Result;
use larder_tests::daemon::{Daemon, PATIENCE, READ_TOKEN, SERVE};
use larder_tests::http::Client;
use larder_tests::process::{Node, loader};
use larder_tests::scratch::{folder, write};
use larder_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::{Value, json};

/// A project whose syncs each load two rows of an SQLite database into a collection of their own.
fn project(dir: &Path, syncs: &[(&str, &str)]) -> Result<()> {
    write(
        &dir.join("larder.yml"),
        &format!("cluster: {{url: \"${{LARDER_URL}}\", key: \"${{LARDER_KEY}}\"}}\n{SERVE}"),
    )?;
    write(&dir.join("sources/w.yml"), "driver: sqlite\npath: w.db\n")?;
    // An empty file is an empty database; the rows are in the statement.
    write(&dir.join("w.db"), "")?;
    write(&dir.join("models/rows.sql"), "SELECT 'k1' AS id, 1 AS n UNION ALL SELECT 'k2', 2\n")?;
    for (name, schedule) in syncs {
        let text = format!("source: w\nmodel: rows\nkey: id\ncollection: {name}\ncolumns: [n]\nschedule: {schedule}\n");
        write(&dir.join(format!("syncs/{name}.yml")), &text)?;
    }
    Ok(())
}

/// Waits until a sync has so many runs that succeeded, and returns all of its runs.
#[track_caller]
fn wait_runs(daemon: &Daemon, sync: &str, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} runs of {sync}"), PATIENCE, || {
        let runs = daemon.runs(sync).map_err(|error| error.to_string())?;
        let succeeded = runs.iter().filter(|run| run["state"] == "succeeded").count();
        if succeeded >= count { Ok(runs) } else { Err(format!("{runs:?}")) }
    })
}

/// The status and the code of an answer.
fn code(client: &Client, method: &str, path: &str, body: &[u8]) -> Result<(u16, String)> {
    let answer = client.send(method, path, &[("Content-Type", "application/json")], body)?;
    Ok((answer.status, answer.value()["code"].as_str().unwrap_or_default().to_owned()))
}

#[test]
fn syncs_run_by_time_after_each_other_and_when_called() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    project(dir.path(), &[("a", "{every: 1s}"), ("b", "{after: a}"), ("c", "manual")])?;
    let daemon = Daemon::start(dir.path(), &node.url())?;
    let runs = wait_runs(&daemon, "a", 2);
    assert_eq!(runs[0]["trigger"], "schedule");
    assert_eq!(wait_runs(&daemon, "b", 1)[0]["trigger"], "after");
    assert!(daemon.runs("c")?.is_empty());
    let id = daemon.trigger("c", &json!({"fullResync": true}))?;
    let run = daemon.wait_run(&id, "succeeded");
    assert_eq!((&run["kind"], &run["trigger"]), (&json!("full"), &json!("api")));
    assert_eq!(node.client().get("/v1/collections/c")?.value()["records"], 2);
    let id = daemon.trigger("c", &json!({"resetCDC": true}))?;
    let run = daemon.wait_run(&id, "succeeded");
    assert_eq!((&run["kind"], &run["sent"]), (&json!("delta"), &json!(2)));

    // Paused from the command line, and seen by the daemon.
    let output = loader(dir.path(), &node.url(), &["schedule", "pause", "a", "--json"])?;
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout)?["changed"], true);
    let view = daemon.client().get("/v1/syncs/a")?.expect(200).value();
    assert_eq!((&view["schedule"]["paused"], &view["schedule"]["next_at"]), (&json!(true), &Value::Null));
    let view = daemon.client().send("POST", "/v1/syncs/a/resume", &[], b"")?.expect(200).value();
    assert_eq!(view["schedule"]["paused"], false);
    let before = daemon.runs("a")?.len();
    wait_runs(&daemon, "a", before + 1);
    Ok(())
}

#[test]
fn the_api_lets_in_who_may_and_refuses_what_makes_no_sense() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    project(dir.path(), &[("c", "manual")])?;
    let daemon = Daemon::start(dir.path(), &node.url())?;
    let (caller, reader) = (daemon.client(), daemon.client().with_key(READ_TOKEN));
    let stranger = caller.with_key("");
    for (client, method, path, body, expected) in [
        (&stranger, "GET", "/v1/syncs", "", (401, "unauthenticated")),
        (&caller.with_key("wrong"), "GET", "/v1/syncs", "", (401, "unauthenticated")),
        (&reader, "POST", "/v1/syncs/c/trigger", "", (403, "forbidden")),
        (&caller, "GET", "/v1/syncs/c/trigger", "", (405, "method_not_allowed")),
        (&caller, "POST", "/v1/syncs/d/trigger", "", (404, "sync_not_found")),
        (&caller, "POST", "/v1/syncs/c/trigger", "{\"full\": true}", (400, "invalid_request")),
        (&caller, "POST", "/v1/syncs/c/trigger", "[", (400, "invalid_request")),
        (&caller, "GET", "/v1/syncs/c/runs?limit=0", "", (400, "invalid_request")),
        (&caller, "GET", "/v1/runs/nope", "", (404, "run_not_found")),
        (&caller, "POST", "/v1/runs/nope/cancel", "", (404, "run_not_found")),
        (&caller, "POST", "/v1/runs/nope/approve", "", (404, "run_not_found")),
        (&caller, "GET", "/v2", "", (404, "route_not_found")),
    ] {
        let found = code(client, method, path, body.as_bytes())?;
        assert_eq!((found.0, found.1.as_str()), expected, "{method} {path} {body}");
    }
    let large = vec![b' '; 20_000];
    assert_eq!(code(&caller, "POST", "/v1/syncs/c/trigger", &large)?.0, 413);
    assert_eq!(caller.send("POST", "/v1/syncs/c/trigger", &[("Content-Type", "text/plain")], b"x")?.status, 415);
    assert_eq!(stranger.get("/healthz")?.status, 200);
    wait_for("the daemon to be ready", PATIENCE, || {
        let ready = stranger.get("/readyz").map_err(|error| error.to_string())?;
        if ready.status == 200 { Ok(()) } else { Err(ready.text()) }
    });
    let metrics = stranger.get("/metrics")?.expect(200).text();
    assert!(metrics.contains("larder_loader_build_info"), "{metrics}");
    assert_eq!(reader.get("/v1/syncs")?.expect(200).value()["syncs"][0]["name"], "c");
    assert!(daemon.runs("c")?.is_empty(), "what was refused did nothing");
    Ok(())
}

#[test]
fn what_was_asked_for_survives_a_crash() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    project(dir.path(), &[("s", "manual")])?;
    let mut daemon = Daemon::start(dir.path(), &node.url())?;
    // A node that does not answer keeps the run under way.
    node.signal(Signal::STOP)?;
    let first = daemon.trigger("s", &json!({}))?;
    daemon.wait_run(&first, "running");
    let second = daemon.trigger("s", &json!({"fullResync": true}))?;
    assert_ne!(first, second);
    assert_eq!(daemon.trigger("s", &json!({}))?, second, "one run waits, and no more");
    assert_eq!(daemon.wait_run(&second, "pending")["full"], true);
    daemon.kill()?;
    node.signal(Signal::CONT)?;
    let daemon = Daemon::start(dir.path(), &node.url())?;
    assert_eq!(daemon.wait_run(&second, "succeeded")["kind"], "full");
    assert_eq!(node.client().get("/v1/collections/s")?.value()["records"], 2);
    let view = daemon.client().get("/v1/syncs/s")?.value();
    assert_eq!((&view["running"], &view["pending"]), (&Value::Null, &Value::Null));
    Ok(())
}

#[test]
fn runs_are_cancelled_whether_they_wait_or_not() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    project(dir.path(), &[("s", "manual")])?;
    let daemon = Daemon::start(dir.path(), &node.url())?;
    node.signal(Signal::STOP)?;
    let first = daemon.trigger("s", &json!({}))?;
    daemon.wait_run(&first, "running");
    // A command does not run what the daemon runs.
    let output = loader(dir.path(), &node.url(), &["run", "s"])?;
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    let second = daemon.trigger("s", &json!({}))?;
    let client = daemon.client();
    let cancel = |id: &str| client.send("POST", &format!("/v1/runs/{id}/cancel"), &[], b"");
    assert_eq!(cancel(&second)?.expect(200).value()["state"], "cancelled");
    assert_eq!(cancel(&first)?.expect(202).value()["state"], "cancelling");
    daemon.wait_run(&first, "cancelled");
    assert_eq!(cancel(&first)?.expect(409).value()["code"], "conflict");
    assert_eq!(cancel(&second)?.status, 404);
    node.signal(Signal::CONT)?;
    Ok(())
}

#[test]
fn a_run_that_a_guard_stopped_is_made_when_it_is_approved() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    project(dir.path(), &[("s", "manual\non_exit: delete\nguard: {max_removed: {percent: 0, rows: 0}}")])?;
    let daemon = Daemon::start(dir.path(), &node.url())?;
    let id = daemon.trigger("s", &json!({}))?;
    daemon.wait_run(&id, "succeeded");
    write(&dir.path().join("models/rows.sql"), "SELECT 'k1' AS id, 1 AS n\n")?;
    daemon.signal(Signal::HUP)?;
    daemon.expect("the project was loaded again");
    let blocked = daemon.trigger("s", &json!({}))?;
    daemon.wait_run(&blocked, "blocked");
    let approve = daemon.client().send("POST", &format!("/v1/runs/{blocked}/approve"), &[], b"")?.expect(202).value();
    let run = daemon.wait_run(approve["id"].as_str().unwrap_or_default(), "succeeded");
    assert_eq!((&run["trigger"], &run["rows"]["removed"]), (&json!("approve"), &json!(1)));
    assert_eq!(node.client().get("/v1/collections/s")?.value()["records"], 1);
    Ok(())
}

#[test]
fn daemons_on_one_state_folder_run_each_fire_once_and_take_over_from_the_dead() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    let names: Vec<String> = (0..8).map(|number| format!("s{number}")).collect();
    let syncs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "{every: 1h}")).collect();
    project(dir.path(), &syncs)?;
    let mut one = Daemon::start(dir.path(), &node.url())?;
    let two = Daemon::start(dir.path(), &node.url())?;
    for name in &names {
        wait_runs(&two, name, 1);
    }
    // Both have decided since, on what the other did.
    let id = two.trigger("s0", &json!({}))?;
    one.wait_run(&id, "succeeded");
    for (at, name) in names.iter().enumerate() {
        assert_eq!(one.runs(name)?.len(), if at == 0 { 2 } else { 1 }, "{name}");
    }
    node.signal(Signal::STOP)?;
    let id = one.trigger("s1", &json!({}))?;
    wait_for("one of them to begin", PATIENCE, || {
        let run = one.client().get(&format!("/v1/runs/{id}")).map_err(|error| error.to_string())?.value();
        if run["state"] == "running" { Ok(()) } else { Err(run.to_string()) }
    });
    let is_ours = one.output().contains(&id);
    one.kill()?;
    node.signal(Signal::CONT)?;
    wait_runs(&two, "s1", 2);
    if is_ours {
        two.expect("the loader of this run has vanished");
    }
    Ok(())
}

#[test]
fn a_project_is_loaded_again_if_it_is_sound() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    project(dir.path(), &[("a", "manual")])?;
    let mut daemon = Daemon::start(dir.path(), &node.url())?;
    let names = |daemon: &Daemon| -> Result<Vec<String>> {
        let syncs = daemon.client().get("/v1/syncs")?.expect(200).value();
        let syncs = syncs["syncs"].as_array().cloned().unwrap_or_default();
        Ok(syncs.iter().filter_map(|sync| Some(sync["name"].as_str()?.to_owned())).collect())
    };
    project(dir.path(), &[("b", "sometimes")])?;
    daemon.signal(Signal::HUP)?;
    daemon.expect("the project was not loaded again");
    assert_eq!(names(&daemon)?, ["a"]);
    project(dir.path(), &[("b", "{after: a}")])?;
    daemon.signal(Signal::HUP)?;
    daemon.expect("the project was loaded again");
    assert_eq!(names(&daemon)?, ["a", "b"]);
    daemon.trigger("a", &json!({}))?;
    wait_runs(&daemon, "b", 1);
    daemon.signal(Signal::TERM)?;
    assert_eq!(daemon.wait()?.code(), Some(0), "{}", daemon.output());
    Ok(())
}

#[test]
fn a_stop_lets_runs_end() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    project(dir.path(), &[("a", "manual")])?;
    let mut daemon = Daemon::start(dir.path(), &node.url())?;
    node.signal(Signal::STOP)?;
    let id = daemon.trigger("a", &json!({}))?;
    daemon.wait_run(&id, "running");
    daemon.signal(Signal::TERM)?;
    daemon.expect("stopping");
    let refused = daemon.client().send("POST", "/v1/syncs/a/trigger", &[], b"")?;
    assert_eq!((refused.status, &refused.value()["code"]), (503, &json!("draining")));
    node.signal(Signal::CONT)?;
    assert_eq!(daemon.wait()?.code(), Some(0), "{}", daemon.output());
    let daemon = Daemon::start(dir.path(), &node.url())?;
    assert_eq!(daemon.runs("a")?[0]["state"], "succeeded");

    // A second signal cuts a run short, and the next daemon makes it again.
    let mut daemon = daemon;
    node.signal(Signal::STOP)?;
    let id = daemon.trigger("a", &json!({}))?;
    daemon.wait_run(&id, "running");
    daemon.signal(Signal::TERM)?;
    daemon.expect("stopping");
    daemon.signal(Signal::TERM)?;
    assert_eq!(daemon.wait()?.code(), Some(0), "{}", daemon.output());
    node.signal(Signal::CONT)?;
    let daemon = Daemon::start(dir.path(), &node.url())?;
    assert_eq!(daemon.wait_run(&id, "cancelled")["id"], json!(id));
    wait_runs(&daemon, "a", 2);
    Ok(())
}
