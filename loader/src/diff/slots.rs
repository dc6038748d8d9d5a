//! Slots: what is known of each key of one part, in a table that fits the processor's caches.
//!
//! One allocation each for keys, slots and table, whatever the number of keys, all of them kept from part to part.
//! Keys are hashed with a seed of this process, because people who write warehouse rows could otherwise aim at one slot.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Keys of one part with what is known of each.
pub(crate) struct Slots<T> {
    table: HashTable<u32>,
    slots: Vec<(Place, T)>,
    keys: Vec<u8>,
    seed: u64,
}

/// Where a key is among the bytes of all, and its hash.
#[derive(Clone, Copy)]
struct Place {
    hash: u64,
    at: u32,
    len: u32,
}

/// More keys in one part than the table can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many rows for one comparison")]
pub(crate) struct TooMany;

impl<T> Slots<T> {
    pub(crate) fn new() -> Self {
        let (table, slots, keys) = (HashTable::new(), Vec::new(), Vec::new());
        Self { table, slots, keys, seed: RandomState::new().hash_one(0_u8) }
    }

    /// Forgets all keys and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.table.clear();
        self.slots.clear();
        self.keys.clear();
    }

    /// The number of the key's slot, and whether it is new; a new one is filled by `fill`.
    ///
    /// # Errors
    /// When there are more than 4 GiB of keys.
    pub(crate) fn slot(&mut self, key: &str, fill: impl FnOnce() -> T) -> Result<(u32, bool), TooMany> {
        let hash = xxh3_64_with_seed(key.as_bytes(), self.seed);
        let Self { table, slots, keys, .. } = self;
        let is_key = |slot: &u32| {
            let place = slots[*slot as usize].0;
            place.hash == hash && keys[place.at as usize..][..place.len as usize] == *key.as_bytes()
        };
        if let Some(slot) = table.find(hash, is_key) {
            return Ok((*slot, false));
        }
        let slot = u32::try_from(slots.len()).map_err(|_| TooMany)?;
        let at = u32::try_from(keys.len()).map_err(|_| TooMany)?;
        let len = u32::try_from(key.len()).map_err(|_| TooMany)?;
        keys.extend_from_slice(key.as_bytes());
        slots.push((Place { hash, at, len }, fill()));
        table.insert_unique(hash, slot, |slot| slots[*slot as usize].0.hash);
        Ok((slot, true))
    }

    /// What a slot holds.
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize).map(|(_, value)| value)
    }

    /// What a slot holds, to be changed.
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize).map(|(_, value)| value)
    }

    /// All keys with what their slots hold, in the order in which they came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.slots.iter().map(|(place, value)| {
            let key = &self.keys[place.at as usize..][..place.len as usize];
            // Only texts are put in.
            (std::str::from_utf8(key).unwrap_or_default(), value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_one_slot_and_keeps_its_order() {
        let mut slots = Slots::new();
        for round in 0..2 {
            for number in 0..1000_u32 {
                let (slot, is_new) = slots.slot(&format!("k{}", number % 500), || 0_u32).unwrap();
                assert_eq!((slot, is_new), (number % 500, number < 500), "round {round}");
                *slots.get_mut(slot).unwrap() += 1;
            }
            let found: Vec<(String, u32)> = slots.iter().map(|(key, count)| (key.to_owned(), *count)).collect();
            let expected: Vec<(String, u32)> = (0..500).map(|number| (format!("k{number}"), 2)).collect();
            assert_eq!(found, expected);
            slots.clear();
            assert_eq!((slots.iter().count(), slots.get(0)), (0, None));
        }
    }
}
