//! What was written to a field of which it is not known yet whether it says the same again and again.
//!
//! Hashes stand for the texts, so that a field of many different ones costs little while that is found out. Two texts
//! with one hash are rare, and change at most when a field gets its pool, on all replicas alike.

use std::sync::Arc;

use hashbrown::HashTable;

use super::{MAX_TEXTS, MIN_USE, MIN_WRITTEN};
use crate::record::cursor::{Cursor, Malformed, put_varint};

/// The sample.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// Texts written.
    written: u32,
    /// Hashes of the different ones. Shared with frozen samples until the next comes.
    hashes: Arc<HashTable<u32>>,
}

/// What a sample says of its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing yet.
    Open,
    /// It says the same again and again.
    Few,
    /// It says too many different things.
    Many,
}

impl Sample {
    /// Counts a text that was written.
    pub(super) fn add(&mut self, hash: u64) -> Verdict {
        self.written += 1;
        let short = short(hash);
        if self.hashes.find(place(short), |other| *other == short).is_none() {
            Arc::make_mut(&mut self.hashes).insert_unique(place(short), short, |other| place(*other));
        }
        self.verdict()
    }

    fn verdict(&self) -> Verdict {
        let different = self.hashes.len();
        if different > MAX_TEXTS {
            Verdict::Many
        } else if self.written >= MIN_WRITTEN && self.written as usize >= MIN_USE as usize * different {
            Verdict::Few
        } else {
            Verdict::Open
        }
    }

    /// Bytes that the sample takes in memory. A number of its own, so that it is the same on all machines.
    pub(super) fn held_bytes(&self) -> u64 {
        8 * self.hashes.len() as u64
    }

    /// Appends the sample: how often texts were written, the number of hashes, and these in ascending order.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(self.written.into(), out);
        put_varint(self.hashes.len() as u64, out);
        self.sorted().iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
    }

    pub(super) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let written = cursor.varint_u32()?;
        let count = cursor.varint()?;
        let mut hashes = HashTable::new();
        let mut last = None;
        for _ in 0..count {
            let hash = cursor.u32()?;
            if last >= Some(hash) {
                return Err(Malformed("the hashes of a sample are not in order"));
            }
            hashes.insert_unique(place(hash), hash, |other| place(*other));
            last = Some(hash);
        }
        let sample = Self { written, hashes: Arc::new(hashes) };
        if count == 0 || count > u64::from(written) || sample.verdict() != Verdict::Open {
            return Err(Malformed("a sample has more or less than it can have"));
        }
        Ok(sample)
    }

    fn sorted(&self) -> Vec<u32> {
        let mut hashes: Vec<_> = self.hashes.iter().copied().collect();
        hashes.sort_unstable();
        hashes
    }
}

impl PartialEq for Sample {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written && self.sorted() == other.sorted()
    }
}

impl Eq for Sample {}

/// As much of a text's hash as is kept.
#[allow(clippy::cast_possible_truncation, reason = "the rest is not needed to tell 4096 texts apart")]
fn short(hash: u64) -> u32 {
    hash as u32
}

/// Where the table keeps it: its bits must be in the upper half too.
fn place(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds texts that come `different` at a time, in turns, until the sample says something.
    fn verdict(different: u64) -> (u32, Verdict) {
        let mut sample = Sample::default();
        loop {
            let said = sample.add(u64::from(sample.written) % different);
            if said != Verdict::Open {
                return (sample.written, said);
            }
        }
    }

    #[test]
    fn a_field_is_judged_exactly_at_its_limits() {
        assert_eq!(verdict(1), (1024, Verdict::Few));
        assert_eq!(verdict(64), (1024, Verdict::Few));
        assert_eq!(verdict(65), (1040, Verdict::Few));
        assert_eq!(verdict(4096), (65_536, Verdict::Few));
        assert_eq!(verdict(4097), (4097, Verdict::Many));
    }

    #[test]
    fn a_sample_that_goes_on_leaves_its_copy_alone() {
        let mut sample = Sample::default();
        sample.add(1);
        let copy = sample.clone();
        sample.add(2);
        assert_eq!((copy.written, copy.sorted()), (1, vec![1]));
        assert_eq!((sample.written, sample.sorted(), sample.held_bytes()), (2, vec![1, 2], 16));
    }

    #[test]
    fn samples_that_cannot_be_are_refused() {
        let decode = |bytes: &[u8]| Sample::decode(&mut Cursor::new(bytes)).map_err(|error| error.0);
        let mut sample = Sample::default();
        assert_eq!([9, 3, 9].map(|hash| sample.add(hash)), [Verdict::Open; 3]);
        let mut bytes = Vec::new();
        sample.encode(&mut bytes);
        assert_eq!(bytes, [3, 2, 3, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(decode(&bytes), Ok(sample));
        let (order, bounds) = ("the hashes of a sample are not in order", "a sample has more or less than it can have");
        assert_eq!(decode(&[3, 2, 9, 0, 0, 0, 3, 0, 0, 0]), Err(order));
        assert_eq!(decode(&[3, 2, 9, 0, 0, 0, 9, 0, 0, 0]), Err(order));
        assert_eq!(decode(&[1, 2, 3, 0, 0, 0, 9, 0, 0, 0]), Err(bounds));
        assert_eq!(decode(&[3, 0]), Err(bounds));
        assert_eq!(decode(&[0x80, 8, 1, 3, 0, 0, 0]), Err(bounds), "1024 times the same text is a pool");
        assert!(decode(&[0xff, 7, 1, 3, 0, 0, 0]).is_ok());
    }
}
