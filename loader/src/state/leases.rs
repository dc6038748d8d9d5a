//! Leases: which loader may run a sync.
//!
//! A lease belongs to a process, is kept alive by a heartbeat, and has a *fence*, a number that grows with every lease of
//! the sync: whoever was overtaken finds a higher one than its own. A lease is over when it was given back, when its
//! time has passed, or when its holder is known to be dead.
//!
//! What is guaranteed, and by what:
//! - Loaders on one machine, also in containers that share the folder: the lock file of each process says at once
//!   whether it lives, and the lock file of each sync ([`super::State::hold`]) keeps a second run out whatever the
//!   clocks say. The lease tells who runs what, and hands over what a dead loader has left.
//! - A folder that moves to another machine: the lease of the machine that is gone ends with its time, 60 seconds. That
//!   holds as long as the clocks of the two differ by less than that.
//! - SQLite's write-ahead log does not work across machines, so two machines must not *use* one folder at a time, lease
//!   or not. If it happens, the generations of the cluster let the newer run go on and refuse the older.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use larder_types::names::SyncName;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::database::Database;
use super::{State, StateError};
use crate::cancel::{Cancel, Why};
use crate::schedule::book::LeaseSeen;
use crate::schedule::timetable::later;

/// How long a lease lasts beyond its last heartbeat.
pub(crate) const LASTS: Duration = Duration::from_secs(60);
/// The time between heartbeats: several may be late before a lease ends.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

const FOLDER: &str = "loaders";

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS leases (
    sync TEXT PRIMARY KEY,
    -- The process that holds the sync; null if none does.
    holder TEXT,
    -- Grows with every lease of the sync.
    fence INTEGER NOT NULL,
    -- When it ends unless it is renewed: microseconds since 1970, by the clock of its holder.
    expires_at INTEGER NOT NULL
) STRICT;
";

/// A process that may hold leases. As long as it lives, its lock file is locked.
pub(crate) struct Holder {
    id: String,
    folder: PathBuf,
    _lock: File,
}

