//! Snapshots: what the cluster has acknowledged of a sync, in one file.
//!
//! | bytes | content |
//! | --- | --- |
//! | 8 | `LARDSYNC` |
//! | 4 | format version, u32 little-endian |
//! | block | the header as JSON, see [`Header`] |
//! | blocks | entries, part by part; no block holds entries of two parts |
//! | block | the index: for every part the offset (u64) of its first block, its length in bytes (u64) and its number of entries (u64) |
//! | 8 | offset of the index, u64 little-endian |
//! | 8 | `SYNCLARD` |
//!
//! An entry is a key's length (u16), the key, and the row's hash (16 bytes; zero if the cluster's row is not known).
//! Keys are kept in full, because a removal must name its key. A file is written under another name, synced and
//! renamed, so one that has the right name is whole; what then fails a checksum is damage.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::block::{self, HEAD_BYTES, Packer, Unpacker};
use super::hash::{HashSecret, RowHash, SECRET_BYTES};
use super::spill::Parts;
use super::{put_key, take, take_key};

const MAGIC: &[u8; 8] = b"LARDSYNC";
const END: &[u8; 8] = b"SYNCLARD";
const VERSION: u32 = 1;
/// Bytes of entries that make a block.
const BLOCK_BYTES: usize = 256 * 1024;
/// Largest header: a secret, a few names and numbers.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// What the hashes of a snapshot were made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Hashes {
    /// The mapped cells.
    #[default]
    Cells,
    /// The columns, by the warehouse. Keys whose records are gone stay in such a snapshot, with a mark, because it may
    /// lie over a table that names them.
    Planner,
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sync: String,
    pub(crate) collection: String,
    /// Of the mapping that the hashes were made by.
    pub(crate) fingerprint: u128,
    pub(crate) secret: HashSecret,
    pub(crate) hashes: Hashes,
    pub(crate) parts: Parts,
}

#[derive(Serialize, Deserialize)]
struct HeaderJson {
    sync: String,
    collection: String,
    fingerprint: String,
    secret: Vec<u8>,
    #[serde(default)]
    hashes: Hashes,
    parts: u32,
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// It cannot be read or written.
    #[error("the state file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not hold what was written.
    #[error("the state file {path} is damaged ({reason})")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        reason: &'static str,
    },
    /// A newer loader wrote it.
    #[error("the state file {path} has format {found}, and this loader reads format {VERSION}; use the newer loader")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// A snapshot open for reading.
#[derive(Debug)]
pub(crate) struct Snapshot {
    path: PathBuf,
    file: File,
    header: Header,
    index: Vec<IndexEntry>,
}

#[derive(Debug, Clone, Copy, Default)]
struct IndexEntry {
    offset: u64,
    bytes: u64,
    entries: u64,
}

