//! One replica on this node: a Raft group's member with its log, snapshots, and what can be read of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder_storage::log::GroupLog;
use larder_storage::shard::ShardReader;
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::RaftError;
use openraft::{Config, RaftMetrics, ReadPolicy, ServerState};
use tokio::time::Instant;

use super::credits::Credits;
use super::error::{ProposeError, StartError};
use super::freshness::Freshness;
use super::proposer::GROUP_BYTES;
use super::report::NEARLY;
use super::status::GroupStatus;
use crate::failure::Failure;
use crate::raft::log_store::LogStore;
use crate::raft::machine::Machine;
use crate::raft::network::{Network, confirmed};
use crate::raft::snapshot::Shelf;
use crate::raft::types::{Raft, ReplicaNode, TypeConfig};

/// A replica that runs on this node.
pub(crate) struct Replica {
    pub(crate) id: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) raft: Raft,
    pub(crate) log: GroupLog,
    pub(crate) shelf: Arc<Shelf>,
    /// What can be read of it, if it is a shard's.
    pub(crate) reader: Option<ShardReader>,
    pub(crate) freshness: Freshness,
    /// What may be in flight of proposals to it while it leads.
    pub(crate) credits: Credits,
    /// The last entry of its log when it started.
    tail: Option<u64>,
    /// Whether everything that it had acknowledged before it started can be read again.
    recovered: AtomicBool,
    /// Whether it is being stopped, so that its end is no failure.
    closing: AtomicBool,
}

/// Pause before a leader that no majority has confirmed asks again.
const AGAIN: Duration = Duration::from_millis(50);

/// How long a majority may take to confirm a leader.
const READ_INDEX: Duration = Duration::from_secs(2);

/// Where a replica comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Its group begins with it.
    Founding,
    /// A leader fills it.
    Joining,
    /// It was here before.
    Known,
}

/// What it takes to start a replica.
pub(crate) struct Seat {
    pub(crate) id: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) node: NodeId,
    pub(crate) origin: Origin,
    pub(crate) log: GroupLog,
    pub(crate) config: Arc<Config>,
    pub(crate) reader: Option<ShardReader>,
    pub(crate) network: Network,
}

impl Replica {
    /// Starts a replica whose state machine holds its newest snapshot: checks that log and snapshot fit, and runs. One
    /// that founds its group becomes its only voter.
    ///
    /// # Errors
    /// When log and snapshot do not fit, or openraft cannot go on from them.
    pub(crate) async fn start(seat: Seat, machine: Machine) -> Result<Arc<Self>, StartError> {
        let Seat { id, replica, node, origin, log, config, reader, network } = seat;
        check_joint(id, &log, &machine, origin)?;
        let shelf = Arc::clone(machine.shelf());
        let confirmed = Arc::clone(&network.confirmed);
        let tail = log.state().last.map(|id| id.index);
        let raft = Raft::build(replica.0, config, network, LogStore::new(log.clone()), machine)
            .await
            .map_err(|error| refused(id, &error))?;
        // It is set once, here.
        let _ = confirmed.set(raft.metrics());
        raft.run();
        let (freshness, recovered, closing) = (Freshness::default(), AtomicBool::new(false), AtomicBool::new(false));
        let credits = Credits::new(GROUP_BYTES);
        let started = Self { id, replica, raft, log, shelf, reader, freshness, credits, tail, recovered, closing };
        match started.lead(node, origin).await {
            Ok(()) => Ok(Arc::new(started)),
            Err(error) => {
                started.stop().await;
                Err(error)
            }
        }
    }

    /// Makes this replica lead at once if it is the group's only voter: nobody else can, so there is nothing to wait
    /// for.
    async fn lead(&self, node: NodeId, origin: Origin) -> Result<(), StartError> {
        let initialized = self.raft.is_initialized().await.map_err(|error| refused(self.id, &error))?;
        if !initialized && origin == Origin::Founding {
            let members = BTreeMap::from([(self.replica.0, ReplicaNode { node })]);
            return self.raft.initialize(members).await.map_err(|error| refused(self.id, &error));
        }
        if self.is_alone() {
            self.raft.trigger().elect(false).await.map_err(|error| refused(self.id, &error))?;
        }
        Ok(())
    }

