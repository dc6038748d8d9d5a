//! The loader: queries a warehouse, finds what changed, shapes rows into fields and pushes them to a cluster.

pub mod cli;
mod diff;
mod http;
pub mod liquid;
pub mod mapping;
pub mod observe;
pub mod project;
mod push;
pub mod run;
pub mod schedule;
pub mod source;
mod state;