impl Snapshot {
    /// Opens a snapshot and reads its header and index.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or is of another format.
    pub(crate) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let io = |source| SnapshotError::Io { path: path.to_path_buf(), source };
        let damaged = |reason| SnapshotError::Damaged { path: path.to_path_buf(), reason };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut start = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(12 + HEAD_BYTES + MAX_HEADER_BYTES)];
        file.read_exact_at(&mut start, 0).map_err(io)?;
        let (magic, rest) = start.split_first_chunk::<8>().ok_or_else(|| damaged("it is too short"))?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("it is too short"))?;
        if magic != MAGIC {
            return Err(damaged("it does not begin as one"));
        }
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(SnapshotError::Version { path: path.to_path_buf(), found: version });
        }
        let header = block::read(rest).map_err(|_| damaged("its header's checksum does not match"))?;
        let header = Header::from_json(&header).ok_or_else(|| damaged("its header makes no sense"))?;
        let index = read_index(&file, size, header.parts).map_err(io)?.ok_or_else(|| damaged("its index is broken"))?;
        Ok(Self { path: path.to_path_buf(), file, header, index })
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Rows in it.
    pub(crate) fn rows(&self) -> u64 {
        self.index.iter().map(|part| part.entries).sum()
    }

    /// Calls `each` with the entries whose keys are in `part` of a division into `parts`.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub(crate) fn read_part(
        &self,
        parts: Parts,
        part: usize,
        mut each: impl FnMut(&str, RowHash),
    ) -> Result<(), SnapshotError> {
        let own = self.header.parts;
        if own >= parts {
            let ratio = own.get() / parts.get();
            for own_part in part * ratio..(part + 1) * ratio {
                self.read_own(own_part, &mut each)?;
            }
            return Ok(());
        }
        // The result has grown past a power of two since: each of its parts is a slice of one of ours.
        let ratio = parts.get() / own.get();
        self.read_own(part / ratio, &mut |key: &str, hash| {
            if parts.of(self.header.secret.key(key.as_bytes())) == part {
                each(key, hash);
            }
        })
    }

    /// Reads everything, to know that it is whole.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub(crate) fn verify(&self) -> Result<(), SnapshotError> {
        (0..self.header.parts.get()).try_for_each(|part| self.read_own(part, &mut |_, _| {}))
    }

    fn read_own(&self, part: usize, each: &mut impl FnMut(&str, RowHash)) -> Result<(), SnapshotError> {
        let damaged = |reason| SnapshotError::Damaged { path: self.path.clone(), reason };
        let IndexEntry { offset, bytes, entries } = self.index[part];
        let mut at = offset;
        let mut seen = 0;
        let io = |source| SnapshotError::Io { path: self.path.clone(), source };
        let (mut unpacker, mut stored, mut raw) = (Unpacker::new().map_err(io)?, Vec::new(), Vec::new());
        while at < offset + bytes {
            at += self.read_stored(at, offset + bytes - at, &mut stored)?;
            unpacker.read(&stored, &mut raw).map_err(|_| damaged("a checksum does not match"))?;
            let mut rest = raw.as_slice();
            while !rest.is_empty() {
                let key = take_key(&mut rest).ok_or_else(|| damaged("an entry is cut short"))?;
                let hash = take(&mut rest).ok_or_else(|| damaged("an entry is cut short"))?;
                each(key, RowHash::from_bytes(hash));
                seen += 1;
            }
        }
        if seen == entries { Ok(()) } else { Err(damaged("it holds another number of entries than its index says")) }
    }

    /// Reads the block at `offset` as it is stored, and returns its length in the file, which is at most `most`.
    fn read_stored(&self, offset: u64, most: u64, stored: &mut Vec<u8>) -> Result<u64, SnapshotError> {
        let io = |source| SnapshotError::Io { path: self.path.clone(), source };
        let damaged = |reason| SnapshotError::Damaged { path: self.path.clone(), reason };
        let mut len = [0; 4];
        self.file.read_exact_at(&mut len, offset).map_err(io)?;
        let len = HEAD_BYTES as u64 + u64::from(u32::from_le_bytes(len));
        if len > most {
            return Err(damaged("a block is longer than its part"));
        }
        stored.resize(usize::try_from(len).map_err(|_| damaged("a block is too long"))?, 0);
        self.file.read_exact_at(stored, offset).map_err(io)?;
        Ok(len)
    }
}

fn read_index(file: &File, size: u64, parts: Parts) -> io::Result<Option<Vec<IndexEntry>>> {
    let mut end = [0; 16];
    let Some(end_at) = size.checked_sub(16) else { return Ok(None) };
    file.read_exact_at(&mut end, end_at)?;
    let (offset, magic) = end.split_at(8);
    let offset = offset.try_into().map_or(u64::MAX, u64::from_le_bytes);
    let Some(len) = end_at.checked_sub(offset).and_then(|len| usize::try_from(len).ok()) else { return Ok(None) };
    if magic != END {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)?;
    let Ok(raw) = block::read(&bytes) else { return Ok(None) };
    let mut rest = raw.as_slice();
    let mut index = Vec::with_capacity(parts.get());
    while let (Some(first), Some(bytes), Some(entries)) = (take(&mut rest), take(&mut rest), take(&mut rest)) {
        let [first, bytes, entries] = [first, bytes, entries].map(u64::from_le_bytes);
        let fits = first.checked_add(bytes).is_some_and(|end| end <= offset);
        if !fits {
            return Ok(None);
        }
        index.push(IndexEntry { offset: first, bytes, entries });
    }
    Ok((index.len() == parts.get()).then_some(index))
}

