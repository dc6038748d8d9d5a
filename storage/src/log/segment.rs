//! Segments: the files of the log, each with a header that says all that older segments knew.
//!
//! A segment file is `<sequence, 20 digits>.log`. Its length is fixed when it is made; all of it is written (with
//! zeros, or whatever an earlier life has left) before it is used, so that a sync has no metadata to write.
//! All numbers are little-endian.
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic `LARDRLOG` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | salt of the frames' checksums: the previous segment's plus 1 |
//! | 16 | 8 | sequence |
//! | 24 | 8 | length of the file |
//! | 32 | 8 | where the frames of the previous segment end; 0 if there was none |
//! | 40 | 4 | length of the checkpoint |
//! | 44 | 4 | CRC32C of the checkpoint, from the salt |
//! | 48 | 4044 | zeros |
//! | 4092 | 4 | CRC32C of the bytes before |
//! | 4096 | | the checkpoint, then zeros up to a multiple of 8, then frames |
//!
//! The checkpoint holds, for each group of which the log knows anything, in ascending order, what replaying all
//! earlier segments would give (96 bytes a group):
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 2 | group |
//! | 2 | 1 | which of the following are there: 1 vote, 2 committed, 4 purged, 8 last; the others are zeros |
//! | 3 | 1 | 1 if the vote is committed |
//! | 4 | 4 | zeros |
//! | 8 | 16 | vote: term, candidate |
//! | 24 | 24 | committed: index, term, leader |
//! | 48 | 24 | purged: likewise |
//! | 72 | 24 | last: likewise |
//!
//! Invariant: a segment gets its name only when its header is on disk and every frame of the previous one is. So an
//! invalid header is always damage, and the end of every segment but the last is known exactly.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use larder_types::ids::{GroupId, ReplicaId};

use super::frame::{self, ALIGNMENT};
use super::{GroupState, LogEntry, LogId, Vote};
use crate::disk::DiskFile;
use crate::little_endian::{u32_at, u64_at};

/// Bytes before the checkpoint.
pub(super) const HEADER_BYTES: usize = 4096;

/// Bytes of one group in the checkpoint.
pub(super) const CHECKPOINT_BYTES: usize = 96;

const MAGIC: &[u8; 8] = b"LARDRLOG";
const VERSION: u32 = 1;
const CRC_AT: usize = HEADER_BYTES - 4;
const EXTENSION: &str = ".log";

/// What a segment's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Place of the segment in the log.
    pub(super) sequence: u64,
    /// Where the checksums of its frames start from.
    pub(super) salt: u32,
    /// Length of the file.
    pub(super) bytes: u64,
    /// Where the frames of the previous segment end.
    pub(super) previous_end: u64,
    /// What all earlier segments amount to.
    pub(super) checkpoint: BTreeMap<GroupId, GroupState>,
}

/// A segment that is open for reading and writing.
pub(super) struct Segment {
    /// Its place in the log.
    pub(super) sequence: u64,
    /// Where the checksums of its frames start from.
    pub(super) salt: u32,
    /// Length of the file.
    pub(super) bytes: u64,
    /// The file.
    pub(super) file: Box<dyn DiskFile>,
}

/// Where an entry's frame starts when a segment has so many groups in its checkpoint.
pub(super) const fn frames_start(groups: usize) -> u64 {
    (HEADER_BYTES + (groups * CHECKPOINT_BYTES).next_multiple_of(ALIGNMENT)) as u64
}

/// The path of a segment's file.
pub(super) fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:020}{EXTENSION}"))
}

/// The sequence that a file name stands for, if it is a segment's.
pub(super) fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

impl Header {
    /// The header, the checkpoint and its padding.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut checkpoint = Vec::with_capacity(self.checkpoint.len() * CHECKPOINT_BYTES);
        for (group, state) in &self.checkpoint {
            encode_state(*group, state, &mut checkpoint);
        }
        let mut out = Vec::with_capacity(HEADER_BYTES + checkpoint.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&u32::try_from(checkpoint.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c_append(self.salt, &checkpoint).to_le_bytes());
        out.resize(CRC_AT, 0);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.extend_from_slice(&checkpoint);
        out
    }

