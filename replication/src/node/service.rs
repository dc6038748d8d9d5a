//! What this node answers to others.
//!
//! Invariants:
//! - A message for a replica reaches that replica or nobody: group and replica id must both be those of a replica here.
//! - For a while after the process started, replicas with a past give no vote: before the restart one may have promised
//!   a leader, by hearing it, not to elect another so soon, and that promise is not on disk (the *boot fence*).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use openraft::raft::AppendEntriesResponse;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::answers;
use super::change::{self, Wish};
use super::joining::{self, Answer, Application, Doorkeeper};
use super::kind::Kind;
use super::proposer::Proposer;
use super::replica::Replica;
use super::replicas::Replicas;
use super::report::{Report, Reports};
use crate::catalog::{Catalog, CatalogError, NodeState};
use crate::peers::{Caller, Refusal, Reply, Request, Service};
use crate::raft::echo::Clock;
use crate::raft::network::Kind as OfReplicas;
use crate::raft::transfer::Receiving;
use crate::raft::types::ELECTION_MILLIS;
use crate::raft::wire::{self, Envelope};

/// Why a request of a peer is refused. Numbers of the wire.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(crate) enum Code {
    /// It cannot be read.
    Malformed = 1,
    /// The replica is not here.
    NoReplica = 2,
    /// It has just been started and gives no votes yet.
    Fenced = 3,
    /// The group is not led here.
    NotLeader = 4,
    /// Something failed here.
    Failed = 5,
    /// The node is still starting.
    Starting = 6,
    /// The caller was removed from the cluster.
    Removed = 7,
}

/// The number of [`Code::Failed`], for what answers for replicas.
pub(crate) const FAILED: u8 = Code::Failed as u8;

/// Answers requests of clients that other nodes have forwarded.
pub trait Forwarded: Send + Sync + 'static {
    /// The answer to a request, in bytes that both ends understand.
    fn answer(&self, request: Bytes) -> BoxFuture<'static, Bytes>;
}

/// What answers.
pub(crate) struct Answerer {
    clock: Clock,
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) doorkeeper: Doorkeeper,
    pub(crate) receiving: Arc<Receiving>,
    /// Set when the node knows who it is.
    reports: OnceLock<Arc<Reports>>,
    proposer: OnceLock<Arc<Proposer>>,
    catalog: OnceLock<Arc<ArcSwap<Catalog>>>,
    pub(crate) forwarded: OnceLock<Arc<dyn Forwarded>>,
}

/// A group and one of its replicas that is to lead.
#[derive(Serialize, Deserialize)]
pub(crate) struct Heir {
    pub(crate) group: GroupId,
    pub(crate) to: ReplicaId,
}

