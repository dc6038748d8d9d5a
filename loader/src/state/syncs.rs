//! The table of syncs: the secret with which each hashes its keys and rows.
//!
//! One secret for all destinations of a sync, so that rows which are read and hashed once can be compared with what
//! each of them has acknowledged.

use larder_types::names::SyncName;
use rusqlite::{OptionalExtension as _, params};

use super::StateError;
use super::database::Database;
use crate::diff::hash::{HashSecret, SECRET_BYTES};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS syncs (
    name TEXT PRIMARY KEY,
    -- What keys and rows are hashed with; null until the sync is run or planned.
    secret BLOB
) STRICT;
";

impl Database {
    /// The secret of a sync, if it has one.
    pub(crate) fn secret(&self, sync: &SyncName) -> Result<Option<HashSecret>, StateError> {
        let query = "SELECT secret FROM syncs WHERE name = ?1";
        let bytes: Option<Option<Vec<u8>>> =
            self.with(|connection| connection.query_row(query, [sync.as_str()], |row| row.get(0)).optional())?;
        let bytes = bytes.flatten().and_then(|bytes| <[u8; SECRET_BYTES]>::try_from(bytes).ok());
        Ok(bytes.map(HashSecret::from_bytes))
    }

    /// Gives a sync a secret.
    pub(crate) fn set_secret(&self, sync: &SyncName, secret: &HashSecret) -> Result<(), StateError> {
        let insert = "INSERT INTO syncs (name, secret) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET secret = ?2";
        self.with(|connection| connection.execute(insert, params![sync.as_str(), secret.as_bytes()]).map(drop))
    }
}
