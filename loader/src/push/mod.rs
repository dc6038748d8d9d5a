//! The push: batches to the cluster, several in flight, each until its outcome is known.
//!
//! [`batch`] collects rows, [`encode`] makes the body once, and [`sender`] keeps bodies in flight over a [`wire`] and
//! repeats each, byte for byte and under the same number, until the cluster answers. The cluster applies a number once, so
//! a repeat after a lost answer is harmless. Before a body leaves for the first time the journal holds its keys; see
//! [`crate::state::journal`]. What the sender decides is decided by three pure parts: [`window`] says how many fly,
//! [`retry`] when to try again and when to give up, [`suspects`] whether a row is to blame.

pub(crate) mod batch;
pub(crate) mod client;
pub(crate) mod contract;
mod encode;
mod flight;
pub(crate) mod log;
pub(crate) mod retry;
pub(crate) mod sender;
mod suspects;
#[cfg(test)]
mod tests;
mod window;
mod wire;
