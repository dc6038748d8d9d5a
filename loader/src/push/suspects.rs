//! Suspects: batches that fail in a way that may be the fault of one of their rows, and how that row is found.
//!
//! A row is blamed only on evidence: it failed alone, again and again, while the cluster took other batches and was seen
//! to be well. So a cluster that is ill as a whole costs no row anything: its batches are parked here, and tried again
//! until the run's patience is at its end. When other batches went through since a suspect first left, or when there is
//! nothing else left to send, it is halved, and so on until a single row is left. Pure.

use std::collections::VecDeque;

use super::flight::Flight;
use super::wire::Fault;

/// Rows that a run isolates before it calls the matter a fault of the sync or of the cluster: each takes about thirty
/// requests to find.
pub(super) const MAX_ISOLATED: u32 = 100;

/// A batch that failed, and how it did so last.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) flight: Flight,
    pub(super) fault: Fault,
}

/// The suspects of a run.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    taken: u64,
    parked: VecDeque<Suspect>,
    isolated: u32,
}

impl Suspects {
    /// Batches that the cluster took so far: the evidence.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The cluster took a batch.
    pub(super) fn count_taken(&mut self) {
        self.taken += 1;
    }

    /// Sets a suspect aside. Halves come before what was parked earlier: what they teach may spare it.
    pub(super) fn park(&mut self, suspect: Suspect) {
        self.parked.push_front(suspect);
    }

    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    pub(super) fn has_evidence(&self, suspect: &Suspect) -> bool {
        suspect.flight.since < self.taken
    }

    /// A suspect against which there is evidence; any, if there is nothing else left `to_learn` from.
    pub(super) fn next(&mut self, to_learn: bool) -> Option<Suspect> {
        let found = self.parked.iter().position(|suspect| self.has_evidence(suspect));
        let at = if to_learn { found? } else { found.unwrap_or(0) };
        self.parked.remove(at)
    }

    /// A row was found guilty. False if that is one too many.
    pub(super) fn isolate(&mut self) -> bool {
        self.isolated += 1;
        self.isolated <= MAX_ISOLATED
    }
}