    /// Whether this is the group's only voter.
    pub(crate) fn is_alone(&self) -> bool {
        self.raft.voter_ids().eq([self.replica.0])
    }

    /// Waits until everything that this replica had acknowledged is applied again.
    ///
    /// # Errors
    /// When the group ends before.
    pub(crate) async fn recover(&self) -> Result<(), StartError> {
        // Not `wait_for_recovery`: that waits for a moment in which all of the log is committed, which may never come while
        // others write. What this replica had acknowledged is in what its log held when it started, or was replaced.
        let is_known = |metrics: &RaftMetrics<TypeConfig>| {
            let committed = metrics.cluster_committed.map(|id| id.index);
            committed.is_some() && committed >= self.tail.min(metrics.last_log_index)
        };
        let known = self.raft.wait(None).metrics(is_known, "what had been acknowledged is committed").await;
        let known = known.map_err(|error| refused(self.id, &error))?;
        let committed = known.cluster_committed.map(|id| id.index);
        let applied =
            self.raft.wait(None).applied_index_at_least(committed, "what had been acknowledged is applied").await;
        applied.map_err(|error| refused(self.id, &error))?;
        // Where this replica leads, that is what a reader who starts now must see.
        while self.raft.is_leader() {
            match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
                Ok(_) => break,
                Err(RaftError::Fatal(error)) => return Err(refused(self.id, &error)),
                // No majority was there in time, or another replica leads now.
                Err(RaftError::APIError(_)) => tokio::time::sleep(AGAIN).await,
            }
        }
        self.recovered.store(true, Ordering::Release);
        Ok(())
    }

    /// How old what can be read here may be; `None` if that is not known, as before the replica has recovered.
    pub(crate) fn age(&self) -> Option<Duration> {
        if !self.recovered.load(Ordering::Acquire) {
            return None;
        }
        if self.raft.is_leader() && self.is_alone() {
            return Some(Duration::ZERO);
        }
        // Looked at and let go: whoever holds this and asks the group anything more may wait for itself.
        let (confirmed, applied) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (confirmed(&metrics), metrics.last_applied.map(|id| id.index))
        };
        if let Some((at, committed)) = confirmed {
            self.freshness.heard(at, committed, applied);
        }
        self.freshness.age(Instant::now(), applied)
    }

    /// The replica that leads, as far as this one knows, and the node it is on.
    pub(crate) fn leader(&self) -> Option<(ReplicaId, NodeId)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let node = metrics.membership_config.membership().get_node(&leader)?.node;
        Some((ReplicaId(leader), node))
    }

    /// The term that this replica knows.
    pub(crate) fn term(&self) -> u64 {
        self.raft.server_metrics().borrow_watched().vote.leader_id.term
    }

    /// How far the group was committed at some moment after this call began, confirmed by a majority. Whoever has applied
    /// so much shows all that was acknowledged before the call.
    ///
    /// # Errors
    /// When this replica does not lead, or no majority answers in time.
    pub(crate) async fn read_index(&self) -> Result<u64, ProposeError> {
        let confirmed = tokio::time::timeout(READ_INDEX, self.raft.get_read_log_id(ReadPolicy::ReadIndex)).await;
        match confirmed {
            Ok(Ok((confirmed, _))) => Ok(confirmed.index()),
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unavailable),
        }
    }

    /// Has another replica lead the group.
    ///
    /// # Errors
    /// Why it cannot. openraft stops the leader for whomever it is told, so it is told only of a voter that could.
    pub(crate) async fn transfer(&self, to: ReplicaId) -> Result<(), String> {
        {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let Some(matched) = &metrics.replication else {
                return Err(format!("this node does not lead group {}", self.id));
            };
            if to == self.replica {
                return Ok(());
            }
            if !metrics.membership_config.membership().voter_ids().any(|voter| voter == to.0) {
                return Err(format!("replica {to} is no voter of group {}", self.id));
            }
            let matched = matched.get(&to.0).copied().flatten().map_or(0, |id| id.index);
            let lacking = metrics.last_log_index.unwrap_or(0).saturating_sub(matched);
            if lacking > NEARLY {
                return Err(format!("replica {to} lacks {lacking} entries of group {}: try later", self.id));
            }
        }
        self.raft.trigger().transfer_leader(to.0).await.map_err(|error| error.to_string())
    }

    /// The log index of the last entry applied here.
    pub(crate) fn applied(&self) -> Option<u64> {
        self.raft.data_metrics().borrow_watched().last_applied.map(|id| id.index)
    }

    /// Follows the group until it ends, which it must not do before `stop` was asked for.
    pub(crate) async fn watch(self: Arc<Self>, failure: Failure) {
        let mut metrics = self.raft.server_metrics();
        let (mut leader, mut had_leader) = (None, false);
        loop {
            let now = metrics.borrow_watched().current_leader;
            if now != leader {
                // Every group finds its first leader at every start; only what comes after that is news.
                if had_leader {
                    tracing::info!(group = %self.id, leader = ?now, "the group's leader changed");
                }
                (leader, had_leader) = (now, true);
            }
            if metrics.changed().await.is_err() {
                break;
            }
        }
        if self.closing.load(Ordering::Acquire) {
            return;
        }
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        let reason = state.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        failure.fail(format!("group {} cannot go on: {reason}", self.id));
    }

    /// Stops the replica.
    pub(crate) async fn stop(&self) {
        self.closing.store(true, Ordering::Release);
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.id, %error, "the group did not stop in order");
        }
    }

    /// Its numbers.
    pub(crate) fn status(&self) -> GroupStatus {
        // Before the metrics are borrowed: it borrows them too, and a lock that is read twice by one thread is a deadlock
        // when somebody has come to write in between.
        let age = self.age();
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        GroupStatus {
            group: self.id,
            shard: self.id.0.checked_sub(1),
            replica: metrics.id,
            role: role(metrics.state),
            leader: metrics.current_leader,
            term: metrics.current_term,
            last: metrics.last_log_index,
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: self.shelf.current().and_then(|meta| meta.last_log_id).map(|id| id.index),
            snapshot_bytes: self.shelf.bytes(),
            purged: metrics.purged.map(|id| id.index),
            log_bytes: self.log.bytes(),
            age_millis: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Checks that log and snapshot are of one piece. A replica that was ever used has saved a vote, and a log that begins
/// after what the snapshot holds has lost entries.
fn check_joint(id: GroupId, log: &GroupLog, machine: &Machine, origin: Origin) -> Result<(), StartError> {
    let state = log.state();
    let applied = machine.applied().map(|id| id.index);
    let lost = |what: String| {
        Err(StartError::Damaged(format!("group {id} has lost data: {what}; restore the data directory as a whole")))
    };
    if state.vote.is_none() && (origin == Origin::Known || applied.is_some()) {
        return lost("its log is gone".to_owned());
    }
    match (state.purged.map(|id| id.index), applied) {
        (Some(purged), None) => lost(format!("its log begins after entry {purged}, but there is no snapshot")),
        (Some(purged), Some(applied)) if applied < purged => {
            lost(format!("its log begins after entry {purged}, but the snapshot ends at {applied}"))
        }
        _ => Ok(()),
    }
}

/// What an operator reads of a role.
pub(crate) fn role(state: ServerState) -> &'static str {
    match state {
        ServerState::Learner => "learner",
        ServerState::Follower => "follower",
        ServerState::Candidate => "candidate",
        ServerState::Leader => "leader",
        ServerState::Shutdown => "stopped",
    }
}

fn refused(id: GroupId, error: &(dyn std::error::Error + 'static)) -> StartError {
    StartError::Raft { group: id.0, message: crate::raft::snapshot::describe(error) }
}
