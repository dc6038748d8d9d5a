//! The binary itself: its root key, its exit codes, its log.

#![cfg(test)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);
const KEY: &str = "a-root-key-for-these-tests-0123456789";

fn command(dir: &Path, key: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder-server"));
    command.arg("start").arg("--data-dir").arg(dir).args(["--listen", "127.0.0.1:0"]);
    command.env_remove("LARDER_ROOT_KEY").env("LARDER_LOG", "debug,openraft=error");
    if let Some(key) = key {
        command.env("LARDER_ROOT_KEY", key);
    }
    command
}

/// A server that runs; killed when dropped.
struct Running {
    child: Child,
    log: Receiver<String>,
    seen: String,
    address: SocketAddr,
}

impl Running {
    fn start(dir: &Path, key: Option<&str>) -> Self {
        Self::start_with(dir, key, |_| {})
    }

    fn start_with(dir: &Path, key: Option<&str>, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = command(dir, key);
        change(&mut command);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, log) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        let mut seen = String::new();
        let address = loop {
            let line = log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("not ready: {seen}"));
            seen.push_str(&line);
            seen.push('\n');
            if let Some((_, rest)) = line.split_once("ready listen=") {
                break rest.split(' ').next().unwrap().parse().unwrap();
            }
        };
        Self { child, log, seen, address }
    }

    fn ask(&self, method: &str, path: &str, key: &str, kind: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
             content-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn json(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.ask(method, path, KEY, "application/json", body)
    }

    /// Tells it to stop and returns its exit code, what it printed and its whole log.
    fn stop(mut self) -> (Option<i32>, String, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        let mut printed = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        let mut log = std::mem::take(&mut self.seen);
        while let Ok(line) = self.log.recv_timeout(PATIENCE) {
            log.push_str(&line);
            log.push('\n');
        }
        (status.code(), printed, log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it was stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_made_root_key_is_printed_once_and_never_logged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path(), None);
    let (code, printed, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    let key = printed.split_whitespace().find(|word| word.starts_with("lk_")).unwrap().to_owned();
    assert!(!log.contains(&key), "{log}");
    let server = Running::start(dir.path(), None);
    assert_eq!(server.ask("GET", "/v1/keys", &key, "text/plain", "").0, 200);
    assert_eq!(server.ask("GET", "/v1/keys", KEY, "text/plain", "").0, 401);
    let (_, printed, log) = server.stop();
    assert_eq!(printed, "");
    assert!(log.contains("stopped"), "{log}");
}

#[test]
fn a_root_key_that_differs_from_the_stored_one_is_warned_of_and_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path(), Some(KEY));
    assert_eq!(server.ask("GET", "/v1/keys", KEY, "text/plain", "").0, 200);
    assert!(!server.stop().2.contains("WARN larder_server: LARDER_ROOT_KEY"));
    let other = "another-root-key-for-these-tests-0123456789";
    let server = Running::start(dir.path(), Some(other));
    assert_eq!(server.ask("GET", "/v1/keys", other, "text/plain", "").0, 401);
    assert_eq!(server.ask("GET", "/v1/keys", KEY, "text/plain", "").0, 200);
    let log = server.stop().2;
    assert!(log.contains("WARN larder_server: LARDER_ROOT_KEY is not the root key"), "{log}");
    assert!(!log.contains(other) && !log.contains(KEY), "{log}");
}

#[test]
fn what_keeps_a_server_from_starting_has_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let finish = |command: &mut Command| -> (Option<i32>, String) {
        let Output { status, stderr, .. } = command.output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    let (code, said) = finish(&mut command(dir.path(), Some("short")));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("LARDER_ROOT_KEY") && !said.contains("short"), "{said}");
    let config = dir.path().join("larder.toml");
    std::fs::write(&config, "shards = 3\ncolour = \"red\"\n").unwrap();
    let (code, said) = finish(command(dir.path(), None).arg("--config").arg(&config));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("`shards`") && said.contains("`colour`"), "{said}");
    let (code, said) = finish(command(dir.path(), None).args(["--config", "missing.toml"]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("missing.toml"), "{said}");
    let data = dir.path().join("data");
    let server = Running::start(&data, Some(KEY));
    let (code, said) = finish(&mut command(&data, Some(KEY)));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("in use"), "{said}");
    let mut same = Command::new(env!("CARGO_BIN_EXE_larder-server"));
    same.arg("start").arg("--data-dir").arg(dir.path().join("other")).args(["--listen", &server.address.to_string()]);
    let (code, said) = finish(&mut same);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(&server.address.to_string()), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut other = command(&dir.path().join("other"), None);
    let (code, said) = finish(other.args(["--admin-listen", &taken.local_addr().unwrap().to_string()]));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("`admin_listen`"), "{said}");
}

#[test]
fn metrics_are_served_where_the_configuration_says() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("larder.toml");
    std::fs::write(&config, "admin_listen = \"127.0.0.1:0\"\n").unwrap();
    let server = Running::start_with(&dir.path().join("data"), Some(KEY), |command| {
        command.arg("--config").arg(&config);
    });
    let (_, rest) = server.seen.split_once("serving metrics listen=").unwrap();
    let address: SocketAddr = rest.split_whitespace().next().unwrap().parse().unwrap();
    assert_ne!(address, server.address);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\nlarder_build_info{"), "{answer}");
    let (code, _, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn the_log_holds_no_keys_and_no_values() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path(), Some(KEY));
    assert_eq!(server.json("PUT", "/v1/collections/c", "{}").0, 201);
    assert_eq!(server.json("PUT", "/v1/collections/c/syncs/s", r#"{"fields":[{"name":"n","type":"int"}]}"#).0, 201);
    let opened = server.json("POST", "/v1/collections/c/syncs/s/runs", r#"{"kind":"delta"}"#).1;
    let run = opened.split('"').nth(3).unwrap();
    let path = format!("/v1/collections/c/syncs/s/runs/{run}/batches/1");
    let lines = "{\"key\":\"needle-key\",\"set\":{\"n\":4711}}\n{\"key\":\"b\",\"set\":{\"n\":\"needle-value\"}}\n";
    assert_eq!(server.ask("POST", &path, KEY, "application/x-ndjson", lines).0, 200);
    assert_eq!(server.json("GET", "/v1/collections/c/records/id/needle-key", "").0, 200);
    assert_eq!(server.json("GET", "/v1/collections/c/records/id/needle-absent", "").0, 404);
    assert_eq!(server.ask("GET", "/v1/keys", "needle-credential", "text/plain", "").0, 401);
    let made = server.json("POST", "/v1/keys", r#"{"scopes":["read"]}"#).1;
    let made = made.split('"').find(|part| part.starts_with("lk_")).unwrap();
    let (code, _, log) = server.stop();
    assert_eq!(code, Some(0));
    assert!(log.contains("batch applied"), "the log is not as fine as this test means it to be: {log}");
    for secret in ["needle", "4711", KEY, made] {
        assert!(!log.contains(secret), "`{secret}` is in the log: {log}");
    }
}
