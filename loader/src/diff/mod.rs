//! The diff: which rows of a query's result differ from what the cluster has acknowledged.
//!
//! A radix-partitioned hash join of (key, 128-bit row hash). Rows stream in once, are spilled by the top bits of their
//! key's hash, and each part is then joined with the same part of the acknowledged state in a table that fits the
//! processor's caches. Measured against one big table, LMDB, redb and fjall this was 3 to 13 times faster, and it
//! needs neither a sort nor an `ORDER BY`, whose collation may not be byte order.
//!
//! Memory is bounded, whatever the size of the result:
//!
//! * incoming rows: at most [`SPILL_BYTES`], the rest goes to a file; of the changes found, one block;
//! * the join: keys and hashes of one part, which holds about [`ROWS_PER_PART`] rows: with keys of 20 bytes some
//!   10 MB, and the rows themselves if they have no more than 8 MiB. Otherwise they are read a block at a time, twice.
//!
//! So 100 million rows take about 1000 parts and 40 MB. On disk they take the mapped columns once (the first GiB as it
//! is, the rest compressed) and once more those of the rows that are to be sent. The query is never asked twice, and a
//! row's bytes are mapped only after the join has found that they are to be sent.

pub(crate) mod acknowledged;
pub(crate) mod block;
pub(crate) mod hash;
pub(crate) mod join;
pub(crate) mod marks;
pub(crate) mod slots;
pub(crate) mod snapshot;
pub(crate) mod spill;
#[cfg(test)]
mod tests;
pub(crate) mod warehouse;

use std::path::Path;

use larder_types::key::Key;

use self::hash::{HashSecret, RowHash};
use self::spill::{Spill, SpillError, Spilled};

/// Bytes of rows that are held in memory before they go to a file. A hundred thousand narrow rows: the common small
/// query never touches the disk.
pub(crate) const SPILL_BYTES: usize = 16 * 1024 * 1024;

/// Rows that a part of the key space should hold.
pub(crate) const ROWS_PER_PART: u64 = 100_000;

/// Takes in the rows of a query, once.
pub(crate) struct Intake {
    spill: Spill,
    secret: HashSecret,
}

/// One row that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowRecord<'a> {
    /// Its place in the query's result, from 1.
    pub(crate) number: u64,
    pub(crate) hash: RowHash,
    pub(crate) key: &'a str,
    /// The mapped cells.
    pub(crate) cells: &'a [u8],
}

impl Intake {
    /// `dir` takes the spill file, if one is needed.
    pub(crate) fn new(dir: &Path, parts: spill::Parts, secret: HashSecret, budget: usize) -> Self {
        Self { spill: Spill::new(dir, parts, budget), secret }
    }

    /// Takes one row: its place in the result, its key and its mapped cells.
    pub(crate) fn add(&mut self, number: u64, key: &Key, cells: &[u8]) -> Result<(), SpillError> {
        self.add_hashed((number, self.secret.row(cells)), key, cells)
    }

    /// Takes one row whose place and hash, made elsewhere, are given.
    pub(crate) fn add_hashed(
        &mut self,
        (number, hash): (u64, RowHash),
        key: &Key,
        cells: &[u8],
    ) -> Result<(), SpillError> {
        let at = self.secret.key(key.as_bytes());
        self.spill.push(at, |out| {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&hash.to_bytes());
            put_key(key.as_str(), out);
            out.extend_from_slice(cells);
        })
    }

    /// All rows are in.
    pub(crate) fn finish(self) -> Spilled {
        self.spill.finish()
    }
}

impl<'a> RowRecord<'a> {
    /// Reads a record as [`Intake::add`] wrote it.
    pub(crate) fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let number = u64::from_le_bytes(take(&mut bytes)?);
        let hash = RowHash::from_bytes(take(&mut bytes)?);
        let key = take_key(&mut bytes)?;
        Some(Self { number, hash, key, cells: bytes })
    }
}

/// Appends a key with its length; keys are at most 1 KiB long, see [`larder_types::limits::MAX_KEY_BYTES`].
#[allow(clippy::expect_used, reason = "keys were checked when they were made")]
pub(crate) fn put_key(key: &str, out: &mut Vec<u8>) {
    let len = u16::try_from(key.len()).expect("keys are at most 1 KiB long");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(key.as_bytes());
}

/// Reads a key and moves `bytes` past it.
pub(crate) fn take_key<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::from(u16::from_le_bytes(take(bytes)?));
    let (key, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    std::str::from_utf8(key).ok()
}

/// Reads an array of bytes and moves `bytes` past it.
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}
