//! What is counted of the traffic with one node, over all its connections in both directions.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use larder_types::ids::NodeId;
use tokio::time::Instant;

/// Of one peer, for status pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerStatus {
    /// The peer.
    pub(crate) node: NodeId,
    /// Whether a connection that this node made is up.
    pub(crate) connected: bool,
    /// How long ago anything came from it; `None`: never.
    pub(crate) last_heard: Option<Duration>,
    /// How long the last ping took to be answered; `None`: no ping was.
    pub(crate) round_trip: Option<Duration>,
    /// Bytes received from it.
    pub(crate) bytes_in: u64,
    /// Bytes sent to it.
    pub(crate) bytes_out: u64,
    /// Bytes that wait to be sent to it, over connections that this node made.
    pub(crate) queued_bytes: usize,
    /// How often a connection was made again.
    pub(crate) reconnects: u64,
}

/// The counters of one peer.
#[derive(Debug)]
pub(super) struct Traffic {
    since: Instant,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// Microseconds after `since`; 0 stands for never.
    heard: AtomicU64,
    /// Microseconds; 0 stands for unknown.
    round_trip: AtomicU64,
    reconnects: AtomicU64,
}

impl Traffic {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
        }
    }

    /// Microseconds since the counters were made, never 0.
    pub(super) fn micros(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
        self.heard.store(self.micros(), Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn reconnected(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }

    /// Notes the answer to a ping that was sent at [`Self::micros`]. The peer repeats the number, so it may be any.
    pub(super) fn answered(&self, sent: u64) {
        if let Some(took) = self.micros().checked_sub(sent) {
            self.round_trip.store(took.max(1), Relaxed);
        }
    }

    pub(super) fn status(&self, node: NodeId, connected: bool, queued_bytes: usize) -> PeerStatus {
        let known = |micros: &AtomicU64| Some(micros.load(Relaxed)).filter(|&micros| micros > 0);
        let now = self.micros();
        PeerStatus {
            node,
            connected,
            last_heard: known(&self.heard).map(|heard| Duration::from_micros(now.saturating_sub(heard))),
            round_trip: known(&self.round_trip).map(Duration::from_micros),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            queued_bytes,
            reconnects: self.reconnects.load(Relaxed),
        }
    }
}
