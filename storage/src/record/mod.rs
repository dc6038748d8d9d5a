//! Records: their compact, self-describing encoding, and what patches make of them.
//!
//! A record is one run of bytes, the same in an arena segment, in a block of a snapshot and on its way there. All
//! numbers are little-endian; a varint is described in `cursor`.
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | header: bits 0 to 18 the record's length in bytes with this header, bits 19 to 28 the key's length less one, bits 29 to 31 flags, all 0 |
//! | 1 to 1024 | the key |
//! | 1 to 10 | varint: version, the log index of the last patch that changed a value |
//! | … | groups up to the record's end, one for each sync that has fields in the record, in ascending order of slot |
//!
//! A group:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | the sync's slot |
//! | 1 | its number of clears when the group was written, see `clears` |
//! | 1 to 5 | varint: generation of the run that last touched the record |
//! | 4 | when it did, in seconds since 1970-01-01T00:00:00Z, unsigned |
//! | 1 to 3 | varint: length of the fields |
//! | … | the fields, see `fields`, their values in the encoding of `value` |
//!
//! A record without groups is a record all the same: it shows as `{}`.
//!
//! Invariants:
//! 1. A record that readers can see never changes; a patch makes another one.
//! 2. Bytes from a log entry or a snapshot pass `check` before anything else is done with them: it returns errors and
//!    never panics. What has passed is walked without further checks of content.
//! 3. Contents have one encoding, so equality of bytes is equality of values. Only a text has two when it is stored: as
//!    it is, or as its id in the pool of its field, see `intern`. A patch has it as it is, and is compared as both.
//! 4. The key follows the header at a fixed place: a lookup compares it without reading anything else.

pub(crate) mod clears;
pub(crate) mod cursor;
mod dictionary;
mod digits;
mod field_set;
pub(crate) mod fields;
pub(crate) mod intern;
mod json;
mod json_out;
pub(crate) mod merge;
mod padded_text;
pub(crate) mod row;
#[cfg(test)]
mod tests;
pub(crate) mod value;
mod view;

pub use dictionary::Dictionary;
pub use field_set::FieldSet;
pub use view::{GroupInfo, RecordCopy, RecordView};
