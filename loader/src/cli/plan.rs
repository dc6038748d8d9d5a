//! `plan`: what a run would do.

use serde::Serialize;

use super::output::{complain, counts, duration, rows, say};
use super::progress::Watch;
use super::{say_json, worst};
use crate::project::{Project, SyncSpec};
use crate::run::{self, ExitClass, PlanOptions, PlanReport, Rejection, Sample};

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    sync: &'a str,
    exit_code: u8,
    error: Option<String>,
    plan: Option<PlanReport>,
}

/// Plans the syncs one after the other. Exits as their run would, as far as that can be told beforehand.
pub(super) fn plan(project: &Project, syncs: &[&SyncSpec], full: bool, samples: usize, json: bool) -> ExitClass {
    worst(syncs.iter().map(|sync| {
        let watch = Watch::new(sync.name.as_str(), false);
        let result = run::plan(project, &sync.name, PlanOptions { full, samples }, &watch);
        drop(watch);
        let exit = match &result {
            Ok(plan) => exit(plan),
            Err(error) => error.exit_class(),
        };
        match result {
            Ok(plan) if !json => print(&plan),
            Err(error) if !json => complain(format_args!("{}: error: {error}", sync.name)),
            result => {
                let (plan, error) = match result {
                    Ok(plan) => (Some(plan), None),
                    Err(error) => (None, Some(error.to_string())),
                };
                say_json(&Line { sync: sync.name.as_str(), exit_code: exit.code(), error, plan });
            }
        }
        exit
    }))
}

fn exit(plan: &PlanReport) -> ExitClass {
    if plan.blocked.is_some() {
        ExitClass::Blocked
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

/// A row as it would be sent: `+ key {"field":...}`.
fn sample_line(sample: &Sample) -> String {
    let sign = match sample.change {
        "added" => '+',
        "removed" => '-',
        _ => '~',
    };
    let fields: Vec<String> = sample
        .fields
        .iter()
        .map(|(name, value)| format!("{}:{}", serde_json::Value::from(name.as_str()), value.get()))
        .collect();
    let fields = if fields.is_empty() { String::new() } else { format!(" {{{}}}", fields.join(",")) };
    format!("{sign} {}{fields}", sample.key)
}

/// A rejected row without its key, so that it may stand in any log.
pub(super) fn rejection_line(rejection: &Rejection) -> String {
    let row = rejection.row.map_or_else(|| "a row".to_owned(), |row| format!("row {row}"));
    let field = rejection.field.as_ref().map(|field| format!(", field `{field}`")).unwrap_or_default();
    format!("rejected {row}{field}: {} ({})", rejection.message, rejection.code)
}
