//! Revisions: opaque positions of a collection.
//!
//! A revision lists, for some shards, the log index that a reader wants to see at least, and the version of the
//! definitions that were gone by: another node may have heard of records before it hears of their fields. On the wire it
//! is `r1.` and URL-safe base64 of (shard, index) pairs as LEB128 numbers, the definitions in the place of a shard that
//! no cluster has; callers must treat it as opaque.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use crate::ids::ShardId;

const PREFIX: &str = "r1.";
/// Stands for the definitions where shards stand.
const DEFINITIONS: ShardId = ShardId(u16::MAX);

/// Why a text is not a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a revision of this cluster: pass the token exactly as an answer gave it")]
pub struct RevisionError;

/// For each listed shard the log index to be seen at least. Shards are in ascending order, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Revision {
    positions: Vec<(ShardId, u64)>,
    definitions: u64,
}

impl Revision {
    /// The revision with these positions; of several for one shard the highest counts.
    #[must_use]
    pub fn new(mut positions: Vec<(ShardId, u64)>) -> Self {
        positions.sort_unstable_by_key(|&(shard, index)| (shard, std::cmp::Reverse(index)));
        positions.dedup_by_key(|(shard, _)| *shard);
        let definitions = positions.pop_if(|(shard, _)| *shard == DEFINITIONS).map_or(0, |(_, version)| version);
        Self { positions, definitions }
    }

    /// The same, with the version of the definitions to be gone by at least.
    #[must_use]
    pub fn with_definitions(self, definitions: u64) -> Self {
        Self { definitions, ..self }
    }

    /// The version of the definitions to be gone by at least; 0 if the revision says nothing of them.
    #[must_use]
    pub fn definitions(&self) -> u64 {
        self.definitions
    }

    /// The position to be seen at least in a shard; 0 if the revision says nothing of it.
    #[must_use]
    pub fn index_of(&self, shard: ShardId) -> u64 {
        self.positions.iter().find(|(s, _)| *s == shard).map_or(0, |(_, index)| *index)
    }

    /// All positions in order of shards.
    #[must_use]
    pub fn positions(&self) -> &[(ShardId, u64)] {
        &self.positions
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(self.positions.len() * 4 + 8);
        let definitions = (self.definitions > 0).then_some((DEFINITIONS, self.definitions));
        for (shard, index) in self.positions.iter().copied().chain(definitions) {
            put(u64::from(shard.0), &mut bytes);
            put(index, &mut bytes);
        }
        write!(f, "{PREFIX}{}", BASE64.encode(bytes))
    }
}

impl FromStr for Revision {
    type Err = RevisionError;

    fn from_str(text: &str) -> Result<Self, RevisionError> {
        let bytes = BASE64.decode(text.strip_prefix(PREFIX).ok_or(RevisionError)?).map_err(|_| RevisionError)?;
        let mut rest = bytes.as_slice();
        let mut positions = Vec::new();
        while !rest.is_empty() {
            let shard = u16::try_from(take(&mut rest)?).map_err(|_| RevisionError)?;
            positions.push((ShardId(shard), take(&mut rest)?));
        }
        Ok(Self::new(positions))
    }
}

fn put(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

fn take(rest: &mut &[u8]) -> Result<u64, RevisionError> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first().ok_or(RevisionError)?;
        *rest = tail;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(RevisionError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_highest_position_of_a_shard_counts() {
        let revision = Revision::new(vec![(ShardId(3), 7), (ShardId(1), 9), (ShardId(3), 8)]);
        assert_eq!(revision.positions(), &[(ShardId(1), 9), (ShardId(3), 8)]);
        assert_eq!(revision.index_of(ShardId(3)), 8);
        assert_eq!(revision.index_of(ShardId(0)), 0);
    }

    #[test]
    fn what_is_no_revision_is_refused() {
        for bad in ["", "r1", "r2.AAA", "r1.!", "r1.AA", "r1.gA", "12"] {
            assert_eq!(bad.parse::<Revision>(), Err(RevisionError), "{bad}");
        }
        assert_eq!("r1.".parse::<Revision>(), Ok(Revision::default()));
    }

    proptest! {
        #[test]
        fn tokens_survive(
            positions in proptest::collection::vec((0u16..1024, any::<u64>()), 0..20),
            definitions in any::<u64>(),
        ) {
            let revision = Revision::new(positions.into_iter().map(|(s, i)| (ShardId(s), i)).collect());
            let revision = revision.with_definitions(definitions);
            prop_assert_eq!(revision.to_string().parse::<Revision>(), Ok(revision));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "r1\\.[A-Za-z0-9_-]{0,40}") {
            let _ = text.parse::<Revision>();
        }
    }
}
