//! How a node comes up: from a data directory to groups that have caught up.
//!
//! The order matters. The lock comes first, so that nobody else writes; the identity second, so that a crash at any
//! later step leaves a directory that knows what it is, and the next start takes the step again: a group that was never
//! initialised is initialised then, and a catalog without a cluster is bootstrapped then.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use larder_storage::disk::{DirLock, Disk};
use larder_storage::log::{Log, LogError, LogOptions};
use larder_storage::shard::{Shard, ShardOptions, ShardReader};
use larder_storage::snapshot::{SnapshotError, SnapshotStore};
use larder_types::ids::{GroupId, ShardId};
use openraft::Config;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::compaction::Compactor;
use super::error::StartError;
use super::group::{Group, Seat};
use super::identity::{Identity, IdentityError, Replica};
use super::intents::Executor;
use super::memory::MemoryLimit;
use super::proposer::{MAX_COMMAND_BYTES, Proposer};
use super::{Bootstrap, Node, NodeOptions};
use crate::catalog::{Catalog, CatalogCommand, CatalogState, IntentsReader, RunsReader};
use crate::failure::Failure;
use crate::raft::machine::{CatalogMachine, Machine, MachineError, State, Surroundings};
use crate::raft::pace::Pace;
use crate::raft::snapshot::{Shelf, Workbench, describe};
use crate::raft::types;

const LOG_DIR: &str = "log";
const SNAPSHOT_DIR: &str = "snapshots";

/// Bytes of a segment of the log, at most; smaller where snapshots are taken more often, so that a purge frees some.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes of a segment of the log, at least: the log takes entries of up to a quarter.
const MIN_SEGMENT_BYTES: u64 = 4 * MAX_COMMAND_BYTES as u64;
/// Bytes of entries that the log keeps in memory for whoever applies or replicates them.
const LOG_CACHE_BYTES: u64 = 64 << 20;

/// What is shared by all groups while they start.
struct Site {
    log: Log,
    snapshots: SnapshotStore,
    around: Surroundings,
    config: Arc<Config>,
    identity: Identity,
    /// Loading snapshots takes a core each, or more.
    loading: Arc<Semaphore>,
}

/// What is seen from outside of the state machines.
struct Views {
    cell: Arc<ArcSwap<Catalog>>,
    changed: Arc<Notify>,
    runs: RunsReader,
    intents: IntentsReader,
    readers: Vec<ShardReader>,
}

/// Starts a node on a disk whose lock is held.
pub(super) async fn start(
    options: NodeOptions,
    log_options: LogOptions,
    disk: Arc<dyn Disk>,
    lock: DirLock,
) -> Result<Arc<Node>, StartError> {
    let NodeOptions { data_dir, bootstrap, max_inflight_bytes, max_memory_bytes, .. } = options;
    let NodeOptions { snapshot_log_bytes, snapshot_bytes_per_second, .. } = options;
    let (identity, bootstrap) = identify(disk.as_ref(), bootstrap).map_err(|error| error.at(&data_dir))?;
    let failure = Failure::new();
    let max_command_bytes = usize::try_from(log_options.segment_bytes / 4).unwrap_or(usize::MAX).min(MAX_COMMAND_BYTES);
    let pace = Pace::new(snapshot_bytes_per_second);
    let site = open_site(Arc::clone(&disk), identity, &failure, log_options, pace, &data_dir).await?;
    let (states, views) = make_states(&site.identity);
    let groups = match start_groups(&site, states).await {
        Ok(groups) => groups,
        Err(error) => {
            site.log.close();
            return Err(error);
        }
    };
    let proposer = Proposer::new(groups.clone(), site.log.clone(), max_inflight_bytes, max_command_bytes);
    let proposer = Arc::new(proposer);
    let executor = Executor::new(Arc::clone(&proposer), views.intents, views.readers.clone(), failure.clone());
    let compactor = Compactor::new(groups.clone(), site.log.clone(), site.around.workbench.clone(), snapshot_log_bytes);
    let watchers = groups.into_iter().map(|group| failure.spawn("group", group.watch(failure.clone())));
    let mut tasks: Vec<_> = watchers.collect();
    tasks.push(failure.spawn("intents", Arc::clone(&executor).attend(views.changed)));
    tasks.push(failure.spawn("compaction", compactor.run()));
    let node = Arc::new(Node {
        identity: site.identity,
        catalog: views.cell,
        runs: views.runs.clone(),
        memory: MemoryLimit::new(max_memory_bytes, views.readers.clone(), views.runs.clone()),
        readers: views.readers,
        proposer,
        executor,
        log: site.log,
        failure,
        tasks: Mutex::new(tasks),
        workbench: site.around.workbench,
        data_dir,
        _lock: lock,
    });
    match make_cluster(&node, disk.as_ref(), bootstrap).await {
        Ok(()) => Ok(node),
        Err(error) => {
            node.shutdown().await;
            Err(error)
        }
    }
}

