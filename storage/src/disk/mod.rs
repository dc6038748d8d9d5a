//! All access to disk goes through the [`Disk`] trait, so that tests can put faults and power cuts below it.
//!
//! The trait is the part of POSIX that a log and snapshots need, and promises no more than POSIX does:
//!
//! 1. What was written to a file is on disk after [`DiskFile::sync_data`], and not surely before.
//! 2. What was done to a directory's entries (create, rename, remove) is on disk after [`Disk::sync_dir`], and not
//!    surely before; a rename happens whole or not at all.
//! 3. After a sync has failed nobody knows what is on disk, and a second sync proves nothing.
//!
//! [`RealDisk`] is the operating system's file system, [`FakeDisk`] one in memory that breaks every promise it may.
//! Paths are relative to the disk's root.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

mod fake;
mod mapping;
mod real;

pub use fake::{FakeDisk, Operation};
pub use real::RealDisk;

/// A file system below one directory.
pub trait Disk: Send + Sync + 'static {
    /// Makes a new, empty file, open for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one of that name, or what the file system says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is none, or what the file system says.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// A whole file, memory-mapped where that is possible. The file must never change again.
    ///
    /// # Errors
    /// `NotFound` if there is none, or what the file system says.
    fn read(&self, path: &Path) -> io::Result<FileBytes>;

    /// Renames a file within its directory, replacing what has the new name.
    ///
    /// # Errors
    /// `NotFound` if there is none, or what the file system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Whoever has it open can go on using it.
    ///
    /// # Errors
    /// `NotFound` if there is none, or what the file system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names of the files in a directory, sorted. Names that are not UTF-8 are left out: they are not ours.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory, or what the file system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a directory and those above it, unless they exist. They are on disk when this returns.
    ///
    /// # Errors
    /// What the file system says.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Puts the directory's entries on disk.
    ///
    /// # Errors
    /// What the file system says; then nobody knows which entries are on disk.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes a directory for this owner alone, until the lock is dropped or the process ends.
    ///
    /// # Errors
    /// `ResourceBusy` if another holds it, or what the file system says.
    fn lock(&self, dir: &Path) -> io::Result<DirLock>;
}

/// An open file. Offsets and lengths are in bytes.
pub trait DiskFile: Send + Sync {
    /// Fills the buffer from this offset on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before, or what the file system says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all bytes at this offset, extending the file if need be.
    ///
    /// # Errors
    /// What the file system says; any part may have been written then.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Puts content and length on disk.
    ///
    /// # Errors
    /// What the file system says; then nobody knows what is on disk.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// What the file system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Length of the file.
    ///
    /// # Errors
    /// What the file system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// What the file system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The bytes of a whole file.
pub struct FileBytes(Content);

enum Content {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Content::Mapped(map) => map,
            Content::Owned(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Content::Owned(bytes))
    }
}

impl fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileBytes({} bytes)", self.len())
    }
}

/// A directory taken for one owner; dropping it gives the directory back.
pub struct DirLock {
    _held: Box<dyn Send + Sync>,
}

impl fmt::Debug for DirLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirLock")
    }
}

/// Whether an error says that the disk, or the share of it that we may use, is full.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
