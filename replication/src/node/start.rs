//! How a node comes up: from a data directory, and perhaps other nodes, to replicas that run.
//!
//! The order matters. The lock comes first, so that nobody else writes; the listener for peers next, so that nodes which
//! start together find each other; then the identity, so that a crash at any later step leaves a directory that knows
//! what it is, and the next start takes the step again: a group that was never initialised is initialised then, and a
//! catalog without a cluster is bootstrapped then.
//!
//! A replica that is its group's only voter is waited for: what it acknowledged can be read when the start is done. Others
//! recover in the background, when they hear from their leaders, and do not serve before.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use larder_storage::disk::{DirLock, Disk};
use larder_storage::log::{Log, LogError, LogOptions, LogWriter};
use larder_storage::snapshot::{SnapshotError, SnapshotStore};
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::compaction::Compactor;
use super::error::StartError;
use super::housekeeper::{Housekeeper, recover};
use super::identity::{self, Held, HeldState, Identity, IdentityError};
use super::intents::Executor;
use super::joining::{self, Doorkeeper, Found, Home, Wanted};
use super::memory::MemoryLimit;
use super::proposer::{MAX_COMMAND_BYTES, Proposer};
use super::reconciler::Reconciler;
use super::replica::{Origin, Replica};
use super::replicas::Replicas;
use super::report::Reports;
use super::reporter::Reporter;
use super::router::Router;
use super::service::{Answerer, NodeService};
use super::site::Site;
use super::{Bootstrap, ClusterOptions, Node, NodeOptions};
use crate::blocking;
use crate::catalog::{Catalog, CatalogCommand, CatalogState, Contact, IntentsReader, RunsReader};
use crate::failure::Failure;
use crate::peers::{Directory, PeerLimits, PeerOptions, Peers};
use crate::raft::machine::{CatalogMachine, State, Surroundings};
use crate::raft::network::{Courier, Nobody};
use crate::raft::pace::Pace;
use crate::raft::snapshot::Workbench;
use crate::raft::transfer::{Receiving, Sending};
use crate::raft::types;

const LOG_DIR: &str = "log";
const SNAPSHOT_DIR: &str = "snapshots";

/// Bytes of a segment of the log, at most; smaller where snapshots are taken more often, so that a purge frees some.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes of a segment of the log, at least: the log takes entries of up to a quarter.
const MIN_SEGMENT_BYTES: u64 = 4 * MAX_COMMAND_BYTES as u64;
/// Bytes of entries that the log keeps in memory for whoever applies or replicates them.
const LOG_CACHE_BYTES: u64 = 64 << 20;

/// What a node stands on.
pub(super) struct Ground {
    log_options: LogOptions,
    disk: Arc<dyn Disk>,
    lock: DirLock,
    views: Views,
    failure: Failure,
}

/// The catalog's state machine, and what is seen of it from outside.
struct Views {
    machine: CatalogMachine,
    cell: Arc<ArcSwap<Catalog>>,
    changed: Arc<Notify>,
    runs: RunsReader,
    intents: IntentsReader,
}

/// What a node without peers and one with them have in common before they know who they are.
pub(super) struct Outside {
    pub(super) answerer: Arc<Answerer>,
    peers: Option<Peers>,
    courier: Arc<dyn Courier>,
    boot: u64,
    /// Whether nobody could tell if this node still has its place in its cluster.
    is_unsure: AtomicBool,
}

/// The addresses of nodes, from the catalog.
struct Addresses(Arc<ArcSwap<Catalog>>);

impl Directory for Addresses {
    fn address(&self, node: NodeId) -> Option<String> {
        let catalog = self.0.load();
        let address = &catalog.map.nodes.get(&node)?.contact.address;
        (!address.is_empty()).then(|| address.clone())
    }
}

/// Starts a node on a disk whose lock is held.
pub(super) async fn start(
    mut options: NodeOptions,
    log_options: LogOptions,
    disk: Arc<dyn Disk>,
    lock: DirLock,
) -> Result<Arc<Node>, StartError> {
    let ground = Ground::new(log_options, disk, lock);
    let offered = std::mem::take(&mut options.incarnation);
    let incarnation = identity::incarnation(&*ground.disk, || offered).map_err(|error| at(error, &options.data_dir))?;
    let contact = contact(&options, incarnation);
    let outside = reach_out(&options, &ground).await?;
    let peers = outside.peers.clone();
    let started = settle(options, ground, contact, outside).await;
    if started.is_err()
        && let Some(peers) = peers
    {
        peers.shutdown().await;
    }
    started
}

