//! One Raft group on this node: how it is brought back, watched and stopped.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_storage::log::GroupLog;
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, ReadPolicy};
use serde_json::json;

use super::error::StartError;
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
        let Seat { id, replica, node, log, config } = seat;
        check_joint(id, &log, &machine)?;
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
        let mut leader = None;
        loop {
            let now = metrics.borrow_watched().current_leader;
            if now != leader {
                tracing::info!(group = %self.id, leader = ?now, "the group's leader changed");
                leader = now;
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

    /// Numbers for the operator.
    pub(crate) fn status(&self) -> serde_json::Value {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        json!({
            "group": self.id,
            "shard": self.id.0.checked_sub(1),
            "replica": metrics.id,
            "role": format!("{:?}", metrics.state).to_lowercase(),
            "leader": metrics.current_leader,
            "term": metrics.current_term,
            "last": metrics.last_log_index,
            "applied": metrics.last_applied.map(|id| id.index),
            "snapshot": self.shelf.current().and_then(|meta| meta.last_log_id).map(|id| id.index),
            "purged": metrics.purged.map(|id| id.index),
            "log_bytes": self.log.bytes(),
        })
    }
}

/// A log that begins after what the snapshot holds has lost entries.
fn check_joint(id: GroupId, log: &GroupLog, machine: &Machine) -> Result<(), StartError> {
    let Some(purged) = log.state().purged else {
        return Ok(());
    };
    let applied = machine.applied().map(|id| id.index);
    if applied.is_some_and(|applied| applied >= purged.index) {
        return Ok(());
    }
    let held = applied.map_or_else(|| "there is no snapshot".to_owned(), |at| format!("the snapshot ends at {at}"));
    Err(StartError::Damaged(format!(
        "group {id} has lost data: its log begins after entry {}, but {held}; restore the data directory's snapshots",
        purged.index
    )))
}

fn refused(id: GroupId, error: &(dyn std::error::Error + 'static)) -> StartError {
    StartError::Raft { group: id.0, message: crate::raft::snapshot::describe(error) }
}
