//! The log's one writer: a thread that takes what the groups have queued, writes it and syncs it, many at a time.
//!
//! Group commit needs no timer: while a sync runs, the queue fills; the next round takes all that is there. A round is
//! one write and one sync (more only if it goes over a segment's end), then everyone who waited is told. Records that
//! nobody waits for (truncate, purge, committed) are written at once but synced with the next that somebody does.
//!
//! Invariants:
//! 1. Frames are in the order of the queue. A segment's frames are on disk before the next segment exists.
//! 2. A waiter is told `Ok` only after the sync that covers its frame, and of all before it.
//! 3. After the first error nothing is written any more.
//! 4. A segment is given up only after the purges that make it dead, and the checkpoint after it, are on disk.
//! 5. While `room` holds, the next segment is ready at the latest when this one is half full.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use larder_types::ids::GroupId;

use super::failure::Waiter;
use super::frame::{self, Body, Frame};
use super::group::{GroupCell, Place};
use super::meter::Queued;
use super::segment::{self, Header, Segment};
use super::segments::SegmentInfo;
use super::spare::{Spare, Step};
use super::{GroupState, LogEntry, LogId, Shared, Vote, lock};
use crate::disk::{DirLock, Disk};

/// Bytes after which a round takes no more from the queue: beyond it a longer write gains nothing.
const ROUND_BYTES: u64 = 4 << 20;

/// Encoded bytes after which they are written, whatever else is to come.
const WRITE_BYTES: usize = 4 << 20;

/// How long to wait before trying again whether the disk is still full.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// What counts for an entry in the cache beside its payload.
const CACHED_ENTRY_BYTES: u64 = 128;

/// Something for the writer to do.
pub(super) enum Message {
    /// Write this. Counted as queued until it is gone.
    Write { cell: Arc<GroupCell>, record: Record, waiter: Option<Waiter>, queued: Queued },
    /// Sync everything and stop.
    Close,
}

/// What is to be written for a group.
pub(super) enum Record {
    /// Entries; the number of the first (see [`super::group`]).
    Entries { entries: Vec<LogEntry>, number: u64 },
    /// The vote.
    Vote(Vote),
    /// Nothing is left after this index; and what is then last.
    Truncate { after: Option<u64>, last: Option<LogId> },
    /// Nothing is left up to this entry; and what is then last.
    Purge { upto: LogId, last: Option<LogId> },
    /// How far it is committed.
    Committed(Option<LogId>),
    /// It is as if it had never been.
    Forget,
}

/// The segment that is being written.
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    /// Where the next frame that is not yet encoded goes.
    pub(super) end: u64,
    /// What is known to be on disk.
    pub(super) synced: u64,
}

/// What the writer's thread owns.
pub(super) struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) cache_bytes: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) receiver: Receiver<Message>,
    pub(super) active: Active,
    pub(super) spare: Spare,
    /// What the log says of each group, up to `active.end`.
    pub(super) states: BTreeMap<GroupId, GroupState>,
    pub(super) pending: Pending,
    pub(super) cache: Cache,
    /// Held as long as the thread may write.
    pub(super) _lock: DirLock,
}

/// Frames that are encoded but not written; they end at `active.end`.
#[derive(Default)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    entries: Vec<Written>,
}

/// The entries whose payloads are in memory and on disk, oldest first.
#[derive(Default)]
pub(super) struct Cache {
    entries: VecDeque<Written>,
    bytes: u64,
}

/// An entry of the log, on its way to disk.
struct Written {
    cell: Arc<GroupCell>,
    index: u64,
    number: u64,
    offset: u32,
    payload_bytes: u64,
}

impl Writer {
    /// Works until the log is closed. Never returns early: after a failure everyone who comes is told of it.
    pub(super) fn run(mut self) {
        let mut round = Vec::new();
        let mut closing = false;
        let result = loop {
            let done = self.round(&mut round, &mut closing);
            if closing || done.is_err() {
                break done;
            }
        };
        if let Err(error) = result {
            self.shared.fail(&error);
            self.refuse(round, closing);
        }
    }

    /// Works until it would wait, for at most a round. Returns whether the log goes on.
    pub(super) fn step(&mut self) -> bool {
        let mut round = Vec::new();
        let mut closing = false;
        let mut done = Ok(());
        if !self.receiver.is_empty() {
            done = self.round(&mut round, &mut closing);
        }
        let done = done.and_then(|()| {
            self.collect_unsynced()?;
            while self.prepare()? == Step::More {}
            Ok(())
        });
        match done {
            Ok(()) if closing => self.shared.end(),
            Ok(()) => return true,
            // Whoever is told must find the log failed. Those that are still queued are told when they are dropped.
            Err(error) => self.shared.fail(&error),
        }
        false
    }

