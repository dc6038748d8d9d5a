//! How a follower learns how fresh it is without trusting anybody's clock or the speed of the network.
//!
//! With every answer to its leader a follower names the *moment*, on its own clock. The leader sends a moment back, with how
//! far the log is committed, once a majority has confirmed it in something that it sent after it had got that moment. So
//! when it was the leader, the moment had passed: all that was acknowledged before the moment is within what it calls
//! committed. However long either message was under way, or its process stood still, the follower never takes itself for
//! fresher than it is.
//!
//! Invariant: a moment is read only by the run of the process that named it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// A moment of a process, which only that one can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Which run of which process.
    pub(crate) run: u64,
    /// Microseconds since the process started.
    pub(crate) micros: u64,
}

/// What a leader sends back: when `moment` was, no more than this was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo {
    /// A moment that the follower has named.
    pub(crate) moment: Moment,
    /// A log index. Everything that had been acknowledged at the moment is at it or before.
    pub(crate) committed: u64,
}

/// The clock of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    run: u64,
    start: Instant,
}

impl Clock {
    /// A clock that starts now. No two runs may have the same number.
    pub(crate) fn start(run: u64) -> Self {
        Self { run, start: Instant::now() }
    }

    /// Since when it runs.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Now.
    pub(crate) fn now(&self) -> Moment {
        Moment { run: self.run, micros: u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX) }
    }

    /// When a moment was; `None` if another run named it, or if it is still to come.
    pub(crate) fn read(&self, moment: Moment) -> Option<Instant> {
        let at = self.start.checked_add(Duration::from_micros(moment.micros))?;
        (moment.run == self.run && at <= Instant::now()).then_some(at)
    }
}

/// The last moments that a follower has named, and when they were heard.
#[derive(Debug, Default)]
pub(crate) struct Heard(VecDeque<(Instant, Moment)>);

/// Moments that are kept. One is named with each heartbeat, and a majority confirms one of the last few.
const KEPT: usize = 8;

impl Heard {
    /// Notes a moment that has just been heard.
    pub(crate) fn note(&mut self, moment: Moment) {
        self.0.push_back((Instant::now(), moment));
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }

    /// The last one that was heard before this.
    pub(crate) fn before(&self, confirmed: Instant) -> Option<Moment> {
        self.0.iter().rev().find(|(at, _)| *at <= confirmed).map(|(_, moment)| *moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_by_the_run_that_named_it() {
        let clock = Clock::start(7);
        let before = Instant::now();
        let moment = clock.now();
        let read = clock.read(moment).unwrap();
        assert!(read <= Instant::now() && read + Duration::from_micros(1) >= before);
        assert_eq!(Clock::start(8).read(moment), None);
        assert_eq!(clock.read(Moment { micros: moment.micros + 60_000_000, ..moment }), None, "it is still to come");
        assert_eq!(clock.read(Moment { micros: u64::MAX, ..moment }), None);
    }

    #[test]
    fn what_was_heard_after_the_majority_was_asked_does_not_count() {
        let mut heard = Heard::default();
        let start = Instant::now();
        assert_eq!(heard.before(start + Duration::from_secs(1)), None);
        for micros in 0..20 {
            heard.note(Moment { run: 1, micros });
        }
        assert_eq!(heard.before(start), None);
        assert_eq!(heard.before(Instant::now()).map(|moment| moment.micros), Some(19));
        assert_eq!(heard.0.len(), KEPT);
    }
}
