//! Explaining a key: its row now, what was acknowledged of it, when it was last sent, and what each cluster holds.
//!
//! Reads the whole query, because only that tells whether the key comes once. Holds nothing: a run may be under way, and
//! what is shown of the state is then from before it.

use std::collections::BTreeMap;

use larder_types::names::{CollectionName, SyncName};
use larder_types::patch::ExitMode;
use larder_types::value::Value;
use serde::Serialize;
use serde_json::value::RawValue;

use super::records::{Record, Records};
use super::redact::Veil;
use super::verdict::{Acknowledged, Facts, RowFact, verdict};
use crate::cancel::Cancel;
use crate::diff::hash::{HashSecret, RowHash};
use crate::diff::snapshot::Hashes;
use crate::mapping::{Mapping, Replaced};
use crate::project::{DestinationName, Project, SyncSpec};
use crate::run::{RejectedRow, RunError};
use crate::state::requests::RequestEntry;
use crate::state::{DestinationState, State};

/// A key explained.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The sync.
    pub sync: SyncName,
    /// Where it writes.
    pub collection: CollectionName,
    /// The key.
    pub key: String,
    /// The run that is under way: what is shown is from before it.
    pub running: Option<String>,
    /// The row now.
    pub source: SourceRow,
    /// Each destination's part.
    pub destinations: Vec<DestinationView>,
}

/// What the query has of the key.
#[derive(Debug, Default, Serialize)]
pub struct SourceRow {
    /// Rows with this key.
    pub rows: u64,
    /// The place of the first in the query's result, from 1.
    pub row: Option<u64>,
    /// Its columns that fields are made from.
    pub columns: BTreeMap<String, Box<RawValue>>,
    /// What the mapping makes of it.
    pub fields: BTreeMap<String, Box<RawValue>>,
    /// Why it cannot be mapped.
    pub error: Option<String>,
}

/// What is known of the key at one destination.
#[derive(Debug, Serialize)]
pub struct DestinationView {
    /// Which.
    pub destination: DestinationName,
    /// What was acknowledged of the key: `nothing`, `absent`, `in_doubt`, `differs`, `same` or `in_warehouse`.
    pub acknowledged: &'static str,
    /// The hash of the row now, as this destination's state counts it.
    pub row_hash: Option<String>,
    /// The hash that was acknowledged.
    pub acknowledged_hash: Option<String>,
    /// The last attempt to send it, as far as the request log goes back.
    pub last_push: Option<RequestEntry>,
    /// Why the newest run rejected it.
    pub rejected: Option<String>,
    /// The record in the cluster.
    pub record: Record,
    /// Why the record is as it is, in one sentence.
    pub verdict: String,
}

/// The row while facts are gathered.
#[derive(Default)]
struct Found {
    rows: u64,
    first: u64,
    cells: Vec<u8>,
}

/// Explains a key of a sync. Blocking.
///
/// # Errors
/// When the source or the state cannot be read. A cluster that cannot be asked is a part of the explanation.
pub fn explain(project: &Project, sync: &SyncName, key: &str) -> Result<Explanation, RunError> {
    let spec = crate::run::find(project, sync)?;
    let failed = |error: &dyn std::fmt::Display| RunError::Failed { message: error.to_string(), report: None };
    let state = State::open(&project.state_dir).map_err(|error| failed(&error))?;
    let (rows, mapping) = crate::run::open(project, spec, &Cancel::default())?;
    let found = search(rows, &mapping, key).map_err(|error| failed(&error))?;
    let newest = state.database.history(Some(sync), 1).map_err(|error| failed(&error))?.into_iter().next();
    let rejected = newest.as_ref().map(|run| state.database.rejected(&run.id)).transpose();
    let rejected = rejected.map_err(|error| failed(&error))?.flatten().unwrap_or_default();
    let salt = state.database.key_salt().map_err(|error| failed(&error))?;
    let veil = Veil { redaction: &project.redaction, salt };
    let case = Case { project, spec, state: &state, mapping: &mapping, found: &found, rejected: &rejected, key, veil };
    let destinations = spec.destinations.iter().map(|name| case.at(name)).collect::<Result<_, String>>();
    let source = case.source();
    Ok(Explanation {
        sync: sync.clone(),
        collection: spec.collection.clone(),
        key: veil.key(key).into_owned(),
        running: newest.filter(|run| run.state == "running").map(|run| run.id),
        source: SourceRow { columns: veil.fields(source.columns), fields: veil.fields(source.fields), ..source },
        destinations: destinations.map_err(|error| failed(&error))?,
    })
}

/// Finds the rows with a key.
fn search(rows: crate::source::RowStream, mapping: &Mapping, key: &str) -> Result<Found, String> {
    let mut found = Found::default();
    let mut number = 0;
    for batch in rows.batches {
        let batch = batch.map_err(|error| format!("reading stopped after {number} rows: {error}"))?;
        let reader = mapping.reader(&batch).map_err(|error| format!("the source's rows cannot be read: {error}"))?;
        for row in 0..batch.num_rows() {
            number += 1;
            if reader.key(row).is_ok_and(|other| other.as_str() == key) {
                found.rows += 1;
                if found.rows == 1 {
                    found.first = number;
                    reader.encode(row, &mut found.cells);
                }
            }
        }
    }
    Ok(found)
}

/// All that is the same for every destination.
struct Case<'a> {
    project: &'a Project,
    spec: &'a SyncSpec,
    state: &'a State,
    mapping: &'a Mapping,
    found: &'a Found,
    rejected: &'a [RejectedRow],
    key: &'a str,
    veil: Veil<'a>,
}

