//! `status`: how each sync is doing, once or again and again.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::output::{complain, duration, rows, say};
use super::{Shown, say_json, with_project, with_syncs};
use crate::inspect::status::{SyncStatus, status};
use crate::project::{Project, SyncSpec};
use crate::run::{ExitClass, RunError};

/// How often it is looked anew.
const EVERY: Duration = Duration::from_secs(2);
/// To the upper left, and everything below goes: what is drawn anew does not flicker.
const CLEAR: &str = "\x1b[H\x1b[J";

#[derive(Debug, Args)]
pub(super) struct StatusCommand {
    /// The syncs; all of them if none is named.
    syncs: Vec<String>,
    /// Look anew every two seconds: redrawn on a terminal, elsewhere a line whenever something has changed.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    shown: Shown,
}

/// Shows the syncs.
pub(super) fn run(command: &StatusCommand) -> ExitClass {
    with_project(&command.shown.project, |project| {
        with_syncs(project, &command.syncs, |syncs| {
            let result = if command.watch {
                watch(project, syncs, command.shown.json)
            } else {
                status(project, syncs, Timestamp::now()).map(|all| show(&all, command.shown.json))
            };
            match result {
                Ok(()) => ExitClass::Ok,
                Err(error) => {
                    complain(format_args!("error: {error}"));
                    error.exit_class()
                }
            }
        })
    })
}

fn show(all: &[SyncStatus], json: bool) {
    for one in all {
        if json { say_json(one) } else { say(line(one)) }
    }
}

/// Shows the syncs until the process is stopped.
fn watch(project: &Project, syncs: &[&SyncSpec], json: bool) -> Result<(), RunError> {
    let redraws = !json && std::io::stdout().is_terminal();
    let mut before: Vec<String> = vec![String::new(); syncs.len()];
    loop {
        let now = Timestamp::now();
        let all = status(project, syncs, now)?;
        if redraws {
            let lines: Vec<String> = all.iter().map(line).collect();
            let screen = format!("{CLEAR}{now:.0}\n{}\n", lines.join("\n"));
            let mut out = std::io::stdout().lock();
            if out.write_all(screen.as_bytes()).and_then(|()| out.flush()).is_err() {
                return Ok(());
            }
        } else {
            for (one, before) in all.iter().zip(&mut before) {
                let seen = fingerprint(one);
                if seen != *before {
                    *before = seen;
                    show(std::slice::from_ref(one), json);
                }
            }
        }
        std::thread::sleep(EVERY);
    }
}

/// What of a status is news when it changes: everything but time passing.
fn fingerprint(one: &SyncStatus) -> String {
    let last = one.last_run.as_ref().map(|run| (&run.id, &run.state));
    format!("{last:?} {:?} {:?} {:?} {}", one.held, one.next_at, one.running, one.is_paused)
}

#[allow(clippy::cast_precision_loss, reason = "a duration for people")]
fn line(one: &SyncStatus) -> String {
    let last = match &one.last_run {
        None => "never run".to_owned(),
        Some(run) if run.state == "running" => format!("running since {}", run.started_at),
        Some(run) => {
            let rejected =
                if run.rows.rejected > 0 { format!(", {} rejected", rows(run.rows.rejected)) } else { String::new() };
            format!("{} at {}{rejected}", run.state, run.ended_at.as_deref().unwrap_or(&run.started_at))
        }
    };
    let success = match one.age_seconds {
        Some(age) => format!("last success {} ago", duration(age as f64)),
        None => "no success yet".to_owned(),
    };
    let next = match &one.next_at {
        _ if one.is_paused => "schedule paused".to_owned(),
        Some(at) => format!("next {at}"),
        None => one.schedule.clone(),
    };
    let held = one.held.as_ref().map(|run| format!("; held: run {run} was stopped by a guard")).unwrap_or_default();
    let destinations: Vec<String> = one
        .destinations
        .iter()
        .map(|destination| {
            let rows = destination.rows.map_or_else(|| "no".to_owned(), rows);
            let resend = destination.resend.map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!("{} {rows} rows{resend}", destination.destination)
        })
        .collect();
    format!("{}: {last}; {success}; {next}; {}{held}", one.sync, destinations.join(", "))
}
