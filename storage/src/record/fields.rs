//! The fields that one sync has in a record, or that a patch sets or takes out: a list of ids and values.
//!
//! ```text
//! fields := run*
//! run    := skip varint | count u8, not 0 | value × count        see `value` for the encoding of a value
//! ```
//! The values of a run belong to consecutive field ids. `skip` is the number of ids left out before the run: for the
//! first run its first id, for later ones the ids between the last of the run before and the first of this one. It is 0
//! only in the first run and after a run of 255. So a sync that always writes all of its fields, which is the rule,
//! pays two bytes for their ids.
//!
//! Invariants: ids ascend; a list of fields has one encoding only, but for texts, see `value`; what passes
//! [`Fields::check`] is that encoding.

use larder_types::ids::FieldId;

use super::cursor::{Cursor, Malformed, put_varint};
use super::intern::{Interner, Pools};
use super::value::Encoded;

/// Most values in one run.
const MAX_RUN: u8 = u8::MAX;

/// Walks over a list of fields.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    cursor: Cursor<'a>,
    /// The id after the last one seen.
    next: u32,
    /// Values left in the run.
    left: u8,
    /// Values in the run, 0 before the first.
    run: u8,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { cursor: Cursor::new(bytes), next: 0, left: 0, run: 0 }
    }

    /// Checks that the bytes are what [`FieldsWriter`] writes, and that every interned text is in these pools.
    pub(crate) fn check(bytes: &'a [u8], pools: &Pools) -> Result<(), Malformed> {
        let mut fields = Self::new(bytes);
        while let Some((field, value)) = fields.step()? {
            value.check()?;
            if value.interned().is_some_and(|id| pools.text(field, id).is_none()) {
                return Err(Malformed("an interned text is not in its field's pool"));
            }
        }
        Ok(())
    }

    /// Checks the fields of a patch: texts as they are, and perhaps nothing in place of a value.
    pub(crate) fn check_patch(bytes: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Self::new(bytes);
        while let Some((_, value)) = fields.step()? {
            if value.is_nothing() {
                continue;
            }
            value.check()?;
            if value.interned().is_some() {
                return Err(Malformed("a patch has an interned text"));
            }
        }
        Ok(())
    }

    /// The next field, checking lengths and ids only.
    pub(crate) fn step(&mut self) -> Result<Option<(FieldId, Encoded<'a>)>, Malformed> {
        if self.left == 0 {
            if self.cursor.is_empty() {
                return Ok(None);
            }
            let skip = self.cursor.varint_u32()?;
            if skip == 0 && self.run != 0 && self.run != MAX_RUN {
                return Err(Malformed("a run of fields is cut in two"));
            }
            self.next = self.next.checked_add(skip).ok_or(Malformed("a field id exceeds 16 bits"))?;
            self.run = self.cursor.u8()?;
            self.left = self.run;
            if self.run == 0 {
                return Err(Malformed("a run of fields is empty"));
            }
        }
        let id = u16::try_from(self.next).map_err(|_| Malformed("a field id exceeds 16 bits"))?;
        self.next += 1;
        self.left -= 1;
        Ok(Some((FieldId(id), Encoded::read(&mut self.cursor)?)))
    }
}

/// Appends a list of fields to a buffer.
pub(crate) struct FieldsWriter<'a> {
    out: &'a mut Vec<u8>,
    /// The id after the last one written.
    next: u32,
    /// Where the count of the current run stands; `None` before the first.
    count_at: Option<usize>,
}

impl<'a> FieldsWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, next: 0, count_at: None }
    }

    /// Appends the field's id and gives the buffer, to which the caller must append one encoded value. Ids must ascend.
    pub(crate) fn field(&mut self, id: FieldId) -> &mut Vec<u8> {
        let id = u32::from(id.0);
        assert!(id >= self.next, "fields must be written in ascending order of their ids");
        match self.count_at {
            Some(at) if id == self.next && self.out[at] < MAX_RUN => self.out[at] += 1,
            _ => {
                put_varint(u64::from(id - self.next), self.out);
                self.count_at = Some(self.out.len());
                self.out.push(1);
            }
        }
        self.next = id + 1;
        self.out
    }
}

