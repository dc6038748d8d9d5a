//! What black-box tests share: the real binaries as child processes, and a client that sends exactly the bytes it is
//! told to.
//!
//! Nothing here looks inside a process. Every wait is for a condition and has a deadline; every process that a test
//! starts is killed by its pid when the test ends, however it ends.

#![allow(clippy::panic, reason = "a harness reports a failed test by panicking")]
#![allow(clippy::print_stdout, reason = "test runners show what a failed test has printed")]

pub mod cluster;
pub mod daemon;
pub mod drivers;
pub mod fixture;
pub mod http;
pub mod load;
pub mod net;
pub mod postgres;
pub mod process;
pub mod random;
pub mod scratch;
pub mod wait;
