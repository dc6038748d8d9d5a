//! Where replicas should be, and the next steps from where they are. Pure: the map and the nodes' health in, steps out.
//!
//! Rules, in order of weight:
//! 1. A group never has fewer healthy voters after a step than before: a voter goes only for one that was filled, or when
//!    there are more than wanted.
//! 2. Every group has as many voters as the replication factor says, or as there are nodes; every node hears of the
//!    catalog.
//! 3. Replicas leave nodes that are draining, leaving or dead. A dead node's stay where nobody can take their place: the
//!    node may come back.
//! 4. A group's replicas are in different zones as far as there are zones.
//! 5. Nodes hold equally many replicas, and lead equally many groups, give or take one.
//!
//! Steps are few at a time, one for a group and two for a node, since each may copy a group's whole state.

use std::collections::{BTreeMap, BTreeSet};

use larder_types::ids::{GroupId, NodeId, ReplicaId};

use super::cluster_map::{ChangeKind, ClusterMap, GroupPlacement, NodeState, ReplicaPlace, ReplicaRole};
use super::command::{Place, Wanted};

/// Replicas that are filled on one node at a time.
const MAX_FILLING: usize = 2;

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// It was heard of just now.
    Up,
    /// It was not heard of for so long that nothing more is given to it.
    Suspect,
    /// It was not heard of for so long that its replicas are made anew elsewhere.
    Dead,
}

/// What the leader of a group reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupHealth {
    /// The replica that leads; `None` if no leader was heard of.
    pub leader: Option<ReplicaId>,
    /// The replicas that have nearly all of the log.
    pub caught_up: BTreeSet<ReplicaId>,
}

/// How everything is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Nodes that are not named are suspect.
    pub nodes: BTreeMap<NodeId, Liveness>,
    /// Groups that are not named have no leader.
    pub groups: BTreeMap<GroupId, GroupHealth>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Begin a change.
    Change {
        /// Of this group.
        group: GroupId,
        /// This one.
        wanted: Wanted,
    },
    /// Let another replica lead.
    Transfer {
        /// This group.
        group: GroupId,
        /// This replica.
        to: ReplicaId,
    },
    /// Note that a leaving node has left.
    Removed(NodeId),
}

/// The next steps.
#[must_use]
pub fn plan(map: &ClusterMap, health: &Health) -> Vec<Step> {
    let mut planner = Planner::new(map, health);
    for (id, group) in map.iter_groups() {
        let Some(leader) = planner.leader(id).filter(|_| group.change.is_none()) else { continue };
        let wanted = if id == GroupId::CATALOG { planner.catalog(group) } else { planner.shard(id, group) };
        if let Some(wanted) = wanted {
            planner.change(id, group, leader, wanted);
        }
    }
    if planner.steps.is_empty() && map.groups.iter().all(|group| group.change.is_none()) {
        planner.spread();
    }
    if planner.steps.is_empty() {
        planner.lead();
    }
    let left = map
        .nodes
        .iter()
        .filter(|(id, node)| node.state == NodeState::Leaving && map.replicas_of(**id).next().is_none());
    planner.steps.extend(left.map(|(id, _)| Step::Removed(*id)));
    planner.steps
}

/// What is known while steps are found.
struct Planner<'a> {
    map: &'a ClusterMap,
    health: &'a Health,
    /// Replicas of shards by node, as they will be.
    load: BTreeMap<NodeId, usize>,
    /// Replicas being filled by node.
    filling: BTreeMap<NodeId, usize>,
    steps: Vec<Step>,
}

impl<'a> Planner<'a> {
    fn new(map: &'a ClusterMap, health: &'a Health) -> Self {
        let (mut load, mut filling) = (BTreeMap::new(), BTreeMap::new());
        for (id, group) in map.iter_groups() {
            for place in &group.replicas {
                if id != GroupId::CATALOG && !goes(group, place.replica) {
                    *load.entry(place.node).or_default() += 1;
                }
                if place.role == ReplicaRole::Joining {
                    *filling.entry(place.node).or_default() += 1;
                }
            }
        }
        Self { map, health, load, filling, steps: Vec::new() }
    }

    fn leader(&self, group: GroupId) -> Option<ReplicaId> {
        self.health.groups.get(&group)?.leader
    }

    fn is_caught_up(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.health.groups.get(&group).is_some_and(|health| health.caught_up.contains(&replica))
    }

    fn liveness(&self, node: NodeId) -> Liveness {
        self.health.nodes.get(&node).copied().unwrap_or(Liveness::Suspect)
    }

    fn is_active(&self, node: NodeId) -> bool {
        self.map.nodes.get(&node).is_some_and(|node| node.state == NodeState::Active)
    }

    /// Whether replicas may stay on a node.
    fn keeps(&self, node: NodeId) -> bool {
        self.is_active(node) && self.liveness(node) != Liveness::Dead
    }

    /// Whether a node may be given something.
    fn takes(&self, node: NodeId) -> bool {
        self.is_active(node) && self.liveness(node) == Liveness::Up
    }

