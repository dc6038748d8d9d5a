//! Commands that change the map of the cluster: nodes that come and go, replicas that are placed and removed.
//!
//! What a change is good for is decided elsewhere (`placement.rs`), and that it has been carried out is seen elsewhere;
//! here it is checked that it fits the map, whoever proposes it and however late.

use std::sync::Arc;

use larder_types::error::ErrorCode;
use larder_types::ids::{GroupId, Micros, NodeId, ReplicaId};

use super::cluster_map::{Change, ChangeKind, ClusterMap, Contact, NodeInfo, NodeState, ReplicaPlace, ReplicaRole};
use super::command::{CatalogReply, Place, Wanted};
use super::error::CatalogError;
use super::state::{Applied, CatalogState, MAX_LABEL_BYTES, conflict, refuse_any};

/// Most nodes that ever joined: the map is copied by every change of it.
pub const MAX_NODES: usize = 1024;

/// Replicas that a group can have at most.
pub const MAX_REPLICATION_FACTOR: u8 = 7;

impl CatalogState {
    pub(super) fn form_cluster(
        &mut self,
        replication_factor: u8,
        contact: &Contact,
        replicas: &[ReplicaId],
        at: Micros,
    ) -> Applied {
        if !self.catalog.map.nodes.is_empty() {
            return Err(conflict("the map of the cluster was made already".to_owned()));
        }
        let mut problems = problems_of_contact(contact);
        problems.extend(problem_of_factor(replication_factor));
        let shards = self.catalog.cluster.as_ref().map_or(0, |cluster| cluster.shards);
        if replicas.len() != usize::from(shards) + 1 {
            problems.push(format!("{} replicas are named for {shards} shards and the catalog", replicas.len()));
        }
        if replicas.windows(2).any(|pair| pair[0] >= pair[1]) {
            problems.push("the ids of replicas do not ascend".to_owned());
        }
        refuse_any(&problems)?;
        let node = NodeId(1);
        let role = ReplicaRole::Voter;
        let groups = replicas.iter().map(|&replica| super::cluster_map::GroupPlacement {
            replicas: vec![ReplicaPlace { replica, node, role }],
            change: None,
        });
        let info = NodeInfo { contact: contact.clone(), state: NodeState::Active, joined_at: at };
        let map = ClusterMap {
            replication_factor,
            nodes: [(node, info)].into(),
            groups: groups.collect(),
            next_node: node.0 + 1,
            next_replica: replicas.last().map_or(1, |last| last.0 + 1),
            next_change: 1,
        };
        self.edit().map = Arc::new(map);
        Ok(CatalogReply::Done)
    }

    /// Takes a node in, or a known one back: with a replica of the catalog, which a node that was long away may have
    /// lost.
    pub(super) fn join_node(&mut self, contact: &Contact, at: Micros) -> Applied {
        let map = self.formed()?;
        refuse_any(&problems_of_contact(contact))?;
        let known = map.node_of(&contact.incarnation).map(|(id, node)| (id, node.clone()));
        if let Some((id, node)) = &known
            && node.state == NodeState::Removed
        {
            return Err(CatalogError::removed(*id));
        }
        refuse_taken(map, contact)?;
        let id = match known {
            Some((id, node)) => {
                if node.contact != *contact {
                    self.set_contact(id, contact);
                }
                id
            }
            None if map.nodes.len() >= MAX_NODES => {
                return Err(CatalogError::problems(&[format!("{MAX_NODES} nodes have joined, no more can")]));
            }
            None => {
                let map = self.edit_map();
                let id = NodeId(map.next_node);
                map.next_node += 1;
                let info = NodeInfo { contact: contact.clone(), state: NodeState::Active, joined_at: at };
                map.nodes.insert(id, info);
                id
            }
        };
        let here = self.catalog.map.groups[0].on(id).map(|place| place.replica);
        let replica = match here {
            Some(replica) => replica,
            None => self.place(GroupId::CATALOG, id, ReplicaRole::Joining),
        };
        let replication_factor = self.catalog.map.replication_factor;
        Ok(CatalogReply::Joined { node: id, replica, replication_factor })
    }

    pub(super) fn update_node(&mut self, node: NodeId, contact: &Contact) -> Applied {
        let map = self.formed()?;
        refuse_any(&problems_of_contact(contact))?;
        let known = known(map, node)?;
        if known.contact.incarnation != contact.incarnation {
            return Err(conflict(format!("node {node} is another one: its data directory is not the one that joined")));
        }
        refuse_taken(map, contact)?;
        if known.contact != *contact {
            self.set_contact(node, contact);
        }
        Ok(CatalogReply::Done)
    }

    fn set_contact(&mut self, node: NodeId, contact: &Contact) {
        if let Some(info) = self.edit_map().nodes.get_mut(&node) {
            info.contact = contact.clone();
        }
    }

