//! The diff in the warehouse: it compares there, and only rows that differ are read.
//!
//! The result of each run becomes a table of keys and row hashes (module `layout`). For each destination the loader
//! remembers the result that its cluster has acknowledged, its *base*; the next result is joined with it where both are.
//! What happens after that is the local diff with few rows: the differences come in through [`Intake`], what was
//! acknowledged of their keys through [`Acknowledged`], and journal, guards and sending are the same.
//!
//! Invariants:
//!
//! * A base is a whole result of which every row was acknowledged, but for those whose ids are recorded beside it as
//!   *doubts*: they were rejected, and the next delta asks for them whatever their hashes say.
//! * Tables never change once they are made, and what counts is recorded here, in one transaction with the end of the
//!   delivery. So a crash leaves the old base, or the new one, and tables to sweep.
//! * What a run that did not get through has sent is in the journal, and then in a snapshot like any other, which goes
//!   *over* the base: it names every key whose record is not what the base says. As long as there is one, the delta asks
//!   for all rows, because a row may be back to what the base says.
//! * Whatever makes the base's hashes worthless (another mapping, another loader, a lost table) turns it into a snapshot
//!   of its keys with unknown hashes, and all goes on from there as without a warehouse.

mod acknowledged;
mod delta;
pub(crate) mod layout;
mod planner;
mod row_hash;
#[cfg(test)]
mod tests;

pub(crate) use self::acknowledged::BaseRows;
pub(crate) use self::delta::DeltaReader;
pub(crate) use self::planner::{Planner, ResultCounts};
