//! `POST …/runs/{run}/batches/{seq}`: a batch of patches, applied at most once for each (run, seq).
//!
//! The connection's core authenticates, reads the body and waits; everything else (decompressing, parsing, proposing)
//! runs on the node's runtime and goes on to its end even if the client does not wait for it.

mod arrow;
mod decompress;
mod ndjson;
mod submit;
mod validate;

use std::sync::Arc;
use std::time::Instant;

use hyper::HeaderMap;
use hyper::http::request::Parts;
use larder_replication::catalog::{BatchOutcome, Catalog, CatalogCommand, Collection, Sync};
use larder_replication::node::{Node, ProposeError};
use larder_storage::command::PatchOrigin;
use larder_storage::shard::ShardReader;
use larder_types::api::{ARROW_STREAM, BatchAnswer, Counts, NDJSON, RejectedRow, RunState};
use larder_types::error::ErrorCode;
use larder_types::hash::KeyHash;
use larder_types::ids::{Generation, Micros};
use larder_types::limits::MAX_SEQ;
use larder_types::patch::Op;

use self::decompress::Encoding;
use self::submit::{Applied, reused};
use self::validate::{Placement, Prepared, Rejected, Sorted, SyncFields};
use crate::error::ApiError;
use crate::lookup::find_collection;
use crate::reply::{self, Response};
use crate::router::RunPath;
use crate::service::Call;
use crate::syncs::find_sync;
use crate::{body, clock, query, revision, runs};

/// Bytes of rejected rows that are noted with a batch: an entry of the catalog must stay small.
const NOTED_REJECT_BYTES: usize = 128 * 1024;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Ndjson,
    Arrow,
}

impl Format {
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        match body::media_type(headers).as_deref() {
            Some(NDJSON) => Ok(Self::Ndjson),
            Some(ARROW_STREAM) => Ok(Self::Arrow),
            _ => {
                let message = format!("send the batch with Content-Type {NDJSON} or {ARROW_STREAM}");
                Err(ApiError::new(ErrorCode::UnsupportedMediaType, message))
            }
        }
    }
}

/// A batch on its way.
#[derive(Clone)]
struct Job {
    node: Arc<Node>,
    collection: Arc<Collection>,
    sync: Arc<Sync>,
    run: String,
    seq: u32,
    format: Format,
    encoding: Encoding,
    place: Placement,
    /// The version of the definitions that the batch is read by.
    definitions: u64,
    at: Micros,
    arrived: Instant,
}

/// Handles a batch.
///
/// # Errors
/// See the documented route.
pub(crate) async fn post(call: Call, head: &Parts, path: &RunPath<'_>, seq: &str) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    let (collection, sync) = runs::resolve(&call, &path.sync)?;
    check_run(call.core.node(), collection, sync, &path.run)?;
    let job = Job {
        node: Arc::clone(call.core.node()),
        collection: Arc::clone(collection),
        sync: Arc::clone(sync),
        run: path.run.clone().into_owned(),
        seq: read_seq(seq)?,
        format: Format::of(&head.headers)?,
        encoding: Encoding::of(&head.headers)?,
        place: placement(&call.catalog)?,
        definitions: call.catalog.version,
        at: clock::now(),
        arrived: Instant::now(),
    };
    let permit = call.core.batch_permit().await?;
    let limits = call.core.limits();
    let bytes = body::collect(call.body, limits.batch_body_bytes, limits.body_timeout).await?;
    let answer = call.core.run(async move {
        let answer = job.carry_out(bytes).await;
        drop(permit);
        answer
    });
    let answer = answer.await?;
    call.core.meter.rows(answer.accepted, answer.rejected.len() as u64);
    Ok(reply::json(200, &answer))
}

fn read_seq(text: &str) -> Result<u32, ApiError> {
    let seq = text.parse().ok().filter(|seq: &u32| *seq <= MAX_SEQ && seq.to_string() == text);
    seq.ok_or_else(|| ApiError::invalid(format!("the batch number must be a whole number up to {MAX_SEQ}")))
}

