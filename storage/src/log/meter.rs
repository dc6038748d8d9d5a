//! What the log counts while it works: memory that it holds, and how its syncs go.
//!
//! Invariant: nothing is decided by these numbers. Each is right by itself; together they may be a moment apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::distribution::{Distribution, Recorder};

/// Microseconds of a sync: a good disk takes 150, a busy one some milliseconds, and a second is an alarm.
const SYNC_MICROS: &[u64] =
    &[100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000];

/// Callers who are served by one sync.
const CALLERS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// What the log takes, and how it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogUsage {
    /// Segments, the one that is being written included.
    pub segments: u64,
    /// Bytes of their files. The file that is prepared to be the next one is not counted.
    pub segment_bytes: u64,
    /// Whether the log has failed and takes nothing more.
    pub failed: bool,
    /// Whether there is room for more entries, see [`Log::has_room`](super::Log::has_room).
    pub has_room: bool,
    /// Entries that were not purged, over all groups.
    pub entries: u64,
    /// Bytes of memory in which their places are kept.
    pub index_bytes: u64,
    /// Bytes of memory of payloads that are on disk too.
    pub cached_bytes: u64,
    /// Bytes of what waits for the writer or is being written by it.
    pub queued_bytes: u64,
    /// Bytes of memory in which frames are put together.
    pub buffer_bytes: u64,
    /// Microseconds that syncs took.
    pub sync_micros: Distribution,
    /// Callers that each sync has served.
    pub callers: Distribution,
    /// Bytes of frames written.
    pub written_bytes: u64,
}

/// Counts.
pub(super) struct Meter {
    pub(super) cached_bytes: AtomicU64,
    pub(super) buffer_bytes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    queued_bytes: AtomicU64,
    sync_micros: Recorder,
    callers: Recorder,
}

/// Bytes that are counted as queued until this goes.
pub(super) struct Queued {
    meter: Arc<Meter>,
    bytes: u64,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            cached_bytes: AtomicU64::new(0),
            buffer_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            sync_micros: Recorder::new(SYNC_MICROS),
            callers: Recorder::new(CALLERS),
        }
    }
}

impl Meter {
    /// Counts bytes as queued.
    pub(super) fn queue(self: &Arc<Self>, bytes: u64) -> Queued {
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        Queued { meter: Arc::clone(self), bytes }
    }

    /// Counts a sync of the disk.
    pub(super) fn synced(&self, took: Duration) {
        self.sync_micros.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts the callers that one sync has served.
    pub(super) fn served(&self, callers: u64) {
        self.callers.record(callers);
    }

    pub(super) fn queued_bytes(&self) -> u64 {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn sync_micros(&self) -> Distribution {
        self.sync_micros.distribution()
    }

    pub(super) fn callers(&self) -> Distribution {
        self.callers.distribution()
    }
}

impl Queued {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.meter.queued_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
