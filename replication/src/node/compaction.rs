//! When groups take snapshots and give up the log before them.
//!
//! By bytes of log, since that is what costs disk and time at the next start, and by its entries, since the place of each
//! costs memory until it is purged: a group whose log has grown beyond its share takes a snapshot; so does an idle group whose few entries keep old segments from being recycled. The log is
//! purged up to a snapshot only when the snapshot is on disk.

use std::time::{Duration, Instant};

use larder_storage::log::Log;
use larder_types::ids::GroupId;
use tokio::time::MissedTickBehavior;

use super::group::Group;
use crate::raft::snapshot::Workbench;

/// How often the logs are looked at: a disk writes some tens of megabytes meanwhile, and a look at a thousand groups
/// takes less than a thousandth of it.
const PERIOD: Duration = Duration::from_millis(100);

/// What an entry counts for at least. Its place takes about 100 bytes of memory, and up to twice that when the list of
/// them has just grown: so places take at most 2/5 of what the logs of all groups may.
const ENTRY_BYTES: u64 = 512;

/// How long nothing is tried again after a snapshot that did not come about, as on a full disk.
const PAUSE: Duration = Duration::from_secs(15);

/// Watches over the logs of all groups.
pub(crate) struct Compactor {
    groups: Vec<Group>,
    log: Log,
    workbench: Workbench,
    /// A group's log beyond this many bytes is due.
    group_bytes: u64,
    /// Beyond this many bytes of all segments, whoever holds the oldest is due.
    log_bytes: u64,
    attempt: Option<Attempt>,
}

/// The last snapshot that was asked for.
struct Attempt {
    group: usize,
    /// The newest snapshot before.
    before: Option<u64>,
    at: Instant,
}

impl Compactor {
    /// A compactor of these groups, in order of their ids from 0 on.
    pub(crate) fn new(groups: Vec<Group>, log: Log, workbench: Workbench, group_bytes: u64) -> Self {
        // All groups together hold half of their shares on average. What is beyond that is held by laggards.
        let log_bytes = group_bytes.saturating_mul(groups.len() as u64) / 2 + group_bytes;
        Self { groups, log, workbench, group_bytes, log_bytes, attempt: None }
    }

    /// Goes on for ever.
    pub(crate) async fn run(mut self) {
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = period.tick() => {}
                () = self.workbench.freed() => {}
            }
            self.round().await;
        }
    }

    /// Purges what snapshots cover, and starts the snapshot that is needed most, if any is and none is being written.
    async fn round(&mut self) {
        for group in &self.groups {
            if let Some(upto) = purgeable(group)
                && group.raft.trigger().purge_log(upto).await.is_err()
            {
                // The group has ended, and the node with it.
                return;
            }
        }
        if !self.workbench.is_free() || self.is_pausing() {
            return;
        }
        if let Some(due) = self.most_due() {
            let group = &self.groups[due];
            self.attempt = Some(Attempt { group: due, before: snapshot_index(group), at: Instant::now() });
            tracing::debug!(group = %group.id, log_bytes = group.log.bytes(), "a snapshot is due");
            // An error means the same as above.
            let _ = group.raft.trigger().snapshot().await;
        }
    }

    /// Whether the last attempt has come to nothing, or is not under way yet.
    fn is_pausing(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| {
            snapshot_index(&self.groups[attempt.group]) == attempt.before && attempt.at.elapsed() < PAUSE
        })
    }

    /// The group, by its place, that needs a snapshot most.
    fn most_due(&self) -> Option<usize> {
        let large = |group: &&Group| weight(group) > self.group_bytes && has_news(group);
        if let Some(group) = self.groups.iter().filter(large).max_by_key(|group| weight(group)) {
            return Some(usize::from(group.id.0));
        }
        let pinning = self.log.pinning(self.log_bytes);
        let at = |id: GroupId| self.groups.get(usize::from(id.0)).filter(|group| has_news(group));
        pinning.into_iter().find_map(at).map(|group| usize::from(group.id.0))
    }
}

/// What a group's log counts for.
fn weight(group: &Group) -> u64 {
    group.log.bytes().max(group.log.entries() * ENTRY_BYTES)
}

fn snapshot_index(group: &Group) -> Option<u64> {
    group.shelf.current().and_then(|meta| meta.last_log_id).map(|id| id.index)
}

/// How far the group's log can be purged, if it is not.
fn purgeable(group: &Group) -> Option<u64> {
    let purged = group.log.state().purged.map(|id| id.index);
    snapshot_index(group).filter(|&snapshot| Some(snapshot) > purged)
}

/// Whether a new snapshot of the group would hold more than its last one, and the log before that one is gone already.
fn has_news(group: &Group) -> bool {
    purgeable(group).is_none() && group.log.state().last.map(|id| id.index) > snapshot_index(group)
}
