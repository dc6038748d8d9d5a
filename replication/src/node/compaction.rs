//! When groups take snapshots and give up the log before them.
//!
//! By bytes of log, since that is what costs disk and time at the next start, and by its entries, since the place of each
//! costs memory until it is purged: a group whose log has grown beyond its share takes a snapshot; so does an idle group
//! whose few entries keep old segments from being recycled. The log is purged up to a snapshot only when the snapshot is
//! on disk.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use larder_storage::log::Log;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, MissedTickBehavior};

use super::replica::Replica;
use super::replicas::Replicas;
use crate::raft::snapshot::Workbench;

/// How often the logs are looked at: a disk writes some tens of megabytes meanwhile, and a look at a thousand groups
/// takes less than a thousandth of it.
const PERIOD: Duration = Duration::from_millis(100);

/// What an entry counts for at least. Its place takes about 100 bytes of memory, and up to twice that when the list of
/// them has just grown: so places take at most 2/5 of what the logs of all groups may.
const ENTRY_BYTES: u64 = 512;

/// Shares of log that are held for replicas that are being filled.
const HOLD: u64 = 8;

/// A replica that has not answered for so long is waited for no more.
const SILENT: Duration = Duration::from_secs(10);

/// How long nothing is tried again after a snapshot that did not come about, as on a full disk.
const PAUSE: Duration = Duration::from_secs(15);

/// Watches over the logs of all groups.
pub(crate) struct Compactor {
    replicas: Arc<Replicas>,
    log: Log,
    workbench: Workbench,
    /// A group's log beyond this many bytes is due.
    group_bytes: u64,
    attempt: Option<Attempt>,
}

/// The last snapshot that was asked for.
struct Attempt {
    replica: Arc<Replica>,
    /// The newest snapshot before.
    before: Option<u64>,
    at: Instant,
}

impl Compactor {
    /// A compactor of these replicas.
    pub(crate) fn new(replicas: Arc<Replicas>, log: Log, workbench: Workbench, group_bytes: u64) -> Self {
        Self { replicas, log, workbench, group_bytes, attempt: None }
    }

    /// Goes on for ever.
    pub(crate) async fn run(mut self) {
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = period.tick() => {}
                () = self.workbench.freed() => {}
            }
            self.round().await;
        }
    }

    /// Purges what snapshots cover, and starts the snapshot that is needed most, if any is and none is being written.
    async fn round(&mut self) {
        for replica in self.replicas.all().iter() {
            let held = held_for_learners(replica, HOLD * self.group_bytes);
            let purged = replica.log.state().purged.map(|id| id.index);
            let upto = purgeable(replica).map(|upto| held.map_or(upto, |held| held.min(upto)));
            if let Some(upto) = upto.filter(|upto| Some(*upto) > purged) {
                // An error means that the replica has ended.
                let _ = replica.raft.trigger().purge_log(upto).await;
            }
        }
        if !self.workbench.is_free() || self.is_pausing() {
            return;
        }
        if let Some(replica) = self.most_due() {
            tracing::debug!(group = %replica.id, log_bytes = replica.log.bytes(), "a snapshot is due");
            let before = snapshot_index(&replica);
            // An error means the same as above.
            let _ = replica.raft.trigger().snapshot().await;
            self.attempt = Some(Attempt { replica, before, at: Instant::now() });
        }
    }

    /// Whether the last attempt has come to nothing, or is not under way yet.
    fn is_pausing(&self) -> bool {
        self.attempt
            .as_ref()
            .is_some_and(|attempt| snapshot_index(&attempt.replica) == attempt.before && attempt.at.elapsed() < PAUSE)
    }

    /// The replica that needs a snapshot most.
    fn most_due(&self) -> Option<Arc<Replica>> {
        let replicas = self.replicas.all();
        let large = |replica: &&Arc<Replica>| weight(replica) > self.group_bytes && has_news(replica);
        if let Some(replica) = replicas.iter().filter(large).max_by_key(|replica| weight(replica)) {
            return Some(Arc::clone(replica));
        }
        // All groups together hold half of their shares on average. What is beyond that is held by laggards.
        let most = self.group_bytes.saturating_mul(replicas.len() as u64) / 2 + self.group_bytes;
        let pinning = self.log.pinning(most);
        pinning.into_iter().find_map(|id| self.replicas.get(id).filter(|replica| has_news(replica)))
    }
}

/// What a group's log counts for.
fn weight(group: &Replica) -> u64 {
    group.log.bytes().max(group.log.entries() * ENTRY_BYTES)
}

/// How far a leader may give up its log so that replicas which are being filled need not begin anew; `None` if there is
/// no such replica, or it has lagged for so long that it must.
fn held_for_learners(replica: &Replica, most_bytes: u64) -> Option<u64> {
    if replica.log.bytes() > most_bytes {
        return None;
    }
    let metrics = replica.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    // One that does not answer is not being filled.
    let heartbeats = metrics.heartbeat.as_ref()?;
    let answers = |id: &u64| heartbeats.get(id).copied().flatten().is_some_and(|at| at.elapsed() < SILENT);
    let learners = metrics.replication.as_ref()?.iter().filter(|(id, _)| !voters.contains(id) && answers(id));
    // While one gets a snapshot nothing is known of its log: it will want what comes after the snapshot.
    learners.map(|(_, matched)| matched.map_or(0, |id| id.index)).min()
}

fn snapshot_index(group: &Replica) -> Option<u64> {
    group.shelf.current().and_then(|meta| meta.last_log_id).map(|id| id.index)
}

/// How far the group's log can be purged, if it is not.
fn purgeable(group: &Replica) -> Option<u64> {
    let purged = group.log.state().purged.map(|id| id.index);
    snapshot_index(group).filter(|&snapshot| Some(snapshot) > purged)
}

/// Whether a new snapshot of the group would hold more than its last one, and the log before that one is gone already.
fn has_news(group: &Replica) -> bool {
    purgeable(group).is_none() && group.log.state().last.map(|id| id.index) > snapshot_index(group)
}
