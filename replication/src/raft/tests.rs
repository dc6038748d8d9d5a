//! openraft's own suite for stores, over a real log and snapshots on a fake disk, and what the suite cannot see.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::num::NonZeroUsize;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::TryStreamExt;
use larder_storage::disk::{Disk, FakeDisk, Operation};
use larder_storage::log::{GroupLog, Log, LogOptions};
use larder_storage::shard::{Shard, ShardOptions};
use larder_storage::snapshot::SnapshotStore;
use larder_types::ids::{GroupId, NodeId, ShardId};
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageError};
use tokio::sync::Notify;

use super::log_store::LogStore;
use super::machine::{CatalogMachine, Machine, State, Surroundings};
use super::pace::Pace;
use super::snapshot::{self, Shelf, SnapshotFile, Workbench};
use super::types::{
    Command, Entry, LeaderId, LogId, Membership, RaftSnapshot, ReplicaNode, SnapshotMeta, StoredMembership, TypeConfig,
    Vote,
};
use crate::catalog::CatalogState;
use crate::failure::Failure;

const GROUP: GroupId = GroupId(1);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Catalog,
    Shard,
}

impl Kind {
    fn state(self) -> State {
        match self {
            Self::Shard => State::Shard(Shard::new(ShardOptions { id: ShardId(0), hash_seed: 7 })),
            Self::Catalog => {
                let state = CatalogState::default();
                let cell = Arc::new(ArcSwap::new(state.catalog()));
                State::Catalog(CatalogMachine { state, cell, changed: Arc::new(Notify::new()) })
            }
        }
    }
}

/// A log and a state machine on a disk.
struct Stores {
    disk: FakeDisk,
    log: Log,
    store: LogStore,
    machine: Machine,
    around: Surroundings,
}

impl Stores {
    fn open(disk: FakeDisk, kind: Kind) -> Self {
        Self::with_segments(disk, kind, 32 << 10)
    }

    fn with_segments(disk: FakeDisk, kind: Kind, segment_bytes: u64) -> Self {
        let options = LogOptions { segment_bytes, cache_bytes: 1 << 20, ..LogOptions::default() };
        let log = Log::open(Arc::new(disk.clone()), Path::new("log"), options, Box::new(|_| {})).unwrap();
        let snapshots = SnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots")).unwrap();
        let (workbench, threads) = (Workbench::new(Pace::new(0)), NonZeroUsize::MIN);
        let around = Surroundings { workbench, failure: Failure::new(), threads };
        let machine = Machine::open(GROUP, kind.state(), Shelf::new(snapshots, GROUP), around.clone()).unwrap();
        Self { disk, store: LogStore::new(log.group(GROUP)), log, machine, around }
    }

    fn new(kind: Kind) -> Self {
        Self::open(FakeDisk::new(), kind)
    }

    async fn apply(&mut self, entries: impl IntoIterator<Item = Entry>) -> io::Result<()> {
        let entries: Vec<_> = entries.into_iter().map(|entry| Ok((entry, None))).collect();
        self.machine.apply(futures_util::stream::iter(entries)).await
    }
}

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId { term: 1, node_id: 1 }, index)
}

fn blank(index: u64) -> Entry {
    Entry { log_id: log_id(index), payload: EntryPayload::Blank }
}

fn command(index: u64, bytes: impl Into<Bytes>) -> Entry {
    Entry { log_id: log_id(index), payload: EntryPayload::Normal(Command(bytes.into())) }
}

fn member(index: u64) -> Entry {
    let membership = Membership::from(BTreeMap::from([(1, ReplicaNode { node: NodeId(1) })]));
    Entry { log_id: log_id(index), payload: EntryPayload::Membership(membership) }
}

/// The suite makes up logs that begin after index 0, which no group's log does and ours refuses. Here such a beginning
/// is padded with blank entries that are kept out of sight.
#[derive(Clone)]
struct Padded {
    store: LogStore,
    begin: Arc<std::sync::atomic::AtomicU64>,
}

