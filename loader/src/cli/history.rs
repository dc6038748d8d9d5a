//! `history` and `rejects`: what earlier runs did.

use larder_types::names::SyncName;

use super::output::{blocked, bytes, complain, counts, say};
use super::say_json;
use crate::project::Project;
use crate::run::{self, ExitClass, HistoryEntry};

/// Lists runs, the newest first.
pub(super) fn history(project: &Project, sync: Option<&SyncName>, limit: usize, json: bool) -> ExitClass {
    let entries = match run::history(project, sync, limit) {
        Ok(entries) => entries,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return error.exit_class();
        }
    };
    if json {
        entries.iter().for_each(say_json);
    } else if entries.is_empty() {
        complain("no run yet");
    } else {
        entries.iter().for_each(print);
    }
    ExitClass::Ok
}

fn print(entry: &HistoryEntry) {
    let HistoryEntry { id, sync, kind, state, started_at, .. } = entry;
    let reason = entry.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    say(format_args!("{started_at}  {id}  {sync}  {kind} {state}{reason}"));
    if state == "blocked" {
        say(format_args!("    {}", blocked(&entry.rows)));
    } else {
        say(format_args!("    {}; {} batches, {}", counts(&entry.rows), entry.batches, bytes(entry.bytes)));
    }
    if let Some(error) = &entry.error {
        say(format_args!("    {error}"));
    }
}

/// Lists the rejected rows of a run.
pub(super) fn rejects(project: &Project, id: &str, json: bool) -> ExitClass {
    let rejections = match run::rejected(project, id) {
        Ok(rejections) => rejections,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return error.exit_class();
        }
    };
    // With one destination its name says nothing.
    let is_shared = rejections.iter().any(|row| row.destination != rejections[0].destination);
    for row in &rejections {
        if json {
            say_json(row);
            continue;
        }
        let rejection = &row.rejection;
        let destination = if is_shared { format!("{}: ", row.destination) } else { String::new() };
        let key = rejection.key.as_ref().map(|key| format!("key {key}")).unwrap_or_default();
        let row = rejection.row.map(|row| format!("row {row}")).unwrap_or_default();
        let field = rejection.field.as_ref().map(|field| format!("field `{field}`")).unwrap_or_default();
        let place: Vec<String> = [row, key, field].into_iter().filter(|part| !part.is_empty()).collect();
        say(format_args!("{destination}{}: {} ({})", place.join(", "), rejection.message, rejection.code));
    }
    if rejections.is_empty() && !json {
        complain("no row of this run was rejected");
    }
    ExitClass::Ok
}
