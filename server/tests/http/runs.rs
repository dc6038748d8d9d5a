//! Runs from their opening to their end, and the definitions around them.

use std::io::{Read as _, Write as _};

use hyper::Method;
use larder_server::config::Limits;
use larder_types::api::NDJSON;
use serde_json::{Value, json};

use crate::harness::{Harness, PATIENCE, ROOT_KEY, upsert, wait_for};

const RECORD: &str = "/v1/collections/people/records/id";

#[test]
fn a_full_run_sweeps_by_the_exit_mode_of_its_sync() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!(["name"]));
    let other = json!({"fields": ["flights"]});
    server.json(&Method::PUT, "/v1/collections/people/syncs/usage", &other).expect(201);
    let load = |sync: &str, kind: &str, lines: &str| {
        let run = server.open(sync, kind);
        server.batch(&run, 1, lines).expect(200);
        server.post(&format!("{run}/commit")).expect(200).value()
    };
    load("usage", "delta", &(upsert("stays", &json!({"flights": 1})) + &upsert("goes", &json!({"flights": 2}))));
    for (mode, left) in [("keep", Some(json!({"name": "n", "flights": 2}))), ("clear", Some(json!({"flights": 2})))]
        .into_iter()
        .chain([("delete", None)])
    {
        let sync = json!({"fields": ["name"], "on_exit": mode});
        server.json(&Method::PUT, "/v1/collections/people/syncs/crm", &sync).expect(200);
        load("crm", "delta", &(upsert("stays", &json!({"name": "n"})) + &upsert("goes", &json!({"name": "n"}))));
        let info = load("crm", "full", &upsert("stays", &json!({"name": "n"})));
        assert_eq!((info["state"].as_str(), info["unchanged"].as_u64()), (Some("committed"), Some(1)), "{info}");
        assert_eq!(info["swept"], u64::from(mode != "keep"), "{mode}");
        assert_eq!(server.get(&format!("{RECORD}/stays")).value(), json!({"name": "n", "flights": 1}), "{mode}");
        let goes = server.get(&format!("{RECORD}/goes"));
        match left {
            Some(left) => assert_eq!(goes.expect(200).value(), left),
            None => drop(goes.refuses(404, "record_not_found")),
        }
    }
    server.stop();
}

#[test]
fn a_run_ends_once_and_an_older_one_can_do_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!(["name"]));
    let line = upsert("1", &json!({"name": "a"}));
    let old = server.open("crm", "delta");
    server.batch(&old, 1, &line).expect(200);
    let new = server.open("crm", "delta");
    let body = server.batch(&old, 2, &line).refuses(409, "stale_generation");
    assert_eq!(body["details"]["newest"], 2);
    server.post(&format!("{old}/commit")).refuses(409, "stale_generation");
    assert_eq!(server.get(&old).value()["state"], "superseded");
    server.post(&format!("{new}/commit")).expect(200);
    assert_eq!(server.post(&format!("{new}/commit")).expect(200).value()["state"], "committed");
    server.batch(&new, 1, &line).refuses(409, "run_closed");
    let third = server.open("crm", "delta");
    server.post(&format!("{third}/abort")).expect(200);
    assert_eq!(server.post(&format!("{third}/abort")).expect(200).value()["state"], "aborted");
    server.post(&format!("{third}/commit")).expect(409);
    let runs = server.get("/v1/collections/people/syncs/crm/runs?limit=2").value();
    let states: Vec<_> = runs["runs"].as_array().unwrap().iter().map(|run| run["state"].clone()).collect();
    assert_eq!(states, ["aborted", "committed"]);
    server.post("/v1/collections/people/syncs/crm/runs/none/commit").refuses(404, "run_not_found");
    server.stop();
}

/// Sends a batch whose body comes only after `meanwhile`, when the server has found the run open.
fn batch_around(server: &Harness, run: &str, meanwhile: impl FnOnce()) -> (u16, Value) {
    let line = upsert("late", &json!({"name": "late"}));
    let head = format!(
        "POST {run}/batches/9 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ROOT_KEY}\r\ncontent-type: {NDJSON}\r\n\
         expect: 100-continue\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        line.len()
    );
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut asked = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut asked).unwrap();
    assert!(asked.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&asked));
    meanwhile();
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap())
}

