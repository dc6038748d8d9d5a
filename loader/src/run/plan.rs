//! A plan: what a run would do, without a word to the cluster.

use larder_types::patch::ExitMode;
use serde_json::value::RawValue;

use super::execute::to_send;
use super::guard::{Findings, verdict};
use super::prepare::{Baseline, Context, Failure, Tuning, prepare};
use super::produce::{map, rejection};
use super::rejections::Rejections;
use super::report::{PlanReport, RunKind, Sample};
use super::{PlanOptions, Progress};
use crate::diff::join::{Change, Diff};
use crate::mapping::Mapping;
use crate::project::SyncSpec;
use crate::push::batch::Patch;
use crate::source::RowStream;
use crate::state::SyncState;

/// Rejected rows that a plan shows.
const SHOWN: usize = 20;

/// Reads, compares, maps what would be sent, and counts. The caller knows the time that it took.
pub(super) fn plan(
    spec: &SyncSpec,
    mapping: &Mapping,
    sync: &SyncState,
    rows: RowStream,
    options: PlanOptions,
    progress: &dyn Progress,
) -> Result<PlanReport, Failure> {
    let baseline = Baseline::load(sync, spec, mapping, options.full)?;
    let context = Context { state: sync, all: options.full, progress, tuning: Tuning::default() };
    let mut prepared = prepare(spec, mapping, rows, &baseline, context)?;
    let kind = if options.full { RunKind::Full } else { RunKind::Delta };
    let before = prepared.rejections.count;
    let samples = try_out(mapping, &prepared.diff, options, &mut prepared.rejections)?;
    let unmapped = prepared.rejections.count - before;
    let mut counts = prepared.counts;
    counts.rejected = prepared.rejections.count;
    let removed = if spec.on_exit == ExitMode::Keep { 0 } else { counts.removed };
    let blocked = verdict(&spec.guard, Findings { read: counts.read, removed, known: prepared.diff.known }, false);
    let mut rejections = prepared.rejections.kept;
    rejections.truncate(SHOWN);
    Ok(PlanReport {
        sync: spec.name.clone(),
        collection: spec.collection.clone(),
        kind,
        resend: baseline.resend,
        on_exit: spec.on_exit,
        rows: counts,
        to_send: to_send(kind, spec.on_exit, counts) - unmapped,
        blocked,
        samples,
        rejections,
        elapsed_ms: 0,
    })
}

/// Maps every row that would be sent, and keeps the first of each kind of change.
fn try_out(
    mapping: &Mapping,
    diff: &Diff,
    options: PlanOptions,
    rejections: &mut Rejections,
) -> Result<Vec<Sample>, Failure> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut shown = [0; 3];
    let mut changes = diff.changes();
    while let Some(change) = changes.next().map_err(|error| error.to_string())? {
        let (word, seen) = match change.change {
            Change::Added => ("added", &mut shown[0]),
            Change::Changed | Change::Unchanged => ("changed", &mut shown[1]),
            Change::Removed => ("removed", &mut shown[2]),
        };
        let fields = if change.change == Change::Removed {
            Vec::new()
        } else {
            match map(mapping, &change).map_err(|error| error.to_string())? {
                Ok(patch) => sample_fields(mapping, &patch)?,
                Err(error) => {
                    rejections.add(rejection(&change, error));
                    continue;
                }
            }
        };
        if *seen < options.samples && change.change != Change::Unchanged {
            *seen += 1;
            samples.push(Sample { change: word, key: change.key.to_owned(), fields });
        }
    }
    Ok(samples)
}

fn sample_fields(mapping: &Mapping, patch: &Patch) -> Result<Vec<(String, Box<RawValue>)>, Failure> {
    mapping
        .declared()
        .zip(&patch.values)
        .map(|((name, _), value)| {
            let mut json = String::new();
            value.write_json(&mut json);
            let raw = RawValue::from_string(json).map_err(|error| format!("field `{name}` has no JSON: {error}"))?;
            Ok((name.to_string(), raw))
        })
        .collect()
}
