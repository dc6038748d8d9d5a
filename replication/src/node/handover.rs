//! What a node that stops leads is led by others first, so that nobody waits for an election.
//!
//! Nothing is lost when that does not work out: the others elect a leader when they miss this one.

use std::time::Duration;

use larder_types::ids::ReplicaId;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use super::Node;
use super::replica::Replica;
use crate::catalog::ClusterMap;

/// How long others may take to lead: it is a matter of two round trips.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

impl Node {
    /// Has other nodes lead the groups that this one leads, and waits a moment until they do.
    pub(super) async fn hand_over(&self) {
        let until = Instant::now() + PATIENCE;
        let map = self.catalog.load_full();
        let mut handed = Vec::new();
        for replica in self.replicas.all().iter().filter(|replica| replica.raft.is_leader()) {
            let Some(heir) = self.heir(replica, &map.map) else { continue };
            if replica.transfer(heir).await.is_ok() {
                handed.push(replica.clone());
            }
        }
        while handed.iter().any(|replica| replica.raft.is_leader() || replica.leader().is_none()) {
            if Instant::now() >= until {
                return tracing::info!("some groups found no other leader in time and will elect one");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The voter on a node that was heard of just now whose log is the longest.
    fn heir(&self, replica: &Replica, map: &ClusterMap) -> Option<ReplicaId> {
        let matched = replica.raft.metrics().borrow_watched().replication.clone()?;
        let voters = map.group(replica.id)?.voters();
        let others = voters.filter(|place| place.node != self.me && self.reports.is_heard(place.node));
        others.max_by_key(|place| matched.get(&place.replica.0).copied().flatten()).map(|place| place.replica)
    }
}
