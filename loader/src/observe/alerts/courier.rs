//! The courier: a thread that carries waiting notices to their channels, so that no run waits for one.
//!
//! A notice that is not taken is tried again with growing pauses for a day. Notices of one channel keep their order; a
//! channel that is down holds up no other for longer than one attempt.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;

use super::channel::{ChannelError, send};
use crate::observe::between;
use crate::project::alerts::Channel;
use crate::push::retry::random;
use crate::state::alerts::Waiting;
use crate::state::database::Database;
use crate::state::{State, StateError};

/// The pause after the first attempt that failed; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// For so long a notice is tried.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// How often to look for notices that another process has left.
const LOOK_AROUND: Duration = Duration::from_secs(30);
/// Wishes that may wait for the thread. More say nothing new.
const WISHES: usize = 8;

/// A wish to look for notices, and whom to tell when nothing is due any more.
type Wish = Option<SyncSender<()>>;

/// A running courier. When it is dropped, its thread ends after the attempt that is under way.
pub(super) struct Courier {
    wishes: Option<SyncSender<Wish>>,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Courier {
    /// Starts the thread on a state directory.
    ///
    /// # Errors
    /// When the directory cannot be opened or the machine gives no thread.
    pub(super) fn start(state_dir: PathBuf, channels: BTreeMap<String, Channel>) -> Result<Self, StateError> {
        let database = State::open(&state_dir)?.database;
        let (wishes, wished) = mpsc::sync_channel(WISHES);
        let is_stopped = Arc::new(AtomicBool::new(false));
        let work = Work { database, channels, is_stopped: is_stopped.clone() };
        let thread = std::thread::Builder::new().name("alerts".to_owned()).spawn(move || work.run(&wished));
        let thread = thread.map_err(|source| StateError::Io { path: state_dir, source })?;
        Ok(Self { wishes: Some(wishes), is_stopped, thread: Some(thread) })
    }

    /// Says that there may be something to carry.
    pub(super) fn wake(&self) {
        if let Some(wishes) = &self.wishes {
            drop(wishes.try_send(None));
        }
    }

    /// Waits until nothing is due, or the time is up.
    pub(super) fn drain(&self, patience: Duration) {
        let (tell, told) = mpsc::sync_channel(1);
        if self.wishes.as_ref().is_some_and(|wishes| wishes.try_send(Some(tell)).is_ok()) {
            let _ = told.recv_timeout(patience);
        }
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.wishes = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that sends notices died");
        }
    }
}

/// What the thread works with.
struct Work {
    database: Database,
    channels: BTreeMap<String, Channel>,
    is_stopped: Arc<AtomicBool>,
}

impl Work {
    fn run(&self, wished: &Receiver<Wish>) {
        let mut wish: Wish = None;
        loop {
            let wait = match self.carry_all() {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(%error, "notices of alerts cannot be read; trying again in {LOOK_AROUND:?}");
                    LOOK_AROUND
                }
            };
            if let Some(tell) = wish.take() {
                // Whoever asked may have stopped waiting.
                let _ = tell.try_send(());
            }
            match wished.recv_timeout(wait) {
                Ok(next) => wish = next,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Carries everything that is due. Returns for how long there will be nothing.
    fn carry_all(&self) -> Result<Duration, StateError> {
        while !self.is_stopped.load(Ordering::Relaxed) && carry(&self.database, &self.channels, Timestamp::now())? {}
        let next = self.database.next_due()?;
        Ok(next.map_or(LOOK_AROUND, |next| between(Timestamp::now(), next).min(LOOK_AROUND)))
    }
}

/// Carries one notice that is due at this time, if there is one.
pub(super) fn carry(
    database: &Database,
    channels: &BTreeMap<String, Channel>,
    now: Timestamp,
) -> Result<bool, StateError> {
    let Some(waiting) = database.claim_due(now)? else { return Ok(false) };
    let Waiting { number, channel, notice, .. } = &waiting;
    let id = &notice.id;
    let Some(target) = channels.get(channel) else {
        tracing::warn!(%channel, %id, "a notice was dropped: the project has no such alert channel any more");
        database.settle(*number)?;
        return Ok(true);
    };
    match send(target, notice, now) {
        Ok(()) => {
            tracing::info!(%channel, %id, "a notice was sent");
            database.settle(*number)?;
        }
        Err(ChannelError::Later(reason)) if between(waiting.created_at, now) < PATIENCE => {
            tracing::warn!(%channel, %id, %reason, "a notice was not taken; it will be sent again");
            database.put_off(*number, now + pause(waiting.attempts), &reason)?;
        }
        Err(ChannelError::Later(reason) | ChannelError::Never(reason)) => {
            tracing::error!(%channel, %id, %reason, "a notice was dropped: the channel does not take it");
            database.settle(*number)?;
        }
    }
    Ok(true)
}

/// The pause after an attempt that failed, when so many were made before: somewhere in the upper half of what doubling
/// gives, so that several loaders do not come back together.
fn pause(attempts: u32) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(1 << attempts.min(16)).min(LONGEST_PAUSE);
    let jitter = f64::from(random()) / f64::from(u32::MAX);
    most.mul_f64(0.5 + jitter / 2.0)
}
