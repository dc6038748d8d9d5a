//! Definitions that another node has made just now.
//!
//! Every node holds the definitions, and hears of changes a moment after they were acknowledged. A loader whose calls
//! reach several nodes must not be told that what it has just made is not there: so before a name is called unknown, the
//! definitions are brought up to date with whoever leads the catalog.

use std::sync::Arc;

use larder_replication::catalog::{Catalog, Collection, Sync};
use larder_replication::node::Node;

use crate::core::Core;
use crate::error::ApiError;
use crate::router::{Resource, RunPath, SyncPath};

/// Definitions that know what a resource names, or are newer than the request.
///
/// # Errors
/// `shard_unavailable` when they know it not and cannot be brought up to date now.
pub(crate) async fn definitions(
    core: &Core,
    known: Arc<Catalog>,
    resource: &Resource<'_>,
) -> Result<Arc<Catalog>, ApiError> {
    if known.map.nodes.len() < 2 || knows(core.node(), &known, resource) {
        return Ok(known);
    }
    core.catch_up().await?;
    Ok(core.node().catalog())
}

fn knows(node: &Node, catalog: &Catalog, resource: &Resource<'_>) -> bool {
    let sync = |path: &SyncPath<'_>| sync(catalog, path).is_some();
    let run = |path: &RunPath<'_>| run(node, catalog, path);
    match resource {
        Resource::Collection(name) => catalog.collections.contains_key(name.as_ref()),
        Resource::Sync(path) | Resource::Runs(path) => sync(path),
        Resource::Run(path) | Resource::Batch(path, _) | Resource::Commit(path) | Resource::Abort(path) => run(path),
        Resource::Requests(path) | Resource::Rejects(path) => run(path),
        Resource::Key(id) => catalog.keys.contains_key(id.as_ref()),
        Resource::Node(..) | Resource::Leader(_) | Resource::Cluster | Resource::Rebalance => true,
        Resource::Record(_) | Resource::Collections | Resource::Keys => true,
        Resource::Health | Resource::Ready | Resource::Version => true,
    }
}

fn sync<'c>(catalog: &'c Catalog, path: &SyncPath<'_>) -> Option<(&'c Collection, &'c Sync)> {
    let collection = catalog.collections.get(path.collection.as_ref())?;
    Some((collection, collection.syncs.get(path.sync.as_ref())?))
}

fn run(node: &Node, catalog: &Catalog, path: &RunPath<'_>) -> bool {
    sync(catalog, &path.sync).is_some_and(|(collection, sync)| {
        sync.open_run.as_ref().is_some_and(|open| open.run == path.run)
            || node.runs().get(collection.id, sync.slot, &path.run).is_some()
    })
}
