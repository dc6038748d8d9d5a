//! Several nodes in one process, over loopback and real files: they form, lose members, and get new ones.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_storage::command::{PatchEncoder, PatchOrigin};
use larder_types::api::Scope;
use larder_types::hash::{KeyHash, ShardCount};
use larder_types::ids::{CollectionId, FieldId, Generation, GroupId, NodeId, ShardId, SyncSlot};
use larder_types::key::Key;
use larder_types::names::CollectionName;
use larder_types::value::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::catalog::{NodeState, ReplicaRole};

const SEED: u64 = 11;
const SHARDS: u16 = 4;
const PLANES: CollectionId = CollectionId(0);

/// Nodes that know of each other's addresses.
struct Cluster {
    runtime: Runtime,
    dirs: Vec<TempDir>,
    addresses: Vec<SocketAddr>,
    nodes: Vec<Option<Arc<Node>>>,
    /// Bytes of log after which a shard takes a snapshot.
    snapshot_log_bytes: u64,
}

/// A port of this address that nobody listens on now.
fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn bootstrap() -> Bootstrap {
    let settings = ClusterSettings { id: "0123456789abcdef".repeat(2), hash_seed: SEED, shards: SHARDS, created_at: 1 };
    let (id, label) = ("root".to_owned(), "root".to_owned());
    let root = ApiKey { id, sha256: "a".repeat(64), label, scopes: vec![Scope::Admin], created_at: 1 };
    Bootstrap { settings, root }
}

impl Cluster {
    fn with_places(places: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let dirs = (0..places).map(|_| tempfile::tempdir().unwrap()).collect();
        let addresses = (0..places).map(|_| free_port()).collect();
        Self { runtime, dirs, addresses, nodes: vec![None; places], snapshot_log_bytes: 64 << 20 }
    }

    /// A cluster of so many nodes whose groups have replicas on three of them.
    fn formed(nodes: usize, places: usize) -> Self {
        let mut cluster = Self::with_places(places);
        cluster.start(0..nodes);
        cluster.settle(&(0..nodes).collect::<Vec<_>>());
        cluster
    }

    fn options(&self, at: usize, dir: &Path) -> NodeOptions {
        NodeOptions {
            data_dir: dir.to_owned(),
            bootstrap: Box::new(bootstrap),
            snapshot_log_bytes: self.snapshot_log_bytes,
            snapshot_bytes_per_second: 0,
            max_inflight_bytes: 8 << 20,
            max_memory_bytes: 1 << 30,
            incarnation: format!("{:032x}", rand_of(dir)),
            shards: SHARDS,
            advertise: format!("http://{}", self.addresses[at]),
            cluster: Some(ClusterOptions {
                listen: self.addresses[at],
                address: self.addresses[at].to_string(),
                seeds: self.addresses.iter().take(3).map(ToString::to_string).collect(),
                zone: String::new(),
                replication_factor: 3,
                max_staleness: Duration::from_secs(5),
                dead_after: Duration::from_secs(900),
                transfer_bytes_per_second: 0,
                tls: None,
            }),
        }
    }

    /// Starts nodes side by side.
    fn start(&mut self, which: impl IntoIterator<Item = usize>) {
        let starts: Vec<_> = which.into_iter().map(|at| (at, self.options(at, self.dirs[at].path()))).collect();
        let started = self.runtime.block_on(async {
            let starting: Vec<_> =
                starts.into_iter().map(|(at, options)| (at, tokio::spawn(Node::start(options)))).collect();
            let mut started = Vec::new();
            for (at, node) in starting {
                let node = tokio::time::timeout(Duration::from_secs(60), node).await.expect("a start hangs");
                started.push((at, node.unwrap().unwrap_or_else(|error| panic!("node {at}: {error}"))));
            }
            started
        });
        started.into_iter().for_each(|(at, node)| self.nodes[at] = Some(node));
    }

    fn stop(&mut self, at: usize) {
        let node = self.nodes[at].take().unwrap();
        self.run(node.shutdown());
    }

    fn node(&self, at: usize) -> &Arc<Node> {
        self.nodes[at].as_ref().unwrap()
    }

