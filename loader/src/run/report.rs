//! What a plan or a run has to say for itself: plain data for people, for `--json`, and for exit codes.

use std::collections::BTreeMap;

use larder_types::names::{CollectionName, FieldName, SyncName};
use larder_types::patch::ExitMode;
use serde::Serialize;

use crate::project::DestinationName;

/// How a command ends. Scripts act on the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitClass {
    /// 0: everything was done.
    Ok,
    /// 1: the run failed. What was acknowledged is kept; running again sends the rest.
    Failed,
    /// 2: the project is wrong. Nothing was sent.
    Config,
    /// 3: everything was sent, and some rows were rejected.
    Partial,
    /// 4: a guard stopped the run before it sent anything.
    Blocked,
    /// 5: another loader is running this sync.
    Locked,
    /// 10: a plan that was asked to tell has found changes.
    Changes,
}

impl ExitClass {
    /// The process exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Config => 2,
            Self::Partial => 3,
            Self::Blocked => 4,
            Self::Locked => 5,
            Self::Changes => 10,
        }
    }
}

/// What a run sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// What differs from the state that was acknowledged.
    Delta,
    /// Every row; the cluster then sweeps what the run did not confirm.
    Full,
}

impl RunKind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Full => "full",
        }
    }
}

/// Who asked for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A person or script, on the command line.
    #[default]
    Cli,
    /// The schedule of the sync.
    Schedule,
    /// A call of the daemon's API.
    Api,
    /// The end of another sync's run.
    After,
    /// Somebody approved what a guard had stopped.
    Approve,
    /// A retry of what an earlier run left.
    Retry,
}

impl Trigger {
    /// Every one.
    pub(crate) const ALL: [Self; 6] = [Self::Cli, Self::Schedule, Self::Api, Self::After, Self::Approve, Self::Retry];

    /// Whether somebody asked for the run by name. The daemon begins such a run although the sync is paused.
    pub(crate) fn is_call(self) -> bool {
        matches!(self, Self::Cli | Self::Api | Self::Approve)
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Schedule => "schedule",
            Self::Api => "api",
            Self::After => "after",
            Self::Approve => "approve",
            Self::Retry => "retry",
        }
    }
}

/// Why a delta run sends every row although most may be unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResendReason {
    /// This sync has never run here.
    FirstRun,
    /// The key column, the fields, their types or their expressions differ from those of the last run.
    MappingChanged,
    /// The sync now writes to another collection.
    CollectionChanged,
    /// The cluster does not know the runs that this loader has recorded: it is another one, or was reset.
    DestinationNew,
    /// What this loader had recorded of an earlier run was damaged.
    StateDamaged,
    /// The warehouse compared rows until now, and what it compared them by is of no use here.
    DiffMoved,
    /// Another loader has run this sync since, so what the cluster holds is not what this loader has recorded.
    Overtaken,
}

impl ResendReason {
    /// The reason in a sentence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstRun => "first run",
            Self::MappingChanged => "the mapping changed, so every row is sent again",
            Self::CollectionChanged => "the collection changed, so every row is sent again",
            Self::DestinationNew => "the cluster does not know this sync's earlier runs, so every row is sent again",
            Self::StateDamaged => "the recorded state was damaged, so every row is sent again",
            Self::DiffMoved => "rows are no longer compared in the warehouse, so every row is sent again",
            Self::Overtaken => "another loader ran this sync, so every row is sent again",
        }
    }
}

/// Rows of the query by what they mean for the collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct RowCounts {
    /// Rows that the query returned.
    pub read: u64,
    /// Rows whose key was not acknowledged before.
    pub added: u64,
    /// Rows that differ from what was acknowledged.
    pub changed: u64,
    /// Keys that were acknowledged and are no longer in the query.
    pub removed: u64,
    /// Rows that are as they were acknowledged.
    pub unchanged: u64,
    /// Rows that cannot be sent, or that the cluster refused.
    pub rejected: u64,
}

impl RowCounts {
    /// Adds what another destination makes of the same rows: everything but `read`.
    pub(crate) fn add(&mut self, other: &Self) {
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
        self.unchanged += other.unchanged;
        self.rejected += other.rejected;
    }
}

