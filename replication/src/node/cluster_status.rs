//! The whole cluster as this node knows it: the catalog's map, which says where replicas are, and the reports, which say
//! how they are. And what operators order beyond commands of the catalog.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_types::cluster::{ClusterStatus, GroupInfo, Health, NodeInfo, ReplicaInfo};
use larder_types::error::ErrorCode;
use larder_types::ids::{GroupId, NodeId, ReplicaId, ShardId};

use super::report::{Report, Reports};
use super::{Node, ProposeError, reconciler};
use crate::catalog::{
    CatalogError, ChangeKind, ClusterMap, GroupPlacement, Liveness, NodeState, Place, ReplicaPlace, ReplicaRole, Step,
    Wanted, plan,
};

/// Whether this node answers for what is placed on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// It has heard of the cluster, and that it belongs to it.
    pub knows_cluster: bool,
    /// Shards of which it holds a replica with a vote that does not serve lookups.
    pub waiting: Vec<ShardId>,
}

impl Node {
    /// Whether this node answers for what is placed on it. A replica that is still being filled is not waited for.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let map = &self.catalog.load().map;
        let catalog = self.replicas.get(GroupId::CATALOG);
        let knows_cluster = map.nodes.contains_key(&self.me) && catalog.is_some_and(|catalog| catalog.age().is_some());
        let readers = self.replicas.readers().load();
        let placed = map.replicas_of(self.me).filter(|(_, place)| place.role == ReplicaRole::Voter);
        let shards = placed.filter_map(|(group, _)| group.0.checked_sub(1).map(ShardId));
        let waiting = shards.filter(|shard| !readers.get(*shard).is_some_and(|served| served.serves())).collect();
        Readiness { knows_cluster, waiting }
    }

    /// The cluster as this node knows it. Looks at the reports of every node for a moment.
    #[must_use]
    pub fn cluster(&self) -> ClusterStatus {
        let map = &self.catalog.load().map;
        let view = View::new(map, &self.reports);
        let placement: Vec<_> = map.iter_groups().map(|(id, group)| view.group(id, group)).collect();
        let there = map.nodes.iter().filter(|(_, node)| node.state != NodeState::Removed);
        ClusterStatus {
            cluster: self.settings.id.clone(),
            node: self.me,
            replication_factor: map.replication_factor,
            health: placement.iter().map(|group| group.health).max().unwrap_or(Health::Unavailable),
            nodes: there.map(|(id, _)| view.node(*id, &placement)).collect(),
            placement,
            moves: view.moves(),
        }
    }

    /// Has the replica of a shard on a node lead it. Returns when the one that led has been told: it lets the other one
    /// catch up and campaign.
    ///
    /// # Errors
    /// `Refused` when the node has no replica that could lead, `Unavailable` when the leader could not be told.
    pub async fn transfer_leader(&self, shard: ShardId, to: NodeId) -> Result<(), ProposeError> {
        let refuse = |why| Err(CatalogError::new(ErrorCode::Conflict, why).into());
        let group = GroupId::from(shard);
        let map = Arc::clone(&self.catalog.load().map);
        let Some(place) = map.group(group).and_then(|group| group.on(to)) else {
            return refuse(format!("node {to} holds no replica of shard {shard}"));
        };
        if place.role != ReplicaRole::Voter {
            return refuse(format!("the replica of shard {shard} on node {to} is still being filled"));
        }
        if !self.reports.is_heard(to) {
            return refuse(format!("node {to} is not up"));
        }
        if self.reports.leader(group).is_some_and(|(_, node)| node == to) {
            return Ok(());
        }
        let told = reconciler::transfer(&self.proposer, &*self.courier, group, place.replica).await;
        told.map_err(|why| {
            tracing::warn!(%shard, %to, why, "a leader could not be told to let another one lead");
            ProposeError::Unavailable
        })
    }
}

/// The map with the newest reports of all nodes.
struct View<'a> {
    map: &'a ClusterMap,
    reports: &'a Reports,
    newest: BTreeMap<NodeId, Report>,
}

impl<'a> View<'a> {
    fn new(map: &'a ClusterMap, reports: &'a Reports) -> Self {
        let newest = map.nodes.keys().filter_map(|node| Some((*node, reports.get(*node)?.1))).collect();
        Self { map, reports, newest }
    }