/// Becomes what the data directory says, or what other nodes do.
pub(super) async fn settle(
    mut options: NodeOptions,
    ground: Ground,
    contact: Contact,
    outside: Outside,
) -> Result<Arc<Node>, StartError> {
    let identity = identify(&mut options, &*ground.disk, &contact, &outside).await?;
    go_on(options, ground, identity, contact, &outside).await
}

pub(super) fn contact(options: &NodeOptions, incarnation: String) -> Contact {
    let cluster = options.cluster.as_ref();
    Contact {
        incarnation,
        address: cluster.map(|cluster| cluster.address.clone()).unwrap_or_default(),
        advertise: options.advertise.clone(),
        zone: cluster.map(|cluster| cluster.zone.clone()).unwrap_or_default(),
    }
}

/// Starts to listen to other nodes.
async fn reach_out(options: &NodeOptions, ground: &Ground) -> Result<Outside, StartError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let boot = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    let Some(cluster) = &options.cluster else {
        return Ok(Outside::by(Arc::new(Nobody), boot, ground));
    };
    let tls = cluster.tls.clone().map(Into::into);
    let peer_options = PeerOptions { listen: cluster.listen, tls, boot, limits: PeerLimits::default() };
    let directory = Arc::new(Addresses(Arc::clone(&ground.views.cell)));
    let answerer = answerer(boot, ground);
    let service = Arc::new(NodeService(Arc::clone(&answerer)));
    let peers = Peers::start(peer_options, directory, service).await;
    let peers = peers.map_err(|error| StartError::Peers(crate::raft::snapshot::describe(&error)))?;
    let is_unsure = AtomicBool::new(false);
    Ok(Outside { answerer, courier: Arc::new(peers.clone()), peers: Some(peers), boot, is_unsure })
}

/// Reads the identity, or finds or makes the cluster that a new directory belongs to. What makes a cluster is asked for
/// only if the directory is new; if a crash came between, again.
async fn identify(
    options: &mut NodeOptions,
    disk: &dyn Disk,
    contact: &Contact,
    outside: &Outside,
) -> Result<Identity, StartError> {
    let fails = |error| at(error, &options.data_dir);
    let doorkeeper = &outside.answerer.doorkeeper;
    if let Some(mut identity) = Identity::load(disk, &contact.incarnation).map_err(fails)? {
        // At once: somebody may be looking for a cluster.
        doorkeeper.move_in(identity.cluster.clone(), identity.node);
        if let (Some(peers), Some(cluster)) = (&outside.peers, &options.cluster) {
            peers.set_identity(&identity.cluster.id, identity.node);
            match joining::come_back(peers, &wanted(options.shards, cluster, contact)).await? {
                Some(home) => take_up(&mut identity, &home)?,
                None => outside.is_unsure.store(true, Ordering::Relaxed),
            }
        }
        identity.save(disk).map_err(fails)?;
        return Ok(identity);
    }
    for dir in [LOG_DIR, SNAPSHOT_DIR] {
        match disk.list(Path::new(dir)) {
            Ok(files) if files.is_empty() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(_) => return Err(fails(IdentityError::Missing(dir))),
            Err(error) => return Err(fails(error.into())),
        }
    }
    doorkeeper.is_homeless(options.cluster.as_ref().and_then(|cluster| cluster.seeds.first().cloned()));
    let found = match (&outside.peers, &options.cluster) {
        (Some(peers), Some(cluster)) => joining::find(peers, &wanted(options.shards, cluster, contact)).await?,
        _ => Found::Nobody,
    };
    let incarnation = contact.incarnation.clone();
    let identity = match found {
        Found::Home(Home { settings, node, replica, .. }) => Identity::joined(settings, incarnation, node, replica),
        Found::Nobody => {
            let made = (options.bootstrap)();
            let identity = Identity::first(made.settings.clone(), incarnation).map_err(fails)?;
            options.bootstrap = again(made);
            identity
        }
    };
    identity.save(disk).map_err(fails)?;
    doorkeeper.move_in(identity.cluster.clone(), identity.node);
    if let Some(peers) = &outside.peers {
        peers.set_identity(&identity.cluster.id, identity.node);
    }
    Ok(identity)
}

