//! Keys and what they open.

use hyper::Method;
use larder_server::config::Limits;
use serde_json::json;

use crate::harness::{Harness, upsert};

fn make(server: &Harness, scopes: &[&str]) -> (String, String) {
    let made = server.json(&Method::POST, "/v1/keys", &json!({"label": "l", "scopes": scopes})).expect(201).value();
    (made["id"].as_str().unwrap().to_owned(), format!("Bearer {}", made["key"].as_str().unwrap()))
}

#[test]
fn every_route_asks_for_its_scope() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!(["n"]));
    let run = server.open("crm", "delta");
    server.batch(&run, 1, &upsert("1", &json!({"n": 1}))).expect(200);
    server.json(&Method::PUT, "/v1/collections/other", &json!({})).expect(201);
    let keys = ["admin", "read", "read:people", "read:other", "write", "write:people", "write:other"]
        .map(|scope| make(&server, &[scope]).1);
    let batch = format!("{run}/batches/1");
    // For each route, which of the keys above may use it.
    for (method, path, allowed) in [
        (Method::GET, "/v1/collections/people/records/id/1", "1110000"),
        (Method::GET, "/v1/collections/people", "1110110"),
        (Method::PUT, "/v1/collections/people", "1000110"),
        (Method::DELETE, "/v1/collections/people", "1000000"),
        (Method::PUT, "/v1/collections/people/syncs/crm", "1000110"),
        (Method::DELETE, "/v1/collections/people/syncs/none", "1000110"),
        (Method::GET, "/v1/collections/people/syncs/crm/runs", "1000110"),
        (Method::POST, "/v1/collections/people/syncs/none/runs", "1000110"),
        (Method::GET, run.as_str(), "1000110"),
        (Method::GET, &format!("{run}/requests"), "1000110"),
        (Method::GET, &format!("{run}/rejects"), "1000110"),
        (Method::POST, &batch, "1000110"),
        (Method::POST, "/v1/collections/people/syncs/crm/runs/none/commit", "1000110"),
        (Method::POST, "/v1/collections/people/syncs/crm/runs/none/abort", "1000110"),
        (Method::GET, "/v1/keys", "1000000"),
        (Method::POST, "/v1/keys", "1000000"),
        (Method::DELETE, "/v1/keys/none", "1000000"),
        (Method::GET, "/v1/cluster", "1000000"),
    ] {
        let found: String = keys
            .iter()
            .map(|key| server.send(&method, path, &[("Authorization", key)], b"").status)
            .map(|status| if status == 403 { '0' } else { '1' })
            .collect();
        assert_eq!(found, allowed, "{method} {path}");
        server.send(&method, path, &[("Authorization", "Bearer nobody")], b"").refuses(401, "unauthenticated");
    }
    for open in ["/healthz", "/readyz", "/version"] {
        server.send(&Method::GET, open, &[("Authorization", "Bearer nobody")], b"").expect(200);
    }
    let listed = server.send(&Method::GET, "/v1/collections", &[("Authorization", &keys[3])], b"").value();
    assert_eq!(listed["collections"].as_array().unwrap().len(), 1);
    assert_eq!(listed["collections"][0]["name"], "other");
    server.stop();
}

#[test]
fn a_revoked_key_opens_nothing_and_the_root_key_stays() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    let (id, key) = make(&server, &["read"]);
    let use_it = || server.send(&Method::GET, "/v1/collections", &[("Authorization", &key)], b"");
    use_it().expect(200);
    let listed = server.get("/v1/keys").expect(200);
    assert!(listed.text().contains(&id) && !listed.text().contains("sha256"), "{}", listed.text());
    server.send(&Method::DELETE, &format!("/v1/keys/{id}"), &[], b"").expect(204);
    use_it().refuses(401, "unauthenticated");
    server.send(&Method::DELETE, &format!("/v1/keys/{id}"), &[], b"").refuses(404, "key_not_found");
    server.send(&Method::DELETE, "/v1/keys/root", &[], b"").refuses(409, "conflict");
    server.get("/v1/keys").expect(200);
    server.stop();
}

#[test]
fn keys_without_scopes_or_with_unknown_ones_are_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    let make = |body| server.json(&Method::POST, "/v1/keys", &body);
    make(json!({"scopes": []})).refuses(422, "validation_failed");
    make(json!({"scopes": ["read"], "label": "x".repeat(129)})).refuses(422, "validation_failed");
    make(json!({"scopes": ["everything"]})).refuses(400, "invalid_request");
    make(json!({"scopes": ["read"], "expires": "never"})).refuses(400, "invalid_request");
    server.stop();
}
