//! Patches: one change to one record.

use serde::{Deserialize, Serialize};

use crate::ids::FieldId;
use crate::key::Key;
use crate::value::Value;

/// One change to one record, with its fields already resolved to ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// The record's primary key.
    pub key: Key,
    /// What happens to it.
    pub change: Change,
}

/// What a patch does. All three are idempotent.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Sets these fields, creating the record if need be; the sync's other fields stay as they are. A field without a
    /// value is taken out of the record.
    Upsert(Vec<(FieldId, Option<Value>)>),
    /// Clears every field of the patch's sync; fields of other syncs stay, and so does the record.
    Clear,
    /// Deletes the whole record, fields of other syncs included.
    Delete,
}

/// The word for a [`Change`] in batch bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// See [`Change::Upsert`].
    #[default]
    Upsert,
    /// See [`Change::Clear`].
    Clear,
    /// See [`Change::Delete`].
    Delete,
}

impl Op {
    /// The word itself.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Clear => "clear",
            Self::Delete => "delete",
        }
    }

    /// The operation with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Upsert, Self::Clear, Self::Delete].into_iter().find(|op| op.as_str() == word)
    }
}

/// What a null does to its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nulls {
    /// The field is null.
    #[default]
    Write,
    /// The field stays as it is.
    Skip,
    /// The field is taken out of the record.
    Clear,
}

impl Nulls {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Write, Self::Skip, Self::Clear];

    /// The word used in batches and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Skip => "skip",
            Self::Clear => "clear",
        }
    }

    /// What has this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|nulls| nulls.as_str() == word)
    }
}

/// What happens to the records of rows that have left a sync's query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitMode {
    /// Nothing: the record keeps the fields as last written.
    #[default]
    Keep,
    /// The sync's fields are cleared, other syncs' fields stay.
    Clear,
    /// The whole record is deleted.
    Delete,
}

impl ExitMode {
    /// The name used in requests and configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Clear => "clear",
            Self::Delete => "delete",
        }
    }
}
