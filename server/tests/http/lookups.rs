//! The lookup route.

use hyper::Method;
use larder_server::config::Limits;
use larder_types::ids::ShardId;
use larder_types::revision::Revision;
use serde_json::json;

use crate::harness::{Harness, upsert};

#[test]
fn awkward_values_are_found_by_every_spelling() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!(["name"]));
    let keys = [
        ("12345", "12345"),
        ("a/b", "a%2Fb"),
        ("a+b", "a+b"),
        ("a b", "a%20b"),
        ("ann@example.com", "ann@example.com"),
        ("🙂", "%F0%9F%99%82"),
        ("..", ".."),
        ("..", "%2E%2E"),
        ("50%", "50%25"),
        ("a?b#c", "a%3Fb%23c"),
    ];
    let lines: String = keys.iter().map(|(key, _)| upsert(key, &json!({"name": key}))).collect();
    let run = server.open("crm", "delta");
    server.batch(&run, 1, &lines).expect(200);
    for (key, spelling) in keys {
        let answer = server.get(&format!("/v1/collections/people/records/id/{spelling}")).expect(200);
        assert_eq!(answer.value(), json!({"name": key}), "{spelling}");
    }
    server.stop();
}

#[test]
fn answers_carry_what_caches_and_tracers_need() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!(["name", "size"]));
    let run = server.open("crm", "delta");
    let revision = server.batch(&run, 1, &upsert("1", &json!({"name": "a", "size": 2}))).expect(200).value();
    let path = "/v1/collections/people/records/id/1";
    let first = server.get(path).expect(200);
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.header("cache-control"), "private, max-age=0");
    assert_eq!(first.header("x-request-id").len(), 16);
    let seen: Revision = first.header("x-collection-revision").parse().unwrap();
    let written: Revision = revision["revision"].as_str().unwrap().parse().unwrap();
    let (shard, index) = written.positions()[0];
    assert!(seen.index_of(shard) >= index);
    let etag = first.header("etag").to_owned();
    let again = server.send(&Method::GET, path, &[("If-None-Match", &etag)], b"").expect(304);
    assert!(again.body.is_empty());
    assert_eq!(again.header("etag"), etag);
    let part = server.get(&format!("{path}?fields=size")).expect(200);
    assert_eq!(part.value(), json!({"size": 2}));
    assert_ne!(part.header("etag"), etag);
    let head = server.send(&Method::HEAD, path, &[("X-Request-Id", "abc-1")], b"").expect(200);
    assert_eq!((head.header("content-length"), head.header("x-request-id")), ("21", "abc-1"));
    assert!(head.body.is_empty());
    // A retired field changes the answer without changing the record, so the tag must change with it.
    server.json(&Method::PUT, "/v1/collections/people/syncs/crm", &json!({"fields": ["name"]})).expect(200);
    let changed = server.send(&Method::GET, path, &[("If-None-Match", &etag)], b"").expect(200);
    assert_eq!(changed.value(), json!({"name": "a"}));
    server.stop();
}

#[test]
fn a_revision_is_waited_for_and_then_refused() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { lookup_deadline: std::time::Duration::from_millis(20), ..Limits::default() };
    let server = Harness::start(dir.path(), limits);
    server.people(&json!(["name"]));
    let run = server.open("crm", "delta");
    let answer = server.batch(&run, 1, &upsert("1", &json!({"name": "a"}))).expect(200).value();
    let path = "/v1/collections/people/records/id/1";
    let with = |revision: &str| server.send(&Method::GET, path, &[("X-Min-Revision", revision)], b"");
    with(answer["revision"].as_str().unwrap()).expect(200);
    let written: Revision = answer["revision"].as_str().unwrap().parse().unwrap();
    let (shard, index) = written.positions()[0];
    let future = Revision::new(vec![(shard, index + 1_000_000)]).to_string();
    with(&future).refuses(412, "revision_not_reached");
    with("yesterday").refuses(400, "invalid_request");
    with(&Revision::new(vec![(ShardId(999), 1)]).to_string()).refuses(400, "invalid_request");
    // What another shard must have reached does not concern this record.
    let other = ShardId((shard.0 + 1) % 4);
    with(&Revision::new(vec![(other, u64::MAX)]).to_string()).expect(200);
    server.stop();
}

#[test]
fn each_way_to_ask_wrongly_has_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!(["name"]));
    let record = "/v1/collections/people/records/id";
    for (path, status, code) in [
        (format!("{record}/{}", "k".repeat(1024)), 404, "record_not_found"),
        (format!("{record}/{}", "k".repeat(1025)), 414, "value_too_long"),
        (format!("{record}/{}", "%6b".repeat(3000)), 414, "value_too_long"),
        (format!("{record}/"), 404, "record_not_found"),
        (format!("{record}/%zz"), 400, "invalid_encoding"),
        (format!("{record}/1/2"), 404, "route_not_found"),
        (format!("{record}/1?fields=nope"), 400, "unknown_field"),
        (format!("{record}/1?max_age=1s"), 400, "invalid_request"),
        (format!("{record}/1?on_missing=null"), 400, "invalid_request"),
        (format!("{record}/1?api_key=x"), 400, "invalid_request"),
        ("/v1/collections/people/records/email/1".into(), 404, "index_not_found"),
        ("/v1/collections/nobody/records/id/1".into(), 404, "collection_not_found"),
        ("/v1/lookup".into(), 404, "route_not_found"),
    ] {
        let body = server.get(&path).refuses(status, code);
        assert_eq!(body["status"], status);
        assert!(body["request_id"].as_str().is_some_and(|id| !id.is_empty()));
        assert!(!body["message"].as_str().unwrap().contains("kkk"), "{body}");
    }
    let empty = server.get(&format!("{record}/1?on_missing=empty")).expect(200);
    assert_eq!(empty.text(), "{}");
    let post = server.post(&format!("{record}/1")).expect(405);
    assert_eq!(post.header("allow"), "GET, HEAD");
    let accept = server.send(&Method::GET, &format!("{record}/1"), &[("Accept", "application/msgpack")], b"");
    accept.refuses(406, "not_acceptable");
    server.stop();
}
