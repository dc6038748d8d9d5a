//! What a patch makes of a record. Pure: bytes in, bytes out.
//!
//! Groups that a clear has made absent are dropped whenever a record is rewritten, and the version that the clear gave
//! the record is kept in their stead.

use larder_types::ids::SyncSlot;

use super::clears::Clears;
use super::fields;
use super::intern::Interner;
use super::row::{Group, Row, RowWriter};

/// What an upsert did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merged {
    /// The record is new, or the sync had no fields in it.
    Added,
    /// A value of the sync's changed.
    Changed,
    /// No value changed.
    Unchanged,
    /// The record would be too large.
    TooLarge,
}

/// A patch that sets fields. It must have been checked.
pub(crate) struct Upsert<'a> {
    /// The record's key.
    pub(crate) key: &'a [u8],
    /// The sync's group as it would be in a new record.
    pub(crate) group: Group<'a>,
    /// The version of a record that it changes.
    pub(crate) index: u64,
}

/// Buffers that are used again and again.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The record written last.
    pub(crate) record: Vec<u8>,
    fields: Vec<u8>,
}

impl Scratch {
    /// Writes the record with the patch applied, its texts interned. The record must have been checked.
    #[allow(clippy::expect_used, reason = "records and patches were checked before")]
    pub(crate) fn upsert(
        &mut self,
        old: Option<Row<'_>>,
        upsert: &Upsert<'_>,
        clears: &Clears,
        interner: &mut Interner,
    ) -> Merged {
        let Upsert { key, group: patch, index } = upsert;
        let before = old.and_then(|row| row.group(patch.slot, clears));
        self.fields.clear();
        let before_fields = before.map_or(&[][..], |group| group.fields);
        let changed = fields::merge(before_fields, patch.fields, interner, &mut self.fields)
            .expect("fields that were checked can be walked");
        let merged = match before {
            None => Merged::Added,
            Some(_) if changed => Merged::Changed,
            Some(_) => Merged::Unchanged,
        };
        let version = match old {
            Some(row) if merged == Merged::Unchanged => row.version(clears),
            _ => *index,
        };
        let new = Group { fields: &self.fields, ..*patch };
        let mut writer = RowWriter::new(key, version, &mut self.record);
        let mut others =
            old.map(|row| row.live(clears)).into_iter().flatten().filter(|g| g.slot != patch.slot).peekable();
        while let Some(group) = others.next_if(|group| group.slot < patch.slot) {
            writer.group(&group);
        }
        writer.group(&new);
        others.for_each(|group| writer.group(&group));
        writer.finish().map_or(Merged::TooLarge, |()| merged)
    }

    /// Writes the record as it is, without the groups that a clear has made absent.
    pub(crate) fn refresh(&mut self, row: Row<'_>, clears: &Clears) {
        row.write_live(clears, &mut self.record);
    }

    /// Writes the record without the sync's group, with `version`.
    pub(crate) fn without(&mut self, row: Row<'_>, slot: SyncSlot, version: u64, clears: &Clears) {
        let mut writer = RowWriter::new(row.key, version, &mut self.record);
        row.live(clears).filter(|group| group.slot != slot).for_each(|group| writer.group(&group));
        assert!(writer.finish().is_some(), "a record does not grow by losing a group");
    }
}
