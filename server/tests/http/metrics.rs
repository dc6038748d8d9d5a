//! The admin listener: what the metrics say, and what they do not.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use larder_server::admin::{Admin, AdminListener};
use larder_server::config::Limits;
use serde_json::json;

use crate::harness::{Harness, PATIENCE, ROOT_KEY, upsert};

fn admin(server: &Harness) -> (SocketAddr, Admin) {
    let listener = AdminListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    (listener.address(), listener.serve(server.metrics(), server.runtime.handle()).unwrap())
}

/// Sends a request without any key and returns status, head and body.
fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
}

/// The samples by their names and labels. Checks that the text is one that Prometheus reads.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let mut samples = BTreeMap::new();
    let (mut family, mut kind) = ("", "");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            (family, kind) = rest.split_once(' ').unwrap();
            assert!(family.starts_with("larder_") || family.starts_with("process_"), "{line}");
            assert_eq!(kind == "counter", family.ends_with("_total"), "{line}");
        } else if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(help.ends_with('.') || help.contains(". "), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            let suffix = bare.strip_prefix(family).unwrap_or_else(|| panic!("{line} is not of {family}"));
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(samples.insert(name, value.parse().unwrap()).is_none(), "{line} comes twice");
        }
    }
    samples
}

#[test]
fn metrics_tell_what_the_node_holds_and_did() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    let (address, _admin) = admin(&server);
    server.people(&json!([{"name": "n", "type": "int"}]));
    let run = server.open("crm", "delta");
    let lines = upsert("needle-1", &json!({"n": 4711})) + &upsert("needle-2", &json!({"n": "needle-value"}));
    server.batch(&run, 1, &lines).expect(200);
    server.batch(&run, 1, &upsert("other", &json!({"n": 1}))).refuses(409, "seq_reused");
    server.get("/v1/collections/people/records/id/needle-1").expect(200);
    server.get("/v1/collections/people/records/id/needle-1").expect(200);
    server.get("/v1/collections/people/records/id/needle-3").expect(404);
    let info = server.get("/v1/collections/people").expect(200).value();
    let usage = &info["usage"];
    let sum: u64 = usage.as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(info["bytes"], sum, "{info}");
    let memory = server.get("/v1/cluster").expect(200).value()["memory"].clone();
    let (status, head, text) = ask(address, "GET", "/metrics");
    assert_eq!(status, 200, "{text}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let found = samples(&text);
    let of = |name: &str| *found.get(name).unwrap_or_else(|| panic!("no {name} in {text}"));
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    for (name, expected) in [
        ("larder_build_info{version=\"0.1.0\"}", 1.0),
        ("larder_lookups_total{status=\"200\"}", 2.0),
        ("larder_lookups_total{status=\"404\"}", 1.0),
        ("larder_batches_total{outcome=\"applied\"}", 1.0),
        ("larder_batches_total{outcome=\"seq_reused\"}", 1.0),
        ("larder_batch_rows_total{result=\"accepted\"}", 1.0),
        ("larder_batch_rows_total{result=\"rejected\"}", 1.0),
        ("larder_memory_used_bytes", number(&memory["bytes"])),
        ("larder_memory_usable_bytes", number(&memory["usable_bytes"])),
        ("larder_memory_held_bytes{kind=\"batches\"}", number(&usage["batch_bytes"])),
        ("larder_collection_records{collection=\"people\"}", 1.0),
        ("larder_collection_bytes{collection=\"people\"}", number(&info["bytes"])),
        ("larder_collection_record_bytes{collection=\"people\"}", number(&usage["record_bytes"])),
        ("larder_raft_leader{shard=\"catalog\"}", 1.0),
        ("larder_raft_leader{shard=\"3\"}", 1.0),
        ("larder_log_failed", 0.0),
        ("larder_log_full", 0.0),
        ("larder_snapshots_failed_total", 0.0),
    ] {
        assert!((of(name) - expected).abs() < 0.5, "{name} is {} and not {expected}", of(name));
    }
    for name in [
        "process_resident_memory_bytes",
        "larder_memory_held_bytes{kind=\"arena\"}",
        "larder_memory_held_bytes{kind=\"tables\"}",
        "larder_memory_held_bytes{kind=\"spare\"}",
        "larder_log_sync_seconds_count",
        "larder_log_sync_seconds_sum",
        "larder_log_sync_callers_sum",
        "larder_log_written_bytes_total",
        "larder_collection_batch_bytes{collection=\"people\"}",
        "larder_raft_applied_index{shard=\"catalog\"}",
    ] {
        assert!(of(name) > 0.0, "{name} is 0");
    }
    assert!(!text.contains("last_good_run_timestamp_seconds{"), "no run was committed");
    server.post(&format!("{run}/commit")).expect(200);
    let (_, _, text) = ask(address, "GET", "/metrics");
    let good = "larder_sync_last_good_run_timestamp_seconds{collection=\"people\",sync=\"crm\"}";
    assert!(samples(&text)[good] > 1.7e9, "{text}");
    for secret in ["needle", "4711", ROOT_KEY] {
        assert!(!text.contains(secret), "`{secret}` is in {text}");
    }
    server.stop();
}

#[test]
fn the_admin_listener_serves_metrics_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    let (address, admin) = admin(&server);
    let (status, head, body) = ask(address, "HEAD", "/metrics");
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("connection: close"), "{head}");
    let (status, head, _) = ask(address, "POST", "/metrics");
    assert!(status == 405 && head.contains("allow: get, head"), "{head}");
    for path in ["/", "/v1/cluster", "/v1/collections", "/metrics/"] {
        assert_eq!(ask(address, "GET", path).0, 404, "{path}");
    }
    server.get("/metrics").refuses(404, "route_not_found");
    drop(admin);
    crate::harness::wait_for("the listener to end", || TcpStream::connect(address).is_err());
    server.stop();
}
