//! Runs with `diff: warehouse`: the model becomes tables once, and each destination reads what differs from its base.
//!
//! See [`crate::diff::warehouse`] for what a base is. Here is what a run does with it:
//!
//! 1. The number of the result is entered in the state, then its tables are made ([`Planned::make`]).
//! 2. A base whose hashes say nothing any more is taken home: it becomes a snapshot of its keys ([`Home::settle`]).
//! 3. Each destination reads its delta ([`Planned::read`]): all rows if something lies over the base, if every row is to
//!    be sent, or if there is no base; else only rows that differ.
//! 4. If every row was answered, the result is the new base; what was rejected becomes its doubts ([`Planned::base`]).
//!    Otherwise the base stays, and the journal goes over it.
//! 5. Results that no destination has acknowledged are dropped, with the rows of all ([`Planned::sweep`]).

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};

use super::Phase;
use super::gauge::Gauge;
use super::opening::Request;
use super::prepare::Baseline;
use super::reading::{BadKeys, Taken};
use super::report::{Rejection, ResendReason};
use super::scope::Scope;
use super::stop::Stop;
use super::supply::Rows;
use crate::cancel::Cancel;
use crate::diff::hash::HashSecret;
use crate::diff::marks::Marks;
use crate::diff::snapshot::Snapshot;
use crate::diff::spill::Parts;
use crate::diff::warehouse::layout::{Layout, RESERVED, Wanted};
use crate::diff::warehouse::{BaseRows, DeltaReader, Planner, ResultCounts};
use crate::mapping::{self, KeyReader, Mapping, Problem};
use crate::project::{Project, SourceSpec, SyncSpec};
use crate::source::RowStream;
use crate::source::statement::Statement;
use crate::source::warehouse::{Warehouse, warehouse};
use crate::state::bases::Base;
use crate::state::{DestinationState, State, StateError, SyncState};

/// Most rejected rows that the next delta asks for by their ids. With more, the base stays.
const MAX_DOUBTS: usize = 1000;
/// Characters of the sync's name in the names of its tables; databases allow 63 in all.
const NAME_CHARS: usize = 32;
/// What is wrong with a base that somebody has changed.
const EMPTIED: &str = "its table does not hold the keys that were acknowledged";
/// Bytes of the secret that salt the hashes.
const SALT_BYTES: usize = 16;

/// A result in the warehouse.
pub(super) struct Planned {
    warehouse: Box<dyn Warehouse>,
    layout: Layout,
    number: u64,
    counts: ResultCounts,
    collection: String,
    separator: char,
}

/// What comes with the rows of a delta.
pub(crate) struct PlannedRows {
    pub(super) old: BaseRows,
    ids: Marks,
    /// Rows that are as they were and were not read.
    pub(super) unread: u64,
    /// Rows that were left out because they share their key.
    pub(super) shared: u64,
}

/// What a destination asks of a result.
pub(super) struct Asked<'a> {
    pub(super) spec: &'a SyncSpec,
    pub(super) scope: &'a Scope,
    pub(super) baseline: &'a Baseline,
    pub(super) full: bool,
    pub(super) state: &'a DestinationState,
    pub(super) secret: &'a HashSecret,
    /// Bytes of memory.
    pub(super) budget: usize,
    pub(super) gauge: &'a Gauge<'a>,
    pub(super) cancel: &'a Cancel,
}

/// Where a destination's base goes if it cannot be joined with the rows of a run.
pub(super) struct Home<'a> {
    pub(super) project: &'a Project,
    pub(super) spec: &'a SyncSpec,
    pub(super) state: &'a State,
    pub(super) sync: &'a SyncState,
    /// Every row is sent, so a base that cannot be read can be done without.
    pub(super) full: bool,
    pub(super) cancel: &'a Cancel,
}

impl Planned {
    /// Runs the model and makes the tables of its result.
    pub(super) fn make(
        request: &Request<'_>,
        schema: &[String],
        state: &State,
        sync: &SyncState,
    ) -> Result<(Self, Mapping), Stop> {
        let Request { project, spec, cancel, .. } = *request;
        let failed = |error: &dyn std::fmt::Display| Stop::Failed(format!("sync `{}`: {error}", spec.name));
        let warehouse = open(project, spec, cancel)?;
        let model = Statement::of(&spec.model, warehouse.dialect());
        let columns = warehouse.describe(&model).map_err(|error| failed(&error))?;
        let mapping = compile(spec, &columns)?;
        let layout = Layout {
            dialect: warehouse.dialect(),
            schema: schema.to_vec(),
            prefix: String::new(),
            salt: salt(&sync.secret),
            keys: mapping.key_columns().map(|column| column.field.clone()).collect(),
            columns: mapping.columns().iter().map(|column| column.field.clone()).collect(),
        };
        check_names(spec, &layout)?;
        let is_there = state.database.planner_token(&sync.name).map_err(Stop::failed)?.is_some();
        let (number, token) = state.database.enter_result(&sync.name, schema).map_err(Stop::failed)?;
        let layout = Layout { prefix: prefix(spec, &token), ..layout };
        let planner = Planner { warehouse: warehouse.as_ref(), layout };
        let counts = planner.materialise(&model, number, is_there).map_err(|error| failed(&error))?;
        let layout = planner.layout;
        let collection = spec.collection.to_string();
        let separator = spec.key.separator();
        Ok((Self { warehouse, layout, number, counts, collection, separator }, mapping))
    }

