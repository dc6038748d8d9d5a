//! The push: batches to the cluster, several in flight, each until its outcome is known.
//!
//! A batch goes through three hands: [`batch`] collects rows, [`encode`] makes the body once, and [`sender`] keeps up
//! to four bodies in flight and repeats each, byte for byte and under the same number, until the cluster answers. The
//! cluster applies a number once, so a repeat after a lost answer is harmless. Before a body leaves for the first time
//! the journal holds its keys; see [`crate::state::journal`].

pub(crate) mod batch;
pub(crate) mod client;
mod encode;
pub(crate) mod retry;
pub(crate) mod sender;
