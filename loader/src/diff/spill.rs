//! Spilling: records in parts by their key's hash, in memory while they are few and in a file when they are many.
//!
//! All parts share one file, which has no name once it is open: it is gone when the process is, however that ends.
//! Within a part, records come back in the order in which they went in. Each part has an equal share of the memory and
//! goes to the file, block by block, when that is used up; so memory never exceeds the budget but for one record.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use super::ROWS_PER_PART;
use super::block::{BlockError, Packer, Unpacker};

/// Fewest parts of a real run: even a first run of unknown size has parts small enough for 25 million rows.
const MIN_PARTS: u64 = 256;
/// Most parts. With more, the blocks that a part writes at a time become too small to compress.
const MAX_PARTS: u64 = 4096;
/// Most bytes of a block. A larger one compresses hardly better and leaves the processor's caches.
const MAX_BLOCK_BYTES: usize = 256 * 1024;
/// So much of the file is written as it is: the kernel's page cache takes it, and compressing costs more than all else
/// that is done to a row here. What comes after it is compressed to two fifths, because then the disk is the limit.
const PLAIN_BYTES: u64 = 1024 * 1024 * 1024;
/// A part of up to so many bytes is read once, although it is gone through twice.
const LOADED_BYTES: u64 = 8 * 1024 * 1024;

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
    blocks: Vec<Block>,
    /// Bytes of all records.
    bytes: u64,
}

/// Where a block is in the file.
#[derive(Debug, Clone, Copy)]
struct Block {
    offset: u64,
    len: u64,
    /// What its bytes must hash to, if they are the records as they are; a packed block knows that itself.
    plain: Option<u64>,
}

/// Takes records.
pub(crate) struct Spill {
    dir: PathBuf,
    parts: Parts,
    content: Vec<Part>,
    /// Bytes that a part holds in memory: its share of the budget.
    block_bytes: usize,
    /// The record that is being written: only when it is whole is it known to fit.
    record: Vec<u8>,
    /// From the first block on.
    out: Option<Out>,
    plain_bytes: u64,
}

/// Where blocks go.
struct Out {
    file: File,
    packer: Packer,
    packed: Vec<u8>,
    written: u64,
    /// Bytes that are written as they are.
    plain_bytes: u64,
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
        let block_bytes = (budget / parts.get()).min(MAX_BLOCK_BYTES);
        Self {
            dir: dir.to_path_buf(),
            parts,
            content,
            block_bytes,
            record: Vec::new(),
            out: None,
            plain_bytes: PLAIN_BYTES,
        }
    }

    /// Adds the record that `write` appends, to the part that `hash` names.
    ///
    /// # Errors
    /// When the part's share of the budget is spent and the file cannot be written.
    pub(crate) fn push(&mut self, hash: u64, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), SpillError> {
        self.record.clear();
        self.record.extend_from_slice(&[0; 4]);
        write(&mut self.record);
        let len = u32::try_from(self.record.len() - 4)
            .map_err(|_| SpillError::Damaged { dir: self.dir.clone(), reason: "a row of more than 4 GiB" })?;
        self.record[..4].copy_from_slice(&len.to_le_bytes());
        let part = self.parts.of(hash);
        if self.content[part].buffer.len() + self.record.len() > self.block_bytes {
            self.write_buffer(part)?;
        }
        let Part { buffer, bytes, .. } = &mut self.content[part];
        *bytes += self.record.len() as u64;
        if self.record.len() > self.block_bytes {
            // Longer than all that a part may hold: a block of its own.
            std::mem::swap(buffer, &mut self.record);
            let written = self.write_buffer(part);
            std::mem::swap(&mut self.content[part].buffer, &mut self.record);
            return written;
        }
        // The length of the buffer doubles up to its share and never beyond it.
        if buffer.capacity() < buffer.len() + self.record.len() {
            let wanted = (2 * buffer.capacity()).clamp(buffer.len() + self.record.len(), self.block_bytes);
            buffer.reserve_exact(wanted - buffer.len());
        }
        buffer.extend_from_slice(&self.record);
        Ok(())
    }

    /// Moves what a part holds in memory to the file.
    fn write_buffer(&mut self, part: usize) -> Result<(), SpillError> {
        let failed = |source| SpillError::Io { dir: self.dir.clone(), source };
        let Part { buffer, blocks, .. } = &mut self.content[part];
        if buffer.is_empty() {
            return Ok(());
        }
        let out = match &mut self.out {
            Some(out) => out,
            None => self.out.insert(Out::new(&self.dir, self.plain_bytes).map_err(failed)?),
        };
        blocks.push(out.write(buffer).map_err(failed)?);
        buffer.clear();
        Ok(())
    }

    /// No more records.
    pub(crate) fn finish(self) -> Spilled {
        Spilled { dir: self.dir, parts: self.parts, content: self.content, file: self.out.map(|out| out.file) }
    }
}

