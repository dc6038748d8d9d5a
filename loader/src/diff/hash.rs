//! Hashes of keys and rows, with a secret of the sync's own.
//!
//! The secret keeps people who can write warehouse rows from aiming at two rows with one hash, which the diff would
//! take for one row. It lives as long as the sync's state, because all hashes in there were made with it.

use xxhash_rust::xxh3::{xxh3_64_with_secret, xxh3_128_with_secret};

/// Bytes of a secret: what XXH3 uses of it, and more than its minimum of 136.
pub(crate) const SECRET_BYTES: usize = 192;

/// What hashes are made with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HashSecret([u8; SECRET_BYTES]);

/// The hash of a row's mapped cells, or a mark that says that the cluster's row is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowHash(u128);

impl HashSecret {
    /// A new secret.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    pub(crate) fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// The hash by which keys are spread over the parts.
    pub(crate) fn key(&self, key: &[u8]) -> u64 {
        xxh3_64_with_secret(key, &self.0)
    }

    /// The hash of a row's mapped cells.
    pub(crate) fn row(&self, cells: &[u8]) -> RowHash {
        RowHash::of_row(xxh3_128_with_secret(cells, &self.0))
    }
}

impl std::fmt::Debug for HashSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashSecret")
    }
}

impl RowHash {
    /// Of a row whose state at the cluster is not known. No row has this hash, so it always counts as changed.
    pub(crate) const UNKNOWN: Self = Self(0);

    /// Of a key whose record is known to be gone, where that must be said because something else names the key.
    pub(crate) const GONE: Self = Self(1);

    /// A hash of a row. It is none of the marks.
    pub(crate) fn of_row(hash: u128) -> Self {
        Self(hash.max(2))
    }

    /// The hash, if there is a record.
    pub(crate) fn of_record(self) -> Option<Self> {
        (self != Self::GONE).then_some(self)
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}
