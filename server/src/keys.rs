//! API keys: make, list, revoke. Only hashes are kept; a key's text is in the one answer that makes it.

use hyper::http::request::Parts;
use larder_replication::catalog::{ApiKey, CatalogCommand, CatalogReply};
use larder_types::api::{CreateKey, CreatedKey, KeyInfo};
use larder_types::error::ErrorCode;

use crate::api_key::{NewKey, sha256_text};
use crate::auth::Need;
use crate::core::unexpected;
use crate::error::ApiError;
use crate::reply::{self, Response};
use crate::service::Call;
use crate::{body, clock, query};

/// `GET /v1/keys`.
pub(crate) fn list(call: &Call, head: &Parts) -> Result<Response, ApiError> {
    call.principal.require(Need::Admin)?;
    query::none(head.uri.query())?;
    let keys: Vec<_> = call.catalog.keys.values().map(|key| info(key)).collect();
    Ok(reply::json(200, &serde_json::json!({ "keys": keys })))
}

/// `POST /v1/keys`.
pub(crate) async fn create(call: Call, head: &Parts) -> Result<Response, ApiError> {
    call.principal.require(Need::Admin)?;
    query::none(head.uri.query())?;
    let wanted: CreateKey = body::json(&head.headers, call.body, call.core.limits()).await?;
    let made = NewKey::make().map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
    let key = ApiKey {
        id: made.id,
        sha256: sha256_text(&made.text),
        label: wanted.label,
        scopes: wanted.scopes,
        created_at: clock::now(),
    };
    let info = info(&key);
    match call.core.propose(CatalogCommand::CreateKey(key)).await? {
        CatalogReply::Done => Ok(reply::json(201, &CreatedKey { key: made.text, info })),
        other => Err(unexpected(&other)),
    }
}

/// `DELETE /v1/keys/{id}`.
pub(crate) async fn revoke(call: &Call, head: &Parts, id: &str) -> Result<Response, ApiError> {
    call.principal.require(Need::Admin)?;
    query::none(head.uri.query())?;
    match call.core.propose(CatalogCommand::RevokeKey { id: id.to_owned() }).await? {
        CatalogReply::Done => Ok(reply::empty(204)),
        other => Err(unexpected(&other)),
    }
}

fn info(key: &ApiKey) -> KeyInfo {
    KeyInfo {
        id: key.id.clone(),
        label: key.label.clone(),
        scopes: key.scopes.clone(),
        created_at: clock::rfc3339(key.created_at),
    }
}