    fn planner(&self) -> Planner<'_> {
        Planner { warehouse: self.warehouse.as_ref(), layout: self.layout.clone() }
    }

    /// Whether a base can be joined with this result.
    ///
    /// # Errors
    /// When its table is gone or does not hold what it did.
    pub(super) fn fits(&self, base: &Base, fingerprint: u128) -> Result<bool, Stop> {
        let is_same = base.fingerprint == fingerprint
            && base.collection == self.collection
            && base.schema == self.layout.schema
            && base.key_columns == self.key_columns()
            && base.separator == self.separator;
        if !is_same {
            return Ok(false);
        }
        match self.planner().has_keys(base.number, base.keys) {
            Ok(true) => Ok(true),
            Ok(false) => Err(Stop::Failed(EMPTIED.to_owned())),
            Err(error) => Err(Stop::failed(error)),
        }
    }

    fn key_columns(&self) -> Vec<String> {
        self.layout.keys.iter().map(|key| key.name().clone()).collect()
    }

    /// Reads what a destination asks for.
    pub(super) fn read(&self, asked: &Asked<'_>) -> Result<Taken, Stop> {
        let Asked { spec, scope, baseline, full, state, secret, budget, .. } = *asked;
        let base = state.base.as_ref();
        // Opened once more, because the delta keeps it.
        let over = state.snapshot().map_err(Stop::failed)?.filter(|_| baseline.old.is_some());
        let all = full || baseline.resend.is_some() || over.is_some();
        let doubts = base.map_or(&[][..], |base| &base.doubts);
        let wanted = if all { Wanted::All } else { Wanted::Changed(doubts) };
        let base_number = base.map(|base| base.number);
        let delta = self.planner().delta(self.number, base_number, wanted).map_err(Stop::failed)?;
        // The same mapping, by where the columns are in these rows.
        let mapping = compile(spec, &delta.schema)?;
        let parts = Parts::for_rows(if all || base.is_none() { self.counts.keys } else { 0 });
        let reader = DeltaReader::new(&mapping, state.folder(), (parts, budget), secret.clone(), baseline.hashes());
        let mut reader = reader.map_err(Stop::failed)?.doubt(doubts);
        let mut bad = BadKeys::default();
        if scope.has_keyless() {
            bad.nulls.count = self.counts.keyless;
        }
        let ended = take_in(delta, &mut reader, &mut bad, asked)?;
        if ended {
            // Tables do not change, so any other number means that rows were lost on the way.
            let expected = self.planner().count_delta(self.number, base_number, wanted).map_err(Stop::failed)?;
            let taken = reader.rows();
            if taken != expected {
                return Err(Stop::Failed(format!("the warehouse returned {taken} of the {expected} rows that differ")));
            }
        }
        let known = base.map(|base| base.keys).or(over.as_ref().map(Snapshot::rows));
        let delta = reader.finish(known.unwrap_or_default(), over).map_err(Stop::failed)?;
        let ResultCounts { rows, keyless, keys, shared } = self.counts;
        let is_all = scope.is_all();
        let planned = PlannedRows {
            old: delta.old,
            ids: delta.ids,
            unread: if is_all { (keys - shared).saturating_sub(delta.present) } else { 0 },
            shared: if scope.has_keyless() { rows - keyless - (keys - shared) } else { 0 },
        };
        Ok(Taken {
            spilled: Arc::new(delta.rows),
            read: if is_all { rows } else { delta.present },
            bad: Arc::new(bad),
            absence: scope.absence(),
            cursor: None,
            planned: Some(Arc::new(planned)),
        })
    }

    /// The result as a base, but for rejected rows, of which there are `count`; none if they are not all known.
    pub(super) fn base(
        &self,
        fingerprint: u128,
        rows: &PlannedRows,
        rejected: &[Rejection],
        count: u64,
    ) -> Option<Base> {
        // Rows without a key, and those that share one, are in no base.
        let count = count.checked_sub(self.counts.keyless + rows.shared)?;
        if count != rejected.len() as u64 || rejected.len() > MAX_DOUBTS {
            return None;
        }
        // A removal has no row, and a base in which its key is missing would forget it.
        let id = |rejection: &Rejection| rows.ids.of(rejection.row?).ok().flatten().filter(|id| *id != 0);
        let doubts = rejected.iter().map(id).collect::<Option<Vec<u64>>>()?;
        let keys = self.counts.keys;
        let (collection, schema) = (self.collection.clone(), self.layout.schema.clone());
        let key_columns = self.key_columns();
        let separator = self.separator;
        Some(Base { number: self.number, keys, fingerprint, collection, schema, key_columns, separator, doubts })
    }

    /// Drops what no destination has acknowledged. What cannot be dropped now is dropped by the next run.
    pub(super) fn sweep(&self, state: &State, sync: &SyncState) -> Result<(), Stop> {
        sweep_unused(&self.planner(), state, sync)?;
        self.planner().sweep(&[], &[self.number]).map_err(Stop::failed)
    }
}

