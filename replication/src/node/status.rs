//! A node's numbers: `/v1/cluster` shows them as JSON, metrics are made of them.
//!
//! Each number is right by itself; together they may be a moment apart.

use larder_storage::log::LogUsage;
use larder_types::ids::{GroupId, NodeId};
use serde::Serialize;

pub use crate::raft::snapshot_meter::SnapshotStatus;

/// A node as it is now. What is not for people is left out of its JSON form.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// The id of its cluster.
    pub cluster: String,
    /// Shards of the cluster.
    pub shards: u16,
    /// Why the node must stop, if it must.
    pub failed: Option<String>,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// Bytes of proposals in flight.
    pub inflight_bytes: usize,
    /// What all shards take.
    pub memory: MemoryStatus,
    /// Intents that are not carried out yet.
    pub pending_intents: usize,
    /// Its groups, in order of their ids.
    pub groups: Vec<GroupStatus>,
    /// The log.
    #[serde(skip)]
    pub log: LogUsage,
    /// Snapshots since the start.
    #[serde(skip)]
    pub snapshots: SnapshotStatus,
}

/// Memory of a node, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MemoryStatus {
    /// What counts against the limit: content, tables, dictionaries and batches, and runs beyond what is set aside for
    /// them.
    pub bytes: u64,
    /// Beyond this, what may add more is refused.
    pub usable_bytes: u64,
    /// The limit.
    pub max_bytes: u64,
    /// Content of records.
    pub content_bytes: u64,
    /// Pages and directories of tables.
    pub table_bytes: u64,
    /// Texts that records share.
    pub dictionary_bytes: u64,
    /// What shards remember of the batches of open runs.
    pub batch_bytes: u64,
    /// What the catalog remembers of the batches of runs.
    pub run_bytes: u64,
    /// Segments in which records lie.
    pub arena_bytes: u64,
}

/// A group on this node. Positions are indexes of its log.
#[derive(Debug, Clone, Serialize)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// The shard that it is, unless it is the catalog.
    pub shard: Option<u16>,
    /// The replica on this node.
    pub replica: u64,
    /// What it does: `leader`, `follower`, `candidate`, `learner` or `stopped`.
    pub role: &'static str,
    /// The replica that leads.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The last entry.
    pub last: Option<u64>,
    /// The last entry applied.
    pub applied: Option<u64>,
    /// Where the newest snapshot ends.
    pub snapshot: Option<u64>,
    /// Bytes of the newest snapshot.
    pub snapshot_bytes: u64,
    /// The last entry purged.
    pub purged: Option<u64>,
    /// Bytes of the entries that were not purged.
    pub log_bytes: u64,
    /// How old what it shows may be, in milliseconds; `None` if that is not known.
    pub age_millis: Option<u64>,
}
