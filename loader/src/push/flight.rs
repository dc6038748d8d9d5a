//! A batch under way, with what its attempts were like so far.

use larder_types::api::BatchAnswer;

use super::batch::Batch;

/// A batch that has no outcome yet.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) batch: Batch,
    /// Batches that the run had through when this one first left.
    pub(super) since: u64,
    /// Attempts that failed.
    pub(super) failed: u32,
    /// Of those, the ones since the cluster was last seen to be well that may be this batch's own fault.
    pub(super) dubious: u32,
    /// True if rows of it may have been applied.
    pub(super) in_doubt: bool,
    /// True if it failed again after the cluster was seen to be well.
    pub(super) retried: bool,
    /// How often its rows were rejected before for a reason that passes.
    pub(super) deferrals: u32,
}

impl Flight {
    /// A batch that the journal holds and that has not left yet; `taken` batches are through.
    pub(super) fn new(batch: Batch, taken: u64) -> Self {
        Self { batch, since: taken, failed: 0, dubious: 0, in_doubt: false, retried: false, deferrals: 0 }
    }

    /// The places of rejected rows, checked: an answer that does not add up says nothing about any row. `Err` holds what
    /// is wrong with it.
    pub(super) fn rejected(&self, answer: &BatchAnswer) -> Result<Vec<u32>, String> {
        let rows = self.batch.patches.len() as u64;
        let place = |row: u64| u32::try_from(row).ok().filter(|row| u64::from(*row) < rows);
        let places: Option<Vec<u32>> = answer.rejected.iter().map(|row| place(row.row)).collect();
        let mut places = places.ok_or("it rejects a row that was not sent")?;
        places.sort_unstable();
        places.dedup();
        if answer.accepted + places.len() as u64 != rows {
            return Err(format!("{rows} rows were sent, {} accepted and {} rejected", answer.accepted, places.len()));
        }
        Ok(places)
    }
}
