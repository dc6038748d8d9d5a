//! Fills a server with customers as any loader would: over the public HTTP interface, in acknowledged batches.

use std::ops::Range;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::customers;
use crate::connection::Connection;
use crate::random::Random;
use crate::request::{Keys, Template, with_body};
use crate::target::Target;

/// Path of the collection.
const COLLECTION: &str = "/v1/collections/customers";

/// Patches a batch.
const BATCH: usize = 5_000;

/// Customers whose answers are looked at to learn their size.
const SAMPLES: u64 = 101;

/// A server that takes customers.
pub(crate) struct Filler<'a> {
    target: &'a Target,
    api_key: &'a str,
    connection: Connection,
}

/// What an answer of the filled server looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes of the median body.
    pub(crate) body_bytes: u32,
    /// Header lines other than Content-Length and Date, which every hyper server adds by itself.
    pub(crate) headers: Vec<String>,
}

impl<'a> Filler<'a> {
    /// Connects to the server.
    pub(crate) async fn connect(target: &'a Target, api_key: &'a str) -> anyhow::Result<Self> {
        let connection = Connection::open(target.address).await?;
        Ok(Self { target, api_key, connection })
    }

    /// Makes the collection, declares a sync, and runs it once with all customers of `keys`.
    pub(crate) async fn fill(&mut self, keys: Range<u64>) -> anyhow::Result<()> {
        let sync = format!("{COLLECTION}/syncs/bench");
        self.send("PUT", COLLECTION, &json!({})).await?;
        self.send("PUT", &sync, &json!({"fields": customers::FIELDS})).await?;
        let planned = json!({"added": keys.end - keys.start});
        let opened = self.send("POST", &format!("{sync}/runs"), &json!({"kind": "full", "planned": planned})).await?;
        let run = opened["run"].as_str().context("the answer to the new run names no run")?;
        let starts = keys.clone().step_by(BATCH);
        for (seq, start) in (1_u32..).zip(starts) {
            let batch = start..keys.end.min(start + BATCH as u64);
            let path = format!("{sync}/runs/{run}/batches/{seq}");
            let rows = batch.end - batch.start;
            let answer = self.post(&path, "application/x-ndjson", customers::patches(batch).as_bytes()).await?;
            ensure!(answer["accepted"] == rows, "batch {seq} was not accepted whole: {answer}");
        }
        self.send("POST", &format!("{sync}/runs/{run}/commit"), &json!({})).await?;
        Ok(())
    }

    /// Looks customers up, checks them against what was sent, and tells what the answers look like.
    pub(crate) async fn sample(&mut self, keys: Range<u64>) -> anyhow::Result<Shape> {
        let count = keys.end - keys.start;
        let mut sizes = Vec::new();
        for number in 0..SAMPLES.min(count) {
            let key = keys.start + number * count / SAMPLES.min(count);
            let template = self.lookups(key..key + 1)?;
            let mut request = Vec::new();
            template.fill(&mut Random::new(0), &mut request);
            let head = self.connection.exchange(&request).await?;
            ensure!(head.status == 200, "customer {key} was loaded but its lookup answers {}", head.status);
            let found: Value = serde_json::from_slice(self.connection.body()).context("the record is not JSON")?;
            let sent = customers::customer(key);
            ensure!(
                customers::FIELDS.iter().all(|field| found[field] == sent[field]),
                "customer {key} came back different from what was loaded"
            );
            sizes.push(u32::try_from(head.body_bytes)?);
        }
        sizes.sort_unstable();
        let body_bytes = *sizes.get(sizes.len() / 2).context("there are no customers")?;
        Ok(Shape { body_bytes, headers: copied_headers(self.connection.head())? })
    }

    /// Lookups of random customers.
    pub(crate) fn lookups(&self, keys: Range<u64>) -> anyhow::Result<Template> {
        let path = format!("{COLLECTION}/records/id/{{}}");
        Template::new(self.target, &path, Some(self.api_key), Some(Keys::Numbers(keys)))
    }

    /// What the server answers to a question.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        self.exchange("GET", path, "application/json", &[]).await
    }

    async fn send(&mut self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.exchange(method, path, "application/json", body.to_string().as_bytes()).await
    }

    async fn post(&mut self, path: &str, media_type: &str, body: &[u8]) -> anyhow::Result<Value> {
        self.exchange("POST", path, media_type, body).await
    }

    async fn exchange(&mut self, method: &str, path: &str, media_type: &str, body: &[u8]) -> anyhow::Result<Value> {
        let line = format!("{method} {path}");
        let request = with_body(self.target, &line, Some(self.api_key), media_type, body)?;
        let head = self.connection.exchange(&request).await.with_context(|| line.clone())?;
        let answer = self.connection.body();
        if !(200..300).contains(&head.status) {
            bail!("{line} answered {}: {}", head.status, String::from_utf8_lossy(answer));
        }
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(answer).with_context(|| format!("the answer to {line} is not JSON"))
    }
}