/// How the log of a node behaves that takes snapshots this often.
pub(super) fn log_options(snapshot_log_bytes: u64) -> LogOptions {
    let segment_bytes = (snapshot_log_bytes / 4).clamp(MIN_SEGMENT_BYTES, SEGMENT_BYTES);
    LogOptions { segment_bytes, cache_bytes: LOG_CACHE_BYTES }
}

/// Takes the data directory. A directory that another process holds says so by `ResourceBusy`.
pub(super) fn lock(disk: &dyn Disk, data_dir: &Path) -> Result<DirLock, StartError> {
    disk.lock(Path::new("")).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => StartError::InUse(data_dir.to_owned()),
        _ => StartError::Io(data_dir.to_owned(), error),
    })
}

type MakeBootstrap = Box<dyn FnOnce() -> Bootstrap + Send>;

/// Reads the identity, or makes the one of a new cluster. What makes a cluster is asked for only if the directory is
/// new; if a crash came between, again.
fn identify(disk: &dyn Disk, bootstrap: MakeBootstrap) -> Result<(Identity, MakeBootstrap), IdentityError> {
    if let Some(identity) = Identity::load(disk)? {
        return Ok((identity, bootstrap));
    }
    for dir in [LOG_DIR, SNAPSHOT_DIR] {
        match disk.list(Path::new(dir)) {
            Ok(files) if files.is_empty() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(_) => return Err(IdentityError::Missing(dir)),
            Err(error) => return Err(error.into()),
        }
    }
    let made = bootstrap();
    let identity = Identity::first(made.settings.clone())?;
    identity.save(disk)?;
    Ok((identity, Box::new(move || made)))
}

async fn open_site(
    disk: Arc<dyn Disk>,
    identity: Identity,
    failure: &Failure,
    log_options: LogOptions,
    pace: Pace,
    data_dir: &Path,
) -> Result<Site, StartError> {
    let config = types::config().map_err(|error| StartError::Raft { group: 0, message: error.to_string() })?;
    let failed = {
        let failure = failure.clone();
        Box::new(move |error: &io::Error| {
            failure.fail(format!("the log cannot be written: {error}; mend the disk, then start again"))
        })
    };
    let opened = tokio::task::spawn_blocking(move || -> Result<_, OpenError> {
        let log = Log::open(Arc::clone(&disk), Path::new(LOG_DIR), log_options, failed)?;
        Ok((log, SnapshotStore::open(disk, Path::new(SNAPSHOT_DIR))?))
    });
    let opened = opened.await.unwrap_or_else(|error| Err(OpenError::Log(io::Error::other(error).into())));
    let (log, snapshots) = opened.map_err(|error| error.at(data_dir))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Snapshots of several groups are read side by side; what is left of the cores helps each of them.
    let threads = NonZeroUsize::new(cores / identity.replicas.len().max(1)).unwrap_or(NonZeroUsize::MIN);
    Ok(Site {
        log,
        snapshots,
        around: Surroundings { workbench: Workbench::new(pace), failure: failure.clone(), threads },
        config: Arc::new(config),
        identity,
        loading: Arc::new(Semaphore::new(cores)),
    })
}

/// Empty state machines for all groups, and their views.
fn make_states(identity: &Identity) -> (Vec<State>, Views) {
    let state = CatalogState::default();
    let cell = Arc::new(ArcSwap::new(state.catalog()));
    let changed = Arc::new(Notify::new());
    let (runs, intents) = (state.runs(), state.intents_reader());
    let catalog = CatalogMachine { state, cell: Arc::clone(&cell), changed: Arc::clone(&changed) };
    let hash_seed = identity.cluster.hash_seed;
    let shards = (0..identity.cluster.shards).map(|id| Shard::new(ShardOptions { id: ShardId(id), hash_seed }));
    let mut states = vec![State::Catalog(catalog)];
    states.extend(shards.map(State::Shard));
    let readers = states.iter().filter_map(|state| match state {
        State::Shard(shard) => Some(shard.reader()),
        State::Catalog(_) => None,
    });
    let readers = readers.collect();
    (states, Views { cell, changed, runs, intents, readers })
}

