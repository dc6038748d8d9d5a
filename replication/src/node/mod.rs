//! A node: its log, its snapshots, its Raft groups, and the handle through which `server` uses them.
//!
//! Invariants:
//! - Every write goes through a group's log; readers see what was applied from it and nothing else.
//! - A node that has started shows every write that it ever acknowledged.
//! - Nothing random or temporal happens below a proposal: whoever proposes has chosen it.
//! - What must not be lived on after (a failed fsync, an entry that cannot be decoded, a panic) ends the node, see
//!   [`Node::failed`].
//!
//! Where is what:
//! - coming up: `start.rs` from a data directory to running replicas; `identity.rs` whose directory it is; `joining.rs`
//!   how a new node finds its cluster; `site.rs` what replicas share;
//! - replicas: `replica.rs` one; `replicas.rs` those that are here; `freshness.rs` how old what they show may be;
//!   `housekeeper.rs` opens and closes them as the catalog says; `compaction.rs` when they take snapshots;
//! - writes: `proposer.rs`, and `credits.rs` their bounds; `answers.rs` what came of them, between nodes; `memory.rs` how many records
//!   there may be; `intents.rs` what the catalog wants the shards to hear;
//! - other nodes: `service.rs` what is answered to them, `kind.rs` what they ask; `report.rs` and `reporter.rs` what nodes
//!   tell each other; `router.rs` who leads; `reading.rs` where to look records up;
//! - the cluster: `reconciler.rs` brings replicas where they should be; `change.rs` one step of a change of a group;
//!   `handover.rs` what a node that stops leads;
//! - `status.rs` numbers; `cluster_status.rs` the whole cluster, and orders to it; `error.rs` refusals.

mod answers;
mod change;
#[cfg(test)]
mod change_tests;
mod cluster_status;
#[cfg(test)]
mod cluster_tests;
mod compaction;
mod credits;
mod error;
mod freshness;
mod handover;
mod housekeeper;
mod identity;
mod intents;
mod joining;
mod kind;
mod memory;
mod proposer;
mod reading;
mod reconciler;
mod replica;
mod replicas;
mod report;
mod reporter;
mod router;
mod service;
#[cfg(test)]
mod simulation;
mod site;
mod start;
mod status;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use larder_storage::command::Outcome;
use larder_storage::disk::{DirLock, RealDisk};
use larder_storage::log::Log;
use larder_storage::shard::ShardReader;
use larder_types::ids::{GroupId, NodeId, ShardId};

pub use self::cluster_status::Readiness;
pub use self::error::{ProposeError, StartError};
use self::intents::Executor;
use self::proposer::Proposer;
pub use self::reading::{Consistency, ReadTarget};
use self::replicas::Replicas;
pub use self::replicas::{Readers, Served};
use self::report::Reports;
use self::service::Answerer;
pub(crate) use self::service::FAILED;
pub use self::service::Forwarded;
pub use self::status::{GroupStatus, MemoryStatus, NodeStatus, SnapshotStatus};
use crate::catalog::{ApiKey, Catalog, CatalogCommand, CatalogReply, ClusterSettings, RunsReader, encode_command};
use crate::failure::{Failure, Watched};
use crate::peers::Peers;
use crate::raft::network::Courier;
use crate::raft::snapshot::Workbench;
use crate::raft::types::Response;

/// How a node is started.
pub struct NodeOptions {
    /// Where it keeps everything. Created if need be. One process at a time: a lock file guards it.
    pub data_dir: PathBuf,
    /// Used if the directory is new and there is no cluster to join: makes the cluster.
    pub bootstrap: Box<dyn FnMut() -> Bootstrap + Send + Sync>,
    /// 32 hexadecimal digits of chance, used if the directory is new: no other directory has them.
    pub incarnation: String,
    /// Shards that the cluster has, or is to have.
    pub shards: u16,
    /// The URL at which clients reach this node.
    pub advertise: String,
    /// The other nodes; `None` for a node that is alone.
    pub cluster: Option<ClusterOptions>,
    /// A shard takes a snapshot when its entries since the last one exceed this many bytes.
    pub snapshot_log_bytes: u64,
    /// Bytes of a snapshot that are written in a second at most, so that the disk is left to the log; 0 for as many as
    /// can be. The last one, while the node stops, is not held up.
    pub snapshot_bytes_per_second: u64,
    /// Bytes of proposals in flight over all shards; beyond them proposals are refused as overloaded.
    pub max_inflight_bytes: usize,
    /// Bytes of memory for records. When their content and their tables take 85 % of it, patches that may add more are
    /// refused; the rest is for what moving records around in memory takes.
    pub max_memory_bytes: u64,
}