    pub(super) fn set_node_state(&mut self, node: NodeId, state: NodeState) -> Applied {
        let map = self.formed()?;
        let known = known(map, node)?;
        if known.state == state {
            return Ok(CatalogReply::Done);
        }
        if known.state == NodeState::Removed {
            return Err(CatalogError::removed(node));
        }
        if state == NodeState::Removed {
            let held = map.replicas_of(node).count();
            if held > 0 {
                return Err(conflict(format!("node {node} still holds {held} replicas: drain it first")));
            }
        }
        if known.state == NodeState::Leaving && state != NodeState::Removed {
            return Err(conflict(format!("node {node} is being removed, which cannot be undone")));
        }
        if state != NodeState::Active
            && !map.nodes.iter().any(|(id, other)| *id != node && other.state == NodeState::Active)
        {
            return Err(conflict(format!("node {node} is the only one that can hold replicas: add another one first")));
        }
        if let Some(info) = self.edit_map().nodes.get_mut(&node) {
            info.state = state;
        }
        Ok(CatalogReply::Done)
    }

    /// Begins a change of a group's replicas.
    pub(super) fn start_change(&mut self, group: GroupId, wanted: Wanted) -> Applied {
        let map = self.formed()?;
        let placement = map.group(group).ok_or_else(|| no_group(group))?;
        if let Some(change) = placement.change {
            return Err(conflict(format!("change {} of group {group} is under way", change.id)));
        }
        let role_of = |replica| placement.place(replica).map(|place| place.role);
        let voters = placement.voters().count();
        let (kind, place) = match wanted {
            Wanted::Add { place, instead } => {
                refuse_place(map, group, place)?;
                if instead.is_some_and(|replica| role_of(replica) != Some(ReplicaRole::Voter)) {
                    return Err(conflict(format!("what is to be replaced in group {group} is no voter")));
                }
                if group == GroupId::CATALOG && instead.is_some() {
                    return Err(conflict("a voter of the catalog is replaced by promoting a learner".to_owned()));
                }
                (None, Some((place, instead)))
            }
            Wanted::Promote { replica, instead } => {
                if role_of(replica) != Some(ReplicaRole::Learner) {
                    return Err(conflict(format!("replica {replica} is no learner of group {group}")));
                }
                if instead.is_some_and(|replica| role_of(replica) != Some(ReplicaRole::Voter)) {
                    return Err(conflict(format!("what is to lose its vote in group {group} is no voter")));
                }
                (Some(ChangeKind::Promote { replica, instead }), None)
            }
            Wanted::Remove { replica } => {
                match role_of(replica) {
                    None => return Err(conflict(format!("group {group} has no replica {replica}"))),
                    Some(ReplicaRole::Voter) if voters == 1 => {
                        return Err(conflict(format!("replica {replica} is the only voter of group {group}")));
                    }
                    Some(_) => {}
                }
                (Some(ChangeKind::Remove { replica }), None)
            }
        };
        let kind = match (kind, place) {
            (Some(kind), _) => kind,
            (None, Some((Place::Voter(node), instead))) => {
                ChangeKind::AddVoter { replica: self.place(group, node, ReplicaRole::Joining), instead }
            }
            (None, Some((Place::Learner(node), _))) => {
                let here = self.catalog.map.group(group).and_then(|placement| placement.on(node)).map(|p| p.replica);
                let replica = here.unwrap_or_else(|| self.place(group, node, ReplicaRole::Joining));
                ChangeKind::AddLearner { replica }
            }
            (None, None) => return Err(conflict("a change names nothing".to_owned())),
        };
        let map = self.edit_map();
        let change = Change { id: map.next_change, kind };
        map.next_change += 1;
        map.groups[usize::from(group.0)].change = Some(change);
        Ok(CatalogReply::Changing { change: change.id })
    }

    /// Ends a change: as it was meant, or without effect.
    pub(super) fn end_change(&mut self, group: GroupId, id: u64, done: bool) -> Applied {
        let map = self.formed()?;
        if id >= map.next_change {
            return Err(CatalogError::new(ErrorCode::InvalidRequest, format!("change {id} was never made")));
        }
        let placement = map.group(group).ok_or_else(|| no_group(group))?;
        let Some(change) = placement.change.filter(|change| change.id == id) else {
            // It has ended.
            return Ok(CatalogReply::Done);
        };
        let placement = &mut self.edit_map().groups[usize::from(group.0)];
        placement.change = None;
        let mut set = |replica, role| {
            if let Some(place) = placement.replicas.iter_mut().find(|place| place.replica == replica) {
                place.role = role;
            }
        };
        let gone = match (change.kind, done) {
            (ChangeKind::AddVoter { replica, instead }, true) => {
                set(replica, ReplicaRole::Voter);
                instead
            }
            (ChangeKind::AddLearner { replica }, true) => {
                set(replica, ReplicaRole::Learner);
                None
            }
            (ChangeKind::Promote { replica, instead }, true) => {
                set(replica, ReplicaRole::Voter);
                if let Some(instead) = instead {
                    set(instead, ReplicaRole::Learner);
                }
                None
            }
            (ChangeKind::Remove { replica }, true)
            | (ChangeKind::AddVoter { replica, .. } | ChangeKind::AddLearner { replica }, false) => Some(replica),
            (ChangeKind::Promote { .. } | ChangeKind::Remove { .. }, false) => None,
        };
        placement.replicas.retain(|place| Some(place.replica) != gone);
        Ok(CatalogReply::Done)
    }

