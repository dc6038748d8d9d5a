//! The frame around everything that the catalog encodes: one byte that names the version of the form, then JSON.
//!
//! Invariant: one value has one encoded form, on every machine; so equal states have equal snapshots.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that this version cannot have written. The replica must stop: it would drift from the others if it went on.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// There are no bytes.
    #[error("the catalog's encoded form is empty")]
    Empty,
    /// The first byte names a version that this program does not know.
    #[error("the catalog's encoded form has version {found}, this program knows {known}: start a newer version")]
    Version {
        /// The version found.
        found: u8,
        /// The version known.
        known: u8,
    },
    /// The JSON is malformed, or has members that are unknown or missing.
    #[error("the catalog's encoded form cannot be read")]
    Json(#[source] serde_json::Error),
    /// The JSON can be read, but says more than this program understands of it.
    #[error("the catalog's encoded form holds members that this program does not know: start a newer version")]
    Form,
    /// A snapshot contradicts itself.
    #[error("the catalog's snapshot contradicts itself: {0}")]
    Contradiction(String),
}

/// Encodes a value behind a version byte.
#[allow(clippy::expect_used, reason = "only a type whose serialisation can fail, a programmer's error, comes here")]
pub(crate) fn encode(version: u8, value: &impl Serialize) -> Vec<u8> {
    let mut out = vec![version];
    serde_json::to_writer(&mut out, value).expect("the catalog's types are written to memory as JSON");
    out
}

/// Decodes what [`encode`] wrote with the same version.
pub(crate) fn decode<T: DeserializeOwned>(known: u8, bytes: &[u8]) -> Result<T, FormatError> {
    match bytes.split_first() {
        None => Err(FormatError::Empty),
        Some((&found, _)) if found != known => Err(FormatError::Version { found, known }),
        Some((_, json)) => serde_json::from_slice(json).map_err(FormatError::Json),
    }
}