fn wanted(shards: u16, cluster: &ClusterOptions, contact: &Contact) -> Wanted {
    let (seeds, replication_factor) = (cluster.seeds.clone(), cluster.replication_factor);
    Wanted { contact: contact.clone(), seeds, shards, replication_factor }
}

/// What was made once is what is made the next time.
fn again(made: Bootstrap) -> Box<dyn FnMut() -> Bootstrap + Send + Sync> {
    Box::new(move || made.clone())
}

/// Takes up the place that the cluster has for a node that comes back.
///
/// # Errors
/// When another cluster, or the same one under another number, would take the node in: it is not the one that it was.
fn take_up(identity: &mut Identity, home: &Home) -> Result<(), StartError> {
    if (&home.settings, home.node) != (&identity.cluster, identity.node) {
        let text = format!(
            "this data directory is node {} of cluster {}, but the seeds know it as node {} of cluster {}: correct \
             `cluster.seeds`, or empty the directory to join as a new node",
            identity.node, identity.cluster.id, home.node, home.settings.id
        );
        return Err(StartError::Join(text));
    }
    let catalog = identity.held(GroupId::CATALOG).map(|held| held.replica);
    if catalog != Some(home.replica) {
        tracing::warn!("this node has lost its replica of the catalog while it was away and gets a new one");
        if let Some(old) = catalog {
            identity.hold(Held { group: GroupId::CATALOG, replica: old, state: HeldState::Gone });
        }
        identity.catalog_next = Some(home.replica);
    }
    Ok(())
}

/// Opens everything that the identity names, and goes to work.
async fn go_on(
    options: NodeOptions,
    ground: Ground,
    identity: Identity,
    contact: Contact,
    outside: &Outside,
) -> Result<Arc<Node>, StartError> {
    let Ground { log_options, disk, lock, views, failure } = ground;
    let max_command_bytes = usize::try_from(log_options.segment_bytes / 4).unwrap_or(usize::MAX).min(MAX_COMMAND_BYTES);
    let site = Arc::new(open_site(&options, log_options, disk, &identity, outside, failure.clone()).await?);
    let Views { machine, cell, changed, runs, intents } = views;
    let replicas = Arc::clone(&outside.answerer.replicas);
    let mut housekeeper = open_all(&site, identity, &cell, State::Catalog(machine), outside).await?;
    let (node, settings) = (site.node, housekeeper.identity.cluster.clone());
    let cluster = options.cluster.as_ref();
    let reports = Arc::new(Reports::new(node, cluster.map_or(Duration::MAX, |cluster| cluster.dead_after)));
    let courier = Arc::clone(&outside.courier);
    let proposer = proposer(&options, &site, &reports, &replicas, &runs, max_command_bytes);
    let executor = Executor::new(Arc::clone(&proposer), intents, settings.shards, failure.clone());
    let workbench = site.around.workbench.clone();
    let compactor =
        Compactor::new(Arc::clone(&replicas), site.log.clone(), workbench.clone(), options.snapshot_log_bytes);
    let reporter = Reporter {
        boot: outside.boot,
        replicas: Arc::clone(&replicas),
        reports: Arc::clone(&reports),
        catalog: Arc::clone(&cell),
        courier: Arc::clone(&courier),
        failure: failure.clone(),
        max_staleness: cluster.map_or(Duration::MAX, |cluster| cluster.max_staleness),
    };
    let reconciler =
        Reconciler::new(Arc::clone(&proposer), Arc::clone(&reports), Arc::clone(&cell), Arc::clone(&courier));
    outside.answerer.join(Arc::clone(&reports), Arc::clone(&proposer), Arc::clone(&cell));
    // Before anybody looks, so that what was waited for serves at once.
    reporter.judge();
    let disk = Arc::clone(&site.disk);
    let mut identity = housekeeper.identity.clone();
    let started = Arc::new(Node {
        me: node,
        settings,
        catalog: cell,
        runs,
        replicas,
        reports,
        proposer,
        executor,
        courier,
        answerer: Arc::clone(&outside.answerer),
        peers: outside.peers.clone(),
        log: site.log.clone(),
        failure: failure.clone(),
        tasks: Mutex::new(vec![failure.spawn("reports", reporter.run()), failure.spawn("compaction", compactor.run())]),
        workbench,
        data_dir: options.data_dir.clone(),
        _lock: lock,
    });
    let wanted = options.cluster.as_ref().map(|cluster| wanted(options.shards, cluster, &contact));
    if let Err(error) = make_cluster(&started, &*disk, &mut identity, options, &contact).await {
        started.shutdown().await;
        return Err(error);
    }
    if let Some(wanted) = wanted {
        ask_later(&started, outside, wanted, &identity);
    }
    housekeeper.identity = identity;
    // They write what making the cluster writes too, so they begin only now.
    let mut tasks = started.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tasks.push(failure.spawn("intents", Arc::clone(&started.executor).attend(changed)));
    tasks.push(failure.spawn("housekeeping", housekeeper.run()));
    tasks.push(failure.spawn("reconciling", reconciler.run()));
    drop(tasks);
    Ok(started)
}

