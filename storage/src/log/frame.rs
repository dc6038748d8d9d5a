//! Frames: the checksummed units of a segment. Pure encoding and decoding.
//!
//! All numbers are little-endian. A frame starts at a multiple of 8 bytes in its segment and never crosses its end.
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 | length of the payload |
//! | 4 | 4 | CRC32C, see below |
//! | 8 | 1 | type: 1 entry, 2 vote, 3 truncate, 4 purge, 5 committed, 6 mark, 7 forget |
//! | 9 | 1 | flags, by type |
//! | 10 | 2 | group; 0 in a mark |
//! | 12 | 4 | how far the segment was known to be on disk when this frame was written, as an offset |
//! | 16 | 8 | index |
//! | 24 | 8 | term |
//! | 32 | 8 | leader, as a replica id |
//! | 40 | | payload, then zeros up to a multiple of 8 |
//!
//! | type | flags | index, term, leader | payload |
//! | --- | --- | --- | --- |
//! | entry | its kind: 0 blank, 1 command, 2 membership | its log id | the entry's |
//! | vote | 1 if committed | 0, the term, the candidate | none |
//! | truncate: entries after an index are gone | 1 if all are | that index (0 if all), 0, 0 | none |
//! | purge: entries up to a log id are gone | 0 | that log id | none |
//! | committed | 1 if nothing is | the log id (zeros if nothing) | none |
//! | mark: nothing but the offset at 12 | 0 | zeros | none |
//! | forget: all that was said of the group is gone | 0 | zeros | none |
//!
//! The checksum runs over the frame's own offset in the segment (4 bytes), then the frame without the checksum itself,
//! padding included, and starts from the segment's salt. So a frame is valid at one place of one segment only: neither
//! what an earlier life of a recycled file has left nor a frame in the wrong place passes.

use bytes::Bytes;
use larder_types::ids::{GroupId, ReplicaId};

use super::{EntryKind, LogEntry, LogId, Vote};
use crate::little_endian::{u32_at, u64_at};

/// Bytes of a frame before its payload.
pub(super) const HEADER_BYTES: usize = 40;

/// Frames start at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const COMMITTED: u8 = 5;
const MARK: u8 = 6;
const FORGET: u8 = 7;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body<'a> {
    /// An entry of the group's log.
    Entry { id: LogId, kind: EntryKind, payload: &'a [u8] },
    /// The group's vote.
    Vote(Vote),
    /// Entries after this index are gone; all of them if `None`.
    Truncate(Option<u64>),
    /// Entries up to this one are gone.
    Purge(LogId),
    /// How far the group's log is committed.
    Committed(Option<LogId>),
    /// Nothing; it only carries [`Frame::synced`].
    Mark,
    /// The group is as if it had never been.
    Forget,
}

/// A frame, with its payload where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// The group it belongs to.
    pub(super) group: GroupId,
    /// How far the segment was on disk when the frame was written.
    pub(super) synced: u32,
    /// What it says.
    pub(super) body: Body<'a>,
}

/// Bytes of a frame with a payload of this length.
pub(super) const fn frame_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGNMENT)
}

impl<'a> Frame<'a> {
    /// Appends the frame's bytes, for this offset of a segment with this salt.
    pub(super) fn encode(&self, salt: u32, offset: u32, out: &mut Vec<u8>) {
        let (kind, flags, id, payload) = self.parts();
        let start = out.len();
        out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&self.group.0.to_le_bytes());
        out.extend_from_slice(&self.synced.to_le_bytes());
        out.extend_from_slice(&id.index.to_le_bytes());
        out.extend_from_slice(&id.term.to_le_bytes());
        out.extend_from_slice(&id.leader.0.to_le_bytes());
        out.extend_from_slice(payload);
        out.resize(start + frame_bytes(payload.len()), 0);
        let crc = checksum(salt, offset, &out[start..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// The frame at the start of these bytes and its length, or `None` if there is no valid one for this offset and salt.
    pub(super) fn decode(bytes: &'a [u8], salt: u32, offset: u32) -> Option<(Self, usize)> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let synced = u32_at(header, 12);
        // What cannot be is cheap to see, and most of what a scan for later frames looks at cannot be.
        if !(ENTRY..=FORGET).contains(&header[8]) || synced > offset {
            return None;
        }
        let payload_bytes = usize::try_from(u32_at(header, 0)).ok()?;
        let whole = bytes.get(..frame_bytes(payload_bytes))?;
        if u32_at(header, 4) != checksum(salt, offset, whole) {
            return None;
        }
        let payload = &whole[HEADER_BYTES..HEADER_BYTES + payload_bytes];
        let id = LogId { index: u64_at(header, 16), term: u64_at(header, 24), leader: ReplicaId(u64_at(header, 32)) };
        let body = match (header[8], header[9]) {
            (ENTRY, flags) => Body::Entry { id, kind: kind_of(flags)?, payload },
            (VOTE, flags @ 0..=1) => Body::Vote(Vote { term: id.term, candidate: id.leader, committed: flags == 1 }),
            (TRUNCATE, flags @ 0..=1) => Body::Truncate((flags == 0).then_some(id.index)),
            (PURGE, 0) => Body::Purge(id),
            (COMMITTED, flags @ 0..=1) => Body::Committed((flags == 0).then_some(id)),
            (MARK, 0) => Body::Mark,
            (FORGET, 0) => Body::Forget,
            _ => return None,
        };
        let group = GroupId(u16::from_le_bytes([header[10], header[11]]));
        Some((Self { group, synced, body }, whole.len()))
    }

    /// Type, flags, the three numbers, payload.
    fn parts(&self) -> (u8, u8, LogId, &'a [u8]) {
        const NONE: LogId = LogId { index: 0, term: 0, leader: ReplicaId(0) };
        match self.body {
            Body::Entry { id, kind, payload } => (ENTRY, flags_of(kind), id, payload),
            Body::Vote(vote) => {
                let id = LogId { index: 0, term: vote.term, leader: vote.candidate };
                (VOTE, u8::from(vote.committed), id, &[])
            }
            Body::Truncate(Some(index)) => (TRUNCATE, 0, LogId { index, ..NONE }, &[]),
            Body::Truncate(None) => (TRUNCATE, 1, NONE, &[]),
            Body::Purge(id) => (PURGE, 0, id, &[]),
            Body::Committed(Some(id)) => (COMMITTED, 0, id, &[]),
            Body::Committed(None) => (COMMITTED, 1, NONE, &[]),
            Body::Mark => (MARK, 0, NONE, &[]),
            Body::Forget => (FORGET, 0, NONE, &[]),
        }
    }
}

/// The entry that the bytes of a frame hold, or `None` if they are not a valid entry's. Keeps the bytes alive.
pub(super) fn entry(bytes: &Bytes, salt: u32, offset: u32) -> Option<LogEntry> {
    match Frame::decode(bytes, salt, offset)?.0.body {
        Body::Entry { id, kind, payload } => Some(LogEntry { id, kind, payload: bytes.slice_ref(payload) }),
        _ => None,
    }
}

fn checksum(salt: u32, offset: u32, frame: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(salt, &offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &frame[..4]);
    crc32c::crc32c_append(crc, &frame[8..])
}

const fn flags_of(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Blank => 0,
        EntryKind::Command => 1,
        EntryKind::Membership => 2,
    }
}

const fn kind_of(flags: u8) -> Option<EntryKind> {
    match flags {
        0 => Some(EntryKind::Blank),
        1 => Some(EntryKind::Command),
        2 => Some(EntryKind::Membership),
        _ => None,
    }
}