/// Brings all groups back, side by side, and waits until they have caught up. If one cannot, all are stopped.
async fn start_groups(site: &Site, states: Vec<State>) -> Result<Vec<Group>, StartError> {
    let mut starting = JoinSet::new();
    for (&replica, state) in site.identity.replicas.iter().zip(states) {
        starting.spawn(start_group(site.open(replica, state), site.around.failure.clone()));
    }
    let mut groups = Vec::new();
    let mut failed = None;
    while let Some(started) = starting.join_next().await {
        match started.unwrap_or_else(|error| Err(StartError::Damaged(format!("a group did not start: {error}")))) {
            Ok(group) => groups.push(group),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        None => {
            groups.sort_by_key(|group| group.id);
            Ok(groups)
        }
        Some(error) => {
            for group in groups {
                group.stop().await;
            }
            Err(error)
        }
    }
}

async fn start_group(
    opening: impl Future<Output = Result<(Seat, Machine), StartError>>,
    failure: Failure,
) -> Result<Group, StartError> {
    let (seat, machine) = opening.await?;
    // What stopped the node says more than what its group makes of it.
    let better = |error: StartError| failure.reason().map_or(error, StartError::Damaged);
    let group = Group::start(seat, machine).await.map_err(better)?;
    let recovered = tokio::select! {
        recovered = group.recover() => recovered.map_err(better),
        reason = failure.wait() => Err(StartError::Damaged(reason)),
    };
    match recovered {
        Ok(()) => Ok(group),
        Err(error) => {
            group.stop().await;
            Err(error)
        }
    }
}

impl Site {
    /// Loads a group's newest snapshot into its state machine.
    fn open(
        &self,
        Replica { group: id, replica }: Replica,
        state: State,
    ) -> impl Future<Output = Result<(Seat, Machine), StartError>> + use<> {
        let (log, node, config) = (self.log.group(id), self.identity.node, Arc::clone(&self.config));
        let is_new = !self.identity.made;
        let shelf = Shelf::new(self.snapshots.clone(), id);
        let (around, loading) = (self.around.clone(), Arc::clone(&self.loading));
        async move {
            let _turn = loading.acquire().await;
            let opened = tokio::task::spawn_blocking(move || Machine::open(id, state, shelf, around)).await;
            let machine = match opened {
                Ok(Ok(machine)) => machine,
                Ok(Err(error)) => return Err(not_loaded(id, &error)),
                Err(error) => return Err(StartError::Damaged(format!("group {id} cannot be loaded: {error}"))),
            };
            Ok((Seat { id, replica, node, is_new, log, config }, machine))
        }
    }
}

fn not_loaded(id: GroupId, error: &MachineError) -> StartError {
    StartError::Damaged(format!("the snapshot of group {id} cannot be loaded: {}", describe(error)))
}

/// Makes the cluster if that was not done, and checks that catalog and identity agree.
async fn make_cluster(node: &Node, disk: &dyn Disk, bootstrap: MakeBootstrap) -> Result<(), StartError> {
    let wanted = &node.identity.cluster;
    if node.catalog().cluster.is_none() {
        // The identity's settings, which the groups were made by; only the key may be another than before a crash.
        let Bootstrap { settings: _, root } = bootstrap();
        let command = CatalogCommand::Bootstrap { settings: wanted.clone(), root };
        node.propose_catalog(command)
            .await
            .map_err(|error| StartError::Raft { group: GroupId::CATALOG.0, message: error.to_string() })?;
    }
    if node.catalog().cluster.as_ref() != Some(wanted) {
        let text =
            "the identity file and the catalog tell of different clusters: restore the data directory as a whole";
        return Err(StartError::Damaged(text.to_owned()));
    }
    if !node.identity.made {
        let mut identity = node.identity.clone();
        identity.made = true;
        identity.save(disk).map_err(|error| error.at(&node.data_dir))?;
    }
    Ok(())
}

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

impl IdentityError {
    fn at(self, data_dir: &Path) -> StartError {
        match self {
            Self::Io(error) => StartError::Io(data_dir.to_owned(), error),
            error => StartError::Damaged(format!("{}: {error}", data_dir.display())),
        }
    }
}
