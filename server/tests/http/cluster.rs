//! Three nodes in one process: any of them answers, wherever the shards are.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use hyper::Method;
use larder_replication::node::ClusterOptions;
use larder_server::config::Limits;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Answer, Harness, upsert, wait_for};

const KEYS: u32 = 24;
/// Replicas are made one after the other, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks, which take time that the nodes need.
const PAUSE: Duration = Duration::from_millis(20);

struct Cluster {
    nodes: Vec<Option<Harness>>,
    _dirs: Vec<TempDir>,
}

impl Cluster {
    /// Starts three nodes and waits until they have spread the shards.
    fn start(replication_factor: u8) -> Self {
        let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        // Nodes must know addresses before they start: these were free a moment ago.
        let free: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<SocketAddr> = free.iter().map(|socket| socket.local_addr().unwrap()).collect();
        drop(free);
        let start = |node: usize| {
            let options = ClusterOptions {
                listen: addresses[node],
                address: addresses[node].to_string(),
                seeds: vec![addresses[0].to_string()],
                zone: format!("zone-{node}"),
                replication_factor,
                max_staleness: Duration::from_secs(3),
                dead_after: Duration::from_secs(900),
                transfer_bytes_per_second: 0,
                tls: None,
            };
            Some(Harness::start_with(dirs[node].path(), Limits::default(), Some(options)))
        };
        let nodes = (0..3).map(start).collect();
        let cluster = Self { nodes, _dirs: dirs };
        let voters = |group: &Value| {
            let replicas = group["replicas"].as_array().unwrap();
            replicas.iter().filter(|replica| replica["role"] == "voter").count() >= usize::from(replication_factor)
        };
        cluster.wait("the shards to be spread", |status| {
            let nodes = status["nodes"].as_array().unwrap();
            nodes.len() == 3
                && status["health"] == "ok"
                && status["moves"] == json!([])
                && nodes.iter().all(|node| node["replicas"].as_u64() > Some(0))
                && status["placement"].as_array().unwrap().iter().all(voters)
        });
        wait_for("all nodes to be ready", || cluster.all().all(|node| node.get("/readyz").status == 200));
        cluster
    }

    fn node(&self, number: usize) -> &Harness {
        self.nodes[number - 1].as_ref().unwrap()
    }

    fn all(&self) -> impl Iterator<Item = &Harness> {
        self.nodes.iter().flatten()
    }

    fn status(&self) -> Value {
        self.all().next().unwrap().get("/v1/cluster").expect(200).value()
    }

    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if is_so(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}: {status:#}");
            std::thread::sleep(PAUSE);
        }
    }

    /// The keys `0` to `KEYS`, written through two nodes; returns the batch's revision.
    fn fill(&self) -> String {
        self.node(2).people(&json!([{"name": "n", "type": "int"}]));
        // Each of these is the first that its node hears of what another one has just made.
        let run = self.node(3).open("crm", "delta");
        let lines: String = (0..KEYS).map(|key| upsert(&key.to_string(), &json!({"n": key}))).collect();
        let revision = self.node(1).batch(&run, 1, &lines).expect(200).value()["revision"].clone();
        self.node(2).post(&format!("{run}/commit")).expect(200);
        revision.as_str().unwrap().to_owned()
    }

    fn stop(&mut self, number: usize) {
        self.nodes[number - 1].take().unwrap().stop();
    }
}

fn record(key: u32) -> String {
    format!("/v1/collections/people/records/id/{key}")
}

fn seen_from(node: &Harness, path: &str, revision: &str) -> Answer {
    node.send(&Method::GET, path, &[("x-min-revision", revision)], b"")
}

