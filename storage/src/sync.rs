//! The atomics that the table's protocol is made of: the standard library's, or loom's when the crate is built with
//! `--cfg loom` to be checked in all interleavings.
//!
//! Invariant: pages and the directories of pages and of segments take their atomics from here and nowhere else, so that
//! the code that is checked is the code that is shipped. Plain counters do not take part in the protocol and use the
//! standard library directly.
//!
//! Run the check with
//! `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p larder-storage --release --lib loom`.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
