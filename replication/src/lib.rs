//! Shards as Raft groups, the catalog, and the node that runs them. The only importer of openraft, and none of its
//! types leave this crate.

pub mod catalog;
mod failure;
pub mod node;
mod raft;
