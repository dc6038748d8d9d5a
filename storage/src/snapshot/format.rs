//! The bytes of a snapshot file. Pure encoding and verification.
//!
//! What the blobs and blocks of a shard's snapshot hold stands in `shard::meta`.
//!
//! All numbers are little-endian; all checksums are CRC32C. Everything starts at a multiple of 4096 bytes, and the gaps
//! are zeros; every byte, zeros included, is under a checksum.
//!
//! ```text
//! front: header (64 bytes) | head | meta | zeros      up to a multiple of 4096
//! block | zeros                                       up to a multiple of 4096, each
//! footer: 8 bytes for each block | trailer (48 bytes)  the end of the file
//! ```
//!
//! | header | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic `LARDRSNP` |
//! | 8 | 4 | format version, 2 |
//! | 12 | 2 | group |
//! | 14 | 2 | zeros |
//! | 16 | 8 | index |
//! | 24 | 8 | length of `head` |
//! | 32 | 8 | length of `meta` |
//! | 40 | 16 | zeros |
//! | 56 | 4 | checksum of the front after the header, up to its end |
//! | 60 | 4 | checksum of the 60 bytes before |
//!
//! | block's entry in the footer | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 | length of the block, 1 to 1 048 576 |
//! | 4 | 4 | checksum of the block and its zeros |
//!
//! | trailer | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | number of blocks |
//! | 8 | 8 | offset of the footer |
//! | 16 | 8 | length of the file |
//! | 24 | 4 | checksum of the footer before the trailer |
//! | 28 | 4 | the header's own checksum (bytes 60 to 64), so that two files cannot be mixed |
//! | 32 | 4 | zeros |
//! | 36 | 4 | checksum of the 36 bytes before |
//! | 40 | 8 | magic `LARDREND` |

use std::ops::Range;

use larder_types::ids::GroupId;

use crate::little_endian::{u32_at, u64_at};

/// Longest block.
pub const MAX_BLOCK_BYTES: usize = 1 << 20;

/// Whatever has an offset starts at a multiple of this: a page, so that blocks can be mapped by themselves.
pub(super) const ALIGNMENT: usize = 4096;

pub(super) const HEADER_BYTES: usize = 64;
pub(super) const TRAILER_BYTES: usize = 48;
pub(super) const BLOCK_ENTRY_BYTES: usize = 8;

const MAGIC: &[u8; 8] = b"LARDRSNP";
const END_MAGIC: &[u8; 8] = b"LARDREND";
/// The format version that this program reads and writes.
pub(super) const VERSION: u32 = 2;

/// An offset, and what is wrong there.
pub(super) type Damage = (u64, &'static str);

/// Why a file cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not what was written.
    Damage(Damage),
    /// It is of another format version, this one.
    Version(u32),
}

impl From<Damage> for Refusal {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    group: GroupId,
    index: u64,
    head_bytes: u64,
    meta_bytes: u64,
}

/// Where everything is in a file whose front and footer were verified.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) group: GroupId,
    pub(super) index: u64,
    pub(super) head: Range<usize>,
    pub(super) meta: Range<usize>,
    pub(super) blocks: Vec<Block>,
}

/// Where a block is, within the file, and what it must sum up to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    at: usize,
    length: usize,
    crc: u32,
}

/// A trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) blocks: u64,
    pub(super) footer: u64,
    pub(super) bytes: u64,
    pub(super) footer_crc: u32,
    pub(super) header_crc: u32,
}

impl Header {
    pub(super) fn new(group: GroupId, index: u64, head: &[u8], meta: &[u8]) -> Self {
        Self { group, index, head_bytes: head.len() as u64, meta_bytes: meta.len() as u64 }
    }

    /// The header for a front with this checksum.
    pub(super) fn encode(&self, front_crc: u32) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..14].copy_from_slice(&self.group.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.index.to_le_bytes());
        out[24..32].copy_from_slice(&self.head_bytes.to_le_bytes());
        out[32..40].copy_from_slice(&self.meta_bytes.to_le_bytes());
        out[56..60].copy_from_slice(&front_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

impl Trailer {
    pub(super) fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut out = [0; TRAILER_BYTES];
        out[..8].copy_from_slice(&self.blocks.to_le_bytes());
        out[8..16].copy_from_slice(&self.footer.to_le_bytes());
        out[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        out[24..28].copy_from_slice(&self.footer_crc.to_le_bytes());
        out[28..32].copy_from_slice(&self.header_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..36]);
        out[36..40].copy_from_slice(&crc.to_le_bytes());
        out[40..].copy_from_slice(END_MAGIC);
        out
    }
}

/// The checksum in the header of a file that was verified.
pub(super) fn header_checksum(bytes: &[u8]) -> u32 {
    u32_at(bytes, 60)
}

impl Block {
    /// The block's bytes, after checking them and the zeros behind them.
    ///
    /// # Errors
    /// If they are not what was written.
    pub(super) fn verify<'a>(&self, file: &'a [u8]) -> Result<&'a [u8], Damage> {
        let padded = &file[self.at..self.at + self.length.next_multiple_of(ALIGNMENT)];
        if crc32c::crc32c(padded) != self.crc {
            return Err((self.at as u64, "the checksum of the block is wrong"));
        }
        Ok(&padded[..self.length])
    }
}

