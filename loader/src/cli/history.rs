//! `history`: what earlier runs did.

use clap::Args;

use super::export::Exported;
use super::output::{blocked, bytes, complain, counts};
use super::{with_project, with_syncs};
use crate::run::{self, ExitClass, HistoryEntry};

#[derive(Debug, Args)]
pub(super) struct HistoryCommand {
    /// Only the runs of this sync.
    sync: Option<String>,
    /// How many runs to list.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    #[command(flatten)]
    exported: Exported,
}

/// Lists runs, the newest first.
pub(super) fn history(command: &HistoryCommand) -> ExitClass {
    with_project(&command.exported.project, |project| {
        with_syncs(project, command.sync.as_slice(), |syncs| {
            let sync = command.sync.as_ref().and_then(|_| syncs.first()).map(|sync| &sync.name);
            match run::history(project, sync, command.limit) {
                Ok(entries) => command.exported.put(&entries, "no run yet", line),
                Err(error) => {
                    complain(format_args!("error: {error}"));
                    error.exit_class()
                }
            }
        })
    })
}

fn line(entry: &HistoryEntry) -> String {
    let HistoryEntry { id, sync, kind, state, started_at, .. } = entry;
    let reason = entry.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let mut text = format!("{started_at}  {id}  {sync}  {kind} {state}{reason}\n    ");
    if state == "blocked" {
        text += &blocked(&entry.rows);
    } else {
        text += &format!("{}; {} batches, {}", counts(&entry.rows), entry.batches, bytes(entry.bytes));
    }
    if entry.deliveries.len() > 1 {
        for delivery in &entry.deliveries {
            text += &format!("\n    {}: {} {}", delivery.destination, delivery.state, counts(&delivery.rows));
        }
    }
    if let Some(error) = &entry.error {
        error.lines().for_each(|line| text += &format!("\n    {line}"));
    }
    text
}
