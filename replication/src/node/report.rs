//! What nodes tell each other of themselves, twice a second, and what that says of the cluster.
//!
//! Reports are hints: they say where to ask and what might be mended. Nothing is decided by them that a group's own log
//! would not refuse if they were wrong or late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_types::ids::{GroupId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::catalog::{ClusterMap, GroupHealth, Health, Liveness};

/// Pause between two reports.
pub(crate) const PERIOD: Duration = Duration::from_millis(500);

/// A node that was silent for so long gets nothing more.
const SUSPECT_AFTER: Duration = Duration::from_secs(5);

/// A node that was silent for so long is not trusted to lead: two reports are missing.
const QUIET_AFTER: Duration = Duration::from_millis(1500);

/// Entries that a replica may lack of the leader's log to be as good as whole: what is in flight.
pub(crate) const NEARLY: u64 = 64;

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Which run of the node's process: greater than any earlier one.
    pub(crate) boot: u64,
    /// Its replicas in order of group.
    pub(crate) groups: Vec<ReplicaReport>,
    /// Bytes of memory that its records take.
    pub(crate) bytes: u64,
}

/// What a node tells of one of its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplicaReport {
    /// The group.
    pub(crate) group: GroupId,
    /// The replica.
    pub(crate) replica: ReplicaId,
    /// The term that it knows.
    pub(crate) term: u64,
    /// Its role, as operators read it.
    pub(crate) role: String,
    /// The last entry of its log.
    pub(crate) last: Option<u64>,
    /// The last entry that it applied.
    pub(crate) applied: Option<u64>,
    /// Whether it serves lookups.
    pub(crate) serves: bool,
    /// How old what it shows may be, in milliseconds.
    pub(crate) age_millis: Option<u64>,
    /// Bytes of its records and tables.
    pub(crate) bytes: u64,
    /// What only a leader knows.
    pub(crate) leads: Option<LeaderReport>,
}

/// What a leader tells of its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaderReport {
    /// How far each other replica's log is known to agree with the leader's.
    pub(crate) matched: BTreeMap<ReplicaId, Option<u64>>,
    /// The replicas with a vote.
    pub(crate) voters: Vec<ReplicaId>,
}

/// The newest reports of all nodes, this one's among them.
pub(crate) struct Reports {
    me: NodeId,
    dead_after: Duration,
    since: Instant,
    latest: Mutex<BTreeMap<NodeId, (Instant, Report)>>,
}

impl Reports {
    /// Nothing was heard yet. Nodes that are silent for `dead_after` are given up.
    pub(crate) fn new(me: NodeId, dead_after: Duration) -> Self {
        Self { me, dead_after, since: Instant::now(), latest: Mutex::default() }
    }

    /// This node.
    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    /// Notes what a node tells, unless a later run of it has told something just now. Runs are told apart by their node's
    /// clock, which may have been set back: then the later one is heard once the earlier one is silent.
    pub(crate) fn note(&self, node: NodeId, report: Report) {
        let mut latest = self.lock();
        let is_late = |(at, known): &(Instant, Report)| known.boot > report.boot && at.elapsed() < SUSPECT_AFTER;
        if !latest.get(&node).is_some_and(is_late) {
            latest.insert(node, (Instant::now(), report));
        }
    }

    /// The time since a node was heard of, and what it told.
    pub(crate) fn get(&self, node: NodeId) -> Option<(Duration, Report)> {
        self.lock().get(&node).map(|(at, report)| (at.elapsed(), report.clone()))
    }

    /// How a node is.
    pub(crate) fn liveness(&self, node: NodeId) -> Liveness {
        if node == self.me {
            return Liveness::Up;
        }
        // A node that was never heard of was silent since this one started to listen.
        let silence = self.lock().get(&node).map_or_else(|| self.since.elapsed(), |(at, _)| at.elapsed());
        match silence {
            silence if silence >= self.dead_after => Liveness::Dead,
            silence if silence >= SUSPECT_AFTER => Liveness::Suspect,
            _ if !self.lock().contains_key(&node) => Liveness::Suspect,
            _ => Liveness::Up,
        }
    }

