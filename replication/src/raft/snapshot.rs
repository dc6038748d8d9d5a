//! A group's snapshot: the file, its place in the log, and how it is made.
//!
//! Invariants:
//! - A snapshot is on disk before openraft hears of it, since the log before it is purged next.
//! - A group's snapshot never goes back: an older build that ends late does not replace a newer one that a leader sent.
//! - One snapshot is written at a time on a node, and at a limited pace, so that the disk is left to the log.
//! - A snapshot that a leader sent takes the place of a group's own only when its whole content was read.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use larder_storage::disk::is_full;
use larder_storage::shard::FrozenShard;
use larder_storage::snapshot::{Arrived, Snapshot, SnapshotError, SnapshotStore};
use larder_types::ids::GroupId;
use openraft::RaftSnapshotBuilder;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::codec;
use super::pace::Pace;
use super::snapshot_meter::{SnapshotMeter, SnapshotStatus};
use super::types::{RaftSnapshot, SnapshotMeta, TypeConfig};
use crate::blocking;
use crate::failure::Failure;

/// Bytes of a block of the catalog's snapshot.
const BLOCK_BYTES: usize = 1 << 20;

/// Where a group's snapshots stand, and which is the newest.
pub(crate) struct Shelf {
    store: SnapshotStore,
    group: GroupId,
    /// The newest on disk. Locked for moments only.
    current: Mutex<Option<SnapshotMeta>>,
    /// Bytes of its file.
    bytes: AtomicU64,
    /// Held while one is written. Whether none is any more.
    closed: Mutex<bool>,
}

/// A snapshot on disk: where openraft speaks of a snapshot's data, this is what it hands around. The file's own head
/// counts where a newer snapshot has taken its place since.
#[derive(Clone)]
pub(crate) struct SnapshotFile {
    store: SnapshotStore,
    group: GroupId,
    /// One that a leader has sent, and that is not the group's yet.
    arrived: Option<Arc<Arrived>>,
}

/// A snapshot's content in memory.
pub(crate) enum Image {
    /// The catalog, encoded.
    Catalog(Vec<u8>),
    /// A shard as it was at one log index.
    Shard(FrozenShard),
}

impl Image {
    fn write(&self, meta: &SnapshotMeta, shelf: &Shelf, pace: &Pace) -> Result<(), SnapshotError> {
        let head = codec::encode_head(meta);
        let index = meta.last_log_id.map_or(0, |id| id.index);
        match self {
            Self::Catalog(bytes) => {
                let blocks = pace.keep(bytes.chunks(BLOCK_BYTES).map(Cow::Borrowed));
                shelf.store.write(shelf.group, index, &head, &[], blocks)
            }
            Self::Shard(frozen) => {
                shelf.store.write(shelf.group, index, &head, &frozen.meta(), pace.keep(frozen.blocks()))
            }
        }
    }
}

impl SnapshotFile {
    /// Opens the file, and reads its place in the log.
    pub(crate) fn open(&self) -> Result<Option<(SnapshotMeta, Snapshot)>, SnapshotError> {
        let opened = match &self.arrived {
            Some(arrived) => Some(arrived.open()?),
            None => self.store.load(self.group)?,
        };
        let Some(snapshot) = opened else { return Ok(None) };
        let meta = codec::decode_head(snapshot.head())
            .map_err(|error| SnapshotError::Damaged(format!("the newest one of group {}: {error}", self.group)))?;
        Ok(Some((meta, snapshot)))
    }

    /// Opens the file, which must have this place in the log.
    pub(crate) fn open_at(&self, meta: &SnapshotMeta) -> Result<Snapshot, SnapshotError> {
        match self.open()? {
            Some((found, snapshot)) if found == *meta => Ok(snapshot),
            _ => Err(SnapshotError::Damaged(format!("none at {:?} for group {}", meta.last_log_id, self.group))),
        }
    }
}

impl Shelf {
    /// The snapshots of a group.
    pub(crate) fn new(store: SnapshotStore, group: GroupId) -> Self {
        Self { store, group, current: Mutex::new(None), bytes: AtomicU64::new(0), closed: Mutex::new(false) }
    }

    /// Opens the newest snapshot of the group when a node starts.
    pub(crate) fn open(&self) -> Result<Option<(SnapshotMeta, Snapshot)>, SnapshotError> {
        let opened = self.file().open()?;
        self.set_current(opened.as_ref().map(|(meta, _)| meta.clone()))?;
        Ok(opened)
    }

    /// The newest snapshot on disk.
    pub(crate) fn current(&self) -> Option<SnapshotMeta> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest snapshot in openraft's terms.
    pub(crate) fn current_snapshot(&self) -> Option<RaftSnapshot> {
        self.current().map(|meta| RaftSnapshot { meta, snapshot: self.file() })
    }

