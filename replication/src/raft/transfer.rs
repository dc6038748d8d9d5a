//! Snapshots on their way from a leader to a replica that lacks so much of the log that it is gone.
//!
//! The leader pushes the file as it is, in blocks. Before the first one it asks where to go on: what has arrived before a
//! connection broke is not sent again. The receiver checks every byte and puts the file on disk before its group hears
//! of it.
//!
//! ```text
//! begin    envelope | id | length u64                            answer: offset u64
//! block    envelope | id | offset u64 | bytes                    answer: the next offset u64
//! end      envelope | id | vote                                  answer: vote
//! id       index u64 | checksum of the header u32
//! ```
//!
//! Invariants: one snapshot leaves a node at a time, no faster than allowed; one arrives for each group; every step has
//! a deadline.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use larder_storage::snapshot::{Incoming, SnapshotError, SnapshotStore};
use larder_types::ids::{GroupId, NodeId};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore};
use tokio::time::Instant;

use super::codec::{CodecError, Reader};
use super::network::{Courier, Kind};
use super::snapshot::{Shelf, describe};
use super::types::{Raft, RaftSnapshot, Vote};
use super::wire::{self, Envelope};
use crate::blocking;
use crate::failure::Failure;
use crate::peers::{Body, Lane, PeerError, Refusal, Reply};

/// Bytes of a block.
const BLOCK_BYTES: usize = 1 << 20;
/// How long a block may take: its way, and the peer's disk.
const BLOCK: Duration = Duration::from_secs(20);
/// How long the peer may take to check and load a snapshot.
const INSTALL: Duration = Duration::from_secs(900);

/// What snapshots leave a node by. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sending {
    turn: Arc<Semaphore>,
    bytes_per_second: u64,
}

impl Sending {
    /// One at a time, no faster than this; 0 for no limit.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), bytes_per_second }
    }
}

/// Why a snapshot was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The peer could not be asked, or refused.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// What it answered makes no sense.
    #[error(transparent)]
    Answer(#[from] CodecError),
    /// It has not taken what it was sent.
    #[error("the peer wants to go on with byte {next} after it was sent all before {end}")]
    Astray {
        /// Where the last block ended.
        end: u64,
        /// Where the peer wants to go on.
        next: u64,
    },
    /// There is nothing to send, or it is damaged.
    #[error("the snapshot cannot be read: {0}")]
    Snapshot(String),
}

/// Which snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    index: u64,
    header: u32,
}

impl Id {
    fn put(self, out: &mut Vec<u8>) {
        out.extend(self.index.to_le_bytes());
        out.extend(self.header.to_le_bytes());
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { index: reader.u64()?, header: reader.u32()? })
    }
}

/// Sends a snapshot, has it installed, and returns the vote that the peer then knows.
///
/// # Errors
/// See [`SendError`]; openraft tries again.
pub(crate) async fn send(
    sending: &Sending,
    courier: &dyn Courier,
    node: NodeId,
    envelope: Envelope,
    vote: Vote,
    snapshot: RaftSnapshot,
) -> Result<Vote, SendError> {
    let _turn = sending.turn.acquire().await;
    let file = snapshot.snapshot;
    let opened = blocking::spawn(move || file.open()).await;
    let opened = opened.map_err(|error| SendError::Snapshot(error.to_string()))?;
    let opened = opened.map_err(|error| SendError::Snapshot(describe(&error)))?;
    // A newer one than openraft asked for is as good.
    let (meta, snapshot) = opened.ok_or_else(|| SendError::Snapshot("there is none".to_owned()))?;
    let snapshot = Arc::new(snapshot);
    let length = snapshot.bytes();
    let id = Id { index: snapshot.index(), header: snapshot.header_checksum() };
    tracing::info!(group = %envelope.group, %node, index = ?meta.last_log_id.map(|id| id.index), length, "sending a snapshot");
    let ask = |kind: Kind, rest: Vec<u8>, block: Bytes, deadline| {
        let mut head = Vec::new();
        envelope.put(&mut head);
        id.put(&mut head);
        head.extend(rest);
        courier.call(node, Lane::Snapshot, kind as u8, Body::from(vec![head.into(), block]), deadline)
    };
    let answer = ask(Kind::SnapshotBegin, length.to_le_bytes().to_vec(), Bytes::new(), BLOCK).await?;
    let mut offset = offset_of(&answer)?;
    let (began, first) = (Instant::now(), offset);
    while offset < length {
        let source = Arc::clone(&snapshot);
        // The file is mapped: reading it may wait for the disk.
        let block = blocking::spawn(move || {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(source.raw().len());
            let end = source.raw().len().min(start + BLOCK_BYTES);
            Bytes::copy_from_slice(&source.raw()[start..end])
        });
        let block = block.await.map_err(|error| SendError::Snapshot(error.to_string()))?;
        let end = offset + block.len() as u64;
        let answer = ask(Kind::SnapshotBlock, offset.to_le_bytes().to_vec(), block, BLOCK).await?;
        let next = offset_of(&answer)?;
        // Else two ends that do not understand each other would go on for ever.
        if next < end || next > length {
            return Err(SendError::Astray { end, next });
        }
        offset = next;
        pace(began, offset.saturating_sub(first), sending.bytes_per_second).await;
    }
    let mut rest = Vec::new();
    wire::put_vote(&vote, &mut rest);
    let answer = ask(Kind::SnapshotEnd, rest, Bytes::new(), INSTALL).await?;
    Ok(wire::decode_vote(&answer)?)
}

