//! Where the leader of a group is: here, by what the group's replica here knows, or by what other nodes report.

use std::sync::Arc;

use larder_types::ids::{GroupId, NodeId};

use super::replica::Replica;
use super::replicas::Replicas;
use super::report::Reports;

/// Finds leaders. Shared.
pub(crate) struct Router {
    pub(crate) me: NodeId,
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) reports: Arc<Reports>,
}

/// Where a group is led.
pub(crate) enum Leader {
    /// On this node.
    Here(Arc<Replica>),
    /// On another one.
    There(NodeId),
}

impl Router {
    /// Where a group is led; `None` if nobody knows.
    pub(crate) fn leader(&self, group: GroupId) -> Option<Leader> {
        let here = self.replicas.get(group);
        let term = here.as_ref().map_or(0, |replica| replica.term());
        // A replica that is cut off from its group still takes itself, or who led last, for the leader.
        let later = self.reports.leader_after(group, term).filter(|node| *node != self.me);
        if later.is_none()
            && let Some(replica) = &here
            && replica.raft.is_leader()
        {
            return here.map(Leader::Here);
        }
        let known = here.and_then(|replica| replica.leader()).map(|(_, node)| node);
        // This node has just lost or not yet won the group, if it is named.
        let node = later.or(known.filter(|node| *node != self.me));
        // A replica that was removed from its group knows the term of whoever leads it now, and is told nothing more.
        let node = node.or_else(|| self.reports.leader(group).map(|(_, node)| node).filter(|node| *node != self.me))?;
        Some(Leader::There(node))
    }
}
