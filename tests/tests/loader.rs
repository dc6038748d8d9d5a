//! The loader against a real node: what it sends, what it refuses, and what it says.

use std::path::Path;
use std::process::Output;

use anyhow::Result;
use larder_tests::fixture::Collection;
use larder_tests::process::{Node, loader, run};
use larder_tests::scratch::{folder, write};
use serde_json::json;

const SYNC: &str = "source: files\ntable: people\nkey: id\ncollection: people\non_exit: delete\n";

/// A project with one sync of one CSV file.
fn project(dir: &Path, rows: &str, sync: &str) -> Result<()> {
    write(&dir.join("larder.yml"), "cluster: {url: \"${LARDER_URL}\", key: \"${LARDER_KEY}\"}\n")?;
    write(&dir.join("sources/files.yml"), "driver: files\ntables:\n  people: data/people.csv\n")?;
    write(&dir.join("data/people.csv"), rows)?;
    write(&dir.join("syncs/people.yml"), sync)
}

fn all(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs the loader and checks exit code and words of its output.
#[track_caller]
fn expect(dir: &Path, url: &str, arguments: &[&str], code: i32, words: &[&str]) -> Result<()> {
    let output = loader(dir, url, arguments)?;
    let text = all(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    Ok(())
}

#[test]
fn only_changes_are_sent() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    let (url, client) = (node.url(), node.client());
    let sync = format!("{SYNC}columns: [name, age]\n");
    project(dir.path(), "id,name,age\n1,Ann,41\n2,Bob,\n3,Cid,7\n", &sync)?;
    expect(dir.path(), &url, &["validate"], 0, &[])?;
    expect(dir.path(), &url, &["plan"], 0, &["added 3"])?;
    assert_eq!(client.get("/v1/collections/people")?.status, 404, "a plan has pushed");
    expect(dir.path(), &url, &["run"], 0, &["people: added 3 changed 0 removed 0"])?;
    let people = Collection::put(&client, "people")?;
    assert_eq!(people.get("2")?.expect(200).value(), json!({"name": "Bob", "age": null}));
    expect(dir.path(), &url, &["run"], 0, &["people: added 0 changed 0 removed 0"])?;
    expect(dir.path(), &url, &["plan", "--detailed-exitcode"], 0, &["0 to send"])?;
    project(dir.path(), "id,name,age\n1,Ann,42\n3,Cid,7\n4,Dee,9\n", &sync)?;
    expect(dir.path(), &url, &["plan", "--detailed-exitcode"], 10, &["~ 1 age: 41 -> 42", "- 2 {\"name\":\"Bob\""])?;
    expect(dir.path(), &url, &["explain-key", "people", "1"], 0, &["the next run sends it"])?;
    expect(dir.path(), &url, &["run"], 0, &["people: added 1 changed 1 removed 1"])?;
    assert_eq!(people.get("1")?.expect(200).value(), json!({"name": "Ann", "age": 42}));
    assert_eq!(people.get("2")?.status, 404);
    expect(dir.path(), &url, &["history"], 0, &["people"])?;
    expect(dir.path(), &url, &["status"], 0, &["people: succeeded", "main 3 rows"])?;
    expect(dir.path(), &url, &["explain-key", "people", "1"], 0, &["the record is as the row says"])?;
    Ok(())
}

#[test]
fn a_full_run_heals_lost_state() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    let sync = format!("{SYNC}columns: [name]\n");
    project(dir.path(), "id,name\n1,Ann\n2,Bob\n", &sync)?;
    expect(dir.path(), &node.url(), &["run"], 0, &["added 2"])?;
    std::fs::remove_dir_all(dir.path().join(".larder"))?;
    project(dir.path(), "id,name\n2,Bob\n3,Cid\n", &sync)?;
    expect(dir.path(), &node.url(), &["run", "--full"], 0, &[])?;
    let client = node.client();
    let people = Collection::put(&client, "people")?;
    assert_eq!(people.get("1")?.status, 404);
    assert_eq!(people.get("2")?.status, 200);
    assert_eq!(people.get("3")?.status, 200);
    expect(dir.path(), &node.url(), &["run"], 0, &["added 0 changed 0 removed 0"])
}

#[test]
fn a_removal_guard_holds_the_run() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    let sync = format!("{SYNC}columns: [name]\nguard: {{max_removed: {{percent: 10, rows: 5}}}}\n");
    let rows = |range: std::ops::Range<u32>| -> String {
        range.fold("id,name\n".into(), |text, id| text + &format!("{id},n{id}\n"))
    };
    project(dir.path(), &rows(0..100), &sync)?;
    expect(dir.path(), &node.url(), &["run"], 0, &["added 100"])?;
    project(dir.path(), &rows(0..89), &sync)?;
    expect(dir.path(), &node.url(), &["run"], 4, &["11", "--accept-removals"])?;
    assert_eq!(node.client().get("/v1/collections/people")?.value()["records"], 100);
    expect(dir.path(), &node.url(), &["run", "--full"], 4, &["--accept-removals"])?;
    expect(dir.path(), &node.url(), &["run", "--accept-removals"], 0, &["removed 11"])?;
    assert_eq!(node.client().get("/v1/collections/people")?.value()["records"], 89);
    // An empty result is the commonest sign of a broken query.
    project(dir.path(), "id,name\n", &sync)?;
    expect(dir.path(), &node.url(), &["run"], 4, &["min_rows"])?;
    assert_eq!(node.client().get("/v1/collections/people")?.value()["records"], 89);
    Ok(())
}