impl Case<'_> {
    fn source(&self) -> SourceRow {
        let Found { rows, first, cells } = self.found;
        if *rows == 0 {
            return SourceRow::default();
        }
        let mut source = SourceRow { rows: *rows, row: Some(*first), ..SourceRow::default() };
        let Ok(cells) = self.mapping.decode(cells) else {
            source.error = Some("the row does not read back".to_owned());
            return source;
        };
        let columns = self.mapping.columns().iter().zip(&cells);
        let readable =
            columns.filter_map(|(column, cell)| Some((column.field.name().clone(), json(cell.as_ref().ok()?)?)));
        source.columns = readable.collect();
        match self.mapping.fields(&cells, &mut Replaced::default()) {
            Ok(values) => {
                let fields = self.mapping.declared().zip(&values);
                source.fields =
                    fields.filter_map(|((name, ..), value)| Some((name.to_string(), json(value)?))).collect();
            }
            Err(error) => source.error = Some(format!("field `{}`: {} ({})", error.field, error.message, error.code)),
        }
        source
    }

    fn at(&self, name: &DestinationName) -> Result<DestinationView, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let state = self.state.glance(&self.spec.name, name).map_err(|error| text(&error))?;
        let (acknowledged, row_hash, acknowledged_hash) = self.acknowledged(&state)?;
        let hash = self.veil.salt.hash(self.key);
        let last_push = self.state.database.last_push(&self.spec.name, name, hash).map_err(|error| text(&error))?;
        let pseudonym = self.veil.salt.pseudonym(self.key);
        let is_ours = |row: &&RejectedRow| {
            row.destination == name.as_str()
                && row.rejection.key.as_ref().is_some_and(|key| *key == self.key || *key == pseudonym)
        };
        let rejected = self.rejected.iter().find(is_ours).map(|row| {
            let field = row.rejection.field.as_ref().map(|field| format!("field `{field}`: ")).unwrap_or_default();
            format!("{field}{} ({})", row.rejection.message, row.rejection.code)
        });
        let record = match self.project.clusters.get(name) {
            Some(cluster) => Records::of(cluster, self.spec).map_err(|error| text(&error))?.get(self.key),
            None => Record::Unknown { reason: format!("there is no cluster `{name}` in larder.yml") },
        };
        let source = self.source();
        let facts = Facts {
            row: match (self.found.rows, &source.error) {
                (0, _) => RowFact::Absent,
                (1, None) => RowFact::Mapped,
                (1, Some(_)) => RowFact::Unmappable,
                _ => RowFact::Several,
            },
            acknowledged,
            rejected: rejected.as_deref(),
            record: &record,
            agrees: agrees(&source, &record),
            keeps: self.spec.on_exit == ExitMode::Keep,
        };
        let verdict = verdict(facts);
        Ok(DestinationView {
            destination: name.clone(),
            acknowledged: acknowledged.as_str(),
            row_hash,
            acknowledged_hash,
            last_push,
            rejected,
            record: self.veil.record(record),
            verdict,
        })
    }

    /// What the state says of the key, with the hashes of the row now and of the acknowledged one.
    fn acknowledged(&self, state: &DestinationState) -> Result<(Acknowledged, Option<String>, Option<String>), String> {
        if state.base.is_some() {
            return Ok((Acknowledged::InWarehouse, None, None));
        }
        let snapshot = state.snapshot().map_err(|error| error.to_string())?;
        // Hashes of the warehouse's cannot be compared with the row's here; the next run reads all rows.
        let snapshot = snapshot.filter(|snapshot| snapshot.header().hashes == Hashes::Cells);
        let Some(snapshot) = snapshot else { return Ok((Acknowledged::Nothing, None, None)) };
        let header = snapshot.header();
        let secret: &HashSecret = &header.secret;
        let row = (self.found.rows > 0).then(|| secret.row(&self.found.cells));
        let (parts, mut known) = (header.parts, None);
        let part = parts.of(secret.key(self.key.as_bytes()));
        let read = snapshot.read_part(parts, part, |key, hash| {
            if key == self.key {
                known = Some(hash);
            }
        });
        read.map_err(|error| error.to_string())?;
        let is_current = header.collection == self.spec.collection.as_str()
            && header.fingerprint == self.mapping.fingerprint()
            && state.row.distrust.is_none();
        let acknowledged = match known {
            _ if !is_current => Acknowledged::Nothing,
            None => Acknowledged::Absent,
            Some(RowHash::UNKNOWN) => Acknowledged::InDoubt,
            Some(hash) if Some(hash) == row => Acknowledged::Same,
            Some(_) => Acknowledged::Differs,
        };
        Ok((acknowledged, row.map(hex), known.filter(|hash| *hash != RowHash::UNKNOWN).map(hex)))
    }
}

/// Whether a record has every field as the row maps to it.
fn agrees(source: &SourceRow, record: &Record) -> bool {
    let Record::Found { fields } = record else { return false };
    let parsed = |raw: &RawValue| serde_json::from_str::<serde_json::Value>(raw.get()).ok();
    source.fields.iter().all(|(name, ours)| {
        fields.get(name).is_some_and(|theirs| ours.get() == theirs.get() || parsed(ours) == parsed(theirs))
    })
}

fn json(value: &Value) -> Option<Box<RawValue>> {
    let mut text = String::new();
    value.write_json(&mut text);
    RawValue::from_string(text).ok()
}

fn hex(hash: RowHash) -> String {
    format!("{:032x}", u128::from_be_bytes(hash.to_bytes()))
}
