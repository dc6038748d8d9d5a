//! Limits: at each of them and one beyond, and slow or odd clients.

use std::time::Duration;

use hyper::Method;
use larder_server::config::Limits;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Harness, PATIENCE, ROOT_KEY, upsert, wait_for};

/// Sends bytes and reads until the server closes.
async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> String {
    // A server that has seen enough may close before all is written.
    let _ = stream.write_all(bytes).await;
    read_all(stream).await
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    // Reset or end: closed either way.
    while let Ok(read @ 1..) = timeout(PATIENCE, stream.read(&mut chunk)).await.expect("the server does not close") {
        answer.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Short enough to wait for, long enough that a busy machine does not run into them by itself.
fn quick() -> Limits {
    Limits {
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        write_timeout: Duration::from_millis(300),
        ..Limits::default()
    }
}

#[test]
fn a_head_beyond_its_limit_is_answered_431() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits { header_bytes: 8192, ..Limits::default() });
    server.runtime.block_on(async {
        let head = |size: usize| {
            let start = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-filler: ";
            format!("{start}{}\r\n\r\n", "x".repeat(size - start.len() - 4))
        };
        let answer = exchange(&mut server.connect().await, head(8192).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let answer = exchange(&mut server.connect().await, head(8193).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        let many = "x: y\r\n".repeat(101);
        let answer = exchange(&mut server.connect().await, format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    });
    server.stop();
}

#[test]
fn slow_and_silent_clients_are_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), quick());
    server.runtime.block_on(async {
        assert_eq!(read_all(&mut server.connect().await).await, "", "a silent client");
        assert_eq!(exchange(&mut server.connect().await, b"GET /hea").await, "", "half a head");
        let whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        let answer = exchange(&mut server.connect().await, whole).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "an idle connection: {answer}");
        let twice = [whole.as_slice(), whole].concat();
        let answer = exchange(&mut server.connect().await, &twice).await;
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "pipelined requests: {answer}");
        let head = format!(
            "PUT /v1/collections/c HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ROOT_KEY}\r\ncontent-length: 9\r\n\r\n{{"
        );
        let answer = exchange(&mut server.connect().await, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "half a body: {answer}");
    });
    server.stop();
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), quick());
    server.people(&json!(["text"]));
    let run = server.open("crm", "delta");
    server.batch(&run, 1, &upsert("k", &json!({"text": "x".repeat(200_000)}))).expect(200);
    server.runtime.block_on(async {
        let request = format!(
            "GET /v1/collections/people/records/id/k HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ROOT_KEY}\r\n\r\n"
        );
        let mut stream = server.connect().await;
        // Far more answers than socket buffers hold. Writing fails once the server has given up.
        let flood = async { while stream.write_all(request.repeat(100).as_bytes()).await.is_ok() {} };
        timeout(PATIENCE, flood).await.expect("the server goes on serving a client that does not read");
    });
    server.stop();
}

#[test]
fn one_connection_too_many_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits { connections: 2, ..Limits::default() });
    let mut held = server.runtime.block_on(async {
        let mut held = [server.connect().await, server.connect().await];
        for stream in &mut held {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        }
        let answer = read_all(&mut server.connect().await).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"overloaded\""), "{answer}");
        held.map(Some)
    });
    held[0] = None;
    // Its place is free once the server has noticed.
    wait_for("a free place", || {
        server.runtime.block_on(async {
            let whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            exchange(&mut server.connect().await, whole).await.starts_with("HTTP/1.1 200 ")
        })
    });
    server.stop();
}

#[test]
fn a_body_beyond_its_limit_is_refused_whether_announced_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits { json_body_bytes: 1024, ..Limits::default() });
    let path = "/v1/collections/c";
    let body = |size: usize| format!("{{}}{}", " ".repeat(size - 2));
    let headers = [("Content-Type", "application/json")];
    server.send(&Method::PUT, path, &headers, body(1024).as_bytes()).expect(201);
    server.send(&Method::PUT, path, &headers, body(1025).as_bytes()).refuses(413, "payload_too_large");
    let chunked = format!(
        "PUT {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ROOT_KEY}\r\ntransfer-encoding: chunked\r\n\
         connection: close\r\n\r\n401\r\n{}\r\n0\r\n\r\n",
        body(1025)
    );
    let answer = server.runtime.block_on(async { exchange(&mut server.connect().await, chunked.as_bytes()).await });
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("payload_too_large"), "{answer}");
    let text = server.send(&Method::PUT, path, &[("Content-Type", "text/plain")], b"{}");
    text.refuses(415, "unsupported_media_type");
    server.stop();
}

#[test]
fn ambiguous_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Harness::start(dir.path(), Limits::default());
    server.runtime.block_on(async {
        for odd in [
            "GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nhost : x\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nhost: x\r\n folded\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nhost: x\0\r\n\r\n",
            "GET  /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            let answer = exchange(&mut server.connect().await, odd.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{odd:?} was answered {answer:?}");
        }
    });
    server.stop();
}

#[test]
fn draining_ends_what_was_begun_and_closes_what_is_idle() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Harness::start(dir.path(), Limits::default());
    let (mut idle, mut busy) = server.runtime.block_on(async {
        let mut idle = server.connect().await;
        idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(idle.read(&mut [0; 4096]).await.unwrap() > 0);
        let mut busy = server.connect().await;
        let head = format!(
            "PUT /v1/collections/c HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ROOT_KEY}\r\nexpect: 100-continue\r\n\
             content-length: 2\r\n\r\n"
        );
        busy.write_all(head.as_bytes()).await.unwrap();
        // The interim answer says that the handler is waiting for the body.
        let mut interim = [0; 4096];
        let read = busy.read(&mut interim).await.unwrap();
        assert!(interim[..read].starts_with(b"HTTP/1.1 100 "));
        (idle, busy)
    });
    server.drain_meanwhile(|server| {
        server.runtime.block_on(async {
            assert_eq!(read_all(&mut idle).await, "", "the idle connection is closed");
            let answer = exchange(&mut busy, b"{}").await;
            assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        });
    });
    assert!(std::net::TcpStream::connect(server.address).is_err(), "the server still listens");
}
