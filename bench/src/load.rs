//! The commands `load` and `saturate`: from options to a report.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::arrivals::Spread;
use crate::connection::Connection;
use crate::cpu::Reading;
use crate::report::{Cpu, Mode, Report};
use crate::request::{Keys, Template};
use crate::target::Target;
use crate::{closed_loop, duration, listener, open_loop};

/// Most connections of one run: what the usual limit on open files leaves room for.
const MAX_CONNECTIONS: u32 = 20_000;

/// Highest rate that may be asked for. More than one thread can send; asking for it shows where it ends.
const MAX_RATE: f64 = 1_000_000.0;

/// What both commands need to know.
#[derive(Debug, clap::Args)]
pub(crate) struct CommonOptions {
    /// The server: http://HOST:PORT, with the path if --path is not given
    #[arg(long, value_name = "URL")]
    pub(crate) target: String,
    /// For how long to send requests: 500ms, 10s, 2m
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(crate) duration: Duration,
    /// Keep-alive connections to use
    #[arg(long, value_name = "C", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CONNECTIONS)))]
    pub(crate) connections: u32,
    /// API key to send as a bearer key; safer in the environment variable LARDER_KEY, where other users do not see it
    #[arg(long, value_name = "API_KEY")]
    pub(crate) key: Option<String>,
    /// Path to request, with {} where a key goes: /v1/collections/planes/records/id/{}
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// File with one key a line to choose from at random
    #[arg(long, value_name = "FILE", conflicts_with = "range")]
    pub(crate) keys: Option<PathBuf>,
    /// Numbers to choose keys from at random, the end left out: 0..100000
    #[arg(long, value_name = "A..B", value_parser = Keys::parse_range)]
    pub(crate) range: Option<Range<u64>>,
    /// Process whose CPU time to show; found by its listening port if the target is on loopback
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// When to give a request up
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
    /// Start of the random numbers: the same seed sends the same requests
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `load`.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Requests a second
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub(crate) rate: f64,
    /// How the requests are spread in time
    #[arg(long, value_enum, default_value_t = Spread::Poisson)]
    pub(crate) arrivals: Spread,
}

/// Options of `saturate`.
#[derive(Debug, clap::Args)]
pub(crate) struct SaturateOptions {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

/// Everything that is ready before the first request is due.
struct Prepared {
    target: Target,
    template: Template,
    server_pids: Vec<u32>,
    connections: Vec<Connection>,
}

/// Processor time of both sides before a run.
struct Clocks {
    server: Option<Reading>,
    generator: Option<Reading>,
}

/// Runs an open loop.
pub(crate) async fn load(options: LoadOptions) -> anyhow::Result<Report> {
    let LoadOptions { common, rate, arrivals } = options;
    let Prepared { target, template, server_pids, connections } = prepare(&common).await?;
    let count = connections.len();
    let plan = open_loop::Plan {
        address: target.address,
        template,
        rate,
        spread: arrivals,
        duration: common.duration,
        timeout: common.timeout,
        max_waiting: open_loop::MAX_WAITING,
        seed: common.seed,
    };
    let clocks = Clocks::read(&server_pids);
    let outcome = open_loop::run(plan, connections).await.context("cannot set a timer")?;
    let mut report = Report::new(Mode::OpenLoop, target.authority, count, common.duration, &outcome.tally);
    report.asked_rate = Some(rate);
    report.release_lag_us = Some(outcome.release_lag.percentiles());
    report.peak_waiting = Some(outcome.peak_waiting);
    clocks.complete(report, server_pids, outcome.wall)
}

/// Runs a closed loop.
pub(crate) async fn saturate(options: SaturateOptions) -> anyhow::Result<Report> {
    let common = options.common;
    let Prepared { target, template, server_pids, connections } = prepare(&common).await?;
    let count = connections.len();
    let plan = closed_loop::Plan {
        address: target.address,
        template,
        duration: common.duration,
        timeout: common.timeout,
        seed: common.seed,
    };
    let clocks = Clocks::read(&server_pids);
    let outcome = closed_loop::run(plan, connections).await;
    let report = Report::new(Mode::ClosedLoop, target.authority, count, common.duration, &outcome.tally);
    clocks.complete(report, server_pids, outcome.wall)
}

/// Opens `count` connections, all before the first request.
pub(crate) async fn open_all(target: &Target, count: u32) -> anyhow::Result<Vec<Connection>> {
    let mut connections = Vec::new();
    for number in 1..=count {
        let connection = Connection::open(target.address).await;
        connections.push(connection.with_context(|| format!("connection {number} of {count} to {}", target.address))?);
    }
    Ok(connections)
}

async fn prepare(common: &CommonOptions) -> anyhow::Result<Prepared> {
    let target = Target::resolve(&common.target)?;
    let keys = match (&common.range, &common.keys) {
        (Some(range), _) => Some(Keys::Numbers(range.clone())),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            Some(Keys::from_lines(&text)?)
        }
        (None, None) => None,
    };
    let path = common.path.as_deref().unwrap_or(&target.path);
    let api_key = common.key.clone().or_else(|| std::env::var("LARDER_KEY").ok());
    let template = Template::new(&target, path, api_key.as_deref(), keys)?;
    let server_pids = match common.server_pid {
        Some(pid) => vec![pid],
        None => listener::processes_behind(target.address),
    };
    if let Some(pid) = common.server_pid {
        ensure!(Reading::of(&server_pids).is_some(), "there is no process {pid} whose CPU time can be read");
    }
    let connections = open_all(&target, common.connections).await?;
    Ok(Prepared { target, template, server_pids, connections })
}

impl Clocks {
    fn read(server_pids: &[u32]) -> Self {
        Self { server: Reading::of(server_pids), generator: Reading::of_this_thread() }
    }

    /// Adds both sides' processor time since the reading to a report, and then its warnings.
    fn complete(self, mut report: Report, server_pids: Vec<u32>, wall: Duration) -> anyhow::Result<Report> {
        let answers: u64 = report.statuses.values().sum();
        let now = Self::read(&server_pids);
        let used =
            |before: Option<Reading>, after: Option<Reading>| Some(Cpu::new(after?.since(&before?), wall, answers));
        report.server_cpu = used(self.server, now.server);
        report.generator_cpu = used(self.generator, now.generator);
        report.server_pids = server_pids;
        report.warn();
        ensure!(answers > 0, "the server answered nothing: {:?}", report.errors);
        Ok(report)
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if rate > 0.0 && rate <= MAX_RATE {
        Ok(rate)
    } else {
        Err(format!("a rate must be more than 0 and at most {MAX_RATE} requests a second"))
    }
}
