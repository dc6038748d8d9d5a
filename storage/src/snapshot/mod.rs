//! Snapshots: a group's whole state at one log id, as a mappable file.
//!
//! CONTRACT STUB: signatures for `replication`; the owner may add to, but not break, them.
//!
//! A file holds a header with two blobs that this module does not interpret (`head`: the caller's own words, such as
//! log id and membership; `meta`: the state machine's), then blocks of at most 1 MiB, then a footer with checksums.

use std::io;
use std::path::Path;
use std::sync::Arc;

use larder_types::ids::GroupId;

use crate::disk::Disk;

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk failed.
    #[error("the snapshot cannot be read or written")]
    Io(#[from] io::Error),
    /// The file is not what was written. Which file, where, and what to do, in a sentence.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
}

/// A directory with the snapshots of all groups of a node.
#[derive(Clone)]
pub struct SnapshotStore {}

/// A snapshot on disk whose every byte was checked.
pub struct Snapshot {}

impl SnapshotStore {
    /// Opens the directory, creating it if need be, and removes what an interrupted write has left.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, SnapshotError> {
        todo!()
    }

    /// Writes a group's snapshot with position `index`; on return it is durable, and older ones of the group are gone.
    ///
    /// # Errors
    /// When the disk fails; older snapshots are then untouched.
    pub fn write(
        &self,
        group: GroupId,
        index: u64,
        head: &[u8],
        meta: &[u8],
        blocks: &mut dyn Iterator<Item = Vec<u8>>,
    ) -> Result<(), SnapshotError> {
        todo!()
    }

    /// The group's newest snapshot, verified, or `None` if it has none.
    ///
    /// # Errors
    /// When the disk fails or the file is damaged. A damaged snapshot is never skipped in silence, since the log
    /// before it may be gone.
    pub fn load(&self, group: GroupId) -> Result<Option<Snapshot>, SnapshotError> {
        todo!()
    }
}

impl Snapshot {
    /// The caller's blob.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        todo!()
    }

    /// The state machine's blob.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        todo!()
    }

    /// The blocks in order.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::empty()
    }

    /// Bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        todo!()
    }
}
