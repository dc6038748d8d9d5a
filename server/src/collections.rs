//! Collections: make, describe, list, drop.

use std::sync::Arc;

use hyper::http::request::Parts;
use larder_replication::catalog::{Catalog, CatalogCommand, CatalogReply, Collection, Sync};
use larder_storage::shard::CollectionStats;
use larder_types::api::{CollectionInfo, CollectionUsage, FieldInfo, IndexInfo, PutCollection, SyncInfo};
use larder_types::names::CollectionName;

use crate::auth::Need;
use crate::core::{Core, carry_out, unexpected};
use crate::error::ApiError;
use crate::lookup::find_collection;
use crate::numbers::measure;
use crate::reply::{self, Response};
use crate::service::Call;
use crate::{body, clock, query, revision};

/// `GET /v1/collections`: those that the key may see.
pub(crate) async fn list(call: &Call, head: &Parts) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    let visible = call.catalog.collections.values().filter(|c| call.principal.may(Need::Describe(c.name.as_str())));
    let visible: Vec<_> = visible.map(Arc::clone).collect();
    let infos = describe(&call.core, &call.catalog, visible).await?;
    Ok(reply::json(200, &serde_json::json!({ "collections": infos })))
}

/// `GET /v1/collections/{c}`.
pub(crate) async fn get(call: &Call, head: &Parts, name: &str) -> Result<Response, ApiError> {
    call.principal.require(Need::Describe(name))?;
    query::none(head.uri.query())?;
    let collection = find_collection(&call.catalog, name)?;
    Ok(reply::json(200, &describe_one(&call.core, &call.catalog, collection).await?))
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
    let info = describe_one(&call.core, &catalog, collection).await?;
    Ok(reply::json(if created { 201 } else { 200 }, &info))
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

/// Collections as they are now.
///
/// # Errors
/// See [`measure`].
async fn describe(
    core: &Core,
    catalog: &Arc<Catalog>,
    collections: Vec<Arc<Collection>>,
) -> Result<Vec<CollectionInfo>, ApiError> {
    let (node, catalog) = (Arc::clone(core.node()), Arc::clone(catalog));
    // Thousands of looks at shards, if there are many of both: not on a core that serves lookups.
    core.run(async move {
        let numbers = measure(&node, &catalog, collections.iter().map(|collection| collection.id).collect()).await?;
        let revision = numbers.revision.to_string();
        Ok(collections.iter().zip(&numbers.of).map(|(collection, stats)| info(collection, stats, &revision)).collect())
    })
    .await
}

async fn describe_one(
    core: &Core,
    catalog: &Arc<Catalog>,
    collection: &Arc<Collection>,
) -> Result<CollectionInfo, ApiError> {
    let infos = describe(core, catalog, vec![Arc::clone(collection)]).await?;
    infos.into_iter().next().ok_or_else(revision::unavailable)
}

fn info(collection: &Collection, stats: &CollectionStats, revision: &str) -> CollectionInfo {
    let owner = |slot| collection.sync_in(slot).map(|sync| sync.name.clone());
    let fields = collection
        .fields
        .iter()
        .filter_map(|field| Some(FieldInfo { name: field.name.clone(), kind: field.kind, sync: owner(field.owner)? }));
    CollectionInfo {
        name: collection.name.clone(),
        indexes: vec![IndexInfo { name: collection.primary_index.clone(), primary: true }],
        fields: fields.collect(),
        syncs: collection.syncs.values().map(|sync| sync_info(collection, sync, stats)).collect(),
        records: stats.records,
        bytes: stats.bytes,
        usage: CollectionUsage {
            record_bytes: stats.content_bytes(),
            index_bytes: stats.table_bytes,
            dictionary_bytes: stats.dictionary_bytes,
            batch_bytes: stats.batch_bytes,
        },
        revision: revision.to_owned(),
    }
}

/// One sync as it is now.
///
/// # Errors
/// See [`measure`].
pub(crate) async fn describe_sync(
    core: &Core,
    catalog: &Arc<Catalog>,
    collection: &Arc<Collection>,
    sync: &Arc<Sync>,
) -> Result<SyncInfo, ApiError> {
    let (node, catalog) = (Arc::clone(core.node()), Arc::clone(catalog));
    let (collection, sync) = (Arc::clone(collection), Arc::clone(sync));
    core.run(async move {
        let numbers = measure(&node, &catalog, vec![collection.id]).await?;
        let stats = numbers.of.first().ok_or_else(revision::unavailable)?;
        Ok(sync_info(&collection, &sync, stats))
    })
    .await
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
