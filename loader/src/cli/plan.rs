//! `plan`: what a run would do.

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use super::output::{complain, counts, duration, rows, say};
use super::progress::Watch;
use super::{Shown, say_json, with_project, with_syncs, worst};
use crate::inspect::samples::complete;
use crate::project::{Project, SyncSpec};
use crate::run::{self, ExitClass, FieldChange, OldRecord, PlanOptions, PlanReport, Rejection, Sample};

#[derive(Debug, Args)]
pub(super) struct PlanCommand {
    /// The syncs; all of them if none is named.
    syncs: Vec<String>,
    /// Plan to send every row, not only those that changed.
    #[arg(long)]
    full: bool,
    /// How many rows to show of each kind of change.
    #[arg(long, default_value_t = 3, value_name = "N")]
    samples: usize,
    /// Exit with 10 if a run would send something.
    #[arg(long)]
    detailed_exitcode: bool,
    #[command(flatten)]
    shown: Shown,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    sync: &'a str,
    exit_code: u8,
    error: Option<String>,
    plan: Option<PlanReport>,
}

/// Plans the syncs one after the other. Exits as their run would, as far as that can be told beforehand.
pub(super) fn plan(command: &PlanCommand) -> ExitClass {
    with_project(&command.shown.project, |project| {
        with_syncs(project, &command.syncs, |syncs| worst(syncs.iter().map(|sync| plan_one(project, sync, command))))
    })
}

fn plan_one(project: &Project, sync: &SyncSpec, command: &PlanCommand) -> ExitClass {
    let PlanCommand { full, samples, ref shown, .. } = *command;
    let watch = Watch::new(sync.name.as_str(), false);
    let result = run::plan(project, &sync.name, PlanOptions { full, samples }, &watch);
    let result = result.and_then(|plan| complete(project, sync, plan));
    drop(watch);
    let exit = match &result {
        Ok(plan) => exit(plan, command.detailed_exitcode),
        Err(error) => error.exit_class(),
    };
    match result {
        Ok(plan) if !shown.json => print(&plan),
        Err(error) if !shown.json => complain(format_args!("{}: error: {error}", sync.name)),
        result => {
            let (plan, error) = match result {
                Ok(plan) => (Some(plan), None),
                Err(error) => (None, Some(error.to_string())),
            };
            say_json(&Line { sync: sync.name.as_str(), exit_code: exit.code(), error, plan });
        }
    }
    exit
}

fn exit(plan: &PlanReport, detailed: bool) -> ExitClass {
    if plan.blocked.is_some() {
        ExitClass::Blocked
    } else if detailed && plan.to_send > 0 {
        ExitClass::Changes
    } else if plan.rows.rejected > 0 {
        ExitClass::Partial
    } else {
        ExitClass::Ok
    }
}

#[allow(clippy::cast_precision_loss, reason = "a duration for people")]
fn print(plan: &PlanReport) {
    let reason = plan.resend.map(|reason| format!("; {}", reason.as_str())).unwrap_or_default();
    say(format_args!("{} -> {} ({}{reason})", plan.sync, plan.collection, plan.kind.as_str()));
    for sample in &plan.samples {
        say(format_args!("  {}", sample_line(sample)));
    }
    plan.rejections.iter().for_each(|rejection| say(format_args!("  {}", rejection_line(rejection))));
    for (field, count) in &plan.replaced {
        say(format_args!("  field `{field}`: {count} values cannot be made and are replaced, as its on_error says"));
    }
    if plan.rows.removed > 0 {
        say(format_args!("  {} removed: on_exit is {}", rows(plan.rows.removed), plan.on_exit.as_str()));
    }
    if let Some(blocked) = &plan.blocked {
        say(format_args!("  blocked: {blocked}"));
    }
    let seconds = plan.elapsed_ms as f64 / 1_000.0;
    let (sync, to_send) = (&plan.sync, rows(plan.to_send));
    say(format_args!("{sync}: {}, {to_send} to send, planned in {}", counts(&plan.rows), duration(seconds)));
}

/// A row as it would be sent: `+ key {"field":…}`, `~ key field: old -> new`, `- key {"field":…}`.
fn sample_line(sample: &Sample) -> String {
    let name = |field: &FieldChange| serde_json::Value::from(field.field.as_str());
    let object = |of: fn(&FieldChange) -> &Option<Box<RawValue>>| {
        let members = sample.fields.iter().filter_map(|field| Some((name(field), of(field).as_ref()?)));
        let members: Vec<String> = members.map(|(name, value)| format!("{name}:{}", value.get())).collect();
        format!("{{{}}}", members.join(","))
    };
    let key = &sample.key;
    match (sample.change, &sample.old) {
        ("removed", OldRecord::Read) => format!("- {key} {}", object(|field| &field.old)),
        ("removed", OldRecord::Unknown { reason }) => format!("- {key} (its record cannot be shown: {reason})"),
        ("removed", _) => format!("- {key}"),
        ("changed", OldRecord::Read) => format!("~ {key} {}", differences(sample)),
        ("changed", OldRecord::Absent) => format!("~ {key} {} (there is no record now)", object(|field| &field.new)),
        ("changed", OldRecord::Unknown { reason }) => {
            format!("~ {key} {} (its record cannot be shown: {reason})", object(|field| &field.new))
        }
        (change, _) => format!("{} {key} {}", if change == "added" { '+' } else { '~' }, object(|field| &field.new)),
    }
}

/// The fields that a run would change.
fn differences(sample: &Sample) -> String {
    let shown = |value: &Option<Box<RawValue>>| value.as_ref().map_or("-", |value| value.get()).to_owned();
    let changes: Vec<String> = sample
        .fields
        .iter()
        .filter(|field| field.changes)
        .map(|field| format!("{}: {} -> {}", field.field, shown(&field.old), shown(&field.new)))
        .collect();
    if changes.is_empty() { "as the record is already".to_owned() } else { changes.join(", ") }
}

/// A rejected row without its key, so that it may stand in any log.
pub(super) fn rejection_line(rejection: &Rejection) -> String {
    let row = rejection.row.map_or_else(|| "a row".to_owned(), |row| format!("row {row}"));
    let field = rejection.field.as_ref().map(|field| format!(", field `{field}`")).unwrap_or_default();
    format!("rejected {row}{field}: {} ({})", rejection.message, rejection.code)
}
