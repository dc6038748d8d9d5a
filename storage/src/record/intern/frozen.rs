//! What was known of the texts of a collection at one moment, and its bytes in a snapshot.
//!
//! ```text
//! texts  := number of fields | field*
//! field  := id | stage u8 | sample, if the stage is 1 | pool, if it is 2        stage 0 is plain
//! sample := texts written | number of hashes | hash u32*
//! pool   := number of texts | text*                                             in order of their ids
//! text   := length | UTF-8
//! ```
//! Numbers are varints unless a width is given. Fields and hashes ascend.
//!
//! Invariant: what is read is what would be written; anything else is refused without panic.

use std::sync::Arc;

use larder_types::ids::FieldId;

use super::pools::{Pool, Text};
use super::sample::Sample;
use super::{MAX_BYTES, MAX_TEXTS, MIN_BYTES};
use crate::record::cursor::{Cursor, Malformed, put_varint};

const PLAIN: u8 = 0;
const SAMPLED: u8 = 1;
const POOLED: u8 = 2;

/// What was known of the texts of a collection at one moment. Shares the pools, which only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FrozenTexts(Vec<(FieldId, FrozenField)>);

/// What was known of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FrozenField {
    Plain,
    Sampled(Sample),
    Pooled(FrozenPool),
}

/// A pool at one moment: the first so many texts of what it has become.
#[derive(Clone)]
pub(super) struct FrozenPool {
    pool: Arc<Pool>,
    len: u32,
}

impl FrozenTexts {
    pub(super) fn new(fields: Vec<(FieldId, FrozenField)>) -> Self {
        Self(fields)
    }

    pub(super) fn fields(&self) -> &[(FieldId, FrozenField)] {
        &self.0
    }

    /// Appends the bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(self.0.len() as u64, out);
        for (id, field) in &self.0 {
            put_varint(u64::from(id.0), out);
            match field {
                FrozenField::Plain => out.push(PLAIN),
                FrozenField::Sampled(sample) => {
                    out.push(SAMPLED);
                    sample.encode(out);
                }
                FrozenField::Pooled(pool) => {
                    out.push(POOLED);
                    pool.encode(out);
                }
            }
        }
    }

    /// Reads them back.
    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let count = cursor.varint()?;
        let mut fields: Vec<(FieldId, FrozenField)> = Vec::new();
        for _ in 0..count {
            let id = u16::try_from(cursor.varint()?).map_err(|_| Malformed("a field id exceeds 16 bits"))?;
            if fields.last().is_some_and(|(last, _)| last.0 >= id) {
                return Err(Malformed("the fields whose texts are known are not in order"));
            }
            let field = match cursor.u8()? {
                PLAIN => FrozenField::Plain,
                SAMPLED => FrozenField::Sampled(Sample::decode(cursor)?),
                POOLED => FrozenField::Pooled(FrozenPool::decode(cursor)?),
                _ => return Err(Malformed("what is known of a field's texts is unknown")),
            };
            fields.push((FieldId(id), field));
        }
        Ok(Self(fields))
    }
}

impl FrozenPool {
    pub(super) fn new(pool: Arc<Pool>, len: u32) -> Self {
        Self { pool, len }
    }

    /// The texts in order of their ids.
    pub(super) fn texts(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len).filter_map(|id| self.pool.text(id)).map(Text::as_bytes)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(u64::from(self.len), out);
        for text in self.texts() {
            put_varint(text.len() as u64, out);
            out.extend_from_slice(text);
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let len = cursor.varint_u32()?;
        if len == 0 || len as usize > MAX_TEXTS {
            return Err(Malformed("a pool has no text or too many"));
        }
        let pool = Arc::new(Pool::default());
        for id in 0..len {
            let text = cursor.sized()?;
            if !(MIN_BYTES..=MAX_BYTES).contains(&text.len()) {
                return Err(Malformed("a text in a pool is too short or too long"));
            }
            pool.add(id, std::str::from_utf8(text).map_err(|_| Malformed("a text is not UTF-8"))?);
        }
        Ok(Self { pool, len })
    }
}

impl PartialEq for FrozenPool {
    fn eq(&self, other: &Self) -> bool {
        self.texts().eq(other.texts())
    }
}

impl Eq for FrozenPool {}

impl std::fmt::Debug for FrozenPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Texts are contents of records: they are counted, not shown.
        write!(f, "{} texts", self.len)
    }
}
