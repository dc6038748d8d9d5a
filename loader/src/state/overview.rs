//! What `status` asks of the history.

use larder_types::names::SyncName;
use rusqlite::OptionalExtension as _;

use super::StateError;
use super::database::Database;

impl Database {
    /// When the newest run of a sync ended that sent everything, RFC 3339.
    pub(crate) fn last_success(&self, sync: &SyncName) -> Result<Option<String>, StateError> {
        let query = "SELECT ended_at FROM runs WHERE sync = ?1 AND ended_at IS NOT NULL
            AND state IN ('succeeded', 'partial') ORDER BY rowid DESC LIMIT 1";
        self.with(|connection| connection.query_row(query, [sync.as_str()], |row| row.get(0)).optional())
    }
}
