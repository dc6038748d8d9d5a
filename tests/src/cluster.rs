//! A cluster of real processes on one machine, each node with an address of its own on the loopback network.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{Client, Response};
use crate::net::{Net, PEER_PORT, Place, node_ip, proxy_address};
use crate::process::{Node, ROOT_KEY};
use crate::scratch;
use crate::wait::wait_for;

/// The port on which nodes serve clients.
const CLIENT_PORT: u16 = 8080;

/// For what takes a healthy cluster a second or few: debug builds on a busy machine take longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// No healthy node takes as long for an answer, and one that does not answer is to be given up in time.
pub const REQUEST: Duration = Duration::from_secs(15);

/// How long a probe of a node's readiness waits.
const PROBE: Duration = Duration::from_secs(2);

/// What the configurations of all nodes say.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Shards.
    pub shards: u16,
    /// Replicas of each.
    pub replication_factor: u8,
    /// How old an answer may be, in seconds.
    pub max_staleness: u32,
    /// The nodes that configurations name as seeds, the first of which makes the cluster.
    pub seeds: Vec<Place>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { shards: 4, replication_factor: 3, max_staleness: 5, seeds: vec![1, 2, 3] }
    }
}

/// Nodes with their configurations and data, running or not. Killed when dropped.
pub struct Cluster {
    dir: TempDir,
    subnet: (u8, u8),
    /// What the configurations of nodes say that are written from now on.
    pub settings: Settings,
    nodes: Vec<Option<Node>>,
    net: Net,
}

impl Cluster {
    /// Room for so many nodes, none of which runs.
    ///
    /// # Errors
    /// When there are no addresses for them.
    pub fn new(nodes: Place, settings: Settings) -> Result<Self> {
        let (subnet, net) = network(nodes)?;
        let nodes = (0..nodes).map(|_| None).collect();
        Ok(Self { dir: scratch::folder()?, subnet, settings, nodes, net })
    }

    /// Starts so many nodes, and waits until all of them are ready and everything is where it should be. There is room
    /// for `spare` more.
    ///
    /// # Errors
    /// When a node cannot be started.
    pub fn start(nodes: Place, spare: Place, settings: Settings) -> Result<Self> {
        let mut cluster = Self::new(nodes + spare, settings)?;
        for node in 1..=nodes {
            cluster.spawn(node)?;
        }
        for node in 1..=nodes {
            cluster.wait_ready(node);
        }
        cluster.wait_settled(nodes.into());
        Ok(cluster)
    }

    /// The network between the nodes.
    #[must_use]
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Where a node keeps everything.
    #[must_use]
    pub fn data_dir(&self, node: Place) -> PathBuf {
        self.dir.path().join(format!("node{node}"))
    }

    /// Where a node serves clients.
    #[must_use]
    pub fn address(&self, node: Place) -> SocketAddr {
        (node_ip(self.subnet, node), CLIENT_PORT).into()
    }

    /// Where peers reach a node.
    #[must_use]
    pub fn peer_address(&self, node: Place) -> SocketAddr {
        proxy_address(self.subnet, node)
    }

    /// A client of a node with the root key.
    #[must_use]
    pub fn client(&self, node: Place) -> Client {
        Client::new(self.address(node), ROOT_KEY).within(REQUEST)
    }

    /// Clients of these nodes.
    #[must_use]
    pub fn clients(&self, nodes: &[Place]) -> Vec<Client> {
        nodes.iter().map(|node| self.client(*node)).collect()
    }

    fn write_config(&self, node: Place) -> Result<PathBuf> {
        let Settings { shards, replication_factor, max_staleness, seeds } = &self.settings;
        let seeds: Vec<_> = seeds.iter().map(|seed| self.peer_address(*seed).to_string()).collect();
        let (listen, address) = (SocketAddr::new(node_ip(self.subnet, node), PEER_PORT), self.peer_address(node));
        let text = format!(
            "shards = {shards}\n\n[cluster]\npeer_listen = \"{listen}\"\npeer_address = \"{address}\"\n\
             seeds = {seeds:?}\nreplication_factor = {replication_factor}\nmax_staleness = \"{max_staleness}s\"\n"
        );
        let path = self.dir.path().join(format!("node{node}.toml"));
        scratch::write(&path, &text)?;
        Ok(path)
    }