#[test]
fn a_batch_that_was_under_way_when_its_run_ended_is_told_why_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!(["name"]));
    let refused = |run: &str, (status, code): (u16, &str), meanwhile: &dyn Fn()| {
        let (answered, body) = batch_around(&server, run, || {
            meanwhile();
            // Nobody waits for the fence of a run that has ended.
            wait_for("the shards to hear of it", || server.get("/v1/cluster").value()["pending_intents"] == 0);
        });
        assert_eq!((answered, body["code"].as_str()), (status, Some(code)), "{body}");
        body
    };
    let run = server.open("crm", "delta");
    refused(&run, (409, "run_closed"), &|| drop(server.post(&format!("{run}/commit")).expect(200)));
    let run = server.open("crm", "delta");
    refused(&run, (409, "run_closed"), &|| drop(server.post(&format!("{run}/abort")).expect(200)));
    let run = server.open("crm", "delta");
    let body = refused(&run, (409, "stale_generation"), &|| drop(server.open("crm", "delta")));
    assert_eq!(body["details"]["newest"], 4);
    let delete = |path: &str| drop(server.send(&Method::DELETE, path, &[], b"").expect(204));
    let run = server.open("crm", "delta");
    refused(&run, (404, "sync_not_found"), &|| delete("/v1/collections/people/syncs/crm"));
    server.json(&Method::PUT, "/v1/collections/people/syncs/crm", &json!({"fields": ["name"]})).expect(201);
    let run = server.open("crm", "delta");
    refused(&run, (404, "collection_not_found"), &|| delete("/v1/collections/people?confirm=people"));
    server.json(&Method::PUT, "/v1/collections/people", &json!({})).expect(201);
    server.get(&format!("{RECORD}/late")).refuses(404, "record_not_found");
    server.stop();
}

#[test]
fn the_debugger_pages_through_requests_and_rejects() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!([{"name": "n", "type": "int"}]));
    let run = server.open("crm", "delta");
    for seq in 1..=3 {
        let lines = upsert("a", &json!({"n": seq})) + &upsert("b", &json!({"n": "x"}));
        server.batch(&run, seq, &lines).expect(200);
    }
    let requests = server.get(&format!("{run}/requests?offset=1&limit=1")).expect(200).value();
    let request = &requests["requests"][0];
    assert_eq!(
        (request["seq"].as_u64(), request["rows"].as_u64(), request["status"].as_u64()),
        (Some(2), Some(2), Some(200))
    );
    assert_eq!(requests["requests"].as_array().unwrap().len(), 1);
    let rejects = server.get(&format!("{run}/rejects?offset=2")).expect(200).value();
    assert_eq!(rejects["rejects"].as_array().unwrap().len(), 1);
    assert_eq!((rejects["total"].as_u64(), rejects["all_kept"].as_bool()), (Some(3), Some(true)));
    let reject = &rejects["rejects"][0];
    assert_eq!(
        (reject["seq"].as_u64(), reject["key"].as_str(), reject["field"].as_str()),
        (Some(3), Some("b"), Some("n"))
    );
    server.get(&format!("{run}/rejects?page=2")).refuses(400, "invalid_request");
    server.stop();
}

#[test]
fn definitions_are_described_changed_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!(["name", {"name": "ltv", "type": "decimal"}]));
    let usage = json!({"fields": ["flights", "name"]});
    let put = |body| server.json(&Method::PUT, "/v1/collections/people/syncs/usage", &body);
    let body = put(usage).refuses(409, "field_owned_by_other_sync");
    assert_eq!(body["details"], json!({"field": "name", "owner": "crm"}));
    put(json!({"fields": [""]})).refuses(422, "validation_failed");
    put(json!({"fields": ["flights"], "exit": "keep"})).refuses(400, "invalid_request");
    assert_eq!(put(json!({"fields": ["flights"], "on_exit": "clear"})).expect(201).value()["on_exit"], "clear");
    let run = server.open("crm", "delta");
    server.batch(&run, 1, &upsert("1", &json!({"name": "a", "ltv": "1.50"}))).expect(200);
    server.post(&format!("{run}/commit")).expect(200);
    let info = server.get("/v1/collections/people").expect(200).value();
    assert_eq!(info["records"], 1);
    assert_eq!(info["indexes"], json!([{"name": "id", "primary": true}]));
    assert_eq!(info["fields"][1], json!({"name": "ltv", "type": "decimal", "sync": "crm"}));
    let crm = info["syncs"].as_array().unwrap().iter().find(|sync| sync["name"] == "crm").unwrap();
    assert_eq!((crm["records"].as_u64(), crm["generation"].as_u64()), (Some(1), Some(1)));
    assert!(crm["last_good_run"].is_string() && crm["age_seconds"].is_u64(), "{crm}");
    server.json(&Method::PUT, "/v1/collections/people", &json!({"primary_index": "mail"})).expect(409);
    server.json(&Method::PUT, "/v1/collections/list", &json!(["mail"])).refuses(400, "invalid_request");
    server
        .json(&Method::PUT, "/v1/collections/people/syncs/list", &json!([["name"], "delete"]))
        .refuses(400, "invalid_request");
    server.get("/v1/collections/list").refuses(404, "collection_not_found");
    server.json(&Method::PUT, "/v1/collections/a%20b", &json!({})).refuses(400, "invalid_request");
    let delete = |path: &str| server.send(&Method::DELETE, path, &[], b"");
    delete("/v1/collections/people/syncs/none").refuses(404, "sync_not_found");
    delete("/v1/collections/people/syncs/crm").expect(204);
    assert_eq!(server.get(&format!("{RECORD}/1")).expect(200).text(), "{}");
    delete("/v1/collections/people").refuses(400, "invalid_request");
    delete("/v1/collections/people?confirm=other").refuses(400, "invalid_request");
    delete("/v1/collections/people?confirm=people").expect(204);
    server.get(&format!("{RECORD}/1")).refuses(404, "collection_not_found");
    server.stop();
}
