//! What the transport is started with, and the bounds it keeps.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::frame::MAX_BODY_BYTES;

/// Which connection a call takes. Each lane has its own, so that what is urgent never waits behind what is long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Log entries, forwarded lookups and batches.
    Data = 0,
    /// Heartbeats and votes.
    Heartbeat = 1,
    /// Blocks of snapshots.
    Snapshot = 2,
}

impl Lane {
    /// All lanes, in the order of their numbers on the wire.
    pub(crate) const ALL: [Self; 3] = [Self::Data, Self::Heartbeat, Self::Snapshot];
}

/// How the transport of a node is set up.
#[derive(Debug, Clone)]
pub(crate) struct PeerOptions {
    /// Where other nodes call; port 0 lets the system choose.
    pub(crate) listen: SocketAddr,
    /// Mutual TLS; without it, plain TCP.
    pub(crate) tls: Option<PeerTls>,
    /// Names this run of the process: greater than that of any run of the same node before.
    pub(crate) boot: u64,
    /// Times and sizes.
    pub(crate) limits: PeerLimits,
}

/// PEM files for mutual TLS. All nodes have certificates of one CA that signs for this cluster alone.
#[derive(Debug, Clone)]
pub(crate) struct PeerTls {
    /// The CA's certificate; several while the CA is replaced by another.
    pub(crate) ca: PathBuf,
    /// This node's certificate, with what lies between it and the CA. It is for `larder-node`.
    pub(crate) certificate: PathBuf,
    /// Its private key.
    pub(crate) key: PathBuf,
}

/// Times and sizes.
#[derive(Debug, Clone)]
pub(crate) struct PeerLimits {
    /// How long a connection may take until both sides know each other.
    pub(crate) connect: Duration,
    /// The shortest and the longest pause after a failed attempt. The longest bounds how long a node that is back stays
    /// unnoticed, so it is well below an election.
    pub(crate) backoff: (Duration, Duration),
    /// Of each lane, in the order of [`Lane::ALL`].
    pub(crate) lanes: [LaneLimits; 3],
}

/// Times and sizes of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneLimits {
    /// A peer from which nothing is heard for so long, or that takes nothing for so long, is lost.
    pub(crate) silence: Duration,
    /// Bytes that wait to be sent over one connection, at most.
    pub(crate) queue_bytes: usize,
    /// Bytes of requests of one connection that are served at the same time, at most.
    pub(crate) serving_bytes: usize,
}

/// What a frame costs in a queue beyond its body.
pub(super) const FRAME_CHARGE: usize = 1 << 10;

impl LaneLimits {
    /// `frames` of the largest frames fit into each queue. At least one must: it would wait for ever otherwise.
    const fn new(silence_secs: u64, frames: usize) -> Self {
        let bytes = frames * (MAX_BODY_BYTES + FRAME_CHARGE);
        Self { silence: Duration::from_secs(silence_secs), queue_bytes: bytes, serving_bytes: bytes }
    }
}

impl Default for PeerLimits {
    /// At the worst 9 largest frames wait in each of the four queues between two nodes (sent and served, of calls in
    /// both directions): 37 MiB each.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            lanes: [LaneLimits::new(10, 4), LaneLimits::new(2, 1), LaneLimits::new(10, 4)],
        }
    }
}

impl PeerLimits {
    pub(super) fn lane(&self, lane: Lane) -> LaneLimits {
        self.lanes[lane as usize]
    }
}
