//! `larder-bench`: load for a server, and what a lookup costs beside plain HTTP.
//!
//! Every figure comes with the doubts that belong to it: the generator watches itself, and comparisons are made side
//! by side in one run. Linux only, since it reads `/proc`.

mod affinity;
mod alarm;
mod answer;
mod arrivals;
mod bare;
mod closed_loop;
mod cluster;
mod compare;
mod connection;
mod cpu;
mod diff;
mod duration;
mod first_load;
mod liquid;
mod listener;
mod load;
mod open_loop;
mod random;
mod redis;
mod report;
mod request;
#[cfg(test)]
mod stalls;
mod storage;
mod tally;
mod target;

use std::io::Write as _;

use clap::Parser;
use serde::Serialize;

/// Measures HTTP servers: open-loop latency, closed-loop throughput, and larder-server beside a bare hyper server.
#[derive(Debug, Parser)]
#[command(name = "larder-bench", version)]
enum Command {
    /// Send requests at a given rate and show the latency from their intended send times
    Load(load::LoadOptions),
    /// Send requests as fast as they are answered and show how many that is a second
    Saturate(load::SaturateOptions),
    /// Measure larder-server and a bare hyper server side by side
    Compare(compare::Options),
    /// Measure three nodes on this machine beside one
    Cluster(cluster::Options),
    /// Measure the first load of a collection by larder-loader beside a script that writes hashes into Redis
    FirstLoad(first_load::Options),
    /// Measure the storage engine in this process, beside hash tables of the same rows
    Storage(storage::Options),
    /// Measure templates of mappings beside the liquid crate
    Liquid(liquid::Options),
    /// Measure the loader's diff beside one big hash table
    Diff(diff::Options),
    /// One measurement of `diff`, in a process of its own
    #[command(hide = true)]
    DiffPhase(diff::PhaseOptions),
    /// Serve one fixed answer until standard input closes
    BareHyper(bare::Options),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Load(options) => {
            let json = options.common.json;
            show(&on_one_thread(load::load(options))?, json)
        }
        Command::Saturate(options) => {
            let json = options.common.json;
            show(&on_one_thread(load::saturate(options))?, json)
        }
        Command::Compare(options) => {
            let json = options.json;
            show(&on_one_thread(compare::compare(options))?, json)
        }
        Command::Cluster(options) => {
            let json = options.json;
            show(&on_one_thread(cluster::measure(options))?, json)
        }
        Command::FirstLoad(options) => {
            let json = options.json;
            show(&on_one_thread(first_load::measure(options))?, json)
        }
        Command::Storage(options) => show(&storage::measure(&options)?, options.json),
        Command::Liquid(options) => show(&liquid::measure(&options)?, options.json),
        Command::Diff(options) => show(&diff::measure(&options)?, options.json),
        Command::DiffPhase(options) => {
            serde_json::to_writer(std::io::stdout().lock(), &diff::measure_phase(&options)?)?;
            Ok(())
        }
        Command::BareHyper(options) => bare::serve(&options),
    }
}

/// A generator has one thread, so that its own processor time and place are known.
fn on_one_thread<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn show<T: Serialize + std::fmt::Display>(report: &T, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(out.flush()?)
}
