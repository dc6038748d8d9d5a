//! What has been done to each sync's fields of each key, as far as a reader needs it to judge what it sees.
//!
//! A cell holds the serial of the last patch and whether it left fields behind. The writer notes what it begins before
//! it applies an entry, and the same as done after it. So what a reader sees is not older than what was done when it
//! began to look, and not newer than what was begun when it has looked.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::content::{KEYS, SLOTS};

/// The serial of the last patch, and whether fields are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) serial: u64,
    pub(crate) present: bool,
}

/// A key's cells, by slot.
pub(crate) type Cells = [Cell; SLOTS as usize];

pub(crate) struct History {
    begun: Vec<[AtomicU64; SLOTS as usize]>,
    done: Vec<[AtomicU64; SLOTS as usize]>,
}

impl Cell {
    fn encode(self) -> u64 {
        self.serial << 1 | u64::from(self.present)
    }

    fn decode(bits: u64) -> Self {
        Self { serial: bits >> 1, present: bits & 1 == 1 }
    }

    /// Checks the serial that was seen after this was done and before `begun` was known.
    pub(crate) fn check(self, seen: Option<u64>, begun: Self, what: &str) {
        let possible = match seen {
            _ if self == begun => seen == self.present.then_some(self.serial),
            Some(serial) => (self.serial..=begun.serial).contains(&serial),
            // Fields may come and go between two looks.
            None => true,
        };
        assert!(possible, "{what}: saw {seen:?} between {self:?} and {begun:?}");
    }
}

impl History {
    pub(crate) fn new() -> Self {
        let cells = || (0..KEYS).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect();
        Self { begun: cells(), done: cells() }
    }

    /// Notes what will be when the entry that comes is applied.
    pub(crate) fn begin(&self, number: u64, cells: Cells) {
        store(&self.begun, number, cells);
    }

    /// Notes what is now.
    pub(crate) fn end(&self, number: u64, cells: Cells) {
        store(&self.done, number, cells);
    }

    pub(crate) fn begun(&self, number: u64) -> Cells {
        load(&self.begun, number)
    }

    pub(crate) fn done(&self, number: u64) -> Cells {
        load(&self.done, number)
    }
}

fn at(number: u64) -> usize {
    usize::try_from(number).expect("a position")
}

fn store(cells: &[[AtomicU64; SLOTS as usize]], number: u64, new: Cells) {
    // Release pairs with the Acquire in `load`: what was applied before `end` can be seen after `done`.
    cells[at(number)].iter().zip(new).for_each(|(cell, new)| cell.store(new.encode(), Ordering::Release));
}

fn load(cells: &[[AtomicU64; SLOTS as usize]], number: u64) -> Cells {
    let cells = &cells[at(number)];
    std::array::from_fn(|slot| Cell::decode(cells[slot].load(Ordering::Acquire)))
}
