//! The loader: queries a warehouse, finds what changed, shapes rows into fields and pushes them to a cluster.

mod diff;
pub mod mapping;
pub mod project;
pub mod run;
pub mod source;
