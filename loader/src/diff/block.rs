//! Blocks: compressed, checksummed pieces of the loader's files.
//!
//! | bytes | content |
//! | --- | --- |
//! | 4 | length of the stored bytes, u32 little-endian |
//! | 4 | length of the bytes once decompressed, u32 little-endian |
//! | 8 | XXH3-64 of the two lengths and the stored bytes, little-endian |
//! | n | the stored bytes: one zstd frame |
//!
//! A length is believed only after the checksum, except to find where a block ends.

use std::io::{self, Write};

use xxhash_rust::xxh3::Xxh3;
use zstd::bulk::{Compressor, Decompressor};

/// Bytes before the stored bytes.
pub(crate) const HEAD_BYTES: usize = 16;
/// Most bytes that a block may hold once decompressed: more is damage, not data.
pub(crate) const MAX_BLOCK_BYTES: usize = 1 << 30;
/// Fast: the files are written once and read once.
const LEVEL: i32 = 1;

/// Why a block cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockError {
    /// The bytes end before the block does.
    #[error("a block is cut short")]
    Short,
    /// The bytes are not those that were written.
    #[error("a block is damaged: its checksum does not match")]
    Damaged,
}

/// Makes blocks; what compressing needs is kept between them.
pub(crate) struct Packer {
    compressor: Compressor<'static>,
    stored: Vec<u8>,
}

impl Packer {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { compressor: Compressor::new(LEVEL)?, stored: Vec::new() })
    }

    /// Appends `raw` as a block and returns its length in the file.
    pub(crate) fn write(&mut self, raw: &[u8], out: &mut impl Write) -> io::Result<u64> {
        self.stored.clear();
        self.stored.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        self.compressor.compress_to_buffer(raw, &mut self.stored)?;
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "a block of more than 4 GiB");
        let stored_len = u32::try_from(self.stored.len()).map_err(too_long)?.to_le_bytes();
        let raw_len = u32::try_from(raw.len()).map_err(too_long)?.to_le_bytes();
        out.write_all(&stored_len)?;
        out.write_all(&raw_len)?;
        out.write_all(&checksum(stored_len, raw_len, &self.stored).to_le_bytes())?;
        out.write_all(&self.stored)?;
        Ok((HEAD_BYTES + self.stored.len()) as u64)
    }
}

/// Appends `raw` as a block and returns its length in the file.
pub(crate) fn write(raw: &[u8], out: &mut impl Write) -> io::Result<u64> {
    Packer::new()?.write(raw, out)
}

/// The number of stored bytes that follow the head in `head`.
pub(crate) fn stored_length(head: &[u8]) -> usize {
    head.first_chunk::<4>().map_or(0, |len| u32::from_le_bytes(*len) as usize)
}

/// Reads blocks; what decompressing needs is kept between them.
pub(crate) struct Unpacker(Decompressor<'static>);

impl Unpacker {
    pub(crate) fn new() -> io::Result<Self> {
        Decompressor::new().map(Self)
    }

    /// Reads the block that `bytes` begin with into `raw`, whose content is replaced.
    ///
    /// # Errors
    /// When it is cut short or damaged.
    pub(crate) fn read(&mut self, bytes: &[u8], raw: &mut Vec<u8>) -> Result<(), BlockError> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(BlockError::Short)?;
        let stored = rest.get(..stored_length(head)).ok_or(BlockError::Short)?;
        let [a, b, c, d, e, f, g, h, sum @ ..] = *head;
        let (stored_len, raw_len) = ([a, b, c, d], [e, f, g, h]);
        if u64::from_le_bytes(sum) != checksum(stored_len, raw_len, stored) {
            return Err(BlockError::Damaged);
        }
        let raw_len = u32::from_le_bytes(raw_len) as usize;
        if raw_len > MAX_BLOCK_BYTES {
            return Err(BlockError::Damaged);
        }
        raw.clear();
        raw.reserve(raw_len);
        let read = self.0.decompress_to_buffer(stored, raw);
        if read.is_ok_and(|len| len == raw_len) { Ok(()) } else { Err(BlockError::Damaged) }
    }
}

/// Reads the block that `bytes` begin with.
///
/// # Errors
/// When it is cut short or damaged.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<u8>, BlockError> {
    let mut raw = Vec::new();
    Unpacker::new().map_err(|_| BlockError::Damaged)?.read(bytes, &mut raw)?;
    Ok(raw)
}

fn checksum(stored_len: [u8; 4], raw_len: [u8; 4], stored: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&stored_len);
    hasher.update(&raw_len);
    hasher.update(stored);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_read_back_and_damage_is_found() {
        let raw: Vec<u8> = (0..10_000u32).flat_map(|n| (n % 77).to_le_bytes()).collect();
        let mut file = Vec::new();
        let len = write(&raw, &mut file).unwrap();
        assert_eq!(len, file.len() as u64);
        assert!(file.len() < raw.len() / 4, "{} bytes", file.len());
        assert_eq!(read(&file).unwrap(), raw);
        for cut in [0, 3, HEAD_BYTES, file.len() - 1] {
            assert!(matches!(read(&file[..cut]), Err(BlockError::Short)), "{cut}");
        }
        for at in (0..file.len()).step_by(7) {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_empty_block_is_a_block() {
        let mut file = Vec::new();
        write(&[], &mut file).unwrap();
        assert_eq!(read(&file).unwrap(), Vec::<u8>::new());
    }
}
