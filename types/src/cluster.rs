//! How a cluster is: the answer to `GET /v1/cluster` and to what operators order, for the server that tells and the
//! command line that shows it.
//!
//! Whatever comes from other nodes is as old as their last report: half a second, where all is well.

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, NodeId, ReplicaId};

/// A cluster, as one of its nodes knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's id.
    pub cluster: String,
    /// The node that tells.
    pub node: NodeId,
    /// Replicas that each group is to have.
    pub replication_factor: u8,
    /// The worst of `groups`.
    pub health: Health,
    /// All nodes that were not removed, in order of their ids.
    pub nodes: Vec<NodeInfo>,
    /// The groups in order: the catalog, then the shards.
    pub placement: Vec<GroupInfo>,
    /// What is under way, and what is about to be, one sentence each. Empty when everything is where it should be.
    pub moves: Vec<String>,
}

/// Whether a group does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It has a leader, and all the replicas that it should have are up.
    Ok,
    /// It has a leader, and fewer replicas than it should, or some that are not up.
    Degraded,
    /// Nobody is known to lead it: it takes no writes, and may answer lookups for a while.
    Unavailable,
}

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id.
    pub node: NodeId,
    /// What is meant for it: `active`, `draining`, `leaving` or `removed`.
    pub state: String,
    /// Whether it is heard of: `up`, `suspect` or `dead`.
    pub liveness: String,
    /// The time since it was heard of in milliseconds; null if it never was.
    pub silent_millis: Option<u64>,
    /// Its zone; empty for none.
    pub zone: String,
    /// Where peers reach it; empty for a node without peers.
    pub address: String,
    /// Where clients reach it.
    pub advertise: String,
    /// Shards of which it holds a replica.
    pub replicas: usize,
    /// Shards that it leads.
    pub leads: usize,
    /// Bytes of memory of its records and tables.
    pub bytes: u64,
}

/// A group and its replicas.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupInfo {
    /// The group.
    pub group: GroupId,
    /// The shard that it is; null for the catalog.
    pub shard: Option<u16>,
    /// Whether it does its work.
    pub health: Health,
    /// The node that leads it.
    pub leader: Option<NodeId>,
    /// The last entry of the leader's log.
    pub last: Option<u64>,
    /// Its replicas in order of their ids.
    pub replicas: Vec<ReplicaInfo>,
}

/// A replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// Its id.
    pub replica: ReplicaId,
    /// The node that holds it.
    pub node: NodeId,
    /// What it is in its group: `voter`, `learner`, or `joining` while it is being filled.
    pub role: String,
    /// Whether it leads.
    pub leads: bool,
    /// Whether lookups are answered from it.
    pub serves: bool,
    /// The last entry that it applied.
    pub applied: Option<u64>,
    /// Entries of the leader's log that it has not applied.
    pub lag: Option<u64>,
    /// How old what it shows may be, in milliseconds.
    pub age_millis: Option<u64>,
    /// Bytes of memory of its records and tables.
    pub bytes: u64,
}

/// `POST /v1/cluster/shards/{s}/transfer-leader`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferLeader {
    /// The node that is to lead.
    pub to: NodeId,
}

/// The answer to `POST /v1/cluster/rebalance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalance {
    /// Whether everything is where it should be.
    pub balanced: bool,
    /// What is under way, and what is about to be.
    pub moves: Vec<String>,
}

impl ClusterStatus {
    /// A node that was not removed.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&NodeInfo> {
        self.nodes.iter().find(|info| info.node == node)
    }
}
