//! Prometheus metrics of the loader: what its runs did since it began, and how things are now.
//!
//! What runs did is counted as they end. How things are (alerts, notices that wait, the size of the state) is read from
//! whoever owns it when somebody asks. docs/operations.md lists every family; a test compares.
//!
//! Labels are names of syncs and destinations and words of ours, so there are as many series as the project has parts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use larder_types::names::SyncName;
use larder_types::prometheus::{Buckets, Family, Text};

use super::process;
use super::{Observer, RunEnded, RunStarted, SendAttempt, between};
use crate::project::Project;
use crate::run::Outcome;
use crate::state::database::Database;
use crate::state::{State, StateError};

/// The bounds of a run's time, in milliseconds: from a second to half a day.
const RUN_BOUNDS: [u64; 10] =
    [1_000, 5_000, 15_000, 60_000, 300_000, 900_000, 1_800_000, 3_600_000, 14_400_000, 43_200_000];
/// The bounds of the time that a batch takes at the cluster, in milliseconds.
const PUSH_BOUNDS: [u64; 10] = [1, 2, 5, 10, 25, 100, 250, 1_000, 5_000, 30_000];

/// A sync and one of its destinations.
type Delivery = (String, String);

/// What is counted, and where the rest is read.
pub(crate) struct Metrics {
    database: Database,
    /// The folder of each delivery's state.
    folders: Mutex<BTreeMap<Delivery, PathBuf>>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// The ids of runs under way, by sync. Of every sync, so that none is missing while it rests.
    running: BTreeMap<String, BTreeSet<String>>,
    /// By sync and outcome.
    runs: BTreeMap<(String, &'static str), Histogram<{ RUN_BOUNDS.len() }>>,
    /// By sync.
    read: BTreeMap<String, u64>,
    /// By delivery and kind.
    rows: BTreeMap<(Delivery, &'static str), u64>,
    bytes: BTreeMap<Delivery, u64>,
    succeeded_at: BTreeMap<Delivery, Timestamp>,
    pushes: BTreeMap<Delivery, Histogram<{ PUSH_BOUNDS.len() }>>,
    retries: BTreeMap<Delivery, u64>,
    in_flight: BTreeMap<Delivery, u64>,
    lag: BTreeMap<String, Duration>,
}

/// Counts by size, in milliseconds.
#[derive(Clone, Copy)]
struct Histogram<const BOUNDS: usize> {
    counts: [u64; BOUNDS],
    above: u64,
    sum: u64,
}

impl<const BOUNDS: usize> Default for Histogram<BOUNDS> {
    fn default() -> Self {
        Self { counts: [0; BOUNDS], above: 0, sum: 0 }
    }
}

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    fn record(&mut self, bounds: &[u64; BOUNDS], took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bucket = bounds.partition_point(|bound| *bound < millis);
        *self.counts.get_mut(bucket).unwrap_or(&mut self.above) += 1;
        self.sum = self.sum.saturating_add(millis);
    }

    fn write(&self, bounds: &[u64; BOUNDS], family: &mut Family<'_>, labels: &[(&str, &str)]) {
        let counts: Vec<u64> = self.counts.iter().chain([&self.above]).copied().collect();
        family.buckets(labels, Buckets { bounds, counts: &counts, sum: self.sum }, 1e3);
    }
}

impl Metrics {
    /// Begins to count the runs of a project.
    ///
    /// # Errors
    /// When the state directory cannot be opened.
    pub(super) fn start(project: &Project) -> Result<Self, StateError> {
        let database = State::open(&project.state_dir)?.database;
        let metrics = Self { database, folders: Mutex::default(), counts: Mutex::default() };
        metrics.follow(project)?;
        Ok(metrics)
    }

    /// Goes on with a project that was loaded again. What was counted stays.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(super) fn follow(&self, project: &Project) -> Result<(), StateError> {
        let mut folders = BTreeMap::new();
        for spec in project.syncs.values() {
            let sync = spec.name.to_string();
            self.counts().running.entry(sync.clone()).or_default();
            for destination in &spec.destinations {
                let folder = project.state_dir.join(spec.name.as_str()).join(destination.as_str());
                let delivery = (sync.clone(), destination.to_string());
                if let Some(at) = self.database.last_success_at(&spec.name, destination)? {
                    self.counts().succeeded_at.insert(delivery.clone(), at);
                }
                folders.insert(delivery, folder);
            }
        }
        *self.folders.lock().unwrap_or_else(PoisonError::into_inner) = folders;
        Ok(())
    }

    /// Notes how much later than planned a run of a sync began.
    pub(super) fn lagged(&self, sync: &SyncName, lag: Duration) {
        self.counts().lag.insert(sync.to_string(), lag);
    }

    /// All metrics of now.
    pub(super) fn render(&self) -> String {
        let mut text = Text::default();
        process::write(&mut text);
        self.counts().write(&mut text);
        self.write_snapshots(&mut text);
        self.write_alerts(&mut text);
        text.finish()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counters are whole after each addition, whatever became of who added.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_snapshots(&self, text: &mut Text) {
        let mut family =
            text.gauge("larder_loader_snapshot_bytes", "Size on disk of what a destination has acknowledged.");
        for (delivery, folder) in self.folders.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            family.sample(&labels(delivery), snapshot_bytes(folder));
        }
    }

