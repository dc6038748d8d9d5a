//! The built program against its own bare server: options, output, exit.

#![allow(clippy::unwrap_used, reason = "a test that cannot start its program fails")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_larder-bench");

/// A bare server that ends when dropped.
struct Bare {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    url: String,
}

impl Bare {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("bare-hyper").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on ").unwrap();
        Self { child, url: format!("http://{address}"), _stdout: stdout }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).env_remove("LARDER_KEY").stdin(Stdio::null()).output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn load_reports_what_was_asked_and_answered() {
    let bare = Bare::start(&["--body-bytes", "123", "--header", "x-a: b"]);
    let report = json(&[
        "load",
        "--target",
        &bare.url,
        "--rate",
        "500",
        "--duration",
        "600ms",
        "--connections",
        "4",
        "--arrivals",
        "uniform",
        "--path",
        "/r/{}",
        "--range",
        "0..10",
        "--json",
    ]);
    let answers = report["statuses"]["200"].as_u64().unwrap();
    assert!((299..=300).contains(&answers), "{report}");
    assert_eq!(report["errors"], Value::Object(serde_json::Map::new()));
    assert_eq!(report["asked_rate"], 500.0);
    // Every answer holds the body and at least the header that was asked for.
    assert!(report["bytes_received"].as_u64().unwrap() > answers * 130, "{report}");
    assert_eq!(report["server_pids"], serde_json::json!([bare.child.id()]), "found by its port");
    assert!(report["server_cpu"]["micros_per_request"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["generator_cpu"]["cores"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn saturate_reports_throughput_and_says_that_its_latencies_mislead() {
    let bare = Bare::start(&[]);
    let output = run(&["saturate", "--target", &bare.url, "--duration", "300ms", "--connections", "8"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.starts_with("closed loop, 8 connections to 127.0.0.1:"), "{text}");
    assert!(text.contains("without an answer: none"), "{text}");
    assert!(text.contains("hides stalls"), "{text}");
}

#[test]
fn the_bare_server_ends_with_its_standard_input() {
    let mut bare = Bare::start(&[]);
    drop(bare.child.stdin.take());
    assert!(bare.child.wait().unwrap().success());
}

#[test]
fn mistakes_are_named() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{closed}");
    for (arguments, words) in [
        (vec!["load", "--target", &url, "--rate", "10", "--duration", "1s"], "connection 1 of 64"),
        (vec!["load", "--target", &url, "--rate", "0", "--duration", "1s"], "a rate must be more than 0"),
        (vec!["load", "--target", &url, "--rate", "10", "--duration", "1"], "needs a unit"),
        (vec!["load", "--target", "https://x", "--rate", "10", "--duration", "1s"], "http://"),
        (vec!["saturate", "--target", &url, "--duration", "1s", "--path", "/{}"], "give --range or --keys"),
        (vec!["saturate", "--target", &url, "--duration", "1s", "--server-pid", "4294967295"], "no process 4294967295"),
        (vec!["compare", "--server-bin", "missing"], "no larder-server at missing"),
        (vec!["compare", "--rounds", "8"], "8 is not in 9..=1000"),
    ] {
        let output = run(&arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(error.contains(words), "{arguments:?} printed: {error}");
    }
}

#[test]
fn templates_are_measured_beside_the_crate() {
    let report = json(&["liquid", "--windows", "2", "--renders", "70", "--json"]);
    let rows = report["rows"].as_array().unwrap();
    let judged = rows.iter().filter(|row| !row["goal"].is_null()).count();
    assert_eq!((rows.len(), judged), (14, 6), "{rows:?}");
    assert!(rows.iter().all(|row| row["figure"].as_f64().is_some_and(|figure| figure > 0.0)), "{rows:?}");
    assert!(!run(&["liquid", "--windows", "0"]).status.success());
}

#[test]
fn diff_is_measured_in_processes_of_its_own() {
    let report = json(&["diff", "--rows", "3000", "--rounds", "1", "--json"]);
    assert_eq!(report["source_rows"], 3000);
    let rows = report["rows"].as_array().unwrap();
    let judged: Vec<&str> =
        rows.iter().filter(|row| !row["goal"].is_null()).map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(judged, ["diff, rows", "diff, memory", "first load, memory"]);
    assert!(rows.iter().all(|row| row["figure"].as_f64().is_some_and(|figure| figure > 0.0)), "{rows:?}");
    let refused = run(&["diff", "--rows", "3"]);
    assert!(!refused.status.success());
}
