//! The command `cluster`: three nodes on this machine beside one, and what three cost when nobody asks them anything.
//!
//! Batches go to the one node and to the three in turn, so that whatever else the machine does meets both. Every patch of
//! the three is written to three logs and applied three times, by processes that share this machine's processors and its
//! disk: what can be seen here is what replication costs, not how a cluster scales over machines.

use std::fmt;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::compare::child::{self, Server};
use crate::compare::filling::Filler;
use crate::compare::{API_KEY, customers};
use crate::cpu::Reading;
use crate::duration;
use crate::storage::times::median;

/// How long the nodes may take to have three replicas of every shard.
const FORMED: Duration = Duration::from_secs(120);

/// Options of `cluster`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The larder-server to start; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    server_bin: Option<PathBuf>,
    /// Customer records that each round loads
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    records: u64,
    /// Rounds: one load of the one node and one of the three each
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long the three nodes are watched while they are idle
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    idle: Duration,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What was seen.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    shards: u16,
    /// Processor time of each idle node, in percent of one core.
    idle_percent: Vec<f64>,
    one: Loads,
    three: Loads,
}

/// Loads of the same size, one after the other.
#[derive(Debug, Default, Serialize)]
struct Loads {
    /// Records a second, by round.
    rates: Vec<f64>,
    /// Processor time of all nodes for a record, in microseconds, by round.
    micros: Vec<f64>,
}

/// Runs the measurement.
///
/// # Errors
/// When a server does not start or does not take what it should.
pub(crate) async fn measure(options: Options) -> anyhow::Result<Report> {
    let binary = child::binary(options.server_bin.as_deref())?;
    let folder = tempfile::tempdir().context("there is no scratch folder")?;
    let one = vec![Server::start_larder(&binary, &sub_folder(folder.path(), "one")?, API_KEY).await?];
    let three = start_three(&binary, folder.path()).await?;
    let shards = wait_until_formed(&three).await?;
    let idle_percent = watch(&three, options.idle).await?;
    let mut report = Report { shards, idle_percent, one: Loads::default(), three: Loads::default() };
    for round in 0..options.rounds {
        let keys = customers::keys(options.records);
        // Who goes first changes, since the second finds the caches of the disk warmer or fuller.
        for first in [round % 2 == 0, round % 2 != 0] {
            let (servers, loads) = if first { (&one, &mut report.one) } else { (&three, &mut report.three) };
            loads.add(servers, keys.clone()).await?;
        }
    }
    Ok(report)
}

fn sub_folder(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir(&path).context("cannot write into the scratch folder")?;
    Ok(path)
}

async fn start_three(binary: &Path, folder: &Path) -> anyhow::Result<Vec<Server>> {
    let peers = (0..3).map(|_| free_address()).collect::<anyhow::Result<Vec<_>>>()?;
    let seeds = peers.iter().map(|peer| format!("\"{peer}\"")).collect::<Vec<_>>().join(", ");
    let mut starting = Vec::new();
    for peer in &peers {
        let folder = sub_folder(folder, &format!("of-three-{}", peer.port()))?;
        let config = folder.join("config.toml");
        let text = format!("[cluster]\npeer_listen = \"{peer}\"\nseeds = [{seeds}]\n");
        std::fs::write(&config, text).context("cannot write into the scratch folder")?;
        starting.push((folder, config));
    }
    // They wait for each other, so all are started before any is waited for.
    let starts =
        starting.iter().map(|(folder, config)| Server::start_configured(binary, folder, Some(config), API_KEY));
    futures_util::future::try_join_all(starts).await
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until every shard has three replicas that serve, and returns the number of shards.
async fn wait_until_formed(servers: &[Server]) -> anyhow::Result<u16> {
    let deadline = Instant::now() + FORMED;
    loop {
        let mut filler = Filler::connect(&servers[0].target, API_KEY).await?;
        let status = filler.get("/v1/cluster").await?;
        let placement = status["placement"].as_array().context("the cluster does not tell where shards are")?;
        let shards: Vec<_> = placement.iter().filter(|group| group["shard"].is_u64()).collect();
        let is_whole = |group: &&serde_json::Value| {
            let replicas = group["replicas"].as_array();
            replicas.is_some_and(|all| all.len() == 3 && all.iter().all(|replica| replica["serves"] == true))
        };
        if !shards.is_empty() && shards.iter().all(is_whole) {
            return Ok(u16::try_from(shards.len())?);
        }
        ensure!(Instant::now() < deadline, "the three nodes did not form within {} s", FORMED.as_secs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The processor time of each server in percent of a core.
async fn watch(servers: &[Server], time: Duration) -> anyhow::Result<Vec<f64>> {
    // What forming them has left to do is done by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let read = || servers.iter().map(|server| Reading::of(&[server.pid()])).collect::<Option<Vec<_>>>();
    let (before, began) = (read().context("a node has ended")?, Instant::now());
    tokio::time::sleep(time).await;
    let after = read().context("a node has ended")?;
    let wall = began.elapsed();
    let percent =
        |(after, before): (&Reading, &Reading)| 100.0 * after.since(before).as_secs_f64() / wall.as_secs_f64();
    Ok(after.iter().zip(&before).map(percent).collect())
}

impl Loads {
    async fn add(&mut self, servers: &[Server], keys: std::ops::Range<u64>) -> anyhow::Result<()> {
        let pids: Vec<_> = servers.iter().map(Server::pid).collect();
        #[allow(clippy::cast_precision_loss, reason = "figures for people")]
        let records = (keys.end - keys.start) as f64;
        let mut filler = Filler::connect(&servers[0].target, API_KEY).await?;
        let (before, began) = (Reading::of(&pids).context("a node has ended")?, Instant::now());
        filler.fill(keys).await?;
        let wall = began.elapsed();
        let spent = Reading::of(&pids).context("a node has ended")?.since(&before);
        self.rates.push(records / wall.as_secs_f64());
        self.micros.push(spent.as_secs_f64() * 1e6 / records);
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = self.idle_percent.iter().fold(String::new(), |mut text, percent| {
            // Writing to a string does not fail.
            let _ = write!(text, " {percent:.1} %");
            text
        });
        writeln!(f, "idle, {} shards on each of three nodes: {idle} of a core", self.shards)?;
        writeln!(
            f,
            "{:<14} {:>12} {:>16}   medians of {} rounds",
            "",
            "records/s",
            "CPU us/record",
            self.one.rates.len()
        )?;
        for (name, loads) in [("one node", &self.one), ("three nodes", &self.three)] {
            writeln!(f, "{name:<14} {:>12.0} {:>16.1}", median(&loads.rates), median(&loads.micros))?;
        }
        let (rate, cpu) = (
            median(&self.three.rates) / median(&self.one.rates),
            median(&self.three.micros) / median(&self.one.micros),
        );
        writeln!(f, "three / one    {rate:>12.2} {cpu:>16.2}")?;
        writeln!(f, "The three share this machine: every patch is written to three logs and applied three times here.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_shows_both_and_their_ratio() {
        let one = Loads { rates: vec![100.0, 300.0, 200.0], micros: vec![5.0, 4.0, 6.0] };
        let three = Loads { rates: vec![100.0], micros: vec![15.0] };
        let report = Report { shards: 16, idle_percent: vec![1.25, 2.0, 3.0], one, three };
        let text = report.to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(text.starts_with("idle, 16 shards on each of three nodes:  1.2 % 2.0 % 3.0 % of a core"), "{text}");
        assert_eq!(lines[2], ["one", "node", "200", "5.0"]);
        assert_eq!(lines[4], ["three", "/", "one", "0.50", "3.00"]);
    }
}