    fn run<T>(&self, task: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(90), task).await.expect("it hangs") })
    }

    /// Waits until something is so.
    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            for (at, node) in self.nodes.iter().enumerate().filter_map(|(at, node)| Some((at, node.as_ref()?))) {
                assert_eq!(node.failure.reason(), None, "node {at} has failed");
            }
            if Instant::now() > deadline {
                let shown = self.nodes.iter().flatten().map(|node| {
                    let map = &node.catalog().map;
                    format!("{:?}\n{:#?}\n{:?}", node.me, node.status().groups, map.groups)
                });
                panic!("never: {what}\n{}", shown.collect::<Vec<_>>().join("\n\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until all groups have voters on three of these nodes, or all of them, that serve.
    fn settle(&self, alive: &[usize]) {
        let wanted = alive.len().min(3);
        self.until("every group has its voters", || {
            alive.iter().all(|at| {
                let map = Arc::clone(&self.node(*at).catalog().map);
                map.groups.len() == usize::from(SHARDS) + 1
                    && map.groups.iter().all(|group| group.change.is_none() && group.voters().count() == wanted)
                    && map.iter_groups().skip(1).all(|(id, _)| {
                        let here = map.group(id).unwrap().on(self.node(*at).me).is_some();
                        !here || self.node(*at).reader(ShardId(id.0 - 1)).is_some()
                    })
            })
        });
    }

    /// Makes collection `planes` by whichever node.
    fn define(&self, at: usize) {
        let name: CollectionName = "planes".parse().unwrap();
        self.run(self.node(at).propose_catalog(CatalogCommand::PutCollection { name, primary_index: None })).unwrap();
        for shard in (0..SHARDS).map(ShardId) {
            let fence = larder_storage::command::fence(PLANES, SyncSlot(0), Generation(1));
            self.run(self.node(at).propose(shard, vec![fence])).unwrap();
        }
    }

    /// Puts records through a node, one batch to each shard, and returns the index reached in each.
    fn put(&self, at: usize, seq: u32, numbers: std::ops::Range<u64>) {
        let shards = ShardCount::new(SHARDS).unwrap();
        for shard in shards.all() {
            let origin = PatchOrigin { collection: PLANES, slot: SyncSlot(0), generation: Generation(1), seq, at: 0 };
            let mut encoder = PatchEncoder::new(origin, 64 << 10);
            for number in numbers.clone() {
                let key = Key::new(&number.to_string()).unwrap();
                if shards.shard_of(KeyHash::of(SEED, key.as_bytes())) == shard {
                    encoder.upsert(&key, &[(FieldId(0), Value::Int(i64::from(seq)))]);
                }
            }
            let entries = encoder.finish();
            self.run(async {
                // As a client does: what is unknown is repeated, which does no harm.
                loop {
                    match self.node(at).propose(shard, entries.clone()).await {
                        Ok(_) => break,
                        Err(ProposeError::Unknown | ProposeError::Unavailable) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    }

    /// How many of these records a node shows.
    fn seen(&self, at: usize, numbers: std::ops::Range<u64>) -> usize {
        let shards = ShardCount::new(SHARDS).unwrap();
        let is_there = |number: &u64| {
            let key = number.to_string();
            let hash = KeyHash::of(SEED, key.as_bytes());
            let reader = self.node(at).reader(shards.shard_of(hash));
            reader.is_some_and(|reader| reader.get(PLANES, hash, key.as_bytes(), |_| ()).is_some())
        };
        numbers.filter(is_there).count()
    }

    fn leader_of(&self, group: GroupId) -> Option<usize> {
        let leads = |node: &Arc<Node>| node.replicas.get(group).is_some_and(|replica| replica.raft.is_leader());
        self.nodes.iter().position(|node| node.as_ref().is_some_and(leads))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().filter_map(Option::take) {
            self.runtime.block_on(node.shutdown());
        }
    }
}

/// A number that belongs to a directory.
fn rand_of(dir: &Path) -> u128 {
    dir.to_string_lossy()
        .bytes()
        .fold(7, |sum: u128, byte| sum.wrapping_mul(0x0100_0000_01b3).wrapping_add(byte.into()))
}

#[test]
fn three_nodes_form_a_cluster_and_any_of_them_takes_writes() {
    let cluster = Cluster::formed(3, 3);
    cluster.define(1);
    cluster.put(0, 1, 0..100);
    cluster.put(1, 2, 100..200);
    cluster.put(2, 3, 200..300);
    for at in 0..3 {
        cluster.until("every node shows every record", || cluster.seen(at, 0..300) == 300);
    }
    let ids: BTreeSet<_> = (0..3).map(|at| cluster.node(at).me).collect();
    assert_eq!(ids, [NodeId(1), NodeId(2), NodeId(3)].into());
    let leaders: BTreeSet<_> = (0..SHARDS).filter_map(|shard| cluster.leader_of(GroupId(shard + 1))).collect();
    assert!(!leaders.is_empty());
}

#[test]
fn the_leaders_are_spread_in_the_end() {
    let cluster = Cluster::formed(3, 3);
    cluster.until("no node leads more than two of four shards", || {
        let leaders: Vec<_> = (0..SHARDS).filter_map(|shard| cluster.leader_of(GroupId(shard + 1))).collect();
        let most = (0..3).map(|at| leaders.iter().filter(|leader| **leader == at).count()).max();
        leaders.len() == usize::from(SHARDS) && most <= Some(2)
    });
}

#[test]
fn two_of_three_go_on_and_the_third_catches_up() {
    let mut cluster = Cluster::formed(3, 3);
    cluster.define(0);
    cluster.put(0, 1, 0..100);
    let lost = cluster.leader_of(GroupId(1)).unwrap();
    cluster.stop(lost);
    let left: Vec<_> = (0..3).filter(|at| *at != lost).collect();
    cluster.put(left[0], 2, 100..200);
    for at in &left {
        cluster.until("the others show what was written since", || cluster.seen(*at, 0..200) == 200);
    }
    cluster.start([lost]);
    cluster.until("who comes back shows it too", || cluster.seen(lost, 0..200) == 200);
}

#[test]
fn all_nodes_restart_one_after_the_other_and_then_at_once() {
    let mut cluster = Cluster::formed(3, 3);
    cluster.define(0);
    for at in 0..3 {
        cluster.stop(at);
        let other = (at + 1) % 3;
        cluster.put(other, u32::try_from(at).unwrap() + 1, at as u64 * 100..at as u64 * 100 + 100);
        cluster.start([at]);
        cluster.until("who comes back shows all", || cluster.seen(at, 0..at as u64 * 100 + 100) == at * 100 + 100);
    }
    (0..3).for_each(|at| cluster.stop(at));
    cluster.start(0..3);
    for at in 0..3 {
        cluster.until("everybody shows all", || cluster.seen(at, 0..300) == 300);
    }
    cluster.put(2, 9, 300..400);
}

#[test]
fn a_fourth_node_gets_its_share_by_snapshot_and_another_one_leaves() {
    let mut cluster = Cluster::with_places(4);
    cluster.snapshot_log_bytes = 16 << 10;
    cluster.start(0..3);
    cluster.settle(&[0, 1, 2]);
    cluster.define(0);
    for seq in 1..40 {
        cluster.put(0, seq, 0..500);
    }
    cluster.until("the log before snapshots is gone", || {
        cluster.node(0).status().groups.iter().skip(1).all(|group| group.purged.is_some())
    });
    cluster.start([3]);
    cluster.until("the fourth node holds three shards", || {
        let map = Arc::clone(&cluster.node(0).catalog().map);
        map.replicas_of(NodeId(4)).count() == 4 && map.groups.iter().all(|group| group.change.is_none())
    });
    let leave = CatalogCommand::SetNodeState { node: NodeId(1), state: NodeState::Leaving };
    cluster.run(cluster.node(2).propose_catalog(leave)).unwrap();
    cluster.until("the first node is gone from the map", || {
        cluster.node(3).catalog().map.nodes[&NodeId(1)].state == NodeState::Removed
    });
    cluster.until("the first node holds nothing but what it had of the catalog", || {
        cluster.node(0).replicas.all().len() == 1
    });
    cluster.stop(0);
    cluster.settle(&[1, 2, 3]);
    for at in 1..4 {
        cluster.until("the others show all", || cluster.seen(at, 0..500) == 500);
    }
    cluster.put(3, 50, 500..600);
    let map = Arc::clone(&cluster.node(3).catalog().map);
    assert!(map.groups.iter().all(|group| group.replicas.iter().all(|place| place.role == ReplicaRole::Voter)));
    // Who was removed does not come back as who it was.
    let refused = cluster.run(Node::start(cluster.options(0, cluster.dirs[0].path())));
    let refusal = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refusal.contains("node 1 was removed from the cluster: empty its data directory"), "{refusal}");
}

#[test]
fn a_node_that_lost_its_disk_is_not_taken_for_what_it_was() {
    let mut cluster = Cluster::formed(3, 3);
    cluster.define(0);
    cluster.put(0, 1, 0..100);
    cluster.stop(0);
    cluster.dirs[0] = tempfile::tempdir().unwrap();
    // The first of the seeds must find the cluster, not make another one; but its address belongs to who it was.
    let refused = cluster.run(Node::start(cluster.options(0, cluster.dirs[0].path())));
    let refusal = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refusal.contains("larder-server cluster remove 1"), "{refusal}");
    let leave = CatalogCommand::SetNodeState { node: NodeId(1), state: NodeState::Leaving };
    cluster.run(cluster.node(1).propose_catalog(leave)).unwrap();
    cluster.until("the dead node has left the map", || {
        cluster.node(1).catalog().map.nodes[&NodeId(1)].state == NodeState::Removed
    });
    cluster.start([0]);
    assert_eq!(cluster.node(0).me, NodeId(4));
    cluster.settle(&[0, 1, 2]);
    cluster.until("the new node shows all", || cluster.seen(0, 0..100) == 100);
}
