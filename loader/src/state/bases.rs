//! The tables of `diff: warehouse`: which results there are in the warehouse, and which of them each destination has
//! acknowledged.
//!
//! A result is entered before its tables are made and leaves when they are dropped, so none is forgotten there.

use larder_types::names::SyncName;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StateError;
use super::database::{Database, signed};
use crate::project::DestinationName;

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS planners (
    sync TEXT PRIMARY KEY,
    -- Part of the tables' names, so that two loaders on one warehouse do not take each other's.
    token TEXT NOT NULL,
    -- The number of the next result.
    next INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS results (
    sync TEXT NOT NULL,
    number INTEGER NOT NULL,
    -- The schema of its tables, as a JSON list of names.
    planner_schema TEXT NOT NULL,
    PRIMARY KEY (sync, number)
) STRICT;
CREATE TABLE IF NOT EXISTS bases (
    sync TEXT NOT NULL,
    destination TEXT NOT NULL,
    -- The result that the cluster has acknowledged, and its keys.
    number INTEGER NOT NULL,
    keys INTEGER NOT NULL,
    -- Of the mapping that its hashes were made by, in hexadecimal.
    fingerprint TEXT NOT NULL,
    collection TEXT NOT NULL,
    planner_schema TEXT NOT NULL,
    -- The key's columns, as a JSON list of names.
    key_columns TEXT NOT NULL,
    -- What stands between the parts of a key of several columns.
    separator TEXT NOT NULL,
    -- The ids of rows that were not acknowledged, as a JSON list.
    doubts TEXT NOT NULL,
    PRIMARY KEY (sync, destination)
) STRICT;
";

/// A result that a destination has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) number: u64,
    pub(crate) keys: u64,
    pub(crate) fingerprint: u128,
    pub(crate) collection: String,
    pub(crate) schema: Vec<String>,
    pub(crate) key_columns: Vec<String>,
    /// What stands between the parts of a key of several columns.
    pub(crate) separator: char,
    /// The ids of rows that were not acknowledged.
    pub(crate) doubts: Vec<u64>,
}

impl Database {
    /// Enters a new result of a sync; returns its number and what its tables' names hold beside the sync's.
    pub(crate) fn enter_result(&self, sync: &SyncName, schema: &[String]) -> Result<(u64, String), StateError> {
        let token = format!("{:08x}", crate::push::retry::random());
        self.transact(|transaction| {
            let insert = "INSERT INTO planners (sync, token, next) VALUES (?1, ?2, 2)
                ON CONFLICT (sync) DO UPDATE SET next = next + 1 RETURNING next - 1, token";
            let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?));
            let (number, token): (u64, String) = transaction.query_row(insert, params![sync.as_str(), token], read)?;
            let enter = "INSERT INTO results (sync, number, planner_schema) VALUES (?1, ?2, ?3)";
            transaction.execute(enter, params![sync.as_str(), signed(number), json(&schema)])?;
            Ok((number, token))
        })
    }

    /// What the names of a sync's tables hold beside its own; none if it never had any.
    pub(crate) fn planner_token(&self, sync: &SyncName) -> Result<Option<String>, StateError> {
        let query = "SELECT token FROM planners WHERE sync = ?1";
        self.with(|connection| connection.query_row(query, [sync.as_str()], |row| row.get(0)).optional())
    }

    /// Results that no destination has acknowledged, with their schemas.
    pub(crate) fn unused_results(&self, sync: &SyncName) -> Result<Vec<(u64, Vec<String>)>, StateError> {
        let query = "SELECT number, planner_schema FROM results AS r WHERE sync = ?1
            AND NOT EXISTS (SELECT 1 FROM bases AS b WHERE b.sync = r.sync AND b.number = r.number) ORDER BY number";
        self.with(|connection| {
            let mut statement = connection.prepare(query)?;
            let rows = statement.query_map([sync.as_str()], |row| {
                let schema: String = row.get(1)?;
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), from_json(&schema).unwrap_or_default()))
            })?;
            rows.collect()
        })
    }

    /// A result's tables are gone.
    pub(crate) fn forget_result(&self, sync: &SyncName, number: u64) -> Result<(), StateError> {
        let delete = "DELETE FROM results WHERE sync = ?1 AND number = ?2";
        self.with(|connection| connection.execute(delete, params![sync.as_str(), signed(number)]).map(drop))
    }

    /// Makes a snapshot, or nothing, all that is known of a destination, instead of a base.
    pub(crate) fn rebase(
        &self,
        sync: &SyncName,
        name: &DestinationName,
        snapshot: Option<u64>,
    ) -> Result<(), StateError> {
        let update = "UPDATE destinations SET snapshot = ?3 WHERE sync = ?1 AND destination = ?2";
        self.transact(|transaction| {
            transaction.execute(update, params![sync.as_str(), name.as_str(), snapshot.map(signed)])?;
            point(transaction, sync, name, None)
        })
    }

    /// What a destination has acknowledged in the warehouse. A row that makes no sense counts as none.
    pub(crate) fn base(&self, sync: &SyncName, name: &DestinationName) -> Result<Option<Base>, StateError> {
        let query = "SELECT number, keys, fingerprint, collection, planner_schema, key_columns, doubts, separator
            FROM bases
            WHERE sync = ?1 AND destination = ?2";
        let found =
            self.with(|connection| connection.query_row(query, [sync.as_str(), name.as_str()], read).optional())?;
        Ok(found.flatten())
    }
}

/// Makes a result the one that a destination has acknowledged, or says that it has acknowledged none.
pub(super) fn point(
    connection: &Connection,
    sync: &SyncName,
    name: &DestinationName,
    base: Option<&Base>,
) -> rusqlite::Result<()> {
    let Some(base) = base else {
        let delete = "DELETE FROM bases WHERE sync = ?1 AND destination = ?2";
        return connection.execute(delete, [sync.as_str(), name.as_str()]).map(drop);
    };
    let insert = "INSERT OR REPLACE INTO bases
        (sync, destination, number, keys, fingerprint, collection, planner_schema, key_columns, doubts, separator)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values = params![
        sync.as_str(),
        name.as_str(),
        signed(base.number),
        signed(base.keys),
        format!("{:032x}", base.fingerprint),
        base.collection,
        json(&base.schema),
        json(&base.key_columns),
        json(&base.doubts),
        base.separator.to_string(),
    ];
    connection.execute(insert, values).map(drop)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Option<Base>> {
    let number = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let text = |column: usize| row.get::<_, String>(column);
    let fingerprint = u128::from_str_radix(&text(2)?, 16).ok();
    let (schema, key_columns, doubts) = (from_json(&text(4)?), from_json(&text(5)?), from_json(&text(6)?));
    let separator = text(7)?.chars().next();
    let (Some(fingerprint), Some(schema), Some(key_columns), Some(doubts), Some(separator)) =
        (fingerprint, schema, key_columns, doubts, separator)
    else {
        return Ok(None);
    };
    let (number, keys, collection) = (number(0)?, number(1)?, text(3)?);
    Ok(Some(Base { number, keys, fingerprint, collection, schema, key_columns, separator, doubts }))
}

fn json(value: &impl Serialize) -> String {
    // Lists of texts and numbers always have one.
    serde_json::to_string(value).unwrap_or_default()
}

fn from_json<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}
