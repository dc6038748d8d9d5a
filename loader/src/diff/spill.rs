//! Spilling: records in parts by their key's hash, in memory while they are few and in a file when they are many.
//!
//! All parts share one file, which has no name once it is open: it is gone when the process is, however that ends.
//! Within a part, records come back in the order in which they went in.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::ROWS_PER_PART;
use super::block::{self, BlockError};

/// Fewest parts of a real run: even a first run of unknown size has parts small enough for 25 million rows.
const MIN_PARTS: u64 = 256;
/// Most parts. With more, the blocks that a part writes at a time become too small to compress.
const MAX_PARTS: u64 = 4096;

/// A number of parts: a power of two. The top bits of a key's hash name its part, so the parts of a coarser division
/// are unions of those of a finer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Parts(u32);

impl Parts {
    pub(crate) const ONE: Self = Self(1);

    /// For so many rows.
    pub(crate) fn for_rows(rows: u64) -> Self {
        let parts = (rows / ROWS_PER_PART).next_power_of_two().clamp(MIN_PARTS, MAX_PARTS);
        Self(u32::try_from(parts).unwrap_or(1))
    }

    /// `None` unless `count` is a power of two within bounds.
    pub(crate) fn new(count: u32) -> Option<Self> {
        (count.is_power_of_two() && u64::from(count) <= MAX_PARTS).then_some(Self(count))
    }

    pub(crate) fn get(self) -> usize {
        self.0 as usize
    }

    /// The part of a key with this hash.
    pub(crate) fn of(self, hash: u64) -> usize {
        // Two shifts, because one part has no bits to name it and a shift by all 64 is undefined.
        (hash >> 1 >> (63 - self.0.trailing_zeros())) as usize
    }
}

/// Why records could not be spilled or read back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpillError {
    /// The file cannot be made, written or read: most likely the disk is full.
    #[error("the temporary file in {dir} failed: {source}")]
    Io {
        /// Where it is.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file does not hold what was written.
    #[error("the temporary file in {dir} was damaged while it was in use: {reason}")]
    Damaged {
        /// Where it is.
        dir: PathBuf,
        /// How.
        reason: &'static str,
    },
}

#[derive(Default)]
struct Part {
    buffer: Vec<u8>,
    /// Offset and length of each block in the file.
    blocks: Vec<(u64, u64)>,
}

/// Takes records.
pub(crate) struct Spill {
    dir: PathBuf,
    parts: Parts,
    content: Vec<Part>,
    buffered: usize,
    budget: usize,
    file: Option<File>,
    written: u64,
}

/// Gives the records back.
pub(crate) struct Spilled {
    dir: PathBuf,
    parts: Parts,
    content: Vec<Part>,
    file: Option<File>,
}

impl Spill {
    /// Holds up to `budget` bytes in memory; `dir` takes the file after that.
    pub(crate) fn new(dir: &Path, parts: Parts, budget: usize) -> Self {
        let content = (0..parts.get()).map(|_| Part::default()).collect();
        Self { dir: dir.to_path_buf(), parts, content, buffered: 0, budget, file: None, written: 0 }
    }

    /// Adds the record that `write` appends, to the part that `hash` names.
    ///
    /// # Errors
    /// When the budget is spent and the file cannot be written.
    pub(crate) fn push(&mut self, hash: u64, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), SpillError> {
        let buffer = &mut self.content[self.parts.of(hash)].buffer;
        let start = buffer.len();
        buffer.extend_from_slice(&[0; 4]);
        write(buffer);
        let len = u32::try_from(buffer.len() - start - 4)
            .map_err(|_| SpillError::Damaged { dir: self.dir.clone(), reason: "a row of more than 4 GiB" })?;
        buffer[start..start + 4].copy_from_slice(&len.to_le_bytes());
        self.buffered += buffer.len() - start;
        if self.buffered > self.budget { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), SpillError> {
        let failed = |source| SpillError::Io { dir: self.dir.clone(), source };
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(nameless_file(&self.dir).map_err(failed)?),
        };
        let mut out = io::BufWriter::new(file);
        for part in self.content.iter_mut().filter(|part| !part.buffer.is_empty()) {
            let len = block::write(&part.buffer, &mut out).map_err(failed)?;
            part.blocks.push((self.written, len));
            self.written += len;
            part.buffer.clear();
        }
        out.flush().map_err(failed)?;
        self.buffered = 0;
        Ok(())
    }

    /// No more records.
    pub(crate) fn finish(self) -> Spilled {
        Spilled { dir: self.dir, parts: self.parts, content: self.content, file: self.file }
    }
}

impl Spilled {
    pub(crate) fn parts(&self) -> Parts {
        self.parts
    }

    /// True if a file was needed.
    #[cfg(test)]
    pub(crate) fn is_on_disk(&self) -> bool {
        self.file.is_some()
    }

    /// The records of one part, in order; can be asked for again.
    pub(crate) fn records(&self, part: usize) -> Records<'_> {
        Records { spilled: self, part: &self.content[part], next_block: 0, raw: Vec::new(), at: 0, in_buffer: false }
    }

    /// The part is done with: frees what it holds in memory.
    pub(crate) fn forget(&mut self, part: usize) {
        self.content[part] = Part::default();
    }

    fn read_block(&self, offset: u64, len: u64) -> Result<Vec<u8>, SpillError> {
        let failed = |source| SpillError::Io { dir: self.dir.clone(), source };
        let damaged = |reason| SpillError::Damaged { dir: self.dir.clone(), reason };
        let Some(file) = &self.file else { return Err(damaged("it is missing")) };
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| damaged("a block is too long"))?];
        file.read_exact_at(&mut bytes, offset).map_err(failed)?;
        block::read(&bytes).map_err(|error| match error {
            BlockError::Short => damaged("a block is cut short"),
            BlockError::Damaged => damaged("a checksum does not match"),
        })
    }
}

/// The records of one part.
pub(crate) struct Records<'a> {
    spilled: &'a Spilled,
    part: &'a Part,
    next_block: usize,
    raw: Vec<u8>,
    at: usize,
    in_buffer: bool,
}

impl Records<'_> {
    /// The next record. It borrows from this, so it is no `Iterator`.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, SpillError> {
        loop {
            let current = if self.in_buffer { &self.part.buffer } else { &self.raw };
            if self.at < current.len() {
                break;
            }
            if let Some(&(offset, len)) = self.part.blocks.get(self.next_block) {
                self.raw = self.spilled.read_block(offset, len)?;
                self.next_block += 1;
            } else if self.in_buffer {
                return Ok(None);
            } else {
                self.in_buffer = true;
            }
            self.at = 0;
        }
        let current = if self.in_buffer { &self.part.buffer } else { &self.raw };
        let rest = &current[self.at..];
        let damaged = || SpillError::Damaged { dir: self.spilled.dir.clone(), reason: "a record is cut short" };
        let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let len = u32::from_le_bytes(*len) as usize;
        let record = rest.get(..len).ok_or_else(damaged)?;
        self.at += 4 + len;
        Ok(Some(record))
    }
}

/// A file that only this process can reach.
fn nameless_file(dir: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("spill-{}-{number}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
