//! The writer's side: decides what is interned, and gives ids.

use std::sync::Arc;

use hashbrown::HashTable;
use larder_types::hash::KeyHash;
use larder_types::ids::FieldId;

use super::frozen::{FrozenField, FrozenPool, FrozenTexts};
use super::pools::{Pool, Pools, Text};
use super::sample::{Sample, Verdict};
use super::{MAX_BYTES, MAX_TEXTS, MIN_BYTES};
use crate::record::cursor::Malformed;
use crate::record::value::{Encoded, put_interned};

/// What the writer knows of the texts of one collection in one shard.
pub(crate) struct Interner {
    pools: Arc<Pools>,
    /// The seed of the hashes, which must be the same on all replicas: samples consist of them.
    seed: u64,
    /// By id.
    fields: Vec<Stage>,
    /// Bytes that pools and samples take.
    held_bytes: u64,
    /// The id given last, encoded.
    encoded: Vec<u8>,
}

/// What is known of a field's texts.
#[derive(Default)]
enum Stage {
    #[default]
    Unknown,
    Sampled(Sample),
    Pooled(Texts),
    Plain,
}

/// A pool, and the ids by text.
#[derive(Default)]
struct Texts {
    pool: Arc<Pool>,
    ids: HashTable<u32>,
}

impl Interner {
    /// Nothing is known yet.
    pub(crate) fn new(seed: u64) -> Self {
        Self { pools: Arc::default(), seed, fields: Vec::new(), held_bytes: 0, encoded: Vec::new() }
    }

    /// Goes on from where another of the same seed was frozen, with pools of its own.
    pub(crate) fn thaw(frozen: &FrozenTexts, seed: u64) -> Result<Self, Malformed> {
        let mut interner = Self::new(seed);
        for (id, field) in frozen.fields() {
            let (stage, bytes) = match field {
                FrozenField::Plain => (Stage::Plain, 0),
                FrozenField::Sampled(sample) => (Stage::Sampled(sample.clone()), sample.held_bytes()),
                FrozenField::Pooled(pool) => {
                    let (texts, bytes) = Texts::thaw(pool, seed)?;
                    interner.pools.publish(*id, texts.pool.clone());
                    (Stage::Pooled(texts), bytes)
                }
            };
            *interner.stage(*id) = stage;
            interner.held_bytes += bytes;
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
        let fields = (0..=u16::MAX).map(FieldId).zip(&self.fields).filter_map(|(id, stage)| {
            let field = match stage {
                Stage::Unknown => return None,
                Stage::Sampled(sample) => FrozenField::Sampled(sample.clone()),
                Stage::Pooled(texts) => FrozenField::Pooled(FrozenPool::new(texts.pool.clone(), texts.len())),
                Stage::Plain => FrozenField::Plain,
            };
            Some((id, field))
        });
        FrozenTexts::new(fields.collect())
    }

    /// The encoding of the id that is to be stored for a value, which a patch sets in place of `before`; `None` if it is
    /// to be stored as it is.
    pub(crate) fn intern(&mut self, field: FieldId, value: Encoded<'_>, before: Option<&[u8]>) -> Option<&[u8]> {
        let text = value.text_as_it_is().filter(|text| (MIN_BYTES..=MAX_BYTES).contains(&text.len()))?;
        let is_pooled = match self.stage(field) {
            Stage::Unknown | Stage::Sampled(_) => false,
            Stage::Pooled(_) => true,
            Stage::Plain => return None,
        };
        let hash = KeyHash::of(self.seed, text.as_bytes());
        if !is_pooled && (before == Some(value.bytes) || !self.sample(field, hash)) {
            return None;
        }
        let id = self.id(field, hash, text)?;
        self.encoded.clear();
        put_interned(id, &mut self.encoded);
        Some(&self.encoded)
    }

    fn stage(&mut self, field: FieldId) -> &mut Stage {
        let at = usize::from(field.0);
        if self.fields.len() <= at {
            self.fields.resize_with(at + 1, Stage::default);
        }
        &mut self.fields[at]
    }

    /// Counts a text that is written to a field without a pool. Tells whether it has one now.
    fn sample(&mut self, field: FieldId, hash: KeyHash) -> bool {
        let stage = self.stage(field);
        if matches!(stage, Stage::Unknown) {
            *stage = Stage::Sampled(Sample::default());
        }
        let Stage::Sampled(sample) = stage else { return false };
        let before = sample.held_bytes();
        let verdict = sample.add(hash.0);
        let mut after = sample.held_bytes();
        match verdict {
            Verdict::Open => {}
            Verdict::Few => {
                let texts = Texts::default();
                let pool = texts.pool.clone();
                *stage = Stage::Pooled(texts);
                self.pools.publish(field, pool);
                after = 0;
            }
            Verdict::Many => {
                *stage = Stage::Plain;
                after = 0;
            }
        }
        self.held_bytes = self.held_bytes + after - before;
        verdict == Verdict::Few
    }

    /// The id of a text in the field's pool, which takes it in if there is room.
    fn id(&mut self, field: FieldId, hash: KeyHash, text: &str) -> Option<u32> {
        let seed = self.seed;
        let Stage::Pooled(texts) = self.stage(field) else { return None };
        if let Some(id) = texts.id_of(hash, text) {
            return Some(id);
        }
        let id = texts.len();
        if id as usize == MAX_TEXTS {
            return None;
        }
        let added = texts.add(hash, text, seed);
        self.held_bytes += added;
        Some(id)
    }
}

impl Texts {
    /// The texts of a frozen pool, in a pool of their own, and the bytes of memory that they take.
    fn thaw(frozen: &FrozenPool, seed: u64) -> Result<(Self, u64), Malformed> {
        let (mut texts, mut bytes) = (Self::default(), 0);
        for text in frozen.texts() {
            let text = std::str::from_utf8(text).map_err(|_| Malformed("a text is not UTF-8"))?;
            let hash = KeyHash::of(seed, text.as_bytes());
            if texts.id_of(hash, text).is_some() {
                return Err(Malformed("a pool has a text twice"));
            }
            bytes += texts.add(hash, text, seed);
        }
        Ok((texts, bytes))
    }

    #[allow(clippy::cast_possible_truncation, reason = "a pool has 4096 texts at most")]
    fn len(&self) -> u32 {
        self.ids.len() as u32
    }

    fn id_of(&self, hash: KeyHash, text: &str) -> Option<u32> {
        self.ids.find(hash.0, |id| self.pool.text(*id).map(Text::as_bytes) == Some(text.as_bytes())).copied()
    }

    /// Adds a text that the pool does not have. Returns the bytes of memory that it takes.
    fn add(&mut self, hash: KeyHash, text: &str, seed: u64) -> u64 {
        let id = self.len();
        let bytes = self.pool.add(id, text).held_bytes();
        let text_of = |id: &u32| self.pool.text(*id).map_or(&[][..], Text::as_bytes);
        self.ids.insert_unique(hash.0, id, |id| KeyHash::of(seed, text_of(id)).0);
        bytes
    }
}
