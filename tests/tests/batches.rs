//! Batches, runs and exit modes through the HTTP interface.

use anyhow::Result;
use larder_tests::fixture::{Collection, upsert};
use larder_tests::process::Node;
use larder_tests::scratch;
use serde_json::json;

#[test]
fn exit_modes_do_what_they_say() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    for mode in ["keep", "clear", "delete"] {
        let c = Collection::put(&client, mode)?;
        c.sync("facts", &json!(["name"]), mode)?.expect(201);
        c.sync("usage", &json!(["flights"]), "keep")?.expect(201);
        c.load("facts", &(upsert("gone", &json!({"name": "g"})) + &upsert("stays", &json!({"name": "s"}))))?;
        c.load("usage", &(upsert("gone", &json!({"flights": 1})) + &upsert("stays", &json!({"flights": 2}))))?;
        let full = c.open("facts", "full")?;
        full.batch(1, &upsert("stays", &json!({"name": "s"})))?.expect(200);
        let info = full.commit()?;
        assert_eq!(info["state"], "committed");
        assert_eq!(c.get("stays")?.expect(200).value(), json!({"name": "s", "flights": 2}));
        let gone = c.get("gone")?;
        match mode {
            "keep" => assert_eq!(gone.expect(200).value(), json!({"name": "g", "flights": 1})),
            "clear" => assert_eq!(gone.expect(200).value(), json!({"flights": 1})),
            _ => assert_eq!(gone.expect(404).code(), "record_not_found"),
        }
        assert_eq!(info["swept"], u64::from(mode != "keep"), "{info}");
    }
    Ok(())
}

#[test]
fn clear_and_delete_patches_touch_what_they_should() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    c.sync("facts", &json!(["name", "size"]), "keep")?.expect(201);
    c.sync("usage", &json!(["flights"]), "keep")?.expect(201);
    c.load("facts", &upsert("1", &json!({"name": "a", "size": 3})))?;
    c.load("usage", &upsert("1", &json!({"flights": 7})))?;
    c.load("facts", "{\"op\":\"clear\",\"key\":\"1\"}\n")?;
    assert_eq!(c.get("1")?.expect(200).value(), json!({"flights": 7}));
    c.load("usage", "{\"op\":\"delete\",\"key\":\"1\"}\n")?;
    assert_eq!(c.get("1")?.expect(404).code(), "record_not_found");
    assert_eq!(client.get("/v1/collections/c")?.value()["records"], 0);
    Ok(())
}

#[test]
fn bad_rows_do_not_stop_good_ones() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    c.sync("s", &json!([{"name": "n", "type": "int"}]), "keep")?.expect(201);
    let lines = [
        upsert("good", &json!({"n": 1})),
        upsert("type", &json!({"n": "secret text"})),
        upsert("field", &json!({"nope": 1})),
        upsert("", &json!({"n": 1})),
        upsert(&"k".repeat(1025), &json!({"n": 1})),
        "{\"op\":\"upsert\",\"key\":null,\"set\":{\"n\":1}}\n".into(),
        "{\"op\":\"upsert\",\"key\":\"noset\"}\n".into(),
        "{\"op\":\"explode\",\"key\":\"op\",\"set\":{\"n\":1}}\n".into(),
        upsert("also good", &json!({"n": "12"})),
    ]
    .concat();
    let run = c.open("s", "delta")?;
    let answer = run.batch(1, &lines)?.expect(200);
    assert!(!answer.text().contains("secret"), "a value is repeated");
    let answer = answer.value();
    assert_eq!(answer["accepted"], 2, "{answer}");
    let rows: Vec<_> = answer["rejected"].as_array().into_iter().flatten().map(|r| r["row"].clone()).collect();
    assert_eq!(rows, [1, 2, 3, 4, 5, 6, 7], "{answer}");
    assert_eq!(answer["rejected"][0]["code"], "type_mismatch");
    assert_eq!(answer["rejected"][0]["field"], "n");
    assert_eq!(answer["rejected"][1]["code"], "unknown_field");
    assert_eq!(answer["rejected"][2]["code"], "invalid_key");
    assert_eq!(c.get("also%20good")?.expect(200).value(), json!({"n": 12}));
    assert_eq!(c.get("type")?.status, 404);
    let rejects = client.get(&format!("{}/rejects", run.path()))?.expect(200).text();
    assert!(rejects.contains("type_mismatch") && !rejects.contains("secret"), "{rejects}");
    let info = run.info()?;
    assert_eq!(info["successful"]["added"], 2, "{info}");
    assert_eq!(client.get(&format!("{}/requests", run.path()))?.expect(200).text().matches("\"seq\"").count(), 1);
    Ok(())
}

#[test]
fn a_malformed_body_applies_nothing() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    c.sync("s", &json!(["n"]), "keep")?.expect(201);
    let run = c.open("s", "delta")?;
    let good = upsert("1", &json!({"n": 1}));
    let answer = run.batch(1, &format!("{good}{{\"op\":\"upsert\",\n{good}"))?.expect(400);
    assert_eq!(answer.code(), "invalid_request");
    assert!(answer.value()["message"].as_str().is_some_and(|m| m.contains("line 2")), "{}", answer.text());
    assert_eq!(c.get("1")?.status, 404);
    let path = format!("{}/batches/1", run.path());
    let typed = |kind: &str| client.send("POST", &path, &[("Content-Type", kind)], good.as_bytes());
    assert_eq!(typed("text/csv")?.expect(415).code(), "unsupported_media_type");
    assert_eq!(typed("application/vnd.apache.arrow.stream")?.status, 400);
    let encoded = [("Content-Type", "application/x-ndjson"), ("Content-Encoding", "br")];
    assert_eq!(client.send("POST", &path, &encoded, good.as_bytes())?.status, 415);
    let encoded = [("Content-Type", "application/x-ndjson"), ("Content-Encoding", "gzip")];
    assert_eq!(client.send("POST", &path, &encoded, good.as_bytes())?.status, 400);
    assert_eq!(c.get("1")?.status, 404);
    // The number was not used up by any of these.
    run.batch(1, &good)?.expect(200);
    Ok(())
}

