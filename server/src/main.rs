//! `larder-server`: reads the command line and the configuration, starts the node and serves until told to stop.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::Parser as _;
use larder_replication::catalog::{ApiKey, ClusterSettings, ROOT_KEY_ID};
use larder_replication::node::{Bootstrap, Node, NodeOptions, Served, StartError};
use larder_server::admin::{Admin, AdminListener};
use larder_server::api_key::{self, NewKey};
use larder_server::cli::{Cli, Command, StartArgs};
use larder_server::config::{Config, LogFormat};
use larder_server::server::{Listeners, Server};
use larder_server::{clock, dev_cluster, memory, operate};
use larder_types::api::Scope;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Threads of the node's own runtime: it waits for disks more than it computes.
const NODE_THREADS: usize = 2;
/// Threads on which batches are parsed and other blocking work is done, at most.
const BLOCKING_THREADS: usize = 16;
const ROOT_KEY: &str = "LARDER_ROOT_KEY";
const LOG: &str = "LARDER_LOG";

/// Why the program ends, with the exit code that `--help` lists.
struct Failure(u8, anyhow::Error);

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(1, error)
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Start(args) => start(&args).map(|()| 0),
        Command::Cluster(args) => {
            ask(operate::run(&args)).and_then(|done| done.map_err(|error| Failure(error.exit_code(), error.into())))
        }
        Command::DevCluster(args) => {
            ask(dev_cluster::run(&args)).and_then(|done| Ok(done.map(|()| 0).map_err(anyhow::Error::from)?))
        }
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(Failure(code, error)) => {
            report(format_args!("{error:#}"));
            ExitCode::from(code)
        }
    }
}

#[allow(clippy::print_stderr, reason = "the last word of a program that ends goes to stderr, logging or not")]
fn report(what: impl Display) {
    eprintln!("larder-server: {what}");
}

/// Runs what asks servers and is none.
fn ask<T>(asking: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start a runtime")?.block_on(asking))
}

fn start(args: &StartArgs) -> Result<(), Failure> {
    let config = configure(args)?;
    let chosen_key = chosen_root_key()?;
    init_log(config.log)?;
    stop_on_panic();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), data_dir = %config.data_dir.display(), "starting");
    let listeners = Listeners::bind(config.listen, config.threads)
        .map_err(|e| Failure(3, anyhow!(e).context(format!("cannot listen on {}", config.listen))))?;
    let admin = config
        .admin_listen
        .map(AdminListener::bind)
        .transpose()
        .map_err(|e| Failure(3, anyhow!(e).context("cannot listen on the address of `admin_listen`")))?;
    let runtime = node_runtime().context("cannot start the node's runtime")?;
    let mut signals = Signals::catch(&runtime).context("cannot wait for signals")?;
    let Some(node) = start_node(&runtime, &mut signals, &config, chosen_key.as_deref())? else {
        // Whatever was going on is as safe to break off as by a power failure, so nothing is waited for.
        runtime.shutdown_background();
        return Ok(());
    };
    let server =
        Server::start(listeners, Arc::clone(&node), runtime.handle().clone(), config.limits).context("cannot serve")?;
    let _admin = admin.map(|admin| serve_admin(admin, &server, &runtime)).transpose()?;
    tracing::info!(listen = %server.address(), threads = config.threads, "ready");
    serve_until_stopped(&runtime, &mut signals, &node, server)
}

fn serve_admin(listener: AdminListener, server: &Server, runtime: &Runtime) -> Result<Admin, Failure> {
    tracing::info!(listen = %listener.address(), "serving metrics");
    Ok(listener.serve(server.metrics(), runtime.handle()).context("cannot serve metrics")?)
}

fn configure(args: &StartArgs) -> Result<Config, Failure> {
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|e| Failure(2, anyhow!(e).context(format!("cannot read the configuration {}", path.display()))))
    };
    let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
    Config::new(&file, args).map_err(|e| Failure(2, e.into()))
}

fn chosen_root_key() -> Result<Option<String>, Failure> {
    let unfit = |what: &dyn Display| Failure(2, anyhow!("{ROOT_KEY} cannot be the root key: {what}"));
    let Some(value) = std::env::var_os(ROOT_KEY) else { return Ok(None) };
    let text = value.into_string().map_err(|_| unfit(&"it is not text"))?;
    api_key::check_chosen(&text).map_err(|e| unfit(&e))?;
    Ok(Some(text))
}

fn init_log(format: LogFormat) -> Result<(), Failure> {
    let filter = match std::env::var(LOG) {
        Ok(text) => {
            EnvFilter::try_new(text).map_err(|e| Failure(2, anyhow!(e).context(format!("{LOG} is not valid"))))?
        }
        // The Raft library tells every step of every group at this level; what matters of it the node says itself.
        Err(_) => EnvFilter::new("info,openraft=error"),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    done.map_err(|e| anyhow!(e).context("cannot log").into())
}

/// A panic is a broken invariant: stopping is better than going on with it, whichever thread it was.
fn stop_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

fn node_runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NODE_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("node")
        .enable_all()
        .build()
}

