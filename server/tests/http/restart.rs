//! What is there after the node was stopped and started again.

use hyper::Method;
use larder_server::config::Limits;
use serde_json::json;

use crate::harness::{Harness, upsert};

#[test]
fn everything_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.people(&json!([{"name": "n", "type": "int"}]));
    let key = server.json(&Method::POST, "/v1/keys", &json!({"scopes": ["read"]})).expect(201).value();
    let run = server.open("crm", "delta");
    let lines: String = (0..500).map(|n| upsert(&format!("k{n}"), &json!({"n": n}))).collect();
    let first = server.batch(&run, 1, &format!("{lines}{}", upsert("bad", &json!({"n": "x"})))).expect(200).value();
    server.stop();

    let server = Harness::start(dir.path(), Limits::default());
    let bearer = format!("Bearer {}", key["key"].as_str().unwrap());
    for n in [0, 77, 499] {
        let path = format!("/v1/collections/people/records/id/k{n}");
        let headers = [("Authorization", bearer.as_str()), ("X-Min-Revision", first["revision"].as_str().unwrap())];
        assert_eq!(server.send(&Method::GET, &path, &headers, b"").expect(200).value(), json!({"n": n}));
    }
    // The run goes on where it was, and a repeat is answered as the first time.
    let again = server.batch(&run, 1, &format!("{lines}{}", upsert("bad", &json!({"n": "x"})))).expect(200).value();
    assert_eq!(again, first);
    server.batch(&run, 2, &upsert("k0", &json!({"n": 1000}))).expect(200);
    let info = server.post(&format!("{run}/commit")).expect(200).value();
    assert_eq!((info["batches"].as_u64(), info["successful"]["changed"].as_u64()), (Some(2), Some(1)), "{info}");
    server.stop();
}