/// Waits until so many bytes may have been sent.
async fn pace(began: Instant, bytes: u64, per_second: u64) {
    if per_second > 0 {
        #[allow(clippy::cast_precision_loss, reason = "a pause need not be exact")]
        let due = Duration::from_secs_f64(bytes as f64 / per_second as f64);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
}

fn offset_of(answer: &[u8]) -> Result<u64, CodecError> {
    let mut reader = Reader { rest: answer, what: "answer to a block of a snapshot" };
    let offset = reader.u64()?;
    reader.end()?;
    Ok(offset)
}

/// Takes snapshots that leaders send.
pub(crate) struct Receiving {
    store: std::sync::OnceLock<SnapshotStore>,
    failure: Failure,
    /// By group: what is under way. Locked while one step is taken, so that steps of two transfers never mix, be it those
    /// of an old leader and a new one, or those of an attempt that was given up and the next one.
    under_way: Mutex<HashMap<GroupId, Slot>>,
}

type Slot = Arc<AsyncMutex<Option<Transfer>>>;
type Held = OwnedMutexGuard<Option<Transfer>>;

struct Transfer {
    envelope: Envelope,
    id: Id,
    incoming: Incoming,
}

impl Receiving {
    /// Takes none before it is told where to put them.
    pub(crate) fn new(failure: Failure) -> Self {
        Self { store: std::sync::OnceLock::new(), failure, under_way: Mutex::default() }
    }

    /// Where snapshots go.
    pub(crate) fn open(&self, store: SnapshotStore) {
        // It is opened once.
        let _ = self.store.set(store);
    }

    /// Gives up what is under way for a group that has left this node. Waits until a step that is being taken is over.
    pub(crate) async fn forget(&self, group: GroupId) {
        let slot = self.slots().remove(&group);
        if let Some(slot) = slot {
            *slot.lock().await = None;
        }
    }

    /// Says where to go on.
    pub(crate) async fn begin(&self, envelope: Envelope, body: &[u8]) -> Reply {
        let mut reader = Reader { rest: body, what: "beginning of a snapshot" };
        let (id, length) = Id::take(&mut reader).and_then(|id| Ok((id, reader.u64()?))).map_err(refuse)?;
        let store = self.store.get().ok_or_else(|| refuse("this node is still starting"))?.clone();
        let mut held = self.hold(envelope.group)?;
        if let Some(known) = held.as_ref().filter(|known| known.is(envelope, id)) {
            return Ok(offset_bytes(&known.incoming));
        }
        let made = blocking::spawn(move || {
            // The file of what was under way before goes first: the new one may have its name.
            *held = None;
            let incoming = store.receive(envelope.group, id.index, length)?;
            let offset = offset_bytes(&incoming);
            *held = Some(Transfer { envelope, id, incoming });
            Ok::<_, std::io::Error>(offset)
        });
        made.await.map_err(refuse)?.map_err(refuse)
    }

    /// Takes a block, and says where to go on.
    pub(crate) async fn block(&self, envelope: Envelope, body: &[u8]) -> Reply {
        let mut reader = Reader { rest: body, what: "block of a snapshot" };
        let (id, offset) = Id::take(&mut reader).and_then(|id| Ok((id, reader.u64()?))).map_err(refuse)?;
        let mut held = self.hold(envelope.group)?;
        let bytes = reader.rest.to_vec();
        // The lock goes along: whoever asked may be gone before the disk is done.
        let written = blocking::spawn(move || {
            let Some(transfer) = held.as_mut().filter(|known| known.is(envelope, id)) else {
                return Err(refuse("no such snapshot is under way: begin again"));
            };
            // A block that came twice is answered as if it had come once.
            let end = offset.saturating_add(bytes.len() as u64);
            if end > transfer.incoming.received()
                && let Err(error) = transfer.incoming.write(offset, &bytes)
            {
                // What a failed write has left in the file is not known.
                *held = None;
                return Err(refuse(error));
            }
            Ok(offset_bytes(&transfer.incoming))
        });
        written.await.map_err(refuse)?
    }

    /// Checks a snapshot and has its group install it.
    pub(crate) async fn end(&self, envelope: Envelope, body: &[u8], raft: &Raft, shelf: &Arc<Shelf>) -> Reply {
        let mut reader = Reader { rest: body, what: "end of a snapshot" };
        let id = Id::take(&mut reader).map_err(refuse)?;
        let vote = wire::decode_vote(reader.rest).map_err(refuse)?;
        if !vote.committed {
            return Err(refuse("only a leader sends snapshots, and this vote was not won"));
        }
        let held = self.hold(envelope.group)?;
        let (raft, shelf, failure) = (raft.clone(), Arc::clone(shelf), self.failure.clone());
        // To the end, even if whoever asked is gone by then.
        let installed = tokio::spawn(async move {
            // Held until the snapshot is installed, since its file has the name that the next one may get.
            let mut held = held;
            let transfer = held.take_if(|known| known.is(envelope, id));
            let transfer = transfer.ok_or_else(|| refuse("no such snapshot is under way: begin again"))?;
            let snapshot = check(transfer, vote, &shelf, &failure).await?;
            raft.install_full_snapshot(vote, snapshot).await.map_err(refuse)
        });
        let installed = installed.await.map_err(refuse)??;
        let mut answer = Vec::new();
        wire::put_vote(&installed.vote, &mut answer);
        Ok(answer.into())
    }

    /// Takes hold of what is under way for a group, unless a step of it is being taken.
    fn hold(&self, group: GroupId) -> Result<Held, Refusal> {
        let slot = Arc::clone(self.slots().entry(group).or_default());
        slot.try_lock_owned().map_err(|_| refuse("another step of a snapshot of this group is being taken: try later"))
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<GroupId, Slot>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfer {
    fn is(&self, envelope: Envelope, id: Id) -> bool {
        (self.envelope, self.id) == (envelope, id)
    }
}

/// Checks every byte of a snapshot that has arrived, and whether its leader can have sent it.
async fn check(transfer: Transfer, vote: Vote, shelf: &Shelf, failure: &Failure) -> Result<RaftSnapshot, Refusal> {
    let group = transfer.envelope.group;
    let finished = blocking::spawn(move || transfer.incoming.finish()).await.map_err(refuse)?;
    let arrived = match finished {
        Ok(arrived) => arrived,
        Err(SnapshotError::Io(error)) if !larder_storage::disk::is_full(&error) => {
            failure.fail(format!("a snapshot of group {group} cannot be written: {error}"));
            return Err(refuse(error));
        }
        Err(error) => return Err(refuse(describe(&error))),
    };
    let file = shelf.arrived(arrived);
    let look = file.clone();
    let opened = blocking::spawn(move || look.open()).await.map_err(refuse)?;
    let (meta, _) = opened.map_err(|error| refuse(describe(&error)))?.ok_or_else(|| refuse("it is gone"))?;
    // openraft takes no snapshot that goes beyond what its leader can own, and ends over one.
    if meta.last_log_id.is_some_and(|last| last.leader_id > vote.leader_id) {
        return Err(refuse("the snapshot is from after the leader that sends it"));
    }
    Ok(RaftSnapshot { meta, snapshot: file })
}

/// Where a snapshot goes on, as an answer.
fn offset_bytes(incoming: &Incoming) -> Bytes {
    Bytes::copy_from_slice(&incoming.received().to_le_bytes())
}

fn refuse(error: impl std::fmt::Display) -> Refusal {
    Refusal { code: crate::node::FAILED, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::path::Path;

    use larder_storage::disk::FakeDisk;
    use larder_types::ids::ReplicaId;

    use super::*;

    const GROUP: GroupId = GroupId(1);
    const LENGTH: u64 = 3000;

    fn envelope(from: u64) -> Envelope {
        Envelope { group: GROUP, to: ReplicaId(1), from: ReplicaId(from) }
    }

    fn receiving() -> (FakeDisk, Receiving) {
        let disk = FakeDisk::new();
        let receiving = Receiving::new(Failure::new());
        receiving.open(SnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots")).unwrap());
        (disk, receiving)
    }

    fn message(index: u64, number: u64, bytes: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        Id { index, header: 7 }.put(&mut message);
        message.extend(number.to_le_bytes());
        message.extend(bytes);
        message
    }

    async fn begin(receiving: &Receiving, from: u64, index: u64) -> Result<u64, Refusal> {
        let answer = receiving.begin(envelope(from), &message(index, LENGTH, &[])).await?;
        Ok(offset_of(&answer).unwrap())
    }

    async fn block(receiving: &Receiving, from: u64, index: u64, offset: u64) -> Result<u64, Refusal> {
        let answer = receiving.block(envelope(from), &message(index, offset, &[1; 1000])).await?;
        Ok(offset_of(&answer).unwrap())
    }

    #[tokio::test]
    async fn a_transfer_goes_on_where_it_broke_off_and_a_block_may_come_twice() {
        let (_, receiving) = receiving();
        assert_eq!(begin(&receiving, 2, 9).await.unwrap(), 0);
        assert_eq!(block(&receiving, 2, 9, 0).await.unwrap(), 1000);
        assert_eq!(block(&receiving, 2, 9, 0).await.unwrap(), 1000);
        assert_eq!(begin(&receiving, 2, 9).await.unwrap(), 1000);
        assert_eq!(block(&receiving, 2, 9, 1000).await.unwrap(), 2000);
        // A gap gives it up: what the file holds is not known.
        assert!(block(&receiving, 2, 9, 2500).await.is_err());
        assert_eq!(begin(&receiving, 2, 9).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_transfer_takes_the_place_of_another_only_between_two_steps() {
        let (disk, receiving) = receiving();
        begin(&receiving, 2, 9).await.unwrap();
        block(&receiving, 2, 9, 0).await.unwrap();
        // As while a block is on its way to the disk.
        let held = receiving.hold(GROUP).unwrap();
        assert!(begin(&receiving, 3, 9).await.is_err());
        assert!(begin(&receiving, 2, 9).await.is_err());
        assert!(block(&receiving, 2, 9, 1000).await.is_err());
        drop(held);
        assert_eq!(begin(&receiving, 3, 9).await.unwrap(), 0);
        assert!(block(&receiving, 2, 9, 1000).await.is_err(), "the old leader's is over");
        assert_eq!(begin(&receiving, 2, 10).await.unwrap(), 0);
        receiving.forget(GROUP).await;
        assert!(block(&receiving, 2, 10, 0).await.is_err());
        let left = larder_storage::disk::Disk::list(&disk, Path::new("snapshots")).unwrap();
        assert_eq!(left, Vec::<String>::new(), "nothing is left of what was given up");
    }

    /// Answers everything with the same offset.
    struct Stubborn;

    impl Courier for Stubborn {
        fn call(
            &self,
            _: NodeId,
            _: Lane,
            _: u8,
            _: Body,
            _: Duration,
        ) -> futures_util::future::BoxFuture<'static, Result<Bytes, PeerError>> {
            Box::pin(async { Ok(Bytes::copy_from_slice(&0u64.to_le_bytes())) })
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_not_sent_the_same_for_ever() {
        let disk = Arc::new(FakeDisk::new());
        let store = SnapshotStore::open(disk, Path::new("snapshots")).unwrap();
        let meta = super::super::types::SnapshotMeta::default();
        let head = super::super::codec::encode_head(&meta);
        store.write(GROUP, 0, &head, b"", std::iter::once(Cow::Borrowed(&b"block"[..]))).unwrap();
        let shelf = Shelf::new(store, GROUP);
        shelf.open().unwrap();
        let vote = Vote::new(1, 2);
        let snapshot = shelf.current_snapshot().unwrap();
        let sent = send(&Sending::new(0), &Stubborn, NodeId(2), envelope(2), vote, snapshot).await;
        assert!(matches!(sent, Err(SendError::Astray { next: 0, .. })), "{sent:?}");
    }
}
