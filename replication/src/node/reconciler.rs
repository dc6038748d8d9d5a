//! Brings the cluster to where the planner wants it, a step at a time. Runs on every node and works on the one that leads
//! the catalog.
//!
//! Invariant: what is begun is on the map before it is done, and every step looks first. So it does not matter where the
//! reconciler dies, nor that two of them work for a moment: the next one goes on from the map and from what groups say of
//! themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::change::{self, Progress, Wish};
use super::kind::Kind;
use super::proposer::Proposer;
use super::report::Reports;
use super::router::Leader;
use super::service::Heir;
use crate::catalog::{
    Catalog, CatalogCommand, Change, ChangeKind, ClusterMap, Liveness, NodeState, Step, encode_command, plan,
};
use crate::peers::{Body, Lane};
use crate::raft::network::Courier;

/// How often it works.
const PERIOD: Duration = Duration::from_millis(250);

/// How long a node may take for a step of a change.
const DEADLINE: Duration = Duration::from_secs(8);

/// A change that has not come nearer to its end for so long is given up, unless a snapshot may still be on its way.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long nothing is done after this node has come to lead the catalog: it has yet to hear from the others.
const SETTLE: Duration = Duration::from_secs(2);

/// After a transfer a group is left alone for so long.
const AFTER_TRANSFER: Duration = Duration::from_secs(5);

/// Works on the cluster.
pub(crate) struct Reconciler {
    proposer: Arc<Proposer>,
    reports: Arc<Reports>,
    catalog: Arc<ArcSwap<Catalog>>,
    courier: Arc<dyn Courier>,
    /// How changes under way have fared.
    watched: HashMap<u64, Watched>,
    /// When the leader of a group was last transferred.
    transferred: HashMap<GroupId, Instant>,
}

/// A change, as far as it was followed.
struct Watched {
    /// The fewest entries that its replica has lacked; `None` before it has any, as while it gets a snapshot.
    lacking: Option<u64>,
    /// Since when there were no fewer.
    since: Instant,
}

impl Watched {
    fn new() -> Self {
        Self { lacking: None, since: Instant::now() }
    }

    /// Notes how many entries are lacking now. That others are lacking than before is no progress while there are writes.
    fn note(&mut self, lacking: Option<u64>) {
        if lacking.is_some_and(|now| self.lacking.is_none_or(|fewest| now < fewest)) {
            *self = Self { lacking, since: Instant::now() };
        }
    }

    /// Whether nothing more is to be expected of a change of a replica on a node that is so.
    fn is_stuck(&self, node: Liveness, patience: Duration) -> bool {
        self.since.elapsed() >= patience && (self.lacking.is_some() || node != Liveness::Up)
    }
}

impl Reconciler {
    /// Nothing is under way yet.
    pub(crate) fn new(
        proposer: Arc<Proposer>,
        reports: Arc<Reports>,
        catalog: Arc<ArcSwap<Catalog>>,
        courier: Arc<dyn Courier>,
    ) -> Self {
        Self { proposer, reports, catalog, courier, watched: HashMap::new(), transferred: HashMap::new() }
    }

    /// Goes on until the node stops.
    pub(crate) async fn run(mut self) {
        let mut in_charge: Option<Instant> = None;
        loop {
            tokio::time::sleep(PERIOD).await;
            match self.proposer.router().leader(GroupId::CATALOG) {
                Some(Leader::Here(_)) => {
                    let since = *in_charge.get_or_insert_with(Instant::now);
                    if since.elapsed() >= SETTLE {
                        self.round().await;
                    }
                }
                _ => {
                    in_charge = None;
                    self.watched.clear();
                }
            }
        }
    }

    async fn round(&mut self) {
        let map = Arc::clone(&self.catalog.load().map);
        if map.nodes.len() < 2 {
            return;
        }
        self.go_on(&map).await;
        let health = self.reports.health(&map);
        for step in plan(&map, &health) {
            self.take(step).await;
        }
    }

    /// Takes the next step of every change under way.
    async fn go_on(&mut self, map: &ClusterMap) {
        let mut steps = JoinSet::new();
        for (group, placement) in map.iter_groups() {
            let Some(change) = placement.change else { continue };
            let replica = change.kind.replica();
            let Some(node) = placement.place(replica).map(|place| place.node) else { continue };
            let give_up = self.is_hopeless(map, change, node);
            let wish = Wish { group, kind: change.kind, node, give_up };
            let (proposer, courier) = (Arc::clone(&self.proposer), Arc::clone(&self.courier));
            steps.spawn(async move { (group, change, step(&proposer, &*courier, wish).await) });
        }
        let mut under_way = Vec::new();
        while let Some(stepped) = steps.join_next().await {
            let Ok((group, change, progress)) = stepped else { continue };
            under_way.push(change.id);
            match progress {
                Progress::Done => self.end(group, change.id, true).await,
                Progress::Undone => self.end(group, change.id, false).await,
                progress => self.note(group, change.id, &progress),
            }
        }
        self.watched.retain(|id, _| under_way.contains(id));
    }

