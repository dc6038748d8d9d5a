//! The types that fix openraft for all groups of a node.

use std::fmt;

use bytes::Bytes;
use larder_storage::command::Outcome;
use larder_types::ids::NodeId;
use openraft::{Config, EntryPayload, SnapshotPolicy};

use super::machine::Machine;
use super::snapshot::SnapshotFile;
use crate::catalog::{CatalogError, CatalogReply};

/// What groups run on. A simulation decides its chance, so that one number tells a whole run.
#[cfg(test)]
type Runtime = crate::simulated::Runtime;
#[cfg(not(test))]
type Runtime = openraft::impls::TokioRuntime;

openraft::declare_raft_types!(
    /// openraft's node id is a *replica* id, which is never used twice; the node that holds the replica is its `Node`.
    pub(crate) TypeConfig:
        D = Command,
        R = Response,
        NodeId = u64,
        Node = ReplicaNode,
        AsyncRuntime = Runtime,
);

/// Who leads, in a log id.
pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
/// A position in a group's log.
pub(crate) type LogId = openraft::LogId<LeaderId>;
/// A vote.
pub(crate) type Vote = openraft::Vote<LeaderId>;
/// A log entry.
pub(crate) type Entry = openraft::Entry<LeaderId, EntryPayload<Command, u64, ReplicaNode>>;
/// The replicas of a group.
pub(crate) type Membership = openraft::Membership<u64, ReplicaNode>;
/// The replicas of a group and the entry that made it so.
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, ReplicaNode>;
/// What a snapshot holds.
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, ReplicaNode>;
/// A snapshot, as openraft hands it around.
pub(crate) type RaftSnapshot = openraft::Snapshot<LeaderId, u64, ReplicaNode, SnapshotFile>;
/// A running group.
pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;

/// A command of a state machine, encoded. Opaque here: the state machine decodes it when it applies it.
///
/// openraft formats entries in its traces, so both formats cost the same for any size and show no content.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What applying an entry did.
#[derive(Debug)]
pub(crate) enum Response {
    /// The entry was none of the state machine's business: blank or a membership.
    Nothing,
    /// A shard's answer.
    Shard(Outcome),
    /// The catalog's answer.
    Catalog(Result<CatalogReply, CatalogError>),
}

/// Where a replica lives. An address would be wrong here, since a membership cannot be changed while its group has no
/// leader: addresses of nodes belong to the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplicaNode {
    /// The node.
    pub(crate) node: NodeId,
}

/// Milliseconds between two heartbeats of a leader.
const HEARTBEAT_MILLIS: u64 = 300;
/// Milliseconds without a heartbeat after which a replica campaigns, at least and at most.
pub(crate) const ELECTION_MILLIS: (u64, u64) = (900, 1500);

/// The configuration of every group.
///
/// # Errors
/// When openraft finds it inconsistent, which a test rules out.
pub(crate) fn config() -> Result<Config, openraft::ConfigError> {
    Config {
        cluster_name: "larder".to_owned(),
        heartbeat_interval: HEARTBEAT_MILLIS,
        election_timeout_min: ELECTION_MILLIS.0,
        election_timeout_max: ELECTION_MILLIS.1,
        enable_pre_vote: Some(true),
        // A restarted leader must win an election before it serves: with a commit position that was lost with the
        // power it would otherwise answer reads from before acknowledged writes.
        enable_leader_restore: Some(false),
        quorum_loss_probe_interval: Some(3 * ELECTION_MILLIS.1),
        // Snapshots and purges are triggered by bytes, see `node::compaction`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // Entries are large: these bound counts, the log adapter bounds bytes.
        replication_lag_threshold: 64,
        max_payload_entries: 256,
        max_append_entries: Some(1024),
        api_channel_size: Some(4096),
        state_machine_channel_size: Some(4096),
        // Only a hint to the network, which has its own deadlines by progress.
        install_snapshot_timeout: 600_000,
        // A replica whose log went backwards has lost its disk and must come back under a new id.
        allow_log_reversion: Some(false),
        ..Config::default()
    }
    .validate()
}

#[cfg(test)]
mod tests {
    use super::*;

    // openraft's own suite of tests makes up members.
    impl Default for ReplicaNode {
        fn default() -> Self {
            Self { node: NodeId(0) }
        }
    }

    #[test]
    fn the_configuration_is_consistent() {
        config().unwrap();
    }

    #[test]
    fn commands_do_not_show_their_content() {
        let command = Command(Bytes::from_static(b"secret"));
        assert_eq!(format!("{command} {command:?}"), "6 bytes Command(6 bytes)");
    }
}
