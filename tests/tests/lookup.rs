//! The lookup route as its callers know it: paths, values, statuses and headers.

use anyhow::Result;
use larder_tests::fixture::{Collection, upsert};
use larder_tests::process::Node;
use larder_tests::scratch;
use serde_json::json;

/// Keys that clients are known to get wrong, each with the ways in which a path may spell it.
const AWKWARD: [(&str, &[&str]); 12] = [
    ("12345", &["12345", "%31%32345"]),
    ("a/b", &["a%2Fb", "a%2fb"]),
    ("a+b", &["a+b", "a%2Bb"]),
    ("a b", &["a%20b"]),
    ("ann@example.com", &["ann@example.com", "ann%40example.com"]),
    ("🙂", &["%F0%9F%99%82"]),
    ("naïve", &["na%C3%AFve"]),
    ("..", &["%2E%2E", "%2e."]),
    ("50%", &["50%25"]),
    ("a?b#c", &["a%3Fb%23c"]),
    ("\"quoted\\\"", &["%22quoted%5C%22"]),
    ("-7", &["-7"]),
];

#[test]
fn awkward_values_are_found_however_they_are_spelt() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let people = Collection::put(&client, "people")?;
    people.sync("crm", &json!(["name"]), "keep")?.expect(201);
    let lines: String = AWKWARD.iter().map(|(key, _)| upsert(key, &json!({"name": key}))).collect();
    assert_eq!(people.load("crm", &lines)?["accepted"], AWKWARD.len());
    for (key, spellings) in AWKWARD {
        for spelling in spellings {
            let answer = people.get(spelling)?.expect(200);
            assert_eq!(answer.value(), json!({"name": key}), "{spelling}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
        }
    }
    // A plus is a plus and not a blank, and a decoded slash makes no new segment.
    assert_eq!(people.get("a%20b%20")?.expect(404).code(), "record_not_found");
    assert_eq!(people.get("a/b")?.status, 404);
    Ok(())
}

#[test]
fn integers_and_strings_are_one_key() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let people = Collection::put(&client, "people")?;
    people.sync("crm", &json!(["name"]), "keep")?.expect(201);
    people.load("crm", "{\"op\":\"upsert\",\"key\":12345,\"set\":{\"name\":\"integer\"}}\n")?;
    assert_eq!(people.get("12345")?.expect(200).value(), json!({"name": "integer"}));
    people.load("crm", "{\"op\":\"upsert\",\"key\":\"12345\",\"set\":{\"name\":\"string\"}}\n")?;
    assert_eq!(people.get("12345")?.expect(200).value(), json!({"name": "string"}));
    assert_eq!(client.get("/v1/collections/people")?.value()["records"], 1);
    Ok(())
}

#[test]
fn values_come_out_exactly_as_they_went_in() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let c = Collection::put(&client, "c")?;
    let fields = json!([
        "a", "b", "c", "d", "e", "f", "g",
        {"name": "price", "type": "decimal"},
        {"name": "at", "type": "timestamp"},
        {"name": "day", "type": "date"},
        {"name": "bytes", "type": "binary"},
    ]);
    c.sync("s", &fields, "keep")?.expect(201);
    let set = concat!(
        "{\"a\":9007199254740993,\"b\":18446744073709551615,\"c\":33.50,\"d\":0.1,\"e\":null,",
        "\"f\":{\"x\":[1.50,{\"y\":\"z\\n\"}]},\"g\":\"tab\\tquote\\\"ü\",\"price\":\"12.30\",",
        "\"at\":\"2013-01-01T07:15:00+02:00\",\"day\":\"2013-02-03\",\"bytes\":\"aGk=\"}"
    );
    c.load("s", &format!("{{\"op\":\"upsert\",\"key\":\"k\",\"set\":{set}}}\n"))?;
    let expected = concat!(
        "{\"a\":9007199254740993,\"b\":18446744073709551615,\"c\":33.50,\"d\":0.1,\"e\":null,",
        "\"f\":{\"x\":[1.50,{\"y\":\"z\\n\"}]},\"g\":\"tab\\tquote\\\"ü\",\"price\":12.30,",
        "\"at\":\"2013-01-01T05:15:00Z\",\"day\":\"2013-02-03\",\"bytes\":\"aGk=\"}"
    );
    assert_eq!(c.get("k")?.expect(200).text(), expected);
    assert_eq!(
        client.get("/v1/collections/c/records/id/k?fields=price,a")?.expect(200).value().as_object().map(|o| o.len()),
        Some(2)
    );
    Ok(())
}

