//! What all parts of a run share.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_types::ids::{GroupId, ShardId};
use openraft::async_runtime::WatchReceiver;

use super::client;
use super::machines::{Alive, Machines};
use super::oracle::Oracle;
use super::trace::{Listener, Trace};
use super::{COLLECTION, SHARDS};
use crate::node::replica::Replica;

/// A run.
pub(super) struct World {
    pub(super) machines: Arc<Machines>,
    oracle: Mutex<Oracle>,
    pub(super) trace: Trace,
    writes: AtomicU32,
    over: AtomicBool,
}

impl World {
    pub(super) fn new(machines: Arc<Machines>, trace: Trace) -> Arc<Self> {
        let (writes, over) = (AtomicU32::new(0), AtomicBool::new(false));
        Arc::new(Self { machines, oracle: Mutex::default(), trace, writes, over })
    }

    pub(super) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What writes to the story what nodes log.
    pub(super) fn listener(&self) -> Listener {
        Listener(self.trace.clone())
    }

    /// Tells what happened.
    pub(super) fn tell(&self, what: fmt::Arguments<'_>) {
        self.trace.add(what);
    }

    /// The number of the next write.
    pub(super) fn number(&self) -> u32 {
        self.writes.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether clients are to stop.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Looks at every replica that runs.
    pub(super) fn inspect(&self) {
        for id in self.machines.reap() {
            self.tell(format_args!("the power of {id} has failed"));
        }
        for refusal in self.machines.refusals() {
            self.oracle().violated(refusal);
        }
        for alive in self.machines.alive() {
            if let Some(reason) = alive.node.failure.reason() {
                self.oracle().violated(format!("node {} has failed: {reason}", alive.id));
            }
            for replica in alive.node.replicas.all().iter() {
                self.inspect_replica(&alive, replica);
            }
        }
    }

    fn inspect_replica(&self, alive: &Alive, replica: &Replica) {
        let (log, snapshot) = (replica.log.state(), replica.shelf.current().and_then(|meta| meta.last_log_id));
        let (purged, snapshot) = (log.purged.map(|id| id.index), snapshot.map(|id| id.index));
        let what = || format!("replica {} of group {} on node {}", replica.replica, replica.id, alive.id);
        let mut oracle = self.oracle();
        if purged > snapshot {
            oracle.violated(format!("{} has purged {purged:?} and its snapshot ends at {snapshot:?}", what()));
        }
        if let Some(told) = self.machines.net.told(replica.id, replica.replica) {
            let known = log.vote.map(|vote| (vote.term, vote.candidate.0));
            if known < Some((told.leader_id.term, told.leader_id.node_id)) {
                oracle.violated(format!("{} has told vote {told} and knows {known:?}", what()));
            }
        }
        let metrics = replica.raft.data_metrics();
        let applied = metrics.borrow_watched().last_applied.map_or(0, |id| id.index);
        if replica.id == GroupId::CATALOG {
            return oracle.applied(replica.id, replica.replica, alive.boot, applied);
        }
        let Some(reader) = &replica.reader else { return };
        let applied = reader.applied();
        oracle.applied(replica.id, replica.replica, alive.boot, applied);
        let shard = ShardId(replica.id.0 - 1);
        let registers = client::registers(reader, shard);
        for (register, seen) in registers.iter().enumerate() {
            oracle.saw(shard, register as u64, *seen);
        }
        let stats = reader.stats(COLLECTION);
        oracle.state(alive.id, shard, applied, format!("{registers:?} {} records", stats.records));
    }

    /// How everything is, for people.
    pub(super) fn show(&self) -> String {
        let shown = self.machines.alive().into_iter().map(|alive| {
            let map = Arc::clone(&alive.node.catalog().map);
            let groups: Vec<_> = alive.node.status().groups.iter().map(|group| format!("{group:?}")).collect();
            let places: Vec<_> = map.groups.iter().map(|group| format!("{group:?}")).collect();
            format!("{}\n  {}\n  {}", alive.id, groups.join("\n  "), places.join("\n  "))
        });
        shown.collect::<Vec<_>>().join("\n")
    }

    /// Whether all nodes agree on where everything is, nothing is under way, and all replicas are equally far.
    pub(super) fn is_settled(&self) -> Result<(), String> {
        let alive = self.machines.alive();
        if let Some((off, _)) = self.machines.all().iter().find(|(id, _)| alive.iter().all(|alive| alive.id != *id)) {
            return Err(format!("{off} is not up"));
        }
        if self.machines.is_one_joining() {
            return Err("a machine is still to join".to_owned());
        }
        let map = alive.first().map(|alive| Arc::clone(&alive.node.catalog().map)).ok_or("nobody is up")?;
        if let Some(other) = alive.iter().find(|alive| *alive.node.catalog().map != *map) {
            return Err(format!("{} has another map", other.id));
        }
        for (group, placement) in map.iter_groups() {
            if let Some(change) = placement.change {
                return Err(format!("group {group} is still to change: {change:?}"));
            }
            let wanted =
                map.nodes.values().filter(|node| node.state == crate::catalog::NodeState::Active).count().min(3);
            if placement.voters().count() < wanted {
                return Err(format!("group {group} has {} voters of {wanted}", placement.voters().count()));
            }
            let mut far = Vec::new();
            for place in &placement.replicas {
                let on = alive.iter().find(|alive| alive.id == place.node).ok_or("a replica is placed nowhere")?;
                let replica = on.node.replicas.get(group).filter(|replica| replica.replica == place.replica);
                let replica = replica.ok_or_else(|| format!("group {group} is not on {}", place.node))?;
                far.push(replica.applied());
            }
            if far.windows(2).any(|pair| pair[0] != pair[1]) {
                return Err(format!("the replicas of group {group} are at {far:?}"));
            }
        }
        assert_eq!(map.groups.len(), usize::from(SHARDS) + 1);
        for alive in &alive {
            let held = alive.node.replicas.all().len();
            let placed = map.replicas_of(alive.id).count();
            if held != placed {
                return Err(format!("{} holds {held} replicas and is to hold {placed}", alive.id));
            }
        }
        Ok(())
    }
}
