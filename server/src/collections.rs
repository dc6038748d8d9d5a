//! Collections: make, describe, list, drop.

use std::sync::Arc;

use hyper::http::request::Parts;
use larder_replication::catalog::{Catalog, CatalogCommand, CatalogReply, Collection, Sync};
use larder_replication::node::Node;
use larder_storage::shard::CollectionStats;
use larder_types::api::{CollectionInfo, CollectionUsage, FieldInfo, IndexInfo, PutCollection, SyncInfo};
use larder_types::ids::ShardId;
use larder_types::names::CollectionName;
use larder_types::revision::Revision;

use crate::auth::Need;
use crate::core::{carry_out, unexpected};
use crate::error::ApiError;
use crate::lookup::find_collection;
use crate::reply::{self, Response};
use crate::service::Call;
use crate::{body, clock, query, revision};

/// `GET /v1/collections`: those that the key may see.
pub(crate) async fn list(call: &Call, head: &Parts) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    let visible = call.catalog.collections.values().filter(|c| call.principal.may(Need::Describe(c.name.as_str())));
    let visible: Vec<_> = visible.map(Arc::clone).collect();
    let (node, catalog) = (Arc::clone(call.core.node()), Arc::clone(&call.catalog));
    // Thousands of looks at shards, if there are many of both: not on a core that serves lookups.
    let describe = async move { visible.iter().map(|c| info(&node, &catalog, c)).collect::<Result<Vec<_>, _>>() };
    let infos = call.core.run(describe).await?;
    Ok(reply::json(200, &serde_json::json!({ "collections": infos })))
}

/// `GET /v1/collections/{c}`.
pub(crate) fn get(call: &Call, head: &Parts, name: &str) -> Result<Response, ApiError> {
    call.principal.require(Need::Describe(name))?;
    query::none(head.uri.query())?;
    let collection = find_collection(&call.catalog, name)?;
    Ok(reply::json(200, &info(call.core.node(), &call.catalog, collection)?))
}

/// `PUT /v1/collections/{c}`.
pub(crate) async fn put(call: Call, head: &Parts, name: &str) -> Result<Response, ApiError> {
    call.principal.require(Need::Write(name))?;
    query::none(head.uri.query())?;
    let name = CollectionName::new(name).map_err(|e| ApiError::invalid(e.to_string()))?;
    let wanted: PutCollection = body::json(&head.headers, call.body, call.core.limits()).await?;
    let command = CatalogCommand::PutCollection { name: name.clone(), primary_index: wanted.primary_index };
    let created = match call.core.propose(command).await? {
        CatalogReply::Put { created } => created,
        other => return Err(unexpected(&other)),
    };
    let catalog = call.core.node().catalog();
    let collection = find_collection(&catalog, name.as_str())?;
    Ok(reply::json(if created { 201 } else { 200 }, &info(call.core.node(), &catalog, collection)?))
}

/// `DELETE /v1/collections/{c}?confirm={c}`.
pub(crate) async fn delete(call: &Call, head: &Parts, name: &str) -> Result<Response, ApiError> {
    call.principal.require(Need::Admin)?;
    let confirmed = query::parse(head.uri.query(), &["confirm"])?.into_iter().any(|(_, value)| value == name);
    if !confirmed {
        return Err(ApiError::invalid("dropping a collection must be confirmed: add `?confirm=` and its name"));
    }
    let name = find_collection(&call.catalog, name)?.name.clone();
    let node = Arc::clone(call.core.node());
    let drop = async move {
        match node.propose_catalog(CatalogCommand::DropCollection { name }).await? {
            CatalogReply::Intent(intent) => carry_out(&node, intent).await,
            other => Err(unexpected(&other)),
        }
    };
    call.core.run(drop).await?;
    Ok(reply::empty(204))
}

/// A collection as it is now.
///
/// # Errors
/// `shard_unavailable` when a shard of it is not served here.
fn info(node: &Node, catalog: &Catalog, collection: &Collection) -> Result<CollectionInfo, ApiError> {
    let (stats, positions) = measure(node, catalog, collection)?;
    let owner = |slot| collection.sync_in(slot).map(|sync| sync.name.clone());
    let fields = collection
        .fields
        .iter()
        .filter_map(|field| Some(FieldInfo { name: field.name.clone(), kind: field.kind, sync: owner(field.owner)? }));
    Ok(CollectionInfo {
        name: collection.name.clone(),
        indexes: vec![IndexInfo { name: collection.primary_index.clone(), primary: true }],
        fields: fields.collect(),
        syncs: collection.syncs.values().map(|sync| sync_info(collection, sync, &stats)).collect(),
        records: stats.records,
        bytes: stats.bytes,
        usage: CollectionUsage {
            record_bytes: stats.content_bytes(),
            index_bytes: stats.table_bytes,
            dictionary_bytes: stats.dictionary_bytes,
            batch_bytes: stats.batch_bytes,
        },
        revision: Revision::new(positions).to_string(),
    })
}

/// One sync as it is now.
///
/// # Errors
/// `shard_unavailable` when a shard of it is not served here.
pub(crate) fn describe_sync(
    node: &Node,
    catalog: &Catalog,
    collection: &Collection,
    sync: &Sync,
) -> Result<SyncInfo, ApiError> {
    let (stats, _) = measure(node, catalog, collection)?;
    Ok(sync_info(collection, sync, &stats))
}

fn sync_info(collection: &Collection, sync: &Sync, stats: &CollectionStats) -> SyncInfo {
    let name_of = |id| collection.fields.iter().find(|field| field.id == id).map(|field| field.name.clone());
    let records = stats.records_of.iter().filter(|(slot, _)| *slot == sync.slot).map(|(_, records)| records).sum();
    let age = sync.last_good_run.map(|at| u64::try_from((clock::now() - at) / 1_000_000).unwrap_or(0));
    SyncInfo {
        name: sync.name.clone(),
        on_exit: sync.on_exit,
        fields: sync.fields.iter().copied().filter_map(name_of).collect(),
        generation: sync.generation,
        records,
        last_good_run: sync.last_good_run.map(clock::rfc3339),
        age_seconds: age,
    }
}

/// The numbers of a collection over all shards, and how far each shard is. What syncs have is listed for each shard.
///
/// # Errors
/// `shard_unavailable` when a shard of it is not served here.
pub(crate) fn measure(
    node: &Node,
    catalog: &Catalog,
    collection: &Collection,
) -> Result<(CollectionStats, Vec<(ShardId, u64)>), ApiError> {
    let mut total = CollectionStats::default();
    let mut positions = Vec::new();
    for shard in catalog.shard_count().ok_or_else(revision::unavailable)?.all() {
        let reader = node.reader(shard).ok_or_else(revision::unavailable)?;
        positions.push((shard, reader.applied()));
        let stats = reader.stats(collection.id);
        total.records += stats.records;
        total.bytes += stats.bytes;
        total.table_bytes += stats.table_bytes;
        total.dictionary_bytes += stats.dictionary_bytes;
        total.batch_bytes += stats.batch_bytes;
        total.records_of.extend(stats.records_of);
    }
    Ok((total, positions))
}