#[test]
fn each_way_to_ask_wrongly_has_its_status() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let people = Collection::put(&client, "people")?;
    people.sync("crm", &json!(["name"]), "keep")?.expect(201);
    let long = "k".repeat(1025);
    let cases = [
        (format!("/v1/collections/people/records/id/{}", "k".repeat(1024)), 404, "record_not_found"),
        (format!("/v1/collections/people/records/id/{long}"), 414, "value_too_long"),
        ("/v1/collections/people/records/id/%zz".into(), 400, "invalid_encoding"),
        ("/v1/collections/people/records/id/%C3%28".into(), 400, "invalid_encoding"),
        ("/v1/collections/people/records/id/%2".into(), 400, "invalid_encoding"),
        ("/v1/collections/nobody/records/id/1".into(), 404, "collection_not_found"),
        ("/v1/collections/people/records/email/1".into(), 404, "index_not_found"),
        ("/v1/collections/people/records/id/1?fields=nope".into(), 400, "unknown_field"),
        ("/v1/collections/people/records/id/1?nope=1".into(), 400, "invalid_request"),
        ("/v1/collections/people/records/id/1?key=lk_x".into(), 400, "invalid_request"),
        ("/nowhere".into(), 404, "route_not_found"),
    ];
    for (path, status, code) in cases {
        let answer = client.get(&path)?;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}");
        assert!(!answer.text().contains(&long), "the answer repeats the value");
        assert!(answer.header("x-request-id").is_some());
    }
    let answer = client.send("DELETE", "/v1/collections/people/records/id", &[], b"")?;
    assert!(matches!(answer.status, 404 | 405), "{}", answer.text());
    let answer = client.send("PATCH", "/v1/collections/people", &[], b"")?.expect(405);
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("PUT")));
    Ok(())
}

#[test]
fn headers_let_clients_cache_and_trace() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let client = node.client();
    let people = Collection::put(&client, "people")?;
    people.sync("crm", &json!(["name"]), "keep")?.expect(201);
    let revision = people.load("crm", &upsert("1", &json!({"name": "a"})))?["revision"].clone();
    let path = "/v1/collections/people/records/id/1";
    let first = client.get(path)?.expect(200);
    let etag = first.header("etag").unwrap_or_default().to_owned();
    assert!(etag.starts_with('"'), "not a strong tag: {etag}");
    let again = client.send("GET", path, &[("If-None-Match", &etag)], b"")?.expect(304);
    assert!(again.body.is_empty());
    let head = client.send("HEAD", path, &[], b"")?.expect(200);
    assert_eq!(head.header("content-length"), Some(first.body.len().to_string().as_str()));
    people.load("crm", &upsert("1", &json!({"name": "b"})))?;
    let changed = client.send("GET", path, &[("If-None-Match", &etag)], b"")?.expect(200);
    assert_ne!(changed.header("etag"), Some(etag.as_str()));
    let traced = client.send("GET", path, &[("X-Request-Id", "abc-123")], b"")?.expect(200);
    assert_eq!(traced.header("x-request-id"), Some("abc-123"));
    let revision = revision.as_str().unwrap_or_default();
    client.send("GET", path, &[("X-Min-Revision", revision)], b"")?.expect(200);
    let bad = client.send("GET", path, &[("X-Min-Revision", "tomorrow")], b"")?;
    assert_eq!(bad.status, 400);
    Ok(())
}

#[test]
fn keys_open_only_what_their_scopes_name() -> Result<()> {
    let dir = scratch::folder()?;
    let node = Node::start(dir.path())?;
    let root = node.client();
    let people = Collection::put(&root, "people")?;
    people.sync("crm", &json!(["name"]), "keep")?.expect(201);
    people.load("crm", &upsert("1", &json!({"name": "a"})))?;
    Collection::put(&root, "other")?;
    let make = |scopes: &[&str]| -> Result<String> {
        let made = root.json("POST", "/v1/keys", &json!({"label": "test", "scopes": scopes}))?.expect(201).value();
        Ok(made["key"].as_str().unwrap_or_default().to_owned())
    };
    let lookup = "/v1/collections/people/records/id/1";
    let reader = root.with_key(&make(&["read:people"])?);
    reader.get(lookup)?.expect(200);
    assert_eq!(reader.get("/v1/collections/other/records/id/1")?.expect(403).code(), "forbidden");
    assert_eq!(reader.json("PUT", "/v1/collections/people", &json!({}))?.status, 403);
    assert_eq!(reader.get("/v1/keys")?.status, 403);
    let writer = root.with_key(&make(&["write:people"])?);
    assert_eq!(writer.get(lookup)?.status, 403);
    Collection::put(&writer, "people")?.load("crm", &upsert("2", &json!({"name": "b"})))?;
    assert_eq!(writer.json("PUT", "/v1/collections/other", &json!({}))?.status, 403);
    for wrong in ["", "lk_nonsense", &format!("{}x", make(&["read"])?)] {
        let answer = root.with_key(wrong).get(lookup)?.expect(401);
        assert_eq!(answer.code(), "unauthenticated");
        assert!(answer.header("www-authenticate").is_some());
    }
    let id = root.get("/v1/keys")?.expect(200).value();
    let listed = id.to_string();
    assert!(!listed.contains("sha256"), "the list shows hashes: {listed}");
    Ok(())
}
