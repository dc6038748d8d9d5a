//! Commands: what the entries of the catalog's log say, and what applying one answers.
//!
//! On the wire and on disk a command is one byte, the format's version, and then JSON in exactly the form that
//! [`encode_command`] writes. Whatever differs from that form was written by a version that knows more than this one;
//! to apply the part that is understood would let replicas drift apart, so it is an error that stops the replica.

use bytes::Bytes;
use larder_types::api::{Counts, FieldSpec, RejectedRow, RunKind};
use larder_types::ids::{CollectionId, Generation, GroupId, Micros, NodeId, ReplicaId, SyncSlot};
use larder_types::names::{CollectionName, IndexName, SyncName};
use larder_types::patch::ExitMode;
use serde::{Deserialize, Serialize};

use super::cluster_map::{Contact, NodeState};
use super::definitions::{ApiKey, ClusterSettings};
use super::format::{self, FormatError};

/// The version of the encoded form of commands.
pub(crate) const COMMAND_VERSION: u8 = 1;

/// A change of the catalog. Everything random or temporal in it was chosen by the proposer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CatalogCommand {
    /// Makes the cluster: settings and root key. Refused if done already.
    Bootstrap {
        /// The settings.
        settings: ClusterSettings,
        /// The root key, with all scopes.
        root: ApiKey,
    },
    /// Makes or alters a collection. The primary index's name cannot change.
    PutCollection {
        /// Its name.
        name: CollectionName,
        /// The primary index's name, `id` if `None` and the collection is new.
        primary_index: Option<IndexName>,
    },
    /// Drops a collection. Intent: drop it in all shards.
    DropCollection {
        /// Its name.
        name: CollectionName,
    },
    /// Declares or alters a sync. A field that another sync owns is refused (409, details `{field, owner}`); a field
    /// named twice or too many fields: 422. A changed type of a field makes a new field id: values written under the old
    /// one vanish from lookups until the next run writes the field. A field left out that the sync owned before is
    /// retired: lookups stop showing it, and any sync may declare the name anew.
    PutSync {
        /// The collection.
        collection: CollectionName,
        /// The sync's name.
        name: SyncName,
        /// The fields it owns, in order.
        fields: Vec<FieldSpec>,
        /// Its exit mode.
        on_exit: ExitMode,
    },
    /// Forgets a sync, its runs and fields. Intent: clear it in all shards.
    DropSync {
        /// The collection.
        collection: CollectionName,
        /// The sync.
        name: SyncName,
    },
    /// Opens a run: the next generation; an older run of the sync that is open or committing becomes superseded. Intent:
    /// fence in all shards. Not repeatable: the id of a run that is remembered is refused (409).
    OpenRun {
        /// The collection.
        collection: CollectionName,
        /// The sync.
        sync: SyncName,
        /// The run's id, chosen by the proposer, unique.
        run: String,
        /// Delta or full.
        kind: RunKind,
        /// What it means to do.
        planned: Counts,
        /// When it was opened.
        at: Micros,
    },
    /// Notes the outcome of a batch, once per (run, seq): a repeat changes nothing, another body under the same number
    /// is refused (409). Not refused after the run has ended or was superseded, since the patches were applied; if the
    /// run's batches have been forgotten by then (see `runs.rs`) it changes nothing.
    RecordBatch {
        /// The collection.
        collection: CollectionId,
        /// The sync.
        slot: SyncSlot,
        /// The run.
        run: String,
        /// The outcome.
        outcome: BatchOutcome,
    },
    /// Begins the commit of an open run: it takes no more batches. Intent for a full run whose exit mode is not `keep`:
    /// sweep in all shards. Repeatable while the run is committing or committed.
    BeginCommit {
        /// The collection.
        collection: CollectionName,
        /// The sync.
        sync: SyncName,
        /// The run.
        run: String,
    },
    /// Ends the commit of a run whose intent, if any, was carried out; refused (409) while it was not. Intent, which
    /// nobody needs to wait for: fence the run in all shards. Repeatable.
    EndCommit {
        /// The collection.
        collection: CollectionName,
        /// The sync.
        sync: SyncName,
        /// The run.
        run: String,
        /// When it ended.
        at: Micros,
    },
    /// Gives a run up. Intent as for `EndCommit`. Repeatable; refused once its commit has begun.
    AbortRun {
        /// The collection.
        collection: CollectionName,
        /// The sync.
        sync: SyncName,
        /// The run.
        run: String,
        /// When it ended.
        at: Micros,
    },
    /// Makes an API key.
    CreateKey(ApiKey),
    /// Revokes an API key. The root key cannot be revoked (409).
    RevokeKey {
        /// Its id.
        id: String,
    },
    /// Notes that an intent was carried out on all shards. Repeatable.
    IntentDone {
        /// The intent.
        id: u64,
        /// Records that a sweep cleared or deleted.
        swept: u64,
    },
    /// Makes the map of the cluster, with one node that holds all groups. Refused if done already.
    FormCluster {
        /// Replicas of each group, as soon as there are enough nodes. Odd.
        replication_factor: u8,
        /// The node.
        contact: Contact,
        /// Its replicas in order of their groups.
        replicas: Vec<ReplicaId>,
        /// When.
        at: Micros,
    },
    /// Takes a node in: gives it an id and a replica of the catalog. Repeatable, also to come back: a node that lost its
    /// replica of the catalog while it was away gets another. Refused for a node that was removed (409).
    JoinNode {
        /// The node.
        contact: Contact,
        /// When.
        at: Micros,
    },
    /// Alters what is known of a node. Repeatable.
    UpdateNode {
        /// The node.
        node: NodeId,
        /// The same incarnation, and what else is new.
        contact: Contact,
    },
    /// Alters what is meant for a node. Repeatable. A node is removed only when it holds no replica.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// What is meant.
        state: NodeState,
    },
    /// Begins to change a group's replicas; refused while another change of the group is under way.
    StartChange {
        /// The group.
        group: GroupId,
        /// What to change.
        wanted: Wanted,
    },
    /// Ends a change. Repeatable.
    EndChange {
        /// The group.
        group: GroupId,
        /// The change.
        change: u64,
        /// Whether the group's membership has followed; if not, the replica that was added is taken off the map.
        done: bool,
    },
}