    /// Whether a node is to hear of the catalog, and can: also one that drains.
    fn hears(&self, node: NodeId) -> bool {
        let state = self.map.nodes.get(&node).map(|node| node.state);
        matches!(state, Some(NodeState::Active | NodeState::Draining)) && self.liveness(node) == Liveness::Up
    }

    fn zone(&self, node: NodeId) -> &str {
        self.map.nodes.get(&node).map_or("", |node| &node.contact.zone)
    }

    /// Voters of a group that stay in a zone.
    fn in_zone(&self, group: &GroupPlacement, zone: &str, without: Option<ReplicaId>) -> usize {
        let stay = group.voters().filter(|place| Some(place.replica) != without && self.keeps(place.node));
        stay.filter(|place| self.zone(place.node) == zone).count()
    }

    /// How many voters a group should have.
    fn wanted(&self) -> usize {
        let active = self.map.nodes.keys().filter(|node| self.is_active(**node)).count();
        active.min(usize::from(self.map.replication_factor)).max(1)
    }

    /// The best of the nodes that may get a voter of the group for one that goes.
    fn best(
        &self,
        group: &GroupPlacement,
        instead: Option<ReplicaId>,
        nodes: impl Iterator<Item = NodeId>,
    ) -> Option<NodeId> {
        nodes.min_by_key(|node| {
            (self.in_zone(group, self.zone(*node), instead), self.load.get(node).copied().unwrap_or(0), *node)
        })
    }

    /// The voter that should go first: one that was told to, else one of a dead node.
    fn going(&self, group: &GroupPlacement) -> Option<ReplicaPlace> {
        group.voters().filter(|place| !self.keeps(place.node)).min_by_key(|place| self.is_active(place.node)).copied()
    }

    fn shard(&self, id: GroupId, group: &GroupPlacement) -> Option<Wanted> {
        let staying = group.voters().filter(|place| self.keeps(place.node)).count();
        let (wanted, going) = (self.wanted(), self.going(group));
        if staying < wanted {
            let instead = going.map(|place| place.replica);
            let free = self.map.nodes.keys().copied().filter(|node| {
                self.takes(*node)
                    && group.on(*node).is_none()
                    && self.filling.get(node).is_none_or(|n| *n < MAX_FILLING)
            });
            let node = self.best(group, instead, free)?;
            return Some(Wanted::Add { place: Place::Voter(node), instead });
        }
        if let Some(going) = going.filter(|place| !self.is_active(place.node)) {
            return Some(Wanted::Remove { replica: going.replica });
        }
        if group.voters().count() <= wanted {
            return None;
        }
        let excess = group.voters().max_by_key(|place| {
            let crowd = self.in_zone(group, self.zone(place.node), None);
            let is_well = self.keeps(place.node) && self.liveness(place.node) == Liveness::Up;
            // One that does not answer first: those that do must not become fewer.
            (
                !self.keeps(place.node),
                !is_well,
                crowd,
                self.load.get(&place.node),
                self.leader(id) != Some(place.replica),
            )
        })?;
        Some(Wanted::Remove { replica: excess.replica })
    }

    fn catalog(&self, group: &GroupPlacement) -> Option<Wanted> {
        let is_filled = |place: &&ReplicaPlace| place.role == ReplicaRole::Learner && self.takes(place.node);
        let staying = group.voters().filter(|place| self.keeps(place.node)).count();
        if staying < self.wanted() {
            let instead = self.going(group).map(|place| place.replica);
            let learners = group.replicas.iter().filter(is_filled);
            let learners = learners.filter(|place| self.is_caught_up(GroupId::CATALOG, place.replica));
            let node = self.best(group, instead, learners.map(|place| place.node));
            if let Some(place) = node.and_then(|node| group.on(node)) {
                return Some(Wanted::Promote { replica: place.replica, instead });
            }
        }
        let joining = group.replicas.iter().find(|place| place.role == ReplicaRole::Joining && self.hears(place.node));
        if let Some(place) = joining {
            return Some(Wanted::Add { place: Place::Learner(place.node), instead: None });
        }
        let leaving = group.replicas.iter().find(|place| {
            self.map.nodes.get(&place.node).is_some_and(|node| node.state == NodeState::Leaving)
                // The node is told first of what else it gives up.
                && self.map.replicas_of(place.node).count() == 1
                && (place.role != ReplicaRole::Voter || staying >= self.wanted())
        })?;
        Some(Wanted::Remove { replica: leaving.replica })
    }

    /// Takes a change into the plan; if the leader is to go, another one leads first.
    fn change(&mut self, id: GroupId, group: &GroupPlacement, leader: ReplicaId, wanted: Wanted) {
        let gone = match wanted {
            Wanted::Remove { replica } => Some(replica),
            Wanted::Add { instead, .. } | Wanted::Promote { instead, .. } => instead,
        };
        if gone == Some(leader)
            && let Some(to) = self.heir(id, group, leader)
        {
            return self.steps.push(Step::Transfer { group: id, to });
        }
        if let Wanted::Add { place: Place::Voter(node) | Place::Learner(node), .. } = wanted {
            *self.load.entry(node).or_default() += usize::from(id != GroupId::CATALOG);
            *self.filling.entry(node).or_default() += 1;
        }
        self.steps.push(Step::Change { group: id, wanted });
    }

