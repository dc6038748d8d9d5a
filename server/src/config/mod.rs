//! The configuration file: plain values with defaults, every problem reported at once.
//!
//! Invariant: a [`Config`] is within the bounds that the rest of the server relies on.

mod cluster;
mod section;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use larder_replication::node::ClusterOptions;
use larder_types::hash::ShardCount;
use serde::Deserialize;

use self::section::{ByteSize, KIB, MIB, Section};
use crate::cli::StartArgs;

/// Less than that is taken by the tables of a few small collections.
const MIN_MEMORY: u64 = 16 * MIB;
/// More than any machine has.
const MAX_MEMORY: u64 = 1 << 50;
/// hyper refuses smaller buffers for a request's head.
const MIN_HEADER_BYTES: u64 = 8 * KIB;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The address to serve on.
    pub listen: SocketAddr,
    /// The address to serve metrics on, if any.
    pub admin_listen: Option<SocketAddr>,
    /// Where the node keeps everything.
    pub data_dir: PathBuf,
    /// Threads that serve connections.
    pub threads: usize,
    /// Shards of the cluster; counts only when it is made.
    pub shards: ShardCount,
    /// Log growth in bytes after which a shard takes a snapshot.
    pub snapshot_log_bytes: u64,
    /// Bytes of a snapshot written in a second at most; 0 for no limit.
    pub snapshot_bytes_per_second: u64,
    /// Bytes of writes in flight at most.
    pub max_inflight_bytes: usize,
    /// Bytes of memory for records; `None` for a part of what the machine has.
    pub max_memory: Option<u64>,
    /// The URL at which clients reach this node.
    pub advertise: String,
    /// The other nodes; `None` for a node that is alone.
    pub cluster: Option<ClusterOptions>,
    /// Bounds on requests and connections.
    pub limits: Limits,
    /// How the log is written.
    pub log: LogFormat,
}

/// Bounds on requests and connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Time for a request's head to arrive.
    pub header_timeout: Duration,
    /// Time for a whole body to arrive.
    pub body_timeout: Duration,
    /// Time that a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// Time that a response may wait for its reader without any progress.
    pub write_timeout: Duration,
    /// Time that a lookup waits for the revision it asks for.
    pub lookup_deadline: Duration,
    /// Time that a write is waited for.
    pub write_deadline: Duration,
    /// Time that requests in flight may go on when the server stops.
    pub drain_timeout: Duration,
    /// Bytes of a body that describes something, in JSON.
    pub json_body_bytes: usize,
    /// Bytes of a batch's body as sent.
    pub batch_body_bytes: usize,
    /// Batches that are read, parsed and applied at once.
    pub batches: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_bytes: 32 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(20),
            lookup_deadline: Duration::from_millis(1500),
            write_deadline: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            json_body_bytes: 1024 * 1024,
            batch_body_bytes: 64 * 1024 * 1024,
            batches: 8,
        }
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// All that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// One sentence for each problem.
    pub problems: Vec<String>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not valid:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl Config {
    /// Reads the file's text, if there is a file, and lets the command line win over it.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn new(file: &str, args: &StartArgs) -> Result<Self, ConfigError> {
        let table = file
            .parse::<toml::Table>()
            .map_err(|e| ConfigError { problems: e.to_string().lines().map(str::to_owned).collect() })?;
        let mut problems = Vec::new();
        let config = Self::read(table, args, &mut problems);
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError { problems }),
        }
    }

    fn read(table: toml::Table, args: &StartArgs, problems: &mut Vec<String>) -> Option<Self> {
        let mut root = Section { prefix: "", table, problems };
        let limits = root.section("limits", "limits").map(Limits::read);
        let log = root.section("log", "log").map(|mut section| {
            let format = section.take("format", LogFormat::Text);
            section.finish();
            format
        });
        let listen = root.take("listen", SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
        let admin_listen: Option<SocketAddr> = root.optional("admin_listen");
        let data_dir: Option<PathBuf> = root.optional("data_dir");
        let threads = root.optional("threads").unwrap_or_else(cores);
        let shards = root.take("shards", ShardCount::DEFAULT.get());
        let snapshot_log_bytes = root.size("snapshot_log_bytes", 64 * MIB, 1..=u64::MAX);
        let snapshot_bytes_per_second = root.size("snapshot_bytes_per_second", 256 * MIB, 0..=u64::MAX);
        let max_inflight_bytes = root.size("max_inflight_bytes", 64 * MIB, MIB..=1 << 40);
        let max_memory = root.optional::<ByteSize>("max_memory").map(|size| size.0);
        if max_memory.is_some_and(|size| !(MIN_MEMORY..=MAX_MEMORY).contains(&size)) {
            root.problem("max_memory", format_args!("must be from {MIN_MEMORY} to {MAX_MEMORY} bytes"));
        }
        if !(1..=1024).contains(&threads) {
            root.problem("threads", "must be from 1 to 1024");
        }
        if ShardCount::new(shards).is_none() {
            root.problem("shards", "must be a power of two from 1 to 1024");
        }
        let data_dir = args.data_dir.clone().or(data_dir);
        if data_dir.is_none() {
            root.problem("data_dir", "is missing: give it here or as --data-dir");
        }
        let listen = args.listen.unwrap_or(listen);
        let (cluster, advertise) = cluster::read(&mut root, listen, &args.join);
        root.finish();
        Some(Self {
            listen,
            admin_listen: args.admin_listen.or(admin_listen),
            data_dir: data_dir?,
            threads,
            shards: ShardCount::new(shards)?,
            snapshot_log_bytes,
            snapshot_bytes_per_second,
            max_inflight_bytes: usize::try_from(max_inflight_bytes).ok()?,
            max_memory,
            advertise,
            cluster,
            limits: limits.unwrap_or_default(),
            log: log.unwrap_or_default(),
        })
    }
}

