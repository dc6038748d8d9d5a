//! Simulated machines: each has a disk that outlives it, and at most one node that runs.
//!
//! A node that has crashed is not told: it loses its wires and its disk, which is a copy from then on, and goes on in vain
//! until it has ended by itself. Nothing that it does afterwards reaches anybody.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_storage::disk::{Disk, FakeDisk};
use larder_storage::log::{LogOptions, LogSteps, LogWriter};
use larder_types::api::Scope;
use larder_types::ids::NodeId;
use tokio::sync::Notify;

use super::net::{Net, Wires};
use super::plan::Plan;
use super::{FOUNDER, MAX_STALENESS, SEED, SHARDS};
use crate::catalog::{ApiKey, CatalogCommand, CatalogReply, ClusterSettings, Contact};
use crate::node::identity::{self, Identity};
use crate::node::service::{Answerer, NodeService};
use crate::node::start::{self, Ground, Outside};
use crate::node::{Bootstrap, ClusterOptions, Node, NodeOptions, StartError};
use crate::simulated::{chance, one_of, pause};

/// How a machine goes off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Off {
    /// What was not synced may be lost.
    PowerCut,
    /// What was written is kept.
    Killed,
}

/// All machines.
pub(super) struct Machines {
    pub(super) net: Net,
    plan: Plan,
    inner: Mutex<BTreeMap<NodeId, Machine>>,
    /// Why a node did not start.
    refused: Mutex<Vec<String>>,
    joining: AtomicU64,
}

struct Machine {
    incarnation: String,
    disk: FakeDisk,
    boot: u64,
    /// Longest time of a sync now, in microseconds.
    disk_micros: Arc<AtomicU64>,
    on: Option<On>,
}

/// What runs on a machine.
struct On {
    steps: LogSteps,
    answerer: Arc<Answerer>,
    /// `None` while it starts.
    node: Option<Arc<Node>>,
}

/// A node that runs, and which run of its machine it is.
#[derive(Clone)]
pub(super) struct Alive {
    pub(super) id: NodeId,
    pub(super) boot: u64,
    pub(super) node: Arc<Node>,
}

pub(super) fn settings() -> ClusterSettings {
    ClusterSettings { id: "0123456789abcdef".repeat(2), hash_seed: SEED, shards: SHARDS, created_at: 1 }
}

fn bootstrap() -> Bootstrap {
    let (id, label) = ("root".to_owned(), "root".to_owned());
    let root = ApiKey { id, sha256: "a".repeat(64), label, scopes: vec![Scope::Admin], created_at: 1 };
    Bootstrap { settings: settings(), root }
}

