//! What was known of the texts of a collection at one moment, and its bytes in a snapshot.
//!
//! ```text
//! texts  := number of fields | field*
//! field  := id | stage u8 | sample, if the stage is 1 | pool, if it is 2        stage 0 is plain
//! sample := texts written | number of hashes | hash u32*
//! pool   := number of texts | text*                                             in order of their ids
//! text   := length | UTF-8
//! ```
//! Numbers are varints unless a width is given. Fields and hashes ascend. A hash is the lower half of a text's `KeyHash`
//! with the cluster's seed.
//!
//! Invariant: what is read is what would be written; anything else is refused without panic.

use std::sync::Arc;

use larder_types::ids::FieldId;

use super::pools::{Pools, Text};
use super::sample::Sample;
use super::{MAX_BYTES, MAX_TEXTS, MIN_BYTES};
use crate::record::cursor::{Cursor, Malformed, put_varint};

const PLAIN: u8 = 0;
const SAMPLED: u8 = 1;
const POOLED: u8 = 2;

/// What was known of the texts of a collection at one moment. Shares the pools, which only grow.
#[derive(Clone, Default)]
pub(crate) struct FrozenTexts {
    pools: Arc<Pools>,
    /// In ascending order.
    fields: Vec<(FieldId, FrozenField)>,
}

/// What was known of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FrozenField {
    Plain,
    Sampled(Sample),
    /// Its pool had so many texts.
    Pooled(u32),
}

impl FrozenTexts {
    pub(super) fn new(pools: Arc<Pools>, fields: Vec<(FieldId, FrozenField)>) -> Self {
        Self { pools, fields }
    }

    pub(super) fn fields(&self) -> &[(FieldId, FrozenField)] {
        &self.fields
    }

    /// The first texts of a field's pool, in order of their ids.
    pub(super) fn texts(&self, field: FieldId, len: u32) -> impl Iterator<Item = &str> {
        (0..len).filter_map(move |id| self.pools.text(field, id)).map(Text::as_str)
    }

    /// Appends the bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(self.fields.len() as u64, out);
        for (id, field) in &self.fields {
            put_varint(u64::from(id.0), out);
            match field {
                FrozenField::Plain => out.push(PLAIN),
                FrozenField::Sampled(sample) => {
                    out.push(SAMPLED);
                    sample.encode(out);
                }
                FrozenField::Pooled(len) => {
                    out.push(POOLED);
                    put_varint(u64::from(*len), out);
                    for text in self.texts(*id, *len) {
                        put_varint(text.len() as u64, out);
                        out.extend_from_slice(text.as_bytes());
                    }
                }
            }
        }
    }

    /// Reads them back.
    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let mut texts = Self::default();
        for _ in 0..cursor.varint()? {
            let id = u16::try_from(cursor.varint()?).map_err(|_| Malformed("a field id exceeds 16 bits"))?;
            if texts.fields.last().is_some_and(|(last, _)| last.0 >= id) {
                return Err(Malformed("the fields whose texts are known are not in order"));
            }
            let field = match cursor.u8()? {
                PLAIN => FrozenField::Plain,
                SAMPLED => FrozenField::Sampled(Sample::decode(cursor)?),
                POOLED => FrozenField::Pooled(decode_pool(cursor, FieldId(id), &texts.pools)?),
                _ => return Err(Malformed("what is known of a field's texts is unknown")),
            };
            texts.fields.push((FieldId(id), field));
        }
        Ok(texts)
    }
}

/// Reads the texts of a field into its pool. Returns their number.
fn decode_pool(cursor: &mut Cursor<'_>, field: FieldId, pools: &Pools) -> Result<u32, Malformed> {
    let len = cursor.varint_u32()?;
    if len == 0 || len as usize > MAX_TEXTS {
        return Err(Malformed("a pool has no text or too many"));
    }
    for id in 0..len {
        let text = cursor.sized()?;
        if !(MIN_BYTES..=MAX_BYTES).contains(&text.len()) {
            return Err(Malformed("a text in a pool is too short or too long"));
        }
        pools.add(field, id, std::str::from_utf8(text).map_err(|_| Malformed("a text is not UTF-8"))?);
    }
    Ok(len)
}

impl PartialEq for FrozenTexts {
    fn eq(&self, other: &Self) -> bool {
        let same_texts = |(id, field): &(FieldId, FrozenField)| match field {
            FrozenField::Pooled(len) => self.texts(*id, *len).eq(other.texts(*id, *len)),
            FrozenField::Plain | FrozenField::Sampled(_) => true,
        };
        self.fields == other.fields && self.fields.iter().all(same_texts)
    }
}

impl Eq for FrozenTexts {}

impl std::fmt::Debug for FrozenTexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Texts are contents of records: they are counted, not shown.
        f.debug_tuple("FrozenTexts").field(&self.fields).finish()
    }
}
