//! `larder-server dev-cluster`: several nodes on this machine, as child processes, for trying things out.
//!
//! A folder holds everything: the root key, and of each node configuration, data and log. The same command takes it up
//! again later. What happens to a node is its own business: one that ends is reported, and can be started again by hand
//! with its configuration.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line answers on standard output")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use larder_types::cluster::Health;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::api_key::NewKey;
use crate::cli::DevClusterArgs;
use crate::memory;
use crate::operate::client::Client;

const ROOT_KEY_FILE: &str = "root.key";
/// Ports for peers are so far above those for clients.
const PEERS_ABOVE: u16 = 100;
/// Pause between two looks at the nodes.
const PAUSE: Duration = Duration::from_millis(200);
/// How long nodes may take to stop; requests in flight may end.
const STOP: Duration = Duration::from_secs(20);
/// Lines of a log that are shown when its node has ended before the cluster was there.
const LAST_LINES: usize = 5;

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum DevClusterError {
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// A process cannot be started or watched.
    #[error("cannot start a node: {0}")]
    Process(#[from] io::Error),
    /// There is no randomness for a key.
    #[error("cannot make a root key: {0}")]
    Key(String),
    /// A node has ended before the cluster was formed.
    #[error("node {number} has ended ({status}); the end of its log {log} says:\n{lines}")]
    Ended {
        /// Which one.
        number: u16,
        /// How.
        status: ExitStatus,
        /// Where its log is.
        log: PathBuf,
        /// The end of it.
        lines: String,
    },
    /// All nodes have ended.
    #[error("all nodes have ended; their logs are in {0}")]
    AllEnded(PathBuf),
}

/// One node.
struct DevNode {
    number: u16,
    config: PathBuf,
    log: PathBuf,
    url: String,
    child: Child,
    has_ended: bool,
}

/// The nodes, which are told to stop when this is dropped.
struct Nodes(Vec<DevNode>);

/// Starts the nodes, says how to use them, and goes on until SIGINT or SIGTERM.
///
/// # Errors
/// See [`DevClusterError`].
pub async fn run(args: &DevClusterArgs) -> Result<(), DevClusterError> {
    // Taken over first, so that no node outlives this process if a signal comes early.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    fs::create_dir_all(&args.dir).map_err(at(&args.dir))?;
    let dir = args.dir.canonicalize().map_err(at(&args.dir))?;
    let key = root_key(&dir.join(ROOT_KEY_FILE))?;
    let mut nodes = Nodes(Vec::new());
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let done = tokio::select! {
        () = stopped => Ok(()),
        failed = attend(&mut nodes, args, &dir, &key) => failed,
    };
    eprintln!("stopping {} nodes", nodes.running());
    nodes.stop().await;
    done
}

/// Starts the nodes, waits for the cluster, then watches the nodes until all have ended.
async fn attend(nodes: &mut Nodes, args: &DevClusterArgs, dir: &Path, key: &str) -> Result<(), DevClusterError> {
    for number in 1..=args.nodes {
        nodes.0.push(start(args, dir, number, key)?);
        // One after the other, so that the cluster gives them the same numbers. The file is there once it has.
        while !dir.join(format!("node{number}")).join("node.json").exists() {
            nodes.refuse_ends()?;
            tokio::time::sleep(PAUSE).await;
        }
    }
    form(nodes, key).await?;
    explain(nodes, dir);
    loop {
        for node in nodes.0.iter_mut().filter(|node| !node.has_ended) {
            if let Some(status) = node.child.try_wait()? {
                node.has_ended = true;
                let (number, config) = (node.number, node.config.display());
                eprintln!(
                    "node {number} has ended ({status}); to start it again: larder-server start --config {config}"
                );
            }
        }
        if nodes.running() == 0 {
            return Err(DevClusterError::AllEnded(dir.to_owned()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until all nodes have joined, every group has its replicas, and all of them serve.
async fn form(nodes: &mut Nodes, key: &str) -> Result<(), DevClusterError> {
    let clients: Vec<_> = nodes.0.iter().filter_map(|node| Client::new(&node.url, key.to_owned()).ok()).collect();
    let mut told = String::new();
    loop {
        nodes.refuse_ends()?;
        if let Some(client) = clients.first()
            && let Ok(status) = client.status().await
        {
            let wanted = clients.len().min(status.replication_factor.into());
            let whole = status.placement.iter().filter(|group| {
                group.health == Health::Ok
                    && group.replicas.iter().filter(|replica| replica.role == "voter").count() == wanted
            });
            let whole = whole.count();
            let ready = ready(&clients).await;
            if status.nodes.len() == clients.len() && whole == status.placement.len() && ready == clients.len() {
                return Ok(());
            }
            let tell = format!(
                "{} of {} nodes have joined, {whole} of {} groups have all replicas, {ready} nodes are ready",
                status.nodes.len(),
                clients.len(),
                status.placement.len()
            );
            if tell != told {
                eprintln!("{tell}");
                told = tell;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ready(clients: &[Client]) -> usize {
    let mut ready = 0;
    for client in clients {
        ready += usize::from(client.is_ready().await);
    }
    ready
}

/// The root key of an earlier time, or a new one.
fn root_key(file: &Path) -> Result<String, DevClusterError> {
    match fs::read_to_string(file) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(file)(error)),
    }
    let key = NewKey::make().map_err(|error| DevClusterError::Key(error.to_string()))?.text;
    let mut open = OpenOptions::new();
    let made = open.write(true).create_new(true).mode(0o600).open(file);
    made.and_then(|mut made| writeln!(made, "{key}")).map_err(at(file))?;
    Ok(key)
}

fn start(args: &DevClusterArgs, dir: &Path, number: u16, key: &str) -> Result<DevNode, DevClusterError> {
    let (config, log) = (dir.join(format!("node{number}.toml")), dir.join(format!("node{number}.log")));
    fs::write(&config, config_of(args, dir, number)?).map_err(at(&config))?;
    let to = File::options().create(true).append(true).open(&log).map_err(at(&log))?;
    let child = Command::new(std::env::current_exe()?)
        .args(["start", "--config"])
        .arg(&config)
        .env("LARDER_ROOT_KEY", key)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(to)
        .spawn()?;
    let url = format!("http://127.0.0.1:{}", args.port_base + number - 1);
    Ok(DevNode { number, config, log, url, child, has_ended: false })
}

fn config_of(args: &DevClusterArgs, dir: &Path, number: u16) -> Result<String, DevClusterError> {
    let quoted = |text: String| serde_json::Value::from(text).to_string();
    let peer = |number: u16| quoted(format!("127.0.0.1:{}", args.port_base + PEERS_ABOVE + number - 1));
    // The first one makes the cluster alone, the others join in turn.
    let seeds: Vec<_> = (1..=number).map(peer).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) / usize::from(args.nodes);
    let memory = memory::default_limit()? / u64::from(args.nodes);
    Ok(format!(
        "# Written by `larder-server dev-cluster`, anew at each start.\n\
         listen = \"127.0.0.1:{port}\"\n\
         data_dir = {data}\n\
         threads = {threads}\n\
         max_memory = \"{memory}B\"\n\n\
         [cluster]\n\
         peer_listen = {own}\n\
         seeds = [{seeds}]\n\
         zone = \"zone-{number}\"\n",
        port = args.port_base + number - 1,
        data = quoted(dir.join(format!("node{number}")).to_string_lossy().into_owned()),
        threads = threads.max(1),
        memory = memory.max(16 << 20),
        own = peer(number),
        seeds = seeds.join(", "),
    ))
}

fn explain(nodes: &Nodes, dir: &Path) {
    let key = dir.join(ROOT_KEY_FILE);
    println!("\nA cluster of {} nodes, until Ctrl-C. Everything is in {}:\n", nodes.0.len(), dir.display());
    for node in &nodes.0 {
        println!("    node {}  {}  process {}", node.number, node.url, node.child.id());
    }
    let (Some(first), Some(last)) = (nodes.0.first(), nodes.0.last()) else { return };
    println!(
        "\nThe root key is in {key}. To try:\n\n    \
         export LARDER_KEY=$(cat {key})\n    \
         larder-server cluster status --server {first}\n    \
         curl -X PUT -H \"Authorization: Bearer $LARDER_KEY\" -H 'Content-Type: application/json' -d '{{}}' \\\n         \
         {last}/v1/collections/people\n    \
         kill -9 {pid}; larder-server cluster status --server {last}\n",
        key = key.display(),
        first = first.url,
        last = last.url,
        pid = first.child.id(),
    );
}

impl Nodes {
    /// Fails if a node has ended.
    fn refuse_ends(&mut self) -> Result<(), DevClusterError> {
        for node in &mut self.0 {
            if let Some(status) = node.child.try_wait()? {
                node.has_ended = true;
                let (number, log, lines) = (node.number, node.log.clone(), last_lines(&node.log));
                return Err(DevClusterError::Ended { number, status, log, lines });
            }
        }
        Ok(())
    }

    fn running(&self) -> usize {
        self.0.iter().filter(|node| !node.has_ended).count()
    }

    /// Tells all nodes to stop and waits for them; those that take too long are killed.
    async fn stop(mut self) {
        self.tell();
        let until = Instant::now() + STOP;
        while self.running() > 0 && Instant::now() < until {
            for node in &mut self.0 {
                node.has_ended |= node.child.try_wait().is_ok_and(|status| status.is_some());
            }
            tokio::time::sleep(PAUSE / 4).await;
        }
        for node in self.0.iter_mut().filter(|node| !node.has_ended) {
            eprintln!("node {} did not stop in time and is killed", node.number);
            // It has ended meanwhile, or is killed.
            let _ = node.child.kill();
            let _ = node.child.wait();
        }
    }

    fn tell(&self) {
        for node in self.0.iter().filter(|node| !node.has_ended) {
            // Fails if it has ended already.
            let _ = kill_process(Pid::from_child(&node.child), Signal::TERM);
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.tell();
    }
}

/// The end of a node's log.
fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

fn at(path: &Path) -> impl Fn(io::Error) -> DevClusterError + '_ {
    move |error| DevClusterError::File(path.to_owned(), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::StartArgs;
    use crate::config::Config;

    #[test]
    fn every_node_is_configured_to_join_the_first() {
        let args = DevClusterArgs { nodes: 3, dir: "d".into(), port_base: 9000 };
        let read = |number| {
            let text = config_of(&args, Path::new("/with \"quotes\""), number).unwrap();
            Config::new(&text, &StartArgs::default()).unwrap()
        };
        let (first, third) = (read(1), read(3));
        assert_eq!((first.listen.port(), third.listen.port()), (9000, 9002));
        assert_eq!(third.data_dir, Path::new("/with \"quotes\"/node3"));
        let (first, third) = (first.cluster.unwrap(), third.cluster.unwrap());
        assert_eq!((first.address.as_str(), &first.seeds[..]), ("127.0.0.1:9100", &["127.0.0.1:9100".to_owned()][..]));
        assert_eq!(third.seeds, ["127.0.0.1:9100", "127.0.0.1:9101", "127.0.0.1:9102"]);
    }

    #[test]
    fn the_root_key_is_kept_and_nobody_elses() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(ROOT_KEY_FILE);
        let made = root_key(&file).unwrap();
        assert_eq!(root_key(&file).unwrap(), made);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
