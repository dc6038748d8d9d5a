//! Shards as Raft groups, the catalog, and the node that runs them. The only importer of openraft, and none of its
//! types leave this crate.

mod blocking;
pub mod catalog;
mod failure;
pub mod node;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "the groups of a node are not yet spread over nodes"))]
mod peers;
mod raft;
#[cfg(test)]
mod simulated;
