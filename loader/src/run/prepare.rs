//! Everything between reading and the decision: rows are compared with what one destination has acknowledged. Nothing is
//! sent.

use larder_types::limits::MAX_BATCH_ROWS;
use larder_types::patch::{ExitMode, Op};

use super::reading::{BadKeys, BadRows, Taken, more};
use super::rejections::{Rejections, bad_key};
use super::report::{Rejection, ResendReason, RowCounts, RunKind};
use super::stop::Stop;
use crate::cancel::Cancel;
use crate::diff::SPILL_BYTES;
use crate::diff::acknowledged::Acknowledged;
use crate::diff::hash::HashSecret;
use crate::diff::join::{Absence, Diff, DiffError, Duplicate, JoinOptions, join};
use crate::diff::snapshot::{Hashes, Snapshot, SnapshotError};
use crate::project::{OnDuplicate, Project, SyncSpec};
use crate::push::retry::RetryPolicy;
use crate::state::DestinationState;

/// What tests set otherwise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    /// Bytes of rows held in memory before they are spilled; shared by the destinations for the changes.
    pub(crate) spill_bytes: usize,
    /// Most rows of a batch.
    pub(crate) batch_rows: usize,
    pub(crate) retry: RetryPolicy,
}

impl Tuning {
    /// As a project says.
    pub(crate) fn of(project: &Project) -> Self {
        let retry = RetryPolicy { budget: project.push.give_up_after, ..RetryPolicy::default() };
        Self { retry, ..Self::default() }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self { spill_bytes: SPILL_BYTES, batch_rows: MAX_BATCH_ROWS, retry: RetryPolicy::default() }
    }
}

/// The acknowledged state that rows are compared with.
pub(crate) struct Baseline {
    pub(crate) old: Option<Snapshot>,
    /// The number of `old`.
    pub(crate) number: Option<u64>,
    /// Why every row counts as changed, if so; known once [`Self::meet`] was called.
    pub(crate) resend: Option<ResendReason>,
    pub(crate) note: Option<String>,
}

/// Rows compared and judged.
pub(crate) struct Prepared {
    pub(crate) diff: Diff,
    pub(crate) counts: RowCounts,
    /// Rows that were left out because they have no usable key.
    pub(crate) keyless: u64,
    /// Whether a key that did not come in counts as removed. If not, there are no removals, and nothing follows from how
    /// many rows there are.
    pub(crate) absence: Absence,
    pub(crate) rejections: Rejections,
}

/// Why there is nothing to decide on; a sentence for the user.
pub(crate) type Failure = String;

impl Baseline {
    /// Opens the state of a destination, whose hashes are made with `secret`. A full run can do without: for it, a
    /// damaged state is a note and not an error.
    pub(crate) fn open(
        state: &DestinationState,
        secret: &HashSecret,
        spec: &SyncSpec,
        full: bool,
    ) -> Result<Self, Failure> {
        let snapshot = state.snapshot().and_then(|old| match &old {
            // Found out now, when it can be done without, and not when all rows have been read.
            Some(snapshot) if full => snapshot.verify().map(|()| old),
            _ => Ok(old),
        });
        let (old, note) = match snapshot {
            Ok(old) => (old, None),
            Err(error) if full => (None, Some(format!("{error}; this full run replaces it"))),
            Err(error) => return Err(with_way_out(&error, spec)),
        };
        // Another secret's hashes cannot be compared: the sync's record in the database was lost, the file was not.
        let (old, resend) = match old {
            Some(old) if old.header().secret != *secret => (None, Some(ResendReason::StateDamaged)),
            None => (None, Some(ResendReason::FirstRun)),
            // What another collection holds says nothing about this one, not even which keys are there.
            Some(old) if old.header().collection != spec.collection.as_str() => {
                (None, Some(ResendReason::CollectionChanged))
            }
            old => (old, None),
        };
        let number = old.as_ref().and(state.row.snapshot);
        Ok(Self { old, number, resend, note })
    }

    /// Learns by which mapping the rows of this run are made, and what the cluster had to say.
    pub(crate) fn meet(&mut self, fingerprint: u128, distrust: Option<ResendReason>, in_warehouse: bool) {
        let same_mapping = self.old.as_ref().is_none_or(|old| old.header().fingerprint == fingerprint);
        let remapped = (!same_mapping).then_some(ResendReason::MappingChanged);
        let is_foreign = self.old.as_ref().is_some_and(|old| old.header().hashes == Hashes::Planner);
        let moved = (is_foreign && !in_warehouse).then_some(ResendReason::DiffMoved);
        self.resend = self.resend.or(remapped).or(distrust).or(moved);
    }

    /// What there is lies over a base in the warehouse, which tells the rest.
    pub(crate) fn lies_over_base(&mut self) {
        self.resend = self.resend.filter(|reason| *reason != ResendReason::FirstRun);
    }

    /// Which hashes the rows are compared by, if the warehouse has made its own.
    pub(crate) fn hashes(&self) -> Hashes {
        match &self.old {
            Some(old) if self.is_known() => old.header().hashes,
            _ => Hashes::Planner,
        }
    }

    /// Whether the hashes of the old state tell what the cluster holds under the present mapping.
    pub(crate) fn is_known(&self) -> bool {
        self.old.is_some() && self.resend.is_none()
    }
}

