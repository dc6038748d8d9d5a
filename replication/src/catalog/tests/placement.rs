//! The planner, run against the real map until it has nothing more to do: by itself, and while nodes come, fail and go.

use std::collections::{BTreeMap, BTreeSet};

use larder_types::ids::{GroupId, NodeId, ReplicaId};
use proptest::prelude::*;

use super::super::{ClusterMap, GroupHealth, Health, Liveness, NodeState, ReplicaRole, Step, plan};
use super::nodes::{contact, end, form, join, set_state};
use super::*;

/// A cluster whose groups do at once what they are told to.
struct Sim {
    fixture: Fixture,
    leaders: BTreeMap<GroupId, ReplicaId>,
    nodes: BTreeMap<NodeId, Liveness>,
    moves: usize,
}

impl Sim {
    fn new(shards: u16, replication_factor: u8) -> Self {
        let mut fixture = Fixture::empty();
        let CatalogCommand::Bootstrap { mut settings, root } = bootstrap() else { unreachable!() };
        settings.shards = shards;
        fixture.ok(CatalogCommand::Bootstrap { settings, root });
        fixture.ok(form(shards.into(), replication_factor));
        let leaders = (0..=shards).map(|group| (GroupId(group), ReplicaId(u64::from(group) + 1))).collect();
        Self { fixture, leaders, nodes: [(NodeId(1), Liveness::Up)].into(), moves: 0 }
    }

    fn of_zones(zones: &[&str]) -> Self {
        let mut sim = Self::new(16, 3);
        let contact = contact(1, zones[0]);
        sim.fixture.ok(CatalogCommand::UpdateNode { node: NodeId(1), contact });
        (2..).zip(&zones[1..]).for_each(|(node, zone)| sim.join(node, zone));
        sim.settle();
        sim
    }

    fn join(&mut self, node: u32, zone: &str) {
        let CatalogReply::Joined { node, .. } = self.fixture.ok(join(node, zone)) else { unreachable!() };
        self.nodes.insert(node, Liveness::Up);
    }

    fn map(&self) -> Arc<ClusterMap> {
        self.fixture.map()
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.nodes.get(&node) == Some(&Liveness::Up)
    }

    /// Every voter of a healthy group may lead; the leader stays as long as it can.
    fn elect(&mut self) {
        let map = self.map();
        for (id, group) in map.iter_groups() {
            let up: Vec<_> = group.voters().filter(|place| self.is_up(place.node)).map(|place| place.replica).collect();
            if up.len() * 2 <= group.voters().count() {
                self.leaders.remove(&id);
            } else if self.leaders.get(&id).is_none_or(|leader| !up.contains(leader)) {
                self.leaders.insert(id, up[0]);
            }
        }
    }

    fn health(&self) -> Health {
        let map = self.map();
        let groups = map.iter_groups().filter_map(|(id, group)| {
            let up = group.replicas.iter().filter(|place| self.is_up(place.node));
            let caught_up = up.filter(|place| place.role != ReplicaRole::Joining).map(|place| place.replica).collect();
            self.leaders.get(&id).map(|leader| (id, GroupHealth { leader: Some(*leader), caught_up }))
        });
        Health { nodes: self.nodes.clone(), groups: groups.collect() }
    }

    fn step(&mut self) -> bool {
        self.elect();
        let steps = plan(&self.map(), &self.health());
        let mut filling: BTreeMap<NodeId, usize> = BTreeMap::new();
        let groups: BTreeSet<_> = steps.iter().filter_map(group_of).collect();
        assert_eq!(groups.len(), steps.iter().filter_map(group_of).count(), "one step for a group: {steps:?}");
        for step in &steps {
            match *step {
                Step::Change { group, wanted } => {
                    let before = self.healthy(group);
                    let reply = self.fixture.ok(CatalogCommand::StartChange { group, wanted });
                    let CatalogReply::Changing { change } = reply else { unreachable!() };
                    for place in &self.map().groups[usize::from(group.0)].replicas {
                        let is_new = place.role == ReplicaRole::Joining && group != GroupId::CATALOG;
                        *filling.entry(place.node).or_default() += usize::from(is_new);
                        self.moves += usize::from(is_new);
                    }
                    self.fixture.ok(end(group.0, change, true));
                    let enough = self.healthy(group) >= before.min(3.min(self.active()));
                    assert!(enough, "{step:?} has left fewer healthy voters");
                }
                Step::Transfer { group, to } => {
                    let map = self.map();
                    let place = map.groups[usize::from(group.0)].place(to).unwrap();
                    assert!(place.role == ReplicaRole::Voter && self.is_up(place.node), "{step:?}");
                    self.leaders.insert(group, to);
                }
                Step::Removed(node) => {
                    self.fixture.ok(set_state(node.0, NodeState::Removed));
                }
            }
        }
        assert!(filling.values().all(|count| *count <= 2), "too much at once: {filling:?}");
        !steps.is_empty()
    }

