//! How a node's snapshots go, for metrics.
//!
//! Invariant: nothing is decided by these numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_storage::distribution::{Distribution, Recorder};

/// Milliseconds of a snapshot: at a gigabyte a second, from a few megabytes to hundreds of gigabytes.
const MILLIS: &[u64] = &[10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000];

/// How a node's snapshots went since it was started.
#[derive(Debug, Clone)]
pub struct SnapshotStatus {
    /// Whether one is being written.
    pub running: bool,
    /// Those that were not written because the disk was full. Any other failure ends the node.
    pub failed: u64,
    /// Milliseconds that the others took, from their freeze to the disk.
    pub millis: Distribution,
}

/// Counts snapshots since the start of the node.
pub(crate) struct SnapshotMeter {
    failed: AtomicU64,
    millis: Recorder,
}

impl Default for SnapshotMeter {
    fn default() -> Self {
        Self { failed: AtomicU64::new(0), millis: Recorder::new(MILLIS) }
    }
}

impl SnapshotMeter {
    /// Counts one that was written.
    pub(crate) fn wrote(&self, took: Duration) {
        self.millis.record(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    }

    /// Counts one that did not come about.
    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers of now.
    pub(crate) fn status(&self, running: bool) -> SnapshotStatus {
        SnapshotStatus { running, failed: self.failed.load(Ordering::Relaxed), millis: self.millis.distribution() }
    }
}