impl Holder {
    /// Enters this process into the state folder.
    ///
    /// # Errors
    /// When its lock file cannot be made.
    pub(crate) fn enter(state: &State) -> Result<Self, StateError> {
        let folder = state.dir().join(FOLDER);
        let failed = |source| StateError::Io { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        let id = format!("{}.{}.{:016x}", place(), std::process::id(), crate::push::retry::random());
        // Made under another name and locked before anybody looks for it.
        let (draft, path) = (folder.join(format!(".{id}")), folder.join(&id));
        let lock = OpenOptions::new().create_new(true).write(true).open(&draft).map_err(failed)?;
        lock.lock().map_err(failed)?;
        fs::rename(&draft, &path).map_err(failed)?;
        Ok(Self { id, folder, _lock: lock })
    }

    /// Whether the holder of a lease is known to be dead. Only one of this machine can be known to be.
    fn is_dead(&self, holder: &str) -> bool {
        let here = place();
        if holder == self.id || here.is_empty() || holder.split('.').next() != Some(here.as_str()) {
            return false;
        }
        let path = self.folder.join(holder);
        match File::open(&path) {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(file) => {
                let is_dead = file.try_lock().is_ok();
                if is_dead {
                    // Nobody else needs to find out. If it cannot be removed it is only untidy.
                    drop(fs::remove_file(&path));
                }
                is_dead
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // What is left behind is swept by whoever finds it unlocked.
        drop(fs::remove_file(self.folder.join(&self.id)));
    }
}

/// The machine since it was started, as far as locks reach: containers on one kernel see each other's. Empty if that is
/// not known.
fn place() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// What is found of the lease on a sync.
pub(super) fn look(
    connection: &Connection,
    sync: &SyncName,
    holder: &Holder,
    now: Timestamp,
) -> rusqlite::Result<LeaseSeen> {
    let query = "SELECT fence, holder, expires_at FROM leases WHERE sync = ?1";
    let read =
        |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?, row.get::<_, i64>(2)?));
    let Some((fence, other, expires_at)) = connection.query_row(query, [sync.as_str()], read).optional()? else {
        return Ok(LeaseSeen::default());
    };
    let is_live = other.is_some_and(|other| expires_at > now.as_microsecond() && !holder.is_dead(&other));
    Ok(LeaseSeen { fence, is_live })
}

/// Writes a new lease on a sync that was found free, within the same transaction.
pub(super) fn take(
    connection: &Connection,
    sync: &SyncName,
    holder: &Holder,
    fence: i64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let insert = "INSERT INTO leases (sync, holder, fence, expires_at) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (sync) DO UPDATE SET holder = ?2, fence = ?3, expires_at = ?4";
    let expires = later(now, LASTS).as_microsecond();
    connection.execute(insert, params![sync.as_str(), holder.id, fence, expires]).map(drop)
}

/// Gives a lease back. Nothing happens if it is another's by now.
pub(super) fn release(connection: &Connection, sync: &SyncName, fence: i64) -> rusqlite::Result<()> {
    let update = "UPDATE leases SET holder = NULL WHERE sync = ?1 AND fence = ?2";
    connection.execute(update, params![sync.as_str(), fence]).map(drop)
}

impl Database {
    /// Renews a lease; also one whose time has passed, if nobody has taken it. False if somebody has.
    pub(crate) fn renew(
        &self,
        sync: &SyncName,
        holder: &Holder,
        fence: i64,
        now: Timestamp,
    ) -> Result<bool, StateError> {
        let update = "UPDATE leases SET expires_at = ?4 WHERE sync = ?1 AND holder = ?2 AND fence = ?3";
        let expires = later(now, LASTS).as_microsecond();
        self.with(|connection| connection.execute(update, params![sync.as_str(), holder.id, fence, expires]))
            .map(|changed| changed == 1)
    }
}

/// A lease of a command, kept alive by a thread of its own until it is dropped.
pub(crate) struct Lease {
    stop: Option<Sender<()>>,
    heart: Option<JoinHandle<()>>,
    /// Cancelled if the lease is lost.
    lost: Cancel,
}

impl Lease {
    /// Takes the lease on a sync, if it is free.
    ///
    /// # Errors
    /// [`StateError::Locked`] if another loader has it; otherwise what failed.
    pub(crate) fn take(state: &State, sync: &SyncName) -> Result<Self, StateError> {
        let holder = Holder::enter(state)?;
        let now = Timestamp::now();
        let fence = state.database.transact(|transaction| {
            let seen = look(transaction, sync, &holder, now)?;
            if seen.is_live {
                return Ok(None);
            }
            take(transaction, sync, &holder, seen.fence + 1, now)?;
            Ok(Some(seen.fence + 1))
        })?;
        let fence = fence.ok_or_else(|| StateError::Locked(sync.clone()))?;
        // The heart has a connection of its own, as it must beat while the run writes.
        let database = State::open(state.dir())?.database;
        let (stop, stopped) = channel();
        let lost = Cancel::default();
        let beat = Heart { database, holder: Arc::new(holder), sync: sync.clone(), fence, lost: lost.clone() };
        let heart = std::thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || beat.beat_until(|pause| stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout)))
            .map_err(|source| StateError::Io { path: state.dir().to_path_buf(), source })?;
        Ok(Self { stop: Some(stop), heart: Some(heart), lost })
    }

    /// Cancelled if another loader takes the lease over.
    pub(crate) fn lost(&self) -> &Cancel {
        &self.lost
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The heart ends when nobody is left who could tell it to stop, and gives the lease back.
        drop(self.stop.take());
        if let Some(heart) = self.heart.take() {
            // A heart that panicked has nothing to give back: the lease ends by itself.
            drop(heart.join());
        }
    }
}

struct Heart {
    database: Database,
    holder: Arc<Holder>,
    sync: SyncName,
    fence: i64,
    lost: Cancel,
}

