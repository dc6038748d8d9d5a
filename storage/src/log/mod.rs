//! The node's log: one sequence of segments that all Raft groups share, with group commit.
//!
//! CONTRACT STUB: signatures for `replication`; the owner may add to, but not break, them.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use larder_types::ids::{GroupId, ReplicaId};

use crate::disk::Disk;

/// The place of an entry in its group's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The term in which it was proposed.
    pub term: u64,
    /// The leader that proposed it.
    pub leader: ReplicaId,
    /// Its position, from 0.
    pub index: u64,
}

/// A replica's vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// The term voted in.
    pub term: u64,
    /// The candidate voted for.
    pub candidate: ReplicaId,
    /// Whether that candidate is known to have won.
    pub committed: bool,
}

/// What an entry's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Nothing: a new leader's first entry.
    Blank,
    /// A command of the state machine.
    Command,
    /// A membership, in the encoding of `replication`.
    Membership,
}

/// One entry of a group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place.
    pub id: LogId,
    /// What the payload is.
    pub kind: EntryKind,
    /// The payload.
    pub payload: Bytes,
}

/// What a group's log amounts to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The vote, if any was saved.
    pub vote: Option<Vote>,
    /// The last entry known to be committed when last saved (saved lazily).
    pub committed: Option<LogId>,
    /// Everything up to here was purged.
    pub purged: Option<LogId>,
    /// The last entry, or what was purged last if none is left.
    pub last: Option<LogId>,
}

/// How a log behaves.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Bytes of entry payloads kept in memory over all groups; older ones are read from disk.
    pub cache_bytes: u64,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed.
    #[error("the log cannot be read or written")]
    Io(#[from] io::Error),
    /// Bytes in the middle of the log are damaged. Which file and offset, and what to do, in a sentence.
    #[error("the log is damaged: {0}")]
    Damaged(String),
}

/// Called once when what was handed over is on disk, or can never be.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The node's log. Cheap to clone.
#[derive(Clone)]
pub struct Log {}

/// One group's part of the log. Cheap to clone.
#[derive(Clone)]
pub struct GroupLog {}

impl Log {
    /// Opens the log in a directory of the disk, recovering what it holds; a torn tail is cut, damage is an error.
    /// `failed` is called once, from the writer's thread, when the disk has failed: the node must stop.
    ///
    /// # Errors
    /// When the disk fails or the log is damaged.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        failed: Box<dyn Fn(&io::Error) + Send + Sync>,
    ) -> Result<Self, LogError> {
        todo!()
    }

    /// A group's part of the log; empty if the log knows nothing of the group.
    #[must_use]
    pub fn group(&self, group: GroupId) -> GroupLog {
        todo!()
    }

    /// The groups whose entries keep the oldest segment from being recycled, oldest need first, if the log is larger
    /// than `budget_bytes`: they should take a snapshot and purge.
    #[must_use]
    pub fn pinning(&self, budget_bytes: u64) -> Vec<GroupId> {
        todo!()
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        todo!()
    }

    /// Writes what is pending, syncs it and ends the writer's thread. Later calls fail.
    pub fn close(&self) {
        todo!()
    }
}

impl GroupLog {
    /// What the group's log amounts to now.
    #[must_use]
    pub fn state(&self) -> GroupState {
        todo!()
    }

    /// Appends entries, which must follow the last one without a gap. They can be read at once; `done` is called when
    /// they are on disk.
    pub fn append(&self, entries: Vec<LogEntry>, done: Done) {
        todo!()
    }

    /// Saves the vote; `done` is called when it is on disk.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        todo!()
    }

    /// Removes the entries after this index (all if `None`). On disk before anything appended later.
    ///
    /// # Errors
    /// When the log has failed.
    pub fn truncate_after(&self, index: Option<u64>) -> io::Result<()> {
        todo!()
    }

    /// Removes the entries up to and including this one. A position beyond the last entry empties the log and lets it
    /// go on from there (after installing a snapshot). The snapshot that replaces them must be on disk already.
    ///
    /// # Errors
    /// When the log has failed.
    pub fn purge(&self, upto: LogId) -> io::Result<()> {
        todo!()
    }

    /// Notes how far the log is committed. Written with whatever is written next.
    ///
    /// # Errors
    /// When the log has failed.
    pub fn save_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        todo!()
    }

    /// The entries in this range of indexes that exist, at least one if any does, else as many as fit `max_bytes`.
    ///
    /// # Errors
    /// When the disk fails or what it returns is damaged: an error, never a shorter answer.
    pub fn read(&self, range: Range<u64>, max_bytes: u64) -> io::Result<Vec<LogEntry>> {
        todo!()
    }

    /// Bytes of the group's entries that were not purged.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        todo!()
    }
}