    fn node(&self, id: NodeId, placement: &[GroupInfo]) -> NodeInfo {
        let node = &self.map.nodes[&id];
        let shards = || placement.iter().filter(|group| group.shard.is_some());
        NodeInfo {
            node: id,
            state: state(node.state).to_owned(),
            liveness: liveness(self.reports.liveness(id)).to_owned(),
            silent_millis: self
                .reports
                .get(id)
                .map(|(silence, _)| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
            zone: node.contact.zone.clone(),
            address: node.contact.address.clone(),
            advertise: node.contact.advertise.clone(),
            replicas: shards().filter(|group| group.replicas.iter().any(|replica| replica.node == id)).count(),
            leads: shards().filter(|group| group.leader == Some(id)).count(),
            bytes: self.newest.get(&id).map_or(0, |report| report.bytes),
        }
    }

    fn group(&self, id: GroupId, group: &GroupPlacement) -> GroupInfo {
        let leader = self.reports.leader(id);
        let last = leader.and_then(|(_, node)| self.newest.get(&node)?.of(id)?.last);
        let replicas = group.replicas.iter().map(|place| self.replica(id, place, leader, last)).collect();
        let shard = id.0.checked_sub(1);
        GroupInfo {
            group: id,
            shard,
            health: self.health(group, leader),
            leader: leader.map(|(_, node)| node),
            last,
            replicas,
        }
    }

    fn replica(
        &self,
        id: GroupId,
        place: &ReplicaPlace,
        leader: Option<(ReplicaId, NodeId)>,
        last: Option<u64>,
    ) -> ReplicaInfo {
        let is_up = self.reports.liveness(place.node) == Liveness::Up;
        let report = self.newest.get(&place.node).and_then(|report| report.of(id));
        let report = report.filter(|report| report.replica == place.replica);
        let applied = report.and_then(|report| report.applied);
        ReplicaInfo {
            replica: place.replica,
            node: place.node,
            role: role(place.role).to_owned(),
            leads: leader.is_some_and(|(replica, _)| replica == place.replica),
            serves: is_up && report.is_some_and(|report| report.serves),
            applied,
            lag: last.map(|last| last.saturating_sub(applied.unwrap_or(0))),
            age_millis: report.and_then(|report| report.age_millis),
            bytes: report.map_or(0, |report| report.bytes),
        }
    }

    fn health(&self, group: &GroupPlacement, leader: Option<(ReplicaId, NodeId)>) -> Health {
        let active = self.map.nodes.values().filter(|node| node.state == NodeState::Active).count();
        let wanted = active.min(usize::from(self.map.replication_factor)).max(1);
        let up = group.voters().filter(|place| self.reports.liveness(place.node) == Liveness::Up).count();
        match leader {
            None => Health::Unavailable,
            Some(_) if up < wanted || up < group.voters().count() => Health::Degraded,
            Some(_) => Health::Ok,
        }
    }

    /// What is under way, then what the planner would have begun next.
    fn moves(&self) -> Vec<String> {
        let under_way = self.map.iter_groups().filter_map(|(id, group)| {
            let change = group.change?;
            Some(format!("{}: {}{}", name(id), self.change(group, change.kind), self.lacking(id, change.kind)))
        });
        let next = plan(self.map, &self.reports.health(self.map));
        under_way.chain(next.into_iter().map(|step| self.step(step))).collect()
    }

    fn change(&self, group: &GroupPlacement, kind: ChangeKind) -> String {
        let on =
            |replica| group.place(replica).map_or_else(|| "nowhere".to_owned(), |place| format!("node {}", place.node));
        match kind {
            ChangeKind::AddVoter { replica, instead: Some(instead) } => {
                format!("moves from {} to {}", on(instead), on(replica))
            }
            ChangeKind::AddVoter { replica, instead: None } => format!("gets a replica on {}", on(replica)),
            ChangeKind::AddLearner { replica } => format!("gets a replica without a vote on {}", on(replica)),
            ChangeKind::Promote { replica, instead: Some(instead) } => {
                format!("the vote of {} goes to {}", on(instead), on(replica))
            }
            ChangeKind::Promote { replica, instead: None } => format!("{} gets a vote", on(replica)),
            ChangeKind::Remove { replica } => format!("leaves {}", on(replica)),
        }
    }

    /// What a replica that is being filled still lacks.
    fn lacking(&self, id: GroupId, kind: ChangeKind) -> String {
        let (ChangeKind::AddVoter { replica, .. } | ChangeKind::AddLearner { replica }) = kind else {
            return String::new();
        };
        let leader = self.reports.leader(id).and_then(|(_, node)| self.newest.get(&node)?.of(id));
        let matched = leader.and_then(|leader| leader.leads.as_ref()?.matched.get(&replica).copied());
        match leader.zip(matched) {
            Some((leader, matched)) => {
                let lacking = leader.last.unwrap_or(0).saturating_sub(matched.unwrap_or(0));
                format!(", {lacking} entries to go")
            }
            None => ", not begun".to_owned(),
        }
    }

    fn step(&self, step: Step) -> String {
        let on =
            |group, replica| self.map.group(group).and_then(|group| group.place(replica)).map_or(NodeId(0), |p| p.node);
        match step {
            Step::Change { group, wanted } => {
                let what = match wanted {
                    Wanted::Add { place: Place::Voter(to), instead: Some(instead) } => {
                        format!("will move from node {} to node {to}", on(group, instead))
                    }
                    Wanted::Add { place: Place::Voter(to) | Place::Learner(to), .. } => {
                        format!("will get a replica on node {to}")
                    }
                    Wanted::Promote { replica, .. } => format!("node {} will get a vote", on(group, replica)),
                    Wanted::Remove { replica } => format!("will leave node {}", on(group, replica)),
                };
                format!("{}: {what}", name(group))
            }
            Step::Transfer { group, to } => format!("{}: node {} will lead", name(group), on(group, to)),
            Step::Removed(node) => format!("node {node} holds nothing more and will be removed"),
        }
    }
}

fn name(group: GroupId) -> String {
    group.0.checked_sub(1).map_or_else(|| "the catalog".to_owned(), |shard| format!("shard {shard}"))
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Active => "active",
        NodeState::Draining => "draining",
        NodeState::Leaving => "leaving",
        NodeState::Removed => "removed",
    }
}