impl Home<'_> {
    /// Makes sure that what the destination has in the warehouse, if anything, can be joined with the rows of this run;
    /// otherwise it is taken home. Returns what the user should know.
    pub(super) fn settle(
        &self,
        destination: &mut DestinationState,
        baseline: &mut Baseline,
        rows: &Rows,
        fingerprint: u128,
    ) -> Result<Option<String>, Stop> {
        let in_warehouse = matches!(rows, Rows::Planned(_));
        baseline.meet(fingerprint, destination.row.distrust, in_warehouse);
        let Some(base) = destination.base.clone() else { return Ok(None) };
        let nothing_against =
            destination.row.distrust.is_none() && matches!(baseline.resend, None | Some(ResendReason::FirstRun));
        let fits = match rows {
            Rows::Planned(result) if nothing_against => result.fits(&base, fingerprint),
            _ => Ok(false),
        };
        let taken = match fits {
            Ok(true) => {
                baseline.lies_over_base();
                return Ok(None);
            }
            Ok(false) => self.take_home(destination, &base),
            Err(stop) => Err(stop),
        };
        let note = match taken {
            Ok(()) => None,
            Err(Stop::Failed(reason)) if self.full => {
                let number = destination.row.snapshot;
                self.state.database.rebase(&destination.sync, &destination.name, number).map_err(Stop::failed)?;
                Some(format!("{}: {reason}; this full run replaces it", unusable(&base)))
            }
            Err(Stop::Failed(reason)) => {
                return Err(Stop::Failed(format!(
                    "{}: {reason}; `larder-loader run {} --full` sends every row and makes a new one",
                    unusable(&base),
                    self.spec.name
                )));
            }
            Err(stop) => return Err(stop),
        };
        destination.base = None;
        *baseline = Baseline::open(destination, &self.sync.secret, self.spec, self.full).map_err(Stop::Failed)?;
        baseline.meet(fingerprint, destination.row.distrust, in_warehouse);
        Ok(note)
    }

    /// Turns a base into a snapshot of its keys with unknown hashes, in which what lies over the base counts as it does
    /// there, and makes that what counts. The next join finds every row changed.
    fn take_home(&self, destination: &mut DestinationState, base: &Base) -> Result<(), Stop> {
        let warehouse = open(self.project, self.spec, self.cancel)?;
        let token = self.state.database.planner_token(&self.sync.name).map_err(Stop::failed)?.unwrap_or_default();
        let layout = Layout {
            dialect: warehouse.dialect(),
            schema: base.schema.clone(),
            prefix: prefix(self.spec, &token),
            salt: String::new(),
            keys: base.key_columns.iter().map(|name| Field::new(name, DataType::Null, true)).collect(),
            columns: Vec::new(),
        };
        let planner = Planner { warehouse: warehouse.as_ref(), layout };
        if !planner.has_keys(base.number, base.keys).map_err(Stop::failed)? {
            return Err(Stop::Failed(EMPTIED.to_owned()));
        }
        let keys = planner.keys(base.number).map_err(Stop::failed)?;
        destination
            .take_home(&self.state.database, &self.sync.secret, base, |each| {
                for batch in keys.batches {
                    let batch = batch.map_err(TakeHome::of)?;
                    let reader = KeyReader::new(&batch, &base.key_columns, base.separator).map_err(TakeHome::of)?;
                    for row in 0..batch.num_rows() {
                        // A key that cannot be one was never acknowledged.
                        if let Ok(key) = reader.key(row) {
                            each(key.as_str())?;
                        }
                    }
                }
                Ok(())
            })
            .map_err(|TakeHome(reason)| Stop::Failed(reason))
    }
}

