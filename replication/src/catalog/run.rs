//! One run: its state, its numbers, and the details of its batches.
//!
//! Invariants: a batch number is noted once and its outcome never changes. The numbers are the sums over the noted
//! batches, plus what the sweep did. Rejected rows are kept from the first on, up to [`RUN_REJECT_BYTES`]; past that
//! they are only counted.

use std::collections::BTreeMap;

use larder_types::api::{Counts, RejectedRow, RequestInfo, RunInfo, RunKind, RunState};
use larder_types::ids::{Generation, Micros};
use larder_types::time::write_timestamp;
use serde::{Deserialize, Serialize, Serializer};

use super::command::BatchOutcome;

/// The rejected rows that a run keeps, in bytes as [`reject_bytes`] counts them: some thousands, enough to see what is
/// wrong with a run.
pub(crate) const RUN_REJECT_BYTES: u64 = 1024 * 1024;

/// What a noted batch takes in memory beside its revision and its rejected rows: the outcome itself, its place in the
/// index, and what the allocator adds.
const BATCH_BYTES: u64 = 256;

/// What a rejected row takes in memory beside its texts.
const REJECT_BYTES: u64 = 128;

const _: () = assert!((size_of::<BatchOutcome>() + 2 * size_of::<(u32, usize)>()) as u64 <= BATCH_BYTES);
const _: () = assert!(size_of::<RejectedRow>() as u64 <= REJECT_BYTES);

/// The HTTP status with which a noted batch was answered: others are not noted.
const STATUS_OF_NOTED: u16 = 200;

/// A run of a sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) generation: Generation,
    pub(crate) kind: RunKind,
    pub(crate) state: RunState,
    pub(crate) opened_at: Micros,
    pub(crate) ended: Option<Ended>,
    planned: Counts,
    successful: Counts,
    failed: Counts,
    batches: u64,
    unchanged: u64,
    swept: u64,
    rejects: RejectsKept,
    /// `None` once they were shed to make room for those of newer runs.
    details: Option<Details>,
}

/// When a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ended {
    /// By the proposer's clock.
    pub(crate) at: Micros,
    /// The catalog's log index: orders runs of all syncs by their end.
    pub(crate) index: u64,
}

/// How many rejected rows a run had and whether all are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectsKept {
    /// Rejected rows, kept or not.
    pub total: u64,
    /// True if not all of them are kept.
    pub cut: bool,
}

/// The noted batches in the order in which they were noted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "Vec<BatchOutcome>")]
struct Details {
    noted: Vec<BatchOutcome>,
    /// Batch number to place in `noted`.
    places: BTreeMap<u32, usize>,
    /// What all this takes in memory.
    bytes: u64,
    /// The part of `bytes` that is rejected rows.
    reject_bytes: u64,
}

/// What noting a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It was noted now.
    Now,
    /// It was noted before, with the same body.
    Before,
    /// Its number was noted before, with another body.
    OtherBody,
    /// The details of the run were shed, so it cannot be told whether it was noted: nothing was done.
    Shed,
}

impl Run {
    /// A run that was just opened.
    pub(crate) fn open(id: &str, generation: Generation, kind: RunKind, planned: Counts, at: Micros) -> Self {
        Self {
            id: id.to_owned(),
            generation,
            kind,
            state: RunState::Open,
            opened_at: at,
            ended: None,
            planned,
            successful: Counts::default(),
            failed: Counts::default(),
            batches: 0,
            unchanged: 0,
            swept: 0,
            rejects: RejectsKept::default(),
            details: Some(Details::default()),
        }
    }

    /// Notes a batch and keeps of its rejected rows those that fit the run's budget and `room` bytes.
    pub(crate) fn note(&mut self, outcome: &BatchOutcome, room: u64) -> Noted {
        let Some(details) = &mut self.details else { return Noted::Shed };
        if let Some(first) = details.get(outcome.seq) {
            return if first.body_hash == outcome.body_hash { Noted::Before } else { Noted::OtherBody };
        }
        let room = room.min(RUN_REJECT_BYTES.saturating_sub(details.reject_bytes));
        // Once rows were cut no later ones are kept: what is kept is the beginning, without gaps.
        let kept = details.push(outcome, if self.rejects.cut { 0 } else { room });
        self.rejects.total = self.rejects.total.saturating_add(rejected(outcome));
        self.rejects.cut |= kept.rejects_cut;
        self.batches = self.batches.saturating_add(1);
        self.unchanged = self.unchanged.saturating_add(outcome.unchanged);
        add(&mut self.successful, &outcome.successful);
        add(&mut self.failed, &outcome.failed);
        Noted::Now
    }

    /// Counts the records that the run's sweep cleared or deleted.
    pub(crate) fn add_swept(&mut self, records: u64) {
        self.swept = self.swept.saturating_add(records);
        self.successful.removed = self.successful.removed.saturating_add(records);
    }

