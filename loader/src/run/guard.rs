//! Guards: when a run is stopped before it sends anything.
//!
//! A warehouse driver that loses the end of a result, or a query that lost a join, looks just like rows that left. So
//! removals beyond a share, or a number, whichever is larger, need a person's word.

use crate::project::Guard;

/// What the guards look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Rows that the query returned.
    pub(crate) read: u64,
    /// Keys that would be removed from the collection; 0 if those that leave stay.
    pub(crate) removed: u64,
    /// Rows that the cluster has of this sync.
    pub(crate) known: u64,
}

/// Why the run must stop, with the way out; `None` if it may go on.
pub(crate) fn verdict(guard: &Guard, findings: Findings, accept_removals: bool) -> Option<String> {
    let Findings { read, removed, known } = findings;
    if read < guard.min_rows {
        return Some(format!(
            "the query returned {read} rows and the sync's guard asks for {} at least; if that is right, lower \
             guard.min_rows",
            guard.min_rows
        ));
    }
    let allowed = share(guard.max_removed_percent, known).max(guard.max_removed_rows);
    if removed <= allowed || accept_removals {
        return None;
    }
    Some(format!(
        "{removed} of {known} rows left the query and the sync's guard lets {allowed} go; if that is right, run again \
         with --accept-removals, or raise guard.max_removed.percent or guard.max_removed.rows"
    ))
}

/// So many percent of `known`, rounded down.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a bound of rows to one part in 10^15 is exact enough, and the cast saturates"
)]
fn share(percent: f64, known: u64) -> u64 {
    (percent / 100.0 * known as f64).floor().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARD: Guard = Guard { max_removed_percent: 10.0, max_removed_rows: 5, min_rows: 1 };

    fn passes(read: u64, removed: u64, known: u64) -> bool {
        verdict(&GUARD, Findings { read, removed, known }, false).is_none()
    }

    #[test]
    fn the_larger_of_share_and_number_may_leave() {
        assert!(passes(1, 5, 10));
        assert!(!passes(1, 6, 10));
        assert!(passes(1, 100, 1000));
        assert!(!passes(1, 101, 1000));
        assert!(verdict(&GUARD, Findings { read: 1, removed: 101, known: 1000 }, true).is_none());
    }

    #[test]
    fn too_few_rows_stop_the_run_even_if_removals_are_accepted() {
        assert!(!passes(0, 0, 0));
        assert!(verdict(&GUARD, Findings { read: 0, removed: 0, known: 0 }, true).is_some());
        let none = Guard { min_rows: 0, ..GUARD };
        assert!(verdict(&none, Findings { read: 0, removed: 0, known: 0 }, false).is_none());
    }

    #[test]
    fn the_message_says_what_to_do() {
        let message = verdict(&GUARD, Findings { read: 9, removed: 60, known: 100 }, false).unwrap();
        for word in ["60 of 100", "10", "--accept-removals", "guard.max_removed.percent", "guard.max_removed.rows"] {
            assert!(message.contains(word), "{message}");
        }
    }
}