fn placement(catalog: &Catalog) -> Result<Placement, ApiError> {
    let seed = catalog.cluster.as_ref().map(|cluster| cluster.hash_seed);
    let (seed, shards) = seed.zip(catalog.shard_count()).ok_or_else(revision::unavailable)?;
    Ok(Placement { seed, shards })
}

/// Refuses a run that takes no batches, and says why it does not.
fn check_run(node: &Node, collection: &Collection, sync: &Sync, run: &str) -> Result<(), ApiError> {
    let closed = |message: &'static str| ApiError::new(ErrorCode::RunClosed, message);
    match &sync.open_run {
        Some(open) if open.run == run && open.takes_batches => return Ok(()),
        Some(open) if open.run == run => return Err(closed("the run's commit has begun: it takes no more batches")),
        _ => {}
    }
    match node.runs().get(collection.id, sync.slot, run).map(|info| info.state) {
        None => Err(runs::not_found()),
        Some(RunState::Superseded) => Err(stale(sync.generation)),
        // Opened after this core last looked.
        Some(RunState::Open) => Err(ApiError::new(ErrorCode::ShardUnavailable, "the run is being opened; repeat it")),
        Some(_) => Err(closed("the run has ended: open a new one")),
    }
}

/// The answer for a run that a newer one has fenced off.
fn stale(newest: Generation) -> ApiError {
    let message = "a newer run of this sync has been opened: this one can do no more";
    ApiError::new(ErrorCode::StaleGeneration, message).with_details(serde_json::json!({ "newest": newest }))
}

impl Job {
    async fn carry_out(self, body: Vec<u8>) -> Result<BatchAnswer, ApiError> {
        let sent = body.len() as u64;
        let body_hash = KeyHash::of(self.format as u64 | (self.encoding as u64) << 8, &body).0;
        match self.node.runs().outcome(self.collection.id, self.sync.slot, &self.run, self.seq) {
            Some(noted) if noted.body_hash != body_hash => {
                return Err(reused());
            }
            // If not all rejected rows were kept, everything is done again to list them: the shards answer a repeat
            // with what they did the first time.
            Some(noted) if !noted.rejects_cut => return Ok(answer_of(noted)),
            _ => {}
        }
        let job = self.clone();
        let prepared = tokio::task::spawn_blocking(move || job.prepare(body)).await;
        let prepared = prepared.map_err(|_| ApiError::new(ErrorCode::Draining, "the node is stopping"))??;
        let rows = prepared.rows;
        let applied = submit::submit(&self.node, prepared, || self.ended()).await?;
        let outcome = self.outcome(rows, sent, body_hash, &applied);
        let answer = BatchAnswer {
            accepted: outcome.accepted,
            rejected: applied.rejected.into_iter().map(|rejected| rejected.row).collect(),
            revision: outcome.revision.clone(),
        };
        tracing::debug!(seq = self.seq, rows, accepted = answer.accepted, "batch applied");
        let note = CatalogCommand::RecordBatch {
            collection: self.collection.id,
            slot: self.sync.slot,
            run: self.run.clone(),
            outcome,
        };
        // A note that is there already is replaced by itself.
        let noted = match self.node.propose_catalog(note.clone()).await {
            Err(ProposeError::Unknown) => self.node.propose_catalog(note).await,
            noted => noted,
        };
        noted.map_err(|error| match ApiError::from(error) {
            refused if refused.code.status() < 500 => refused,
            // The patches are applied, so "nothing was done" would be a lie.
            _ => ApiError::new(ErrorCode::OutcomeUnknown, "the patches are applied but not noted; repeat the batch"),
        })?;
        Ok(answer)
    }

