//! The loader: queries a warehouse, finds what changed, shapes rows into fields and pushes them to a cluster.

pub mod cancel;
pub mod cli;
mod diff;
mod http;
pub mod inspect;
pub mod liquid;
pub mod mapping;
pub mod measure;
pub mod observe;
pub mod project;
mod push;
pub mod run;
pub mod schedule;
mod serve;
pub mod source;
mod state;

#[cfg(test)]
#[path = "../../tests/src/drivers.rs"]
#[allow(dead_code, unreachable_pub, clippy::panic, reason = "the tests of several crates share it")]
mod drivers;
#[cfg(test)]
#[path = "../../tests/src/postgres.rs"]
#[allow(dead_code, unreachable_pub, clippy::panic, reason = "the tests of several crates share it")]
mod postgres;
