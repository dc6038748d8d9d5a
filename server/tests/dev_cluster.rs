//! `larder-server dev-cluster` and `larder-server cluster`: processes, as whoever tries Larder out runs them.

#![cfg(test)]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const PATIENCE: Duration = Duration::from_secs(120);

fn larder() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder-server"));
    command.env_remove("LARDER_KEY").env_remove("LARDER_ROOT_KEY");
    command
}

/// The first of ports that are free now, for clients and for peers.
fn port_base() -> u16 {
    // Below the ports that the system gives away by itself.
    let start = 20_000 + u16::try_from(std::process::id() % 1000).unwrap() * 10;
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let fits = |base: &u16| (0..3).all(|node| is_free(base + node) && is_free(base + 100 + node));
    (start..start + 1000).step_by(3).find(fits).unwrap()
}

/// A cluster of processes; stopped when dropped.
struct DevCluster {
    child: Child,
    lines: Receiver<String>,
    printed: Vec<String>,
}

impl DevCluster {
    fn start(dir: &Path, base: u16) -> Self {
        let mut command = larder();
        command.args(["dev-cluster", "--nodes", "3", "--port-base", &base.to_string(), "--dir"]).arg(dir);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut cluster = Self { child, lines, printed: Vec::new() };
        while !cluster.printed.iter().any(|line| line.contains("kill -9")) {
            let line = cluster.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{:?}", cluster.printed));
            cluster.printed.push(line);
        }
        cluster
    }

    /// The processes of its nodes.
    fn nodes(&self) -> Vec<Pid> {
        let after = |line: &String| line.split_once("process ").map(|(_, pid)| pid.parse().unwrap());
        self.printed.iter().filter_map(after).filter_map(Pid::from_raw).collect()
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        // Fails if it was stopped already.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

fn finish(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_cluster_on_one_machine_is_shown_survives_a_node_and_stops_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let base = port_base();
    let mut cluster = DevCluster::start(dir.path(), base);
    let nodes = cluster.nodes();
    assert_eq!(nodes.len(), 3, "{:?}", cluster.printed);
    let ask = |words: &[&str]| {
        let mut command = larder();
        command.arg("cluster").args(words).arg("--key-file").arg(dir.path().join("root.key"));
        finish(command.args(["--server", &format!("http://127.0.0.1:{}", base + 2)]))
    };
    let (code, shown, said) = ask(&["status"]);
    assert_eq!(code, Some(0), "{shown}{said}");
    assert!(shown.contains(": ok   3 nodes, 16 shards, up to 3 replicas"), "{shown}");
    let (code, json, _) = ask(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["nodes"][1]["zone"]), (Some(0), &serde_json::json!("zone-2")));
    let (code, _, said) = ask(&["transfer-leader", "99", "--to", "1"]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("shards have the numbers 0 to 15"), "{said}");

    kill_process(nodes[0], Signal::KILL).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (code, shown, said) = ask(&["status"]);
        if code == Some(8) && shown.contains("suspect") && !shown.contains("unavailable") {
            break;
        }
        assert!(Instant::now() < deadline, "the cluster does not go on: {shown}{said}");
        std::thread::sleep(Duration::from_millis(100));
    }
    kill_process(Pid::from_child(&cluster.child), Signal::INT).unwrap();
    assert_eq!(cluster.child.wait().unwrap().code(), Some(0));
    for node in nodes {
        assert!(test_kill_process(node).is_err(), "a node outlives its cluster");
    }
}

#[test]
fn orders_without_a_key_or_a_server_have_their_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, said) = finish(larder().args(["cluster", "status"]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("set LARDER_KEY"), "{said}");
    let (code, _, said) = finish(larder().args(["cluster", "status", "--key-file"]).arg(dir.path().join("none")));
    assert_eq!(code, Some(2), "{said}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = larder();
    command.args(["cluster", "status", "--server", &format!("http://{closed}")]).env("LARDER_KEY", "needle");
    let (code, _, said) = finish(&mut command);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&closed.to_string()) && !said.contains("needle"), "{said}");
    let (code, _, said) = finish(larder().args(["cluster", "status", "--server", "https://a"]).env("LARDER_KEY", "k"));
    assert_eq!(code, Some(2), "{said}");
}