/// Opens all replicas, under the eye of who opens and closes them later.
async fn open_all(
    site: &Arc<Site>,
    identity: Identity,
    catalog: &Arc<ArcSwap<Catalog>>,
    machine: State,
    outside: &Outside,
) -> Result<Housekeeper, StartError> {
    let Answerer { replicas, receiving, .. } = &*outside.answerer;
    receiving.open(site.snapshots.clone());
    let mut housekeeper = Housekeeper {
        site: Arc::clone(site),
        identity,
        replicas: Arc::clone(replicas),
        catalog: Arc::clone(catalog),
        receiving: Arc::clone(receiving),
    };
    match open_replicas(&mut housekeeper, machine, outside).await {
        Ok(()) => Ok(housekeeper),
        Err(error) => {
            for replica in replicas.all().iter() {
                replica.stop().await;
            }
            site.log.close();
            Err(error)
        }
    }
}

/// Has a node that nobody could tell whether it still has its place ask until somebody can.
fn ask_later(node: &Node, outside: &Outside, wanted: Wanted, identity: &Identity) {
    let has_others = wanted.seeds.iter().any(|seed| *seed != wanted.contact.address);
    if let Some(peers) = outside.peers.as_ref().filter(|_| has_others && outside.is_unsure.load(Ordering::Relaxed))
        && let Some(catalog) = identity.held(GroupId::CATALOG)
    {
        let place = (node.me, catalog.replica);
        let asking = joining::ask_for_place(peers.clone(), wanted, place, node.failure.clone());
        let asking = node.failure.spawn("coming back", asking);
        node.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(asking);
    }
}

/// What proposals go through.
fn proposer(
    options: &NodeOptions,
    site: &Site,
    reports: &Arc<Reports>,
    replicas: &Arc<Replicas>,
    runs: &RunsReader,
    max_command_bytes: usize,
) -> Arc<Proposer> {
    let (replicas, reports) = (Arc::clone(replicas), Arc::clone(reports));
    let memory = MemoryLimit::new(options.max_memory_bytes, Arc::clone(&replicas), runs.clone());
    let router = Router { me: site.node, replicas, reports };
    let (courier, log) = (Arc::clone(&site.courier), site.log.clone());
    Arc::new(Proposer::new(router, courier, log, memory, options.max_inflight_bytes, max_command_bytes))
}

/// How the log of a node behaves that takes snapshots this often.
pub(super) fn log_options(snapshot_log_bytes: u64) -> LogOptions {
    let segment_bytes = (snapshot_log_bytes / 4).clamp(MIN_SEGMENT_BYTES, SEGMENT_BYTES);
    LogOptions { segment_bytes, cache_bytes: LOG_CACHE_BYTES, writer: LogWriter::Thread }
}

/// Takes the data directory. A directory that another process holds says so by `ResourceBusy`.
pub(super) fn lock(disk: &dyn Disk, data_dir: &Path) -> Result<DirLock, StartError> {
    disk.lock(Path::new("")).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => StartError::InUse(data_dir.to_owned()),
        _ => StartError::Io(data_dir.to_owned(), error),
    })
}