    fn write_alerts(&self, text: &mut Text) {
        // Whoever scrapes sees by their absence that these cannot be read.
        let mut family = text.gauge("larder_loader_alerts", "1 for each alert that is not well.");
        match self.database.firing() {
            Ok(firing) => firing.iter().for_each(|alert| {
                let labels = [
                    ("sync", alert.sync.as_str()),
                    ("destination", alert.destination.as_str()),
                    ("rule", alert.rule.as_str()),
                    ("level", alert.level.as_str()),
                ];
                family.sample(&labels, 1);
            }),
            Err(error) => tracing::error!(%error, "alerts cannot be read"),
        }
        let family = text.gauge("larder_loader_notices_waiting", "Notices of alerts that wait to be sent.");
        match self.database.waiting_notices() {
            Ok(waiting) => family.value(waiting),
            Err(error) => tracing::error!(%error, "notices cannot be read"),
        }
    }
}

impl Counts {
    fn write(&self, text: &mut Text) {
        self.write_runs(text);
        self.write_rows(text);
        self.write_pushes(text);
    }

    fn write_runs(&self, text: &mut Text) {
        let mut family = text.gauge("larder_loader_runs_running", "Runs under way.");
        self.running.iter().for_each(|(sync, runs)| family.sample(&[("sync", sync)], runs.len()));
        let mut family =
            text.histogram("larder_loader_run_duration_seconds", "Time that runs took, by how they ended.");
        for ((sync, outcome), histogram) in &self.runs {
            histogram.write(&RUN_BOUNDS, &mut family, &[("sync", sync), ("outcome", outcome)]);
        }
        let mut family = text.gauge(
            "larder_loader_last_success_timestamp_seconds",
            "When a run last ended well at a destination, in seconds since 1970.",
        );
        for (delivery, at) in &self.succeeded_at {
            family.sample(&labels(delivery), at.as_second());
        }
        let mut family = text
            .gauge("larder_loader_schedule_lag_seconds", "How much later than planned the newest scheduled run began.");
        self.lag.iter().for_each(|(sync, lag)| family.sample(&[("sync", sync)], lag.as_secs_f64()));
    }

    fn write_rows(&self, text: &mut Text) {
        let mut family = text.counter("larder_loader_read_rows_total", "Rows that queries returned.");
        self.read.iter().for_each(|(sync, rows)| family.sample(&[("sync", sync)], rows));
        let mut family = text.counter(
            "larder_loader_rows_total",
            "Rows of runs that have ended: what they meant to a destination (added, changed, removed, unchanged, \
             rejected) and what became of them (sent, acknowledged, swept).",
        );
        for ((delivery, kind), rows) in &self.rows {
            let [sync, destination] = labels(delivery);
            family.sample(&[sync, destination, ("kind", kind)], rows);
        }
        let mut family = text.counter("larder_loader_pushed_bytes_total", "Bytes of batches that were acknowledged.");
        self.bytes.iter().for_each(|(delivery, bytes)| family.sample(&labels(delivery), bytes));
    }

    fn write_pushes(&self, text: &mut Text) {
        let mut family =
            text.histogram("larder_loader_push_seconds", "Time from the sending of a batch to its answer.");
        for (delivery, histogram) in &self.pushes {
            histogram.write(&PUSH_BOUNDS, &mut family, &labels(delivery));
        }
        let mut family = text.counter("larder_loader_push_retries_total", "Batches that were sent again.");
        self.retries.iter().for_each(|(delivery, retries)| family.sample(&labels(delivery), retries));
        let mut family = text.gauge("larder_loader_inflight_batches", "Batches that are sent and not answered.");
        self.in_flight.iter().for_each(|(delivery, batches)| family.sample(&labels(delivery), batches));
    }
}

impl Observer for Metrics {
    fn started(&self, run: &RunStarted<'_>) {
        self.counts().running.entry(run.spec.name.to_string()).or_default().insert(run.run.to_owned());
    }

    fn ended(&self, run: &RunEnded<'_>) {
        let sync = run.started.spec.name.to_string();
        let mut counts = self.counts();
        counts.running.entry(sync.clone()).or_default().remove(run.started.run);
        let key = (sync.clone(), run.outcome().as_str());
        counts.runs.entry(key).or_default().record(&RUN_BOUNDS, between(run.started.at, run.at));
        let Some(report) = run.report() else { return };
        *counts.read.entry(sync.clone()).or_default() += report.rows.read;
        for part in &report.deliveries {
            let delivery = (sync.clone(), part.destination.to_string());
            for (kind, rows) in [
                ("added", part.rows.added),
                ("changed", part.rows.changed),
                ("removed", part.rows.removed),
                ("unchanged", part.rows.unchanged),
                ("rejected", part.rows.rejected),
                ("sent", part.sent),
                ("acknowledged", part.acknowledged),
                ("swept", part.swept),
            ] {
                *counts.rows.entry((delivery.clone(), kind)).or_default() += rows;
            }
            *counts.bytes.entry(delivery.clone()).or_default() += part.bytes;
            counts.in_flight.insert(delivery.clone(), 0);
            if matches!(part.outcome, Outcome::Succeeded | Outcome::Partial) {
                counts.succeeded_at.insert(delivery, run.at);
            }
        }
    }

    fn sent(&self, attempt: &SendAttempt<'_>) {
        let delivery = (attempt.sync.to_string(), attempt.destination.to_string());
        let mut counts = self.counts();
        counts.pushes.entry(delivery.clone()).or_default().record(&PUSH_BOUNDS, attempt.took);
        *counts.retries.entry(delivery.clone()).or_default() += u64::from(attempt.is_repetition);
        counts.in_flight.insert(delivery, attempt.in_flight);
    }
}

fn labels((sync, destination): &Delivery) -> [(&str, &str); 2] {
    [("sync", sync), ("destination", destination)]
}

/// The size of the snapshots in a folder; 0 before there is one.
fn snapshot_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let snapshots = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("snapshot-"));
    snapshots.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}
