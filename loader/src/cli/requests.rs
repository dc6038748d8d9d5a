//! `requests`: every attempt of a run to send a batch.

use clap::Args;

use super::export::Exported;
use super::output::{bytes, complain, duration, rows};
use super::with_project;
use crate::run::{self, ExitClass};
use crate::state::requests::RequestEntry;

#[derive(Debug, Args)]
pub(super) struct RequestsCommand {
    /// The run's id, as `run` and `history` print it.
    run: String,
    /// Only attempts with this status: `503`, `5xx`, `none` (no answer), `failed` (all but 2xx).
    #[arg(long, value_name = "STATUS", value_parser = parse_status)]
    status: Option<Status>,
    #[command(flatten)]
    exported: Exported,
}

/// Which attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Exactly(u16),
    Hundred(u16),
    None,
    Failed,
}

fn parse_status(text: &str) -> Result<Status, String> {
    let number = |text: &str| text.parse::<u16>().ok();
    match text {
        "none" => return Ok(Status::None),
        "failed" => return Ok(Status::Failed),
        _ => {}
    }
    let hundred = text.strip_suffix("xx").and_then(number).filter(|hundred| (1..=5).contains(hundred));
    let exactly = number(text).filter(|status| (100..600).contains(status));
    let status = hundred.map(Status::Hundred).or(exactly.map(Status::Exactly));
    status.ok_or_else(|| "must be a status such as `503`, `5xx`, `none` or `failed`".to_owned())
}

impl Status {
    fn is_of(self, entry: &RequestEntry) -> bool {
        match self {
            Self::Exactly(status) => entry.status == Some(status),
            Self::Hundred(hundred) => entry.status.is_some_and(|status| status / 100 == hundred),
            Self::None => entry.status.is_none(),
            Self::Failed => entry.status.is_none_or(|status| status / 100 != 2),
        }
    }
}

/// Lists attempts in the order in which they ended.
pub(super) fn requests(command: &RequestsCommand) -> ExitClass {
    with_project(&command.exported.project, |project| match run::requests(project, &command.run) {
        Ok(mut entries) => {
            entries.retain(|entry| command.status.is_none_or(|status| status.is_of(entry)));
            command.exported.put(&entries, "no such request of this run is remembered", line)
        }
        Err(error) => {
            complain(format_args!("error: {error}"));
            error.exit_class()
        }
    })
}

#[allow(clippy::cast_precision_loss, reason = "a duration for people")]
fn line(entry: &RequestEntry) -> String {
    let RequestEntry { destination, seq, attempt, at, op, .. } = entry;
    let status = entry.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let code = entry.code.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
    let repeat = if *attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
    let rejected = if entry.rejected > 0 { format!(", {} rejected", rows(entry.rejected)) } else { String::new() };
    let error = entry.error.as_ref().map(|error| format!("\n    {error}")).unwrap_or_default();
    format!(
        "{at}  {destination}  batch {seq}{repeat}: {op} {} rows, {} -> {status}{code} in {}{rejected}{error}",
        rows(entry.rows),
        bytes(entry.bytes),
        duration(entry.latency_us as f64 / 1e6),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_hundreds_and_words() {
        assert_eq!(parse_status("503"), Ok(Status::Exactly(503)));
        assert_eq!(parse_status("4xx"), Ok(Status::Hundred(4)));
        assert_eq!(parse_status("none"), Ok(Status::None));
        for wrong in ["", "xx", "6xx", "40", "4x", "bad", "600"] {
            assert!(parse_status(wrong).is_err(), "{wrong}");
        }
    }
}
