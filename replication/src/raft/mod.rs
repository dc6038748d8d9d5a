//! The seam to openraft: our log and state machines behind its traits, and our encodings of its words.
//!
//! Invariants:
//! - Nothing outside this module and `node` names a type of openraft, and none of its types reaches disk: [`codec`] is
//!   the only translation.
//! - Every group, the catalog and the shards alike, has the same types: one [`types::TypeConfig`], one
//!   [`machine::Machine`], one log adapter. openraft is generic over them, so a second set would be compiled twice.
//! - An error returned to openraft ends its group for good. So it is returned only where going on would be wrong (disk
//!   failure, damaged bytes), and it always ends the whole node with it (see [`crate::failure`]).

pub(crate) mod codec;
pub(crate) mod echo;
pub(crate) mod log_store;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod pace;
pub(crate) mod snapshot;
pub(crate) mod snapshot_meter;
#[cfg(test)]
mod tests;
pub(crate) mod transfer;
pub(crate) mod types;
pub(crate) mod wire;
