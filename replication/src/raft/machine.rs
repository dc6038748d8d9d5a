//! A group's state machine, as openraft wants to see it: the catalog or a shard, whose state lives in memory and comes
//! back after a restart from the newest snapshot and the log after it.
//!
//! Invariants:
//! - What is applied depends on the entry and the state alone.
//! - Whoever waits for an entry is answered, after readers can see what it did.
//! - An entry that cannot be decoded ends the node: to skip it would make this replica differ from the others. So does
//!   one that does not follow what was applied.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::{Stream, TryStreamExt};
use larder_storage::shard::{Origin, RestoredShard, Shard, ShardError};
use larder_storage::snapshot::{Snapshot, SnapshotError};
use larder_types::ids::GroupId;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::snapshot::{Builder, Image, Shelf, SnapshotFile, Workbench, describe};
use super::types::{Entry, LogId, RaftSnapshot, Response, SnapshotMeta, StoredMembership, TypeConfig};
use crate::blocking;
use crate::catalog::{Catalog, CatalogState, FormatError, decode_command};
use crate::failure::Failure;

/// How long entries are applied before other tasks of the same thread get their turn.
const TURN: Duration = Duration::from_millis(1);

/// An entry or a snapshot that the state machine cannot take.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// A shard's.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The catalog's.
    #[error(transparent)]
    Catalog(#[from] FormatError),
    /// The disk failed, or what it holds is damaged.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// An entry does not follow what was applied.
    #[error("entry {expected} must be applied next: entries are missing from the log, or come twice")]
    Gap {
        /// The index of the entry that would follow.
        expected: u64,
    },
}

/// The catalog's state and where it is published.
pub(crate) struct CatalogMachine {
    pub(crate) state: CatalogState,
    /// What readers see.
    pub(crate) cell: Arc<ArcSwap<Catalog>>,
    /// Told after every change, since it may have brought an intent.
    pub(crate) changed: Arc<Notify>,
}

/// The state of one group.
pub(crate) enum State {
    /// Of group 0.
    Catalog(CatalogMachine),
    /// Of any other.
    Shard(Shard),
}

impl State {
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Response, MachineError> {
        match self {
            Self::Shard(shard) => Ok(Response::Shard(shard.apply(index, command)?)),
            Self::Catalog(catalog) => {
                let command = decode_command(command)?;
                let result = catalog.state.apply(index, &command);
                catalog.publish();
                Ok(Response::Catalog(result))
            }
        }
    }

    fn advance(&mut self, index: u64) {
        match self {
            Self::Shard(shard) => shard.advance(index),
            Self::Catalog(catalog) => catalog.state.advance(index),
        }
    }

    fn image(&mut self) -> Image {
        match self {
            Self::Shard(shard) => Image::Shard(shard.freeze()),
            Self::Catalog(catalog) => Image::Catalog(catalog.state.snapshot()),
        }
    }

    /// Reads a snapshot's state, on so many threads.
    fn read(&self, snapshot: &Snapshot, origin: Origin, threads: NonZeroUsize) -> Result<Restored, MachineError> {
        Ok(match self {
            Self::Shard(shard) => Restored::Shard(shard.read(snapshot, origin, threads)?),
            Self::Catalog(_) => {
                let mut bytes = Vec::new();
                for number in 0..snapshot.block_count() {
                    bytes.extend_from_slice(snapshot.block(number)?);
                }
                Restored::Catalog(CatalogState::restore(&bytes)?)
            }
        })
    }

    /// Replaces the state by what it has read.
    fn install(&mut self, restored: Restored) {
        match (self, restored) {
            (Self::Shard(shard), Restored::Shard(restored)) => shard.install(restored),
            (Self::Catalog(catalog), Restored::Catalog(restored)) => {
                catalog.state.install(restored);
                catalog.publish();
            }
            _ => unreachable!("a state reads its own kind"),
        }
    }
}

/// What was read from a snapshot.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
enum Restored {
    Catalog(CatalogState),
    Shard(RestoredShard),
}

impl CatalogMachine {
    fn publish(&self) {
        let catalog = self.state.catalog();
        // Most entries note batches and leave the definitions as they are.
        if !Arc::ptr_eq(&catalog, &self.cell.load()) {
            self.cell.store(catalog);
        }
        self.changed.notify_one();
    }
}

/// What a state machine shares with the rest of its node.
#[derive(Clone)]
pub(crate) struct Surroundings {
    /// Where snapshots are written.
    pub(crate) workbench: Workbench,
    /// Told when the node must stop.
    pub(crate) failure: Failure,
    /// How many threads read one snapshot.
    pub(crate) threads: NonZeroUsize,
}