impl Out {
    fn new(dir: &Path, plain_bytes: u64) -> io::Result<Self> {
        Ok(Self { file: nameless_file(dir)?, packer: Packer::new()?, packed: Vec::new(), written: 0, plain_bytes })
    }

    fn write(&mut self, raw: &[u8]) -> io::Result<Block> {
        let offset = self.written;
        if offset < self.plain_bytes {
            self.file.write_all(raw)?;
            self.written += raw.len() as u64;
            return Ok(Block { offset, len: raw.len() as u64, plain: Some(xxh3_64(raw)) });
        }
        self.packed.clear();
        let len = self.packer.write(raw, &mut self.packed)?;
        self.file.write_all(&self.packed)?;
        self.written += len;
        Ok(Block { offset, len, plain: None })
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

    /// The records of one part, to go through them more than once: read now if they are few, each time if they are many.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub(crate) fn part(&self, part: usize) -> Result<PartRecords<'_>, SpillError> {
        let mut loaded = None;
        let content = &self.content[part];
        if content.bytes <= LOADED_BYTES && !content.blocks.is_empty() {
            let mut all = Vec::with_capacity(usize::try_from(content.bytes).unwrap_or(0));
            let mut blocks = Blocks::of(self);
            for block in &content.blocks {
                blocks.append(*block, &mut all)?;
            }
            all.extend_from_slice(&content.buffer);
            loaded = Some(all);
        }
        Ok(PartRecords { spilled: self, part: content, loaded })
    }

    /// The records of one part, in order; can be asked for again.
    pub(crate) fn records(&self, part: usize) -> Records<'_> {
        Records {
            blocks: Blocks::of(self),
            waiting: &self.content[part].blocks,
            last: &self.content[part].buffer,
            raw: Vec::new(),
            at: 0,
            in_last: false,
        }
    }

    /// The part is done with: frees what it holds in memory.
    pub(crate) fn forget(&mut self, part: usize) {
        self.content[part] = Part::default();
    }
}

/// The records of one part, read as often as they are asked for.
pub(crate) struct PartRecords<'a> {
    spilled: &'a Spilled,
    part: &'a Part,
    /// All of them, if they are few.
    loaded: Option<Vec<u8>>,
}

impl PartRecords<'_> {
    /// The records, in order.
    pub(crate) fn iter(&self) -> Records<'_> {
        let (waiting, last) = match &self.loaded {
            Some(all) => (&[][..], all),
            None => (self.part.blocks.as_slice(), &self.part.buffer),
        };
        Records { blocks: Blocks::of(self.spilled), waiting, last, raw: Vec::new(), at: 0, in_last: false }
    }
}

/// Reads blocks of the file.
struct Blocks<'a> {
    spilled: &'a Spilled,
    unpacker: Option<Unpacker>,
    stored: Vec<u8>,
    unpacked: Vec<u8>,
}

impl<'a> Blocks<'a> {
    fn of(spilled: &'a Spilled) -> Self {
        Self { spilled, unpacker: None, stored: Vec::new(), unpacked: Vec::new() }
    }

    /// Appends the records of a block.
    fn append(&mut self, block: Block, out: &mut Vec<u8>) -> Result<(), SpillError> {
        let failed = |source| SpillError::Io { dir: self.spilled.dir.clone(), source };
        let damaged = |reason| SpillError::Damaged { dir: self.spilled.dir.clone(), reason };
        let Some(file) = &self.spilled.file else { return Err(damaged("it is missing")) };
        let len = usize::try_from(block.len).map_err(|_| damaged("a block is too long"))?;
        if let Some(sum) = block.plain {
            let start = out.len();
            out.resize(start + len, 0);
            file.read_exact_at(&mut out[start..], block.offset).map_err(failed)?;
            return if xxh3_64(&out[start..]) == sum { Ok(()) } else { Err(damaged("a checksum does not match")) };
        }
        self.stored.resize(len, 0);
        file.read_exact_at(&mut self.stored, block.offset).map_err(failed)?;
        let unpacker = match &mut self.unpacker {
            Some(unpacker) => unpacker,
            None => self.unpacker.insert(Unpacker::new().map_err(failed)?),
        };
        unpacker.read(&self.stored, &mut self.unpacked).map_err(|error| match error {
            BlockError::Short => damaged("a block is cut short"),
            BlockError::Damaged => damaged("a checksum does not match"),
        })?;
        out.extend_from_slice(&self.unpacked);
        Ok(())
    }
}

