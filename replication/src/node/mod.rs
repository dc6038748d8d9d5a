//! A node: its log, its snapshots, its Raft groups, and the handle through which `server` uses them.
//!
//! Invariants:
//! - Every write goes through a group's log; readers see what was applied from it and nothing else.
//! - A node that has started shows every write that it ever acknowledged.
//! - Nothing random or temporal happens below a proposal: whoever proposes has chosen it.
//! - What must not be lived on after (a failed fsync, an entry that cannot be decoded, a panic) ends the node, see
//!   [`Node::failed`].
//!
//! Where is what: `start.rs` from a data directory to running groups; `identity.rs` whose directory it is; `group.rs`
//! one group; `proposer.rs` writes and their bounds; `memory.rs` how many records there may be; `intents.rs` what the
//! catalog wants the shards to hear; `compaction.rs` when snapshots are taken; `status.rs` numbers; `error.rs` refusals.

mod compaction;
mod error;
mod group;
mod identity;
mod intents;
mod memory;
mod proposer;
mod start;
mod status;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use larder_storage::command::Outcome;
use larder_storage::disk::{DirLock, RealDisk};
use larder_storage::log::Log;
use larder_storage::shard::ShardReader;
use larder_types::ids::{GroupId, ShardId};

pub use self::error::{ProposeError, StartError};
use self::identity::Identity;
use self::intents::Executor;
use self::memory::MemoryLimit;
use self::proposer::Proposer;
pub use self::status::{GroupStatus, MemoryStatus, NodeStatus, SnapshotStatus};
use crate::catalog::{ApiKey, Catalog, CatalogCommand, CatalogReply, ClusterSettings, RunsReader, encode_command};
use crate::failure::{Failure, Watched};
use crate::raft::snapshot::Workbench;
use crate::raft::types::Response;

/// How a node is started.
pub struct NodeOptions {
    /// Where it keeps everything. Created if need be. One process at a time: a lock file guards it.
    pub data_dir: PathBuf,
    /// Used if the directory is new: makes the cluster.
    pub bootstrap: Box<dyn FnOnce() -> Bootstrap + Send>,
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

/// What makes a cluster.
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
    identity: Identity,
    catalog: Arc<ArcSwap<Catalog>>,
    runs: RunsReader,
    /// By shard.
    readers: Vec<ShardReader>,
    proposer: Arc<Proposer>,
    executor: Arc<Executor>,
    memory: MemoryLimit,
    log: Log,
    failure: Failure,
    tasks: Mutex<Vec<Watched>>,
    workbench: Workbench,
    data_dir: PathBuf,
    _lock: DirLock,
}

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
    pub fn reader(&self, shard: ShardId) -> Option<&ShardReader> {
        self.readers.get(usize::from(shard.0))
    }

    /// Proposes a command of the catalog and waits until it is applied here.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_catalog(&self, command: CatalogCommand) -> Result<CatalogReply, ProposeError> {
        let answers = self.proposer.propose(GroupId::CATALOG, vec![encode_command(&command)]).await?;
        match answers.into_iter().next() {
            Some((_, Response::Catalog(result))) => Ok(result?),
            other => unreachable!("the catalog answered a command with {other:?}"),
        }
    }

    /// Refuses entries of batches if there is no memory for what they may add: to ask before the first of several
    /// proposals that belong together. [`Node::propose`] asks as well.
    ///
    /// # Errors
    /// `MemoryLimit`.
    pub fn admit<'a>(&self, entries: impl IntoIterator<Item = &'a Bytes>) -> Result<(), ProposeError> {
        self.memory.admit(entries)
    }

    /// Proposes entries to a shard, in this order, and waits until all are applied here. Returns for each the log index
    /// and what it did.
    ///
    /// # Errors
    /// See [`ProposeError`]; on `Unknown` some may have been applied.
    pub async fn propose(&self, shard: ShardId, entries: Vec<Bytes>) -> Result<Vec<(u64, Outcome)>, ProposeError> {
        self.memory.admit(&entries)?;
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
            node: self.identity.node,
            cluster: self.identity.cluster.id.clone(),
            shards: self.identity.cluster.shards,
            failed: self.failure.reason(),
            log_bytes: log.segment_bytes,
            inflight_bytes: self.proposer.inflight_bytes(),
            memory: self.memory.status(),
            pending_intents: self.executor.pending(),
            groups: self.proposer.groups().iter().map(group::Group::status).collect(),
            log,
            snapshots: self.workbench.status(),
        }
    }

    /// Stops all groups and closes the log. Everything acknowledged is on disk already.
    pub async fn shutdown(&self) {
        self.proposer.stop();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.stop().await;
        }
        for group in self.proposer.groups() {
            group.stop().await;
        }
        // A snapshot may still be written: the directory is not given up before.
        self.workbench.close().await;
        self.log.close();
    }
}