    /// Puts a new replica of a group on a node.
    fn place(&mut self, group: GroupId, node: NodeId, role: ReplicaRole) -> ReplicaId {
        let map = self.edit_map();
        let replica = ReplicaId(map.next_replica);
        map.next_replica += 1;
        map.groups[usize::from(group.0)].replicas.push(ReplicaPlace { replica, node, role });
        replica
    }

    fn formed(&self) -> Result<&ClusterMap, CatalogError> {
        if self.catalog.map.nodes.is_empty() {
            return Err(CatalogError::new(ErrorCode::ShardUnavailable, "the map of the cluster has not been made yet"));
        }
        Ok(&self.catalog.map)
    }

    fn edit_map(&mut self) -> &mut ClusterMap {
        Arc::make_mut(&mut self.edit().map)
    }
}

/// Refuses an address that another node has.
fn refuse_taken(map: &ClusterMap, contact: &Contact) -> Result<(), CatalogError> {
    let taken = map.nodes.iter().find(|(_, node)| {
        node.state != NodeState::Removed
            && !contact.address.is_empty()
            && node.contact.address == contact.address
            && node.contact.incarnation != contact.incarnation
    });
    let Some((id, _)) = taken else { return Ok(()) };
    if let Some((own, _)) = map.node_of(&contact.incarnation) {
        return Err(conflict(format!(
            "this data directory is node {own}'s, but the address {} is node {id}'s: give each node the `data_dir` and \
             the address that it had before",
            contact.address
        )));
    }
    Err(conflict(format!(
        "node {id} has the address {} already: if it has lost its disk, remove node {id} first \
         (`larder-server cluster remove {id}`), else give this node another address",
        contact.address
    )))
}

/// Refuses a node that cannot take a replica of a group.
fn refuse_place(map: &ClusterMap, group: GroupId, place: Place) -> Result<(), CatalogError> {
    let (Place::Voter(node) | Place::Learner(node)) = place;
    // A node that drains hears of the catalog all the same.
    let takes = match known(map, node)?.state {
        NodeState::Active => true,
        NodeState::Draining => matches!(place, Place::Learner(_)),
        NodeState::Leaving | NodeState::Removed => false,
    };
    if !takes {
        return Err(conflict(format!("node {node} takes no replicas")));
    }
    let here = map.group(group).and_then(|placement| placement.on(node));
    match (here, place) {
        (None, Place::Voter(_)) if group == GroupId::CATALOG => {
            Err(conflict("a voter of the catalog begins as a learner".to_owned()))
        }
        // Joining has placed the catalog's.
        (Some(here), Place::Learner(_)) if here.role == ReplicaRole::Joining => Ok(()),
        (Some(here), _) => Err(conflict(format!("node {node} holds replica {} of group {group}", here.replica))),
        (None, _) => Ok(()),
    }
}

fn known(map: &ClusterMap, node: NodeId) -> Result<&NodeInfo, CatalogError> {
    map.nodes.get(&node).ok_or_else(|| CatalogError::new(ErrorCode::InvalidRequest, format!("there is no node {node}")))
}

fn no_group(group: GroupId) -> CatalogError {
    CatalogError::new(ErrorCode::InvalidRequest, format!("there is no group {group}"))
}

fn problem_of_factor(factor: u8) -> Option<String> {
    let fits = factor % 2 == 1 && factor <= MAX_REPLICATION_FACTOR;
    (!fits).then(|| format!("the replication factor is {factor}, must be odd and {MAX_REPLICATION_FACTOR} at most"))
}

fn problems_of_contact(contact: &Contact) -> Vec<String> {
    let mut problems = Vec::new();
    if contact.incarnation.len() != 32 || !contact.incarnation.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        problems.push("a node's incarnation is not 32 hexadecimal digits".to_owned());
    }
    for (what, text) in [("address", &contact.address), ("advertise", &contact.advertise), ("zone", &contact.zone)] {
        if text.len() > MAX_LABEL_BYTES {
            problems.push(format!("`{what}` has {} bytes, may have {MAX_LABEL_BYTES} at most", text.len()));
        }
    }
    problems
}
