//! Opening the log: what it held when the last process stopped, however that happened.
//!
//! Segments are read in order, each up to its first invalid frame. What an invalid frame means:
//!
//! | where | and | it is | then |
//! | --- | --- | --- | --- |
//! | a header | | damage: headers are synced before the file has its name | refuse |
//! | not in the last segment, before the end that the next header names | | damage: all of it was synced | refuse |
//! | in the last segment | a later valid frame says that this offset was on disk before it was written | damage | refuse |
//! | in the last segment | no later valid frame says so | a torn tail: it was never synced, so never acknowledged | cut |
//! | nothing but zeros, or another life's frames, follow | | the end | go on from here |
//!
//! A later valid frame alone proves nothing: frames written together reach the disk in any order. But each carries how
//! far its segment was synced when it was written ([`super::frame`]), and that is proof. What cannot be told from a torn
//! tail is damage to the very last synced frames if nothing at all was written after them; the mark written when the
//! log is closed, and the committed positions written in passing, keep that window short.
//!
//! Valid frames that contradict each other (a gap in the indexes, a checkpoint that differs from what was replayed, a
//! missing segment) are damage too. Damage is never repaired here: entries may have been acknowledged.
//!
//! Before anything new is written, what was cut is overwritten with zeros, so that it cannot come back, and what was
//! found but is not known to be on disk is written again and synced: after a failed sync the page cache may show bytes
//! that never reached the disk, and syncing alone would not write them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_types::ids::GroupId;

use super::frame::{self, Body, Frame};
use super::group::{Group, Place, Slot};
use super::segment::{self, Header, Segment};
use super::segments::{SegmentInfo, Segments};
use super::writer::{Active, offset};
use super::{GroupState, LogError};
use crate::disk::Disk;

/// What was found.
pub(super) struct Recovered {
    /// All groups that the log knows.
    pub(super) groups: BTreeMap<GroupId, Group>,
    /// All segments.
    pub(super) segments: Segments,
    /// The last segment, to be written further; `None` if the log is new.
    pub(super) active: Option<Active>,
}

/// Reads the log, and makes what it holds durable.
///
/// # Errors
/// When the disk fails or the log is damaged.
pub(super) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered, LogError> {
    // What the file system shows is what the next process must find.
    disk.sync_dir(dir)?;
    let names = disk.list(dir)?;
    let sequences: Vec<u64> = names.iter().filter_map(|name| segment::sequence_of(name)).collect();
    for pair in sequences.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(damaged(&segment::path(dir, pair[0] + 1), 0, "the file is missing"));
        }
    }
    let mut replay = Replay::default();
    let mut segments = Segments::default();
    let mut last: Option<Scanned> = None;
    for sequence in sequences {
        let scanned = Scanned::open(disk, dir, sequence)?;
        if let Some(previous) = last.take() {
            previous.replay_to(scanned.header.previous_end, &mut replay, &mut segments)?;
            replay
                .check(&scanned.header.checkpoint)
                .map_err(|what| scanned.damaged(segment::HEADER_BYTES as u64, what))?;
        } else {
            replay = Replay::from(&scanned.header.checkpoint);
        }
        last = Some(scanned);
    }
    let active = match last {
        Some(last) => Some(last.replay_tail(&mut replay, &mut segments)?),
        None => None,
    };
    let groups = replay.finish().map_err(|(group, first)| {
        let text = format!(
            "entries of group {group} from index {first} on are in no segment of {}: a file was removed. {ADVICE}",
            dir.display()
        );
        LogError::Damaged(text)
    })?;
    Ok(Recovered { groups, segments, active })
}

const ADVICE: &str =
    "Do not edit the files; restore this replica from its peers or from a copy of the whole directory.";

fn damaged(path: &Path, offset: u64, what: &str) -> LogError {
    LogError::Damaged(format!("{} at offset {offset}: {what}. {ADVICE}", path.display()))
}

/// A segment in memory, on its way into the replay.
struct Scanned {
    path: PathBuf,
    header: Header,
    segment: Arc<Segment>,
    bytes: Vec<u8>,
    info: SegmentInfo,
}

