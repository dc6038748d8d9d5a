//! One measurement in a process of its own, so that its peak of memory is its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use larder_loader::measure::DiffBench;
use serde::{Deserialize, Serialize};

use super::rows::{self, Day};
use super::table;
use crate::storage::times::timed;

/// What a child process measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Phase {
    /// Making the rows, which is part of all other figures.
    Rows,
    /// The loader, without a state.
    First,
    /// The loader, with the state of the first day.
    Next,
    /// One hash table.
    Table,
}

/// What to do, for the child process.
#[derive(Debug, clap::Args)]
pub(crate) struct PhaseOptions {
    #[arg(value_enum)]
    phase: Phase,
    #[arg(long)]
    rows: u64,
    #[arg(long)]
    folder: PathBuf,
}

/// What a child process measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Seconds of processor time to take in all rows and find what has changed; for [`Phase::Rows`] to make them.
    pub(crate) comparing: f64,
    /// Seconds of processor time to make the next state; of the table, to fill it.
    pub(crate) state: f64,
    /// Most memory that was resident, in bytes.
    pub(crate) peak: f64,
    pub(crate) added: u64,
    pub(crate) changed: u64,
    pub(crate) removed: u64,
}

/// Measures in this process and prints the result for the parent.
pub(crate) fn measure(options: &PhaseOptions) -> anyhow::Result<Measured> {
    let PhaseOptions { phase, rows, ref folder } = *options;
    match phase {
        Phase::Rows => {
            let (made, nanos) = timed(|| {
                let mut bytes = 0;
                rows::feed::<anyhow::Error>(rows, Day::Next, |key, cells| {
                    bytes += std::hint::black_box(key.len() + cells.len());
                    Ok(())
                })
            });
            made?;
            Ok(Measured { comparing: nanos / 1e9, state: 0.0, peak: peak()?, added: 0, changed: 0, removed: 0 })
        }
        Phase::First => diff(folder, rows, Day::First),
        Phase::Next => diff(folder, rows, Day::Next),
        Phase::Table => {
            let found = table::compare(rows);
            let (comparing, state) = (found.comparing, found.filling);
            let (added, changed, removed) = (found.added, found.changed, found.removed);
            Ok(Measured { comparing, state, peak: peak()?, added, changed, removed })
        }
    }
}

fn diff(folder: &Path, count: u64, day: Day) -> anyhow::Result<Measured> {
    let bench = DiffBench::open(folder)?;
    let (compared, comparing) = timed(|| bench.compare(|each| rows::feed(count, day, each)));
    let compared = compared?;
    let found = compared.rows();
    let (acknowledged, state) = timed(|| bench.acknowledge(&compared));
    acknowledged?;
    let (added, changed, removed) = (found.added, found.changed, found.removed);
    Ok(Measured { comparing: comparing / 1e9, state: state / 1e9, peak: peak()?, added, changed, removed })
}

/// Measures a phase in a child process.
pub(super) fn in_child(phase: Phase, rows: u64, folder: &Path) -> anyhow::Result<Measured> {
    let name = clap::ValueEnum::to_possible_value(&phase).map(|value| value.get_name().to_owned());
    let output = Command::new(std::env::current_exe().context("cannot find this program")?)
        .arg("diff-phase")
        .arg(name.context("a phase without a name")?)
        .args(["--rows", &rows.to_string(), "--folder"])
        .arg(folder)
        .output()
        .context("cannot start this program again")?;
    ensure!(output.status.success(), "measuring failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("the child process printed no measurement")
}

/// The most memory of this process that was ever resident, in bytes.
fn peak() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("the kernel keeps no account of memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("there is no VmHWM")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024.0)
}