#[test]
fn any_node_answers_for_shards_that_it_does_not_hold() {
    let mut cluster = Cluster::start(1);
    let revision = cluster.fill();
    for node in cluster.all() {
        for key in 0..KEYS {
            let answer = seen_from(node, &record(key), &revision).expect(200);
            assert_eq!(answer.value(), json!({"n": key}));
            assert!(!answer.header("x-collection-revision").is_empty() && !answer.header("x-request-id").is_empty());
            let etag = answer.header("etag").to_owned();
            let again = node.send(&Method::GET, &record(key), &[("if-none-match", &etag)], b"");
            assert_eq!((again.status, again.body.len()), (304, 0));
        }
        node.get(&record(KEYS)).refuses(404, "record_not_found");
        assert_eq!(node.get(&format!("{}?on_missing=empty", record(KEYS))).expect(200).value(), json!({}));
        for level in ["any", "leader", "linearizable"] {
            assert_eq!(
                node.get(&format!("{}?consistency={level}&fields=n", record(7))).expect(200).value(),
                json!({"n": 7})
            );
        }
        let refused = node.get(&format!("{}?fields=odd&consistency=leader", record(7))).refuses(400, "unknown_field");
        assert_eq!(refused["details"]["field"], "odd");
        let described = node.get("/v1/collections/people").expect(200).value();
        assert_eq!((&described["records"], &described["syncs"][0]["records"]), (&json!(KEYS), &json!(KEYS)));
    }
    // What only the stopped node held is served nowhere, and nothing else suffers.
    cluster.stop(3);
    let answers: Vec<_> = (0..KEYS).map(|key| cluster.node(1).get(&record(key))).collect();
    assert!(answers.iter().any(|answer| answer.status == 200));
    let lost: Vec<_> = answers.into_iter().filter(|answer| answer.status != 200).collect();
    assert!(!lost.is_empty());
    for answer in lost {
        assert_eq!(answer.header("retry-after"), "1");
        answer.refuses(503, "shard_unavailable");
    }
    cluster.node(1).get("/v1/collections/people").refuses(503, "shard_unavailable");
}

#[test]
fn orders_move_replicas_and_leaders() {
    let mut cluster = Cluster::start(3);
    let revision = cluster.fill();
    let first = cluster.node(1);
    let status = cluster.status();
    assert_eq!((&status["node"], &status["replication_factor"], &status["shards"]), (&json!(1), &json!(3), &json!(4)));
    assert_eq!(first.post("/v1/cluster/rebalance").expect(200).value()["balanced"], true);
    first.json(&Method::POST, "/v1/cluster/shards/2/transfer-leader", &json!({"to": 2})).expect(202);
    cluster.wait("node 2 to lead shard 2", |status| status["placement"][3]["leader"] == 2);

    let drained = cluster.node(2).post("/v1/cluster/nodes/3/drain").expect(200).value();
    assert_eq!(drained["state"], "draining");
    cluster.wait("node 3 to be empty", |status| status["nodes"][2]["replicas"] == 0);
    first.json(&Method::POST, "/v1/cluster/shards/2/transfer-leader", &json!({"to": 3})).refuses(409, "conflict");
    let third = cluster.node(3);
    wait_for("the emptied node to forget its replicas", || {
        third.get("/v1/cluster").value()["groups"].as_array().unwrap().len() == 1
    });
    for key in 0..KEYS {
        assert_eq!(seen_from(third, &record(key), &revision).expect(200).value(), json!({"n": key}));
    }
    third.get("/readyz").expect(200);
    first.post("/v1/cluster/nodes/3/resume").expect(200);
    cluster.wait("node 3 to hold all shards again", |status| {
        status["nodes"][2]["replicas"] == 4 && status["moves"] == json!([]) && status["health"] == "ok"
    });

    first.post("/v1/cluster/nodes/9/drain").refuses(404, "node_not_found");
    first
        .json(&Method::POST, "/v1/cluster/shards/4/transfer-leader", &json!({"to": 1}))
        .refuses(404, "shard_not_found");
    first
        .json(&Method::POST, "/v1/cluster/shards/1/transfer-leader", &json!({"at": 1}))
        .refuses(400, "invalid_request");
    first.get("/v1/cluster/nodes/2/drain").refuses(405, "method_not_allowed");
    let powerless = [("authorization", "Bearer none-of-the-keys-that-there-are-0000")];
    first.send(&Method::POST, "/v1/cluster/nodes/2/drain", &powerless, b"").refuses(401, "unauthenticated");

    // A node that is cut off says so when what it shows may be too old.
    cluster.stop(2);
    cluster.stop(3);
    let first = cluster.node(1);
    wait_for("the last node to notice", || first.get("/readyz").status == 503);
    first.get(&format!("{}?consistency=linearizable", record(1))).refuses(503, "shard_unavailable");
    first.get(&record(1)).refuses(503, "shard_unavailable");
}