async fn open_site(
    options: &NodeOptions,
    log_options: LogOptions,
    disk: Arc<dyn Disk>,
    identity: &Identity,
    outside: &Outside,
    failure: Failure,
) -> Result<Site, StartError> {
    let config = types::config().map_err(|error| StartError::Raft { group: 0, message: error.to_string() })?;
    let failed = {
        let failure = failure.clone();
        Box::new(move |error: &io::Error| {
            failure.fail(format!("the log cannot be written: {error}; mend the disk, then start again"))
        })
    };
    let on = Arc::clone(&disk);
    let opened = blocking::spawn(move || -> Result<_, OpenError> {
        let log = Log::open(Arc::clone(&on), Path::new(LOG_DIR), log_options, failed)?;
        Ok((log, SnapshotStore::open(on, Path::new(SNAPSHOT_DIR))?))
    });
    let opened = opened.await.unwrap_or_else(|error| Err(OpenError::Log(io::Error::other(error).into())));
    let (log, snapshots) = opened.map_err(|error| error.at(&options.data_dir))?;
    let cores = blocking::cores();
    // Snapshots of several groups are read side by side; what is left of the cores helps each of them.
    let threads = NonZeroUsize::new(cores / identity.replicas.len().max(1)).unwrap_or(NonZeroUsize::MIN);
    let pace = Pace::new(options.snapshot_bytes_per_second);
    let transfer_rate = options.cluster.as_ref().map_or(0, |cluster| cluster.transfer_bytes_per_second);
    Ok(Site {
        disk,
        log,
        snapshots,
        around: Surroundings { workbench: Workbench::new(pace), failure, threads },
        config: Arc::new(config),
        node: identity.node,
        hash_seed: identity.cluster.hash_seed,
        courier: Arc::clone(&outside.courier),
        sending: Sending::new(transfer_rate),
        loading: Semaphore::new(cores),
    })
}

impl Ground {
    /// A disk whose lock is held, and nothing on it yet.
    pub(super) fn new(log_options: LogOptions, disk: Arc<dyn Disk>, lock: DirLock) -> Self {
        Self { log_options, disk, lock, views: Views::new(), failure: Failure::new() }
    }
}

impl Outside {
    /// The others are reached by this courier, and whoever has the answerer brings what they ask.
    pub(super) fn by(courier: Arc<dyn Courier>, boot: u64, ground: &Ground) -> Self {
        Self { answerer: answerer(boot, ground), peers: None, courier, boot, is_unsure: AtomicBool::new(false) }
    }
}

fn answerer(boot: u64, ground: &Ground) -> Arc<Answerer> {
    let receiving = Arc::new(Receiving::new(ground.failure.clone()));
    Answerer::new(boot, Replicas::new(), Doorkeeper::default(), receiving)
}

impl Views {
    fn new() -> Self {
        let state = CatalogState::default();
        let cell = Arc::new(ArcSwap::new(state.catalog()));
        let changed = Arc::new(Notify::new());
        let (runs, intents) = (state.runs(), state.intents_reader());
        let machine = CatalogMachine { state, cell: Arc::clone(&cell), changed: Arc::clone(&changed) };
        Self { machine, cell, changed, runs, intents }
    }
}