    /// Writes a node's configuration and starts it.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn spawn(&mut self, node: Place) -> Result<()> {
        let config = self.write_config(node)?;
        let config = config.to_str().context("a path that is not UTF-8")?;
        let started = Node::spawn(&self.data_dir(node), self.address(node), &["--config", config])?;
        *self.slot(node) = Some(started);
        Ok(())
    }

    /// Starts a node and waits until it is ready.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn restart(&mut self, node: Place) -> Result<()> {
        self.spawn(node)?;
        self.wait_ready(node);
        Ok(())
    }

    /// Whether a node says that it is ready.
    #[must_use]
    pub fn is_ready(&self, node: Place) -> bool {
        // A node that is starting takes connections and answers nothing.
        self.client(node).within(PROBE).get("/readyz").is_ok_and(|answer| answer.status == 200)
    }

    /// Waits until a node is ready.
    ///
    /// # Panics
    /// When it ends, or takes too long.
    #[track_caller]
    pub fn wait_ready(&mut self, node: Place) {
        let client = self.client(node);
        let running = self.slot(node).as_mut();
        let Some(running) = running else { panic!("node {node} was not started") };
        wait_for(&format!("node {node} to be ready"), PATIENCE, || match client.get("/readyz") {
            Ok(answer) if answer.status == 200 => Ok(()),
            _ if running.has_ended() => panic!("node {node} has ended; it printed:\n{}", running.output()),
            Ok(answer) => Err(answer.text()),
            Err(error) => Err(error.to_string()),
        });
    }

    /// Kills a node as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, node: Place) -> Result<()> {
        self.running(node)?.kill()
    }

    /// Has a node stop, and waits until it has.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn terminate(&mut self, node: Place) -> Result<ExitStatus> {
        self.running(node)?.terminate()
    }

    /// Stops a node's process in its tracks.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&mut self, node: Place) -> Result<()> {
        self.running(node)?.signal(Signal::STOP)
    }

    /// Lets a node's process go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&mut self, node: Place) -> Result<()> {
        self.running(node)?.signal(Signal::CONT)
    }

    /// Throws a node's data away.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn wipe(&mut self, node: Place) -> Result<()> {
        std::fs::remove_dir_all(self.data_dir(node)).context("cannot remove a data directory")
    }

    /// Starts a node that is expected to refuse, waits for its end and returns its exit status and what it printed.
    ///
    /// # Errors
    /// When it does not end.
    pub fn refused(&mut self, node: Place) -> Result<(Option<i32>, String)> {
        self.spawn(node)?;
        self.ended(node)
    }

    /// Waits for a node that is expected to end by itself and returns its exit status and what it printed.
    ///
    /// # Errors
    /// When it does not end.
    pub fn ended(&mut self, node: Place) -> Result<(Option<i32>, String)> {
        let running = self.running(node)?;
        let status = running.wait()?;
        Ok((status.code(), running.output()))
    }

    /// Orders something of a node's place in the cluster, through another one: `drain`, `resume` or `remove`.
    ///
    /// # Errors
    /// When the other one does not answer.
    pub fn order(&self, through: Place, id: u64, order: &str) -> Result<Response> {
        Ok(self.client(through).json("POST", &format!("/v1/cluster/nodes/{id}/{order}"), &json!({}))?)
    }

    /// The process of a node.
    ///
    /// # Errors
    /// When it was not started.
    pub fn running(&mut self, node: Place) -> Result<&mut Node> {
        self.slot(node).as_mut().with_context(|| format!("node {node} was not started"))
    }

    fn slot(&mut self, node: Place) -> &mut Option<Node> {
        &mut self.nodes[usize::from(node) - 1]
    }

    /// What a node tells of the cluster.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self, node: Place) -> Result<Value, String> {
        let answer = self.client(node).get("/v1/cluster").map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(answer.value()) } else { Err(answer.text()) }
    }

    /// The first node that answers, and what it tells of the cluster.
    ///
    /// # Errors
    /// When none does.
    pub fn any_status(&self) -> Result<Value, String> {
        let mut seen = "no node answers".to_owned();
        for node in (1..).zip(&self.nodes).filter_map(|(place, node)| node.is_some().then_some(place)) {
            match self.status(node) {
                Ok(status) => return Ok(status),
                Err(error) => seen = error,
            }
        }
        Err(seen)
    }

    /// Waits until so many nodes are up and nothing is left to be moved.
    ///
    /// # Panics
    /// When that takes too long.
    #[track_caller]
    pub fn wait_settled(&self, nodes: usize) -> Value {
        wait_for(&format!("{nodes} nodes with everything in place"), PATIENCE, || {
            let status = self.any_status()?;
            let up = list(&status["nodes"]).iter().filter(|node| node["liveness"] == "up").count();
            let settled = status["health"] == "ok" && list(&status["moves"]).is_empty() && up == nodes;
            if settled { Ok(status) } else { Err(brief(&status)) }
        })
    }

    /// Waits until the cluster does not count a node any more.
    ///
    /// # Panics
    /// When that takes too long.
    #[track_caller]
    pub fn wait_removed(&self, through: Place, id: u64) {
        wait_for(&format!("node {id} to be removed"), PATIENCE, || {
            let status = self.status(through)?;
            let is_there = list(&status["nodes"]).iter().any(|node| node["node"] == id);
            if is_there { Err(brief(&status)) } else { Ok(()) }
        });
    }

    /// Waits until a node holds no replica of a shard any more.
    ///
    /// # Panics
    /// When that takes too long.
    #[track_caller]
    pub fn wait_drained(&self, id: u64) {
        wait_for(&format!("node {id} to be drained"), PATIENCE, || {
            let status = self.any_status()?;
            let node = list(&status["nodes"]).iter().find(|node| node["node"] == id);
            if node.is_some_and(|node| node["replicas"] == 0) { Ok(()) } else { Err(brief(&status)) }
        });
    }

    /// The node that leads a shard, as soon as the nodes that are asked agree on one.
    ///
    /// # Panics
    /// When nobody does for long.
    #[track_caller]
    pub fn leader(&self, shard: u16, asked: &[Place]) -> Place {
        wait_for(&format!("a leader of shard {shard}"), PATIENCE, || {
            let leaders: Result<Vec<_>, String> =
                asked.iter().map(|node| self.leader_by(&self.status(*node)?, shard)).collect();
            let leaders = leaders?;
            let first = leaders.first().copied().ok_or("nobody is asked")?;
            if leaders.iter().all(|leader| *leader == first) { Ok(first) } else { Err(format!("{leaders:?}")) }
        })
    }

    fn leader_by(&self, status: &Value, shard: u16) -> Result<Place, String> {
        let leader = &group(status, shard)["leader"];
        let node = list(&status["nodes"]).iter().find(|node| node["node"] == *leader);
        let node = node.ok_or_else(|| format!("shard {shard} is led by {leader}"))?;
        self.place_of(node).ok_or_else(|| format!("an unknown node: {node}"))
    }

    /// The id that the cluster has given to a node.
    ///
    /// # Panics
    /// When the cluster does not know it.
    #[track_caller]
    pub fn id_of(&self, place: Place) -> u64 {
        wait_for(&format!("the id of node {place}"), PATIENCE, || {
            let status = self.any_status()?;
            let node = list(&status["nodes"]).iter().find(|node| self.place_of(node) == Some(place));
            node.and_then(|node| node["node"].as_u64()).ok_or_else(|| brief(&status))
        })
    }

    fn place_of(&self, node: &Value) -> Option<Place> {
        let count = u8::try_from(self.nodes.len()).unwrap_or(u8::MAX);
        (1..=count).find(|place| node["advertise"] == format!("http://{}", self.address(*place)))
    }
}

