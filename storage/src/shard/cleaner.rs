//! The cleaner: moves live records out of segments that are mostly dead, so that these can go.
//!
//! It runs in the writer, a little with every entry; see [`crate::arena::cleaning`] for how much, and which segments.
//!
//! Invariants:
//! 1. A record is live if the table points to its place, and nothing else says so: no flag in the record, which readers
//!    would have to share with the writer.
//! 2. Moving is an update like any other: another record is written, the word is replaced, the old record is released.
//!    A reader finds one or the other and cannot tell.
//! 3. A record that was moved shows what it showed, with the same version. It loses the groups that a clear has made
//!    absent, which nobody could see.

use super::state::State;
use crate::arena::cleaning::Visit;

impl State {
    /// Cleans as much as is due.
    pub(super) fn clean(&mut self) {
        let due = self.arena.due();
        let mut visited = 0;
        while visited < due && self.arena.is_wasteful() {
            let Some(visit) = self.arena.visit(due - visited) else { break };
            visited += visit.space as u64;
            self.relocate(&visit);
        }
        self.arena.pay(visited);
    }

    fn relocate(&mut self, visit: &Visit) {
        // The records of a collection that is gone are dead.
        if let Some(mut records) = self.records(0, visit.owner) {
            records.relocate(&visit.locations);
        }
    }

    /// Cleans all segments of now, worth it or not.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(super) fn clean_all(&mut self) {
        self.arena.seal();
        for segment in self.arena.sealed() {
            while let Some(visit) = self.arena.visit_in(segment) {
                self.relocate(&visit);
            }
        }
    }
}