impl Answerer {
    /// Answers for these replicas, in this run of the process.
    pub(crate) fn new(
        run: u64,
        replicas: Arc<Replicas>,
        doorkeeper: Doorkeeper,
        receiving: Arc<Receiving>,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock: Clock::start(run),
            replicas,
            doorkeeper,
            receiving,
            reports: OnceLock::new(),
            proposer: OnceLock::new(),
            catalog: OnceLock::new(),
            forwarded: OnceLock::new(),
        })
    }

    /// Lets it answer what only a member of a cluster can.
    pub(crate) fn join(&self, reports: Arc<Reports>, proposer: Arc<Proposer>, catalog: Arc<ArcSwap<Catalog>>) {
        // It joins once.
        let _ = (self.reports.set(reports), self.proposer.set(proposer), self.catalog.set(catalog));
    }

    /// A node that is removed loses its replica of the catalog before the catalog says so: this is how it hears of it.
    fn refuse_removed(&self, node: NodeId) -> Result<(), Refusal> {
        let catalog = self.catalog.get().map(|catalog| catalog.load());
        let known = catalog.as_ref().and_then(|catalog| catalog.map.nodes.get(&node));
        match known {
            Some(known) if known.state == NodeState::Removed => {
                Err(refusal(Code::Removed, CatalogError::removed(node).message))
            }
            _ => Ok(()),
        }
    }

    async fn admit(&self, application: Application) -> Answer {
        if let (Some(catalog), Some(reports)) = (self.catalog.get(), self.reports.get())
            && let Some(objection) = joining::objection(&catalog.load(), reports, &application)
        {
            return objection;
        }
        self.doorkeeper.admit(self.proposer.get(), application.contact).await
    }

    /// How long the boot fence still stands.
    pub(crate) fn fenced_for(&self) -> Option<Duration> {
        Duration::from_millis(ELECTION_MILLIS.1).checked_sub(self.clock.elapsed())
    }

    fn replica(&self, envelope: Envelope) -> Result<Arc<Replica>, Refusal> {
        let replica = self.replicas.get(envelope.group).filter(|replica| replica.replica == envelope.to);
        replica.ok_or_else(|| {
            let message = format!("replica {} of group {} is not here", envelope.to, envelope.group);
            refusal(Code::NoReplica, message)
        })
    }

    async fn of_replicas(&self, kind: OfReplicas, mut body: Bytes) -> Reply {
        let envelope = Envelope::take(&mut body).map_err(malformed)?;
        let replica = self.replica(envelope)?;
        match kind {
            OfReplicas::Append => append(&self.clock, &replica, &body).await,
            OfReplicas::Vote | OfReplicas::PreVote => self.vote(&replica, kind, &body).await,
            OfReplicas::Transfer => {
                let request = wire::decode_transfer(&body).map_err(malformed)?;
                let answer = replica.raft.handle_transfer_leader(request).await.map_err(failed)?;
                Ok(wire::encode_transfer_answer(&answer).into())
            }
            OfReplicas::SnapshotBegin => self.receiving.begin(envelope, &body).await,
            OfReplicas::SnapshotBlock => self.receiving.block(envelope, &body).await,
            OfReplicas::SnapshotEnd => self.receiving.end(envelope, &body, &replica.raft, &replica.shelf).await,
        }
    }

    async fn vote(&self, replica: &Replica, kind: OfReplicas, body: &[u8]) -> Reply {
        let request = wire::decode_vote_request(body).map_err(malformed)?;
        if let Some(left) = self.fenced_for()
            && replica.log.state().vote.is_some()
        {
            let message = format!("this node has just started and gives no vote for {} ms", left.as_millis());
            return Err(refusal(Code::Fenced, message));
        }
        let answer = match kind {
            OfReplicas::PreVote => replica.raft.pre_vote(request).await.map_err(failed)?,
            _ => replica.raft.vote(request).await.map_err(failed)?,
        };
        Ok(wire::encode_vote_answer(&answer).into())
    }

    async fn of_nodes(&self, from: Caller, kind: Kind, body: Bytes) -> Reply {
        match kind {
            Kind::Who => encode(&self.doorkeeper.who().ok_or_else(starting)?),
            Kind::Join => {
                let application: Application = decode(&body)?;
                encode(&self.admit(application).await)
            }
            Kind::Report => {
                let (Some(node), Some(reports)) = (from.node, self.reports.get()) else { return Err(starting()) };
                self.refuse_removed(node)?;
                reports.note(node, decode::<Report>(&body)?);
                // A node that has just joined knows no addresses yet: this is how it is heard of.
                encode(&reports.get(reports.me()).map(|(_, report)| report))
            }
            Kind::Propose => {
                let proposer = self.proposer.get().ok_or_else(starting)?;
                answers::encode(proposer.serve(body).await).map_err(failed)
            }
            Kind::ReadIndex => {
                let group = decode::<GroupId>(&body)?;
                let replica = self.replicas.get(group).ok_or_else(|| not_leader(group))?;
                let index = replica.read_index().await.map_err(|_| not_leader(group))?;
                encode(&index)
            }
            Kind::Change => {
                let wish = decode::<Wish>(&body)?;
                let replica = self.replicas.get(wish.group).ok_or_else(|| not_leader(wish.group))?;
                encode(&change::step(&replica, &wish).await)
            }
            Kind::Transfer => {
                let heir = decode::<Heir>(&body)?;
                let replica = self.replicas.get(heir.group).ok_or_else(|| not_leader(heir.group))?;
                replica.transfer(heir.to).await.map_err(failed)?;
                Ok(Bytes::new())
            }
            Kind::Forward => {
                let forwarded = self.forwarded.get().ok_or_else(starting)?;
                Ok(forwarded.answer(body).await)
            }
        }
    }
}

/// The service of a node, as the transport wants it.
pub(crate) struct NodeService(pub(crate) Arc<Answerer>);

impl Service for NodeService {
    fn serve(&self, from: Caller, request: Request) -> BoxFuture<'static, Reply> {
        let answerer = Arc::clone(&self.0);
        Box::pin(async move {
            if let Some(kind) = OfReplicas::of(request.kind) {
                return answerer.of_replicas(kind, request.body).await;
            }
            match Kind::of(request.kind) {
                Some(kind) => answerer.of_nodes(from, kind, request.body).await,
                None => {
                    let message = format!("requests of kind {} are unknown here: upgrade this node", request.kind);
                    Err(refusal(Code::Malformed, message))
                }
            }
        })
    }

    fn is_open(&self, kind: u8) -> bool {
        Kind::of(kind).is_some_and(Kind::is_open)
    }
}

/// Appends a leader's entries, or takes its heartbeat.
async fn append(clock: &Clock, replica: &Replica, body: &Bytes) -> Reply {
    let (echo, request) = wire::decode_append(body).map_err(malformed)?;
    let answer = replica.raft.append_entries(request).await.map_err(failed)?;
    let is_its_leader = matches!(answer, AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_));
    if let Some(echo) = echo.filter(|_| is_its_leader)
        && let Some(at) = clock.read(echo.moment)
    {
        replica.freshness.heard(at, echo.committed, replica.applied());
    }
    Ok(wire::encode_append_answer(clock.now(), &answer).into())
}

/// A refusal of ours.
pub(crate) fn refusal(code: Code, message: impl Into<String>) -> Refusal {
    Refusal { code: code as u8, message: message.into() }
}

pub(crate) fn malformed(error: impl std::fmt::Display) -> Refusal {
    refusal(Code::Malformed, format!("the request cannot be read: {error}"))
}

pub(crate) fn failed(error: impl std::fmt::Display) -> Refusal {
    refusal(Code::Failed, error.to_string())
}

fn starting() -> Refusal {
    refusal(Code::Starting, "this node is still starting")
}

fn not_leader(group: GroupId) -> Refusal {
    refusal(Code::NotLeader, format!("group {group} is not led here"))
}

/// Bytes of a small message between nodes.
pub(crate) fn encode(message: &impl Serialize) -> Reply {
    serde_json::to_vec(message).map(Bytes::from).map_err(failed)
}

/// A small message between nodes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(malformed)
}
