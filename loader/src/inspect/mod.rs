//! Inspecting: what the loader and the clusters know, for people who ask what happened and why.
//!
//! Nothing here changes anything: no lock is held, so a run may be under way, and what is shown is then from before it.
//! Values of redacted fields, and keys where hashes stand for them, do not leave this module (module `redact`).

pub mod explain;
pub mod export;
pub mod history;
pub mod records;
pub(crate) mod redact;
pub mod samples;
pub mod status;
mod verdict;