    fn prepare(&self, body: Vec<u8>) -> Result<Prepared, ApiError> {
        let plain = self.encoding.decode(body)?;
        let origin = PatchOrigin {
            collection: self.collection.id,
            slot: self.sync.slot,
            generation: self.generation(),
            seq: self.seq,
            at: self.at,
        };
        let fields = SyncFields::new(&self.collection, &self.sync);
        let mut sorted = Sorted::new(origin, self.place);
        match self.format {
            Format::Ndjson => ndjson::decode(&plain, &fields, &mut sorted)?,
            Format::Arrow => arrow::decode(plain, &fields, &mut sorted)?,
        }
        Ok(sorted.finish())
    }

    /// Why the run takes no batches any more, if it does not: the shards, which have refused this one, know only that.
    fn ended(&self) -> Option<ApiError> {
        let catalog = self.node.catalog();
        let check = || {
            let collection = find_collection(&catalog, self.collection.name.as_str())?;
            let sync = find_sync(collection, self.sync.name.as_str())?;
            check_run(&self.node, collection, sync, &self.run)
        };
        // Another of the same name has no run of this id.
        check().err()
    }

    /// The open run is the sync's newest, so its generation is the sync's.
    fn generation(&self) -> Generation {
        self.sync.generation
    }

    fn outcome(&self, rows: u64, bytes: u64, body_hash: u64, applied: &Applied) -> BatchOutcome {
        let (rejects, rejects_cut) = to_note(&applied.rejected);
        let latency = u64::try_from(self.arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        BatchOutcome {
            seq: self.seq,
            body_hash,
            at: self.at,
            latency_micros: latency,
            rows,
            bytes,
            accepted: rows - applied.rejected.len() as u64,
            successful: applied.successful,
            unchanged: applied.unchanged,
            failed: self.count(&applied.rejected),
            rejects,
            rejects_cut,
            revision: applied.revision.clone().with_definitions(self.definitions).to_string(),
        }
    }

    /// Rejected rows by what they would have done. An upsert would have added a record unless one is there, as far as
    /// this node knows.
    fn count(&self, rejected: &[Rejected]) -> Counts {
        let mut counts = Counts::default();
        for Rejected { op, row } in rejected {
            let place = match op {
                Op::Clear | Op::Delete => &mut counts.removed,
                Op::Upsert if self.exists(row.key.as_deref()) => &mut counts.changed,
                Op::Upsert => &mut counts.added,
            };
            *place += 1;
        }
        counts
    }

    fn exists(&self, key: Option<&str>) -> bool {
        let Some(key) = key.and_then(|key| larder_types::key::Key::new(key).ok()) else { return false };
        let (hash, shard) = self.place.of(&key);
        let readers = self.node.readers_cell().load();
        let found = |reader: &ShardReader| reader.get(self.collection.id, hash, key.as_bytes(), |_| ()).is_some();
        readers.get(shard).is_some_and(|served| found(served.reader()))
    }
}

fn answer_of(noted: BatchOutcome) -> BatchAnswer {
    BatchAnswer { accepted: noted.accepted, rejected: noted.rejects, revision: noted.revision }
}

/// The rejected rows that are noted, and whether others were left out.
fn to_note(rejected: &[Rejected]) -> (Vec<RejectedRow>, bool) {
    let mut room = NOTED_REJECT_BYTES;
    let fits = |rejected: &&Rejected| {
        let row = &rejected.row;
        let texts = [row.key.as_deref(), row.field.as_deref(), Some(row.code.as_str()), Some(row.message.as_str())];
        // 64 bytes for the names of the members and the number.
        let size = 64 + texts.into_iter().flatten().map(str::len).sum::<usize>();
        let left = room.checked_sub(size);
        room = left.unwrap_or(0);
        left.is_some()
    };
    let noted: Vec<_> = rejected.iter().take_while(fits).map(|rejected| rejected.row.clone()).collect();
    let cut = noted.len() < rejected.len();
    (noted, cut)
}
