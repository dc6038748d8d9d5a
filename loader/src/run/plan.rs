//! A plan: what a run would do, without a word to the cluster.

use std::sync::Arc;

use larder_types::patch::ExitMode;
use serde_json::value::RawValue;

use super::counting::Counting;
use super::gauge::Gauge;
use super::guard::{Findings, Judging, verdict};
use super::opening::Extent;
use super::planned::{self, Asked, Home};
use super::prepare::{Baseline, Comparison, compare, to_send};
use super::produce::{map, rejection};
use super::reading::take_in;
use super::rejections::Rejections;
use super::report::{FieldChange, OldRecord, PlanReport, PlannedDelivery, RowCounts, RunKind, Sample};
use super::scope::Scope;
use super::stop::Stop;
use super::supply::Rows;
use super::{Phase, PlanOptions, Progress};
use crate::cancel::Cancel;
use crate::diff::join::{Absence, Change, Diff};
use crate::diff::spill::Parts;
use crate::diff::{Intake, SPILL_BYTES};
use crate::mapping::Mapping;
use crate::project::{Project, SyncSpec};
use crate::push::batch::Patch;
use crate::source::RowStream;
use crate::state::{DestinationState, State, SyncState};

/// Rejected rows that a plan shows.
const SHOWN: usize = 20;

/// What is planned.
pub(super) struct Planning<'a> {
    pub(super) project: &'a Project,
    pub(super) spec: &'a SyncSpec,
    pub(super) state: &'a State,
    pub(super) mapping: &'a Mapping,
    pub(super) sync: &'a SyncState,
    pub(super) options: PlanOptions,
    pub(super) progress: &'a dyn Progress,
    pub(super) counting: Counting<'a>,
}

/// The plan of one destination with what is shown of it.
struct Planned {
    delivery: PlannedDelivery,
    samples: Vec<Sample>,
    rejections: Rejections,
}