/// A row that was left out, or refused by the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// Its primary key, if it has one.
    pub key: Option<String>,
    /// Its place in the query's result, from 1, if it is known.
    pub row: Option<u64>,
    /// The field at fault, if one is.
    pub field: Option<String>,
    /// Why, in one word.
    pub code: String,
    /// Why, in a sentence that holds no values.
    pub message: String,
}

/// A rejected row as the history keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedRow {
    /// The destination that misses it.
    pub destination: String,
    /// The row.
    #[serde(flatten)]
    pub rejection: Rejection,
}

/// One row as the cluster would get it, for a plan's samples.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// `added`, `changed` or `removed`.
    pub change: &'static str,
    /// The primary key.
    pub key: String,
    /// What is known of its record.
    #[serde(flatten)]
    pub old: OldRecord,
    /// The mapped fields in order; for a removal those that the record has.
    pub fields: Vec<FieldChange>,
}

/// What a plan knows of the record of a sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "record")]
pub enum OldRecord {
    /// It was not asked for: the row is new.
    NotRead,
    /// The cluster holds it.
    Read,
    /// The cluster does not hold it.
    Absent,
    /// It cannot be told.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// A field of a sample.
#[derive(Debug, Clone, Serialize)]
pub struct FieldChange {
    /// The field.
    pub field: String,
    /// Its value in the record now, as JSON; none if the record has no such field or was not read.
    pub old: Option<Box<serde_json::value::RawValue>>,
    /// Its value after the run, as JSON; none if the field goes.
    pub new: Option<Box<serde_json::value::RawValue>>,
    /// False if the two are known to be the same.
    pub changes: bool,
}

/// What a run would do.
#[derive(Debug, Clone, Serialize)]
pub struct PlanReport {
    /// The sync.
    pub sync: SyncName,
    /// Where it writes.
    pub collection: CollectionName,
    /// Delta or full.
    pub kind: RunKind,
    /// Why every row is sent, if so; of several destinations, that of the first which has a reason.
    pub resend: Option<ResendReason>,
    /// What happens to rows that left the query.
    pub on_exit: ExitMode,
    /// Counts, summed over the destinations but for `read`. `rejected` holds the rows that cannot be mapped or have a bad
    /// key.
    pub rows: RowCounts,
    /// Rows that a run would send, to all destinations together.
    pub to_send: u64,
    /// Why a guard would stop the run, if it would; of several destinations, the first that it would stop.
    pub blocked: Option<String>,
    /// A few rows as they would be sent to the first destination.
    pub samples: Vec<Sample>,
    /// Values that could not be made and would be replaced as `on_error` says, by field.
    pub replaced: BTreeMap<FieldName, u64>,
    /// A few rows that cannot be sent.
    pub rejections: Vec<Rejection>,
    /// Each destination's part.
    pub deliveries: Vec<PlannedDelivery>,
    /// Milliseconds it took.
    pub elapsed_ms: u64,
}

/// What a run would do to one destination.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedDelivery {
    /// Which.
    pub destination: DestinationName,
    /// Why every row is sent, if so.
    pub resend: Option<ResendReason>,
    /// What the query's rows mean to it.
    pub rows: RowCounts,
    /// Rows that a run would send it.
    pub to_send: u64,
    /// Why a guard would stop it, if one would.
    pub blocked: Option<String>,
}

