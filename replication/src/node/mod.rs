//! A node: its log, its snapshots, its Raft groups, and the handle through which `server` uses them.
//!
//! CONTRACT STUB: signatures for `server`; the owner of `replication/` may add to, but not break, them.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use larder_storage::command::Outcome;
use larder_storage::shard::ShardReader;
use larder_types::ids::ShardId;

use crate::catalog::{ApiKey, Catalog, CatalogCommand, CatalogError, CatalogReply, ClusterSettings, RunsReader};

/// How a node is started.
pub struct NodeOptions {
    /// Where it keeps everything. Created if need be. One process at a time: a lock file guards it.
    pub data_dir: PathBuf,
    /// Used if the directory is new: makes the cluster.
    pub bootstrap: Box<dyn FnOnce() -> Bootstrap + Send>,
    /// A shard takes a snapshot when its entries since the last one exceed this many bytes.
    pub snapshot_log_bytes: u64,
    /// Bytes of proposals in flight over all shards; beyond them proposals are refused as overloaded.
    pub max_inflight_bytes: usize,
}

/// What makes a cluster.
pub struct Bootstrap {
    /// Its settings.
    pub settings: ClusterSettings,
    /// Its root key.
    pub root: ApiKey,
}

/// Why a node could not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The disk failed.
    #[error("cannot use the data directory {0}")]
    Io(PathBuf, #[source] std::io::Error),
    /// Another process uses the directory.
    #[error("the data directory {0} is in use by another process")]
    InUse(PathBuf),
    /// Something on disk is damaged.
    #[error("{0}")]
    Damaged(String),
    /// The Raft library refused.
    #[error("cannot start group {group}: {message}")]
    Raft {
        /// The group.
        group: u16,
        /// Why.
        message: String,
    },
}

/// Why a proposal was not carried out, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The group has no leader now, or the node is starting. Nothing was done: try later.
    #[error("the group has no leader now")]
    Unavailable,
    /// Too much is in flight. Nothing was done: try later.
    #[error("too many bytes of writes are in flight")]
    Overloaded,
    /// The disk has no room. Nothing was done.
    #[error("the disk is full")]
    DiskFull,
    /// It may or may not have been carried out: repeat it.
    #[error("the outcome is not known")]
    Unknown,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The catalog refused the command; nothing was changed.
    #[error(transparent)]
    Refused(#[from] CatalogError),
}

/// A running node. Shared by reference (`Arc<Node>`).
pub struct Node {}

impl Node {
    /// Opens the data directory, recovers what is in it, starts all groups, and returns when they have caught up with
    /// what this node had committed. Must be called within a multi-threaded tokio runtime, on which the groups then
    /// run; it must not be one that serves lookups.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(options: NodeOptions) -> Result<Arc<Self>, StartError> {
        todo!()
    }

    /// The current definitions. For one look: takes a reference count.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        todo!()
    }

    /// Where the definitions are published, for callers that keep an `arc_swap::Cache` of it.
    #[must_use]
    pub fn catalog_cell(&self) -> &Arc<arc_swap::ArcSwap<Catalog>> {
        todo!()
    }

    /// The record of runs.
    #[must_use]
    pub fn runs(&self) -> RunsReader {
        todo!()
    }

    /// The reader of a shard, or `None` if this node has no replica of it that serves.
    #[must_use]
    pub fn reader(&self, shard: ShardId) -> Option<&ShardReader> {
        todo!()
    }

    /// Proposes a command of the catalog and waits until it is applied here.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_catalog(&self, command: CatalogCommand) -> Result<CatalogReply, ProposeError> {
        todo!()
    }

    /// Proposes entries to a shard, in this order, and waits until all are applied here. Returns for each the log index
    /// and what it did.
    ///
    /// # Errors
    /// See [`ProposeError`]; on `Unknown` some may have been applied.
    pub async fn propose(&self, shard: ShardId, entries: Vec<Bytes>) -> Result<Vec<(u64, Outcome)>, ProposeError> {
        todo!()
    }

    /// Carries an intent out on all shards and notes it as done. Returns at once if it is done already.
    ///
    /// # Errors
    /// See [`ProposeError`]; the intent stays and is carried out later.
    pub async fn run_intent(&self, id: u64) -> Result<(), ProposeError> {
        todo!()
    }

    /// Resolves when the node can go on no longer (disk failure, damaged entry, panic), with the reason. The process
    /// must then exit.
    pub async fn failed(&self) -> String {
        todo!()
    }

    /// Numbers for the operator: log bytes, snapshots and so on, as JSON for `/v1/cluster`.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        todo!()
    }

    /// Stops all groups and closes the log. Everything acknowledged is on disk already.
    pub async fn shutdown(&self) {
        todo!()
    }
}