    /// A voter that could lead in another's place.
    fn heir(&self, id: GroupId, group: &GroupPlacement, leader: ReplicaId) -> Option<ReplicaId> {
        let others = group.voters().filter(|place| place.replica != leader && self.takes(place.node));
        others.map(|place| place.replica).find(|replica| self.is_caught_up(id, *replica))
    }

    /// One move for a better spread over zones, or over nodes.
    fn spread(&mut self) {
        if let Some((group, leader)) = self.map.group(GroupId::CATALOG).zip(self.leader(GroupId::CATALOG))
            && let Some(wanted) = self.better_vote(group)
        {
            return self.change(GroupId::CATALOG, group, leader, wanted);
        }
        let by_zone = self.moves().find(|(_, group, from, to)| self.is_better_zone(group, from.node, *to));
        let load = |node: NodeId| self.load.get(&node).copied().unwrap_or(0);
        let by_load = || {
            let even = self.moves().filter(|(_, group, from, to)| {
                let (here, there) = (self.zone(from.node), self.zone(*to));
                load(from.node) > load(*to) + 1
                    && (here == there || self.in_zone(group, there, None) < self.in_zone(group, here, None))
            });
            // The fullest to the emptiest, and rather not a leader.
            even.max_by_key(|(id, _, from, to)| {
                (load(from.node) - load(*to), self.leader(*id) != Some(from.replica), std::cmp::Reverse(*id))
            })
        };
        let Some((id, group, from, to)) = by_zone.or_else(by_load) else { return };
        let Some(leader) = self.leader(id) else { return };
        let wanted = Wanted::Add { place: Place::Voter(to), instead: Some(from.replica) };
        self.change(id, group, leader, wanted);
    }

    /// A vote of the catalog that is better in another zone.
    fn better_vote(&self, group: &GroupPlacement) -> Option<Wanted> {
        let learners = group.replicas.iter().filter(|place| {
            place.role == ReplicaRole::Learner
                && self.takes(place.node)
                && self.is_caught_up(GroupId::CATALOG, place.replica)
        });
        let mut pairs = learners.flat_map(|to| group.voters().map(move |from| (from, to)));
        let (from, to) = pairs.find(|(from, to)| self.is_better_zone(group, from.node, to.node))?;
        Some(Wanted::Promote { replica: to.replica, instead: Some(from.replica) })
    }

    fn is_better_zone(&self, group: &GroupPlacement, from: NodeId, to: NodeId) -> bool {
        let (here, there) = (self.zone(from), self.zone(to));
        here != there && self.in_zone(group, here, None) > self.in_zone(group, there, None) + 1
    }

    /// All moves of a healthy shard's voter to a node that holds none of it.
    fn moves(&self) -> impl Iterator<Item = (GroupId, &'a GroupPlacement, &'a ReplicaPlace, NodeId)> {
        let shards = self.map.iter_groups().skip(1).filter(|(id, _)| self.leader(*id).is_some());
        shards.flat_map(move |(id, group)| {
            let free = self.map.nodes.keys().filter(|node| self.takes(**node) && group.on(**node).is_none());
            free.flat_map(move |to| group.voters().map(move |from| (id, group, from, *to)))
        })
    }

    /// One transfer of a leader: away from a node that gives up its replicas, or to one that leads less.
    fn lead(&mut self) {
        let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
        let leaders: Vec<_> = self
            .map
            .iter_groups()
            .filter_map(|(id, group)| {
                let place = group.place(self.leader(id)?)?;
                // The catalog's leader need not be anywhere; what matters is who serves lookups and batches.
                if id != GroupId::CATALOG {
                    *leads.entry(place.node).or_default() += 1;
                }
                Some((id, group, *place))
            })
            .collect();
        let count = |node: NodeId| leads.get(&node).copied().unwrap_or(0);
        let better =
            leaders.into_iter().filter(|(_, group, _)| group.change.is_none()).filter_map(|(id, group, from)| {
                let heirs = group
                    .voters()
                    .filter(|to| to.node != from.node && self.takes(to.node) && self.is_caught_up(id, to.replica));
                let to = heirs.min_by_key(|to| (count(to.node), to.node))?;
                let must = !self.is_active(from.node);
                let gain = count(from.node).saturating_sub(count(to.node));
                (must || (id != GroupId::CATALOG && gain > 1)).then_some((must, gain, id, to.replica))
            });
        if let Some((_, _, group, to)) = better.max_by_key(|(must, gain, id, _)| (*must, *gain, std::cmp::Reverse(*id)))
        {
            self.steps.push(Step::Transfer { group, to });
        }
    }
}

/// Whether a change under way takes a replica off its node.
fn goes(group: &GroupPlacement, replica: ReplicaId) -> bool {
    match group.change.map(|change| change.kind) {
        Some(ChangeKind::AddVoter { instead, .. }) => instead == Some(replica),
        Some(ChangeKind::Remove { replica: gone }) => gone == replica,
        Some(ChangeKind::AddLearner { .. } | ChangeKind::Promote { .. }) | None => false,
    }
}