impl Planning<'_> {
    /// Reads, compares, maps what would be sent, and counts. The caller knows the time that it took.
    pub(super) fn plan(
        &self,
        rows: (RowStream, Extent),
        destinations: &mut [DestinationState],
    ) -> Result<PlanReport, Stop> {
        let Self { mapping, sync, progress, .. } = *self;
        let known = destinations.iter().flat_map(DestinationState::snapshot).flatten();
        let known = known.map(|snapshot| snapshot.rows()).max().unwrap_or_default();
        let intake = Intake::new(sync.folder(), Parts::for_rows(known), sync.secret.clone(), SPILL_BYTES);
        let taken = take_in(mapping, rows, intake, &Gauge::new(progress), &Cancel::default(), &Scope::All)?;
        self.plan_all(&Rows::Taken(taken), destinations)
    }

    /// The same with a result in the warehouse, which is made for this plan alone.
    pub(super) fn plan_result(
        &self,
        result: &Arc<planned::Planned>,
        destinations: &mut [DestinationState],
    ) -> Result<PlanReport, Stop> {
        let report = self.plan_all(&Rows::Planned(Arc::clone(result)), destinations);
        // What cannot be dropped now is dropped by the next run.
        let _ = result.sweep(self.state, self.sync);
        report
    }

    fn plan_all(&self, rows: &Rows, destinations: &mut [DestinationState]) -> Result<PlanReport, Stop> {
        let planned = destinations.iter_mut().map(|state| self.plan_one(state, rows)).collect::<Result<_, _>>()?;
        Ok(self.report(planned))
    }

    fn kind(&self) -> RunKind {
        if self.options.full { RunKind::Full } else { RunKind::Delta }
    }

    fn plan_one(&self, state: &mut DestinationState, rows_of: &Rows) -> Result<Planned, Stop> {
        let Self { project, spec, sync, options, .. } = *self;
        let mut baseline = Baseline::open(state, &sync.secret, spec, options.full).map_err(Stop::Failed)?;
        let (never, gauge) = (Cancel::default(), Gauge::new(self.progress));
        let home = Home { project, spec, state: self.state, sync, full: options.full, cancel: &never };
        home.settle(state, &mut baseline, rows_of, self.mapping.fingerprint())?;
        let taken = match rows_of {
            Rows::Taken(taken) => taken.clone(),
            Rows::Planned(result) => {
                let (full, secret, budget) = (options.full, &sync.secret, SPILL_BYTES);
                let asked = Asked {
                    spec,
                    scope: &Scope::All,
                    baseline: &baseline,
                    full,
                    state,
                    secret,
                    budget,
                    gauge: &gauge,
                    cancel: &never,
                };
                result.read(&asked)?
            }
        };
        self.progress.phase(Phase::Comparing, Some(taken.read));
        let absence = taken.absence;
        let comparison = Comparison { all: options.full, absence, budget: SPILL_BYTES, cancel: &never };
        let mut prepared = compare(spec, state, &baseline, taken, comparison)?;
        let before = prepared.rejections.count;
        let samples = try_out(self.mapping, &prepared.diff, options, &mut prepared.rejections)?;
        let unmapped = prepared.rejections.count - before;
        let mut rows = prepared.counts;
        rows.rejected = prepared.rejections.count;
        let removed = if spec.on_exit == ExitMode::Keep { 0 } else { rows.removed };
        let changed = if baseline.resend.is_some() { 0 } else { rows.changed };
        let counts = removed > 0 && matches!(rows_of, Rows::Taken(_));
        let missing = if counts { self.counting.missing(rows.read)? } else { 0 };
        let findings = Findings { read: rows.read, removed, changed, known: prepared.diff.known, missing };
        let reasons =
            verdict(&spec.guard, findings, Judging { accept_removals: false, all_rows: absence == Absence::Removed });
        let delivery = PlannedDelivery {
            destination: state.name.clone(),
            resend: baseline.resend,
            rows,
            to_send: to_send(self.kind(), spec.on_exit, rows) - unmapped,
            blocked: (!reasons.is_empty()).then(|| reasons.join("; ")),
        };
        Ok(Planned { delivery, samples, rejections: prepared.rejections })
    }

    fn report(&self, planned: Vec<Planned>) -> PlanReport {
        let mut samples = None;
        let mut rejections = Rejections::default();
        let mut deliveries = Vec::new();
        let mut rows = RowCounts::default();
        for one in planned {
            samples.get_or_insert(one.samples);
            rejections.append(one.rejections);
            rows.read = one.delivery.rows.read;
            rows.add(&one.delivery.rows);
            deliveries.push(one.delivery);
        }
        rejections.kept.truncate(SHOWN);
        PlanReport {
            sync: self.spec.name.clone(),
            collection: self.spec.collection.clone(),
            kind: self.kind(),
            resend: deliveries.iter().find_map(|delivery| delivery.resend),
            on_exit: self.spec.on_exit,
            rows,
            to_send: deliveries.iter().map(|delivery| delivery.to_send).sum(),
            blocked: deliveries.iter().find_map(|delivery| delivery.blocked.clone()),
            samples: samples.unwrap_or_default(),
            replaced: rejections.replaced.0,
            rejections: rejections.kept,
            deliveries,
            elapsed_ms: 0,
        }
    }
}

/// Maps every row that would be sent, and keeps the first of each kind of change.
fn try_out(
    mapping: &Mapping,
    diff: &Diff,
    options: PlanOptions,
    rejections: &mut Rejections,
) -> Result<Vec<Sample>, Stop> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut shown = [0; 3];
    let mut changes = diff.changes();
    while let Some(change) = changes.next().map_err(Stop::failed)? {
        let (word, seen) = match change.change {
            Change::Added => ("added", &mut shown[0]),
            Change::Changed | Change::Unchanged => ("changed", &mut shown[1]),
            Change::Removed => ("removed", &mut shown[2]),
        };
        let fields = if change.change == Change::Removed {
            Vec::new()
        } else {
            match map(mapping, &change, &mut rejections.replaced).map_err(Stop::failed)? {
                Ok(patch) => sample_fields(mapping, &patch)?,
                Err(error) => {
                    rejections.add(rejection(&change, error));
                    continue;
                }
            }
        };
        if *seen < options.samples && change.change != Change::Unchanged {
            *seen += 1;
            samples.push(Sample { change: word, key: change.key.to_owned(), old: OldRecord::NotRead, fields });
        }
    }
    Ok(samples)
}

fn sample_fields(mapping: &Mapping, patch: &Patch) -> Result<Vec<FieldChange>, Stop> {
    mapping
        .declared()
        .zip(&patch.values)
        .map(|((name, ..), value)| {
            let mut json = String::new();
            value.write_json(&mut json);
            let raw = RawValue::from_string(json)
                .map_err(|error| Stop::Failed(format!("field `{name}` has no JSON: {error}")))?;
            Ok(FieldChange { field: name.to_string(), old: None, new: Some(raw), changes: true })
        })
        .collect()
}