/// Checks every byte of a file but those of its blocks, see [`Block::verify`].
///
/// # Errors
/// The first place where it is not what was written.
pub(super) fn verify(bytes: &[u8]) -> Result<Layout, Refusal> {
    let (group, index, head, meta, front_end) = verify_front(bytes)?;
    let (table_at, trailer_at) = verify_footer(bytes)?;
    let blocks = place_blocks(bytes, front_end, table_at, trailer_at)?;
    Ok(Layout { group, index, head, meta, blocks })
}

fn place_blocks(bytes: &[u8], front_end: usize, table_at: usize, trailer_at: usize) -> Result<Vec<Block>, Damage> {
    let mut blocks = Vec::with_capacity((trailer_at - table_at) / BLOCK_ENTRY_BYTES);
    let mut at = front_end;
    let (entries, _) = bytes[table_at..trailer_at].as_chunks::<BLOCK_ENTRY_BYTES>();
    for entry in entries {
        let length = usize_at(&entry[..4]);
        let end = at + length.next_multiple_of(ALIGNMENT);
        if length == 0 || length > MAX_BLOCK_BYTES || end > table_at {
            return Err((at as u64, "the footer has a block that cannot be"));
        }
        blocks.push(Block { at, length, crc: u32_at(entry, 4) });
        at = end;
    }
    if at != table_at {
        return Err((at as u64, "the footer does not follow the last block"));
    }
    Ok(blocks)
}

/// Group, index, head, meta, and where the front ends.
type Front = (GroupId, u64, Range<usize>, Range<usize>, usize);

fn verify_front(bytes: &[u8]) -> Result<Front, Refusal> {
    let header = verify_header(bytes)?;
    match u32_at(header, 8) {
        VERSION => Ok(verify_blobs(bytes, header)?),
        other => Err(Refusal::Version(other)),
    }
}

fn verify_header(bytes: &[u8]) -> Result<&[u8; HEADER_BYTES], Damage> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err((bytes.len() as u64, "the file ends within its header"));
    };
    if header[..8] != *MAGIC {
        return Err((0, "the file does not start as a snapshot does"));
    }
    if u32_at(header, 60) != crc32c::crc32c(&header[..60]) {
        return Err((0, "the checksum of the header is wrong"));
    }
    Ok(header)
}

fn verify_blobs(bytes: &[u8], header: &[u8; HEADER_BYTES]) -> Result<Front, Damage> {
    let head_end = HEADER_BYTES.checked_add(usize_at(&header[24..32]));
    let meta_end = head_end.and_then(|end| end.checked_add(usize_at(&header[32..40])));
    let front_end = meta_end.and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
    let (Some(head_end), Some(meta_end), Some(front_end)) = (head_end, meta_end, front_end) else {
        return Err((24, "the header has lengths that cannot be"));
    };
    let Some(front) = bytes.get(HEADER_BYTES..front_end) else {
        return Err((bytes.len() as u64, "the file ends within its front"));
    };
    if u32_at(header, 56) != crc32c::crc32c(front) {
        return Err((HEADER_BYTES as u64, "the checksum of the front is wrong"));
    }
    let group = GroupId(u16::from_le_bytes([header[12], header[13]]));
    Ok((group, u64_at(header, 16), HEADER_BYTES..head_end, head_end..meta_end, front_end))
}

/// Where the footer's table starts and ends.
fn verify_footer(bytes: &[u8]) -> Result<(usize, usize), Damage> {
    let length = bytes.len() as u64;
    let Some(trailer) = bytes.last_chunk::<TRAILER_BYTES>() else {
        return Err((length, "the file ends within its front"));
    };
    let trailer_at = bytes.len() - TRAILER_BYTES;
    if trailer[40..] != *END_MAGIC || u32_at(trailer, 36) != crc32c::crc32c(&trailer[..36]) {
        return Err((trailer_at as u64, "the file does not end as a snapshot does"));
    }
    if u64_at(trailer, 16) != length {
        return Err((length, "the length of the file has changed"));
    }
    let table = usize_at(&trailer[8..16]);
    let blocks = usize_at(&trailer[..8]);
    let fits = blocks.checked_mul(BLOCK_ENTRY_BYTES).and_then(|bytes| bytes.checked_add(table)) == Some(trailer_at);
    if !fits || u32_at(trailer, 24) != crc32c::crc32c(&bytes[table..trailer_at]) {
        return Err((table.min(trailer_at) as u64, "the checksum of the footer is wrong"));
    }
    if u32_at(trailer, 28) != header_checksum(bytes) {
        return Err((trailer_at as u64, "header and footer are of two files"));
    }
    Ok((table, trailer_at))
}

/// A number of 4 or 8 bytes as a length. One that is too great for this machine is greater than any file.
fn usize_at(bytes: &[u8]) -> usize {
    let mut number = [0; 8];
    number[..bytes.len()].copy_from_slice(bytes);
    usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX)
}
