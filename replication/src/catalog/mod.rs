//! The catalog: what all nodes must agree on. Itself a Raft group (group 0).
//!
//! [`CatalogState`] is its state machine. It is pure: applying reads only the command and the state, so every replica
//! comes to the same state and gives the same reply or refusal. Whoever applies the log owns it; others look through:
//! - [`Catalog`], the definitions, immutable and shared by pointer: what lookups and writes go by;
//! - [`RunsReader`], the record of runs, which grows with every batch and is bounded (see `runs.rs`);
//! - [`IntentsReader`], what shards have yet to hear.
//!
//! # Intents
//! Catalog and shards are different Raft groups, so no entry changes both. A change that shards must hear of (a fence, a
//! sweep, a cleared sync, a dropped collection) is an *intent*: it is committed with the change that causes it, then
//! carried out on every shard by entries that are idempotent, then removed by [`CatalogCommand::IntentDone`]. The reply
//! names the intent, so that the node which proposed the change carries it out before it answers its caller. A node that
//! starts, or becomes leader, finds what was left and carries it out. Since the definitions change first and shards
//! after, what shards still hold of a dropped thing is never shown: its id is in no definition and never comes back.
//!
//! Where is what: `definitions.rs` what is published; `command.rs` the entries and their encoding; `error.rs` refusals;
//! `state.rs` applies, `cluster_map.rs` and `membership.rs` know nodes and replicas, `placement.rs` says where replicas
//! should be, `syncs.rs` gives fields their owners, `lifecycle.rs` leads runs through their states; `run.rs`
//! and `runs.rs` remember runs; `intent.rs`; `image.rs` snapshots; `format.rs` the frame of all encoded forms.

mod cluster_map;
mod command;
mod definitions;
mod error;
mod format;
mod image;
mod intent;
mod lifecycle;
mod membership;
mod placement;
mod run;
mod runs;
mod state;
mod syncs;
#[cfg(test)]
mod tests;

pub use cluster_map::{
    Change, ChangeKind, ClusterMap, Contact, GroupPlacement, NodeInfo, NodeState, ReplicaPlace, ReplicaRole,
};
pub use command::{BatchOutcome, CatalogCommand, CatalogReply, Place, Wanted, decode_command, encode_command};
pub use definitions::{ApiKey, Catalog, ClusterSettings, Collection, Field, OpenRunState, Sync};
pub use error::CatalogError;
pub use format::FormatError;
pub use intent::{Intent, IntentAction, IntentsReader};
pub use membership::{MAX_NODES, MAX_REPLICATION_FACTOR};
pub use placement::{GroupHealth, Health, Liveness, Step, plan};
pub use run::RejectsKept;
pub(crate) use runs::DETAIL_BYTES;
pub use runs::RunsReader;
pub use state::{CatalogState, MAX_COLLECTIONS, MAX_KEYS, MAX_LABEL_BYTES, MAX_SCOPES, ROOT_KEY_ID};
pub use syncs::MAX_LIVING_SYNCS;