/// Appends to `out` the fields of both lists, `patch` winning where both have one, its texts interned, without those that
/// it takes out. Tells whether that changes any value in `old`.
pub(crate) fn merge(old: &[u8], patch: &[u8], interner: &mut Interner, out: &mut Vec<u8>) -> Result<bool, Malformed> {
    let (mut old, mut patch) = (Fields::new(old), Fields::new(patch));
    let mut writer = FieldsWriter::new(out);
    let mut changed = false;
    let (mut kept, mut set) = (old.step()?, patch.step()?);
    loop {
        match (kept, set) {
            (Some((id, value)), _) if set.is_none_or(|(other, _)| id < other) => {
                writer.field(id).extend_from_slice(value.bytes);
                kept = old.step()?;
            }
            (_, Some((id, value))) => {
                let before = kept.filter(|(same, _)| *same == id).map(|(_, value)| value.bytes);
                if value.is_nothing() {
                    changed |= before.is_some();
                } else {
                    let stored = interner.intern(id, value, before).unwrap_or(value.bytes);
                    writer.field(id).extend_from_slice(stored);
                    // What is there may be the same text from before there was a pool, or from when it was not full.
                    changed |= before != Some(stored) && before != Some(value.bytes);
                }
                if before.is_some() {
                    kept = old.step()?;
                }
                set = patch.step()?;
            }
            (_, None) => return Ok(changed),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use larder_types::value::Value;
    use proptest::prelude::*;

    use super::super::intern;
    use super::super::value::{encode, put_nothing, tests::any_value};
    use super::*;

    pub(crate) fn write(fields: &BTreeMap<u16, Value>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = FieldsWriter::new(&mut out);
        for (&id, value) in fields {
            encode(value, writer.field(FieldId(id)));
        }
        out
    }

    pub(crate) fn read(bytes: &[u8]) -> BTreeMap<u16, Value> {
        let mut fields = Fields::new(bytes);
        let mut all = BTreeMap::new();
        while let Some((id, value)) = fields.step().unwrap() {
            assert!(all.insert(id.0, value.decode().unwrap()).is_none(), "field {id} came twice");
        }
        all
    }

    /// As [`read`], with interned texts.
    fn read_all(bytes: &[u8], pools: &Pools) -> BTreeMap<u16, Value> {
        assert_eq!(Fields::check(bytes, pools), Ok(()));
        let mut fields = Fields::new(bytes);
        let mut all = BTreeMap::new();
        while let Some((field, value)) = fields.step().unwrap() {
            let text = value.interned().map(|id| pools.text(field, id).unwrap().as_str());
            all.insert(field.0, text.map_or_else(|| value.decode().unwrap(), |text| Value::String(text.into())));
        }
        all
    }

    fn any_fields() -> impl Strategy<Value = BTreeMap<u16, Value>> {
        let id = prop_oneof![0u16..12, any::<u16>(), u16::MAX - 3..=u16::MAX];
        proptest::collection::btree_map(id, any_value(), 0..10)
    }

    #[test]
    fn an_id_that_no_text_belongs_to_is_refused() {
        let mut bytes = write(&[(3, Value::Null)].into());
        assert_eq!(bytes.pop(), Some(0));
        super::super::value::put_interned(1, &mut bytes);
        let check = |id, texts: &[&str]| Fields::check(&bytes, intern::tests::pooled(&[(FieldId(id), texts)]).pools());
        let refused = Err(Malformed("an interned text is not in its field's pool"));
        assert_eq!(check(3, &["first", "second"]), Ok(()));
        assert_eq!(check(3, &["first"]), refused);
        assert_eq!(check(4, &["first", "second"]), refused);
        assert_eq!(Fields::check(&bytes, &Pools::none()), refused);
    }

    #[test]
    fn long_runs_are_cut_only_where_they_must_be() {
        let fields: BTreeMap<_, _> = (3..603).map(|id| (id, Value::Null)).collect();
        let bytes = write(&fields);
        assert_eq!(bytes.len(), 600 + 3 * 2);
        assert_eq!(Fields::check(&bytes, &Pools::none()), Ok(()));
        assert_eq!(read(&bytes), fields);
    }

    #[test]
    fn lists_that_are_not_written_so_are_refused() {
        for (bytes, what) in [
            (&[0u8, 0][..], "a run of fields is empty"),
            (&[0, 1, 0, 0, 1, 0], "a run of fields is cut in two"),
            (&[0, 2, 0], "the bytes end too early"),
            (&[0xff, 0xff, 0x03, 2, 0, 0], "a field id exceeds 16 bits"),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 0], "a field id exceeds 16 bits"),
        ] {
            assert_eq!(Fields::check(bytes, &Pools::none()), Err(Malformed(what)));
        }
    }

    proptest! {
        #[test]
        fn fields_survive(fields in any_fields()) {
            let bytes = write(&fields);
            prop_assert_eq!(Fields::check(&bytes, &Pools::none()), Ok(()));
            prop_assert_eq!(read(&bytes), fields);
        }

        #[test]
        fn what_passes_the_check_is_what_would_be_written(
            bytes in proptest::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..24)
        ) {
            if Fields::check(&bytes, &Pools::none()).is_ok() {
                prop_assert_eq!(write(&read(&bytes)), bytes);
            }
        }

        #[test]
        fn merging_overwrites_and_keeps(old in any_fields(), patch in any_fields()) {
            let (mut out, mut reference) = (Vec::new(), old.clone());
            reference.extend(patch.clone());
            let changed = merge(&write(&old), &write(&patch), &mut Interner::new(0), &mut out).unwrap();
            prop_assert_eq!(&out, &write(&reference));
            prop_assert_eq!(changed, reference != old);
        }

        #[test]
        fn nothing_takes_a_field_out_and_is_no_value(
            old in any_fields(), patch in proptest::collection::btree_map(0u16..12, proptest::option::of(any_value()), 0..8),
        ) {
            let (mut bytes, mut out) = (Vec::new(), Vec::new());
            let mut writer = FieldsWriter::new(&mut bytes);
            for (id, value) in &patch {
                let out = writer.field(FieldId(*id));
                match value {
                    Some(value) => encode(value, out),
                    None => put_nothing(out),
                }
            }
            prop_assert_eq!(Fields::check_patch(&bytes), Ok(()));
            prop_assert_eq!(Fields::check(&bytes, &Pools::none()).is_ok(), patch.values().all(Option::is_some));
            let mut reference = old.clone();
            for (id, value) in patch {
                match value {
                    Some(value) => reference.insert(id, value),
                    None => reference.remove(&id),
                };
            }
            let changed = merge(&write(&old), &bytes, &mut Interner::new(0), &mut out).unwrap();
            prop_assert_eq!(&out, &write(&reference));
            prop_assert_eq!(changed, reference != old);
            let mut again = Vec::new();
            prop_assert_eq!(merge(&out, &bytes, &mut Interner::new(0), &mut again), Ok(false));
        }

        #[test]
        fn texts_are_the_same_whether_interned_or_not(
            first in any_fields(), second in any_fields(), plain in any::<bool>(),
        ) {
            // The fields of the middle have pools, in which some of the texts are.
            let texts: Vec<_> = first.values().filter_map(|v| if let Value::String(text) = v { Some(text) } else { None })
                .filter(|text| (2..=64).contains(&text.len())).map(String::as_str).collect();
            let pooled: Vec<_> = (3..9).map(FieldId).filter(|_| !texts.is_empty()).map(|id| (id, &texts[..1])).collect();
            let mut interner = intern::tests::pooled(&pooled);
            let (mut old, mut new, mut again) = (Vec::new(), Vec::new(), Vec::new());
            // What was written before there were pools.
            let mut none = Interner::new(0);
            merge(&[], &write(&first), if plain { &mut none } else { &mut interner }, &mut old).unwrap();
            let pools = interner.pools().clone();
            prop_assert_eq!(read_all(&old, &pools), first.clone());
            let mut reference = first.clone();
            reference.extend(second.clone());
            let changed = merge(&old, &write(&second), &mut interner, &mut new).unwrap();
            prop_assert_eq!(read_all(&new, &pools), reference.clone());
            prop_assert_eq!(changed, reference != first);
            prop_assert_eq!(merge(&new, &write(&reference), &mut interner, &mut again), Ok(false));
            let mut fields = Fields::new(&again);
            let fields = std::iter::from_fn(|| fields.step().unwrap());
            let interned = fields.filter(|(_, value)| value.interned().is_some()).count();
            let expected = reference.iter().filter(|(id, value)| (3..9).contains(*id) && !pooled.is_empty()
                && matches!(value, Value::String(text) if (2..=64).contains(&text.len()))).count();
            prop_assert_eq!(interned, expected);
        }
    }
}
