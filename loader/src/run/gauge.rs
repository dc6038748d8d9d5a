//! The gauge: one progress for a run, although its destinations get on at different speeds.
//!
//! What is shown is the latest phase that any of them has reached, with the rows of all that are in it.

use std::sync::{Mutex, PoisonError};

use super::{Phase, Progress};

pub(super) struct Gauge<'a> {
    progress: &'a dyn Progress,
    phase: Mutex<Option<Phase>>,
}

impl<'a> Gauge<'a> {
    pub(super) fn new(progress: &'a dyn Progress) -> Self {
        Self { progress, phase: Mutex::new(None) }
    }

    /// Somebody enters a phase in which so many rows are to be handled.
    pub(super) fn enter(&self, phase: Phase, total: Option<u64>) {
        let mut shown = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown == Some(phase) {
            self.progress.extend(total.unwrap_or_default());
        } else if shown.is_none_or(|shown| shown < phase) {
            *shown = Some(phase);
            self.progress.phase(phase, total);
        }
    }

    /// So many rows of a phase were handled.
    pub(super) fn advance(&self, phase: Phase, rows: u64) {
        let shown = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if shown == Some(phase) {
            self.progress.advance(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Progress for Seen {
        fn phase(&self, phase: Phase, total: Option<u64>) {
            self.0.lock().unwrap().push(format!("{phase:?} {total:?}"));
        }
        fn extend(&self, rows: u64) {
            self.0.lock().unwrap().push(format!("of {rows} more"));
        }
        fn advance(&self, rows: u64) {
            self.0.lock().unwrap().push(format!("{rows}"));
        }
    }

    #[test]
    fn the_latest_phase_is_shown_with_the_rows_of_all_in_it() {
        let seen = Seen::default();
        let gauge = Gauge::new(&seen);
        gauge.enter(Phase::Reading, None);
        gauge.advance(Phase::Reading, 3);
        gauge.enter(Phase::Pushing, Some(10));
        gauge.enter(Phase::Comparing, Some(3));
        gauge.advance(Phase::Comparing, 3);
        gauge.enter(Phase::Pushing, Some(5));
        gauge.advance(Phase::Pushing, 7);
        let seen = seen.0.into_inner().unwrap();
        assert_eq!(seen, ["Reading None", "3", "Pushing Some(10)", "of 5 more", "7"]);
    }
}
