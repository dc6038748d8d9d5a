//! Writing a snapshot's file from front to back.

use std::io;

use super::format::{
    ALIGNMENT, BLOCK_ENTRY_BYTES, HEADER_BYTES, Header, MAX_BLOCK_BYTES, TRAILER_BYTES, Trailer, header_checksum,
};
use crate::disk::DiskFile;

/// Bytes after which the file is synced. If all were left to the end, the disk would get gigabytes at once, however slowly
/// they were written, and the log's own syncs would wait behind them.
const SYNC_BYTES: u64 = 16 << 20;

/// A file that is being written. The parts must come in the order of the file.
pub(super) struct Writer<'a> {
    file: &'a dyn DiskFile,
    /// Where the next part goes: a multiple of [`ALIGNMENT`].
    at: u64,
    /// Up to where the file was synced.
    synced: u64,
    header_crc: u32,
    /// The footer's entries, as far as blocks were written.
    table: Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Starts a file, which must be empty.
    pub(super) fn new(file: &'a dyn DiskFile) -> Self {
        Self { file, at: 0, synced: 0, header_crc: 0, table: Vec::new() }
    }

    /// Writes the header and the two blobs.
    pub(super) fn front(&mut self, header: Header, head: &[u8], meta: &[u8]) -> io::Result<()> {
        let bytes = (HEADER_BYTES + head.len() + meta.len()).next_multiple_of(ALIGNMENT);
        let mut front = Vec::with_capacity(bytes);
        front.resize(HEADER_BYTES, 0);
        front.extend_from_slice(head);
        front.extend_from_slice(meta);
        front.resize(bytes, 0);
        let encoded = header.encode(crc32c::crc32c(&front[HEADER_BYTES..]));
        front[..HEADER_BYTES].copy_from_slice(&encoded);
        // The trailer repeats it.
        self.header_crc = header_checksum(&encoded);
        self.write(&front)
    }

    /// Writes a block.
    pub(super) fn block(&mut self, block: &[u8]) -> io::Result<()> {
        let length = block.len();
        assert!((1..=MAX_BLOCK_BYTES).contains(&length), "a snapshot's block has {length} bytes");
        let zeros = &[0; ALIGNMENT][..length.next_multiple_of(ALIGNMENT) - length];
        let crc = crc32c::crc32c_append(crc32c::crc32c(block), zeros);
        self.table.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        self.table.extend_from_slice(&crc.to_le_bytes());
        self.write(block)?;
        if !zeros.is_empty() {
            self.write(zeros)?;
        }
        self.sync_steadily()
    }

    /// Writes the footer.
    pub(super) fn footer(mut self) -> io::Result<()> {
        let mut footer = std::mem::take(&mut self.table);
        let trailer = Trailer {
            blocks: (footer.len() / BLOCK_ENTRY_BYTES) as u64,
            footer: self.at,
            bytes: self.at + (footer.len() + TRAILER_BYTES) as u64,
            footer_crc: crc32c::crc32c(&footer),
            header_crc: self.header_crc,
        };
        footer.extend_from_slice(&trailer.encode());
        self.write(&footer)
    }

    /// Syncs when much was written since it was last done.
    fn sync_steadily(&mut self) -> io::Result<()> {
        if self.at - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.at;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}