    fn settle(&mut self) {
        for _ in 0..2000 {
            if !self.step() {
                return;
            }
        }
        panic!("the planner never comes to rest: {:?}", plan(&self.map(), &self.health()));
    }

    fn active(&self) -> usize {
        self.map().nodes.values().filter(|node| node.state == NodeState::Active).count()
    }

    fn healthy(&self, group: GroupId) -> usize {
        self.map().groups[usize::from(group.0)].voters().filter(|place| self.is_up(place.node)).count()
    }

    /// Replicas of shards by node.
    fn load(&self) -> BTreeMap<u32, usize> {
        let map = self.map();
        let nodes = map
            .nodes
            .keys()
            .map(|node| (node.0, map.replicas_of(*node).filter(|(group, _)| *group != GroupId::CATALOG).count()));
        nodes.filter(|(_, count)| *count > 0).collect()
    }

    fn leads(&self) -> BTreeMap<u32, usize> {
        let (map, mut leads) = (self.map(), BTreeMap::new());
        for (group, leader) in self.leaders.iter().filter(|(group, _)| **group != GroupId::CATALOG) {
            let place = map.groups[usize::from(group.0)].place(*leader).unwrap();
            *leads.entry(place.node.0).or_default() += 1;
        }
        leads
    }

    fn spread(counts: &BTreeMap<u32, usize>) -> usize {
        counts.values().max().unwrap_or(&0) - counts.values().min().unwrap_or(&0)
    }
}

fn group_of(step: &Step) -> Option<GroupId> {
    match step {
        Step::Change { group, .. } | Step::Transfer { group, .. } => Some(*group),
        Step::Removed(_) => None,
    }
}

#[test]
fn one_node_has_nothing_to_do() {
    let mut sim = Sim::new(16, 3);
    assert!(!sim.step());
}

#[test]
fn three_nodes_hold_everything_and_lead_a_third_each() {
    let sim = Sim::of_zones(&["", "", ""]);
    assert_eq!(sim.load(), [(1, 16), (2, 16), (3, 16)].into());
    assert!(Sim::spread(&sim.leads()) <= 1, "{:?}", sim.leads());
    assert_eq!(sim.map().groups[0].voters().count(), 3);
    assert_eq!(sim.moves, 32, "nothing was moved twice");
}

#[test]
fn a_fourth_node_takes_its_share_and_no_more_is_moved() {
    let mut sim = Sim::of_zones(&["", "", ""]);
    sim.moves = 0;
    sim.join(4, "");
    sim.settle();
    assert_eq!(sim.load(), [(1, 12), (2, 12), (3, 12), (4, 12)].into());
    assert_eq!(sim.moves, 12);
    assert!(Sim::spread(&sim.leads()) <= 1, "{:?}", sim.leads());
    let learners = sim.map().groups[0].replicas.iter().filter(|place| place.role == ReplicaRole::Learner).count();
    assert_eq!(learners, 1, "the fourth hears of the catalog and has no vote");
}

#[test]
fn replicas_of_a_group_are_in_different_zones() {
    let sim = Sim::of_zones(&["a", "a", "b", "b", "c", "c"]);
    let map = sim.map();
    for group in &map.groups {
        let zones: BTreeSet<_> = group.voters().map(|place| &map.nodes[&place.node].contact.zone).collect();
        assert_eq!(zones.len(), 3, "{group:?}");
    }
    assert_eq!(sim.load().values().sum::<usize>(), 48);
    assert!(Sim::spread(&sim.load()) <= 1, "{:?}", sim.load());
}

#[test]
fn a_zone_that_comes_late_is_used() {
    let mut sim = Sim::of_zones(&["a", "a", "a"]);
    sim.join(4, "b");
    sim.settle();
    let map = sim.map();
    for (id, group) in map.iter_groups().skip(1) {
        let zones: BTreeSet<_> = group.voters().map(|place| &map.nodes[&place.node].contact.zone).collect();
        assert_eq!(zones.len(), 2, "{id}: {group:?}");
    }
}

#[test]
fn a_dead_node_is_replaced_and_one_that_is_only_away_is_not() {
    let mut sim = Sim::of_zones(&["", "", "", ""]);
    sim.nodes.insert(NodeId(2), Liveness::Suspect);
    sim.moves = 0;
    sim.settle();
    assert_eq!(sim.moves, 0, "it may come back");
    sim.nodes.insert(NodeId(2), Liveness::Dead);
    sim.settle();
    assert_eq!(sim.load(), [(1, 16), (3, 16), (4, 16)].into());
    assert_eq!(sim.map().groups[0].voters().filter(|place| place.node == NodeId(2)).count(), 0);
    assert!(sim.map().groups[0].on(NodeId(2)).is_some(), "it hears of the catalog when it comes back");
    sim.nodes.insert(NodeId(2), Liveness::Up);
    sim.settle();
    assert_eq!(sim.load(), [(1, 12), (2, 12), (3, 12), (4, 12)].into());
}

