//! The way to a group's other replicas: openraft's requests as calls to the nodes that hold them.
//!
//! Invariants:
//! - Every call ends: with an answer, or with an error within its deadline. A replica that takes entries and never answers
//!   would else keep its leader from ever giving up old log.
//! - A replica that cannot be asked has given no vote, not even beforehand.
//! - An error makes openraft pause before it tries again, unless the peer itself has answered.

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{Instant as _, OptionalSend, RaftMetrics, RaftNetworkFactory, RaftNetworkV2};

use super::codec::CodecError;
use super::echo::{Echo, Heard};
use super::snapshot::SnapshotFile;
use super::transfer::{self, Sending};
use super::types::{RaftSnapshot, ReplicaNode, TypeConfig, Vote};
use super::wire::{self, Envelope};
use crate::peers::{Body, Lane, PeerError, Peers};

/// How long entries may take to be on the peer's disk. openraft would give them one heartbeat, which a slow sync
/// exceeds; whether the peer is alive is for heartbeats to find out.
const APPEND_DEADLINE: Duration = Duration::from_secs(5);

/// What kinds of requests replicas send to each other. Numbers of the wire: never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Entries or a heartbeat.
    Append = 1,
    /// A vote.
    Vote = 2,
    /// Whether a vote would be given.
    PreVote = 3,
    /// The peer is to lead.
    Transfer = 4,
    /// Where to go on with a snapshot.
    SnapshotBegin = 5,
    /// A block of a snapshot.
    SnapshotBlock = 6,
    /// A snapshot is complete: install it.
    SnapshotEnd = 7,
}

impl Kind {
    /// The kind with this number.
    pub(crate) fn of(number: u8) -> Option<Self> {
        [
            Self::Append,
            Self::Vote,
            Self::PreVote,
            Self::Transfer,
            Self::SnapshotBegin,
            Self::SnapshotBlock,
            Self::SnapshotEnd,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// Carries requests to nodes and answers back: the transport, or what stands for it in a simulation.
pub(crate) trait Courier: Send + Sync + 'static {
    /// Asks a node. The deadline bounds the whole call.
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        kind: u8,
        body: Body,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>>;
}

/// The courier of a node that has no peers.
pub(crate) struct Nobody;

impl Courier for Nobody {
    fn call(&self, to: NodeId, _: Lane, _: u8, _: Body, _: Duration) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        Box::pin(async move { Err(PeerError::Unreachable(format!("this node has no peers, so none {to}").into())) })
    }
}

impl Courier for Peers {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        kind: u8,
        body: Body,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let peers = self.clone();
        Box::pin(async move { peers.call(to, lane, kind, body, deadline).await })
    }
}

/// Finds the other replicas of a group.
pub(crate) struct Network {
    pub(crate) courier: Arc<dyn Courier>,
    pub(crate) group: GroupId,
    /// The replica here.
    pub(crate) from: ReplicaId,
    /// What snapshots leave by.
    pub(crate) sending: Sending,
    /// Tells when a majority has last confirmed the replica here as the leader, and what was committed then.
    pub(crate) confirmed: Confirmed,
}

/// A group's metrics. Set when the group was built, which its
/// network must be before.
pub(crate) type Confirmed = Arc<OnceLock<WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>>>;

/// When a majority has last confirmed a leader, and an index up to which everything was committed that had been
/// acknowledged then; `None` for who is no leader, or has not yet committed an entry of its own: it does not know what
/// those before it had committed.
pub(crate) fn confirmed(metrics: &RaftMetrics<TypeConfig>) -> Option<(tokio::time::Instant, u64)> {
    let now = tokio::time::Instant::now();
    let confirmed = now.checked_sub(metrics.last_quorum_acked?.elapsed())?;
    let committed = metrics.local_committed.filter(|id| id.leader_id == metrics.vote.leader_id)?;
    Some((confirmed, committed.index))
}

/// Another replica of the group.
pub(crate) struct Peer {
    courier: Arc<dyn Courier>,
    node: NodeId,
    envelope: Envelope,
    /// What is small goes here.
    lane: Lane,
    sending: Sending,
    confirmed: Confirmed,
    /// Moments that the peer has named.
    heard: Heard,
}