impl Padded {
    fn begin(&self) -> u64 {
        self.begin.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl RaftLogReader<TypeConfig> for Padded {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let begin = match range.start_bound() {
            Bound::Included(&start) => Bound::Included(start.max(self.begin())),
            Bound::Excluded(&start) => Bound::Excluded(start),
            Bound::Unbounded => Bound::Included(self.begin()),
        };
        self.store.try_get_log_entries((begin, range.end_bound().cloned())).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.store.limited_get_log_entries(start.max(self.begin()), end).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl futures_util::Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.store.entries_stream(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.store.read_vote().await
    }
}

impl RaftLogStorage<TypeConfig> for Padded {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let mut state = self.store.get_log_state().await?;
        if state.last_log_id.is_some_and(|id| id.index < self.begin()) {
            state.last_log_id = state.last_purged_log_id;
        }
        Ok(state)
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.store.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.store.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.store.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let first = entries.first().map_or(0, |entry| entry.log_id.index);
        if self.store.get_log_state().await?.last_log_id.is_none() && first > 0 {
            let zero = LeaderId { term: 0, node_id: 0 };
            let padding = (0..first).map(|i| Entry { log_id: LogId::new(zero, i), payload: EntryPayload::Blank });
            self.store.append(padding.collect::<Vec<_>>(), IOFlushed::noop()).await?;
            self.begin.store(first, std::sync::atomic::Ordering::SeqCst);
        }
        self.store.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.store.truncate_after(last).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.store.purge(upto).await
    }
}

/// The suite leaves out entries when it applies some, which no log does and our machine refuses. Here blank ones are put
/// in their place.
struct PaddedMachine(Machine);

impl RaftStateMachine<TypeConfig> for PaddedMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = snapshot::Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.0.applied_state().await
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: futures_util::Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let entries: Vec<_> = entries.try_collect().await?;
        let mut next = self.0.applied().map_or(0, |id| id.index + 1);
        let mut padded = Vec::new();
        for (entry, responder) in entries {
            padded.extend((next..entry.log_id.index).map(|index| Ok((blank(index), None))));
            next = entry.log_id.index + 1;
            padded.push(Ok((entry, responder)));
        }
        self.0.apply(futures_util::stream::iter(padded)).await
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<snapshot::Builder> {
        self.0.try_create_snapshot_builder(force).await
    }

    async fn get_snapshot_builder(&mut self) -> snapshot::Builder {
        self.0.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        self.0.install_snapshot(meta, snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        self.0.get_current_snapshot().await
    }
}

struct Builder(Kind);

impl StoreBuilder<TypeConfig, Padded, PaddedMachine, Log> for Builder {
    async fn build(&self) -> Result<(Log, Padded, PaddedMachine), StorageError<TypeConfig>> {
        let Stores { log, store, machine, .. } = Stores::new(self.0);
        Ok((log, Padded { store, begin: Arc::default() }, PaddedMachine(machine)))
    }
}

// The suite sleeps to let slow stores flush; with the clock paused that takes no time, and what we flush is not late.
#[tokio::test(start_paused = true)]
async fn the_catalog_passes_the_suite_of_openraft() {
    Suite::test_all(Builder(Kind::Catalog)).await.unwrap();
}

// The suite sleeps to let slow stores flush; with the clock paused that takes no time, and what we flush is not late.
#[tokio::test(start_paused = true)]
async fn a_shard_passes_the_suite_of_openraft() {
    Suite::test_all(Builder(Kind::Shard)).await.unwrap();
}

#[tokio::test]
async fn a_vote_is_on_disk_when_save_vote_returns() {
    let mut stores = Stores::new(Kind::Shard);
    let vote = Vote::new(3, 1);
    stores.store.save_vote(&vote).await.unwrap();
    // Seed 0 loses all that was not synced.
    let mut after = Stores::open(stores.disk.power_cut(0), Kind::Shard);
    assert_eq!(after.store.read_vote().await.unwrap(), Some(vote));
}

#[tokio::test]
async fn flushed_entries_are_on_disk() {
    let mut stores = Stores::new(Kind::Shard);
    stores.store.blocking_append([member(0), command(1, "one"), blank(2)]).await.unwrap();
    let mut after = Stores::open(stores.disk.power_cut(0), Kind::Shard);
    let entries = after.store.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries, [member(0), command(1, "one"), blank(2)]);
}

