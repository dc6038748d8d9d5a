//! What was acknowledged of the keys of a delta: what the base says, and over it what the journal of a later run says.

use crate::diff::acknowledged::Acknowledged;
use crate::diff::hash::RowHash;
use crate::diff::join::DiffError;
use crate::diff::snapshot::Snapshot;
use crate::diff::spill::{Parts, Spilled};
use crate::diff::{take, take_key};

/// What was acknowledged of the keys that a delta names.
pub(crate) struct BaseRows {
    /// Of each key the hash in the base.
    pub(super) base: Spilled,
    /// Keys in the base.
    pub(super) rows: u64,
    /// What goes over it.
    pub(super) over: Option<Snapshot>,
}

impl Acknowledged for BaseRows {
    fn rows(&self) -> u64 {
        self.rows
    }

    fn read_part(
        &self,
        parts: Parts,
        part: usize,
        each: &mut dyn FnMut(&str, Option<RowHash>),
    ) -> Result<(), DiffError> {
        assert!(parts == self.base.parts(), "rows and base of a delta are divided alike");
        if let Some(over) = &self.over {
            Acknowledged::read_part(over, parts, part, each)?;
        }
        let mut records = self.base.records(part);
        while let Some(mut record) = records.next()? {
            let hash = take(&mut record).ok_or(DiffError::Record)?;
            each(take_key(&mut record).ok_or(DiffError::Record)?, Some(RowHash::from_bytes(hash)));
        }
        Ok(())
    }
}
