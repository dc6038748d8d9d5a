//! Tells other nodes how this one is, and lookups which replicas here are fresh enough.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use larder_types::ids::ReplicaId;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use super::kind::Kind;
use super::replica::{Replica, role};
use super::replicas::Replicas;
use super::report::{LeaderReport, PERIOD, ReplicaReport, Report, Reports};
use super::service::Code;
use crate::catalog::{Catalog, NodeState};
use crate::failure::Failure;
use crate::peers::{Body, Lane, PeerError};
use crate::raft::network::Courier;

/// How often replicas are judged: what lookups go by is older by so much.
const JUDGE: Duration = Duration::from_millis(100);

/// How long a report may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// Reports and judges.
pub(crate) struct Reporter {
    pub(crate) boot: u64,
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) catalog: Arc<ArcSwap<Catalog>>,
    pub(crate) courier: Arc<dyn Courier>,
    pub(crate) failure: Failure,
    /// A replica that may be further behind than this does not serve lookups.
    pub(crate) max_staleness: Duration,
}

impl Reporter {
    /// Goes on until the node stops.
    pub(crate) async fn run(self) {
        let mut last: Option<Instant> = None;
        loop {
            self.judge();
            if last.is_none_or(|last| last.elapsed() >= PERIOD) {
                last = Some(Instant::now());
                self.report();
            }
            tokio::time::sleep(JUDGE).await;
        }
    }

    /// Notes which replicas are fresh enough for lookups.
    pub(crate) fn judge(&self) {
        self.replicas.judge(self.max_staleness);
    }

    /// Sends a report to every other node. Whoever does not get it gets the next one.
    fn report(&self) {
        let report = self.make();
        let bytes = match serde_json::to_vec(&report) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => return tracing::error!(%error, "this node's report cannot be written"),
        };
        self.reports.note(self.reports.me(), report);
        let map = Arc::clone(&self.catalog.load().map);
        let others = map.nodes.iter().filter(|(node, info)| {
            **node != self.reports.me() && info.state != NodeState::Removed && !info.contact.address.is_empty()
        });
        for (node, _) in others {
            let body = Body::from(vec![bytes.clone()]);
            let call = self.courier.call(*node, Lane::Heartbeat, Kind::Report as u8, body, DEADLINE);
            let (node, reports, failure) = (*node, Arc::clone(&self.reports), self.failure.clone());
            tokio::spawn(async move {
                match call.await {
                    Ok(answer) => {
                        if let Ok(Some(report)) = serde_json::from_slice::<Option<Report>>(&answer) {
                            reports.note(node, report);
                        }
                    }
                    Err(PeerError::Remote(refusal)) if refusal.code == Code::Removed as u8 => {
                        failure.fail(refusal.message);
                    }
                    // The transport tells of nodes that cannot be reached.
                    Err(_) => {}
                }
            });
        }
    }

    fn make(&self) -> Report {
        let groups: Vec<_> = self.replicas.all().iter().map(|replica| self.report_of(replica)).collect();
        let bytes = groups.iter().map(|group| group.bytes).sum();
        Report { boot: self.boot, groups, bytes }
    }

    fn report_of(&self, replica: &Replica) -> ReplicaReport {
        let age = replica.age();
        let metrics = replica.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.replication.as_ref().map(|matched| LeaderReport {
            matched: matched.iter().map(|(id, matched)| (ReplicaId(*id), matched.map(|id| id.index))).collect(),
            voters: metrics.membership_config.membership().voter_ids().map(ReplicaId).collect(),
        });
        ReplicaReport {
            group: replica.id,
            replica: replica.replica,
            term: metrics.current_term,
            role: role(metrics.state).to_owned(),
            last: metrics.last_log_index,
            applied: metrics.last_applied.map(|id| id.index),
            serves: age.is_some_and(|age| age <= self.max_staleness),
            age_millis: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            bytes: replica.reader.as_ref().map_or(0, larder_storage::shard::ShardReader::bytes),
            leads,
        }
    }
}
