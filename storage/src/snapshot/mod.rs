//! Snapshots: a group's whole state at one log id, as a mappable file.
//!
//! A file holds a header with two blobs that this module does not interpret (`head`: the caller's own words, such as
//! log id and membership; `meta`: the state machine's), then blocks of at most 1 MiB, then a footer with checksums.
//! `format.rs` has the bytes.
//!
//! Files: `<group, 5 digits>-<index, 20 digits>.snapshot`; while being written, the same with `.partial` at the end.
//!
//! Invariants:
//! 1. A file has its final name only when all of it is on disk, and is never changed after that.
//! 2. An older snapshot is removed only when a newer one of the group has its name on disk.
//! 3. Nothing is handed out that has not passed its checksum, padding included. The blocks are checked as they are taken,
//!    so that a file is read from disk once, however large.
//! 4. [`SnapshotStore::load`] never looks past the newest file.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use larder_types::ids::GroupId;

use crate::disk::{Disk, FileBytes};

mod format;
mod incoming;
#[cfg(test)]
mod tests;
mod writer;

pub use format::MAX_BLOCK_BYTES;
pub use incoming::{Arrived, Incoming};

const EXTENSION: &str = ".snapshot";
const PARTIAL: &str = ".snapshot.partial";

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk failed. If it is full the kind is `StorageFull`, and nothing but the space is missing.
    #[error("the snapshot cannot be read or written")]
    Io(#[from] io::Error),
    /// The file is not what was written. Which file, where, and what to do, in a sentence.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    /// Another version of the program has written the file. Which file, and what to do, in a sentence.
    #[error("the snapshot is of another version: {0}")]
    Version(String),
}

/// What a snapshot is written from, or why there is nothing more to be written.
type Block<'a> = Result<Cow<'a, [u8]>, SnapshotError>;

/// A directory with the snapshots of all groups of a node. One writer a group at a time.
#[derive(Clone)]
pub struct SnapshotStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Snapshots that began to arrive.
    arrivals: Arc<AtomicU64>,
}

/// A snapshot on disk. Stays readable when it is replaced by a newer one.
pub struct Snapshot {
    path: PathBuf,
    index: u64,
    bytes: FileBytes,
    head: Range<usize>,
    meta: Range<usize>,
    blocks: Vec<format::Block>,
}

