//! The plain way, for comparison: one hash table of everything that was acknowledged.
//!
//! From key to hash of the row, with a mark for the keys that came again. A removal must name its key, so keys are kept
//! in full. This is what a program does that does not mind the memory.

use std::collections::HashMap;
use std::convert::Infallible;

use xxhash_rust::xxh3::xxh3_128;

use super::rows::{self, Day};
use crate::storage::times::timed;

/// What the table found, and the seconds of processor time that it took.
pub(super) struct TableDiff {
    pub(super) added: u64,
    pub(super) changed: u64,
    pub(super) removed: u64,
    /// To fill it with the first day's rows.
    pub(super) filling: f64,
    /// To compare the next day's rows with it and to find the keys that have left.
    pub(super) comparing: f64,
}

struct Acknowledged {
    hash: u128,
    seen: bool,
}

/// Compares the next day with the first.
pub(super) fn compare(count: u64) -> TableDiff {
    let mut table: HashMap<Box<str>, Acknowledged> = HashMap::new();
    let ((), filling) = timed(|| {
        let fed = rows::feed::<Infallible>(count, Day::First, |key, cells| {
            table.insert(key.into(), Acknowledged { hash: xxh3_128(cells), seen: false });
            Ok(())
        });
        fed.unwrap_or_else(|never| match never {});
    });
    let (mut added, mut changed) = (0, 0);
    // What is to be sent is kept, as the loader keeps it.
    let mut changes: Vec<(Box<str>, Box<[u8]>)> = Vec::new();
    let (removed, comparing) = timed(|| {
        let fed = rows::feed::<Infallible>(count, Day::Next, |key, cells| {
            let hash = xxh3_128(cells);
            match table.get_mut(key) {
                Some(old) if old.hash == hash => {
                    old.seen = true;
                    return Ok(());
                }
                Some(old) => {
                    old.seen = true;
                    changed += 1;
                }
                None => added += 1,
            }
            changes.push((key.into(), cells.into()));
            Ok(())
        });
        fed.unwrap_or_else(|never| match never {});
        let left = changes.len();
        changes.extend(table.iter().filter(|(_, old)| !old.seen).map(|(key, _)| (key.clone(), Box::default())));
        (changes.len() - left) as u64
    });
    std::hint::black_box(&changes);
    TableDiff { added, changed, removed, filling: filling / 1e9, comparing: comparing / 1e9 }
}
