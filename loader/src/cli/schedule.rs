//! `schedule`: when syncs run, and pausing that.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::output::{complain, say};
use super::{Shown, say_json, with_project, with_syncs};
use crate::project::{Project, SyncSpec};
use crate::run::ExitClass;
use crate::schedule::timetable::{due, next_nominal};
use crate::serve::view::{SyncView, text};
use crate::state::{State, StateError};

/// Most times that are shown of one sync.
const MAX_COUNT: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct ScheduleCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the syncs: when each runs, in words, its next time, and whether it is paused.
    List(Shown),
    /// Show the next times of schedules, with their jitter. The state is not looked at.
    Next {
        /// The syncs; all of them if none is named.
        syncs: Vec<String>,
        /// How many times to show of each.
        #[arg(long, default_value_t = 5, value_name = "N")]
        count: usize,
        #[command(flatten)]
        shown: Shown,
    },
    /// Keep schedules from starting runs, also across restarts. Runs that somebody asks for go on.
    Pause(Named),
    /// Let paused schedules go on. What they missed is caught up as after a downtime.
    Resume(Named),
}

#[derive(Debug, Args)]
struct Named {
    /// The syncs.
    #[arg(required = true)]
    syncs: Vec<String>,
    #[command(flatten)]
    shown: Shown,
}

/// A line of `schedule next --json`.
#[derive(Serialize)]
struct Next<'a> {
    sync: &'a str,
    description: String,
    times: Vec<String>,
}

/// A line of `schedule pause|resume --json`.
#[derive(Serialize)]
struct Paused<'a> {
    sync: &'a str,
    paused: bool,
    changed: bool,
}

pub(super) fn schedule(command: ScheduleCommand) -> ExitClass {
    match command.action {
        Action::List(shown) => with_project(&shown.project, |project| finish(list(project, shown.json))),
        Action::Next { syncs, count, shown } => with_project(&shown.project, |project| {
            with_syncs(project, &syncs, |syncs| next(syncs, count.min(MAX_COUNT), shown.json))
        }),
        Action::Pause(named) => pause(&named, true),
        Action::Resume(named) => pause(&named, false),
    }
}

fn finish(result: Result<(), StateError>) -> ExitClass {
    match result {
        Ok(()) => ExitClass::Ok,
        Err(error) => {
            complain(format_args!("error: {error}"));
            ExitClass::Failed
        }
    }
}

fn list(project: &Project, json: bool) -> Result<(), StateError> {
    let book = State::open(&project.state_dir)?.database.book(project.syncs.keys())?;
    let widest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    let name = widest(&mut project.syncs.keys().map(|name| name.as_str().chars().count()));
    let words = widest(&mut project.syncs.values().map(|spec| spec.schedule.describe().chars().count()));
    for spec in project.syncs.values() {
        let Some(entry) = book.0.get(&spec.name) else { continue };
        let view = SyncView::of(spec, entry, None);
        if json {
            say_json(&view);
            continue;
        }
        let next = view.schedule.next_at.as_ref().map(|at| format!("next {at}"));
        let paused = view.schedule.paused.then(|| "paused".to_owned());
        let running = view.running.map(|run| format!("running {run}"));
        let pending = view.pending.as_ref().map(|ticket| format!("waiting {}", ticket.id));
        let more: Vec<String> = [paused, next, running, pending].into_iter().flatten().collect();
        let line = format!("{:name$}  {:words$}  {}", view.name, view.schedule.description, more.join(", "));
        say(line.trim_end());
    }
    Ok(())
}

fn next(syncs: &[&SyncSpec], count: usize, json: bool) -> ExitClass {
    for spec in syncs {
        let schedule = &spec.schedule;
        let first = next_nominal(&schedule.when, Timestamp::now());
        let nominal = std::iter::successors(first, |at| next_nominal(&schedule.when, *at)).take(count);
        let times: Vec<String> = nominal.map(|at| text(due(&spec.name, schedule, at))).collect();
        let description = schedule.describe();
        if json {
            say_json(&Next { sync: spec.name.as_str(), description, times });
        } else {
            say(format_args!("{}: {description}", spec.name));
            times.iter().for_each(|time| say(format_args!("    {time}")));
        }
    }
    ExitClass::Ok
}

fn pause(named: &Named, is_paused: bool) -> ExitClass {
    with_project(&named.shown.project, |project| {
        with_syncs(project, &named.syncs, |syncs| finish(set_paused(project, syncs, is_paused, named.shown.json)))
    })
}

fn set_paused(project: &Project, syncs: &[&SyncSpec], is_paused: bool, json: bool) -> Result<(), StateError> {
    let state = State::open(&project.state_dir)?;
    for spec in syncs {
        let changed = state.database.set_paused(&spec.name, is_paused)?;
        if json {
            say_json(&Paused { sync: spec.name.as_str(), paused: is_paused, changed });
        } else {
            let already = if changed { "" } else { " already" };
            let word = if is_paused { "paused" } else { "not paused" };
            say(format_args!("{}: {word}{already}", spec.name));
        }
    }
    Ok(())
}