impl Drop for Cluster {
    /// Prints what all nodes have printed; test runners show it for tests that failed.
    #[allow(clippy::print_stdout, reason = "what test runners keep")]
    fn drop(&mut self) {
        for (place, node) in (1..).zip(&mut self.nodes).filter_map(|(place, node)| Some((place, node.as_mut()?))) {
            let _ = node.kill();
            let place: Place = place;
            println!("--- node {place} printed:\n{}", node.output());
        }
    }
}

/// The elements of a list.
///
/// # Panics
/// When it is none.
#[must_use]
#[track_caller]
pub fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

/// A shard as a node's status tells of it.
#[must_use]
pub fn group(status: &Value, shard: u16) -> &Value {
    list(&status["placement"]).iter().find(|group| group["shard"] == shard).unwrap_or(&Value::Null)
}

/// What matters of a status, for messages.
fn brief(status: &Value) -> String {
    let nodes: Vec<_> = list(&status["nodes"])
        .iter()
        .map(|node| format!("{} {} {} leads {}", node["node"], node["state"], node["liveness"], node["leads"]))
        .collect();
    let groups: Vec<_> = list(&status["placement"])
        .iter()
        .map(|group| format!("{}: {} led by {}", group["group"], group["health"], group["leader"]))
        .collect();
    format!("health {}, nodes {nodes:?}, groups {groups:?}, moves {}", status["health"], status["moves"])
}

/// A part of the loopback network that no other test uses: whoever listens on the first proxy's address has it.
fn network(nodes: Place) -> Result<((u8, u8), Net)> {
    let mut tried = std::process::id();
    for _ in 0..64 {
        let [low, high, ..] = tried.to_le_bytes();
        let subnet = (64 | (high & 63), low);
        // Nobody may be left of a test that had this part before.
        let free = (1..=nodes).all(|node| {
            [PEER_PORT, CLIENT_PORT].iter().all(|port| TcpListener::bind((node_ip(subnet, node), *port)).is_ok())
        });
        if free && let Ok(net) = Net::start(subnet, nodes) {
            return Ok((subnet, net));
        }
        tried = tried.wrapping_mul(0x9e37_79b1).rotate_left(7);
    }
    bail!("no free addresses on the loopback network")
}
