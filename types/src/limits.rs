//! Every bound on input that more than one crate must agree on, with its unit and its reason.
//!
//! A limit that only one crate enforces lives in that crate, beside the code that enforces it.

/// Longest key in bytes. A key stands in a URL, so it must fit a request line with room to spare.
pub const MAX_KEY_BYTES: usize = 1024;

/// Longest collection, sync or index name in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Longest field name in bytes of UTF-8.
pub const MAX_FIELD_NAME_BYTES: usize = 128;

/// Most fields that a collection may ever declare. Field ids are 16 bits wide and never used twice.
pub const MAX_FIELDS: usize = 4096;

/// Most syncs that a collection may ever declare. Sync slots are 8 bits wide and never used twice.
pub const MAX_SYNCS: usize = 250;

/// Largest record in bytes, key and all fields together. A record must fit an arena segment several times over.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// Deepest nesting of a list or struct value.
pub const MAX_DEPTH: usize = 32;

/// Largest batch body in bytes once decompressed.
pub const MAX_BATCH_BYTES: usize = 64 * 1024 * 1024;

/// Most patches in one batch: keeps the answer, which may reject each of them by name, within bounds.
pub const MAX_BATCH_ROWS: usize = 10_000;

/// Highest batch sequence number of a run, so that what a shard remembers of a run stays small.
pub const MAX_SEQ: u32 = 1_000_000;

/// Largest decimal scale: digits after the point.
pub const MAX_DECIMAL_SCALE: u8 = 38;
