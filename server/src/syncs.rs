//! Syncs: declare and forget.

use std::sync::Arc;

use hyper::http::request::Parts;
use larder_replication::catalog::{CatalogCommand, CatalogReply, Collection, Sync};
use larder_types::api::{FieldSpec, PutSync};
use larder_types::error::ErrorCode;
use larder_types::names::{FieldName, SyncName};
use serde::Deserialize as _;

use crate::auth::Need;
use crate::collections::describe_sync;
use crate::core::{carry_out, unexpected};
use crate::error::ApiError;
use crate::lookup::find_collection;
use crate::reply::{self, Response};
use crate::router::SyncPath;
use crate::service::Call;
use crate::{body, query};

/// `PUT /v1/collections/{c}/syncs/{sync}`.
pub(crate) async fn put(call: Call, head: &Parts, path: &SyncPath<'_>) -> Result<Response, ApiError> {
    call.principal.require(Need::Write(&path.collection))?;
    query::none(head.uri.query())?;
    let collection = find_collection(&call.catalog, &path.collection)?.name.clone();
    let name = SyncName::new(&path.sync).map_err(|e| ApiError::invalid(e.to_string()))?;
    let bytes = body::json_bytes(&head.headers, call.body, call.core.limits()).await?;
    let wanted: PutSync = serde_json::from_slice(&bytes).map_err(|error| explain(&bytes, &error))?;
    let command = CatalogCommand::PutSync {
        collection: collection.clone(),
        name: name.clone(),
        fields: wanted.fields,
        on_exit: wanted.on_exit,
    };
    let created = match call.core.propose(command).await? {
        CatalogReply::Put { created } => created,
        other => return Err(unexpected(&other)),
    };
    let catalog = call.core.node().catalog();
    let collection = find_collection(&catalog, collection.as_str())?;
    let sync = find_sync(collection, name.as_str())?;
    let info = describe_sync(&call.core, &catalog, collection, sync).await?;
    Ok(reply::json(if created { 201 } else { 200 }, &info))
}

/// `DELETE /v1/collections/{c}/syncs/{sync}`.
pub(crate) async fn delete(call: &Call, head: &Parts, path: &SyncPath<'_>) -> Result<Response, ApiError> {
    call.principal.require(Need::Write(&path.collection))?;
    query::none(head.uri.query())?;
    let collection = find_collection(&call.catalog, &path.collection)?;
    let name = find_sync(collection, &path.sync)?.name.clone();
    let command = CatalogCommand::DropSync { collection: collection.name.clone(), name };
    let node = Arc::clone(call.core.node());
    let drop = async move {
        match node.propose_catalog(command).await? {
            CatalogReply::Intent(intent) => carry_out(&node, intent).await,
            other => Err(unexpected(&other)),
        }
    };
    call.core.run(drop).await?;
    Ok(reply::empty(204))
}

/// The sync with this name.
///
/// # Errors
/// `sync_not_found`.
pub(crate) fn find_sync<'c>(collection: &'c Collection, name: &str) -> Result<&'c Arc<Sync>, ApiError> {
    collection.syncs.get(name).ok_or_else(|| {
        let message = format!("the collection `{}` has no sync of this name; PUT it first", collection.name);
        ApiError::new(ErrorCode::SyncNotFound, message)
    })
}

/// Why a body is no declaration: field by field, because the parser says only that no form fits.
fn explain(bytes: &[u8], error: &serde_json::Error) -> ApiError {
    let body: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let fields = body["fields"].as_array().map_or(&[][..], Vec::as_slice);
    let problems: Vec<String> = fields
        .iter()
        .enumerate()
        .filter_map(|(at, field)| Some(format!("fields[{at}]: {}", problem_of(field)?)))
        .collect();
    if problems.is_empty() {
        return ApiError::invalid(format!("the body is no declaration of a sync: {error}"));
    }
    ApiError::new(ErrorCode::ValidationFailed, problems.join("; "))
        .with_details(serde_json::json!({ "problems": problems }))
}

fn problem_of(field: &serde_json::Value) -> Option<String> {
    let name = match field {
        serde_json::Value::String(name) => name,
        serde_json::Value::Object(_) if FieldSpec::deserialize(field).is_ok() => return None,
        serde_json::Value::Object(members) => match members.get("name") {
            Some(serde_json::Value::String(name)) => name,
            _ => return Some("`name` is missing or no text".to_owned()),
        },
        _ => return Some("must be a name, or an object with `name` and `type`".to_owned()),
    };
    match FieldName::new(name) {
        Err(error) => Some(error.to_string()),
        Ok(_) if field.is_object() => {
            let kinds = larder_types::value::ValueType::ALL.map(|kind| kind.as_str()).join(", ");
            Some(format!("`type` must be one of {kinds}, and no other members are known"))
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(body: &str) -> ApiError {
        explain(body.as_bytes(), &serde_json::from_str::<PutSync>(body).unwrap_err())
    }

    #[test]
    fn every_bad_field_is_named() {
        let body = r#"{"fields":["ok","",{"name":"n","type":"number"},7,{"type":"int"},{"name":"m","type":"int"}]}"#;
        let error = explained(body);
        assert_eq!(error.code, ErrorCode::ValidationFailed);
        for part in
            ["fields[1]: a field name must not be empty", "fields[2]: `type`", "fields[3]:", "fields[4]: `name`"]
        {
            assert!(error.message().contains(part), "no {part} in {}", error.message());
        }
        assert!(!error.message().contains("fields[0]") && !error.message().contains("fields[5]"));
    }

    #[test]
    fn what_is_no_declaration_is_invalid() {
        for body in ["{", "[]", r#"{"fields":["a"],"onexit":"clear"}"#, r#"{"fields":["a"],"on_exit":"drop"}"#, "{}"] {
            assert_eq!(explained(body).code, ErrorCode::InvalidRequest, "{body}");
        }
    }
}
