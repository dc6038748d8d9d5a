//! `explain-key`: where a key is, and why its record is as it is.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::value::RawValue;

use super::output::{complain, say};
use super::{Shown, say_json, with_project, with_syncs};
use crate::inspect::explain::{DestinationView, Explanation, explain};
use crate::inspect::records::Record;
use crate::run::ExitClass;

#[derive(Debug, Args)]
pub(super) struct ExplainKeyCommand {
    /// The sync.
    sync: String,
    /// The primary key, as text.
    key: String,
    #[command(flatten)]
    shown: Shown,
}

/// Explains a key. Reads the whole query, and asks each cluster for the record.
pub(super) fn explain_key(command: &ExplainKeyCommand) -> ExitClass {
    with_project(&command.shown.project, |project| {
        with_syncs(project, std::slice::from_ref(&command.sync), |syncs| {
            let Some(sync) = syncs.first() else { return ExitClass::Config };
            match explain(project, &sync.name, &command.key) {
                Ok(explanation) if command.shown.json => say_json(&explanation),
                Ok(explanation) => print(&explanation),
                Err(error) => {
                    complain(format_args!("error: {error}"));
                    return error.exit_class();
                }
            }
            ExitClass::Ok
        })
    })
}

fn print(explanation: &Explanation) {
    let Explanation { sync, collection, key, running, source, destinations } = explanation;
    say(format_args!("{sync} -> {collection}, key {key}"));
    if let Some(run) = running {
        say(format_args!("  run {run} is under way; what follows is from before it"));
    }
    match (source.rows, source.row) {
        (0, _) => say("  source: no row"),
        (1, Some(row)) => say(format_args!("  source: row {row} {}", object(&source.columns))),
        (rows, _) => say(format_args!("  source: {rows} rows; the first is {}", object(&source.columns))),
    }
    match &source.error {
        Some(error) => say(format_args!("  mapped: rejected: {error}")),
        None if source.rows > 0 => say(format_args!("  mapped: {}", object(&source.fields))),
        None => {}
    }
    destinations.iter().for_each(print_destination);
}

fn print_destination(view: &DestinationView) {
    say(format_args!("  {}:", view.destination));
    let hash =
        |hash: &Option<String>| hash.as_ref().map_or_else(|| "-".to_owned(), |hash| hash.chars().take(12).collect());
    let acknowledged = view.acknowledged.replace('_', " ");
    say(format_args!(
        "    acknowledged: {acknowledged} (row hash {}, acknowledged {})",
        hash(&view.row_hash),
        hash(&view.acknowledged_hash)
    ));
    match &view.last_push {
        Some(push) => {
            let status = push.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
            let run = &push.run;
            say(format_args!("    last push: {} {} in batch {} of run {run}: {status}", push.at, push.op, push.seq));
        }
        None => say("    last push: not in the request log"),
    }
    if let Some(rejected) = &view.rejected {
        say(format_args!("    rejected: {rejected}"));
    }
    match &view.record {
        Record::Found { fields } => say(format_args!("    record: {}", object(fields))),
        Record::Absent => say("    record: none"),
        Record::Unknown { reason } => say(format_args!("    record: unknown: {reason}")),
    }
    say(format_args!("    {}", view.verdict));
}

/// Values by name as JSON.
fn object(values: &BTreeMap<String, Box<RawValue>>) -> String {
    let members: Vec<String> = values
        .iter()
        .map(|(name, value)| format!("{}:{}", serde_json::Value::from(name.as_str()), value.get()))
        .collect();
    format!("{{{}}}", members.join(","))
}
