//! Changes of a group's replicas, step by step: three nodes in one process, whose messages are handed over in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use larder_storage::disk::FakeDisk;
use larder_storage::log::{Log, LogOptions};
use larder_storage::snapshot::SnapshotStore;
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use openraft::async_runtime::WatchReceiver;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::change::{Progress, Wish, step};
use super::joining::Doorkeeper;
use super::replica::{Origin, Replica};
use super::replicas::Replicas;
use super::service::{Answerer, NodeService};
use super::site::Site;
use crate::catalog::ChangeKind;
use crate::failure::Failure;
use crate::peers::{Body, Caller, Lane, PeerError, Request, Service};
use crate::raft::machine::Surroundings;
use crate::raft::network::Courier;
use crate::raft::pace::Pace;
use crate::raft::snapshot::Workbench;
use crate::raft::transfer::{Receiving, Sending};

const GROUP: GroupId = GroupId(1);

/// The wires between all nodes.
#[derive(Default)]
struct Wires {
    services: Mutex<BTreeMap<NodeId, Arc<Answerer>>>,
    /// Nodes that reach nobody and that nobody reaches.
    cut: Mutex<BTreeSet<NodeId>>,
}

/// One node's end of them.
struct End(NodeId, Arc<Wires>);

impl Courier for End {
    fn call(
        &self,
        to: NodeId,
        _: Lane,
        kind: u8,
        body: Body,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (from, wires) = (self.0, Arc::clone(&self.1));
        Box::pin(async move {
            let is_cut = || [from, to].iter().any(|node| wires.cut.lock().unwrap().contains(node));
            let unreachable = || PeerError::Unreachable("the wire is cut".into());
            let service = wires.services.lock().unwrap().get(&to).cloned().filter(|_| !is_cut());
            let service = NodeService(service.ok_or_else(unreachable)?);
            let served = service.serve(Caller { node: Some(from) }, Request { kind, body: body.into_bytes() });
            let answer = tokio::time::timeout(deadline, served).await.map_err(|_| PeerError::Timeout)?;
            if is_cut() { Err(unreachable()) } else { answer.map_err(PeerError::Remote) }
        })
    }
}

/// Nodes 1 to 3, each with the replica of its number, of which the first is the group.
struct Trio {
    wires: Arc<Wires>,
    failure: Failure,
    replicas: Vec<Arc<Replica>>,
}

impl Trio {
    async fn new() -> Self {
        let mut trio = Self { wires: Arc::default(), failure: Failure::new(), replicas: Vec::new() };
        for number in 1..=3 {
            let replica = trio.open(number).await;
            trio.replicas.push(replica);
        }
        trio
    }

    async fn open(&self, number: u32) -> Arc<Replica> {
        let (node, disk, failure) = (NodeId(number), Arc::new(FakeDisk::new()), self.failure.clone());
        let options = LogOptions { segment_bytes: 1 << 20, cache_bytes: 1 << 20, ..LogOptions::default() };
        let log = Log::open(disk.clone(), Path::new("log"), options, Box::new(|_| {})).unwrap();
        let snapshots = SnapshotStore::open(disk.clone(), Path::new("snapshots")).unwrap();
        let (workbench, threads) = (Workbench::new(Pace::new(0)), NonZeroUsize::MIN);
        let site = Site {
            disk,
            log,
            snapshots,
            around: Surroundings { workbench, failure: failure.clone(), threads },
            config: Arc::new(crate::raft::types::config().unwrap()),
            node,
            hash_seed: 7,
            courier: Arc::new(End(node, Arc::clone(&self.wires))),
            sending: Sending::new(0),
            loading: Semaphore::new(1),
        };
        let origin = if number == 1 { Origin::Founding } else { Origin::Joining };
        let replica = site.open(GROUP, ReplicaId(number.into()), origin, site.shard(GROUP)).await.unwrap();
        let replicas = Replicas::new();
        replicas.add(Arc::clone(&replica));
        let receiving = Arc::new(Receiving::new(failure));
        let answerer = Answerer::new(number.into(), replicas, Doorkeeper::default(), receiving);
        self.wires.services.lock().unwrap().insert(node, answerer);
        replica
    }

    async fn of_three() -> Self {
        let trio = Self::new().await;
        for number in [2, 3] {
            assert_eq!(
                trio.change(ChangeKind::AddVoter { replica: ReplicaId(number), instead: None }).await,
                Progress::Done
            );
        }
        trio
    }

