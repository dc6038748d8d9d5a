//! How the node is: what load balancers, operators and curious people ask.

use hyper::http::request::Parts;
use larder_replication::node::Readiness;
use larder_types::error::ErrorCode;
use serde_json::json;

use crate::core::Core;
use crate::error::ApiError;
use crate::query;
use crate::reply::{self, Response};

/// `GET /healthz`: the process answers.
pub(crate) fn health(head: &Parts) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    Ok(reply::json(200, &json!({"status": "alive"})))
}

/// `GET /readyz`: every shard that is placed here serves, and the node is not stopping.
pub(crate) fn ready(core: &Core, head: &Parts, draining: bool) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    if draining {
        return Err(ApiError::new(ErrorCode::Draining, "the node is stopping"));
    }
    let Readiness { knows_cluster, waiting } = core.node().readiness();
    if !knows_cluster {
        let message = "the node has not heard from its cluster yet";
        return Err(ApiError::new(ErrorCode::CollectionLoading, message));
    }
    if !waiting.is_empty() {
        let message = format!("the node does not serve {} of its shards yet", waiting.len());
        let details = json!({ "shards": waiting });
        return Err(ApiError::new(ErrorCode::CollectionLoading, message).with_details(details));
    }
    Ok(reply::json(200, &json!({"status": "ready"})))
}

/// `GET /version`.
pub(crate) fn version(head: &Parts) -> Result<Response, ApiError> {
    query::none(head.uri.query())?;
    Ok(reply::json(200, &json!({"name": "larder-server", "version": env!("CARGO_PKG_VERSION")})))
}