/// How a group's replicas are to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Wanted {
    /// A new replica.
    Add {
        /// Where, and as what.
        place: Place,
        /// The voter that goes for it.
        instead: Option<ReplicaId>,
    },
    /// A vote for a learner.
    Promote {
        /// The learner.
        replica: ReplicaId,
        /// The voter that becomes a learner for it.
        instead: Option<ReplicaId>,
    },
    /// One replica less.
    Remove {
        /// The replica.
        replica: ReplicaId,
    },
}

/// Where a new replica is to be, and as what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// As a voter on this node.
    Voter(NodeId),
    /// As a learner on this node.
    Learner(NodeId),
}

/// What a batch did: kept for the debugger and for repeats of the same batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchOutcome {
    /// The batch number.
    pub seq: u32,
    /// Hash of the body as received, so that a repeat is told from another body under the same number.
    pub body_hash: u64,
    /// When it arrived.
    pub at: Micros,
    /// From arrival until all shards had applied it.
    pub latency_micros: u64,
    /// Patches in it.
    pub rows: u64,
    /// Bytes of the body as sent.
    pub bytes: u64,
    /// Patches applied.
    pub accepted: u64,
    /// What they did.
    pub successful: Counts,
    /// Patches that changed nothing.
    pub unchanged: u64,
    /// What was rejected, by what it would have done.
    pub failed: Counts,
    /// The rejected rows; the first ones only if `rejects_cut`.
    pub rejects: Vec<RejectedRow>,
    /// True if not all rejected rows are listed, because together they would be too large for an entry.
    pub rejects_cut: bool,
    /// The revision of the answer, as text.
    pub revision: String,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogReply {
    /// Done; nothing more to say.
    Done,
    /// A collection or sync was made (`true`) or existed already (`false`).
    Put {
        /// Whether it is new.
        created: bool,
    },
    /// Something that shards must hear of. `run_intent` carries it out.
    Intent(u64),
    /// A run was opened; its fence is an intent.
    Opened {
        /// Its generation.
        generation: Generation,
        /// The intent.
        intent: u64,
    },
    /// A commit has begun or was done before. `intent` is `None` if no sweep is needed or it is done.
    Committing {
        /// The intent.
        intent: Option<u64>,
    },
    /// A node is in.
    Joined {
        /// Its id.
        node: NodeId,
        /// Its replica of the catalog.
        replica: ReplicaId,
        /// Replicas of each group, as far as there are nodes.
        replication_factor: u8,
    },
    /// A change has begun.
    Changing {
        /// Its id.
        change: u64,
    },
}

/// The bytes of a log entry that holds this command.
#[must_use]
pub fn encode_command(command: &CatalogCommand) -> Bytes {
    format::encode(COMMAND_VERSION, command).into()
}

/// The command that a log entry holds.
///
/// # Errors
/// When the bytes are not what [`encode_command`] of this version writes; the replica must stop.
pub fn decode_command(bytes: &[u8]) -> Result<CatalogCommand, FormatError> {
    let command = format::decode(COMMAND_VERSION, bytes)?;
    // Nested types may be lenient, as answers of the HTTP interface are; the second encoding finds what they skipped.
    if format::encode(COMMAND_VERSION, &command) == bytes { Ok(command) } else { Err(FormatError::Form) }
}
