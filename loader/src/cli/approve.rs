//! `approve`: lets the next run do what a guard stopped.

use larder_types::names::SyncName;

use super::output::{complain, rows, say};
use super::{interrupt, run as run_command, say_json};
use crate::project::Project;
use crate::run::{self, ExitClass, Hold, RunOptions, Trigger};

/// Approves a run that a guard stopped, and runs its sync if `at_once` says so.
pub(super) fn approve(project: &Project, id: &str, at_once: bool, json: bool) -> ExitClass {
    let holds = match run::approve(project, id) {
        Ok(holds) => holds,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return error.exit_class();
        }
    };
    holds.iter().for_each(|hold| if json { say_json(hold) } else { say(describe(hold)) });
    let sync = holds.first().and_then(|hold| SyncName::new(&hold.sync).ok());
    match sync.and_then(|sync| project.syncs.get(&sync)) {
        Some(spec) if at_once => {
            let cancel = interrupt::cancelled_by_signals();
            let options = RunOptions { trigger: Trigger::Approve, cancel, ..RunOptions::default() };
            run_command::run(project, spec, &options, json)
        }
        _ => ExitClass::Ok,
    }
}

fn describe(hold: &Hold) -> String {
    let Hold { sync, destination, found, .. } = hold;
    format!(
        "the next run of {sync} may remove {} and change {} at {destination}, if the query returns {} rows or more",
        rows(found.removed),
        rows(found.changed),
        rows(found.read)
    )
}