    /// Forgets the details; the numbers stay.
    pub(crate) fn shed(&mut self) {
        self.rejects.cut |= self.rejects.total > 0;
        self.details = None;
    }

    /// What the details take in memory, in bytes.
    pub(crate) fn detail_bytes(&self) -> u64 {
        self.details.as_ref().map_or(0, |details| details.bytes)
    }

    pub(crate) fn has_details(&self) -> bool {
        self.details.is_some()
    }

    pub(crate) fn rejects_kept(&self) -> RejectsKept {
        self.rejects
    }

    pub(crate) fn outcome(&self, seq: u32) -> Option<&BatchOutcome> {
        self.details.as_ref()?.get(seq)
    }

    /// The noted batches in the order in which they were noted; none if they were shed.
    pub(crate) fn noted(&self) -> &[BatchOutcome] {
        self.details.as_ref().map_or(&[], |details| &details.noted)
    }

    /// The run as the HTTP interface shows it.
    pub(crate) fn info(&self) -> RunInfo {
        RunInfo {
            run: self.id.clone(),
            generation: self.generation,
            kind: self.kind,
            state: self.state,
            opened_at: timestamp(self.opened_at),
            ended_at: self.ended.map(|ended| timestamp(ended.at)),
            planned: self.planned,
            successful: self.successful,
            failed: self.failed,
            batches: self.batches,
            unchanged: self.unchanged,
            swept: self.swept,
        }
    }
}

impl Details {
    fn get(&self, seq: u32) -> Option<&BatchOutcome> {
        self.noted.get(*self.places.get(&seq)?)
    }

    /// Adds a batch whose number is new, with as many of its rejected rows as fit into `room` bytes.
    fn push(&mut self, outcome: &BatchOutcome, room: u64) -> &BatchOutcome {
        let mut left = room;
        let fitting = outcome.rejects.iter().take_while(|row| match left.checked_sub(reject_bytes(row)) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        });
        let rejects: Vec<_> = fitting.cloned().collect();
        let rejects_cut = outcome.rejects_cut || rejects.len() < outcome.rejects.len();
        let kept = BatchOutcome { rejects, rejects_cut, revision: outcome.revision.clone(), ..*outcome };
        self.insert(kept)
    }

    fn insert(&mut self, kept: BatchOutcome) -> &BatchOutcome {
        let of_rejects: u64 = kept.rejects.iter().map(reject_bytes).sum();
        self.reject_bytes += of_rejects;
        self.bytes += of_rejects + BATCH_BYTES + kept.revision.len() as u64;
        let place = self.noted.len();
        self.places.insert(kept.seq, place);
        self.noted.push(kept);
        &self.noted[place]
    }
}

impl TryFrom<Vec<BatchOutcome>> for Details {
    type Error = String;

    fn try_from(noted: Vec<BatchOutcome>) -> Result<Self, String> {
        let mut details = Self::default();
        for outcome in noted {
            if details.places.contains_key(&outcome.seq) {
                return Err(format!("batch {} is noted twice", outcome.seq));
            }
            details.insert(outcome);
        }
        Ok(details)
    }
}

impl Serialize for Details {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.noted.serialize(serializer)
    }
}

/// A noted batch as the HTTP interface shows it.
pub(crate) fn request_info(outcome: &BatchOutcome) -> RequestInfo {
    RequestInfo {
        seq: outcome.seq,
        at: timestamp(outcome.at),
        rows: outcome.rows,
        bytes: outcome.bytes,
        accepted: outcome.accepted,
        rejected: rejected(outcome),
        status: STATUS_OF_NOTED,
        latency_ms: outcome.latency_micros / 1000,
    }
}

/// The most that noting a batch can add to a run's details, in bytes.
pub(crate) fn most_bytes(outcome: &BatchOutcome) -> u64 {
    let of_rejects: u64 = outcome.rejects.iter().map(reject_bytes).sum();
    BATCH_BYTES + outcome.revision.len() as u64 + of_rejects.min(RUN_REJECT_BYTES)
}

/// Rejected rows of a batch, listed or not.
fn rejected(outcome: &BatchOutcome) -> u64 {
    outcome.rows.saturating_sub(outcome.accepted)
}

fn reject_bytes(row: &RejectedRow) -> u64 {
    let texts = [row.key.as_deref(), Some(&row.code), row.field.as_deref(), Some(&row.message)];
    REJECT_BYTES + texts.into_iter().flatten().map(|text| text.len() as u64).sum::<u64>()
}

fn add(sum: &mut Counts, more: &Counts) {
    sum.added = sum.added.saturating_add(more.added);
    sum.changed = sum.changed.saturating_add(more.changed);
    sum.removed = sum.removed.saturating_add(more.removed);
}

fn timestamp(at: Micros) -> String {
    let mut text = String::with_capacity(27);
    write_timestamp(at, &mut text);
    text
}