    /// Bytes of the newest snapshot on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn set_current(&self, meta: Option<SnapshotMeta>) -> Result<(), SnapshotError> {
        self.bytes.store(self.store.bytes(self.group)?, Ordering::Relaxed);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = meta;
        Ok(())
    }

    fn file(&self) -> SnapshotFile {
        SnapshotFile { store: self.store.clone(), group: self.group, arrived: None }
    }

    /// Writes a snapshot unless a newer one is there, and returns the newest. Blocks.
    fn put(&self, meta: SnapshotMeta, image: &Image, pace: &Pace) -> Result<SnapshotMeta, SnapshotError> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        match self.current() {
            // The group is being wiped, and has no use for it.
            _ if *closed => Ok(meta),
            Some(current) if current.last_log_id >= meta.last_log_id => Ok(current),
            _ => {
                image.write(&meta, self, pace)?;
                self.set_current(Some(meta.clone()))?;
                Ok(meta)
            }
        }
    }

    /// A snapshot that a leader has sent, in openraft's terms.
    pub(crate) fn arrived(&self, arrived: Arrived) -> SnapshotFile {
        SnapshotFile { arrived: Some(Arc::new(arrived)), ..self.file() }
    }

    /// Takes no snapshot any more: what is being built or installed when a replica is stopped must not appear after the
    /// replica was wiped, where the next one of the group would find it. Waits for one that is being written. Blocks.
    pub(crate) fn close(&self) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Takes over a snapshot that stands elsewhere, such as one that a leader sent. Its content must have been read. Blocks.
    pub(crate) fn adopt(
        &self,
        meta: SnapshotMeta,
        from: &SnapshotFile,
        snapshot: &Snapshot,
    ) -> Result<(), SnapshotError> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if !*closed && self.current().as_ref() != Some(&meta) {
            match &from.arrived {
                Some(arrived) => arrived.install()?,
                None => self.store.copy(self.group, snapshot)?,
            }
            self.set_current(Some(meta))?;
        }
        Ok(())
    }
}

/// The node's one place for writing a snapshot. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Workbench {
    place: Arc<Semaphore>,
    freed: Arc<Notify>,
    meter: Arc<SnapshotMeter>,
    pace: Arc<Pace>,
}

/// The place, taken; given back when dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    freed: Arc<Notify>,
}

impl Workbench {
    /// A free place, where this pace is kept.
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            place: Arc::new(Semaphore::new(1)),
            freed: Arc::new(Notify::new()),
            meter: Arc::default(),
            pace: Arc::new(pace),
        }
    }

    /// The pace that is kept.
    pub(crate) fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// Takes the place, or `None` if it is taken.
    pub(crate) fn take(&self) -> Option<Place> {
        let permit = Arc::clone(&self.place).try_acquire_owned().ok()?;
        Some(Place { _permit: permit, freed: Arc::clone(&self.freed) })
    }

    /// Whether the place is free.
    pub(crate) fn is_free(&self) -> bool {
        self.place.available_permits() > 0
    }

    /// How snapshots went until now.
    pub(crate) fn status(&self) -> SnapshotStatus {
        self.meter.status(!self.is_free())
    }

    /// What counts them.
    pub(crate) fn meter(&self) -> Arc<SnapshotMeter> {
        Arc::clone(&self.meter)
    }

    /// Waits until the place is free, and gives it to nobody any more. Whoever has it may hurry.
    pub(crate) async fn close(&self) {
        self.pace.lift();
        if let Ok(permit) = self.place.acquire().await {
            permit.forget();
            self.place.close();
        }
    }

    /// Waits until the place is given back.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.freed.notify_one();
    }
}

/// Writes one snapshot.
pub(crate) struct Builder {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) meta: SnapshotMeta,
    /// Taken by the first build.
    pub(crate) image: Option<Image>,
    /// `None` if openraft insisted while another snapshot was being written.
    pub(crate) place: Option<Place>,
    pub(crate) meter: Arc<SnapshotMeter>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) failure: Failure,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let image = self.image.take().ok_or_else(|| io::Error::other("this snapshot was built already"))?;
        let begun = Instant::now();
        let (shelf, meta, pace) = (Arc::clone(&self.shelf), self.meta.clone(), Arc::clone(&self.pace));
        let written = blocking::spawn(move || shelf.put(meta, &image, &pace)).await;
        // Given back only now that the image, which holds pages of the shard, is gone too.
        drop(self.place.take());
        let group = self.shelf.group;
        let meta = match written.map_err(io::Error::other)? {
            Ok(meta) => {
                self.meter.wrote(begun.elapsed());
                meta
            }
            // A full disk refuses writes but ends nothing. openraft would end the group on an error; told that the
            // newest snapshot is what it was before, it keeps the log.
            Err(SnapshotError::Io(error)) if is_full(&error) => {
                self.meter.failed();
                tracing::warn!(%group, "no room on the disk for a snapshot: the log cannot be shortened");
                self.shelf.current().unwrap_or_default()
            }
            Err(error) => {
                self.failure.fail(format!("cannot write a snapshot of group {group}: {}", describe(&error)));
                return Err(io::Error::other(error));
            }
        };
        Ok(RaftSnapshot { meta, snapshot: self.shelf.file() })
    }
}

/// An error with its causes, in a sentence.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
