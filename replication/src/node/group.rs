//! One Raft group on this node: how it is brought back, watched and stopped.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_storage::log::GroupLog;
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, ReadPolicy, ServerState};

use super::error::StartError;
use super::status::GroupStatus;
use crate::failure::Failure;
use crate::raft::log_store::LogStore;
use crate::raft::machine::Machine;
use crate::raft::network::NoPeers;
use crate::raft::snapshot::Shelf;
use crate::raft::types::{Raft, ReplicaNode};

/// A group that runs on this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) raft: Raft,
    pub(crate) log: GroupLog,
    pub(crate) shelf: Arc<Shelf>,
}

/// What it takes to start a group.
pub(crate) struct Seat {
    pub(crate) id: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) node: NodeId,
    /// Whether the group may be without any past.
    pub(crate) is_new: bool,
    pub(crate) log: GroupLog,
    pub(crate) config: Arc<Config>,
}

impl Group {
    /// Starts a group whose state machine holds its newest snapshot: checks that log and snapshot fit, and runs. A
    /// group without any past gets this replica as its only voter.
    ///
    /// # Errors
    /// When log and snapshot do not fit, or openraft cannot go on from them.
    pub(crate) async fn start(seat: Seat, machine: Machine) -> Result<Self, StartError> {
        let Seat { id, replica, node, is_new, log, config } = seat;
        check_joint(id, &log, &machine, is_new)?;
        let shelf = Arc::clone(machine.shelf());
        let raft = Raft::build(replica.0, config, NoPeers, LogStore::new(log.clone()), machine)
            .await
            .map_err(|error| refused(id, &error))?;
        raft.run();
        let group = Self { id, raft, log, shelf };
        match group.lead(replica, node).await {
            Ok(()) => Ok(group),
            Err(error) => {
                group.stop().await;
                Err(error)
            }
        }
    }

    /// Makes this replica lead at once if it is the group's only voter: nobody else can, so there is nothing to wait
    /// for.
    async fn lead(&self, replica: ReplicaId, node: NodeId) -> Result<(), StartError> {
        let initialized = self.raft.is_initialized().await.map_err(|error| refused(self.id, &error))?;
        if !initialized {
            let members = BTreeMap::from([(replica.0, ReplicaNode { node })]);
            return self.raft.initialize(members).await.map_err(|error| refused(self.id, &error));
        }
        if self.raft.voter_ids().eq([replica.0]) {
            self.raft.trigger().elect(false).await.map_err(|error| refused(self.id, &error))?;
        }
        Ok(())
    }

    /// Waits until everything that this replica had acknowledged is applied again.
    ///
    /// # Errors
    /// When the group ends before.
    pub(crate) async fn recover(&self) -> Result<(), StartError> {
        self.raft.wait_for_recovery(None).await.map_err(|error| refused(self.id, &error))?;
        // Where this replica leads, that is what a reader who starts now must see.
        if self.raft.is_leader() {
            self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await.map_err(|error| refused(self.id, &error))?;
        }
        Ok(())
    }

    /// Follows the group until it ends, which it must not do by itself.
    pub(crate) async fn watch(self, failure: Failure) {
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
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        let reason = state.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        failure.fail(format!("group {} cannot go on: {reason}", self.id));
    }

    /// Stops the group.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.id, %error, "the group did not stop in order");
        }
    }

    /// Its numbers.
    pub(crate) fn status(&self) -> GroupStatus {
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
        }
    }
}

/// Checks that log and snapshot are of one piece. A group that was ever used has saved a vote, and a log that begins
/// after what the snapshot holds has lost entries.
fn check_joint(id: GroupId, log: &GroupLog, machine: &Machine, is_new: bool) -> Result<(), StartError> {
    let state = log.state();
    let applied = machine.applied().map(|id| id.index);
    let lost = |what: String| {
        Err(StartError::Damaged(format!("group {id} has lost data: {what}; restore the data directory as a whole")))
    };
    if state.vote.is_none() && (!is_new || applied.is_some()) {
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
fn role(state: ServerState) -> &'static str {
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
