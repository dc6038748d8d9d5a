//! The next segment's file, prepared before it is needed: all its bytes written once, so that using it needs no space
//! and syncing it no metadata.
//!
//! The file is `spare`. It is filled in steps, each synced, so that no step keeps the log waiting for long. A segment
//! that nobody needs any more becomes the spare as it is. What is in it does not matter: frames of another life never
//! validate, since the salt differs.
//!
//! Only this file ever grows, so only here can a full disk show. Then nothing is lost and the step is tried again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, is_full};

/// Bytes filled at a time: a few milliseconds. Each step makes the file system commit its journal, so smaller ones cost
/// more than they spare the writers who wait meanwhile.
const STEP_BYTES: usize = 4 << 20;

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The spare is ready.
    Ready,
    /// There is more to do.
    More,
    /// The disk is full.
    Full,
}

/// The file of the next segment.
pub(super) struct Spare {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Length of the file when it is ready.
    bytes: u64,
    /// How much of it is written.
    filled: u64,
    file: Option<Box<dyn DiskFile>>,
}

impl Spare {
    /// Takes over what an earlier life of the log has prepared.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, bytes: u64) -> io::Result<Self> {
        let mut spare = Self { disk, dir: dir.to_path_buf(), bytes, filled: 0, file: None };
        let file = match spare.disk.open(&spare.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(spare),
            Err(error) => return Err(error),
        };
        let len = file.len()?;
        if len > bytes {
            file.set_len(bytes)?;
        }
        // The last step may have been interrupted; a file of full length was interrupted at its last sync at most.
        spare.filled = if len < bytes { len - len % STEP_BYTES as u64 } else { bytes };
        spare.file = Some(file);
        Ok(spare)
    }

    /// Bytes of the file when it is ready.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the file that are ready.
    pub(super) fn filled(&self) -> u64 {
        self.filled
    }

    pub(super) fn is_ready(&self) -> bool {
        self.filled == self.bytes
    }

    /// Fills one step more.
    ///
    /// # Errors
    /// When the disk fails in any way but being full.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        if self.is_ready() {
            return Ok(Step::Ready);
        }
        match self.fill(true) {
            Ok(()) if self.is_ready() => Ok(Step::Ready),
            Ok(()) => Ok(Step::More),
            Err(error) if is_full(&error) => Ok(Step::Full),
            Err(error) => Err(error),
        }
    }

    /// Writes this to the start of the file, syncs it and gives the file away under its new name.
    ///
    /// # Errors
    /// `StorageFull` if the file cannot be filled to the end, or what else the disk says.
    pub(super) fn take(&mut self, name: &Path, header: &[u8]) -> io::Result<Box<dyn DiskFile>> {
        // The sync of the header is theirs too.
        while !self.is_ready() {
            self.fill(false)?;
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => self.disk.open(&self.path())?,
        };
        file.write_at(0, header)?;
        file.sync_data()?;
        self.disk.rename(&self.path(), name)?;
        self.disk.sync_dir(&self.dir)?;
        self.filled = 0;
        Ok(file)
    }

    /// Takes over a segment's file that nobody needs any more, if it is of use.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn recycle(&mut self, name: &Path, bytes: u64) -> io::Result<bool> {
        if self.is_ready() || bytes != self.bytes {
            return Ok(false);
        }
        self.disk.rename(name, &self.path())?;
        self.file = None;
        self.filled = bytes;
        Ok(true)
    }

    fn fill(&mut self, sync: bool) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(self.disk.create(&self.path())?),
        };
        let rest = usize::try_from(self.bytes - self.filled).unwrap_or(usize::MAX);
        let zeros = vec![0; rest.min(STEP_BYTES)];
        file.write_at(self.filled, &zeros)?;
        if sync {
            file.sync_data()?;
        }
        self.filled += zeros.len() as u64;
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.dir.join("spare")
    }
}