/// The state machine of one group.
pub(crate) struct Machine {
    group: GroupId,
    /// Locked by this machine only; behind a lock so that long work can move to a thread that may block.
    state: Arc<Mutex<State>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    shelf: Arc<Shelf>,
    around: Surroundings,
}

impl Machine {
    /// A state machine with its newest snapshot, if it has one. Blocks: checks and loads the whole snapshot.
    ///
    /// # Errors
    /// When the disk fails or the snapshot is damaged.
    pub(crate) fn open(
        group: GroupId,
        mut state: State,
        shelf: Shelf,
        around: Surroundings,
    ) -> Result<Self, MachineError> {
        let meta = match shelf.open()? {
            None => SnapshotMeta::default(),
            Some((meta, snapshot)) => {
                let restored = state.read(&snapshot, Origin::Own, around.threads)?;
                state.install(restored);
                meta
            }
        };
        Ok(Self {
            group,
            state: Arc::new(Mutex::new(state)),
            applied: meta.last_log_id,
            membership: meta.last_membership,
            shelf: Arc::new(shelf),
            around,
        })
    }

    /// The last entry that the state contains.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// The group's snapshots.
    pub(crate) fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
        // A panic while it was held ended the group; nobody applies to what it left.
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_entry(&mut self, entry: Entry) -> Result<Response, MachineError> {
        let index = entry.log_id.index;
        let expected = self.applied.map_or(0, |id| id.index + 1);
        if index != expected {
            return Err(MachineError::Gap { expected });
        }
        let mut state = Self::lock(&self.state);
        let response = match entry.payload {
            EntryPayload::Normal(command) => state.apply(index, &command.0)?,
            EntryPayload::Blank => {
                state.advance(index);
                Response::Nothing
            }
            EntryPayload::Membership(membership) => {
                state.advance(index);
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Response::Nothing
            }
        };
        self.applied = Some(entry.log_id);
        Ok(response)
    }

    /// Ends the node, and the group with it.
    fn fatal(&self, doing: &str, error: &(dyn std::error::Error + 'static)) -> io::Error {
        let reason = format!("group {} cannot {doing}: {}", self.group, describe(error));
        self.around.failure.fail(reason.clone());
        io::Error::other(reason)
    }

    /// Runs long work on the state where it may block.
    async fn blocking<R: Send + 'static>(&self, work: impl FnOnce(&mut State) -> R + Send + 'static) -> io::Result<R> {
        let state = Arc::clone(&self.state);
        blocking::spawn(move || work(&mut Self::lock(&state))).await.map_err(io::Error::other)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut turn = Instant::now();
        loop {
            let next = entries.try_next().await.map_err(|error| self.fatal("read its log", &error))?;
            let Some((entry, responder)) = next else {
                return Ok(());
            };
            let index = entry.log_id.index;
            let response =
                self.apply_entry(entry).map_err(|error| self.fatal(&format!("apply its log entry {index}"), &error))?;
            if let Some(responder) = responder {
                responder.send(response);
            }
            if turn.elapsed() >= TURN {
                tokio::task::yield_now().await;
                turn = Instant::now();
            }
        }
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        let place = self.around.workbench.take();
        if place.is_none() && !force {
            return None;
        }
        let image = match self.blocking(State::image).await {
            Ok(image) => image,
            Err(error) => {
                self.fatal("freeze its state", &error);
                return None;
            }
        };
        Some(Builder {
            shelf: Arc::clone(&self.shelf),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            image: Some(image),
            place,
            meter: self.around.workbench.meter(),
            pace: Arc::clone(self.around.workbench.pace()),
            failure: self.around.failure.clone(),
        })
    }

    #[allow(clippy::expect_used, reason = "a builder is refused only if not forced, or when the node has failed")]
    async fn get_snapshot_builder(&mut self) -> Builder {
        self.try_create_snapshot_builder(true).await.expect("a forced snapshot can be frozen")
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let (shelf, wanted, threads) = (Arc::clone(&self.shelf), meta.clone(), self.around.threads);
        let installed = self
            .blocking(move |state| -> Result<(), MachineError> {
                // In this order: what cannot be read replaces nothing, and what is shown is on disk.
                let opened = snapshot.open_at(&wanted)?;
                let restored = state.read(&opened, Origin::Peer, threads)?;
                shelf.adopt(wanted, &snapshot, &opened)?;
                state.install(restored);
                Ok(())
            })
            .await?;
        installed.map_err(|error| self.fatal("install a snapshot", &error))?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        Ok(self.shelf.current_snapshot())
    }
}
