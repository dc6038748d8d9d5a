//! Runs: open, watch, commit, abort.

use std::sync::Arc;

use hyper::http::request::Parts;
use larder_replication::catalog::{CatalogCommand, CatalogReply, Collection, Sync};
use larder_types::api::{OpenRun, OpenedRun, RunInfo};
use larder_types::error::ErrorCode;
use serde_json::json;

use crate::api_key::random_text;
use crate::auth::Need;
use crate::core::{carry_out, unexpected};
use crate::error::ApiError;
use crate::lookup::find_collection;
use crate::reply::{self, Response};
use crate::router::{RunPath, SyncPath};
use crate::service::Call;
use crate::syncs::find_sync;
use crate::{body, clock, query};

/// Characters of a run's id: 131 random bits, so that no two runs ever share one.
const ID_CHARS: usize = 22;

/// The collection and sync that a path names, once the key allows to write to them.
///
/// # Errors
/// `forbidden`, `collection_not_found`, `sync_not_found`.
pub(crate) fn resolve<'c>(
    call: &'c Call,
    path: &SyncPath<'_>,
) -> Result<(&'c Arc<Collection>, &'c Arc<Sync>), ApiError> {
    call.principal.require(Need::Write(&path.collection))?;
    let collection = find_collection(&call.catalog, &path.collection)?;
    Ok((collection, find_sync(collection, &path.sync)?))
}

fn find_run(call: &Call, collection: &Collection, sync: &Sync, run: &str) -> Result<RunInfo, ApiError> {
    call.core.node().runs().get(collection.id, sync.slot, run).ok_or_else(not_found)
}

/// The answer for a run that the sync does not have.
pub(crate) fn not_found() -> ApiError {
    ApiError::new(ErrorCode::RunNotFound, "the sync has no run of this id, or it is too old to be kept")
}

/// `POST …/runs`.
pub(crate) async fn open(call: Call, head: &Parts, path: &SyncPath<'_>) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    let (collection, sync) = resolve(&call, path)?;
    let (collection, sync) = (collection.name.clone(), sync.name.clone());
    let wanted: OpenRun = body::json(&head.headers, call.body, call.core.limits()).await?;
    let run = random_text(ID_CHARS).map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
    let command = CatalogCommand::OpenRun {
        collection,
        sync,
        run: run.clone(),
        kind: wanted.kind,
        planned: wanted.planned,
        at: clock::now(),
    };
    let node = Arc::clone(call.core.node());
    let open = async move {
        match node.propose_catalog(command).await? {
            CatalogReply::Opened { generation, intent } => {
                carry_out(&node, intent).await?;
                Ok(generation)
            }
            other => Err(unexpected(&other)),
        }
    };
    let generation = call.core.run(open).await?;
    Ok(reply::json(201, &OpenedRun { run, generation }))
}

/// `GET …/runs`: the newest first.
pub(crate) fn list(call: &Call, head: &Parts, path: &SyncPath<'_>) -> Result<Response, ApiError> {
    let (collection, sync) = resolve(call, path)?;
    let (offset, limit) = query::page(head.uri.query())?;
    let runs = call.core.node().runs().list(collection.id, sync.slot);
    let page: Vec<_> = runs.into_iter().skip(offset).take(limit).collect();
    Ok(reply::json(200, &json!({ "runs": page })))
}

/// `GET …/runs/{run}`.
pub(crate) fn get(call: &Call, head: &Parts, path: &RunPath<'_>) -> Result<Response, ApiError> {
    let (collection, sync) = resolve(call, &path.sync)?;
    query::none(head.uri.query())?;
    Ok(reply::json(200, &find_run(call, collection, sync, &path.run)?))
}

/// `GET …/runs/{run}/requests`: in order of arrival.
pub(crate) fn requests(call: &Call, head: &Parts, path: &RunPath<'_>) -> Result<Response, ApiError> {
    let (collection, sync) = resolve(call, &path.sync)?;
    let (offset, limit) = query::page(head.uri.query())?;
    find_run(call, collection, sync, &path.run)?;
    let requests = call.core.node().runs().requests(collection.id, sync.slot, &path.run, offset, limit);
    Ok(reply::json(200, &json!({ "requests": requests })))
}

/// `GET …/runs/{run}/rejects`: in order of arrival, each with the number of its batch; `total` counts those that were
/// not kept too.
pub(crate) fn rejects(call: &Call, head: &Parts, path: &RunPath<'_>) -> Result<Response, ApiError> {
    let (collection, sync) = resolve(call, &path.sync)?;
    let (offset, limit) = query::page(head.uri.query())?;
    let runs = call.core.node().runs();
    let kept = runs.rejects_kept(collection.id, sync.slot, &path.run).ok_or_else(not_found)?;
    let rejects = runs.rejects(collection.id, sync.slot, &path.run, offset, limit);
    let rejects: Vec<_> = rejects.iter().map(|(seq, reject)| Reject { seq: *seq, reject }).collect();
    Ok(reply::json(200, &json!({ "rejects": rejects, "total": kept.total, "all_kept": !kept.cut })))
}

/// A rejected row with the number of its batch.
#[derive(serde::Serialize)]
struct Reject<'a> {
    seq: u32,
    #[serde(flatten)]
    reject: &'a larder_types::api::RejectedRow,
}

/// `POST …/runs/{run}/commit`. Repeatable: a commit that was cut short is taken up where it stopped.
pub(crate) async fn commit(call: &Call, head: &Parts, path: &RunPath<'_>) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    let (collection, sync) = resolve(call, &path.sync)?;
    find_run(call, collection, sync, &path.run)?;
    let (name, sync_name, run) = (collection.name.clone(), sync.name.clone(), path.run.clone().into_owned());
    let node = Arc::clone(call.core.node());
    let commit = async move {
        let begin = CatalogCommand::BeginCommit { collection: name.clone(), sync: sync_name.clone(), run: run.clone() };
        match node.propose_catalog(begin).await? {
            CatalogReply::Committing { intent: Some(intent) } => carry_out(&node, intent).await?,
            CatalogReply::Committing { intent: None } => {}
            other => return Err(unexpected(&other)),
        }
        let end = CatalogCommand::EndCommit { collection: name, sync: sync_name, run, at: clock::now() };
        node.propose_catalog(end).await?;
        Ok(())
    };
    call.core.run(commit).await?;
    Ok(reply::json(200, &find_run(call, collection, sync, &path.run)?))
}

/// `POST …/runs/{run}/abort`. Repeatable. What the run has applied stays.
pub(crate) async fn abort(call: &Call, head: &Parts, path: &RunPath<'_>) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    let (collection, sync) = resolve(call, &path.sync)?;
    find_run(call, collection, sync, &path.run)?;
    let command = CatalogCommand::AbortRun {
        collection: collection.name.clone(),
        sync: sync.name.clone(),
        run: path.run.clone().into_owned(),
        at: clock::now(),
    };
    call.core.propose(command).await?;
    Ok(reply::json(200, &find_run(call, collection, sync, &path.run)?))
}
