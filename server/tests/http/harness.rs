//! A node and a server in a folder of their own, and a client that speaks to them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use larder_replication::catalog::{ApiKey, ClusterSettings};
use larder_replication::node::{Bootstrap, ClusterOptions, Node, NodeOptions};
use larder_server::api_key::sha256_text;
use larder_server::config::Limits;
use larder_server::metrics::Metrics;
use larder_server::server::{Listeners, Server};
use larder_types::api::{ARROW_STREAM, NDJSON, Scope};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

pub(crate) const ROOT_KEY: &str = "the-root-key-of-these-tests-0123456789";

/// No wait of these tests takes as long on a healthy machine, however busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Harness {
    pub(crate) runtime: Runtime,
    pub(crate) address: SocketAddr,
    server: Option<Server>,
    node: Arc<Node>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Harness {
    /// Starts a node in a folder and serves it.
    pub(crate) fn start(dir: &Path, limits: Limits) -> Self {
        Self::start_with(dir, limits, None)
    }

    /// Starts a node, perhaps one of several, in a folder and serves it.
    pub(crate) fn start_with(dir: &Path, limits: Limits, cluster: Option<ClusterOptions>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let root = ApiKey {
            id: "root".into(),
            sha256: sha256_text(ROOT_KEY),
            label: String::new(),
            scopes: vec![Scope::Admin],
            created_at: 0,
        };
        let settings = ClusterSettings { id: "00".repeat(16), hash_seed: 7, shards: 4, created_at: 0 };
        let options = NodeOptions {
            data_dir: dir.to_owned(),
            bootstrap: Box::new(move || Bootstrap { settings: settings.clone(), root: root.clone() }),
            incarnation: incarnation(cluster.as_ref()),
            shards: 4,
            advertise: String::new(),
            cluster,
            snapshot_log_bytes: 1 << 20,
            snapshot_bytes_per_second: 0,
            max_inflight_bytes: 64 << 20,
            max_memory_bytes: 1 << 30,
        };
        let node = runtime.block_on(Node::start(options)).unwrap();
        let listeners = Listeners::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 2).unwrap();
        let server = Server::start(listeners, Arc::clone(&node), runtime.handle().clone(), limits).unwrap();
        Self { runtime, address: server.address(), server: Some(server), node }
    }

    /// The metrics of node and server.
    pub(crate) fn metrics(&self) -> Metrics {
        self.server.as_ref().unwrap().metrics()
    }

    /// Drains the server and stops the node.
    pub(crate) fn stop(mut self) {
        self.server.take().unwrap().drain();
        self.runtime.block_on(self.node.shutdown());
    }

    /// Tells the server to stop while the caller goes on; joins it at the end.
    pub(crate) fn drain_meanwhile(&mut self, meanwhile: impl FnOnce(&Self)) {
        let server = self.server.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || server.drain());
            meanwhile(self);
        });
        self.runtime.block_on(self.node.shutdown());
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends one request on a connection of its own.
    pub(crate) fn send(&self, method: &Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "larder.test");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            request = request.header(AUTHORIZATION, format!("Bearer {ROOT_KEY}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        self.runtime.block_on(async {
            let io = TokioIo::new(self.connect().await);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            let driver = tokio::spawn(connection);
            let response = sender.send_request(request).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            driver.abort();
            Answer { status: head.status.as_u16(), headers: head.headers, body }
        })
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&Method::GET, path, &[], b"")
    }

    pub(crate) fn json(&self, method: &Method, path: &str, body: &Value) -> Answer {
        self.send(method, path, &[(CONTENT_TYPE.as_str(), "application/json")], body.to_string().as_bytes())
    }

    /// A collection `people` with the sync `crm` that owns these fields.
    pub(crate) fn people(&self, fields: &Value) {
        self.json(&Method::PUT, "/v1/collections/people", &json!({})).expect(201);
        self.json(&Method::PUT, "/v1/collections/people/syncs/crm", &json!({"fields": fields})).expect(201);
    }

    /// Opens a run of a sync of `people` and returns its path.
    pub(crate) fn open(&self, sync: &str, kind: &str) -> String {
        let runs = format!("/v1/collections/people/syncs/{sync}/runs");
        let opened = self.json(&Method::POST, &runs, &json!({"kind": kind})).expect(201).value();
        format!("{runs}/{}", opened["run"].as_str().unwrap())
    }

    pub(crate) fn batch(&self, run: &str, seq: u32, lines: &str) -> Answer {
        let headers = [(CONTENT_TYPE.as_str(), NDJSON)];
        self.send(&Method::POST, &format!("{run}/batches/{seq}"), &headers, lines.as_bytes())
    }

    pub(crate) fn arrow(&self, run: &str, seq: u32, stream: &[u8]) -> Answer {
        let headers = [(CONTENT_TYPE.as_str(), ARROW_STREAM)];
        self.send(&Method::POST, &format!("{run}/batches/{seq}"), &headers, stream)
    }

    pub(crate) fn post(&self, path: &str) -> Answer {
        self.send(&Method::POST, path, &[], b"")
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Expects an error with this status and code.
    #[track_caller]
    pub(crate) fn refuses(self, status: u16, code: &str) -> Value {
        let body = self.expect(status).value();
        assert_eq!(body["code"], code, "{body}");
        body
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Digits that no other node of a test has.
fn incarnation(cluster: Option<&ClusterOptions>) -> String {
    format!("{:032x}", cluster.map_or(0, |cluster| cluster.listen.port()))
}

/// One upsert as a line.
pub(crate) fn upsert(key: &str, set: &Value) -> String {
    json!({"op": "upsert", "key": key, "set": set}).to_string() + "\n"
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}