/// How a run, or the part of it that goes to one destination, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything was acknowledged.
    Succeeded,
    /// Everything was sent, some rows were rejected.
    Partial,
    /// A guard stopped it.
    Blocked,
    /// It was cancelled.
    Cancelled,
    /// It did not end well; see the error.
    Failed,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Partial => "partial",
            Self::Blocked => "blocked",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// The run's id in the loader's history.
    pub id: String,
    /// The sync.
    pub sync: SyncName,
    /// Where it writes.
    pub collection: CollectionName,
    /// Delta or full.
    pub kind: RunKind,
    /// Who asked for it.
    pub trigger: Trigger,
    /// Why every row was sent, if so; of several destinations, that of the first which has a reason.
    pub resend: Option<ResendReason>,
    /// How it ended: as the worst of its deliveries.
    pub outcome: Outcome,
    /// What the query's rows meant, summed over the destinations but for `read`. `rejected` holds those that this loader
    /// and the clusters refused.
    pub rows: RowCounts,
    /// Rows that were sent: upserts, clears and deletes.
    pub sent: u64,
    /// Rows of those that the clusters acknowledged as stored.
    pub acknowledged: u64,
    /// Records that the clusters cleared or deleted at the end of a full run.
    pub swept: u64,
    /// Batches acknowledged.
    pub batches: u64,
    /// Bytes of their bodies as sent.
    pub bytes: u64,
    /// Seconds from start to end.
    pub seconds: f64,
    /// Remarks: an interrupted run that was finished first, a sweep that was left out. With several destinations, each
    /// begins with the name of its own.
    pub notes: Vec<String>,
    /// The first rejected rows; [`super::rejected`] lists more.
    pub rejections: Vec<Rejection>,
    /// What went to each destination, in the order of the sync's file.
    pub deliveries: Vec<DeliveryReport>,
}

/// The part of a run that goes to one destination.
#[derive(Debug, Clone, Serialize)]
pub struct DeliveryReport {
    /// Which.
    pub destination: DestinationName,
    /// How it ended.
    pub outcome: Outcome,
    /// Why every row was sent, if so.
    pub resend: Option<ResendReason>,
    /// What the query's rows meant to it.
    pub rows: RowCounts,
    /// Rows that were sent.
    pub sent: u64,
    /// Rows of those that the cluster acknowledged as stored.
    pub acknowledged: u64,
    /// Records that the cluster cleared or deleted at the end of a full run.
    pub swept: u64,
    /// Batches acknowledged.
    pub batches: u64,
    /// Bytes of their bodies as sent.
    pub bytes: u64,
    /// Why it did not end well, if so: what failed, which guard stopped it, who cancelled it.
    pub error: Option<String>,
    /// Remarks.
    pub notes: Vec<String>,
    /// Values that could not be made and were replaced as `on_error` says, by field.
    pub replaced: BTreeMap<FieldName, u64>,
    /// The first rejected rows.
    pub rejections: Vec<Rejection>,
}

impl RunReport {
    /// What the process should exit with.
    #[must_use]
    pub fn exit_class(&self) -> ExitClass {
        match self.outcome {
            Outcome::Succeeded => ExitClass::Ok,
            Outcome::Partial => ExitClass::Partial,
            Outcome::Blocked => ExitClass::Blocked,
            Outcome::Cancelled | Outcome::Failed => ExitClass::Failed,
        }
    }
}

/// One line of a sync's history.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct HistoryEntry {
    /// The run's id.
    pub id: String,
    /// The sync.
    pub sync: String,
    /// `delta` or `full`.
    pub kind: String,
    /// Who asked for it; see [`Trigger`].
    pub trigger: String,
    /// `running`, `succeeded`, `partial`, `blocked`, `cancelled` or `failed`.
    pub state: String,
    /// Why every row was sent, or `interrupted`.
    pub reason: Option<String>,
    /// The error, if it failed.
    pub error: Option<String>,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// When it ended, RFC 3339.
    pub ended_at: Option<String>,
    /// What the query's rows meant, summed over the destinations but for `read`.
    pub rows: RowCounts,
    /// Rows that were sent.
    pub sent: u64,
    /// Rows that the clusters acknowledged.
    pub acknowledged: u64,
    /// Records that the clusters swept.
    pub swept: u64,
    /// Batches acknowledged.
    pub batches: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// What went to each destination, in the order of their names.
    pub deliveries: Vec<DeliveryEntry>,
}

/// The part of a run in the history that went to one destination. Members are those of [`HistoryEntry`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[allow(missing_docs, reason = "each is documented where the run has it")]
pub struct DeliveryEntry {
    pub destination: String,
    pub state: String,
    pub reason: Option<String>,
    pub error: Option<String>,
    pub rows: RowCounts,
    pub sent: u64,
    pub acknowledged: u64,
    pub swept: u64,
    pub batches: u64,
    pub bytes: u64,
}