#[test]
fn a_dead_node_that_nobody_can_replace_keeps_its_replicas() {
    let mut sim = Sim::of_zones(&["", "", ""]);
    sim.nodes.insert(NodeId(3), Liveness::Dead);
    sim.settle();
    assert_eq!(sim.load(), [(1, 16), (2, 16), (3, 16)].into());
}

#[test]
fn a_node_that_drains_before_it_has_heard_of_the_catalog_still_does() {
    let mut sim = Sim::of_zones(&["", "", ""]);
    sim.join(4, "");
    sim.fixture.ok(set_state(4, NodeState::Draining));
    sim.settle();
    let place = sim.map().groups[0].on(NodeId(4)).map(|place| place.role);
    assert_eq!(place, Some(ReplicaRole::Learner));
}

#[test]
fn a_drained_node_leads_and_holds_nothing_but_the_catalog() {
    let mut sim = Sim::of_zones(&["", "", "", ""]);
    sim.fixture.ok(set_state(1, NodeState::Draining));
    sim.settle();
    assert_eq!(sim.load(), [(2, 16), (3, 16), (4, 16)].into());
    let map = sim.map();
    assert_eq!(map.groups[0].on(NodeId(1)).unwrap().role, ReplicaRole::Learner);
    sim.fixture.ok(set_state(1, NodeState::Active));
    sim.settle();
    assert_eq!(sim.load(), [(1, 12), (2, 12), (3, 12), (4, 12)].into());
}

#[test]
fn a_node_can_leave_three_as_well_as_four_alive_or_dead() {
    for (zones, dead) in [(&["", "", ""][..], false), (&["", "", "", ""], false), (&["", "", "", ""], true)] {
        let mut sim = Sim::of_zones(zones);
        if dead {
            sim.nodes.insert(NodeId(1), Liveness::Suspect);
        }
        sim.fixture.ok(set_state(1, NodeState::Leaving));
        sim.settle();
        assert_eq!(sim.map().nodes[&NodeId(1)].state, NodeState::Removed, "{zones:?} {dead}");
        assert!(sim.map().replicas_of(NodeId(1)).next().is_none());
        let wanted = 3.min(zones.len() - 1);
        assert!(sim.map().groups.iter().all(|group| group.voters().count() == wanted));
    }
}

#[test]
fn groups_without_a_leader_are_left_alone() {
    let mut sim = Sim::of_zones(&["", "", "", ""]);
    sim.nodes.insert(NodeId(1), Liveness::Dead);
    sim.nodes.insert(NodeId(2), Liveness::Dead);
    sim.elect();
    let without: Vec<_> =
        sim.map().iter_groups().map(|(id, _)| id).filter(|id| !sim.leaders.contains_key(id)).collect();
    assert!(!without.is_empty());
    let steps = plan(&sim.map(), &sim.health());
    assert!(steps.iter().filter_map(group_of).all(|group| !without.contains(&group)), "{steps:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_to_nodes_the_map_comes_to_rest_with_what_is_wanted(
        zones in proptest::collection::vec(0..3u8, 0..6),
        events in proptest::collection::vec((0..4u8, 1..8u32), 0..12),
        factor in prop_oneof![Just(1u8), Just(3), Just(5)],
    ) {
        let mut sim = Sim::new(8, factor);
        let zone = |number: u8| ["a", "b", "c"][usize::from(number)];
        (2..).zip(&zones).for_each(|(node, number)| sim.join(node, zone(*number)));
        // Numbers of directories, none of which comes back.
        let mut directories = 100..;
        for (event, node) in events {
            let id = NodeId(node);
            let known = sim.map().nodes.get(&id).map(|node| node.state);
            match (event, known) {
                (0, None) => sim.join(directories.next().unwrap(), zone(u8::try_from(node % 3).unwrap())),
                (1, Some(NodeState::Active)) => { sim.nodes.insert(id, Liveness::Dead); }
                (2, Some(_)) => { sim.nodes.insert(id, Liveness::Up); }
                (3, Some(NodeState::Active)) => { let _ = sim.fixture.apply(&set_state(node, NodeState::Leaving)); }
                _ => {}
            }
            sim.settle();
        }
        sim.nodes.values_mut().for_each(|liveness| *liveness = Liveness::Up);
        sim.settle();
        let wanted = sim.active().min(usize::from(factor));
        for (id, group) in sim.map().iter_groups() {
            prop_assert_eq!(group.voters().count(), wanted, "group {}", id);
            prop_assert!(group.voters().all(|place| sim.map().nodes[&place.node].state == NodeState::Active));
        }
        prop_assert!(sim.map().nodes.values().all(|node| node.state != NodeState::Leaving));
        let restored = CatalogState::restore(&sim.fixture.state.snapshot()).unwrap();
        prop_assert_eq!(restored.catalog().map.clone(), sim.map());
    }
}