#[tokio::test]
async fn a_failed_sync_is_not_reported_as_flushed() {
    let mut stores = Stores::new(Kind::Shard);
    stores.disk.fail(Operation::SyncData, 0, u64::MAX, io::ErrorKind::Other);
    stores.store.blocking_append([blank(0)]).await.unwrap_err();
    stores.store.save_vote(&Vote::new(1, 1)).await.unwrap_err();
}

#[tokio::test]
async fn replication_reads_are_bounded_by_bytes() {
    let mut stores = Stores::with_segments(FakeDisk::new(), Kind::Shard, 1 << 20);
    let payload = vec![7; 200 << 10];
    stores.store.blocking_append((0..8).map(|index| command(index, payload.clone()))).await.unwrap();
    let read = stores.store.limited_get_log_entries(0, 8).await.unwrap();
    assert_eq!(read.len(), 5, "five times 200 KiB fit 1 MiB");
    assert_eq!(stores.store.limited_get_log_entries(7, 8).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_stream_to_apply_goes_through_every_portion() {
    let mut stores = Stores::with_segments(FakeDisk::new(), Kind::Shard, 1 << 20);
    // 12 MiB: three portions.
    let payload = Bytes::from(vec![7; 128 << 10]);
    for index in 0..96 {
        stores.store.blocking_append([command(index, payload.clone())]).await.unwrap();
    }
    let stream = stores.store.entries_stream(5..90).await;
    let entries: Vec<Entry> = Box::pin(stream).try_collect().await.unwrap();
    assert_eq!(entries.len(), 85);
    assert!(entries.iter().zip(5..).all(|(entry, index)| entry.log_id == log_id(index)));
}

#[tokio::test]
async fn an_entry_that_cannot_be_decoded_ends_the_node() {
    for kind in [Kind::Shard, Kind::Catalog] {
        let mut stores = Stores::new(kind);
        stores.apply([member(0), command(1, "\u{7f}no command")]).await.unwrap_err();
        let reason = stores.around.failure.reason().unwrap();
        assert!(reason.contains("group 1 cannot apply its log entry 1"), "{reason}");
        assert!(!reason.contains("no command"), "content must not show: {reason}");
        assert_eq!(stores.machine.applied(), Some(log_id(0)), "{kind:?}");
    }
}

#[tokio::test]
async fn an_entry_that_does_not_follow_ends_the_node() {
    for kind in [Kind::Shard, Kind::Catalog] {
        for (entries, expected) in [(vec![1], 0), (vec![0, 0], 1), (vec![0, 2], 1)] {
            let mut stores = Stores::new(kind);
            stores.apply(entries.iter().copied().map(blank)).await.unwrap_err();
            let reason = stores.around.failure.reason().unwrap();
            let last = entries[entries.len() - 1];
            let told = format!("group 1 cannot apply its log entry {last}: entry {expected} must be applied next");
            assert!(reason.contains(&told), "{reason}");
        }
    }
}

#[tokio::test]
async fn a_snapshot_is_found_again_after_a_power_cut() {
    for kind in [Kind::Shard, Kind::Catalog] {
        let mut stores = Stores::new(kind);
        stores.apply([member(0), blank(1), blank(2)]).await.unwrap();
        let built = stores.machine.try_create_snapshot_builder(false).await.unwrap().build_snapshot().await.unwrap();
        let mut after = Stores::open(stores.disk.power_cut(0), kind);
        let (applied, membership) = after.machine.applied_state().await.unwrap();
        assert_eq!((applied, &membership), (Some(log_id(2)), &built.meta.last_membership));
        assert_eq!(after.machine.get_current_snapshot().await.unwrap().unwrap().meta, built.meta);
    }
}

#[tokio::test]
async fn one_snapshot_is_written_at_a_time() {
    let mut stores = Stores::new(Kind::Shard);
    stores.apply([member(0)]).await.unwrap();
    let mut first = stores.machine.try_create_snapshot_builder(false).await.unwrap();
    assert!(stores.machine.try_create_snapshot_builder(false).await.is_none());
    first.build_snapshot().await.unwrap();
    assert!(stores.machine.try_create_snapshot_builder(false).await.is_some());
}

#[tokio::test]
async fn an_older_build_that_ends_late_replaces_nothing() {
    let mut stores = Stores::new(Kind::Shard);
    stores.apply([member(0)]).await.unwrap();
    let mut late = stores.machine.try_create_snapshot_builder(true).await.unwrap();
    stores.apply([blank(1)]).await.unwrap();
    let newer = stores.machine.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap();
    assert_eq!(late.build_snapshot().await.unwrap().meta, newer.meta);
    assert_eq!(Stores::open(stores.disk.power_cut(0), Kind::Shard).machine.applied(), Some(log_id(1)));
}

#[tokio::test]
async fn an_installed_snapshot_is_on_disk() {
    let mut leader = Stores::new(Kind::Shard);
    leader.apply([member(0), blank(1)]).await.unwrap();
    let sent = leader.machine.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap();
    let mut follower = Stores::new(Kind::Shard);
    follower.machine.install_snapshot(&sent.meta, sent.snapshot).await.unwrap();
    assert_eq!(follower.machine.applied(), Some(log_id(1)));
    assert_eq!(Stores::open(follower.disk.power_cut(0), Kind::Shard).machine.applied(), Some(log_id(1)));
}

/// Neither a damaged file nor one whose content is no state, though every checksum is right.
#[tokio::test]
async fn a_snapshot_that_cannot_be_read_replaces_nothing() {
    for kind in [Kind::Shard, Kind::Catalog] {
        let mut leader = Stores::new(kind);
        let mut follower = Stores::new(kind);
        follower.apply([member(0)]).await.unwrap();
        let mine = follower.machine.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap();
        leader.apply([member(0), blank(1)]).await.unwrap();
        let sent = leader.machine.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap();
        let store = SnapshotStore::open(Arc::new(leader.disk.clone()), Path::new("snapshots")).unwrap();
        let head = store.load(GROUP).unwrap().unwrap().head().to_vec();
        store.write(GROUP, 1, &head, b"no state", std::iter::once(Cow::Borrowed(&b"no state"[..]))).unwrap();
        follower.machine.install_snapshot(&sent.meta, sent.snapshot).await.unwrap_err();
        let reason = follower.around.failure.reason().unwrap();
        assert!(reason.starts_with("group 1 cannot install a snapshot"), "{reason}");
        assert_eq!(follower.machine.get_current_snapshot().await.unwrap().unwrap().meta, mine.meta);
        assert_eq!(Stores::open(follower.disk.power_cut(0), kind).machine.applied(), Some(log_id(0)));
    }
}

#[tokio::test]
async fn a_full_disk_ends_no_group() {
    let mut stores = Stores::new(Kind::Shard);
    stores.apply([member(0)]).await.unwrap();
    stores.disk.set_capacity(Some(stores.disk.used()));
    let built = stores.machine.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap();
    assert_eq!(built.meta.last_log_id, None, "there is no snapshot, and openraft is told so");
    assert_eq!(stores.around.failure.reason(), None);
    stores.disk.set_capacity(None);
    let built = stores.machine.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap();
    assert_eq!(built.meta.last_log_id, Some(log_id(0)));
}

#[tokio::test]
async fn what_is_built_when_a_replica_is_wiped_does_not_appear() {
    let mut stores = Stores::new(Kind::Shard);
    stores.apply([member(0), blank(1)]).await.unwrap();
    let mut late = stores.machine.try_create_snapshot_builder(true).await.unwrap();
    stores.machine.shelf().close();
    late.build_snapshot().await.unwrap();
    let mut leader = Stores::new(Kind::Shard);
    leader.apply([member(0), blank(1), blank(2)]).await.unwrap();
    let sent = leader.machine.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap();
    stores.machine.install_snapshot(&sent.meta, sent.snapshot).await.unwrap();
    assert_eq!(stores.disk.list(Path::new("snapshots")).unwrap(), Vec::<String>::new());
}

/// What a group's log should hold.
#[derive(Default, Debug, PartialEq)]
struct Held {
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    entries: Vec<Entry>,
}

impl Held {
    async fn of(store: &mut LogStore) -> Self {
        let state = store.get_log_state().await.unwrap();
        let entries = store.try_get_log_entries(..).await.unwrap();
        let last = entries.last().map(|entry| entry.log_id).or(state.last_purged_log_id);
        assert_eq!(state.last_log_id, last);
        let (vote, committed) = (store.read_vote().await.unwrap(), store.read_committed().await.unwrap());
        Self { vote, purged: state.last_purged_log_id, committed, entries }
    }

    fn next(&self) -> u64 {
        self.entries.last().map(|entry| entry.log_id).or(self.purged).map_or(0, |id| id.index + 1)
    }
}

/// One step of a group: on its log, and on what that should hold.
async fn step(store: &mut LogStore, group: &GroupLog, held: &mut Held, step: u64) {
    let (term, next) = (1 + step / 6, held.next());
    let id = |index| LogId::new(LeaderId { term, node_id: 1 }, index);
    match step % 6 {
        0 => {
            let vote = Vote::new(term, 1);
            store.save_vote(&vote).await.unwrap();
            held.vote = Some(vote);
        }
        1 | 2 => {
            let entries = (next..next + 3)
                .map(|index| Entry { log_id: id(index), payload: EntryPayload::Normal(Command(vec![7; 300].into())) });
            let entries: Vec<_> = entries.collect();
            store.blocking_append(entries.clone()).await.unwrap();
            held.entries.extend(entries);
        }
        3 => {
            held.entries.pop();
            let last = held.entries.last().map(|entry| entry.log_id).or(held.purged);
            store.truncate_after(last).await.unwrap();
        }
        4 => {
            held.committed = held.entries.last().map(|entry| entry.log_id);
            store.save_committed(held.committed).await.unwrap();
        }
        _ if step == 29 => {
            let (done, forgotten) = tokio::sync::oneshot::channel();
            group.forget(Box::new(move |result| drop(done.send(result))));
            forgotten.await.unwrap().unwrap();
            *held = Held::default();
        }
        _ => {
            let upto = held.entries[held.entries.len() / 2].log_id;
            store.purge(upto).await.unwrap();
            held.entries.retain(|entry| entry.log_id > upto);
            held.purged = Some(upto);
        }
    }
}

/// The suite of openraft knows one group and never opens a store twice. Here two groups take turns in one log of short
/// segments, each step is followed by a start on what the disk holds after a clean stop, and by one after a power cut that
/// loses what nobody waited for.
#[tokio::test]
async fn two_groups_in_one_log_hold_what_they_should_after_every_start() {
    let open = |disk: &FakeDisk| {
        let options = LogOptions { segment_bytes: 32 << 10, cache_bytes: 1 << 10, ..LogOptions::default() };
        Log::open(Arc::new(disk.clone()), Path::new("log"), options, Box::new(|_| {})).unwrap()
    };
    let (groups, mut disk) = ([GroupId(1), GroupId(2)], FakeDisk::new());
    let mut held = [Held::default(), Held::default()];
    // The second group lags behind, so that its frames lie between those of the first and in other segments.
    for turn in 0..96 {
        let log = open(&disk);
        let at = usize::from(turn % 3 == 2);
        let group = log.group(groups[at]);
        let number = if at == 0 { turn - turn / 3 } else { turn / 3 };
        step(&mut LogStore::new(group.clone()), &group, &mut held[at], number).await;
        // A vote of the other group waits for all that was written before it.
        let vote = held[1 - at].vote.unwrap_or(Vote::new(0, 9));
        LogStore::new(log.group(groups[1 - at])).save_vote(&vote).await.unwrap();
        held[1 - at].vote = Some(vote);
        let after_cut = open(&disk.power_cut(turn));
        log.close();
        disk = disk.after_kill();
        for log in [&after_cut, &open(&disk)] {
            for (at, group) in groups.iter().enumerate() {
                assert_eq!(Held::of(&mut LogStore::new(log.group(*group))).await, held[at], "turn {turn}, {group}");
            }
            log.close();
        }
    }
    assert!(held[0].purged.is_some() && held.iter().all(|held| !held.entries.is_empty()), "{held:?}");
}
