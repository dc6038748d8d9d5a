//! `rows`: rows of a run by what became of them.

use clap::{Args, ValueEnum};

use super::export::Exported;
use super::output::complain;
use super::with_project;
use crate::run::{self, ExitClass, RejectedRow};

#[derive(Debug, Args)]
pub(super) struct RowsCommand {
    /// The run's id, as `run` and `history` print it.
    run: String,
    /// Which rows: those that were rejected are the ones that are kept.
    #[arg(long, value_enum, default_value_t = RowStatus::Rejected)]
    status: RowStatus,
    #[command(flatten)]
    exported: Exported,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RowStatus {
    /// Left out by the mapping, or refused by a cluster.
    Rejected,
}

/// Lists the rejected rows of a run, with their keys.
pub(super) fn rows(command: &RowsCommand) -> ExitClass {
    let RowStatus::Rejected = command.status;
    with_project(&command.exported.project, |project| match run::rejected(project, &command.run) {
        Ok(rows) => {
            // With one destination its name says nothing.
            let is_shared = rows.iter().any(|row| row.destination != rows[0].destination);
            command
                .exported
                .put(&rows, "no row of this run was rejected, or they are kept no longer", |row| line(row, is_shared))
        }
        Err(error) => {
            complain(format_args!("error: {error}"));
            error.exit_class()
        }
    })
}

fn line(row: &RejectedRow, is_shared: bool) -> String {
    let rejection = &row.rejection;
    let destination = if is_shared { format!("{}: ", row.destination) } else { String::new() };
    let key = rejection.key.as_ref().map(|key| format!("key {key}"));
    let number = rejection.row.map(|row| format!("row {row}"));
    let field = rejection.field.as_ref().map(|field| format!("field `{field}`"));
    let place: Vec<String> = [number, key, field].into_iter().flatten().collect();
    format!("{destination}{}: {} ({})", place.join(", "), rejection.message, rejection.code)
}