#[test]
fn bad_rows_and_bad_projects_are_explained() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    let (url, path) = (node.url(), dir.path());
    let plain = format!("{SYNC}columns: [name]\n");
    project(path, "id,name\n1,Ann\n1,Bob\n", &plain)?;
    expect(path, &url, &["run"], 1, &["people", "duplicate"])?;
    project(path, "id,name\n1,Ann\n,Bob\n", &plain)?;
    expect(path, &url, &["run"], 1, &["people", "no key"])?;
    assert_eq!(node.client().get("/v1/collections/people")?.status, 404, "a refused run has pushed");
    let template = format!("{SYNC}fields:\n  greeting: {{template: \"Hi {{{{ row.nmae }}}}\"}}\n");
    project(path, "id,name\n1,Ann\n", &template)?;
    expect(path, &url, &["validate"], 2, &["greeting", "nmae", "name"])?;
    expect(path, &url, &["run"], 2, &["greeting", "nmae"])?;
    project(path, "id,name\n1,Ann\n", &format!("{SYNC}columns: [nope]\n"))?;
    expect(path, &url, &["validate"], 2, &["nope"])?;
    project(path, "id,name\n1,Ann\n", &format!("{plain}schedul: daily\n"))?;
    expect(path, &url, &["validate"], 2, &["people.yml", "schedul"])?;
    let typed = format!("{SYNC}fields:\n  age: {{column: name, type: int}}\n");
    project(path, "id,name\n1,Ann\n2,7\n", &typed)?;
    expect(path, &url, &["run"], 3, &["rejected 1"])?;
    assert_eq!(node.client().get("/v1/collections/people/records/id/2")?.expect(200).value(), json!({"age": 7}));
    // The rejected row is tried again, and goes through once its cause is gone.
    project(path, "id,name\n1,41\n2,7\n", &typed)?;
    expect(path, &url, &["run"], 0, &["rejected 0"])?;
    assert_eq!(node.client().get("/v1/collections/people/records/id/1")?.expect(200).value(), json!({"age": 41}));
    Ok(())
}

#[test]
fn a_field_of_another_sync_is_refused_with_its_owner() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    let client = node.client();
    Collection::put(&client, "people")?.sync("crm", &json!(["name"]), "keep")?.expect(201);
    project(dir.path(), "id,name\n1,Ann\n", &format!("{SYNC}columns: [name]\n"))?;
    expect(dir.path(), &node.url(), &["run"], 1, &["name", "crm"])
}

#[test]
fn a_cluster_that_is_away_or_refuses_the_key_is_explained() -> Result<()> {
    let dir = folder()?;
    project(dir.path(), "id,name\n1,Ann\n", &format!("{SYNC}columns: [name]\n"))?;
    let node_dir = folder()?;
    let node = Node::start(node_dir.path())?;
    let project = dir.path().to_string_lossy().into_owned();
    let wrong = [("LARDER_URL", node.url()), ("LARDER_KEY", "not-the-key-of-this-node-at-all-000".into())];
    let wrong: Vec<(&str, &str)> = wrong.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let output = run("larder-loader", &["run", "--project", &project], &wrong)?;
    assert_eq!(output.status.code(), Some(1), "{}", all(&output));
    let text = all(&output);
    assert!(text.contains("API key") && !text.contains("not-the-key"), "{text}");
    let output = run("larder-loader", &["run", "--project", &project], &[])?;
    assert_eq!(output.status.code(), Some(2), "{}", all(&output));
    assert!(all(&output).contains("LARDER_KEY"), "{}", all(&output));
    Ok(())
}

#[test]
fn init_makes_a_project_that_runs() -> Result<()> {
    let (node_dir, dir) = (folder()?, folder()?);
    let node = Node::start(node_dir.path())?;
    let target = dir.path().join("new");
    let made = run("larder-loader", &["init", &target.to_string_lossy()], &[])?;
    assert!(made.status.success(), "{}", all(&made));
    expect(&target, &node.url(), &["validate"], 0, &[])?;
    expect(&target, &node.url(), &["run"], 0, &["added"])?;
    let again = run("larder-loader", &["init", &target.to_string_lossy()], &[])?;
    assert!(!again.status.success(), "init has overwritten a project");
    Ok(())
}