fn liveness(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Up => "up",
        Liveness::Suspect => "suspect",
        Liveness::Dead => "dead",
    }
}

fn role(role: ReplicaRole) -> &'static str {
    match role {
        ReplicaRole::Joining => "joining",
        ReplicaRole::Learner => "learner",
        ReplicaRole::Voter => "voter",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::report::{LeaderReport, ReplicaReport};
    use super::*;
    use crate::catalog::{Change, Contact, NodeInfo as Known};

    fn place(replica: u64, node: u32, role: ReplicaRole) -> ReplicaPlace {
        ReplicaPlace { replica: ReplicaId(replica), node: NodeId(node), role }
    }

    fn map() -> ClusterMap {
        let contact = |node: u32| Contact {
            incarnation: format!("{node:032x}"),
            address: format!("n{node}:7600"),
            advertise: format!("http://n{node}"),
            zone: String::new(),
        };
        let node = |node| (NodeId(node), Known { contact: contact(node), state: NodeState::Active, joined_at: 0 });
        let kind = ChangeKind::AddVoter { replica: ReplicaId(4), instead: None };
        let voter = ReplicaRole::Voter;
        let group = |replicas, change| GroupPlacement { replicas, change };
        ClusterMap {
            replication_factor: 3,
            nodes: [node(1), node(2)].into(),
            groups: vec![
                group(vec![place(1, 1, voter), place(3, 2, voter)], None),
                group(vec![place(2, 1, voter), place(4, 2, ReplicaRole::Joining)], Some(Change { id: 1, kind })),
            ],
            ..ClusterMap::default()
        }
    }

    fn reported(group: u16, replica: u64, applied: u64, leads: bool) -> ReplicaReport {
        let matched = [(ReplicaId(4), Some(40))].into();
        let leads = leads.then(|| LeaderReport { matched, voters: vec![ReplicaId(replica)] });
        ReplicaReport {
            group: GroupId(group),
            replica: ReplicaId(replica),
            term: 1,
            role: "leader".into(),
            last: Some(100),
            applied: Some(applied),
            serves: true,
            age_millis: Some(5),
            bytes: 7,
            leads,
        }
    }

    #[test]
    fn a_group_is_shown_with_what_its_nodes_report() {
        let (map, reports) = (map(), Reports::new(NodeId(1), Duration::from_secs(900)));
        let groups = vec![reported(0, 1, 100, true), reported(1, 2, 100, true)];
        reports.note(NodeId(1), Report { boot: 1, groups, bytes: 14 });
        reports.note(NodeId(2), Report { boot: 1, groups: vec![reported(1, 4, 40, false)], bytes: 7 });
        let view = View::new(&map, &reports);
        let shard = view.group(GroupId(1), &map.groups[1]);
        assert_eq!((shard.shard, shard.leader, shard.last), (Some(0), Some(NodeId(1)), Some(100)));
        // Two nodes are to hold it, and one has no vote yet.
        assert_eq!(shard.health, Health::Degraded);
        let lags: Vec<_> = shard.replicas.iter().map(|replica| (replica.leads, replica.lag)).collect();
        assert_eq!(lags, [(true, Some(0)), (false, Some(60))]);
        assert_eq!(view.group(GroupId(0), &map.groups[0]).health, Health::Ok);
        let node = view.node(NodeId(1), &[shard]);
        assert_eq!((node.replicas, node.leads, node.bytes, node.liveness.as_str()), (1, 1, 14, "up"));
        assert_eq!(view.moves(), ["shard 0: gets a replica on node 2, 60 entries to go"]);
    }

    #[test]
    fn a_group_without_a_leader_is_unavailable() {
        let (map, reports) = (map(), Reports::new(NodeId(1), Duration::from_secs(900)));
        let group = View::new(&map, &reports).group(GroupId(0), &map.groups[0]);
        assert_eq!((group.health, group.leader), (Health::Unavailable, None));
        assert!(group.replicas.iter().all(|replica| !replica.serves && replica.lag.is_none()));
    }
}
