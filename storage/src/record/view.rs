//! What a lookup shows of a record.
//!
//! Invariant: a view joins one version of the record with one state of the collection's clears and with the pools that
//! its interned texts are in, so that all that is read through it belongs together.

use std::sync::Arc;

use larder_types::ids::{Generation, Micros, SyncSlot};

use super::clears::Clears;
use super::dictionary::Dictionary;
use super::field_set::FieldSet;
use super::intern::Pools;
use super::json::Projection;
use super::row::{Row, key_of};

/// A record at one version, valid while it is being visited.
pub struct RecordView<'a> {
    row: Row<'a>,
    clears: &'a Clears,
    pools: &'a Arc<Pools>,
}

/// What a sync last did to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupInfo {
    /// The sync.
    pub slot: SyncSlot,
    /// The generation of the run that last touched the record.
    pub generation: Generation,
    /// When it did: the whole second in which the batch arrived.
    pub updated_at: Micros,
}

/// A record of its own, copied from a lookup. Keeps the texts of the collection's pools.
pub struct RecordCopy {
    record: Box<[u8]>,
    pools: Arc<Pools>,
}

/// A copy has no groups that a clear could make absent.
static NO_CLEARS: Clears = Clears::none();

impl RecordCopy {
    /// The record's key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        key_of(&self.record)
    }

    /// What a lookup has shown.
    #[must_use]
    pub fn view(&self) -> RecordView<'_> {
        RecordView::new(Row::of_checked(&self.record), &NO_CLEARS, &self.pools)
    }
}

impl<'a> RecordView<'a> {
    /// The record must have passed the check with these pools.
    pub(crate) fn new(row: Row<'a>, clears: &'a Clears, pools: &'a Arc<Pools>) -> Self {
        Self { row, clears, pools }
    }

    /// The log index of the record's last change: a patch that changed a value, or the clearing of a sync that had
    /// fields in it.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.row.version(self.clears)
    }

    /// Copies the record, to be kept after the lookup.
    #[must_use]
    pub fn copy(&self) -> RecordCopy {
        let mut record = Vec::new();
        self.row.write_live(self.clears, &mut record);
        RecordCopy { record: record.into(), pools: self.pools.clone() }
    }

    /// The syncs that have fields in the record, in order of slot.
    pub fn groups(&self) -> impl Iterator<Item = GroupInfo> + '_ {
        self.row.live(self.clears).map(|group| GroupInfo {
            slot: group.slot,
            generation: group.generation,
            updated_at: group.updated_at(),
        })
    }

    /// Appends the record as a JSON object: fields in order of slot and field id, those that the dictionary does not
    /// know left out. `only` limits it to some fields.
    pub fn write_json(&self, dictionary: &Dictionary, only: Option<&FieldSet>, out: &mut Vec<u8>) {
        Projection { names: dictionary, only, clears: self.clears, pools: self.pools }.write(self.row, out);
    }
}