fn copied_headers(head: &[u8]) -> anyhow::Result<Vec<String>> {
    let text = std::str::from_utf8(head).context("the answer's head is not UTF-8")?;
    let lines = text.lines().skip(1).filter(|line| !line.is_empty());
    let own = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default();
        !["content-length", "date"].iter().any(|added| name.eq_ignore_ascii_case(added))
    };
    Ok(lines.filter(own).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Method, Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    /// What a server of the interface would have kept.
    #[derive(Default)]
    struct Kept {
        records: HashMap<String, Value>,
        calls: Vec<String>,
        fields: Value,
    }

    type Shared = Arc<Mutex<Kept>>;

    async fn serve(kept: Shared) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::at(listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request| answer(kept.clone(), request));
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.unwrap();
        });
        target
    }

    async fn answer(kept: Shared, request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
        let authorised = request.headers()["authorization"] == "Bearer key";
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = request.into_body().collect().await?.to_bytes();
        let mut kept = kept.lock().unwrap();
        let (status, answer) = match path.rsplit('/').next().unwrap() {
            _ if !authorised => (401, Value::Null),
            key if method == Method::GET => match kept.records.get(key) {
                Some(record) => (200, record.clone()),
                None => (404, Value::Null),
            },
            last => {
                kept.calls.push(format!("{method} {path}"));
                match last {
                    "bench" => kept.fields = serde_json::from_slice::<Value>(&body).unwrap()["fields"].take(),
                    "runs" => assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["kind"], "full"),
                    _ => {}
                }
                if path.contains("/batches/") {
                    (200, keep_patches(&mut kept, &body))
                } else {
                    (201, json!({"run": "r-7"}))
                }
            }
        };
        let body = Full::new(Bytes::from(answer.to_string()));
        Ok(Response::builder().status(status).header("etag", "\"7\"").body(body).unwrap())
    }

    fn keep_patches(kept: &mut Kept, body: &[u8]) -> Value {
        let lines = std::str::from_utf8(body).unwrap().lines();
        let patches: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        for patch in &patches {
            kept.records.insert(patch["key"].as_str().unwrap().to_owned(), patch["set"].clone());
        }
        json!({"accepted": patches.len(), "rejected": [], "revision": "x"})
    }

    #[tokio::test]
    async fn all_customers_arrive_in_numbered_batches_of_one_run() {
        let kept = Shared::default();
        let target = serve(kept.clone()).await;
        let keys = customers::keys(BATCH as u64 + 1);
        let mut filler = Filler::connect(&target, "key").await.unwrap();
        filler.fill(keys.clone()).await.unwrap();
        let shape = filler.sample(keys.clone()).await.unwrap();
        assert_eq!(shape.headers, ["etag: \"7\""]);
        assert!((240..=380).contains(&shape.body_bytes), "{shape:?}");
        let kept = kept.lock().unwrap();
        assert_eq!(kept.records.len(), BATCH + 1);
        assert_eq!(kept.fields, json!(customers::FIELDS));
        let sync = format!("{COLLECTION}/syncs/bench");
        let run = format!("POST {sync}/runs/r-7");
        assert_eq!(
            kept.calls,
            [
                format!("PUT {COLLECTION}"),
                format!("PUT {sync}"),
                format!("POST {sync}/runs"),
                format!("{run}/batches/1"),
                format!("{run}/batches/2"),
                format!("{run}/commit"),
            ]
        );
    }

    #[tokio::test]
    async fn a_server_that_lost_or_changed_a_customer_is_not_measured() {
        let kept = Shared::default();
        let target = serve(kept.clone()).await;
        let keys = customers::keys(3);
        let mut filler = Filler::connect(&target, "key").await.unwrap();
        filler.fill(keys.clone()).await.unwrap();
        let victim = keys.start.to_string();
        kept.lock().unwrap().records.get_mut(&victim).unwrap()["orders"] = json!(-1);
        assert!(filler.sample(keys.clone()).await.unwrap_err().to_string().contains("came back different"));
        kept.lock().unwrap().records.remove(&victim);
        assert!(filler.sample(keys).await.unwrap_err().to_string().contains("answers 404"));
    }

    #[tokio::test]
    async fn a_refusal_ends_the_filling() {
        let target = serve(Shared::default()).await;
        let mut filler = Filler::connect(&target, "wrong").await.unwrap();
        let error = filler.fill(customers::keys(1)).await.unwrap_err();
        assert!(error.to_string().contains("answered 401"), "{error}");
    }

    #[test]
    fn headers_that_hyper_adds_are_not_copied() {
        let head = b"HTTP/1.1 200 OK\r\netag: \"7\"\r\nContent-Length: 3\r\ndate: x\r\nx-record-age: 5\r\n\r\n";
        assert_eq!(copied_headers(head).unwrap(), ["etag: \"7\"", "x-record-age: 5"]);
    }
}