    /// The replica that leads a group and its node: of those that say so, the one of the greatest term.
    pub(crate) fn leader(&self, group: GroupId) -> Option<(ReplicaId, NodeId)> {
        self.leader_in(group).map(|(_, replica, node)| (replica, node))
    }

    /// The same, and its term.
    fn leader_in(&self, group: GroupId) -> Option<(u64, ReplicaId, NodeId)> {
        let latest = self.lock();
        let fresh = latest.iter().filter(|(node, (at, _))| **node == self.me || at.elapsed() < SUSPECT_AFTER);
        let leaders = fresh.filter_map(|(node, (_, report))| {
            let replica = report.of(group).filter(|replica| replica.leads.is_some())?;
            Some((replica.term, replica.replica, *node))
        });
        leaders.max_by_key(|(term, ..)| *term)
    }

    /// The node that leads a group in a later term than this, if one says so.
    pub(crate) fn leader_after(&self, group: GroupId, term: u64) -> Option<NodeId> {
        let (known, _, node) = self.leader_in(group)?;
        (known > term).then_some(node)
    }

    /// A node, other than this one, whose replica of a group serves lookups: the freshest.
    pub(crate) fn serving(&self, group: GroupId) -> Option<NodeId> {
        let latest = self.lock();
        let others = latest.iter().filter(|(node, (at, _))| **node != self.me && at.elapsed() < SUSPECT_AFTER);
        let serving = others.filter_map(|(node, (at, report))| {
            let replica = report.of(group).filter(|replica| replica.serves)?;
            let age = Duration::from_millis(replica.age_millis.unwrap_or(u64::MAX / 2)).saturating_add(at.elapsed());
            Some((age, *node))
        });
        serving.min().map(|(_, node)| node)
    }

    /// Whether a node was heard of just now. One that has died is up for a while yet, and must not be made a leader.
    pub(crate) fn is_heard(&self, node: NodeId) -> bool {
        node == self.me || self.lock().get(&node).is_some_and(|(at, _)| at.elapsed() < QUIET_AFTER)
    }