    /// Whether nothing more is to be expected of a change: its replica is on a dead node, is not wanted there any more, or
    /// gets no nearer.
    fn is_hopeless(&self, map: &ClusterMap, change: Change, node: NodeId) -> bool {
        let liveness = self.reports.liveness(node);
        let is_active = map.nodes.get(&node).is_some_and(|node| node.state == NodeState::Active);
        let is_wanted = is_active || !matches!(change.kind, ChangeKind::AddVoter { .. });
        let is_stuck = self.watched.get(&change.id).is_some_and(|watched| watched.is_stuck(liveness, PATIENCE));
        is_stuck || liveness == Liveness::Dead || !is_wanted
    }

    fn note(&mut self, group: GroupId, change: u64, progress: &Progress) {
        if let Progress::Failed(why) = progress {
            tracing::debug!(%group, change, why, "a change of a group's replicas waits");
        }
        let lacking = match progress {
            Progress::Working { lacking } => *lacking,
            _ => None,
        };
        self.watched.entry(change).or_insert_with(Watched::new).note(lacking);
    }

    async fn end(&mut self, group: GroupId, change: u64, done: bool) {
        self.watched.remove(&change);
        tracing::info!(%group, change, done, "a change of a group's replicas has ended");
        self.propose(CatalogCommand::EndChange { group, change, done }).await;
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Change { group, wanted } => {
                tracing::info!(%group, ?wanted, "a group's replicas are to change");
                self.propose(CatalogCommand::StartChange { group, wanted }).await;
            }
            Step::Transfer { group, to } => {
                let recent = self.transferred.get(&group).is_some_and(|at| at.elapsed() < AFTER_TRANSFER);
                if !recent {
                    self.transferred.insert(group, Instant::now());
                    tracing::info!(%group, %to, "another replica is to lead a group");
                    if let Err(why) = transfer(&self.proposer, &*self.courier, group, to).await {
                        tracing::warn!(%group, %to, why, "a leader was not transferred");
                    }
                }
            }
            Step::Removed(node) => {
                tracing::info!(%node, "a node has left the cluster");
                self.propose(CatalogCommand::SetNodeState { node, state: NodeState::Removed }).await;
            }
        }
    }

    /// What is refused or lost is planned anew in the next round.
    async fn propose(&self, command: CatalogCommand) {
        if let Err(error) = self.proposer.propose(GroupId::CATALOG, vec![encode_command(&command)]).await {
            tracing::debug!(%error, "a step of the reconciler was not taken");
        }
    }
}

/// Has the next step of a change taken by the group's leader.
async fn step(proposer: &Proposer, courier: &dyn Courier, wish: Wish) -> Progress {
    match proposer.router().leader(wish.group) {
        Some(Leader::Here(replica)) => change::step(&replica, &wish).await,
        Some(Leader::There(node)) => ask(courier, node, Kind::Change, &wish).await.unwrap_or_else(Progress::Failed),
        None => Progress::Failed("the group has no leader".to_owned()),
    }
}

/// Has another replica lead a group.
///
/// # Errors
/// Why the leader was not told.
pub(crate) async fn transfer(
    proposer: &Proposer,
    courier: &dyn Courier,
    group: GroupId,
    to: ReplicaId,
) -> Result<(), String> {
    match proposer.router().leader(group) {
        Some(Leader::Here(replica)) => replica.transfer(to).await,
        Some(Leader::There(node)) => {
            let body = serde_json::to_vec(&Heir { group, to }).map_err(|error| error.to_string())?;
            let told =
                courier.call(node, Lane::Data, Kind::Transfer as u8, Body::from(Bytes::from(body)), DEADLINE).await;
            told.map(drop).map_err(|error| error.to_string())
        }
        None => Err("the group has no leader now".to_owned()),
    }
}

async fn ask<T: DeserializeOwned>(
    courier: &dyn Courier,
    node: NodeId,
    kind: Kind,
    message: &impl Serialize,
) -> Result<T, String> {
    let body: Bytes = serde_json::to_vec(message).map_err(|error| error.to_string())?.into();
    let answer = courier.call(node, Lane::Data, kind as u8, Body::from(vec![body]), DEADLINE).await;
    let bytes = answer.map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_lacks_other_entries_but_not_fewer_is_stuck() {
        let mut watched = Watched::new();
        watched.note(Some(500));
        let since = watched.since;
        for lacking in [Some(600), None, Some(500), Some(700)] {
            watched.note(lacking);
            assert_eq!((watched.lacking, watched.since), (Some(500), since));
        }
        assert!(watched.is_stuck(Liveness::Up, Duration::ZERO));
        assert!(!watched.is_stuck(Liveness::Up, Duration::from_secs(60)));
        watched.note(Some(499));
        assert_eq!(watched.lacking, Some(499));
    }

    #[test]
    fn a_snapshot_may_take_as_long_as_it_takes_while_its_node_is_up() {
        let watched = Watched::new();
        assert!(!watched.is_stuck(Liveness::Up, Duration::ZERO));
        assert!(watched.is_stuck(Liveness::Suspect, Duration::ZERO));
    }
}