impl SnapshotStore {
    /// Opens the directory, creating it if need be, and removes what an interrupted write has left.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, SnapshotError> {
        disk.create_dir(dir)?;
        // What is shown must stay, before anything older is removed.
        disk.sync_dir(dir)?;
        let store = Self { disk, dir: dir.to_path_buf(), arrivals: Arc::default() };
        let names = store.disk.list(dir)?;
        for name in names.iter().filter(|name| name.ends_with(PARTIAL)) {
            store.disk.remove(&dir.join(name))?;
        }
        let files: Vec<(GroupId, u64)> = names.iter().filter_map(|name| parse(name)).collect();
        // Sorted by group, then index: whoever is followed by one of the same group is older.
        for pair in files.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            store.disk.remove(&store.path(pair[0].0, pair[0].1))?;
        }
        Ok(store)
    }

    /// Writes a group's snapshot with position `index`; on return it is durable, and older ones of the group are gone.
    ///
    /// # Errors
    /// When the disk fails; older snapshots are then untouched, unless only their removal failed. After a failed sync
    /// the node must stop, as after a failure of the log.
    ///
    /// # Panics
    /// If a block is empty or longer than [`MAX_BLOCK_BYTES`].
    pub fn write<'a>(
        &self,
        group: GroupId,
        index: u64,
        head: &[u8],
        meta: &[u8],
        blocks: impl Iterator<Item = Cow<'a, [u8]>>,
    ) -> Result<(), SnapshotError> {
        self.put(group, index, [head, meta], blocks.map(Ok))
    }

    /// Writes a snapshot of a group that stands elsewhere, as [`SnapshotStore::write`] would.
    ///
    /// # Errors
    /// As there, and when the snapshot is damaged; older ones are then untouched too.
    pub fn copy(&self, group: GroupId, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let blocks = (0..snapshot.block_count()).map(|number| snapshot.block(number).map(Cow::Borrowed));
        self.put(group, snapshot.index, [snapshot.head(), snapshot.meta()], blocks)
    }

    fn put<'a>(
        &self,
        group: GroupId,
        index: u64,
        blobs: [&[u8]; 2],
        blocks: impl Iterator<Item = Block<'a>>,
    ) -> Result<(), SnapshotError> {
        let partial = self.dir.join(name(group, index, PARTIAL));
        let header = format::Header::new(group, index, blobs[0], blobs[1]);
        if let Err(error) = self.write_partial(&partial, header, blobs, blocks) {
            // Only to give the space back: opening the directory would remove it too.
            let _ = self.disk.remove(&partial);
            return Err(error);
        }
        self.show(&partial, group, index)
    }

    /// Gives a file that is whole and on disk its final name, and removes older ones.
    fn show(&self, file: &Path, group: GroupId, index: u64) -> Result<(), SnapshotError> {
        self.disk.rename(file, &self.path(group, index))?;
        self.disk.sync_dir(&self.dir)?;
        for older in self.indexes(group)?.into_iter().filter(|&older| older < index) {
            self.disk.remove(&self.path(group, older))?;
        }
        Ok(())
    }

    /// The group's newest snapshot, verified but for its blocks, or `None` if it has none.
    ///
    /// # Errors
    /// When the disk fails, or the file is damaged or of another version. A damaged snapshot is never skipped in silence, since the log
    /// before it may be gone.
    pub fn load(&self, group: GroupId) -> Result<Option<Snapshot>, SnapshotError> {
        loop {
            let Some(index) = self.indexes(group)?.pop() else { return Ok(None) };
            let path = self.path(group, index);
            match self.disk.read(&path) {
                Ok(bytes) => {
                    return Snapshot::verify(path, bytes, group, index).map(Some);
                }
                // A newer one has replaced it since we looked.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && self.indexes(group)?.last() != Some(&index) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write_partial<'a>(
        &self,
        partial: &Path,
        header: format::Header,
        [head, meta]: [&[u8]; 2],
        blocks: impl Iterator<Item = Block<'a>>,
    ) -> Result<(), SnapshotError> {
        match self.disk.remove(partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let file = self.disk.create(partial)?;
        let mut writer = writer::Writer::new(&*file);
        writer.front(header, head, meta)?;
        for block in blocks {
            writer.block(&block?)?;
        }
        writer.footer()?;
        Ok(file.sync_data()?)
    }

    /// Bytes of the group's newest snapshot; 0 if it has none.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn bytes(&self, group: GroupId) -> Result<u64, SnapshotError> {
        match self.indexes(group)?.pop() {
            Some(index) => Ok(self.disk.open(&self.path(group, index))?.len()?),
            None => Ok(0),
        }
    }

    /// The positions of the group's snapshots, ascending.
    fn indexes(&self, group: GroupId) -> io::Result<Vec<u64>> {
        let names = self.disk.list(&self.dir)?;
        Ok(names.iter().filter_map(|name| parse(name)).filter(|file| file.0 == group).map(|file| file.1).collect())
    }

    fn path(&self, group: GroupId, index: u64) -> PathBuf {
        self.dir.join(name(group, index, EXTENSION))
    }
}

impl Snapshot {
    /// The bytes of the file.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.bytes
    }

    /// The checksum of the file's header, which covers that of all before the blocks: names the file among those of its
    /// group and position.
    #[must_use]
    pub fn header_checksum(&self) -> u32 {
        format::header_checksum(&self.bytes)
    }

    /// The position it was written with.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The caller's blob.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.bytes[self.head.clone()]
    }

    /// The state machine's blob.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.bytes[self.meta.clone()]
    }

    /// The number of blocks.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// A block, which is checked now.
    ///
    /// # Errors
    /// When it is damaged.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block(&self, number: usize) -> Result<&[u8], SnapshotError> {
        self.blocks[number].verify(&self.bytes).map_err(|damage| damaged(&self.path, damage))
    }

    /// Bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn verify(path: PathBuf, bytes: FileBytes, group: GroupId, index: u64) -> Result<Self, SnapshotError> {
        let layout = match format::verify(&bytes) {
            Ok(layout) if (layout.group, layout.index) == (group, index) => layout,
            Ok(_) => return Err(damaged(&path, (12, "the header is another snapshot's"))),
            Err(format::Refusal::Damage(damage)) => return Err(damaged(&path, damage)),
            Err(format::Refusal::Version(version)) => return Err(of_version(&path, version)),
        };
        let format::Layout { head, meta, blocks, .. } = layout;
        Ok(Self { path, index, bytes, head, meta, blocks })
    }
}

#[cfg(test)]
#[cfg(not(loom))]
impl Snapshot {
    /// A snapshot with this content, in memory.
    pub(crate) fn of(meta: &[u8], blocks: &[Vec<u8>]) -> Self {
        let store = SnapshotStore::open(Arc::new(crate::disk::FakeDisk::new()), Path::new("snapshots")).unwrap();
        store.write(GroupId(1), 1, b"", meta, blocks.iter().map(|block| Cow::Borrowed(&block[..]))).unwrap();
        store.load(GroupId(1)).unwrap().unwrap()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot(index {}, {} blocks, {} bytes)", self.index, self.blocks.len(), self.bytes.len())
    }
}

impl fmt::Debug for SnapshotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotStore({})", self.dir.display())
    }
}

fn damaged(path: &Path, (offset, what): format::Damage) -> SnapshotError {
    SnapshotError::Damaged(format!(
        "{} at offset {offset}: {what}. Do not remove the file: the log before it may be gone. Restore this replica \
         from its peers or from a copy of the whole directory.",
        path.display()
    ))
}

fn of_version(path: &Path, version: u32) -> SnapshotError {
    SnapshotError::Version(format!(
        "{} is of format {version}, and this program reads and writes format {}. Start this data directory with the \
         version that wrote it, or begin with an empty data directory and load the collections again.",
        path.display(),
        format::VERSION
    ))
}

fn name(group: GroupId, index: u64, extension: &str) -> String {
    format!("{:05}-{index:020}{extension}", group.0)
}

/// Group and index of a complete snapshot's file name.
fn parse(file: &str) -> Option<(GroupId, u64)> {
    let (group, index) = file.strip_suffix(EXTENSION)?.split_once('-')?;
    let (group, index) = (GroupId(group.parse().ok()?), index.parse().ok()?);
    // Only names that we would give, so that they sort like their numbers.
    (name(group, index, EXTENSION) == file).then_some((group, index))
}
