//! State of format 1, which knew one destination, is taken over.

use std::fs;
use std::sync::{Arc, Mutex};

use super::crashes::copy;
use super::*;

/// The tables of format 1, filled from those of format 2.
const DOWNGRADE: &str = "
PRAGMA foreign_keys = OFF;
ALTER TABLE syncs RENAME TO new_syncs;
ALTER TABLE runs RENAME TO new_runs;
ALTER TABLE rejected_rows RENAME TO new_rejected_rows;
DROP INDEX runs_of_sync;
DROP INDEX rejected_rows_of_run;
CREATE TABLE syncs (name TEXT PRIMARY KEY, snapshot INTEGER, generation INTEGER NOT NULL DEFAULT 0, distrust TEXT) STRICT;
CREATE TABLE runs (
    id TEXT PRIMARY KEY, sync TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, reason TEXT, error TEXT,
    started_at TEXT NOT NULL, ended_at TEXT, generation INTEGER, read INTEGER NOT NULL DEFAULT 0,
    added INTEGER NOT NULL DEFAULT 0, changed INTEGER NOT NULL DEFAULT 0, removed INTEGER NOT NULL DEFAULT 0,
    unchanged INTEGER NOT NULL DEFAULT 0, rejected INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 0,
    acknowledged INTEGER NOT NULL DEFAULT 0, batches INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX runs_of_sync ON runs (sync);
CREATE TABLE rejected_rows (
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, key TEXT, row INTEGER, field TEXT, code TEXT NOT NULL,
    message TEXT NOT NULL
) STRICT;
CREATE INDEX rejected_rows_of_run ON rejected_rows (run);
INSERT INTO syncs SELECT sync, snapshot, generation, distrust FROM destinations;
INSERT INTO runs SELECT id, sync, kind, r.state, r.reason, r.error, started_at, ended_at, generation, read, added, changed,
    removed, unchanged, rejected, sent, acknowledged, batches, bytes
    FROM new_runs r JOIN deliveries ON run = id ORDER BY r.rowid;
INSERT INTO rejected_rows SELECT run, key, row, field, code, message FROM new_rejected_rows ORDER BY rowid;
DROP TABLE new_rejected_rows;
DROP TABLE deliveries;
DROP TABLE new_runs;
DROP TABLE new_syncs;
DROP TABLE destinations;
PRAGMA user_version = 1;
";

/// Makes state as format 1 would have left it.
fn downgrade(state: &Path) {
    let database = Connection::open(state.join("state.db")).unwrap();
    let others: Vec<String> = database
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
                AND name NOT IN ('syncs', 'destinations', 'runs', 'deliveries', 'rejected_rows')",
        )
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    database.execute_batch(DOWNGRADE).unwrap();
    others.iter().for_each(|name| database.execute_batch(&format!("DROP TABLE {name}")).unwrap());
    for entry in fs::read_dir(state.join("s/main")).unwrap() {
        let path = entry.unwrap().path();
        fs::rename(&path, state.join("s").join(path.file_name().unwrap())).unwrap();
    }
    fs::remove_dir(state.join("s/main")).unwrap();
}

#[test]
fn what_an_earlier_format_knew_is_known() {
    let world = world(ExitMode::Delete);
    world.write(&rows(0..10));
    world.cluster.decide(|_| Fate::Reject(vec!["k2".into()]));
    world.run();
    world.cluster.decide(|_| Fate::Apply);
    let before = history(&world.project, None, 9).unwrap();
    downgrade(&world.project.state_dir);

    assert_eq!(history(&world.project, None, 9).unwrap(), before);
    assert_eq!(rejected(&world.project, &before[0].id).unwrap()[0].rejection.key.as_deref(), Some("k2"));
    let report = world.run();
    assert_eq!((counts(&report), report.sent, report.resend), ([1, 0, 0, 9], 1, None));
    assert_eq!(world.cluster.records(), expected(&rows(0..10)));
    world.state_file();
}

/// A first run and a later one are cut off in the middle by a loader of format 1; the next one goes on, wherever the
/// taking over itself is cut off.
#[test]
fn a_run_of_an_earlier_format_that_was_cut_off_is_taken_up() {
    for is_first in [true, false] {
        let world = world(ExitMode::Delete);
        world.write(&rows(0..12));
        if !is_first {
            world.run();
            world.write(&rows(3..20));
        }
        let moments: Arc<Mutex<Vec<TempDir>>> = Arc::default();
        let (watching, state_dir) = (Arc::clone(&moments), world.project.state_dir.clone());
        world.cluster.decide(move |_| {
            watching.lock().unwrap().push(copy(&state_dir));
            Fate::Apply
        });
        world.run();
        world.cluster.decide(|_| Fate::Apply);
        let all = world.cluster.records();
        for moved in [None, Some("journal"), Some("snapshot-1")] {
            let state = copy(moments.lock().unwrap()[2].path());
            downgrade(state.path());
            if let Some(name) = moved.filter(|name| state.path().join("s").join(name).exists()) {
                drop(State::open(state.path()).unwrap());
                fs::create_dir(state.path().join("s/main")).unwrap();
                fs::rename(state.path().join("s").join(name), state.path().join("s/main").join(name)).unwrap();
            }
            let project = project(world.dir.path(), state.path(), &world.cluster.url, ExitMode::Delete);
            let report = run_tuned(&project, &sync_name(), &RunOptions::default(), quiet(), world.tuning).unwrap();
            assert!(report.notes[0].contains("was cut off after"), "{:?}", report.notes);
            assert_eq!(world.cluster.records(), all);
            let again = run_tuned(&project, &sync_name(), &RunOptions::default(), quiet(), world.tuning).unwrap();
            assert_eq!(again.sent, 0);
        }
    }
}