/// A damaged state with what to do about it.
pub(crate) fn with_way_out(error: &SnapshotError, spec: &SyncSpec) -> Failure {
    match error {
        SnapshotError::Version { .. } => error.to_string(),
        _ => format!("{error}; `larder-loader run {} --full` sends every row and makes a new state file", spec.name),
    }
}

/// How to compare what came in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison<'a> {
    /// Keep unchanged rows too, to be sent.
    pub(crate) all: bool,
    pub(crate) absence: Absence,
    /// Bytes of changes held in memory.
    pub(crate) budget: usize,
    pub(crate) cancel: &'a Cancel,
}

/// Compares the rows with the acknowledged state.
pub(crate) fn compare(
    spec: &SyncSpec,
    state: &DestinationState,
    baseline: &Baseline,
    taken: Taken,
    comparison: Comparison<'_>,
) -> Result<Prepared, Stop> {
    let Comparison { all, absence, budget, cancel } = comparison;
    let Taken { spilled, read, bad, planned, .. } = taken;
    let old = match &planned {
        Some(planned) => Some(&planned.old as &dyn Acknowledged),
        None => baseline.old.as_ref().map(|old| old as &dyn Acknowledged),
    };
    let options = JoinOptions { resend: baseline.resend.is_some(), all, absence, budget, cancel };
    let mut diff = join(spilled, old, state.folder(), options).map_err(|error| match error {
        DiffError::Snapshot(error) => Stop::Failed(with_way_out(&error, spec)),
        other => Stop::of_diff(other, cancel.why()),
    })?;
    if let Some(planned) = &planned {
        diff.unchanged += planned.unread;
        diff.duplicate_rows += planned.shared;
    }
    let mut rejections = Rejections::default();
    judge_keys(spec, &bad, &diff, &mut rejections).map_err(Stop::Failed)?;
    let counts = RowCounts {
        read,
        added: diff.added,
        changed: diff.changed,
        removed: diff.removed,
        unchanged: diff.unchanged,
        rejected: rejections.count,
    };
    Ok(Prepared { diff, counts, keyless: bad.count(), absence, rejections })
}

/// Rows that a run with these counts sends, if all can be mapped.
pub(super) fn to_send(kind: RunKind, on_exit: ExitMode, counts: RowCounts) -> u64 {
    let upserts = counts.added + counts.changed;
    match (kind, on_exit) {
        (RunKind::Full, _) => upserts + counts.unchanged,
        (RunKind::Delta, ExitMode::Keep) => upserts,
        (RunKind::Delta, ExitMode::Clear | ExitMode::Delete) => upserts + counts.removed,
    }
}

/// What the cluster is told of rows that left; nothing, if their records stay as they are.
pub(super) fn exit_op(on_exit: ExitMode) -> Option<Op> {
    match on_exit {
        ExitMode::Keep => None,
        ExitMode::Clear => Some(Op::Clear),
        ExitMode::Delete => Some(Op::Delete),
    }
}

/// Bad keys and duplicates fail the run, or are rejected, as the sync says.
fn judge_keys(spec: &SyncSpec, bad: &BadKeys, diff: &Diff, rejections: &mut Rejections) -> Result<(), Failure> {
    if bad.count() == 0 && diff.duplicate_rows == 0 {
        return Ok(());
    }
    if spec.on_duplicate == OnDuplicate::Fail {
        return Err(describe_bad_keys(spec, bad, diff));
    }
    let column = &spec.key.to_string();
    for rows in [&bad.nulls, &bad.unusable] {
        rejections.add_group(rows.count, rows.first.iter().map(|(row, error)| bad_key(*row, column, *error)));
    }
    let named = diff.duplicates.iter().flat_map(|Duplicate(rows)| {
        rows.map(|row| Rejection {
            key: None,
            row: Some(row),
            field: None,
            code: "duplicate_key".to_owned(),
            message: format!("column `{column}`: the key comes more than once"),
        })
    });
    rejections.add_group(diff.duplicate_rows, named);
    Ok(())
}

fn describe_bad_keys(spec: &SyncSpec, bad: &BadKeys, diff: &Diff) -> Failure {
    let mut found = Vec::new();
    if bad.nulls.count > 0 {
        found.push(format!("{} rows have no key ({})", bad.nulls.count, bad.nulls.places()));
    }
    if let Some((_, error)) = bad.unusable.first.first() {
        let BadRows { count, .. } = bad.unusable;
        found.push(format!("{count} rows have a key that cannot be used ({}: {error})", bad.unusable.places()));
    }
    if diff.duplicate_rows > 0 {
        let examples: Vec<String> =
            diff.duplicates.iter().map(|Duplicate([first, second])| format!("rows {first} and {second}")).collect();
        let more = more(diff.duplicate_rows, 2 * examples.len());
        let examples = examples.join(", ");
        found.push(format!("{} rows share their key with another ({examples}{more})", diff.duplicate_rows));
    }
    format!(
        "sync `{}`: the key column `{}` does not name rows: {}; make it unique in the query, or set on_duplicate: skip \
         to leave such rows out",
        spec.name,
        spec.key,
        found.join("; ")
    )
}