/// Brings all replicas back, side by side. Those that are alone in their groups have recovered when this returns.
async fn open_replicas(housekeeper: &mut Housekeeper, catalog: State, outside: &Outside) -> Result<(), StartError> {
    housekeeper.wipe().await?;
    housekeeper.take_catalog()?;
    let (site, made) = (Arc::clone(&housekeeper.site), housekeeper.identity.made);
    let mut catalog = Some(catalog);
    let mut opening = JoinSet::new();
    for held in &housekeeper.identity.replicas {
        let state = match held.group {
            GroupId::CATALOG => catalog.take().map(|state| (state, None)),
            group => Some(site.shard(group)),
        };
        let Some(state) = state else { continue };
        let origin = match held.state {
            HeldState::Kept => Origin::Known,
            _ if made => Origin::Joining,
            _ => Origin::Founding,
        };
        let (site, group, replica) = (Arc::clone(&site), held.group, held.replica);
        let fence = outside.answerer.fenced_for();
        opening.spawn(async move { bring_up(&site, group, replica, origin, state, fence).await });
    }
    let mut failed = None;
    while let Some(opened) = opening.join_next().await {
        let lost = |error| Err(StartError::Damaged(format!("a group did not start: {error}")));
        match opened.unwrap_or_else(lost) {
            Ok(replica) => housekeeper.replicas.add(replica),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn bring_up(
    site: &Arc<Site>,
    group: GroupId,
    id: ReplicaId,
    origin: Origin,
    state: (State, Option<larder_storage::shard::ShardReader>),
    fence: Option<Duration>,
) -> Result<Arc<Replica>, StartError> {
    let replica = site.open(group, id, origin, state).await?;
    // A group that has just been made is not in its metrics at once.
    if origin != Origin::Founding && !replica.is_alone() {
        // Without others nobody was promised anything; with them, see the boot fence.
        if let Some(fence) = fence.filter(|_| replica.log.state().vote.is_some()) {
            replica.raft.runtime_config().elect(false);
            let fenced = Arc::clone(&replica);
            site.failure().watch("fence", async move {
                tokio::time::sleep(fence).await;
                fenced.raft.runtime_config().elect(true);
            });
        }
        recover(site, Arc::clone(&replica));
        return Ok(replica);
    }
    let recovered = tokio::select! {
        biased;
        recovered = replica.recover() => recovered.map_err(|error| site.better(error)),
        reason = site.failure().wait() => Err(StartError::Damaged(reason)),
    };
    match recovered {
        Ok(()) => Ok(replica),
        Err(error) => {
            replica.stop().await;
            Err(error)
        }
    }
}

/// Makes the cluster if this is its first node and that was not done, and checks that catalog, identity and
/// configuration agree.
async fn make_cluster(
    node: &Node,
    disk: &dyn Disk,
    identity: &mut Identity,
    mut options: NodeOptions,
    contact: &Contact,
) -> Result<(), StartError> {
    let wanted = identity.cluster.clone();
    let fails = |error: super::ProposeError| StartError::Raft { group: 0, message: error.to_string() };
    if node.catalog().cluster.is_none() && !identity.made {
        // The identity's settings, which the groups were made by; only the key may be another than before a crash.
        let Bootstrap { settings: _, root } = (options.bootstrap)();
        let command = CatalogCommand::Bootstrap { settings: wanted.clone(), root };
        node.propose_catalog(command).await.map_err(fails)?;
    }
    let catalog = node.catalog();
    if catalog.cluster.as_ref().is_some_and(|cluster| *cluster != wanted) {
        let text =
            "the identity file and the catalog tell of different clusters: restore the data directory as a whole";
        return Err(StartError::Damaged(text.to_owned()));
    }
    let is_alone = node.replicas.get(GroupId::CATALOG).is_some_and(|catalog| catalog.is_alone());
    let factor = options.cluster.as_ref().map_or(DEFAULT_REPLICATION_FACTOR, |cluster| cluster.replication_factor);
    if is_alone && catalog.map.nodes.is_empty() {
        let replicas = identity.replicas.iter().map(|held| held.replica).collect();
        let at = wanted.created_at;
        let command =
            CatalogCommand::FormCluster { replication_factor: factor, contact: contact.clone(), replicas, at };
        node.propose_catalog(command).await.map_err(fails)?;
    }
    let catalog = node.catalog();
    if let Some(ClusterOptions { replication_factor, .. }) = &options.cluster
        && !catalog.map.nodes.is_empty()
    {
        joining::check_settings(&wanted, catalog.map.replication_factor, options.shards, *replication_factor)?;
    }
    let known = catalog.map.nodes.get(&node.me).map(|node| &node.contact);
    if is_alone && known.is_some_and(|known| known != contact) {
        let command = CatalogCommand::UpdateNode { node: node.me, contact: contact.clone() };
        node.propose_catalog(command).await.map_err(fails)?;
    }
    if !identity.made {
        identity.made = true;
        identity.replicas.iter_mut().for_each(|held| held.state = HeldState::Kept);
        identity.save(disk).map_err(|error| at(error, &node.data_dir))?;
    }
    Ok(())
}

/// Replicas of each group in a cluster that was made by a node alone.
const DEFAULT_REPLICATION_FACTOR: u8 = 3;

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
}

impl OpenError {
    fn at(self, data_dir: &Path) -> StartError {
        match self {
            Self::Log(LogError::Io(error)) => StartError::Io(data_dir.join(LOG_DIR), error),
            Self::Snapshots(SnapshotError::Io(error)) => StartError::Io(data_dir.join(SNAPSHOT_DIR), error),
            Self::Log(error) => StartError::Damaged(error.to_string()),
            Self::Snapshots(error) => StartError::Damaged(error.to_string()),
        }
    }
}

/// An error of the identity, with its place.
fn at(error: IdentityError, data_dir: &Path) -> StartError {
    match error {
        IdentityError::Io(error) => StartError::Io(data_dir.to_owned(), error),
        error => StartError::Damaged(format!("{}: {error}", data_dir.display())),
    }
}