    /// Reads the header from a segment's bytes.
    ///
    /// # Errors
    /// The offset at which it is damaged and what is wrong there.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, (u64, &'static str)> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err((bytes.len() as u64, "the file ends within its header"));
        };
        if header[..8] != *MAGIC {
            return Err((0, "the file does not start as a segment does"));
        }
        if u32_at(header, CRC_AT) != crc32c::crc32c(&header[..CRC_AT]) {
            return Err((0, "the checksum of the header is wrong"));
        }
        if u32_at(header, 8) != VERSION {
            return Err((8, "the format version is unknown to this program; a newer one has written it"));
        }
        let salt = u32_at(header, 12);
        let length = usize::try_from(u32_at(header, 40)).unwrap_or(usize::MAX);
        let Some(encoded) = bytes[HEADER_BYTES..].get(..length) else {
            return Err((bytes.len() as u64, "the file ends within its checkpoint"));
        };
        if u32_at(header, 44) != crc32c::crc32c_append(salt, encoded) {
            return Err((HEADER_BYTES as u64, "the checksum of the checkpoint is wrong"));
        }
        let (states, []) = encoded.as_chunks::<CHECKPOINT_BYTES>() else {
            return Err((40, "the length of the checkpoint is wrong"));
        };
        Ok(Self {
            sequence: u64_at(header, 16),
            salt,
            bytes: u64_at(header, 24),
            previous_end: u64_at(header, 32),
            checkpoint: states.iter().map(decode_state).collect(),
        })
    }
}

impl Segment {
    /// The entry whose frame has this offset and this payload length.
    ///
    /// # Errors
    /// When the disk fails, or with `InvalidData` when the frame there is no valid entry.
    pub(super) fn read_entry(&self, offset: u32, payload_bytes: usize) -> io::Result<LogEntry> {
        let mut bytes = vec![0; frame::frame_bytes(payload_bytes)];
        self.file.read_at(u64::from(offset), &mut bytes)?;
        frame::entry(&bytes.into(), self.salt, offset).ok_or_else(|| {
            let text = format!("the entry at offset {offset} of log segment {} is damaged", self.sequence);
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }
}

fn encode_state(group: GroupId, state: &GroupState, out: &mut Vec<u8>) {
    let present = u8::from(state.vote.is_some())
        | u8::from(state.committed.is_some()) << 1
        | u8::from(state.purged.is_some()) << 2
        | u8::from(state.last.is_some()) << 3;
    out.extend_from_slice(&group.0.to_le_bytes());
    out.extend_from_slice(&[present, u8::from(state.vote.is_some_and(|vote| vote.committed))]);
    out.extend_from_slice(&[0; 4]);
    let (term, candidate) = state.vote.map_or((0, 0), |vote| (vote.term, vote.candidate.0));
    out.extend_from_slice(&term.to_le_bytes());
    out.extend_from_slice(&candidate.to_le_bytes());
    for id in [state.committed, state.purged, state.last] {
        let (index, term, leader) = id.map_or((0, 0, 0), |id| (id.index, id.term, id.leader.0));
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&term.to_le_bytes());
        out.extend_from_slice(&leader.to_le_bytes());
    }
}

/// The checksum has been checked, so that every value is one that was written.
fn decode_state(bytes: &[u8; CHECKPOINT_BYTES]) -> (GroupId, GroupState) {
    let present = |bit: u8| bytes[2] & bit != 0;
    let id = |bit: u8, at: usize| {
        present(bit).then(|| LogId {
            index: u64_at(bytes, at),
            term: u64_at(bytes, at + 8),
            leader: ReplicaId(u64_at(bytes, at + 16)),
        })
    };
    let vote = present(1).then(|| Vote {
        term: u64_at(bytes, 8),
        candidate: ReplicaId(u64_at(bytes, 16)),
        committed: bytes[3] == 1,
    });
    let group = GroupId(u16::from_le_bytes([bytes[0], bytes[1]]));
    (group, GroupState { vote, committed: id(2, 24), purged: id(4, 48), last: id(8, 72) })
}
