//! All access to disk goes through the [`Disk`] trait, so that tests can put faults and power cuts below it.
//!
//! CONTRACT STUB: the owner of `storage/{disk,log,snapshot}` designs trait, real disk and fake disk.

/// A file system below one directory.
pub trait Disk: Send + Sync + 'static {}

/// The operating system's file system.
#[derive(Debug, Default)]
pub struct RealDisk {}

impl RealDisk {
    /// A disk rooted at this directory, which is created if need be. Paths given to the disk are relative to it.
    ///
    /// # Errors
    /// When the directory cannot be created or opened.
    pub fn open(root: &std::path::Path) -> std::io::Result<Self> {
        todo!()
    }
}

impl Disk for RealDisk {}
