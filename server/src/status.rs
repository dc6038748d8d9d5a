//! How the node is: what load balancers, operators and curious people ask.

use hyper::http::request::Parts;
use larder_types::error::ErrorCode;
use serde_json::json;

use crate::auth::Need;
use crate::core::Core;
use crate::error::ApiError;
use crate::query;
use crate::reply::{self, Response};
use crate::service::Call;

/// `GET /healthz`: the process answers.
pub(crate) fn health(head: &Parts) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    Ok(reply::json(200, &json!({"status": "alive"})))
}

/// `GET /readyz`: every shard serves here, and the node is not stopping.
pub(crate) fn ready(core: &Core, head: &Parts, draining: bool) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    if draining {
        return Err(ApiError::new(ErrorCode::Draining, "the node is stopping"));
    }
    let shards = core.catalog().load().shard_count();
    let served = shards.is_some_and(|shards| shards.all().all(|shard| core.node().reader(shard).is_some()));
    if served {
        Ok(reply::json(200, &json!({"status": "ready"})))
    } else {
        Err(ApiError::new(ErrorCode::CollectionLoading, "the node does not serve all its shards yet"))
    }
}

/// `GET /version`.
pub(crate) fn version(head: &Parts) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    Ok(reply::json(200, &json!({"name": "larder-server", "version": env!("CARGO_PKG_VERSION")})))
}

/// `GET /v1/cluster`.
pub(crate) fn cluster(call: &Call, head: &Parts) -> Result<Response, ApiError> {
    call.principal.require(Need::Admin)?;
    query::none(head.uri.query())?;
    Ok(reply::json(200, &call.core.node().status()))
}
