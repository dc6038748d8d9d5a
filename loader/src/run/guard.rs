//! Guards: when a run is stopped before it sends anything.
//!
//! A warehouse driver that loses the end of a result, or a query that lost a join, looks just like rows that left. So
//! removals beyond a share, or a number, whichever is larger, need a person's word. What a guard stopped is kept as a
//! hold: once approved, it lets one run do as much as was shown, and no more.

use serde::Serialize;

use crate::project::{Guard, Limit};

/// Rows of a thousand that may be missing from what the source counts: they came while the query was read.
const MISSING_PER_MILLE: u64 = 1;

/// What the guards look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Findings {
    /// Rows that the query returned.
    pub read: u64,
    /// Records that would be removed from the collection; 0 if those that leave stay.
    pub removed: u64,
    /// Records that would change; 0 if every row is sent again, because what differs is then not known.
    pub changed: u64,
    /// Records that the cluster has of this sync.
    pub known: u64,
    /// Rows that the source counts beyond those that it returned; 0 if it was not asked.
    pub missing: u64,
}

impl Findings {
    /// Whether a person who agreed to `shown` has agreed to this.
    pub(super) fn is_within(&self, shown: &Self) -> bool {
        self.read >= shown.read
            && self.removed <= shown.removed
            && self.changed <= shown.changed
            && self.missing <= shown.missing
    }
}

/// What the guards are told beside the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Judging {
    /// A person has agreed to any number of removals.
    pub(super) accept_removals: bool,
    /// False if only some of the rows were asked for, so that their number says nothing.
    pub(super) all_rows: bool,
}

/// Why the run must stop, a sentence for each guard; none if it may go on.
pub(super) fn verdict(guard: &Guard, findings: Findings, judging: Judging) -> Vec<String> {
    let Findings { read, removed, changed, known, missing } = findings;
    let mut reasons = Vec::new();
    if judging.all_rows && read < guard.min_rows {
        reasons.push(format!(
            "the query returned {read} rows and the sync's guard asks for {} at least (guard.min_rows)",
            guard.min_rows
        ));
    }
    let allowed = allowance(guard.max_removed, known);
    if removed > allowed && !judging.accept_removals {
        reasons.push(format!(
            "{removed} of {known} rows left the query and the sync's guard lets {allowed} go (guard.max_removed.percent, \
             guard.max_removed.rows; --accept-removals lets one run pass)"
        ));
    }
    if let Some(allowed) = guard.max_changed.map(|limit| allowance(limit, known)).filter(|allowed| changed > *allowed) {
        reasons.push(format!(
            "{changed} of {known} rows changed and the sync's guard lets {allowed} change (guard.max_changed.percent, \
             guard.max_changed.rows)"
        ));
    }
    if missing > (read + missing) * MISSING_PER_MILLE / 1000 {
        reasons.push(format!(
            "the query returned {read} rows and the source counts {}: either rows were lost on the way, or came while it \
             was read, which the next run will tell (guard.verify_row_count)",
            read + missing
        ));
    }
    reasons
}

/// How many of `known` rows pass.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a bound of rows to one part in 10^15 is exact enough, and the cast saturates"
)]
fn allowance(limit: Limit, known: u64) -> u64 {
    ((limit.percent / 100.0 * known as f64).floor().max(0.0) as u64).max(limit.rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Limit = Limit { percent: 10.0, rows: 5 };
    const GUARD: Guard = Guard { max_removed: FEW, max_changed: None, min_rows: 1, verify_row_count: None };
    const PLAIN: Judging = Judging { accept_removals: false, all_rows: true };

    fn passes(guard: &Guard, findings: Findings) -> bool {
        verdict(guard, findings, PLAIN).is_empty()
    }

    fn removing(removed: u64, known: u64) -> Findings {
        Findings { read: 1, removed, known, ..Findings::default() }
    }

    #[test]
    fn the_larger_of_share_and_number_may_leave() {
        assert!(passes(&GUARD, removing(5, 10)));
        assert!(!passes(&GUARD, removing(6, 10)));
        assert!(passes(&GUARD, removing(100, 1000)));
        assert!(!passes(&GUARD, removing(101, 1000)));
        let accepted = Judging { accept_removals: true, ..PLAIN };
        assert!(verdict(&GUARD, removing(101, 1000), accepted).is_empty());
    }

    #[test]
    fn changes_pass_unless_they_are_limited() {
        let changing = |changed| Findings { read: 1, changed, known: 1000, ..Findings::default() };
        assert!(passes(&GUARD, changing(1000)));
        let strict = Guard { max_changed: Some(FEW), ..GUARD };
        assert!(passes(&strict, changing(100)));
        assert!(!passes(&strict, changing(101)));
    }

    #[test]
    fn too_few_rows_stop_the_run_even_if_removals_are_accepted() {
        let nothing = Findings::default();
        let accepted = Judging { accept_removals: true, ..PLAIN };
        assert_eq!(verdict(&GUARD, nothing, accepted).len(), 1);
        assert!(verdict(&GUARD, nothing, Judging { all_rows: false, ..PLAIN }).is_empty());
        assert!(passes(&Guard { min_rows: 0, ..GUARD }, nothing));
    }

    #[test]
    fn rows_that_the_source_counts_and_did_not_return_stop_the_run() {
        let missing = |read, missing| Findings { read, missing, ..Findings::default() };
        assert!(!passes(&GUARD, missing(100, 1)));
        assert!(passes(&GUARD, missing(9_990, 10)), "one in a thousand may have come while the query was read");
        assert!(!passes(&GUARD, missing(9_989, 11)));
    }

    #[test]
    fn an_approval_is_for_what_was_shown_and_less() {
        let shown = Findings { read: 50, removed: 10, changed: 5, known: 60, missing: 1 };
        assert!(shown.is_within(&shown));
        assert!(Findings { read: 60, removed: 9, changed: 0, known: 1, missing: 0 }.is_within(&shown));
        let more = [
            Findings { read: 49, ..shown },
            Findings { removed: 11, ..shown },
            Findings { changed: 6, ..shown },
            Findings { missing: 2, ..shown },
        ];
        assert!(more.iter().all(|findings| !findings.is_within(&shown)));
    }

    #[test]
    fn every_guard_that_objects_is_named() {
        let strict = Guard { max_changed: Some(FEW), ..GUARD };
        let all = Findings { read: 0, removed: 60, changed: 40, known: 100, missing: 7 };
        let message = verdict(&strict, all, PLAIN).join("; ");
        for word in [
            "60 of 100",
            "10",
            "--accept-removals",
            "guard.max_removed.percent",
            "guard.max_removed.rows",
            "min_rows",
            "40 of 100",
            "guard.max_changed.rows",
            "counts 7",
            "guard.verify_row_count",
        ] {
            assert!(message.contains(word), "{word}: {message}");
        }
    }
}
