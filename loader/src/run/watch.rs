//! The watch: notices that a run is to stop, because somebody asked for it in the state database, maybe from another
//! process, or because its time is over.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::{Cancel, Why};
use crate::state::State;

/// How often the database is asked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Ends a watch.
#[derive(Default)]
pub(super) struct Watch {
    ended: Mutex<bool>,
    changed: Condvar,
}

/// Ends the watch when dropped, however the run ends.
pub(super) struct Watched<'a>(&'a Watch);

impl Watch {
    pub(super) fn until_dropped(&self) -> Watched<'_> {
        Watched(self)
    }

    /// Watches until the run has ended.
    pub(super) fn watch(&self, state: &State, run: &str, deadline: Option<Instant>, cancel: &Cancel) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended && cancel.why().is_none() {
            // A database that cannot be read now is asked again; the run itself will stumble over it.
            if state.database.is_cancel_asked(run).unwrap_or(false) {
                cancel.cancel(Why::Asked);
            } else if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                cancel.cancel(Why::TimeLimit);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let pause = left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY));
            ended = self.changed.wait_timeout(ended, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}