/// How a node finds other nodes, and how it works with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Where it listens to other nodes.
    pub listen: SocketAddr,
    /// Host and port at which other nodes reach it.
    pub address: String,
    /// Where other nodes may be, and this one: the same list on all first nodes. The first of them makes the cluster.
    pub seeds: Vec<String>,
    /// Replicas of a group are spread over zones; empty for none.
    pub zone: String,
    /// Replicas of each group, as far as there are nodes: odd, fixed when the cluster is made.
    pub replication_factor: u8,
    /// Lookups are not answered here from replicas that may be further behind than this.
    pub max_staleness: Duration,
    /// The replicas of a node that was silent for so long are made anew on others.
    pub dead_after: Duration,
    /// Bytes a second of snapshots sent to other nodes; 0 for no limit.
    pub transfer_bytes_per_second: u64,
    /// Mutual TLS between nodes; `None` for plain TCP.
    pub tls: Option<TlsFiles>,
}

/// PEM files for mutual TLS between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate of the CA that signs for this cluster alone.
    pub ca: PathBuf,
    /// This node's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl From<TlsFiles> for crate::peers::PeerTls {
    fn from(files: TlsFiles) -> Self {
        Self { ca: files.ca, certificate: files.certificate, key: files.key }
    }
}

/// What makes a cluster.
#[derive(Clone)]
pub struct Bootstrap {
    /// Its settings.
    pub settings: ClusterSettings,
    /// Its root key.
    pub root: ApiKey,
}

/// A running node. Shared by reference (`Arc<Node>`).
///
/// Call [`Node::shutdown`] before the last reference goes: the groups run on until then, or until their runtime ends.
pub struct Node {
    me: NodeId,
    settings: ClusterSettings,
    catalog: Arc<ArcSwap<Catalog>>,
    runs: RunsReader,
    replicas: Arc<Replicas>,
    reports: Arc<Reports>,
    proposer: Arc<Proposer>,
    executor: Arc<Executor>,
    courier: Arc<dyn Courier>,
    answerer: Arc<Answerer>,
    peers: Option<Peers>,
    log: Log,
    failure: Failure,
    tasks: Mutex<Vec<Watched>>,
    workbench: Workbench,
    data_dir: PathBuf,
    _lock: DirLock,
}

/// How long a node may take to hear of what it has done itself through the catalog.
const CATALOG_PATIENCE: Duration = Duration::from_secs(5);

