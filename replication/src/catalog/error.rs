//! Refusals: why a command changed nothing, the same on every replica.

use larder_types::error::ErrorCode;
use larder_types::ids::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Why a command was refused; the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CatalogError {
    /// The code for the caller.
    pub code: ErrorCode,
    /// What is wrong and what to do.
    pub message: String,
    /// Members for the error's `details`.
    pub details: serde_json::Value,
}

impl CatalogError {
    /// An error without details.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: json!({}) }
    }

    /// The same with members for `details`.
    pub(crate) fn with(mut self, details: serde_json::Value) -> Self {
        self.details = details;
        self
    }

    /// What a node hears that was removed.
    pub(crate) fn removed(node: NodeId) -> Self {
        let message =
            format!("node {node} was removed from the cluster: empty its data directory to join as a new node");
        Self::new(ErrorCode::Conflict, message)
    }

    /// Lists everything that is wrong with a definition, so that it can be mended at once.
    pub(crate) fn problems(problems: &[String]) -> Self {
        Self::new(ErrorCode::ValidationFailed, problems.join("; ")).with(json!({ "problems": problems }))
    }
}