impl Scanned {
    fn open(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<Self, LogError> {
        let path = segment::path(dir, sequence);
        let file = disk.open(&path)?;
        let len = file.len()?;
        if len > super::MAX_SEGMENT_BYTES {
            return Err(damaged(&path, super::MAX_SEGMENT_BYTES, "the file is longer than any segment"));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        file.read_at(0, &mut bytes)?;
        let header = Header::decode(&bytes).map_err(|(at, what)| damaged(&path, at, what))?;
        if header.sequence != sequence {
            return Err(damaged(&path, 16, "the header is another segment's"));
        }
        if header.bytes != len {
            return Err(damaged(&path, len.min(header.bytes), "the length of the file has changed"));
        }
        let info = SegmentInfo::new(sequence, len);
        let segment = Arc::new(Segment { sequence, salt: header.salt, bytes: len, file });
        Ok(Self { path, header, segment, bytes, info })
    }

    fn damaged(&self, offset: u64, what: &str) -> LogError {
        damaged(&self.path, offset, what)
    }

    /// Replays a segment that is not the last: everything up to this end is valid.
    fn replay_to(mut self, end: u64, replay: &mut Replay, segments: &mut Segments) -> Result<(), LogError> {
        let (valid, _) = self.replay(end, replay, segments)?;
        if valid != end {
            return Err(self.damaged(valid, "the frame is damaged"));
        }
        segments.0.push_back(self.info);
        Ok(())
    }

    /// Replays the last segment, and makes what is valid durable and what is not zero.
    fn replay_tail(mut self, replay: &mut Replay, segments: &mut Segments) -> Result<Active, LogError> {
        let (end, synced) = self.replay(self.segment.bytes, replay, segments)?;
        let dirty_end = self.dirty_end(end);
        if let Some(proof) = self.proof_beyond(end, dirty_end) {
            let what = format!("the frame is damaged; it was on disk before the one at offset {proof} was written");
            return Err(self.damaged(end, &what));
        }
        self.settle(synced, end, dirty_end)?;
        segments.0.push_back(self.info);
        Ok(Active { segment: self.segment, end, synced: end })
    }

    /// Replays valid frames up to this end at most. Returns where they end, and how far that is known to be on disk.
    /// `segments` are those before this one.
    fn replay(&mut self, end: u64, replay: &mut Replay, segments: &mut Segments) -> Result<(u64, u64), LogError> {
        let start = segment::frames_start(self.header.checkpoint.len());
        let (mut at, mut synced) = (start, start);
        while at < end {
            let Some((frame, bytes)) = self.frame_at(at) else { break };
            let place = Place { segment: Arc::clone(&self.segment), offset: offset(at) };
            replay.apply(&frame, place).map_err(|what| self.damaged(at, what))?;
            synced = synced.max(u64::from(frame.synced));
            at += bytes as u64;
            let group = frame.group;
            match frame.body {
                Body::Entry { id, .. } => self.info.note(group, id.index),
                Body::Forget => {
                    segments.forget(group);
                    self.info.forget(group);
                }
                _ => {}
            }
        }
        Ok((at, synced.min(at)))
    }

    /// The offset of a valid frame that was written when everything up to `end`, and more, was on disk.
    fn proof_beyond(&self, end: u64, dirty_end: u64) -> Option<u64> {
        let proves = |at: &u64| self.frame_at(*at).is_some_and(|(frame, _)| u64::from(frame.synced) > end);
        (end..dirty_end).step_by(frame::ALIGNMENT).find(proves)
    }

    /// Where the zeros start that fill the file from some place after `end`, rounded up.
    fn dirty_end(&self, end: u64) -> u64 {
        // Compared in chunks, which is as fast as memory; most segments have been used in part only.
        const ZEROS: [u8; 4096] = [0; 4096];
        let rest = &self.bytes[index(end)..];
        let dirty = rest.chunks(ZEROS.len()).rposition(|chunk| chunk != &ZEROS[..chunk.len()]);
        let dirty = dirty.map_or(0, |last| (last + 1) * ZEROS.len());
        end + dirty.min(rest.len()) as u64
    }

    fn frame_at(&self, at: u64) -> Option<(Frame<'_>, usize)> {
        let bytes = self.bytes.get(usize::try_from(at).ok()?..)?;
        Frame::decode(bytes, self.segment.salt, offset(at))
    }

    /// Writes again what is not known to be on disk, and zeros over what follows the end.
    fn settle(&self, synced: u64, end: u64, dirty_end: u64) -> io::Result<()> {
        if synced == dirty_end {
            return Ok(());
        }
        let mut bytes = self.bytes[index(synced)..index(end)].to_vec();
        bytes.resize(index(dirty_end - synced), 0);
        self.segment.file.write_at(synced, &bytes)?;
        self.segment.file.sync_data()
    }
}

/// An offset within a segment that is in memory.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// All groups, as far as frames were replayed.
#[derive(Default)]
struct Replay {
    groups: BTreeMap<GroupId, GroupReplay>,
}

/// A group, as far as frames were replayed.
#[derive(Default)]
struct GroupReplay {
    state: GroupState,
    /// Entries after the purged ones that were in segments that are gone. A later purge must cover them.
    missing: u64,
    slots: VecDeque<Slot>,
}

impl From<&BTreeMap<GroupId, GroupState>> for Replay {
    /// Starts from the checkpoint of the oldest segment.
    fn from(checkpoint: &BTreeMap<GroupId, GroupState>) -> Self {
        let group = |state: &GroupState| {
            let next = state.last.map_or(0, |id| id.index + 1);
            let first = state.purged.map_or(0, |id| id.index + 1);
            GroupReplay { state: *state, missing: next.saturating_sub(first), slots: VecDeque::new() }
        };
        Self { groups: checkpoint.iter().map(|(&id, state)| (id, group(state))).collect() }
    }
}

impl Replay {
    /// # Errors
    /// Why the frame cannot follow those before.
    fn apply(&mut self, frame: &Frame<'_>, place: Place) -> Result<(), &'static str> {
        match frame.body {
            Body::Mark => Ok(()),
            Body::Forget => {
                self.groups.remove(&frame.group);
                Ok(())
            }
            body => self.groups.entry(frame.group).or_default().apply(body, place),
        }
    }

    /// Compares with the checkpoint of the segment that was reached.
    fn check(&self, checkpoint: &BTreeMap<GroupId, GroupState>) -> Result<(), &'static str> {
        let same = self.groups.len() == checkpoint.len()
            && self
                .groups
                .iter()
                .zip(checkpoint)
                .all(|((id, group), (known, state))| id == known && group.agrees_with(state));
        if same { Ok(()) } else { Err("the checkpoint contradicts the segments before it") }
    }

    /// # Errors
    /// A group and the index of an entry that no segment holds.
    fn finish(self) -> Result<BTreeMap<GroupId, Group>, (GroupId, u64)> {
        let finish = |(id, group): (GroupId, GroupReplay)| match group.missing {
            0 => Ok((id, Group::recovered(&group.state, group.slots))),
            _ => Err((id, group.first())),
        };
        self.groups.into_iter().map(finish).collect()
    }
}

impl GroupReplay {
    fn first(&self) -> u64 {
        self.state.purged.map_or(0, |id| id.index + 1)
    }

    fn next(&self) -> u64 {
        self.first() + self.missing + self.slots.len() as u64
    }

    fn apply(&mut self, body: Body<'_>, place: Place) -> Result<(), &'static str> {
        match body {
            Body::Entry { id, kind, payload } => {
                if id.index != self.next() {
                    return Err("the entry does not follow the one before it");
                }
                let bytes = u32::try_from(payload.len()).map_err(|_| "the entry is too long")?;
                self.slots.push_back(Slot::on_disk(id, kind, bytes, place));
            }
            Body::Vote(vote) => self.state.vote = Some(vote),
            Body::Committed(committed) => self.state.committed = committed,
            Body::Truncate(after) => {
                let next = after.map_or(0, |index| index + 1).max(self.first());
                let Some(gone) = self.next().checked_sub(next) else {
                    return Err("entries are truncated that were never there");
                };
                let kept = (self.slots.len() as u64).saturating_sub(gone);
                self.missing -= gone - (self.slots.len() as u64 - kept);
                self.slots.truncate(index(kept));
            }
            Body::Purge(id) => {
                let Some(gone) = (id.index + 1).checked_sub(self.first()) else {
                    return Err("entries are purged twice");
                };
                let of_missing = gone.min(self.missing);
                self.missing -= of_missing;
                self.slots.drain(..index(gone - of_missing).min(self.slots.len()));
                self.state.purged = Some(id);
            }
            // They concern no entry.
            Body::Mark | Body::Forget => {}
        }
        Ok(())
    }

    /// Compares with a checkpoint. The log id of a last entry whose segment is gone is taken on trust.
    fn agrees_with(&self, known: &GroupState) -> bool {
        let next = known.last.map_or(0, |id| id.index + 1);
        let last = match self.slots.back() {
            Some(slot) => Some(slot.id(self.next() - 1)),
            None if self.missing > 0 => known.last,
            None => self.state.purged,
        };
        next == self.next()
            && last == known.last
            && (self.state.vote, self.state.committed, self.state.purged) == (known.vote, known.committed, known.purged)
    }
}