/// The signals that stop the server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over. Until then each would end the process at once, with an exit code that says so.
    fn catch(runtime: &Runtime) -> std::io::Result<Self> {
        let _context = runtime.enter();
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one and says which it was.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Starts the node; `None` if a signal came first.
fn start_node(
    runtime: &Runtime,
    signals: &mut Signals,
    config: &Config,
    chosen: Option<&str>,
) -> Result<Option<Arc<Node>>, Failure> {
    let (root_text, made) = match chosen {
        Some(text) => (text.to_owned(), false),
        None => (NewKey::make().context("cannot make a root key")?.text, true),
    };
    let bootstrap = bootstrap(config.shards.get(), &root_text)?;
    let mut chance = [0u8; 16];
    fill(&mut chance)?;
    let (is_new, new) = std::sync::mpsc::channel();
    let max_memory_bytes = max_memory(config)?;
    let options = NodeOptions {
        data_dir: config.data_dir.clone(),
        bootstrap: Box::new(move || {
            // The receiver outlives the start, so this cannot fail.
            let _ = is_new.send(());
            bootstrap.clone()
        }),
        incarnation: hex(&chance),
        shards: config.shards.get(),
        advertise: config.advertise.clone(),
        cluster: config.cluster.clone(),
        snapshot_log_bytes: config.snapshot_log_bytes,
        snapshot_bytes_per_second: config.snapshot_bytes_per_second,
        max_inflight_bytes: config.max_inflight_bytes,
        max_memory_bytes,
    };
    let started = runtime.block_on(async {
        tokio::select! {
            started = Node::start(options) => Ok(started),
            name = signals.next() => Err(name),
        }
    });
    let node = match started {
        Ok(started) => started.map_err(explain)?,
        Err(signal) => {
            tracing::info!(signal, "stopped before the node had started");
            return Ok(None);
        }
    };
    let is_new = new.try_recv().is_ok();
    if is_new && made {
        show_root_key(&root_text);
    }
    if let Some(chosen) = chosen.filter(|_| !is_new) {
        warn_if_other_root_key(&node, chosen);
    }
    log_recovered(&node, is_new);
    Ok(Some(node))
}

fn log_recovered(node: &Node, is_new: bool) {
    let catalog = node.catalog();
    let shards = catalog.shard_count();
    let readers = node.readers_cell().load();
    let here = shards.iter().flat_map(|shards| shards.all()).filter_map(|shard| readers.get(shard));
    let records_of = |served: &Served| -> u64 {
        catalog.collections.values().map(|collection| served.reader().stats(collection.id).records).sum()
    };
    let records: u64 = here.map(|served| records_of(served)).sum();
    let shards = shards.map_or(0, larder_types::hash::ShardCount::get);
    tracing::info!(new = is_new, node = %node.id(), shards, collections = catalog.collections.len(), records, "data recovered");
}

/// The configured memory for records, or a part of what there is.
fn max_memory(config: &Config) -> Result<u64, Failure> {
    let max_memory = match config.max_memory {
        Some(bytes) => bytes,
        None => memory::default_limit()
            .context("cannot find out how much memory there is; set max_memory in the configuration")?,
    };
    tracing::info!(max_memory, configured = config.max_memory.is_some(), "memory for records");
    Ok(max_memory)
}

fn bootstrap(shards: u16, root_text: &str) -> Result<Bootstrap, Failure> {
    let mut random = [0u8; 24];
    fill(&mut random)?;
    let (id, seed) = random.split_at(16);
    let now = clock::now();
    Ok(Bootstrap {
        settings: ClusterSettings {
            id: hex(id),
            hash_seed: seed.iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte)),
            shards,
            created_at: now,
        },
        root: ApiKey {
            id: ROOT_KEY_ID.into(),
            sha256: api_key::sha256_text(root_text),
            label: "root".into(),
            scopes: vec![Scope::Admin],
            created_at: now,
        },
    })
}

fn fill(random: &mut [u8]) -> Result<(), Failure> {
    Ok(getrandom::fill(random).map_err(|e| anyhow!("the operating system gives no random bytes: {e}"))?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[allow(clippy::print_stdout, reason = "the one thing that must reach whoever started the program, and no log")]
fn show_root_key(text: &str) {
    println!("The root API key of this new cluster, shown only this once. Keep it:\n\n    {text}\n");
}

fn warn_if_other_root_key(node: &Node, chosen: &str) {
    let stored = node.catalog().keys.get(ROOT_KEY_ID).map(|key| key.sha256.clone());
    if stored.is_some_and(|stored| stored != api_key::sha256_text(chosen)) {
        tracing::warn!(
            "{ROOT_KEY} is not the root key of this data directory and is ignored: the first start fixed it"
        );
    }
}

fn explain(error: StartError) -> Failure {
    let code = match error {
        StartError::InUse(_) | StartError::Peers(_) => 3,
        StartError::Damaged(_) => 4,
        StartError::Join(_) => 6,
        StartError::Io(..) | StartError::Raft { .. } => 1,
    };
    Failure(code, anyhow!(error).context("cannot start the node"))
}

/// Serves until a signal or a failure. After a failure nothing is drained: what has failed must not answer any more.
fn serve_until_stopped(
    runtime: &Runtime,
    signals: &mut Signals,
    node: &Arc<Node>,
    mut server: Server,
) -> Result<(), Failure> {
    let stopped = runtime.block_on(async {
        tokio::select! {
            signal = signals.next() => Ok(signal),
            reason = node.failed() => Err(format!("the node cannot go on: {reason}")),
            () = server.failed() => Err("a serving thread has ended".to_owned()),
        }
    });
    match stopped {
        Ok(signal) => {
            tracing::info!(signal, "stopping: requests in flight may end");
            server.drain();
            runtime.block_on(node.shutdown());
            tracing::info!("stopped");
            Ok(())
        }
        Err(reason) => {
            tracing::error!("{reason}");
            std::process::exit(5);
        }
    }
}
