//! The loader's diff alone, beside one big hash table, on rows made up here.
//!
//! Each contestant works in a process of its own, in turns, round by round: memory is the peak of that process, time is
//! processor time of its one thread, and of all rounds the least counts. Making the rows is part of every figure.

mod phase;
mod rows;
mod table;

use std::fmt;

use anyhow::ensure;
use serde::Serialize;

use self::phase::{Measured, Phase, in_child};
pub(crate) use self::phase::{PhaseOptions, measure as measure_phase};
use crate::storage::report::{Goal, Row, Unit, Verdict};

/// Rows that the goals are for.
const FULL_ROWS: u64 = 5_000_000;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rows of the first day
    #[arg(long, default_value_t = FULL_ROWS)]
    rows: u64,
    /// Times that each contestant has its turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Show the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    source_rows: u64,
    rows: Vec<Row>,
}

/// The least over all rounds.
struct Best {
    making: f64,
    first: Measured,
    next: Measured,
    table: Measured,
}

/// Measures.
///
/// # Errors
/// When there is nothing to measure, or the contestants do not find the same.
pub(crate) fn measure(options: &Options) -> anyhow::Result<Report> {
    ensure!(options.rows >= 1000 && options.rounds > 0, "there is nothing to measure: give 1000 rows and a round");
    let rows = options.rows;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        let folder = tempfile::tempdir()?;
        let turn = |phase| in_child(phase, rows, folder.path());
        let (making, first, next) = (turn(Phase::Rows)?, turn(Phase::First)?, turn(Phase::Next)?);
        rounds.push((making, first, next, turn(Phase::Table)?));
    }
    let least = |of: fn(&(Measured, Measured, Measured, Measured)) -> &Measured| {
        let all = || rounds.iter().map(of);
        let mut best = all().next().cloned().unwrap_or_else(|| of(&rounds[0]).clone());
        best.comparing = all().map(|one| one.comparing).fold(f64::INFINITY, f64::min);
        best.state = all().map(|one| one.state).fold(f64::INFINITY, f64::min);
        // Of memory the most counts.
        best.peak = all().map(|one| one.peak).fold(0.0, f64::max);
        best
    };
    let best = Best {
        making: least(|round| &round.0).comparing,
        first: least(|round| &round.1),
        next: least(|round| &round.2),
        table: least(|round| &round.3),
    };
    let found = |one: &Measured| (one.added, one.changed, one.removed);
    let expected = rows::expected(rows);
    ensure!(found(&best.first) == (rows, 0, 0), "the first load found {:?}", found(&best.first));
    ensure!(found(&best.next) == expected, "the loader found {:?}, not {expected:?}", found(&best.next));
    ensure!(found(&best.table) == expected, "the table found {:?}, not {expected:?}", found(&best.table));
    Ok(report(rows, &best))
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn report(rows: u64, best: &Best) -> Report {
    let count = rows as f64;
    let rate = |seconds: f64| count / seconds / 1e3;
    let Best { making, first, next, table } = best;
    let (added, changed, removed) = rows::expected(rows);
    let found =
        format!("{added} added, {changed} changed, {removed} removed; making the rows took {making:.2} s of it");
    let memory = "peak of the process, the next state made too".to_owned();
    let per_second = Unit::ThousandsPerCpuSecond;
    let rows_of_report = vec![
        Row::judged("diff, rows", rate(next.comparing), per_second, Goal::AtLeast(1500.0), found),
        Row::judged("diff, memory", next.peak, Unit::Mebibytes, Goal::AtMost(64.0 * 1024.0 * 1024.0), memory.clone()),
        Row::shown("diff and next state, rows", rate(next.comparing + next.state), per_second, {
            format!("{:.2} s to compare, {:.2} s for journal and state", next.comparing, next.state)
        }),
        Row::shown(
            "first load, rows",
            rate(first.comparing),
            per_second,
            "no state yet; all rows are added".to_owned(),
        ),
        Row::judged("first load, memory", first.peak, Unit::Mebibytes, Goal::AtMost(64.0 * 1024.0 * 1024.0), memory),
        Row::shown("first load and state, rows", rate(first.comparing + first.state), per_second, {
            format!("{:.2} s to compare, {:.2} s for journal and state", first.comparing, first.state)
        }),
        Row::shown("one hash table, rows", rate(table.comparing), per_second, {
            format!("once it is filled, which took {:.2} s", table.state)
        }),
        Row::shown("one hash table filled and compared, rows", rate(table.comparing + table.state), per_second, {
            "a loader that keeps nothing in memory between runs has to fill it each time".to_owned()
        }),
        Row::shown("one hash table, memory", table.peak, Unit::Mebibytes, "peak of the process".to_owned()),
    ];
    Report { source_rows: rows, rows: rows_of_report }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<48} {:>13} {:>16}  verdict", "", "figure", "goal")?;
        self.rows.iter().try_for_each(|row| write!(f, "{row}"))?;
        let missed = self.rows.iter().filter(|row| row.verdict == Verdict::Miss).count();
        let judged = self.rows.iter().filter(|row| row.goal.is_some()).count();
        writeln!(f, "{missed} of {judged} goals missed, {} rows", self.source_rows)?;
        if self.source_rows < FULL_ROWS {
            writeln!(f, "the goals are for {FULL_ROWS} rows")?;
        }
        Ok(())
    }
}