impl Heart {
    /// Beats as long as `wait` says that its pause has passed, then gives the lease back.
    fn beat_until(&self, wait: impl Fn(Duration) -> bool) {
        while wait(HEARTBEAT) {
            match self.database.renew(&self.sync, &self.holder, self.fence, Timestamp::now()) {
                Ok(true) => {}
                Ok(false) => {
                    tracing::error!(sync = %self.sync, "another loader has taken this sync over");
                    self.lost.cancel(Why::Ending);
                    return;
                }
                // It is tried again; the lease lasts for several beats.
                Err(error) => tracing::warn!(sync = %self.sync, %error, "the lease could not be renewed"),
            }
        }
        if let Err(error) = self.database.with(|connection| release(connection, &self.sync, self.fence)) {
            tracing::warn!(sync = %self.sync, %error, "the lease could not be given back; it ends by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn sync() -> SyncName {
        SyncName::new("s").unwrap()
    }

    fn seen(state: &State, holder: &Holder, now: Timestamp) -> LeaseSeen {
        state.database.with(|connection| look(connection, &sync(), holder, now)).unwrap()
    }

    fn give(state: &State, holder: &Holder, fence: i64, now: Timestamp) {
        state.database.with(|connection| take(connection, &sync(), holder, fence, now)).unwrap();
    }

    #[test]
    fn a_lease_lives_until_it_is_given_back_or_its_time_has_passed() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let (one, two) = (Holder::enter(&state).unwrap(), Holder::enter(&state).unwrap());
        let now = Timestamp::now();
        let after = |seconds| now + SignedDuration::from_secs(seconds);
        assert_eq!(seen(&state, &two, now), LeaseSeen { fence: 0, is_live: false });
        give(&state, &one, 1, now);
        assert_eq!(seen(&state, &two, after(59)), LeaseSeen { fence: 1, is_live: true });
        assert!(!seen(&state, &two, after(60)).is_live);
        assert!(state.database.renew(&sync(), &one, 1, after(50)).unwrap());
        assert!(seen(&state, &two, after(100)).is_live);
        // Late, but nobody was faster.
        assert!(state.database.renew(&sync(), &one, 1, after(1000)).unwrap());
        state.database.with(|connection| release(connection, &sync(), 1)).unwrap();
        assert_eq!(seen(&state, &two, after(1000)), LeaseSeen { fence: 1, is_live: false });
        give(&state, &two, 2, now);
        assert!(!state.database.renew(&sync(), &one, 1, now).unwrap(), "it was overtaken");
        state.database.with(|connection| release(connection, &sync(), 1)).unwrap();
        assert!(seen(&state, &one, now).is_live, "what another has is not given back");
    }

    #[test]
    fn the_lease_of_a_dead_loader_is_over_at_once_and_that_of_another_machine_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let (mut one, two) = (Holder::enter(&state).unwrap(), Holder::enter(&state).unwrap());
        let now = Timestamp::now();
        give(&state, &one, 1, now);
        assert!(seen(&state, &two, now).is_live);
        // As the kernel does with a process that is killed: the file stays, and nobody has it locked.
        one._lock.unlock().unwrap();
        let file = dir.path().join(FOLDER).join(&one.id);
        assert!(file.exists());
        assert!(!seen(&state, &two, now).is_live);
        assert!(!file.exists(), "it is swept");
        assert!(!seen(&state, &two, now).is_live);
        one.id = format!("elsewhere{}", one.id);
        give(&state, &one, 2, now);
        assert!(seen(&state, &two, now).is_live);
    }

    #[test]
    fn a_command_holds_its_lease_as_long_as_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let lease = Lease::take(&state, &sync()).unwrap();
        assert!(matches!(Lease::take(&state, &sync()), Err(StateError::Locked(_))));
        assert_eq!(lease.lost().why(), None);
        drop(lease);
        drop(Lease::take(&state, &sync()).unwrap());
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 0, "no lock file is left");
    }

    #[test]
    fn a_heart_that_was_overtaken_says_so_and_stops() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let (one, two) = (Holder::enter(&state).unwrap(), Holder::enter(&state).unwrap());
        let now = Timestamp::now();
        give(&state, &one, 1, now);
        give(&state, &two, 2, now);
        let lost = Cancel::default();
        let database = State::open(dir.path()).unwrap().database;
        let heart = Heart { database, holder: Arc::new(one), sync: sync(), fence: 1, lost: lost.clone() };
        heart.beat_until(|pause| {
            assert_eq!(pause, HEARTBEAT);
            true
        });
        assert_eq!(lost.why(), Some(Why::Ending));
        assert!(seen(&state, &two, now).is_live);
    }
}