impl Limits {
    fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let limits = Self {
            connections: section.count("connections", default.connections),
            header_bytes: section.bytes("header_bytes", default.header_bytes, MIN_HEADER_BYTES),
            header_timeout: section.time("header_timeout", default.header_timeout),
            body_timeout: section.time("body_timeout", default.body_timeout),
            idle_timeout: section.time("idle_timeout", default.idle_timeout),
            write_timeout: section.time("write_timeout", default.write_timeout),
            lookup_deadline: section.time("lookup_deadline", default.lookup_deadline),
            write_deadline: section.time("write_deadline", default.write_deadline),
            drain_timeout: section.time("drain_timeout", default.drain_timeout),
            json_body_bytes: section.bytes("json_body_bytes", default.json_body_bytes, KIB),
            batch_body_bytes: section.bytes("batch_body_bytes", default.batch_body_bytes, KIB),
            batches: section.count("batches", default.batches),
        };
        section.finish();
        limits
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> StartArgs {
        StartArgs { data_dir: Some("d".into()), ..StartArgs::default() }
    }

    #[test]
    fn the_example_holds_the_defaults() {
        let example = Config::new(include_str!("../../config.example.toml"), &StartArgs::default()).unwrap();
        let bare = Config::new("data_dir = \"larder-data\"", &StartArgs::default()).unwrap();
        assert_eq!(example, bare);
    }

    #[test]
    fn the_command_line_wins() {
        let args = StartArgs { data_dir: Some("mine".into()), listen: Some("127.0.0.1:0".parse().unwrap()), ..args() };
        let file = "data_dir = \"theirs\"\nlisten = \"0.0.0.0:1\"\nadmin_listen = \"127.0.0.1:9\"";
        let config = Config::new(file, &args).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("mine"));
        assert_eq!(config.listen.port(), 0);
        assert_eq!(config.admin_listen.map(|address| address.port()), Some(9));
        let args = StartArgs { admin_listen: Some("127.0.0.1:8".parse().unwrap()), ..args };
        assert_eq!(Config::new(file, &args).unwrap().admin_listen, args.admin_listen);
        assert_eq!(Config::new("", &self::args()).unwrap().admin_listen, None);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let file = "shards = 3\ntypo = 1\nlisten = \"here\"\nsnapshot_log_bytes = \"1 MB\"\nmax_memory = \"1MiB\"\n\
                    [limits]\nheader_timeout = \"5 parsecs\"\nconnections = 0\nheader_bytes = \"1KiB\"\nother = 1\n\
                    [log]\nformat = \"xml\"\n";
        let error = Config::new(file, &StartArgs::default()).unwrap_err();
        let all = error.to_string();
        for word in [
            "`shards` must be a power of two",
            "`typo` is not known",
            "`listen` is not valid",
            "`1 MB` is no size",
            "`max_memory` must be",
            "`5 parsecs` is no duration",
            "`limits.connections` must be",
            "`limits.header_bytes` must be",
            "`limits.other` is not known",
            "`log.format` is not valid",
            "`data_dir` is missing",
        ] {
            assert!(all.contains(word), "no `{word}` in {all}");
        }
        assert_eq!(error.problems.len(), 11, "{all}");
    }

    #[test]
    fn what_is_no_toml_is_refused() {
        assert!(Config::new("listen = ", &args()).is_err());
        assert!(Config::new("limits = 3", &args()).is_err());
    }

    #[test]
    fn sizes_and_durations_have_units() {
        let config = Config::new("snapshot_log_bytes = \"1KiB\"\n[limits]\nidle_timeout = \"2m\"", &args()).unwrap();
        assert_eq!(config.snapshot_log_bytes, 1024);
        assert_eq!(config.limits.idle_timeout, Duration::from_secs(120));
        let config = Config::new("snapshot_bytes_per_second = \"0B\"", &args()).unwrap();
        assert_eq!(config.snapshot_bytes_per_second, 0);
        for bad in ["\"12\"", "\"MiB\"", "\"-1B\"", "12", "\"99999999999GiB\""] {
            assert!(Config::new(&format!("snapshot_log_bytes = {bad}"), &args()).is_err(), "{bad}");
        }
    }
}
