//! `run`: sends what changed.

use std::time::Duration;

use serde::Serialize;

use super::output::{blocked, complain, counts, duration, rows, say};
use super::plan::rejection_line;
use super::progress::Watch;
use super::{say_json, worst};
use crate::observe::Observing;
use crate::project::{Project, SyncSpec};
use crate::run::{self, Audience, DeliveryReport, ExitClass, Outcome, RunError, RunOptions, RunReport};

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

/// Runs the syncs one after the other; one that fails does not keep the others from running.
pub(super) fn run(project: &Project, syncs: &[&SyncSpec], options: &RunOptions, json: bool) -> ExitClass {
    let observing = match Observing::start(project) {
        Ok(observing) => observing,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return error.exit_class();
        }
    };
    let exit = worst(syncs.iter().map(|sync| {
        let watch = Watch::new(sync.name.as_str(), !json);
        let result = run::run(project, &sync.name, options, Audience { progress: &watch, observer: &observing });
        drop(watch);
        let exit = result.as_ref().map_or_else(RunError::exit_class, RunReport::exit_class);
        let report = result.as_ref().map_or_else(RunError::report, Some);
        let error = result.as_ref().err().map(ToString::to_string);
        if json {
            say_json(&Line { sync: sync.name.as_str(), exit_code: exit.code(), error, run: report });
        } else {
            print(sync, report, error.as_deref());
        }
        exit
    }));
    observing.finish(PATIENCE);
    exit
}

fn print(sync: &SyncSpec, report: Option<&RunReport>, error: Option<&str>) {
    if let Some(report) = report {
        remarks(report);
    }
    if let Some(error) = error {
        complain(format_args!("{}: error: {error}", sync.name));
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