#[test]
fn a_batch_that_swells_is_refused_before_it_fills_memory() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    c.sync("s", &json!(["n"]), "keep")?.expect(201);
    let run = c.open("s", "delta")?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..200 {
        std::io::Write::write_all(&mut gzip, &vec![b' '; 1 << 20])?;
    }
    let bomb = gzip.finish()?;
    assert!(bomb.len() < 1 << 20);
    let headers = [("Content-Type", "application/x-ndjson"), ("Content-Encoding", "gzip")];
    let answer = client.send("POST", &format!("{}/batches/1", run.path()), &headers, &bomb)?.expect(413);
    assert_eq!(answer.code(), "payload_too_large");
    let rows: String = (0..10_001).map(|i| upsert(&i.to_string(), &json!({"n": 1}))).collect();
    assert_eq!(run.batch(1, &rows)?.expect(413).code(), "payload_too_large");
    let rows: String = (0..10_000).map(|i| upsert(&i.to_string(), &json!({"n": 1}))).collect();
    assert_eq!(run.batch(1, &rows)?.expect(200).value()["accepted"], 10_000);
    Ok(())
}

#[test]
fn a_repeated_batch_is_applied_once() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    c.sync("s", &json!([{"name": "n", "type": "int"}]), "keep")?.expect(201);
    let run = c.open("s", "delta")?;
    let one = upsert("1", &json!({"n": 1})) + &upsert("2", &json!({"n": "x"}));
    let first = run.batch(1, &one)?.expect(200).value();
    run.batch(2, &upsert("1", &json!({"n": 2})))?.expect(200);
    // The late repeat of the first batch must not undo the second.
    assert_eq!(run.batch(1, &one)?.expect(200).value(), first);
    assert_eq!(c.get("1")?.expect(200).value(), json!({"n": 2}));
    assert_eq!(run.batch(1, &upsert("1", &json!({"n": 3})))?.expect(409).code(), "seq_reused");
    assert_eq!(run.info()?["batches"], 2);
    Ok(())
}

#[test]
fn an_older_run_is_fenced_off() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    c.sync("s", &json!(["n"]), "keep")?.expect(201);
    let old = c.open("s", "delta")?;
    old.batch(1, &upsert("1", &json!({"n": "old"})))?.expect(200);
    let new = c.open("s", "delta")?;
    assert!(new.generation > old.generation);
    assert_eq!(old.batch(2, &upsert("1", &json!({"n": "late"})))?.expect(409).code(), "stale_generation");
    assert_eq!(client.json("POST", &format!("{}/commit", old.path()), &json!({}))?.status, 409);
    new.batch(1, &upsert("1", &json!({"n": "new"})))?.expect(200);
    new.commit()?;
    assert_eq!(old.info()?["state"], "superseded");
    assert_eq!(new.batch(2, &upsert("1", &json!({"n": "x"})))?.expect(409).code(), "run_closed");
    assert_eq!(c.get("1")?.expect(200).value(), json!({"n": "new"}));
    Ok(())
}

#[test]
fn a_field_has_one_owner() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    c.sync("facts", &json!(["name"]), "keep")?.expect(201);
    c.sync("facts", &json!(["name"]), "keep")?.expect(200);
    let answer = c.sync("usage", &json!(["flights", "name"]), "keep")?.expect(409);
    assert_eq!(answer.code(), "field_owned_by_other_sync");
    let details = answer.value()["details"].clone();
    assert_eq!((details["field"].as_str(), details["owner"].as_str()), (Some("name"), Some("facts")));
    Ok(())
}

#[test]
fn dropping_a_sync_clears_its_fields_and_dropping_a_collection_all() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    c.sync("facts", &json!(["name"]), "keep")?.expect(201);
    c.sync("usage", &json!(["flights"]), "keep")?.expect(201);
    c.load("facts", &upsert("1", &json!({"name": "a"})))?;
    c.load("usage", &upsert("1", &json!({"flights": 1})))?;
    assert!(client.send("DELETE", "/v1/collections/c/syncs/facts", &[], b"")?.status < 300);
    assert_eq!(c.get("1")?.expect(200).value(), json!({"flights": 1}));
    c.sync("again", &json!(["name"]), "keep")?.expect(201);
    assert_eq!(c.get("1")?.expect(200).value(), json!({"flights": 1}));
    assert_eq!(client.send("DELETE", "/v1/collections/c", &[], b"")?.status, 400);
    assert!(client.send("DELETE", "/v1/collections/c?confirm=c", &[], b"")?.status < 300);
    assert_eq!(c.get("1")?.expect(404).code(), "collection_not_found");
    let c = Collection::put(&client, "c")?;
    assert_eq!(c.get("1")?.expect(404).code(), "record_not_found");
    Ok(())
}