/// Drops what is left in the warehouse of a sync that no longer compares there.
pub(super) fn sweep_left(project: &Project, spec: &SyncSpec, state: &State, sync: &SyncState) -> Result<(), Stop> {
    if state.database.unused_results(&sync.name).map_err(Stop::failed)?.is_empty() {
        return Ok(());
    }
    let warehouse = open(project, spec, &Cancel::default())?;
    let token = state.database.planner_token(&sync.name).map_err(Stop::failed)?.unwrap_or_default();
    let layout = Layout {
        dialect: warehouse.dialect(),
        schema: Vec::new(),
        prefix: prefix(spec, &token),
        salt: String::new(),
        keys: Vec::new(),
        columns: Vec::new(),
    };
    sweep_unused(&Planner { warehouse: warehouse.as_ref(), layout }, state, sync)
}

/// Drops the results that no destination has acknowledged.
fn sweep_unused(planner: &Planner<'_>, state: &State, sync: &SyncState) -> Result<(), Stop> {
    for (number, schema) in state.database.unused_results(&sync.name).map_err(Stop::failed)? {
        let layout = Layout { schema, ..planner.layout.clone() };
        Planner { warehouse: planner.warehouse, layout }.sweep(&[number], &[]).map_err(Stop::failed)?;
        state.database.forget_result(&sync.name, number).map_err(Stop::failed)?;
    }
    Ok(())
}

/// Takes in the rows of a delta that are in scope. False if it stopped before the last one, because it has enough.
fn take_in(delta: RowStream, reader: &mut DeltaReader<'_>, bad: &mut BadKeys, asked: &Asked<'_>) -> Result<bool, Stop> {
    let Asked { scope, gauge, cancel, .. } = *asked;
    for batch in delta.batches {
        if let Some(why) = cancel.why() {
            return Err(Stop::Cancelled(why));
        }
        let mut batch = batch.map_err(|error| Stop::Failed(format!("reading what changed stopped: {error}")))?;
        if let Scope::First(most) = scope {
            let left = usize::try_from(most.saturating_sub(reader.rows())).unwrap_or(usize::MAX);
            batch = batch.slice(0, batch.num_rows().min(left));
        }
        let note = |row, error| {
            if scope.has_keyless() {
                bad.add(row, error)
            }
        };
        reader.take(&batch, |key| scope.has(key), note).map_err(Stop::failed)?;
        gauge.advance(Phase::Reading, batch.num_rows() as u64);
        if scope.is_enough(reader.rows()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Why a base could not be taken home.
struct TakeHome(String);

impl TakeHome {
    fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl From<StateError> for TakeHome {
    fn from(error: StateError) -> Self {
        Self::of(error)
    }
}

fn unusable(base: &Base) -> String {
    format!("result {} in the warehouse, which says what was acknowledged, cannot be used", base.number)
}

fn open(project: &Project, spec: &SyncSpec, cancel: &Cancel) -> Result<Box<dyn Warehouse>, Stop> {
    let problem = |reason: &str| Stop::Config(vec![format!("sync `{}`: {reason}", spec.name)]);
    let source: &SourceSpec = project.sources.get(&spec.source).ok_or_else(|| problem("its source is gone"))?;
    let found = warehouse(source, cancel).map_err(Stop::failed)?;
    let found = found.ok_or_else(|| problem("`diff: warehouse` needs a source that is a warehouse"))?;
    if !Layout::speaks(found.dialect()) {
        return Err(problem(
            "`diff: warehouse` is for PostgreSQL, DuckDB, Redshift, Snowflake, BigQuery and Databricks; leave it out",
        ));
    }
    if !found.can_write() {
        return Err(problem("`diff: warehouse` makes tables, and this source may only read"));
    }
    Ok(found)
}

fn compile(spec: &SyncSpec, columns: &Schema) -> Result<Mapping, Stop> {
    mapping::compile(spec, columns).map_err(|problems| Stop::Config(problems.iter().map(Problem::to_string).collect()))
}

fn check_names(spec: &SyncSpec, layout: &Layout) -> Result<(), Stop> {
    let taken = layout
        .keys
        .iter()
        .chain(&layout.columns)
        .find(|column| column.name().to_ascii_lowercase().starts_with(RESERVED));
    taken.map_or(Ok(()), |column| {
        Err(Stop::Config(vec![format!(
            "sync `{}`: the column `{}` begins with `{RESERVED}`, as the columns of `diff: warehouse` do; rename it in SQL",
            spec.name,
            column.name()
        )]))
    })
}

fn prefix(spec: &SyncSpec, token: &str) -> String {
    let name: String = spec.name.as_str().chars().take(NAME_CHARS).collect();
    format!("{name}_{token}")
}

fn salt(secret: &HashSecret) -> String {
    secret.as_bytes()[..SALT_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}
