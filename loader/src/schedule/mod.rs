//! Schedules: when each sync runs.
//!
//! A pure core: what is remembered of every sync is a `book::Book`, the clock is a parameter, and `decide::decide`
//! turns both into what is to be started now. The book is kept in the state database; whoever decides does so within
//! one transaction on it, so any number of loaders on one state folder act as one, and a crash between two decisions
//! loses none and repeats none.
//!
//! Invariants, however loaders, crashes, clocks and callers interleave:
//! - a sync has at most one run under way and one that waits;
//! - a trigger that was accepted leads to a run that begins after it, or is dropped with a remark that says why;
//! - each time of a schedule fires once or is skipped once, and never again after a restart.

pub(crate) mod book;
pub(crate) mod cron;
pub(crate) mod decide;
#[cfg(test)]
mod tests;
pub(crate) mod timetable;
