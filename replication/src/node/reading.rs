//! Where to look a record up, by how fresh the answer must be.

use std::time::Duration;

use larder_storage::shard::ShardReader;
use larder_types::ids::{GroupId, NodeId, ShardId};

use super::kind::Kind;
use super::router::Leader;
use super::{Node, ProposeError};
use crate::peers::{Body, Lane};
use bytes::Bytes;

/// How fresh a lookup's answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// As fresh as any replica that is not too far behind.
    #[default]
    Any,
    /// From the replica that leads, as far as it knows.
    Leader,
    /// Everything that was acknowledged before the lookup began is seen.
    Linearizable,
}

/// Where to look.
pub enum ReadTarget {
    /// Here.
    Here(ShardReader),
    /// On another node, which is to be asked at this level.
    There(NodeId),
}

/// How long a leader elsewhere may take to confirm that it leads.
const CONFIRM: Duration = Duration::from_secs(2);

/// How long a replica may take to apply what was committed when a lookup began.
const CATCH_UP: Duration = Duration::from_secs(2);

/// How long another node may take to answer a client's request.
const FORWARD: Duration = Duration::from_secs(5);

impl Node {
    /// Where a lookup that cannot be answered at once from [`Node::readers_cell`] is to look. `hopped`: another node asks,
    /// so it must be here.
    ///
    /// # Errors
    /// `Unavailable`: nowhere, now.
    pub async fn read(&self, shard: ShardId, level: Consistency, hopped: bool) -> Result<ReadTarget, ProposeError> {
        let group = GroupId::from(shard);
        let there = |node: Option<NodeId>| match node.filter(|_| !hopped) {
            Some(node) => Ok(ReadTarget::There(node)),
            None => Err(ProposeError::Unavailable),
        };
        match level {
            Consistency::Any => match self.reader(shard) {
                Some(reader) => Ok(ReadTarget::Here(reader)),
                None => there(self.reports.serving(group)),
            },
            Consistency::Leader => match self.proposer.router().leader(group) {
                Some(Leader::Here(_)) => self.reader(shard).map(ReadTarget::Here).ok_or(ProposeError::Unavailable),
                Some(Leader::There(node)) => there(Some(node)),
                None => Err(ProposeError::Unavailable),
            },
            Consistency::Linearizable => self.read_linearizable(shard, there).await,
        }
    }

    /// The leader confirms by a majority how far the group is committed; then any replica that has applied so much shows
    /// all that was acknowledged before.
    async fn read_linearizable(
        &self,
        shard: ShardId,
        there: impl Fn(Option<NodeId>) -> Result<ReadTarget, ProposeError>,
    ) -> Result<ReadTarget, ProposeError> {
        let group = GroupId::from(shard);
        let here = self.replicas.get(group);
        let index = match self.proposer.router().leader(group) {
            Some(Leader::Here(replica)) => replica.read_index().await?,
            // Whoever leads can answer as well as confirm.
            Some(Leader::There(node)) if here.is_none() => return there(Some(node)),
            Some(Leader::There(node)) => self.confirm_at(node, group).await?,
            None => return Err(ProposeError::Unavailable),
        };
        let replica = here.ok_or(ProposeError::Unavailable)?;
        let reached = replica.raft.wait(Some(CATCH_UP)).applied_index_at_least(Some(index), "a lookup").await;
        reached.map_err(|_| ProposeError::Unavailable)?;
        replica.reader.clone().map(ReadTarget::Here).ok_or(ProposeError::Unavailable)
    }

    /// Waits until the definitions here are those of the moment of this call, or newer: another node may have changed them
    /// just now.
    ///
    /// # Errors
    /// `Unavailable` when that cannot be confirmed by a majority now, or takes too long.
    pub async fn catch_up_catalog(&self) -> Result<(), ProposeError> {
        let group = GroupId::CATALOG;
        let index = match self.proposer.router().leader(group) {
            Some(Leader::Here(replica)) => replica.read_index().await?,
            Some(Leader::There(node)) => self.confirm_at(node, group).await?,
            None => return Err(ProposeError::Unavailable),
        };
        let here = self.replicas.get(group).ok_or(ProposeError::Unavailable)?;
        let reached = here.raft.wait(Some(CATCH_UP)).applied_index_at_least(Some(index), "definitions").await;
        reached.map(drop).map_err(|_| ProposeError::Unavailable)
    }

    async fn confirm_at(&self, node: NodeId, group: GroupId) -> Result<u64, ProposeError> {
        let body: Bytes = serde_json::to_vec(&group).map_err(|_| ProposeError::Unavailable)?.into();
        let call = self.courier.call(node, Lane::Data, Kind::ReadIndex as u8, Body::from(body), CONFIRM);
        let answer = call.await.map_err(|_| ProposeError::Unavailable)?;
        serde_json::from_slice(&answer).map_err(|_| ProposeError::Unavailable)
    }

    /// Has a request of a client answered by another node.
    ///
    /// # Errors
    /// `Unavailable`, whether or not the node has got it: only what changes nothing may be forwarded.
    pub async fn forward(&self, node: NodeId, request: Bytes) -> Result<Bytes, ProposeError> {
        let call = self.courier.call(node, Lane::Data, Kind::Forward as u8, Body::from(request), FORWARD);
        call.await.map_err(|error| {
            tracing::debug!(%node, %error, "a lookup was not answered by another node");
            ProposeError::Unavailable
        })
    }

    /// Sets what answers requests that other nodes forward. Once.
    pub fn on_forwarded(&self, forwarded: std::sync::Arc<dyn super::Forwarded>) {
        // What comes before is told that the node is still starting.
        let _ = self.answerer.forwarded.set(forwarded);
    }
}
