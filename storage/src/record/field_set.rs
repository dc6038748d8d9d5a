//! A set of a collection's fields: what a request wants to see of records.

use larder_types::ids::FieldId;

/// A set of a collection's fields, made once for a request and asked for every field of every record that it shows.
///
/// Field ids are small and dense, so the set is one bit for each id up to its largest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Bit `id % 64` of word `id / 64`. The last word is not 0.
    words: Vec<u64>,
}

impl FieldSet {
    /// Tells whether the field is in the set.
    #[must_use]
    pub fn contains(&self, id: FieldId) -> bool {
        let id = id.0.into();
        self.next(id) == Some(id)
    }

    /// The first id in the set that is not below this one.
    #[inline]
    pub(crate) fn next(&self, id: usize) -> Option<usize> {
        let (mut at, mut mask) = (id / 64, u64::MAX << (id % 64));
        loop {
            match self.words.get(at)? & mask {
                0 => (at, mask) = (at + 1, u64::MAX),
                rest => return Some(at * 64 + rest.trailing_zeros() as usize),
            }
        }
    }

    /// The fields, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = FieldId> + '_ {
        (0..=u16::MAX).step_by(64).zip(&self.words).flat_map(|(first, word)| {
            let without_lowest = |rest: &u64| Some(rest & rest.wrapping_sub(1));
            let rests = std::iter::successors(Some(*word), without_lowest).take_while(|rest| *rest != 0);
            rests.map(move |rest| FieldId(first | lowest(rest)))
        })
    }

    fn insert(&mut self, id: FieldId) {
        let at = usize::from(id.0 / 64);
        if self.words.len() <= at {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (id.0 % 64);
    }
}

/// The number of the lowest bit that is set.
#[allow(clippy::cast_possible_truncation, reason = "a word has 64 bits")]
fn lowest(word: u64) -> u16 {
    word.trailing_zeros() as u16
}

impl FromIterator<FieldId> for FieldSet {
    fn from_iter<I: IntoIterator<Item = FieldId>>(ids: I) -> Self {
        let mut set = Self::default();
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn holds_what_was_put_in_and_nothing_else(
            ids in proptest::collection::btree_set(prop_oneof![0u16..130, any::<u16>(), Just(u16::MAX)], 0..8)
        ) {
            let set: FieldSet = ids.iter().copied().map(FieldId).collect();
            prop_assert_eq!(set.iter().map(|id| id.0).collect::<BTreeSet<_>>(), ids.clone());
            for id in ids.iter().flat_map(|id| id.saturating_sub(65)..=id.saturating_add(65)) {
                prop_assert_eq!(set.contains(FieldId(id)), ids.contains(&id));
                prop_assert_eq!(set.next(id.into()), ids.range(id..).next().map(|next| usize::from(*next)));
            }
        }
    }
}