    fn leader(&self) -> Option<&Arc<Replica>> {
        self.replicas
            .iter()
            .max_by_key(|replica| (replica.raft.is_leader(), replica.term()))
            .filter(|r| r.raft.is_leader())
    }

    fn wish(kind: ChangeKind, give_up: bool) -> Wish {
        Wish { group: GROUP, kind, node: NodeId(u32::try_from(kind.replica().0).unwrap()), give_up }
    }

    /// Has steps taken by whoever leads until the change has ended.
    async fn change(&self, kind: ChangeKind) -> Progress {
        self.carry_out(Self::wish(kind, false)).await
    }

    async fn carry_out(&self, wish: Wish) -> Progress {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let progress = match self.leader() {
                Some(leader) => step(leader, &wish).await,
                None => Progress::Failed("nobody leads".to_owned()),
            };
            if matches!(progress, Progress::Done | Progress::Undone) {
                return progress;
            }
            assert!(Instant::now() < until, "{wish:?} does not end: {progress:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn voters(&self) -> Vec<u64> {
        self.leader().map(|leader| leader.raft.voter_ids().collect()).unwrap_or_default()
    }

    async fn stop(self) {
        for replica in &self.replicas {
            replica.stop().await;
        }
        assert_eq!(self.failure.reason(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_come_and_go_whatever_step_is_repeated() {
    let trio = Trio::of_three().await;
    assert_eq!(trio.voters(), [1, 2, 3]);
    // Again, as by another reconciler.
    let again = ChangeKind::AddVoter { replica: ReplicaId(2), instead: None };
    assert_eq!(trio.change(again).await, Progress::Done);
    assert_eq!(trio.voters(), [1, 2, 3]);
    // The leader itself goes: another one says that it is gone.
    let gone = trio.leader().unwrap().replica;
    assert_eq!(trio.change(ChangeKind::Remove { replica: gone }).await, Progress::Done);
    assert_eq!(trio.voters().len(), 2);
    assert!(!trio.voters().contains(&gone.0));
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_left_half_done_is_ended_or_undone() {
    let trio = Trio::new().await;
    let learner = ChangeKind::AddLearner { replica: ReplicaId(2) };
    assert_eq!(trio.change(learner).await, Progress::Done);
    // Taken up as what it was to become, and given up.
    let voter = ChangeKind::AddVoter { replica: ReplicaId(2), instead: None };
    assert_eq!(trio.carry_out(Trio::wish(voter, true)).await, Progress::Undone);
    let leader = trio.leader().unwrap();
    assert_eq!(leader.raft.metrics().borrow_watched().membership_config.membership().nodes().count(), 1);
    // One vote in the place of another, in one go; the one that goes is the only one, and leads.
    let moved = ChangeKind::AddVoter { replica: ReplicaId(3), instead: Some(ReplicaId(1)) };
    assert_eq!(trio.change(moved).await, Progress::Done);
    assert_eq!(trio.voters(), [3]);
    trio.stop().await;
}

/// A replica that was added by a later leader would be wiped by what an earlier one says of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_says_nothing_of_a_change() {
    let trio = Trio::of_three().await;
    let deposed = Arc::clone(trio.leader().unwrap());
    trio.wires.cut.lock().unwrap().insert(NodeId(u32::try_from(deposed.replica.0).unwrap()));
    let unknown = ChangeKind::AddVoter { replica: ReplicaId(9), instead: None };
    let progress = step(&deposed, &Trio::wish(unknown, true)).await;
    assert!(matches!(progress, Progress::Failed(_)), "{progress:?}");
    let known = ChangeKind::AddVoter { replica: ReplicaId(2), instead: None };
    let progress = step(&deposed, &Trio::wish(known, false)).await;
    assert!(matches!(progress, Progress::Failed(_)), "{progress:?}");
    trio.wires.cut.lock().unwrap().clear();
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_could_lead_is_told_to() {
    let trio = Trio::new().await;
    assert_eq!(trio.change(ChangeKind::AddLearner { replica: ReplicaId(2) }).await, Progress::Done);
    let leader = trio.leader().unwrap();
    for (to, why) in [(2, "no voter"), (9, "no voter")] {
        let refused = leader.transfer(ReplicaId(to)).await.unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    assert!(trio.replicas[1].transfer(ReplicaId(2)).await.unwrap_err().contains("does not lead"));
    leader.transfer(leader.replica).await.unwrap();
    assert!(leader.raft.is_leader());
    trio.stop().await;
}