impl Machines {
    pub(super) fn new(net: Net, plan: Plan) -> Arc<Self> {
        Arc::new(Self { net, plan, inner: Mutex::default(), refused: Mutex::default(), joining: AtomicU64::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Machine>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new machine with an empty disk, off.
    pub(super) fn add(&self, id: NodeId, incarnation: String) -> FakeDisk {
        let disk = FakeDisk::new();
        disk.create_dir(Path::new("")).unwrap();
        let disk_micros = Arc::new(AtomicU64::new(self.plan.disk_micros));
        let machine = Machine { incarnation, disk: disk.clone(), boot: 0, disk_micros, on: None };
        self.lock().insert(id, machine);
        disk
    }

    /// Lets a new machine join the cluster: it asks again and again, as a node does.
    pub(super) async fn join(self: &Arc<Self>) -> NodeId {
        self.joining.fetch_add(1, Ordering::Relaxed);
        let incarnation = format!("{:016x}{:016x}", chance(), chance());
        let (node, replica) = loop {
            let command = CatalogCommand::JoinNode { contact: contact(&incarnation), at: 1 };
            if let Some(by) = self.any() {
                let joined = tokio::time::timeout(Duration::from_secs(20), by.node.propose_catalog(command)).await;
                if let Ok(Ok(CatalogReply::Joined { node, replica, .. })) = joined {
                    break (node, replica);
                }
            }
            tokio::time::sleep(pause(1_000_000)).await;
        };
        let disk = self.add(node, incarnation.clone());
        identity::incarnation(&disk, || incarnation.clone()).unwrap();
        Identity::joined(settings(), incarnation, node, replica).save(&disk).unwrap();
        self.start(node);
        self.joining.fetch_sub(1, Ordering::Relaxed);
        node
    }

    /// Whether a machine is still to join.
    pub(super) fn is_one_joining(&self) -> bool {
        self.joining.load(Ordering::Relaxed) > 0
    }

    /// Switches a machine on, if it is off.
    pub(super) fn start(self: &Arc<Self>, id: NodeId) {
        let mut machines = self.lock();
        let Some(machine) = machines.get_mut(&id).filter(|machine| machine.on.is_none()) else { return };
        machine.boot += 1;
        let due = Arc::new(Notify::new());
        let told = Arc::clone(&due);
        let steps = LogSteps::new(Arc::new(move || told.notify_one()));
        tokio::spawn(write(steps.clone(), due, Arc::clone(&machine.disk_micros)));
        let log_options = LogOptions {
            segment_bytes: self.plan.segment_bytes,
            cache_bytes: 16 << 10,
            writer: LogWriter::Steps(steps.clone()),
        };
        let (disk, boot) = (machine.disk.clone(), machine.boot);
        let lock = start::lock(&disk, Path::new("/simulated")).expect("a disk is used once");
        let ground = Ground::new(log_options, Arc::new(disk), lock);
        let wires = Wires { net: self.net.clone(), from: id, boot };
        let outside = Outside::by(Arc::new(wires), boot, &ground);
        let answerer = Arc::clone(&outside.answerer);
        self.net.attach(id, boot, Arc::new(NodeService(Arc::clone(&answerer))));
        let options = self.options(&machine.incarnation);
        machine.on = Some(On { steps, answerer, node: None });
        let contact = contact(&machine.incarnation);
        drop(machines);
        let machines = Arc::clone(self);
        tokio::spawn(async move {
            let started = start::settle(options, ground, contact, outside).await;
            let refusal = started.as_ref().err();
            machines.net.trace().add(format_args!("{id} has started for the {boot}. time: {refusal:?}"));
            machines.started(id, boot, started).await;
        });
    }

    async fn started(self: &Arc<Self>, id: NodeId, boot: u64, started: Result<Arc<Node>, StartError>) {
        let node = match started {
            Ok(node) => node,
            Err(error) => {
                let crashed =
                    self.lock().get(&id).is_none_or(|m| m.boot != boot || m.on.is_none() || m.disk.has_crashed());
                if !crashed {
                    let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                    refused.push(format!("node {id} does not start: {error} ({error:?})"));
                }
                return;
            }
        };
        {
            let mut machines = self.lock();
            let machine = machines.get_mut(&id).filter(|machine| machine.boot == boot);
            if let Some(on) = machine.and_then(|machine| machine.on.as_mut()) {
                on.node = Some(node);
                return;
            }
        }
        node.shutdown().await;
    }

    /// Switches a machine off, as hard as it comes.
    pub(super) fn crash(&self, id: NodeId, how: Off) {
        let mut machines = self.lock();
        let Some(machine) = machines.get_mut(&id) else { return };
        let Some(on) = machine.on.take() else { return };
        self.net.detach(id);
        on.steps.cut();
        machine.disk = match how {
            Off::PowerCut => machine.disk.power_cut(chance()),
            Off::Killed => machine.disk.after_kill(),
        };
        drop(machines);
        tokio::spawn(async move {
            match on.node {
                Some(node) => node.shutdown().await,
                None => {
                    for replica in on.answerer.replicas.all().iter() {
                        replica.stop().await;
                    }
                }
            }
        });
    }

    /// Lets the power of a machine fail after so many more operations of its disk.
    pub(super) fn crash_after(&self, id: NodeId, operations: u64) {
        // One that has crashed already must stay so until its machine is off.
        let works = |machine: &&Machine| machine.on.is_some() && !machine.disk.has_crashed();
        if let Some(machine) = self.lock().get(&id).filter(works) {
            machine.disk.crash_after(operations);
        }
    }

    /// Stops a node in order.
    pub(super) async fn stop(&self, id: NodeId) {
        let Some(alive) = self.alive().into_iter().find(|alive| alive.id == id) else { return };
        alive.node.shutdown().await;
        // The log writes what it has before it ends.
        loop {
            let ended = self.lock().get(&id).and_then(|m| m.on.as_ref()).is_none_or(|on| on.steps.has_ended());
            if ended {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let is_it = self.lock().get(&id).is_some_and(|machine| machine.boot == alive.boot);
        if is_it {
            self.crash(id, Off::Killed);
        }
    }

    /// Switches off whoever's disk has crashed.
    pub(super) fn reap(&self) -> Vec<NodeId> {
        let crashed: Vec<_> =
            self.lock().iter().filter(|(_, m)| m.on.is_some() && m.disk.has_crashed()).map(|(id, _)| *id).collect();
        crashed.iter().for_each(|id| self.crash(*id, Off::PowerCut));
        crashed
    }

    /// What must not happen and did.
    pub(super) fn refusals(&self) -> Vec<String> {
        std::mem::take(&mut *self.refused.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The nodes that run.
    pub(super) fn alive(&self) -> Vec<Alive> {
        let machines = self.lock();
        let alive = machines.iter().filter_map(|(id, machine)| {
            let node = machine.on.as_ref()?.node.clone()?;
            Some(Alive { id: *id, boot: machine.boot, node })
        });
        alive.collect()
    }

    /// A node that runs.
    pub(super) fn any(&self) -> Option<Alive> {
        let alive = self.alive();
        (!alive.is_empty()).then(|| one_of(&alive).clone())
    }

    /// Whether a node still runs.
    pub(super) fn runs(&self, alive: &Alive) -> bool {
        self.lock().get(&alive.id).is_some_and(|machine| machine.boot == alive.boot && machine.on.is_some())
    }

    /// Every machine, and whether it is on.
    pub(super) fn all(&self) -> Vec<(NodeId, bool)> {
        self.lock().iter().map(|(id, machine)| (*id, machine.on.is_some())).collect()
    }

    /// How often machines were switched on.
    pub(super) fn boots(&self) -> u64 {
        self.lock().values().map(|machine| machine.boot).sum()
    }

    /// Sets the longest time of a sync.
    pub(super) fn slow(&self, id: NodeId, micros: Option<u64>) {
        if let Some(machine) = self.lock().get(&id) {
            machine.disk_micros.store(micros.unwrap_or(self.plan.disk_micros), Ordering::Relaxed);
        }
    }

    fn options(&self, incarnation: &str) -> NodeOptions {
        NodeOptions {
            data_dir: "/simulated".into(),
            bootstrap: Box::new(bootstrap),
            incarnation: incarnation.to_owned(),
            shards: SHARDS,
            advertise: String::new(),
            cluster: Some(ClusterOptions {
                listen: ([127, 0, 0, 1], 1).into(),
                address: address(incarnation),
                seeds: Vec::new(),
                zone: String::new(),
                replication_factor: 3,
                max_staleness: MAX_STALENESS,
                dead_after: Duration::from_secs(900),
                transfer_bytes_per_second: 0,
                tls: None,
            }),
            snapshot_log_bytes: self.plan.snapshot_log_bytes,
            snapshot_bytes_per_second: 0,
            max_inflight_bytes: 8 << 20,
            max_memory_bytes: 1 << 30,
        }
    }

    /// Switches the first machine on, which makes the cluster.
    pub(super) fn found(self: &Arc<Self>) {
        self.add(FOUNDER, "f".repeat(32));
        self.start(FOUNDER);
    }
}

/// No two machines have the same.
fn address(incarnation: &str) -> String {
    format!("{incarnation}:1")
}

fn contact(incarnation: &str) -> Contact {
    let (address, advertise, zone) = (address(incarnation), String::new(), String::new());
    Contact { incarnation: incarnation.to_owned(), address, advertise, zone }
}

/// Lets a log write whenever it has something to write and its disk has had its time.
async fn write(steps: LogSteps, due: Arc<Notify>, micros: Arc<AtomicU64>) {
    loop {
        due.notified().await;
        tokio::time::sleep(pause(micros.load(Ordering::Relaxed))).await;
        if !steps.step() {
            return;
        }
    }
}
