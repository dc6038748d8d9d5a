//! The map of the cluster: its nodes, and which of them hold a replica of which group.
//!
//! It says where replicas are *placed*. What a group's membership is, only its own log says; a [`Change`] leads from one
//! to the other and stays on the map until the membership was seen to have followed.
//!
//! Invariants: ids of nodes, replicas and changes ascend and are never used twice; a node holds at most one replica of a
//! group; a group has at most one change at a time; what a change names is on the map while the change is.

use std::collections::BTreeMap;

use larder_types::ids::{GroupId, Micros, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};

/// Where everything is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterMap {
    /// Replicas that a group has when there are enough nodes.
    pub replication_factor: u8,
    /// The nodes that ever joined, also those that were removed.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// The groups by id, the catalog's first.
    pub groups: Vec<GroupPlacement>,
    /// The next id of a node.
    pub(crate) next_node: u32,
    /// The next id of a replica.
    pub(crate) next_replica: u64,
    /// The next id of a change.
    pub(crate) next_change: u64,
}

/// A node, as the others know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeInfo {
    /// Where it is and how it wants to be known.
    pub contact: Contact,
    /// What is meant for it.
    pub state: NodeState,
    /// When it joined.
    pub joined_at: Micros,
}

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// 32 hexadecimal digits that its data directory was given when it was made: who comes with others is not this node.
    pub incarnation: String,
    /// Host and port at which peers reach it. Empty for a node that has no peers.
    pub address: String,
    /// The URL at which clients reach it.
    pub advertise: String,
    /// Replicas of a group are spread over zones. Empty if the node has none.
    pub zone: String,
}

/// What is meant for a node. Whether it is up is another question, which the catalog does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It holds replicas.
    Active,
    /// Its replicas are moved to other nodes and it gets no more. It still hears of the catalog.
    Draining,
    /// As draining, and when it holds nothing any more it is removed.
    Leaving,
    /// It holds nothing and will never come back under this id.
    Removed,
}

/// The replicas of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupPlacement {
    /// In order of their ids.
    pub replicas: Vec<ReplicaPlace>,
    /// What is under way.
    pub change: Option<Change>,
}

/// A replica and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaPlace {
    /// The replica.
    pub replica: ReplicaId,
    /// The node that holds it.
    pub node: NodeId,
    /// What it is in its group.
    pub role: ReplicaRole,
}

/// What a replica is in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaRole {
    /// It was placed and is being filled.
    Joining,
    /// It hears everything and has no vote.
    Learner,
    /// It votes.
    Voter,
}

/// A change of a group's replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Its id.
    pub id: u64,
    /// What it does.
    pub kind: ChangeKind,
}

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ChangeKind {
    /// Fills a new replica and makes it a voter, in the place of another if one is named.
    AddVoter {
        /// The new one.
        replica: ReplicaId,
        /// The one that goes.
        instead: Option<ReplicaId>,
    },
    /// Fills a new replica, which stays without a vote.
    AddLearner {
        /// The new one.
        replica: ReplicaId,
    },
    /// Makes a learner a voter; a voter loses its vote for it and becomes a learner, if one is named.
    Promote {
        /// The learner.
        replica: ReplicaId,
        /// The voter.
        instead: Option<ReplicaId>,
    },
    /// Takes a replica out.
    Remove {
        /// The replica.
        replica: ReplicaId,
    },
}

impl ClusterMap {
    /// A group's replicas and change.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&GroupPlacement> {
        self.groups.get(usize::from(group.0))
    }

    /// The groups with their ids.
    pub fn iter_groups(&self) -> impl Iterator<Item = (GroupId, &GroupPlacement)> {
        (0..).map(GroupId).zip(&self.groups)
    }

    /// The replicas that a node holds, with their groups, in order of group.
    pub fn replicas_of(&self, node: NodeId) -> impl Iterator<Item = (GroupId, ReplicaPlace)> {
        self.iter_groups().filter_map(move |(id, group)| group.on(node).map(|place| (id, *place)))
    }

    /// Whether this map knows of a replica's id; a map that does not is older than the replica.
    #[must_use]
    pub fn has_given(&self, replica: ReplicaId) -> bool {
        replica.0 < self.next_replica
    }

    /// The node whose data directory has this incarnation.
    #[must_use]
    pub fn node_of(&self, incarnation: &str) -> Option<(NodeId, &NodeInfo)> {
        self.nodes.iter().find(|(_, node)| node.contact.incarnation == incarnation).map(|(id, node)| (*id, node))
    }
}

impl GroupPlacement {
    /// The replica on a node.
    #[must_use]
    pub fn on(&self, node: NodeId) -> Option<&ReplicaPlace> {
        self.replicas.iter().find(|place| place.node == node)
    }

    /// The place of a replica.
    #[must_use]
    pub fn place(&self, replica: ReplicaId) -> Option<&ReplicaPlace> {
        self.replicas.iter().find(|place| place.replica == replica)
    }

    /// The replicas with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &ReplicaPlace> {
        self.replicas.iter().filter(|place| place.role == ReplicaRole::Voter)
    }
}

impl ChangeKind {
    /// The replica that the change is about.
    #[must_use]
    pub fn replica(self) -> ReplicaId {
        match self {
            Self::AddVoter { replica, .. }
            | Self::AddLearner { replica }
            | Self::Promote { replica, .. }
            | Self::Remove { replica } => replica,
        }
    }
}
