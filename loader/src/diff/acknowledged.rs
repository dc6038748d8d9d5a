//! What was acknowledged of a sync's keys, wherever that is kept.

use super::hash::RowHash;
use super::join::DiffError;
use super::snapshot::Snapshot;
use super::spill::Parts;

/// Gives what was acknowledged, part by part.
pub(crate) trait Acknowledged {
    /// Keys that have a record.
    fn rows(&self) -> u64;

    /// Calls `each` with the keys in `part` of a division into `parts`, and the hash of each one's row; without one if
    /// its record is gone. The first word on a key counts.
    ///
    /// # Errors
    /// When a file cannot be read or is damaged.
    fn read_part(
        &self,
        parts: Parts,
        part: usize,
        each: &mut dyn FnMut(&str, Option<RowHash>),
    ) -> Result<(), DiffError>;
}

impl Acknowledged for Snapshot {
    fn rows(&self) -> u64 {
        Self::rows(self)
    }

    fn read_part(
        &self,
        parts: Parts,
        part: usize,
        each: &mut dyn FnMut(&str, Option<RowHash>),
    ) -> Result<(), DiffError> {
        Ok(Self::read_part(self, parts, part, |key, hash| each(key, hash.of_record()))?)
    }
}
