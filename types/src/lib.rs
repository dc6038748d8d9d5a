//! The words that all parts of Larder share: ids, names, keys, values, patches, limits, errors and the bodies of the
//! HTTP interface.
//!
//! Invariants of the crate: no I/O, no clock, no threads, no randomness. Whatever is here gives the same answer on
//! every machine, because replicas decide with it.

pub mod api;
pub mod cluster;
pub mod convert;
pub mod decimal;
pub mod error;
pub mod hash;
pub mod ids;
pub mod json;
pub mod key;
pub mod limits;
pub mod names;
pub mod patch;
pub mod prometheus;
pub mod revision;
pub mod time;
pub mod value;
