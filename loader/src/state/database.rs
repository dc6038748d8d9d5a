//! The database: what is known of syncs, destinations and runs, in SQLite, because people want to look into it with
//! their own tools.
//!
//! Each group of tables has a file of its own, which holds their `CREATE` statements and every statement that touches
//! them. Written at the seams of a run only (begin, planned, opened, end), never per batch. One connection, used by one
//! thread at a time.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{
    StateError, alerts, bases, cursors, destinations, holds, leases, migrate, rejected, requests, runs, schedule, syncs,
};

const VERSION: i64 = 2;
/// How long to wait for another loader that is writing.
const BUSY: Duration = Duration::from_secs(10);

/// The statements that make the tables, where they are not there.
const GROUPS: &[&str] = &[
    syncs::SCHEMA,
    destinations::SCHEMA,
    runs::SCHEMA,
    rejected::SCHEMA,
    requests::SCHEMA,
    holds::SCHEMA,
    leases::SCHEMA,
    schedule::SCHEMA,
    alerts::SCHEMA,
    cursors::SCHEMA,
    bases::SCHEMA,
];

/// The open database.
pub(crate) struct Database {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Database {
    /// Opens the database, making it if need be, and bringing one of an earlier format up to date.
    ///
    /// # Errors
    /// When it cannot be opened or is of a newer format.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Database { path: path.to_path_buf(), source };
        let mut connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        // Files are deleted on the word of this database, so its commits must be durable.
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if version > VERSION {
            return Err(StateError::Version { path: path.to_path_buf(), found: version });
        }
        if version == 1 {
            transaction.execute_batch(migrate::SET_ASIDE).map_err(failed)?;
        }
        GROUPS.iter().try_for_each(|schema| transaction.execute_batch(schema)).map_err(failed)?;
        if version == 1 {
            transaction.execute_batch(migrate::TAKE_OVER).map_err(failed)?;
        }
        transaction.pragma_update(None, "user_version", VERSION).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(Self { path: path.to_path_buf(), connection: Mutex::new(connection) })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads, or writes with one statement.
    pub(super) fn with<T>(&self, action: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StateError> {
        // A thread that died here has rolled its transaction back, so the connection is as good as before.
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        action(&connection).map_err(|source| StateError::Database { path: self.path.clone(), source })
    }

    /// Writes with several statements, all of which count or none.
    pub(super) fn transact<T>(
        &self,
        action: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        self.with(|connection| {
            // Nobody else has the connection, so no transaction is open on it.
            let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            let result = action(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }
}

/// SQLite's integers are signed; no count comes near the top half.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