/// The records of one part.
pub(crate) struct Records<'a> {
    blocks: Blocks<'a>,
    /// Blocks of the file that are still to be read, and what comes after them.
    waiting: &'a [Block],
    last: &'a Vec<u8>,
    raw: Vec<u8>,
    at: usize,
    in_last: bool,
}

impl Records<'_> {
    /// The next record. It borrows from this, so it is no `Iterator`.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, SpillError> {
        loop {
            let current = if self.in_last { self.last } else { &self.raw };
            if self.at < current.len() {
                break;
            }
            if let Some((block, rest)) = self.waiting.split_first() {
                self.raw.clear();
                self.blocks.append(*block, &mut self.raw)?;
                self.waiting = rest;
            } else if self.in_last {
                return Ok(None);
            } else {
                self.in_last = true;
            }
            self.at = 0;
        }
        let current = if self.in_last { self.last } else { &self.raw };
        let rest = &current[self.at..];
        let damaged = || SpillError::Damaged { dir: self.blocks.spilled.dir.clone(), reason: "a record is cut short" };
        let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let len = u32::from_le_bytes(*len) as usize;
        let record = rest.get(..len).ok_or_else(damaged)?;
        self.at += 4 + len;
        Ok(Some(record))
    }
}

/// A file that only this process can reach.
pub(super) fn nameless_file(dir: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("spill-{}-{number}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(spill: &Spill) -> usize {
        spill.content.iter().map(|part| part.buffer.capacity()).sum()
    }

    #[test]
    fn memory_never_exceeds_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        let budget = 64 * 1024;
        let mut spill = Spill::new(dir.path(), Parts::new(16).unwrap(), budget);
        let mut pushed = 0_u64;
        for number in 0..20_000_u64 {
            let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            // Now and then a record that is longer than all that a part may hold.
            let len = if number % 1000 == 0 { 10_000 } else { usize::try_from(number % 90).unwrap() };
            spill.push(hash, |out| out.resize(out.len() + len, 7)).unwrap();
            pushed += len as u64 + 4;
            assert!(held(&spill) <= budget, "{} bytes after {number} records", held(&spill));
        }
        let spilled = spill.finish();
        assert!(spilled.is_on_disk());
        assert_eq!(spilled.content.iter().map(|part| part.bytes).sum::<u64>(), pushed);
    }

    #[test]
    fn few_records_stay_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(dir.path(), Parts::new(4).unwrap(), 4096);
        (0..16_u64).for_each(|number| spill.push(number << 60, |out| out.extend_from_slice(&[1; 200])).unwrap());
        assert!(!spill.finish().is_on_disk());
    }

    #[test]
    fn records_come_back_in_order_however_often() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(dir.path(), Parts::ONE, 1000);
        // From the middle on blocks are packed.
        spill.plain_bytes = 2500;
        (0..500_u64).for_each(|number| spill.push(0, |out| out.extend_from_slice(&number.to_le_bytes())).unwrap());
        let spilled = spill.finish();
        let blocks = &spilled.content[0].blocks;
        assert!(blocks[0].plain.is_some() && blocks[blocks.len() - 1].plain.is_none(), "{blocks:?}");
        let part = spilled.part(0).unwrap();
        for mut records in [part.iter(), part.iter(), spilled.records(0)] {
            for number in 0..500_u64 {
                assert_eq!(records.next().unwrap(), Some(&number.to_le_bytes()[..]));
            }
            assert!(records.next().unwrap().is_none());
        }
    }

    #[test]
    fn damage_is_found_in_plain_and_in_packed_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(dir.path(), Parts::ONE, 100);
        spill.plain_bytes = 150;
        (0..40_u64).for_each(|number| spill.push(0, |out| out.extend_from_slice(&number.to_le_bytes())).unwrap());
        let spilled = spill.finish();
        let file = spilled.file.as_ref().unwrap();
        for at in 0..file.metadata().unwrap().len() {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            assert!(matches!(spilled.part(0), Err(SpillError::Damaged { .. })), "byte {at}");
            file.write_all_at(&byte, at).unwrap();
        }
        assert!(spilled.part(0).is_ok());
    }
}