impl Network {
    fn peer(&self, target: u64, node: NodeId, lane: Lane) -> Peer {
        let envelope = Envelope { group: self.group, to: ReplicaId(target), from: self.from };
        let (courier, sending, confirmed) =
            (Arc::clone(&self.courier), self.sending.clone(), Arc::clone(&self.confirmed));
        Peer { courier, node, envelope, lane, sending, confirmed, heard: Heard::default() }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &ReplicaNode) -> Peer {
        self.peer(target, node.node, Lane::Data)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &ReplicaNode) -> Peer {
        self.peer(target, node.node, Lane::Heartbeat)
    }
}

impl Peer {
    async fn ask(
        &self,
        kind: Kind,
        lane: Lane,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Bytes, RPCError<TypeConfig>> {
        let call = self.courier.call(self.node, lane, kind as u8, Body::from(Bytes::from(body)), deadline);
        call.await.map_err(|error| self.failed(&error))
    }

    /// What tells the peer how fresh it is.
    fn echo(&self) -> Option<Echo> {
        let (confirmed, committed) = confirmed(&self.confirmed.get()?.borrow_watched())?;
        Some(Echo { moment: self.heard.before(confirmed)?, committed })
    }

    fn failed(&self, error: &PeerError) -> RPCError<TypeConfig> {
        Unreachable::new(&self.describe(error)).into()
    }

    fn describe(&self, error: &dyn std::error::Error) -> io::Error {
        io::Error::other(format!("replica {} on node {}: {error}", self.envelope.to, self.node))
    }

    fn garbled(&self, error: &CodecError) -> RPCError<TypeConfig> {
        NetworkError::new(&self.describe(error)).into()
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let is_heartbeat = self.lane == Lane::Heartbeat;
        let deadline = if is_heartbeat { option.hard_ttl() } else { APPEND_DEADLINE };
        // Heartbeats come often enough.
        let echo = self.echo().filter(|_| is_heartbeat);
        let body = wire::encode_append(self.envelope, echo, request);
        let answer = self.ask(Kind::Append, self.lane, body, deadline).await?;
        let (moment, answer) = wire::decode_append_answer(&answer).map_err(|error| self.garbled(&error))?;
        self.heard.note(moment);
        Ok(answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = wire::encode_vote_request(self.envelope, &request);
        let answer = self.ask(Kind::Vote, Lane::Heartbeat, body, option.hard_ttl()).await?;
        wire::decode_vote_answer(&answer).map_err(|error| self.garbled(&error))
    }

    // Without this, openraft takes a peer that does not answer as one that agrees.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = wire::encode_vote_request(self.envelope, &request);
        let answer = self.ask(Kind::PreVote, Lane::Heartbeat, body, option.hard_ttl()).await?;
        wire::decode_vote_answer(&answer).map_err(|error| self.garbled(&error))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = wire::encode_transfer(self.envelope, &request);
        let answer = self.ask(Kind::Transfer, Lane::Heartbeat, body, option.hard_ttl()).await?;
        wire::decode_transfer_answer(&answer).map_err(|error| self.garbled(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sent = transfer::send(&self.sending, self.courier.as_ref(), self.node, self.envelope, vote, snapshot);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sent => sent.map(SnapshotResponse::new).map_err(|error| Unreachable::new(&self.describe(&error)).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{LeaderId, Vote};
    use super::*;

    #[tokio::test]
    async fn a_replica_that_cannot_be_asked_has_given_no_vote() {
        let (courier, sending): (Arc<dyn Courier>, _) = (Arc::new(Nobody), Sending::new(0));
        let from = ReplicaId(1);
        let mut network = Network { courier, group: GroupId(1), from, sending, confirmed: Confirmed::default() };
        let mut peer = network.new_client(2, &ReplicaNode { node: NodeId(2) }).await;
        let vote = Vote { leader_id: LeaderId { term: 1, node_id: 1 }, committed: false };
        let option = || RPCOption::new(Duration::from_secs(1));
        let request = || VoteRequest::new(vote, None);
        assert!(matches!(peer.pre_vote(request(), option()).await, Err(RPCError::Unreachable(_))));
        assert!(matches!(peer.vote(request(), option()).await, Err(RPCError::Unreachable(_))));
    }
}
