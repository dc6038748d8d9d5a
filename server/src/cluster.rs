//! The cluster: what operators see of it and order.
//!
//! Orders say what is meant and are kept by the catalog; the cluster then brings itself there, whoever is asked and
//! whatever becomes of that node. So every order may be repeated.

use std::sync::Arc;

use hyper::http::request::Parts;
use larder_replication::catalog::{CatalogCommand, NodeState};
use larder_types::cluster::{Rebalance, TransferLeader};
use larder_types::error::ErrorCode;
use larder_types::ids::{NodeId, ShardId};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::auth::Need;
use crate::error::ApiError;
use crate::reply::{self, Response};
use crate::router::Order;
use crate::service::Call;
use crate::{body, query, revision};

/// `GET /v1/cluster`: the numbers of the node that is asked, and what it knows of all.
pub(crate) fn get(call: &Call, head: &Parts) -> Result<Response, ApiError> {
    call.principal.require(Need::Admin)?;
    query::none(head.uri.query())?;
    let mut members = members(&call.core.node().status())?;
    members.extend(self::members(&call.core.node().cluster())?);
    Ok(reply::json(200, &members))
}

fn members(of: &impl Serialize) -> Result<Map<String, Value>, ApiError> {
    match serde_json::to_value(of) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(ApiError::new(ErrorCode::Internal, "the cluster cannot be described")),
    }
}

/// `POST /v1/cluster/nodes/{n}/drain`, `…/resume`, `…/remove`: answers the node as it is then.
pub(crate) async fn order(call: &Call, head: &Parts, id: &str, order: Order) -> Result<Response, ApiError> {
    call.principal.require(Need::Admin)?;
    query::none(head.uri.query())?;
    let unknown = || ApiError::new(ErrorCode::NodeNotFound, "no node has this number; GET /v1/cluster lists them");
    let node = NodeId(id.parse().map_err(|_| unknown())?);
    if !call.catalog.map.nodes.contains_key(&node) {
        call.core.catch_up().await?;
        if !call.core.node().catalog().map.nodes.contains_key(&node) {
            return Err(unknown());
        }
    }
    let state = match order {
        Order::Drain => NodeState::Draining,
        Order::Resume => NodeState::Active,
        Order::Remove => NodeState::Leaving,
    };
    call.core.propose(CatalogCommand::SetNodeState { node, state }).await?;
    tracing::info!(%node, ?order, by = call.principal.id(), "an order for a node was taken");
    let cluster = call.core.node().cluster();
    Ok(reply::json(200, &cluster.node(node)))
}

/// `POST /v1/cluster/shards/{s}/transfer-leader`: answers when the leader was told.
pub(crate) async fn transfer_leader(call: Call, head: &Parts, shard: &str) -> Result<Response, ApiError> {
    call.principal.require(Need::Admin)?;
    query::none(head.uri.query())?;
    let shards = call.catalog.shard_count().ok_or_else(revision::unavailable)?;
    let shard = shard.parse().ok().filter(|shard| *shard < shards.get()).map(ShardId).ok_or_else(|| {
        let message = format!("shards have the numbers 0 to {}", shards.get() - 1);
        ApiError::new(ErrorCode::ShardNotFound, message)
    })?;
    let TransferLeader { to } = body::json(&head.headers, call.body, call.core.limits()).await?;
    let node = Arc::clone(call.core.node());
    call.core.run(async move { Ok(node.transfer_leader(shard, to).await?) }).await?;
    tracing::info!(%shard, %to, by = call.principal.id(), "a leader was told to let another one lead");
    Ok(reply::json(202, &serde_json::json!({ "shard": shard, "to": to })))
}

/// `POST /v1/cluster/rebalance`. The cluster balances itself, a step at a time: this says what it is at.
pub(crate) fn rebalance(call: &Call, head: &Parts) -> Result<Response, ApiError> {
    call.principal.require(Need::Admin)?;
    query::none(head.uri.query())?;
    let moves = call.core.node().cluster().moves;
    Ok(reply::json(200, &Rebalance { balanced: moves.is_empty(), moves }))
}
