//! The command `compare`: larder-server beside a bare hyper server whose answers look the same, in one run.
//!
//! All servers are up at once; short windows of load go to one after the other, in an order that is random in each
//! round, so that whatever else the machine does meets all of them. The bare server runs twice: the second is the
//! control that shows how much two equal servers differ here.

pub(crate) mod child;
pub(crate) mod customers;
pub(crate) mod filling;
mod summary;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};

use self::child::Server;
use self::filling::Filler;
use self::summary::{SERVERS, Summary, Window};
use crate::affinity::{self, Split};
use crate::cpu::Reading;
use crate::random::Random;
use crate::report::Cpu;
use crate::request::Template;
use crate::{closed_loop, duration, load};

/// The root key of the server that the comparison starts for itself. It listens on loopback and ends with the run.
pub(crate) const API_KEY: &str = "root-key-of-a-server-that-is-measured-0123456789";

/// Fewer rounds do not tell a difference from chance.
const MIN_ROUNDS: i64 = 9;

/// From the end of a window until a request that is still under way is given up.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Load that goes to a server before the first round, so that its connections and caches are warm.
const WARM_UP: Duration = Duration::from_millis(200);

/// Options of `compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The larder-server to start; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    server_bin: Option<PathBuf>,
    /// Customer records to load
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    records: u64,
    /// Keep-alive connections, one request at a time on each
    #[arg(long, value_name = "C", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Rounds; each server has one window in each
    #[arg(long, value_name = "R", default_value_t = 15, value_parser = clap::value_parser!(u32).range(MIN_ROUNDS..=1000))]
    rounds: u32,
    /// Length of a window
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::parse)]
    window: Duration,
    /// Start of the random numbers: order of servers and choice of keys
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the comparison.
pub(crate) async fn compare(options: Options) -> anyhow::Result<Summary> {
    let binary = child::binary(options.server_bin.as_deref())?;
    let split = Split::find()?;
    if let Some(split) = split {
        affinity::pin(split.server)?;
    }
    let folder = tempfile::tempdir().context("cannot make a scratch folder")?;
    let larder = Server::start_larder(&binary, folder.path(), API_KEY).await?;
    let keys = customers::keys(options.records);
    let mut filler = Filler::connect(&larder.target, API_KEY).await?;
    filler.fill(keys.clone()).await.context("cannot load the customers")?;
    let shape = filler.sample(keys.clone()).await?;
    let template = filler.lookups(keys)?;
    drop(filler);
    let servers = [larder, Server::start_bare(&shape)?, Server::start_bare(&shape)?];
    if let Some(split) = split {
        affinity::pin(split.generator)?;
    }
    let rounds = measure(&servers, &template, &options).await?;
    Ok(Summary {
        records: options.records,
        body_bytes: shape.body_bytes,
        headers: shape.headers.len() + 2,
        connections: options.connections,
        pipelining: 1,
        rounds: rounds.len(),
        window_seconds: options.window.as_secs_f64(),
        pinned: split,
        rows: summary::rows(&rounds),
    })
}

async fn measure(servers: &[Server; 3], template: &Template, options: &Options) -> anyhow::Result<Vec<[Window; 3]>> {
    for server in servers {
        window(server, template, options, WARM_UP, options.seed).await?;
    }
    let mut random = Random::new(options.seed);
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        let mut order = [0, 1, 2];
        random.shuffle(&mut order);
        let mut round = [Window { rate: 0.0, cpu_micros: 0.0, server_cores: 0.0, generator_cores: 0.0 }; 3];
        for at in order {
            let window = window(&servers[at], template, options, options.window, random.bits()).await;
            round[at] = window.with_context(|| format!("measuring {}", SERVERS[at]))?;
        }
        rounds.push(round);
    }
    Ok(rounds)
}

/// Loads one server for one window. Any answer but 200 makes the comparison worthless and ends it.
#[allow(clippy::cast_precision_loss, reason = "fewer than 2^53 requests are made")]
async fn window(
    server: &Server,
    template: &Template,
    options: &Options,
    duration: Duration,
    seed: u64,
) -> anyhow::Result<Window> {
    let connections = load::open_all(&server.target, options.connections).await?;
    let address = server.target.address;
    let plan = closed_loop::Plan { address, template: template.clone(), duration, timeout: TIMEOUT, seed };
    let read = || Some((Reading::of(&[server.pid()])?, Reading::of_this_thread()?));
    let before = read().context("the kernel does not account CPU time of threads (schedstat)")?;
    let outcome = closed_loop::run(plan, connections).await;
    let after = read().context("the server is gone")?;
    let (statuses, errors) = (outcome.tally.statuses(), outcome.tally.errors());
    let answers = outcome.tally.answers();
    ensure!(
        errors.is_empty() && answers > 0 && statuses.keys().eq([&200]),
        "not every request was answered 200: answers {statuses:?}, errors {errors:?}"
    );
    let cpu = Cpu::new(after.0.since(&before.0), outcome.wall, answers);
    let generator = Cpu::new(after.1.since(&before.1), outcome.wall, answers);
    Ok(Window {
        rate: outcome.tally.answered_in_time as f64 / duration.as_secs_f64(),
        cpu_micros: cpu.micros_per_request,
        server_cores: cpu.cores,
        generator_cores: generator.cores,
    })
}