impl Node {
    /// Opens the data directory, recovers what is in it, starts all groups, and returns when they have caught up with
    /// what this node had committed. Must be called within a multi-threaded tokio runtime, on which the groups then
    /// run; it must not be one that serves lookups.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(options: NodeOptions) -> Result<Arc<Self>, StartError> {
        let data_dir = options.data_dir.clone();
        let disk = RealDisk::open(&data_dir).map_err(|error| StartError::Io(data_dir.clone(), error))?;
        let lock = start::lock(&disk, &data_dir)?;
        let log_options = start::log_options(options.snapshot_log_bytes);
        start::start(options, log_options, Arc::new(disk), lock).await
    }

    /// The current definitions. For one look: takes a reference count.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// Where the definitions are published, for callers that keep an `arc_swap::Cache` of it.
    #[must_use]
    pub fn catalog_cell(&self) -> &Arc<arc_swap::ArcSwap<Catalog>> {
        &self.catalog
    }

    /// The record of runs.
    #[must_use]
    pub fn runs(&self) -> RunsReader {
        self.runs.clone()
    }

    /// The reader of a shard, or `None` if this node has no replica of it that serves.
    #[must_use]
    pub fn reader(&self, shard: ShardId) -> Option<ShardReader> {
        let readers = self.replicas.readers().load();
        readers.get(shard).filter(|served| served.serves()).map(|served| served.reader().clone())
    }

    /// Where the replicas on this node are published, for callers that keep an `arc_swap::Cache` of it.
    #[must_use]
    pub fn readers_cell(&self) -> &Arc<ArcSwap<Readers>> {
        self.replicas.readers()
    }

    /// This node's number.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.me
    }

    /// Proposes a command of the catalog, wherever that is led, and waits until it is applied here.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_catalog(&self, command: CatalogCommand) -> Result<CatalogReply, ProposeError> {
        let answers = self.proposer.propose(GroupId::CATALOG, vec![encode_command(&command)]).await?;
        let (index, result) = match answers.into_iter().next() {
            Some((index, Response::Catalog(result))) => (index, result?),
            other => unreachable!("the catalog answered a command with {other:?}"),
        };
        let here = self.replicas.get(GroupId::CATALOG).ok_or(ProposeError::Unknown)?;
        let caught_up = here.raft.wait(Some(CATALOG_PATIENCE)).applied_index_at_least(Some(index), "a command").await;
        caught_up.map_err(|_| ProposeError::Unknown)?;
        Ok(result)
    }

    /// Refuses entries of batches if there is no memory for what they may add: to ask before the first of several
    /// proposals that belong together. [`Node::propose`] asks as well.
    ///
    /// # Errors
    /// `MemoryLimit`.
    pub fn admit<'a>(&self, entries: impl IntoIterator<Item = &'a Bytes>) -> Result<(), ProposeError> {
        self.proposer.memory().admit(entries)
    }

    /// Proposes entries to a shard, in this order, wherever it is led, and waits until all are applied there. Returns for each the log index
    /// and what it did.
    ///
    /// # Errors
    /// See [`ProposeError`]; on `Unknown` some may have been applied.
    pub async fn propose(&self, shard: ShardId, entries: Vec<Bytes>) -> Result<Vec<(u64, Outcome)>, ProposeError> {
        let answers = self.proposer.propose(GroupId::from(shard), entries).await?;
        let outcomes = answers.into_iter().map(|(index, response)| match response {
            Response::Shard(outcome) => (index, outcome),
            other => unreachable!("a shard answered a command with {other:?}"),
        });
        Ok(outcomes.collect())
    }

    /// Carries an intent out on all shards and notes it as done. Returns at once if it is done already.
    ///
    /// # Errors
    /// See [`ProposeError`]; the intent stays and is carried out later.
    pub async fn run_intent(&self, id: u64) -> Result<(), ProposeError> {
        self.executor.run(id).await
    }

    /// Resolves when the node can go on no longer (disk failure, damaged entry, panic), with the reason. The process
    /// must then exit.
    pub async fn failed(&self) -> String {
        self.failure.wait().await
    }

    /// The node's numbers. Looks at every group and collection for a moment.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let log = self.log.usage();
        NodeStatus {
            node: self.me,
            cluster: self.settings.id.clone(),
            shards: self.settings.shards,
            failed: self.failure.reason(),
            log_bytes: log.segment_bytes,
            inflight_bytes: self.proposer.inflight_bytes(),
            memory: self.proposer.memory().status(),
            pending_intents: self.executor.pending(),
            groups: self.replicas.all().iter().map(|replica| replica.status()).collect(),
            log,
            snapshots: self.workbench.status(),
        }
    }

    /// Has others lead what this node leads, stops all groups and closes the log. Everything acknowledged is on disk
    /// already.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.proposer.stop();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.stop().await;
        }
        if let Some(peers) = &self.peers {
            peers.shutdown().await;
        }
        for replica in self.replicas.all().iter() {
            replica.stop().await;
        }
        // A snapshot may still be written: the directory is not given up before.
        self.workbench.close().await;
        self.log.close();
    }
}
