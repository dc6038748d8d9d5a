//! Everything up to the decision: rows are read, compared with the acknowledged state, and judged. Nothing is sent.

use larder_types::key::KeyError;
use larder_types::limits::MAX_BATCH_ROWS;

use super::rejections::{Rejections, bad_key};
use super::report::{Rejection, ResendReason, RowCounts};
use super::{Phase, Progress};
use crate::diff::hash::HashSecret;
use crate::diff::join::{Diff, Duplicate, JoinOptions, MAX_EXAMPLES, join};
use crate::diff::snapshot::{Snapshot, SnapshotError};
use crate::diff::spill::{Parts, Spilled};
use crate::diff::{Intake, SPILL_BYTES};
use crate::mapping::Mapping;
use crate::project::{OnDuplicate, Project, SyncSpec};
use crate::push::retry::RetryPolicy;
use crate::source::RowStream;
use crate::state::SyncState;

/// What tests set otherwise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    /// Bytes of rows held in memory before they are spilled.
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
    /// Why every row counts as changed, if so.
    pub(crate) resend: Option<ResendReason>,
    pub(crate) secret: HashSecret,
    pub(crate) note: Option<String>,
}

/// Rows compared and judged.
pub(crate) struct Prepared {
    pub(crate) diff: Diff,
    pub(crate) counts: RowCounts,
    /// Rows that were left out because they have no usable key.
    pub(crate) keyless: u64,
    pub(crate) rejections: Rejections,
}

/// Why there is nothing to decide on; a sentence for the user.
pub(crate) type Failure = String;

impl Baseline {
    /// Loads the state of a sync. A full run can do without: for it, a damaged state is a note and not an error.
    pub(crate) fn load(state: &SyncState, spec: &SyncSpec, mapping: &Mapping, full: bool) -> Result<Self, Failure> {
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
        let resend = match &old {
            None => Some(ResendReason::FirstRun),
            Some(old) if old.header().collection != spec.collection.as_str() => Some(ResendReason::CollectionChanged),
            Some(old) if old.header().fingerprint != mapping.fingerprint() => Some(ResendReason::MappingChanged),
            Some(_) => state.row.distrust,
        };
        // What another collection holds says nothing about this one, not even which keys are there.
        let old = old.filter(|_| resend != Some(ResendReason::CollectionChanged));
        let secret = match &old {
            Some(old) => old.header().secret.clone(),
            None => HashSecret::random().map_err(|error| format!("no random numbers: {error}"))?,
        };
        let number = old.as_ref().and(state.row.snapshot);
        Ok(Self { old, number, resend, secret, note })
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

/// Rows without a usable key. Which records they had before cannot be told.
#[derive(Default)]
struct BadKeys {
    nulls: BadRows,
    /// Empty, too long, or of a kind that has no one text.
    unusable: BadRows,
}

/// Rows with one kind of bad key: their number, and the first of them.
#[derive(Default)]
struct BadRows {
    count: u64,
    first: Vec<(u64, KeyError)>,
}

impl BadKeys {
    fn add(&mut self, row: u64, error: KeyError) {
        let rows = if error == KeyError::Null { &mut self.nulls } else { &mut self.unusable };
        rows.count += 1;
        if rows.first.len() < MAX_EXAMPLES {
            rows.first.push((row, error));
        }
    }

    fn count(&self) -> u64 {
        self.nulls.count + self.unusable.count
    }
}

/// Reads all rows and compares them. `all` keeps unchanged rows for sending too.
pub(crate) fn prepare(
    spec: &SyncSpec,
    mapping: &Mapping,
    rows: RowStream,
    baseline: &Baseline,
    context: Context<'_>,
) -> Result<Prepared, Failure> {
    let Context { state, all, progress, tuning } = context;
    progress.phase(Phase::Reading, None);
    let known = baseline.old.as_ref().map_or(0, Snapshot::rows);
    let intake = Intake::new(state.folder(), Parts::for_rows(known), baseline.secret.clone(), tuning.spill_bytes);
    let mut rejections = Rejections::default();
    let (spilled, read, bad) = read_rows(mapping, rows, intake, progress)?;
    progress.phase(Phase::Comparing, Some(read));
    let options = JoinOptions { resend: baseline.resend.is_some(), all, budget: tuning.spill_bytes };
    let diff = join(spilled, baseline.old.as_ref(), state.folder(), options).map_err(|error| match error {
        crate::diff::join::DiffError::Snapshot(error) => with_way_out(&error, spec),
        other => other.to_string(),
    })?;
    judge_keys(spec, &bad, &diff, &mut rejections)?;
    let counts = RowCounts {
        read,
        added: diff.added,
        changed: diff.changed,
        removed: diff.removed,
        unchanged: diff.unchanged,
        rejected: rejections.count,
    };
    Ok(Prepared { diff, counts, keyless: bad.count(), rejections })
}

/// What preparing works with, beside the rows.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) state: &'a SyncState,
    /// Keep unchanged rows too, to be sent.
    pub(crate) all: bool,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) tuning: Tuning,
}

fn read_rows(
    mapping: &Mapping,
    rows: RowStream,
    mut intake: Intake,
    progress: &dyn Progress,
) -> Result<(Spilled, u64, BadKeys), Failure> {
    let mut read = 0;
    let mut bad = BadKeys::default();
    let mut cells = Vec::new();
    for batch in rows.batches {
        let batch = batch.map_err(|error| format!("reading stopped after {read} rows: {error}"))?;
        let reader = mapping.reader(&batch).map_err(|error| format!("the source's rows cannot be read: {error}"))?;
        for row in 0..batch.num_rows() {
            read += 1;
            match reader.key(row) {
                Ok(key) => {
                    cells.clear();
                    reader.encode(row, &mut cells);
                    intake.add(read, &key, &cells).map_err(|error| error.to_string())?;
                }
                Err(error) => bad.add(read, error),
            }
        }
        progress.advance(batch.num_rows() as u64);
    }
    Ok((intake.finish(), read, bad))
}

/// Bad keys and duplicates fail the run, or are rejected, as the sync says.
fn judge_keys(spec: &SyncSpec, bad: &BadKeys, diff: &Diff, rejections: &mut Rejections) -> Result<(), Failure> {
    if bad.count() == 0 && diff.duplicate_rows == 0 {
        return Ok(());
    }
    if spec.on_duplicate == OnDuplicate::Fail {
        return Err(describe_bad_keys(spec, bad, diff));
    }
    let column = &spec.key;
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

impl BadRows {
    /// The first rows, as a message names them.
    fn places(&self) -> String {
        let rows: Vec<String> = self.first.iter().map(|(row, _)| row.to_string()).collect();
        format!("row {}{}", rows.join(", "), more(self.count, rows.len()))
    }
}

fn more(count: u64, named: usize) -> &'static str {
    if count > named as u64 { ", …" } else { "" }
}
