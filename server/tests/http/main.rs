//! The server over a real node, in one process: what its clients see.

#![cfg(test)]

mod harness;

mod batches;
mod cluster;
mod keys;
mod limits;
mod lookups;
mod metrics;
mod restart;
mod runs;
