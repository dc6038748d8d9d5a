//! Mapping a whole file into memory, read-only: the one place of this module that is `unsafe`.
//!
//! Invariant: only files that nobody writes again are mapped. Snapshots are written under a temporary name and renamed
//! when complete; after that they are only ever removed, which leaves existing mappings valid.

#![allow(unsafe_code, reason = "a file mapping is only as immutable as the file; the invariant above makes it so")]

use std::fs::File;
use std::io;

use memmap2::{Advice, Mmap};

use super::{Content, FileBytes};

/// Maps the file. An empty file cannot be mapped and gives empty bytes.
pub(super) fn map(file: &File) -> io::Result<FileBytes> {
    if file.metadata()?.len() == 0 {
        return Ok(FileBytes::from(Vec::new()));
    }
    // SAFETY: the mapping is read-only and, by the invariant of this module, no byte of the file changes and the file
    // is not cut while it is mapped. The data directory belongs to this process alone (`Disk::lock`).
    let map = unsafe { Mmap::map(file)? };
    // Only a hint: files are verified from front to back before anything else.
    let _ = map.advise(Advice::Sequential);
    Ok(FileBytes(Content::Mapped(map)))
}