    /// Takes a round and writes it. Notes whether it is the last.
    fn round(&mut self, round: &mut Vec<Message>, closing: &mut bool) -> io::Result<()> {
        *closing = self.take_round(round)?;
        if *closing { self.finish(round) } else { self.commit(round) }
    }

    /// Waits for work and takes what is there. Returns whether the log is to be closed.
    fn take_round(&mut self, round: &mut Vec<Message>) -> io::Result<bool> {
        let mut next = self.wait()?;
        let mut bytes = 0;
        loop {
            match next {
                None | Some(Message::Close) => return Ok(true),
                Some(message) => {
                    if let Message::Write { queued, .. } = &message {
                        bytes += queued.bytes();
                    }
                    round.push(message);
                }
            }
            if bytes >= ROUND_BYTES {
                return Ok(false);
            }
            next = match self.receiver.try_recv() {
                Ok(message) => Some(message),
                Err(TryRecvError::Empty) => return Ok(false),
                Err(TryRecvError::Disconnected) => None,
            };
        }
    }

    /// The next message; `None` if there will be none. Uses the time until there is one.
    fn wait(&mut self) -> io::Result<Option<Message>> {
        loop {
            match self.receiver.try_recv() {
                Ok(message) => return Ok(Some(message)),
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => {}
            }
            self.collect_unsynced()?;
            let message = match self.prepare()? {
                Step::More => continue,
                Step::Ready => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Step::Full => self.receiver.recv_timeout(FULL_RETRY),
            };
            match message {
                Ok(message) => return Ok(Some(message)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Writes a round, tells who waited, and tidies up.
    fn commit(&mut self, round: &mut Vec<Message>) -> io::Result<()> {
        let mut callers = 0;
        for message in round.iter() {
            if let Message::Write { cell, record, waiter, .. } = message {
                self.encode(cell, record)?;
                callers += u64::from(waiter.is_some());
            }
        }
        self.write()?;
        if callers > 0 {
            self.sync()?;
            self.shared.meter.served(callers);
        }
        for message in round.drain(..) {
            if let Message::Write { waiter: Some(waiter), queued, .. } = message {
                drop(queued);
                waiter.tell(Ok(()));
            }
        }
        self.evict();
        if callers > 0 {
            self.collect()?;
        }
        self.pace()
    }

    /// The last round. The mark proves to the next life that everything before it was on disk.
    fn finish(&mut self, round: &mut Vec<Message>) -> io::Result<()> {
        self.commit(round)?;
        self.write()?;
        self.sync()?;
        let frame = Frame { group: GroupId(0), synced: self.synced(), body: Body::Mark };
        if self.fits(frame::frame_bytes(0)) {
            self.push(&frame);
            self.write()?;
            self.sync()?;
        }
        Ok(())
    }

    /// Tells everyone in this round, and whoever comes until the log is closed, that the log has failed.
    fn refuse(&self, round: Vec<Message>, closing: bool) {
        let later = (!closing).then(|| self.receiver.iter()).into_iter().flatten();
        for message in round.into_iter().chain(later) {
            match message {
                Message::Write { waiter: Some(waiter), .. } => waiter.tell(self.shared.failure.check()),
                Message::Write { waiter: None, .. } => {}
                Message::Close => return,
            }
        }
    }

    /// Encodes a record and notes in `states` what it changes.
    fn encode(&mut self, cell: &Arc<GroupCell>, record: &Record) -> io::Result<()> {
        match record {
            Record::Entries { entries, number } => {
                for (entry, number) in entries.iter().zip(*number..) {
                    self.encode_entry(cell, entry, number)?;
                }
            }
            Record::Vote(vote) => {
                self.encode_body(cell.id, Body::Vote(*vote))?;
                self.state(cell.id).vote = Some(*vote);
            }
            Record::Truncate { after, last } => {
                self.encode_body(cell.id, Body::Truncate(*after))?;
                self.cache.forget(cell.id, |index| after.is_none_or(|after| index > after));
                self.state(cell.id).last = *last;
            }
            Record::Purge { upto, last } => {
                self.encode_body(cell.id, Body::Purge(*upto))?;
                self.cache.forget(cell.id, |index| index <= upto.index);
                let state = self.state(cell.id);
                state.purged = Some(*upto);
                state.last = *last;
            }
            Record::Committed(committed) => {
                self.encode_body(cell.id, Body::Committed(*committed))?;
                self.state(cell.id).committed = *committed;
            }
            Record::Forget => {
                self.encode_body(cell.id, Body::Forget)?;
                self.states.remove(&cell.id);
                // Whoever gives up a segment for it syncs this frame first.
                lock(&self.shared.segments).forget(cell.id);
            }
        }
        Ok(())
    }

    fn encode_entry(&mut self, cell: &Arc<GroupCell>, entry: &LogEntry, number: u64) -> io::Result<()> {
        let LogEntry { id, kind, payload } = entry;
        let offset = self.encode_body(cell.id, Body::Entry { id: *id, kind: *kind, payload })?;
        self.state(cell.id).last = Some(*id);
        let payload_bytes = payload.len() as u64;
        self.pending.entries.push(Written { cell: Arc::clone(cell), index: id.index, number, offset, payload_bytes });
        Ok(())
    }

    /// Encodes a frame, in the next segment if this one is full, and returns its offset.
    fn encode_body(&mut self, group: GroupId, body: Body<'_>) -> io::Result<u32> {
        let payload_bytes = match body {
            Body::Entry { payload, .. } => payload.len(),
            _ => 0,
        };
        if !self.fits(frame::frame_bytes(payload_bytes)) {
            self.rotate()?;
        } else if self.pending.bytes.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(self.push(&Frame { group, synced: self.synced(), body }))
    }

    fn push(&mut self, frame: &Frame<'_>) -> u32 {
        let offset = offset(self.active.end);
        let before = self.pending.bytes.len();
        frame.encode(self.active.segment.salt, offset, &mut self.pending.bytes);
        self.active.end += (self.pending.bytes.len() - before) as u64;
        offset
    }

    fn fits(&self, bytes: usize) -> bool {
        self.active.end + bytes as u64 <= self.active.segment.bytes
    }

    fn synced(&self) -> u32 {
        offset(self.active.synced)
    }

    fn state(&mut self, group: GroupId) -> &mut GroupState {
        self.states.entry(group).or_default()
    }

    /// Writes what is encoded, and tells the groups where their entries are.
    fn write(&mut self) -> io::Result<()> {
        if self.pending.bytes.is_empty() {
            return Ok(());
        }
        let start = self.active.end - self.pending.bytes.len() as u64;
        self.active.segment.file.write_at(start, &self.pending.bytes)?;
        let meter = &self.shared.meter;
        meter.written_bytes.fetch_add(self.pending.bytes.len() as u64, Ordering::Relaxed);
        self.pending.bytes.clear();
        // What one large entry has made of it is not kept.
        self.pending.bytes.shrink_to(WRITE_BYTES);
        meter.buffer_bytes.store(self.pending.bytes.capacity() as u64, Ordering::Relaxed);
        if let Some(info) = lock(&self.shared.segments).0.back_mut() {
            for entry in &self.pending.entries {
                info.note(entry.cell.id, entry.index);
            }
        }
        for entry in self.pending.entries.drain(..) {
            let place = Place { segment: Arc::clone(&self.active.segment), offset: entry.offset };
            entry.cell.state().place(entry.index, entry.number, place);
            self.cache.bytes += entry.payload_bytes + CACHED_ENTRY_BYTES;
            self.cache.entries.push_back(entry);
        }
        Ok(())
    }

    /// Syncs what is written, if it is not on disk yet.
    fn sync(&mut self) -> io::Result<()> {
        if self.active.synced < self.active.end {
            let begun = Instant::now();
            self.active.segment.file.sync_data()?;
            self.shared.meter.synced(begun.elapsed());
            self.active.synced = self.active.end;
        }
        Ok(())
    }

    /// Finishes this segment and goes on in the next.
    fn rotate(&mut self) -> io::Result<()> {
        self.write()?;
        self.sync()?;
        let previous = &self.active.segment;
        let header = Header {
            sequence: previous.sequence + 1,
            salt: previous.salt.wrapping_add(1),
            bytes: self.spare.bytes(),
            previous_end: self.active.end,
            checkpoint: self.states.clone(),
        };
        self.active = start_segment(&self.dir, &mut self.spare, &header)?;
        lock(&self.shared.segments).0.push_back(SegmentInfo::new(header.sequence, header.bytes));
        Ok(())
    }

    /// Gives up the oldest segments that nobody needs. What is in `states` must be on disk.
    pub(super) fn collect(&mut self) -> io::Result<()> {
        loop {
            let first = |group| self.states.get(&group).and_then(|state| state.purged).map_or(0, |id| id.index + 1);
            let Some(dead) = lock(&self.shared.segments).dead(first).cloned() else { return Ok(()) };
            let path = segment::path(&self.dir, dead.sequence);
            if !self.spare.recycle(&path, dead.bytes)? {
                self.disk.remove(&path)?;
            }
            // One by one, so that those left after a crash are always contiguous.
            self.disk.sync_dir(&self.dir)?;
            lock(&self.shared.segments).0.pop_front();
        }
    }

    /// Gives up segments whose purge nobody has waited for.
    fn collect_unsynced(&mut self) -> io::Result<()> {
        if self.active.synced == self.active.end {
            return Ok(());
        }
        let first = |group| self.states.get(&group).and_then(|state| state.purged).map_or(0, |id| id.index + 1);
        if lock(&self.shared.segments).dead(first).is_none() {
            return Ok(());
        }
        self.sync()?;
        self.collect()
    }

    /// Keeps the next segment's file twice as far as this one, so that it is ready at half.
    pub(super) fn pace(&mut self) -> io::Result<()> {
        while self.spare.filled() < self.active.end.saturating_mul(2) {
            if self.prepare()? != Step::More {
                break;
            }
        }
        Ok(())
    }

    /// Does one step for the next segment's file.
    fn prepare(&mut self) -> io::Result<Step> {
        let step = self.spare.step()?;
        if step != Step::More {
            let room = step == Step::Ready;
            let had_room = self.shared.room.swap(room, Ordering::Relaxed);
            match (had_room, room) {
                (true, false) => {
                    tracing::warn!("the disk is full: no room for the next log segment, writes are refused")
                }
                (false, true) => tracing::info!("the disk has room for the next log segment again"),
                _ => {}
            }
        }
        Ok(step)
    }

    /// Forgets payloads that are on disk, oldest first, until the rest fits the cache.
    fn evict(&mut self) {
        while self.cache.bytes > self.cache_bytes {
            let Some(entry) = self.cache.entries.pop_front() else { break };
            self.cache.bytes -= entry.payload_bytes + CACHED_ENTRY_BYTES;
            entry.cell.state().evict(entry.index, entry.number);
        }
        self.shared.meter.cached_bytes.store(self.cache.bytes, Ordering::Relaxed);
    }
}

impl Cache {
    /// Forgets entries that their group has removed, and their payloads with them. Walks all that is cached, but what
    /// removes entries is rare.
    fn forget(&mut self, group: GroupId, removed: impl Fn(u64) -> bool) {
        self.entries.retain(|entry| {
            let keep = entry.cell.id != group || !removed(entry.index);
            if !keep {
                self.bytes -= entry.payload_bytes + CACHED_ENTRY_BYTES;
            }
            keep
        });
    }
}

/// Makes the spare the segment with this header.
pub(super) fn start_segment(dir: &std::path::Path, spare: &mut Spare, header: &Header) -> io::Result<Active> {
    let file = spare.take(&segment::path(dir, header.sequence), &header.encode())?;
    let segment = Segment { sequence: header.sequence, salt: header.salt, bytes: header.bytes, file };
    let start = segment::frames_start(header.checkpoint.len());
    Ok(Active { segment: Arc::new(segment), end: start, synced: start })
}

impl Record {
    /// Bytes of its frames.
    pub(super) fn frame_bytes(&self) -> u64 {
        let bytes = match self {
            Self::Entries { entries, .. } => entries.iter().map(|entry| frame::frame_bytes(entry.payload.len())).sum(),
            Self::Vote(_) | Self::Truncate { .. } | Self::Purge { .. } | Self::Committed(_) | Self::Forget => {
                frame::HEADER_BYTES
            }
        };
        bytes as u64
    }
}

/// An offset in a segment as it stands in a frame. Segments are at most `MAX_SEGMENT_BYTES` long.
#[allow(clippy::expect_used, reason = "the length of segments is checked when the log is opened")]
pub(super) fn offset(offset: u64) -> u32 {
    u32::try_from(offset).expect("an offset within a segment fits 32 bits")
}
