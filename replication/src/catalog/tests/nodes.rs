//! Nodes that come and go, and changes of groups' replicas.

use larder_types::ids::{GroupId, NodeId, ReplicaId};

use super::super::{
    ChangeKind, ClusterMap, Contact, MAX_REPLICATION_FACTOR, NodeState, Place, ReplicaPlace, ReplicaRole, Wanted,
};
use super::*;

/// What node `number` tells of itself.
pub(super) fn contact(number: u32, zone: &str) -> Contact {
    Contact {
        incarnation: format!("{number:032x}"),
        address: format!("10.0.0.{number}:7600"),
        advertise: format!("http://10.0.0.{number}:8080"),
        zone: zone.into(),
    }
}

/// The map of a cluster of 16 shards.
pub(super) fn form_cluster() -> CatalogCommand {
    form(16, 3)
}

pub(super) fn form(shards: u64, replication_factor: u8) -> CatalogCommand {
    let replicas = (1..=shards + 1).map(ReplicaId).collect();
    CatalogCommand::FormCluster { replication_factor, contact: contact(1, ""), replicas, at: NEW_YEAR }
}

pub(super) fn join(number: u32, zone: &str) -> CatalogCommand {
    CatalogCommand::JoinNode { contact: contact(number, zone), at: NEW_YEAR }
}

fn joined(node: u32, replica: u64) -> CatalogReply {
    CatalogReply::Joined { node: NodeId(node), replica: ReplicaId(replica), replication_factor: 3 }
}

pub(super) fn set_state(node: u32, state: NodeState) -> CatalogCommand {
    CatalogCommand::SetNodeState { node: NodeId(node), state }
}

pub(super) fn start(group: u16, wanted: Wanted) -> CatalogCommand {
    CatalogCommand::StartChange { group: GroupId(group), wanted }
}

pub(super) fn end(group: u16, change: u64, done: bool) -> CatalogCommand {
    CatalogCommand::EndChange { group: GroupId(group), change, done }
}

impl Fixture {
    /// A cluster of one shard and this many nodes, of which the second is being given a replica of the shard.
    pub(super) fn joined(nodes: u32, shards: u16) -> Self {
        let mut fixture = Self::empty();
        let CatalogCommand::Bootstrap { mut settings, root } = bootstrap() else { unreachable!() };
        settings.shards = shards;
        fixture.ok(CatalogCommand::Bootstrap { settings, root });
        fixture.ok(form(shards.into(), 3));
        (2..=nodes).for_each(|node| assert!(matches!(fixture.ok(join(node, "b")), CatalogReply::Joined { .. })));
        fixture.ok(start(1, Wanted::Add { place: Place::Voter(NodeId(2)), instead: None }));
        fixture
    }

    pub(super) fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.state.catalog().map)
    }

    fn roles(&self, group: u16) -> Vec<(u64, u32, ReplicaRole)> {
        let map = self.map();
        map.groups[usize::from(group)]
            .replicas
            .iter()
            .map(|place| (place.replica.0, place.node.0, place.role))
            .collect()
    }
}

use ReplicaRole::{Joining, Learner, Voter};

#[test]
fn the_map_is_made_once_and_of_whole_groups() {
    let mut fixture = Fixture::new();
    fixture.refused(ErrorCode::ShardUnavailable, join(2, ""));
    fixture.refused(ErrorCode::ValidationFailed, form(15, 3));
    fixture.refused(ErrorCode::ValidationFailed, form(16, 2));
    fixture.refused(ErrorCode::ValidationFailed, form(16, MAX_REPLICATION_FACTOR + 2));
    fixture.ok(form_cluster());
    assert_eq!(fixture.map().groups.len(), 17);
    assert_eq!(fixture.map().replicas_of(NodeId(1)).count(), 17);
    fixture.refused(ErrorCode::Conflict, form_cluster());
}

#[test]
fn joining_again_gives_the_same_id_and_replica() {
    let mut fixture = Fixture::new();
    fixture.ok(form_cluster());
    let first = fixture.ok(join(2, "b"));
    assert_eq!(first, joined(2, 18));
    assert_eq!(fixture.ok(join(2, "b")), first);
    assert_eq!(fixture.map().nodes.len(), 2);
    assert_eq!(fixture.ok(join(2, "c")), first, "it may have moved");
    assert_eq!(fixture.map().nodes[&NodeId(2)].contact.zone, "c");
    assert_eq!(fixture.roles(0), [(1, 1, Voter), (18, 2, Joining)]);
}

#[test]
fn an_address_belongs_to_one_living_node() {
    let mut fixture = Fixture::new();
    fixture.ok(form_cluster());
    fixture.ok(join(2, "b"));
    let other = Contact { incarnation: "f".repeat(32), ..contact(2, "b") };
    let join_other = CatalogCommand::JoinNode { contact: other.clone(), at: NEW_YEAR };
    let error = fixture.refused(ErrorCode::Conflict, join_other.clone());
    assert!(error.message.contains("larder-server cluster remove 2"), "{error}");
    fixture.refused(ErrorCode::Conflict, CatalogCommand::UpdateNode { node: NodeId(2), contact: other });
    let contact = Contact { address: contact(2, "").address, ..contact(1, "") };
    fixture.refused(ErrorCode::Conflict, CatalogCommand::UpdateNode { node: NodeId(1), contact });
    fixture.ok(start(0, Wanted::Remove { replica: ReplicaId(18) }));
    fixture.ok(end(0, 1, true));
    fixture.ok(set_state(2, NodeState::Removed));
    assert_eq!(fixture.ok(join_other), joined(3, 19));
    let error = fixture.refused(ErrorCode::Conflict, join(2, "b"));
    assert!(error.message.contains("empty its data directory"), "{error}");
}

