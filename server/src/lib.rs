//! The HTTP server: configuration, listeners, connections, authentication, the lookup route and the write plane, wired
//! to a [`larder_replication::node::Node`].
//!
//! Invariants of the crate:
//! - a lookup runs to its end on the core that accepted its connection, takes no lock and writes no cache line that
//!   another core reads;
//! - whatever costs more than microseconds (parsing a batch, proposing, waiting for disks) runs on the node's own
//!   runtime and never on one that serves lookups;
//! - no looked-up value, key, credential or body ever reaches a log or an error answer.

pub mod admin;
pub mod api_key;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dev_cluster;
pub mod memory;
pub mod metrics;
pub mod operate;
pub mod server;

mod auth;
mod batch;
mod body;
mod cluster;
mod collections;
mod connection;
mod core;
mod error;
mod fetch;
mod forward;
mod keys;
mod listener;
mod lookup;
mod news;
mod numbers;
mod query;
mod reply;
mod request_id;
mod revision;
mod router;
mod runs;
mod service;
mod socket;
mod status;
mod syncs;
