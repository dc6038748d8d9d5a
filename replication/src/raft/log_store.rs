//! A group's part of the node's log, as openraft wants to see it.
//!
//! Invariants:
//! - An append is reported as flushed only when it is on disk, and a vote is on disk when `save_vote` returns: a vote
//!   or an acknowledged entry that a power cut could take back would break Raft itself.
//! - Nothing is read without a bound of bytes, except where openraft asks for an exact range at its start (64 entries).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};

use futures_util::{Stream, stream};
use larder_storage::log::{GroupLog, LogEntry};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, RaftTypeConfig};
use tokio::sync::oneshot;

use super::codec;
use super::types::{Entry, LogId, TypeConfig, Vote};

/// Most bytes of entries handed to a peer at once, unless one entry alone is larger. The time limit of one request is
/// a heartbeat interval, so it must cross any usable network well within 300 ms.
const REPLICATE_BYTES: u64 = 1 << 20;

/// Most bytes of entries read ahead of their application.
const APPLY_BYTES: u64 = 4 << 20;

/// A group's log. Cheap to clone; a clone serves as reader.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: GroupLog,
}

impl LogStore {
    /// The adapter of one group.
    pub(crate) fn new(log: GroupLog) -> Self {
        Self { log }
    }

    fn read(&self, range: Range<u64>, max_bytes: u64) -> io::Result<Vec<Entry>> {
        let entries = self.log.read(range, max_bytes)?;
        entries.into_iter().map(|entry| codec::from_entry(entry).map_err(io::Error::from)).collect()
    }
}

/// The indexes that a range names.
fn indexes(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.read(indexes(&range), u64::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, REPLICATE_BYTES)
    }

    /// Read in portions: a range may hold gigabytes when a group catches up.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let state = (self.clone(), indexes(&range), Vec::new().into_iter());
        stream::unfold(state, |(store, mut left, mut portion)| async move {
            let mut next = portion.next();
            if next.is_none() && !left.is_empty() {
                portion = match store.read(left.clone(), APPLY_BYTES) {
                    Ok(entries) => entries.into_iter(),
                    Err(error) => return Some((Err(error), (store, 0..0, Vec::new().into_iter()))),
                };
                next = portion.next();
            }
            let entry: Entry = next?;
            left.start = entry.log_id.index + 1;
            Some((Ok(entry), (store, left, portion)))
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.state().vote.map(codec::from_vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(codec::from_log_id),
            last_log_id: state.last.map(codec::from_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, saved) = oneshot::channel();
        // The receiver is gone only if the group is being torn down, when nobody counts on the vote.
        self.log.save_vote(codec::to_vote(vote), Box::new(move |result| drop(done.send(result))));
        saved.await.map_err(|_| io::Error::other("the log ended before the vote was on disk"))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(committed.as_ref().map(codec::to_log_id))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.state().committed.map(codec::from_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = <TypeConfig as RaftTypeConfig>::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().map(codec::to_entry).collect();
        self.log.append(entries, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.log.truncate_after(last.map(|id| id.index))
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.log.purge(codec::to_log_id(&upto))
    }
}
