//! Forgetting: what the history keeps no longer, taken out after a run.

use jiff::Timestamp;
use rusqlite::params;

use super::StateError;
use super::database::Database;
use crate::project::log::Retention;

impl Database {
    /// Forgets what is older than a project wants to keep. The newest run of each sync stays, and so does one that has a
    /// delivery under way.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub(crate) fn forget(&self, retention: &Retention, now: Timestamp) -> Result<(), StateError> {
        let before = |span| now.checked_sub(span).unwrap_or(Timestamp::MIN);
        let text = |at: Timestamp| {
            let mut text = String::new();
            larder_types::time::write_timestamp(at.as_microsecond(), &mut text);
            text
        };
        let runs = "DELETE FROM runs WHERE started_at < ?1
            AND rowid NOT IN (SELECT max(rowid) FROM runs GROUP BY sync)
            AND NOT EXISTS (SELECT 1 FROM deliveries WHERE run = id AND deliveries.state = 'running')";
        let rejected = "DELETE FROM rejected_rows WHERE run IN (SELECT id FROM runs WHERE started_at < ?1)";
        self.transact(|transaction| {
            transaction.execute(runs, params![text(before(retention.runs))])?;
            transaction.execute(rejected, params![text(before(retention.rejected_rows))]).map(drop)
        })?;
        self.forget_requests(before(retention.requests).as_microsecond(), retention.requests_bytes)
    }
}