#[test]
fn swapped_data_directories_are_told_apart_from_lost_disks() {
    let mut fixture = Fixture::new();
    fixture.ok(form_cluster());
    fixture.ok(join(2, "b"));
    fixture.ok(join(3, "c"));
    let swapped = Contact { incarnation: contact(2, "").incarnation, ..contact(3, "c") };
    let error = fixture.refused(ErrorCode::Conflict, CatalogCommand::JoinNode { contact: swapped, at: NEW_YEAR });
    assert!(error.message.contains("this data directory is node 2's"), "{error}");
    assert!(error.message.contains("is node 3's") && !error.message.contains("remove"), "{error}");
}

#[test]
fn a_node_is_removed_only_when_it_holds_nothing() {
    let mut fixture = Fixture::new();
    fixture.ok(form_cluster());
    fixture.refused(ErrorCode::Conflict, set_state(1, NodeState::Draining));
    fixture.ok(join(2, "b"));
    fixture.refused(ErrorCode::Conflict, set_state(2, NodeState::Removed));
    fixture.ok(set_state(1, NodeState::Draining));
    fixture.ok(set_state(1, NodeState::Active));
    fixture.ok(set_state(1, NodeState::Leaving));
    fixture.refused(ErrorCode::Conflict, set_state(1, NodeState::Active));
    fixture.refused(ErrorCode::Conflict, set_state(2, NodeState::Draining));
    fixture.refused(ErrorCode::InvalidRequest, set_state(7, NodeState::Draining));
    fixture.refused(ErrorCode::Conflict, start(1, Wanted::Add { place: Place::Voter(NodeId(1)), instead: None }));
}

#[test]
fn a_voter_takes_anothers_place_when_the_change_is_done() {
    let mut fixture = Fixture::joined(2, 1);
    assert_eq!(fixture.roles(1), [(2, 1, Voter), (4, 2, Joining)]);
    fixture.refused(ErrorCode::Conflict, start(1, Wanted::Remove { replica: ReplicaId(4) }));
    fixture.refused(ErrorCode::InvalidRequest, end(1, 2, true));
    fixture.ok(end(1, 1, true));
    assert_eq!(fixture.roles(1), [(2, 1, Voter), (4, 2, Voter)]);
    fixture.ok(end(1, 1, false));
    assert_eq!(fixture.roles(1), [(2, 1, Voter), (4, 2, Voter)], "it had ended");
    fixture.ok(join(3, ""));
    fixture.ok(start(1, Wanted::Add { place: Place::Voter(NodeId(3)), instead: Some(ReplicaId(2)) }));
    fixture.ok(end(1, 2, true));
    assert_eq!(fixture.roles(1), [(4, 2, Voter), (6, 3, Voter)]);
}

#[test]
fn a_change_that_came_to_nothing_leaves_nothing() {
    let mut fixture = Fixture::joined(3, 1);
    fixture.ok(end(1, 1, false));
    assert_eq!(fixture.roles(1), [(2, 1, Voter)]);
    fixture.refused(ErrorCode::Conflict, start(1, Wanted::Remove { replica: ReplicaId(2) }));
    fixture.ok(start(1, Wanted::Add { place: Place::Voter(NodeId(2)), instead: None }));
    assert_eq!(fixture.roles(1)[1].0, 6, "the replica's id is a new one");
}

#[test]
fn voters_of_the_catalog_begin_as_learners() {
    let mut fixture = Fixture::joined(2, 1);
    fixture.refused(ErrorCode::Conflict, start(0, Wanted::Add { place: Place::Voter(NodeId(2)), instead: None }));
    fixture.refused(ErrorCode::Conflict, start(0, Wanted::Promote { replica: ReplicaId(3), instead: None }));
    fixture.ok(start(0, Wanted::Add { place: Place::Learner(NodeId(2)), instead: None }));
    let change = fixture.map().groups[0].change;
    assert_eq!(change.map(|change| change.kind), Some(ChangeKind::AddLearner { replica: ReplicaId(3) }));
    fixture.ok(end(0, 2, true));
    assert_eq!(fixture.roles(0), [(1, 1, Voter), (3, 2, Learner)]);
    fixture.ok(start(0, Wanted::Promote { replica: ReplicaId(3), instead: Some(ReplicaId(1)) }));
    fixture.ok(end(0, 3, true));
    assert_eq!(fixture.roles(0), [(1, 1, Learner), (3, 2, Voter)]);
    let place = ReplicaPlace { replica: ReplicaId(3), node: NodeId(2), role: Voter };
    assert_eq!(fixture.map().groups[0].on(NodeId(2)), Some(&place));
}