impl Header {
    fn from_json(bytes: &[u8]) -> Option<Self> {
        let json: HeaderJson = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            sync: json.sync,
            collection: json.collection,
            fingerprint: u128::from_str_radix(&json.fingerprint, 16).ok()?,
            secret: HashSecret::from_bytes(<[u8; SECRET_BYTES]>::try_from(json.secret).ok()?),
            hashes: json.hashes,
            parts: Parts::new(json.parts)?,
        })
    }

    fn to_json(&self) -> io::Result<Vec<u8>> {
        let json = HeaderJson {
            sync: self.sync.clone(),
            collection: self.collection.clone(),
            fingerprint: format!("{:032x}", self.fingerprint),
            secret: self.secret.as_bytes().to_vec(),
            hashes: self.hashes,
            parts: u32::try_from(self.parts.get()).map_err(io::Error::other)?,
        };
        serde_json::to_vec(&json).map_err(io::Error::other)
    }
}

/// Writes a snapshot, part by part.
pub(crate) struct SnapshotWriter {
    path: PathBuf,
    unfinished: PathBuf,
    out: BufWriter<File>,
    packer: Packer,
    /// The entries of the block that is being filled.
    raw: Vec<u8>,
    at: u64,
    parts: Parts,
    index: Vec<IndexEntry>,
}

impl SnapshotWriter {
    /// Begins a snapshot that will be `path` once it is finished.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn create(path: &Path, header: &Header) -> Result<Self, SnapshotError> {
        let unfinished = path.with_extension("unfinished");
        let begin = || {
            let mut out = BufWriter::new(File::create(&unfinished)?);
            out.write_all(MAGIC)?;
            out.write_all(&VERSION.to_le_bytes())?;
            let mut packer = Packer::new()?;
            let at = 12 + packer.write(&header.to_json()?, &mut out)?;
            Ok((out, packer, at))
        };
        let (out, packer, at) = begin().map_err(|source| SnapshotError::Io { path: unfinished.clone(), source })?;
        let (raw, index) = (Vec::with_capacity(BLOCK_BYTES), Vec::new());
        Ok(Self { path: path.to_path_buf(), unfinished, out, packer, raw, at, parts: header.parts, index })
    }

    /// Writes the next part.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn part<'a>(&mut self, entries: impl Iterator<Item = (&'a str, RowHash)>) -> Result<(), SnapshotError> {
        assert!(self.index.len() < self.parts.get(), "every part is written once");
        let mut part = IndexEntry { offset: self.at, ..IndexEntry::default() };
        for (key, hash) in entries {
            put_key(key, &mut self.raw);
            self.raw.extend_from_slice(&hash.to_bytes());
            part.entries += 1;
            if self.raw.len() >= BLOCK_BYTES {
                part.bytes += self.write_block()?;
            }
        }
        if !self.raw.is_empty() {
            part.bytes += self.write_block()?;
        }
        self.index.push(part);
        Ok(())
    }

    fn write_block(&mut self) -> Result<u64, SnapshotError> {
        let written = self.packer.write(&self.raw, &mut self.out);
        let len = written.map_err(|source| SnapshotError::Io { path: self.unfinished.clone(), source })?;
        self.at += len;
        self.raw.clear();
        Ok(len)
    }

    /// Makes the snapshot durable under its name and returns its number of rows.
    ///
    /// # Errors
    /// When the file cannot be written, synced or renamed; the name then does not exist.
    pub(crate) fn finish(mut self) -> Result<u64, SnapshotError> {
        assert!(self.index.len() == self.parts.get(), "every part is written once");
        let path = self.path.clone();
        self.write_end().map_err(|source| SnapshotError::Io { path, source })
    }

    fn write_end(&mut self) -> io::Result<u64> {
        let mut raw = Vec::with_capacity(self.index.len() * 24);
        for part in &self.index {
            [part.offset, part.bytes, part.entries].iter().for_each(|n| raw.extend_from_slice(&n.to_le_bytes()));
        }
        block::write(&raw, &mut self.out)?;
        self.out.write_all(&self.at.to_le_bytes())?;
        self.out.write_all(END)?;
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        fs::rename(&self.unfinished, &self.path)?;
        sync_folder(&self.path)?;
        Ok(self.index.iter().map(|part| part.entries).sum())
    }
}

/// Makes names in the folder of `path` durable: without it a rename may be undone by a power cut.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) fn damage(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}