    /// What the planner wants to know. Only who is heard of is caught up.
    pub(crate) fn health(&self, map: &ClusterMap) -> Health {
        let nodes = map.nodes.keys().map(|node| (*node, self.liveness(*node))).collect();
        let heard: BTreeSet<_> = map.nodes.keys().copied().filter(|node| self.is_heard(*node)).collect();
        let groups = map.iter_groups().filter_map(|(id, placement)| {
            let (leader, node) = self.leader(id)?;
            let latest = self.lock();
            let report = latest.get(&node).and_then(|(_, report)| report.of(id))?;
            let known = report.leads.as_ref()?;
            let whole = |index: Option<u64>| index.unwrap_or(0) + NEARLY >= report.last.unwrap_or(0);
            let is_heard = |replica| placement.place(replica).is_some_and(|place| heard.contains(&place.node));
            let others = known.matched.iter().filter(|(replica, index)| whole(**index) && is_heard(**replica));
            let others = others.map(|(replica, _)| *replica);
            let caught_up = others.chain([leader]).collect();
            Some((id, GroupHealth { leader: Some(leader), caught_up }))
        });
        Health { nodes, groups: groups.collect() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, (Instant, Report)>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Report {
    /// What it says of the node's replica of a group.
    pub(crate) fn of(&self, group: GroupId) -> Option<&ReplicaReport> {
        self.groups.iter().find(|replica| replica.group == group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Contact, GroupPlacement, NodeInfo, NodeState, ReplicaPlace, ReplicaRole};

    const GROUP: GroupId = GroupId(1);

    fn replica(number: u64, term: u64, leads: bool) -> ReplicaReport {
        let leads = leads.then(|| LeaderReport {
            matched: [(ReplicaId(7), Some(100)), (ReplicaId(8), Some(10)), (ReplicaId(9), None)].into(),
            voters: vec![ReplicaId(number)],
        });
        ReplicaReport {
            group: GROUP,
            replica: ReplicaId(number),
            term,
            role: "voter".into(),
            last: Some(120),
            applied: Some(120),
            serves: true,
            age_millis: Some(number),
            bytes: 0,
            leads,
        }
    }

    fn map() -> ClusterMap {
        let contact = Contact {
            incarnation: "0".repeat(32),
            address: String::new(),
            advertise: String::new(),
            zone: String::new(),
        };
        let info = NodeInfo { contact, state: NodeState::Active, joined_at: 0 };
        let place = |(node, replica)| ReplicaPlace {
            replica: ReplicaId(replica),
            node: NodeId(node),
            role: ReplicaRole::Voter,
        };
        let replicas = [(2, 5), (3, 7), (4, 8)].map(place).to_vec();
        ClusterMap {
            nodes: (2..=4).map(|node| (NodeId(node), info.clone())).collect(),
            groups: vec![GroupPlacement::default(), GroupPlacement { replicas, change: None }],
            ..ClusterMap::default()
        }
    }

    fn report(boot: u64, groups: Vec<ReplicaReport>) -> Report {
        Report { boot, groups, bytes: 0 }
    }

    #[test]
    fn of_two_leaders_the_later_one_counts() {
        let reports = Reports::new(NodeId(1), Duration::from_secs(900));
        assert_eq!(reports.leader(GROUP), None);
        reports.note(NodeId(2), report(1, vec![replica(5, 3, true)]));
        reports.note(NodeId(3), report(1, vec![replica(6, 4, true)]));
        assert_eq!(reports.leader(GROUP), Some((ReplicaId(6), NodeId(3))));
        assert_eq!(reports.leader_after(GROUP, 3), Some(NodeId(3)));
        assert_eq!(reports.leader_after(GROUP, 4), None);
        reports.note(NodeId(3), report(2, vec![replica(6, 5, false)]));
        assert_eq!(reports.leader(GROUP), Some((ReplicaId(5), NodeId(2))));
    }

    #[test]
    fn a_report_of_an_earlier_run_is_late() {
        let reports = Reports::new(NodeId(1), Duration::from_secs(900));
        reports.note(NodeId(2), report(2, vec![]));
        reports.note(NodeId(2), report(1, vec![replica(5, 3, true)]));
        assert_eq!(reports.leader(GROUP), None);
    }

    #[test]
    fn the_freshest_other_replica_serves() {
        let reports = Reports::new(NodeId(1), Duration::from_secs(900));
        reports.note(NodeId(1), report(1, vec![replica(0, 3, false)]));
        reports.note(NodeId(2), report(1, vec![replica(500, 3, false)]));
        reports.note(NodeId(3), report(1, vec![replica(20, 3, false)]));
        assert_eq!(reports.serving(GROUP), Some(NodeId(3)));
        assert_eq!(reports.serving(GroupId(2)), None);
    }

    #[test]
    fn replicas_that_lack_little_are_caught_up() {
        let reports = Reports::new(NodeId(1), Duration::from_secs(900));
        reports.note(NodeId(2), report(1, vec![replica(5, 3, true)]));
        let map = map();
        let caught_up = |reports: &Reports| -> Vec<_> {
            reports.health(&map).groups[&GROUP].caught_up.iter().map(|replica| replica.0).collect()
        };
        assert_eq!(caught_up(&reports), [5], "whoever is not heard of may be dead");
        reports.note(NodeId(3), report(1, vec![]));
        reports.note(NodeId(4), report(1, vec![]));
        assert_eq!(caught_up(&reports), [5, 7]);
        assert!(!reports.health(&map).groups.contains_key(&GroupId(0)));
    }

    #[test]
    fn who_was_never_heard_of_is_suspect_and_dead_in_the_end() {
        let reports = Reports::new(NodeId(1), Duration::from_secs(900));
        assert_eq!(reports.liveness(NodeId(1)), Liveness::Up);
        assert_eq!(reports.liveness(NodeId(2)), Liveness::Suspect);
        reports.note(NodeId(2), report(1, vec![]));
        assert_eq!(reports.liveness(NodeId(2)), Liveness::Up);
        let hasty = Reports::new(NodeId(1), Duration::ZERO);
        assert_eq!(hasty.liveness(NodeId(2)), Liveness::Dead);
    }
}
