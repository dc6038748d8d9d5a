//! What a run is like. All of it follows from the seed, so that seeds differ in what goes wrong, not only in when.

use std::time::Duration;

use super::net::Weather;
use crate::simulated::{below, happens, one_of};

/// What may go wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The power of a machine is cut.
    PowerCut,
    /// The power is cut in the middle of what the disk is doing.
    PowerCutWhileWriting,
    /// The power of all machines is cut at once.
    PowerCutOfAll,
    /// A process is killed.
    Kill,
    /// A node stops in order.
    Stop,
    /// A machine is cut off from all others, both ways.
    Isolate,
    /// One way between two machines is cut.
    OneWay,
    /// The machines fall apart in two parts.
    Split,
    /// The wires are bad for a while.
    Storm,
    /// A disk is slow for a while.
    SlowDisk,
    /// Another replica is to lead a group.
    Transfer,
    /// A node is to give up its replicas, or may have some again.
    Drain,
    /// A new machine joins.
    Join,
}

impl Fault {
    const ALL: [Self; 13] = [
        Self::PowerCut,
        Self::PowerCutWhileWriting,
        Self::PowerCutOfAll,
        Self::Kill,
        Self::Stop,
        Self::Isolate,
        Self::OneWay,
        Self::Split,
        Self::Storm,
        Self::SlowDisk,
        Self::Transfer,
        Self::Drain,
        Self::Join,
    ];
}

/// A run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) machines: u64,
    pub(super) clients: u64,
    /// How long things go wrong.
    pub(super) faults_for: Duration,
    /// Mean pause between two faults, in milliseconds.
    pub(super) pause_millis: u64,
    pub(super) faults: Vec<Fault>,
    /// The weather while things go wrong.
    pub(super) weather: Weather,
    /// Bytes of log after which a group takes a snapshot.
    pub(super) snapshot_log_bytes: u64,
    /// Bytes of a segment of the log.
    pub(super) segment_bytes: u64,
    /// Longest time that a sync takes, in microseconds.
    pub(super) disk_micros: u64,
}

impl Plan {
    /// A plan by chance.
    pub(super) fn new() -> Self {
        let mut faults: Vec<_> = Fault::ALL.into_iter().filter(|_| happens(500)).collect();
        if faults.is_empty() {
            faults.push(Fault::PowerCut);
        }
        Self {
            machines: 3 + below(3),
            clients: 3 + below(5),
            faults_for: Duration::from_secs(15 + below(25)),
            pause_millis: 200 << below(5),
            faults,
            weather: Weather {
                delay_micros: *one_of(&[500, 2_000, 10_000, 50_000]),
                lost: *one_of(&[0, 0, 5, 30]),
                repeated: *one_of(&[0, 10, 100]),
            },
            snapshot_log_bytes: 4096 << below(6),
            segment_bytes: (16 << 10) << below(3),
            disk_micros: *one_of(&[100, 2_000, 20_000]),
        }
    }
}
