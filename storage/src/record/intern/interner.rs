//! The writer's side: decides what is interned, and gives ids.

use std::sync::Arc;

use hashbrown::HashTable;
use larder_types::hash::KeyHash;
use larder_types::ids::FieldId;

use super::frozen::{FrozenField, FrozenTexts};
use super::pools::{Pools, Text};
use super::sample::{Sample, Verdict};
use super::{MAX_BYTES, MAX_TEXTS, MIN_BYTES};
use crate::record::cursor::Malformed;
use crate::record::value::{Encoded, put_interned};

/// What the writer knows of the texts of one collection in one shard.
pub(crate) struct Interner {
    pools: Arc<Pools>,
    /// The seed of the hashes, which must be the same on all replicas: samples consist of them.
    seed: u64,
    stages: Stages,
    /// Bytes that pools and samples take.
    held_bytes: u64,
    /// The id given last, encoded.
    encoded: Vec<u8>,
}

/// What is known of each field's texts, by id.
#[derive(Default)]
struct Stages(Vec<Stage>);

/// What is known of one field's texts.
#[derive(Default)]
enum Stage {
    #[default]
    Unknown,
    Sampled(Sample),
    /// It has a pool: the ids by text.
    Pooled(HashTable<u32>),
    Plain,
}

impl Interner {
    /// Nothing is known yet.
    pub(crate) fn new(seed: u64) -> Self {
        Self { pools: Arc::default(), seed, stages: Stages::default(), held_bytes: 0, encoded: Vec::new() }
    }

    /// Goes on from where another of the same seed was frozen, with pools of its own.
    pub(crate) fn thaw(frozen: &FrozenTexts, seed: u64) -> Result<Self, Malformed> {
        let mut interner = Self::new(seed);
        for (id, field) in frozen.fields() {
            *interner.stages.of(*id) = match field {
                FrozenField::Plain => Stage::Plain,
                FrozenField::Sampled(sample) => {
                    interner.held_bytes += sample.held_bytes();
                    Stage::Sampled(sample.clone())
                }
                FrozenField::Pooled(_) => Stage::Pooled(HashTable::new()),
            };
            let FrozenField::Pooled(len) = field else { continue };
            for (number, text) in (0..).zip(frozen.texts(*id, *len)) {
                if interner.id(*id, KeyHash::of(seed, text.as_bytes()), text.as_bytes()) != Some(number) {
                    return Err(Malformed("a pool has a text twice"));
                }
            }
        }
        Ok(interner)
    }

    /// What readers find texts with.
    pub(crate) fn pools(&self) -> &Arc<Pools> {
        &self.pools
    }

    /// Bytes of memory that pools and samples take. Depends on nothing but what is in them.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// What is known now.
    pub(crate) fn freeze(&self) -> FrozenTexts {
        let fields = (0..=u16::MAX).map(FieldId).zip(&self.stages.0).filter_map(|(id, stage)| {
            let field = match stage {
                Stage::Unknown => return None,
                Stage::Sampled(sample) => FrozenField::Sampled(sample.clone()),
                Stage::Pooled(ids) => FrozenField::Pooled(len(ids)),
                Stage::Plain => FrozenField::Plain,
            };
            Some((id, field))
        });
        FrozenTexts::new(self.pools.clone(), fields.collect())
    }

    /// The encoding of the id that is to be stored for a value, which a patch sets in place of `before`; `None` if it is
    /// to be stored as it is.
    pub(crate) fn intern(&mut self, field: FieldId, value: Encoded<'_>, before: Option<&[u8]>) -> Option<&[u8]> {
        // What was checked is UTF-8; to look again would cost more than all the rest for texts that are found.
        let text = value.text_bytes().filter(|text| (MIN_BYTES..=MAX_BYTES).contains(&text.len()))?;
        let is_pooled = match self.stages.of(field) {
            Stage::Unknown | Stage::Sampled(_) => false,
            Stage::Pooled(_) => true,
            Stage::Plain => return None,
        };
        let hash = KeyHash::of(self.seed, text);
        if !is_pooled && (before == Some(value.bytes) || !self.sample(field, hash)) {
            return None;
        }
        let id = self.id(field, hash, text)?;
        self.encoded.clear();
        put_interned(id, &mut self.encoded);
        Some(&self.encoded)
    }

    /// Counts a text that is written to a field without a pool. Tells whether it has one now.
    fn sample(&mut self, field: FieldId, hash: KeyHash) -> bool {
        let stage = self.stages.of(field);
        if matches!(stage, Stage::Unknown) {
            *stage = Stage::Sampled(Sample::default());
        }
        let Stage::Sampled(sample) = stage else { return false };
        self.held_bytes -= sample.held_bytes();
        let verdict = sample.add(hash.0);
        match verdict {
            Verdict::Open => self.held_bytes += sample.held_bytes(),
            Verdict::Few => *stage = Stage::Pooled(HashTable::new()),
            Verdict::Many => *stage = Stage::Plain,
        }
        verdict == Verdict::Few
    }

    /// The id of a text in the field's pool, which takes it in if there is room.
    fn id(&mut self, field: FieldId, hash: KeyHash, text: &[u8]) -> Option<u32> {
        let Self { pools, seed, .. } = self;
        let Stage::Pooled(ids) = self.stages.of(field) else { return None };
        let text_of = |id: &u32| pools.text(field, *id).map_or("", Text::as_str);
        if let Some(id) = ids.find(hash.0, |id| text_of(id).as_bytes() == text) {
            return Some(*id);
        }
        let id = len(ids);
        if id as usize == MAX_TEXTS {
            return None;
        }
        let bytes = pools.add(field, id, std::str::from_utf8(text).ok()?).held_bytes();
        ids.insert_unique(hash.0, id, |id| KeyHash::of(*seed, text_of(id).as_bytes()).0);
        self.held_bytes += bytes;
        Some(id)
    }
}

impl Stages {
    fn of(&mut self, field: FieldId) -> &mut Stage {
        let at = usize::from(field.0);
        if self.0.len() <= at {
            self.0.resize_with(at + 1, Stage::default);
        }
        &mut self.0[at]
    }
}

/// The number of texts in a pool, which is the next id.
#[allow(clippy::cast_possible_truncation, reason = "a pool has 4096 texts at most")]
fn len(ids: &HashTable<u32>) -> u32 {
    ids.len() as u32
}
