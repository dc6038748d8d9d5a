//! `run`: sends what changed.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::interrupt::cancelled_by_signals;
use super::output::{blocked, complain, counts, duration, rows, say};
use super::plan::rejection_line;
use super::progress::Watch;
use super::{Shown, say_json, worst};
use crate::observe::{Observer, Observing};
use crate::project::span::parse_span;
use crate::project::{DestinationName, Project, SyncSpec};
use crate::run::{self, Audience, DeliveryReport, ExitClass, Outcome, RunError, RunOptions, RunReport, Scope, Trigger};

/// Rejected rows that are shown; all of them are in the history.
const SHOWN_REJECTIONS: usize = 5;

/// For so long notices and events that wait to be sent hold up the end of the process.
const PATIENCE: Duration = Duration::from_secs(10);

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    sync: &'a str,
    exit_code: u8,
    error: Option<String>,
    run: Option<&'a RunReport>,
}

/// What `run` takes.
#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// The syncs; all of them, one after the other, if none is named.
    pub(super) syncs: Vec<String>,
    /// Only syncs with this tag, written `tag:WORD`; with several, those that have any of them.
    #[arg(long, value_name = "tag:WORD", value_parser = parse_tag)]
    select: Vec<String>,
    /// Feed only this destination of the syncs that have it; may be repeated.
    #[arg(long, value_name = "NAME", value_parser = DestinationName::new)]
    destination: Vec<DestinationName>,
    /// Send every row and sweep from the cluster what this sync wrote before and the query no longer has.
    #[arg(long, conflicts_with = "limit")]
    full: bool,
    /// Read so many rows at most, to try a sync out. Nothing is removed.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Let the run remove more rows than the guard allows.
    #[arg(long)]
    accept_removals: bool,
    /// Cancel a run that takes longer, for example `10m`.
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    timeout: Option<Duration>,
    #[command(flatten)]
    pub(super) shown: Shown,
}

fn parse_tag(text: &str) -> Result<String, &'static str> {
    text.strip_prefix("tag:").filter(|tag| !tag.is_empty()).map(str::to_owned).ok_or("must be `tag:WORD`")
}

impl RunArguments {
    /// Runs those of the named syncs that are selected.
    pub(super) fn run(&self, project: &Project, syncs: &[&SyncSpec]) -> ExitClass {
        let has_tag = |sync: &SyncSpec| self.select.is_empty() || self.select.iter().any(|tag| sync.tags.contains(tag));
        let feeds = |sync: &SyncSpec| {
            self.destination.is_empty() || self.destination.iter().any(|name| sync.destinations.contains(name))
        };
        let selected: Vec<&SyncSpec> = syncs.iter().copied().filter(|sync| has_tag(sync) && feeds(sync)).collect();
        if selected.is_empty() {
            complain("error: no sync is selected");
            return ExitClass::Config;
        }
        let cancel = cancelled_by_signals();
        observed(project, |observer| {
            // Once cancelled, no further sync is begun.
            let begun = selected.iter().take_while(|_| cancel.why().is_none());
            worst(begun.map(|sync| {
                let named = |name: &&DestinationName| sync.destinations.contains(name);
                let options = RunOptions {
                    full: self.full,
                    reset: false,
                    accept_removals: self.accept_removals,
                    scope: self.limit.map_or(Scope::All, Scope::First),
                    destinations: self.destination.iter().filter(named).cloned().collect(),
                    cancel: cancel.clone(),
                    timeout: self.timeout,
                    trigger: Trigger::Cli,
                    order: None,
                };
                run_one(project, sync, &options, self.shown.json, observer)
            }))
        })
    }
}

/// Has those who want to know of runs told of what `action` runs, and gives them a moment at its end.
fn observed(project: &Project, action: impl FnOnce(&dyn Observer) -> ExitClass) -> ExitClass {
    let observing = match Observing::start(project) {
        Ok(observing) => observing,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return error.exit_class();
        }
    };
    let exit = action(&observing);
    observing.finish(PATIENCE);
    exit
}

/// Runs one sync and says how it went.
pub(super) fn run(project: &Project, sync: &SyncSpec, options: &RunOptions, json: bool) -> ExitClass {
    observed(project, |observer| run_one(project, sync, options, json, observer))
}

fn run_one(project: &Project, sync: &SyncSpec, options: &RunOptions, json: bool, observer: &dyn Observer) -> ExitClass {
    let watch = Watch::new(sync.name.as_str(), !json);
    let result = run::run(project, &sync.name, options, Audience { progress: &watch, observer });
    drop(watch);
    tell(sync.name.as_str(), &result, json)
}

/// Sends what an earlier run left.
pub(super) fn retry(project: &Project, run_or_sync: &str, json: bool) -> ExitClass {
    let options = RunOptions { cancel: cancelled_by_signals(), ..RunOptions::default() };
    observed(project, |observer| {
        let watch = Watch::new(run_or_sync, !json);
        let result = run::retry(project, run_or_sync, options, Audience { progress: &watch, observer });
        drop(watch);
        let Some(result) = result.transpose() else {
            complain(format_args!("{run_or_sync}: nothing was rejected or left unsent"));
            return ExitClass::Ok;
        };
        let report = result.as_ref().map_or_else(RunError::report, Some);
        let sync = report.map_or_else(|| run_or_sync.to_owned(), |report| report.sync.to_string());
        tell(&sync, &result, json)
    })
}

fn tell(sync: &str, result: &Result<RunReport, RunError>, json: bool) -> ExitClass {
    let exit = result.as_ref().map_or_else(RunError::exit_class, RunReport::exit_class);
    let report = result.as_ref().map_or_else(RunError::report, Some);
    let error = result.as_ref().err().map(ToString::to_string);
    if json {
        say_json(&Line { sync, exit_code: exit.code(), error, run: report });
    } else {
        print(sync, report, error.as_deref());
    }
    exit
}

fn print(sync: &str, report: Option<&RunReport>, error: Option<&str>) {
    if let Some(report) = report {
        remarks(report);
    }
    if let Some(error) = error {
        complain(format_args!("{sync}: error: {error}"));
    }
    if let Some(report) = report {
        if report.deliveries.len() > 1 {
            report.deliveries.iter().for_each(print_delivery);
        }
        let counts = if report.outcome == Outcome::Blocked { blocked(&report.rows) } else { counts(&report.rows) };
        let swept = if report.swept > 0 { format!(" swept {}", rows(report.swept)) } else { String::new() };
        say(format_args!("{}: {counts}{swept} in {}", report.sync, duration(report.seconds)));
    }
}

fn print_delivery(delivery: &DeliveryReport) {
    let counts = if delivery.outcome == Outcome::Blocked { blocked(&delivery.rows) } else { counts(&delivery.rows) };
    let swept = if delivery.swept > 0 { format!(" swept {}", rows(delivery.swept)) } else { String::new() };
    say(format_args!("  {}: {} {counts}{swept}", delivery.destination, delivery.outcome.as_str()));
}

fn remarks(report: &RunReport) {
    let name = &report.sync;
    if let Some(reason) = report.resend {
        complain(format_args!("{name}: {}", reason.as_str()));
    }
    report.notes.iter().for_each(|note| complain(format_args!("{name}: {note}")));
    for rejection in report.rejections.iter().take(SHOWN_REJECTIONS) {
        complain(format_args!("{name}: {}", rejection_line(rejection)));
    }
    if report.rows.rejected > 0 {
        let rejected = rows(report.rows.rejected);
        complain(format_args!("{name}: {rejected} rejected; see them with `larder-loader rows {}`", report.id));
    }
}
