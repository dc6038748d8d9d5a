//! The samples of a plan, completed with what the cluster holds now: each field old and new.

use super::records::{Record, Records};
use super::redact::Veil;
use crate::project::{Project, SyncSpec};
use crate::run::{FieldChange, OldRecord, PlanReport, RunError, Sample};
use crate::state::State;

/// Looks up the records of a plan's samples in its first destination, and hides what is not to be shown. Blocking.
///
/// # Errors
/// When the state cannot be read. A cluster that cannot be asked is said in the samples.
pub fn complete(project: &Project, spec: &SyncSpec, mut plan: PlanReport) -> Result<PlanReport, RunError> {
    let failed = |error: &dyn std::fmt::Display| RunError::Failed { message: error.to_string(), report: None };
    let salt = State::open(&project.state_dir).and_then(|state| state.database.key_salt());
    let veil = Veil { redaction: &project.redaction, salt: salt.map_err(|error| failed(&error))? };
    let cluster = plan.deliveries.first().and_then(|delivery| project.clusters.get(&delivery.destination));
    let needs_records = plan.samples.iter().any(|sample| sample.change != "added");
    let records = match cluster.filter(|_| needs_records) {
        Some(cluster) => Some(Records::of(cluster, spec).map_err(|error| failed(&error))?),
        None => None,
    };
    for sample in &mut plan.samples {
        if let Some(records) = records.as_ref().filter(|_| sample.change != "added") {
            add_old(sample, spec, records.get(&sample.key));
        }
        sample.key = veil.key(&sample.key).into_owned();
        for field in &mut sample.fields {
            field.old = field.old.take().map(|value| veil.value(&field.field, value));
            field.new = field.new.take().map(|value| veil.value(&field.field, value));
        }
    }
    for rejection in &mut plan.rejections {
        rejection.key = rejection.key.as_ref().map(|key| veil.key(key).into_owned());
    }
    Ok(plan)
}

/// Puts what a record holds now beside what a run would make of it.
fn add_old(sample: &mut Sample, spec: &SyncSpec, record: Record) {
    let mut fields = match record {
        Record::Found { fields } => fields,
        Record::Absent => {
            sample.old = OldRecord::Absent;
            return;
        }
        Record::Unknown { reason } => {
            sample.old = OldRecord::Unknown { reason };
            return;
        }
    };
    sample.old = OldRecord::Read;
    if sample.fields.is_empty() {
        // A removal: what goes are the fields of this sync.
        let ours =
            spec.fields.iter().filter_map(|field| Some((field.name.to_string(), fields.remove(field.name.as_str())?)));
        sample.fields.extend(ours.map(|(field, old)| FieldChange { field, old: Some(old), new: None, changes: true }));
        return;
    }
    for field in &mut sample.fields {
        field.old = fields.remove(&field.field);
        field.changes = field.old.as_ref().map(|old| old.get()) != field.new.as_ref().map(|new| new.get());
    }
}
