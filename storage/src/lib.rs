//! One node's memory and disk: lock-free tables of records, the log that all Raft groups share, snapshots, and the
//! `Disk` trait below them. No tokio, no hyper, no openraft.

mod arena;
mod chunks;
pub mod command;
pub mod disk;
pub mod distribution;
mod little_endian;
pub mod log;
pub mod memory;
mod prefetch;
pub mod record;
pub mod shard;
pub mod snapshot;
mod sync;
mod table;
