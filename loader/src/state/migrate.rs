//! From format 1, which knew one destination and called it nothing, to format 2: its state becomes that of destination
//! `main`.
//!
//! The tables change in the one transaction that opens the database. The files, which format 1 kept in the folder of the
//! sync, move into that of the destination when the sync is next held ([`move_files`]): one by one, and a crash in
//! between leaves some for the next time. Nothing reads them before.

use std::fs;
use std::io;
use std::path::Path;

use super::destination::is_state_file;
use crate::diff::snapshot::sync_folder;

/// Makes room for the tables of format 2, which have the names of those of format 1.
pub(super) const SET_ASIDE: &str = "
DROP INDEX runs_of_sync;
DROP INDEX rejected_rows_of_run;
ALTER TABLE syncs RENAME TO old_syncs;
ALTER TABLE runs RENAME TO old_runs;
ALTER TABLE rejected_rows RENAME TO old_rejected_rows;
";

/// Fills them.
pub(super) const TAKE_OVER: &str = "
INSERT INTO syncs (name) SELECT name FROM old_syncs;
INSERT INTO destinations (sync, destination, snapshot, generation, distrust)
    SELECT name, 'main', snapshot, generation, distrust FROM old_syncs;
INSERT INTO runs (id, sync, kind, cause, state, reason, error, started_at, ended_at, read)
    SELECT id, sync, kind, 'cli', state, reason, error, started_at, ended_at, read FROM old_runs ORDER BY rowid;
INSERT INTO deliveries (run, destination, state, reason, error, generation, added, changed, removed, unchanged, rejected,
        sent, acknowledged, batches, bytes)
    SELECT id, 'main', state, reason, error, generation, added, changed, removed, unchanged, rejected,
        sent, acknowledged, batches, bytes FROM old_runs ORDER BY rowid;
INSERT INTO rejected_rows (run, destination, key, row, field, code, message)
    SELECT run, 'main', key, row, field, code, message FROM old_rejected_rows ORDER BY rowid;
DROP TABLE old_rejected_rows;
DROP TABLE old_runs;
DROP TABLE old_syncs;
";

/// Moves what format 1 kept in the folder of a sync to where its destination's state belongs.
pub(super) fn move_files(sync: &Path, destination: &Path) -> io::Result<()> {
    let mut moved = false;
    for entry in fs::read_dir(sync)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(is_state_file) && entry.file_type()?.is_file() {
            fs::create_dir_all(destination)?;
            fs::rename(entry.path(), destination.join(name))?;
            moved = true;
        }
    }
    if moved {
        // Both ends, so that a power cut does not bring the old names back once the new ones are relied on.
        sync_folder(&destination.join("any"))?;
        sync_folder(destination)?;
    }
    Ok(())
}
