//! What all replicas of a node share, and how one of them is brought up.

use std::sync::Arc;

use larder_storage::disk::Disk;
use larder_storage::log::Log;
use larder_storage::shard::{Shard, ShardOptions, ShardReader};
use larder_storage::snapshot::SnapshotStore;
use larder_types::ids::{GroupId, NodeId, ReplicaId, ShardId};
use openraft::Config;
use tokio::sync::Semaphore;

use super::error::StartError;
use super::replica::{Origin, Replica, Seat};
use crate::blocking;
use crate::failure::Failure;
use crate::raft::machine::{Machine, MachineError, State, Surroundings};
use crate::raft::network::{Confirmed, Courier, Network};
use crate::raft::snapshot::{Shelf, describe};
use crate::raft::transfer::Sending;

/// What all replicas of a node share.
pub(crate) struct Site {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log: Log,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) around: Surroundings,
    pub(crate) config: Arc<Config>,
    pub(crate) node: NodeId,
    pub(crate) hash_seed: u64,
    pub(crate) courier: Arc<dyn Courier>,
    pub(crate) sending: Sending,
    /// Loading snapshots takes a core each.
    pub(crate) loading: Semaphore,
}

impl Site {
    /// The empty state of a shard, and its reader.
    pub(crate) fn shard(&self, group: GroupId) -> (State, Option<ShardReader>) {
        assert!(group != GroupId::CATALOG, "the catalog is no shard");
        let shard = Shard::new(ShardOptions { id: ShardId(group.0 - 1), hash_seed: self.hash_seed });
        let reader = shard.reader();
        (State::Shard(shard), Some(reader))
    }

    /// Loads a replica's newest snapshot into its state machine and starts it.
    ///
    /// # Errors
    /// When the disk fails, something is damaged, or openraft cannot go on from what is there.
    pub(crate) async fn open(
        &self,
        id: GroupId,
        replica: ReplicaId,
        origin: Origin,
        (state, reader): (State, Option<ShardReader>),
    ) -> Result<Arc<Replica>, StartError> {
        let turn = self.loading.acquire().await;
        let (shelf, around) = (Shelf::new(self.snapshots.clone(), id), self.around.clone());
        let opened = blocking::spawn(move || Machine::open(id, state, shelf, around)).await;
        drop(turn);
        let machine = match opened {
            Ok(Ok(machine)) => machine,
            Ok(Err(error)) => return Err(not_loaded(id, &error)),
            Err(error) => return Err(StartError::Damaged(format!("group {id} cannot be loaded: {error}"))),
        };
        let (courier, sending) = (Arc::clone(&self.courier), self.sending.clone());
        let network = Network { courier, group: id, from: replica, sending, confirmed: Confirmed::default() };
        let (log, node, config) = (self.log.group(id), self.node, Arc::clone(&self.config));
        let seat = Seat { id, replica, node, origin, log, config, reader, network };
        let started = Replica::start(seat, machine).await.map_err(|error| self.better(error))?;
        self.failure().watch("group", Arc::clone(&started).watch(self.failure().clone()));
        Ok(started)
    }

    /// Told when the node must stop.
    pub(crate) fn failure(&self) -> &Failure {
        &self.around.failure
    }

    /// What stopped the node says more than what a group makes of it.
    pub(crate) fn better(&self, error: StartError) -> StartError {
        self.failure().reason().map_or(error, StartError::Damaged)
    }
}

fn not_loaded(id: GroupId, error: &MachineError) -> StartError {
    StartError::Damaged(format!("the snapshot of group {id} cannot be loaded: {}", describe(error)))
}
