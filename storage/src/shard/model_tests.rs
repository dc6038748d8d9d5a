//! Random entries against the reference, with repeats, gaps, freezes and restores.

use bytes::Bytes;
use larder_types::ids::{CollectionId, FieldId, Generation, ShardId, SyncSlot};
use larder_types::key::Key;
use larder_types::patch::{Change, ExitMode};
use larder_types::value::Value;
use proptest::prelude::*;

use super::meta::Meta;
use super::reference::{Reference, SEED};
use super::restore_tests::{rebuild, restore};
use super::{FrozenShard, Shard, ShardOptions};
use crate::command::decode::{Command, decode};
use crate::command::{Outcome, PatchEncoder, PatchOrigin, clear_sync, drop_collection, drop_records, fence, sweep};

const OPTIONS: ShardOptions = ShardOptions { id: ShardId(3), hash_seed: SEED };
const COLLECTIONS: [CollectionId; 2] = [CollectionId(1), CollectionId(2)];
const KEYS: usize = 12;
/// What some fields say again and again. The last is too short to be interned.
const TEXTS: [&str; 5] = ["free", "team", "enterprise", "so-called \"free\"", ""];

#[derive(Debug, Clone)]
enum Op {
    /// A batch; `from` is the first part that is delivered.
    Batch {
        origin: PatchOrigin,
        patches: Vec<(String, Change)>,
        from: usize,
    },
    Fence(CollectionId, SyncSlot, Generation),
    Sweep((CollectionId, SyncSlot, Generation), ExitMode, (u32, u32)),
    ClearSync(CollectionId, SyncSlot),
    Drop(CollectionId),
    DropRecords(CollectionId, (u32, u32)),
    /// Delivers an entry again that was delivered before.
    Repeat(prop::sample::Index),
    /// Freezes the shard, to be compared with what it was when more was applied.
    Freeze,
    /// Puts the shard's own snapshot in its place.
    Restart,
    /// The same, but all tables are built anew.
    Rebuild,
    /// Moves all records.
    Clean,
}

/// An entry and what it stands for.
#[derive(Clone)]
enum Entry {
    Part { origin: PatchOrigin, part: usize, patches: Vec<(String, Change)> },
    Other(Op),
}

/// A shard and its reference, fed alike.
struct Pair {
    shard: Shard,
    /// Another shard that is fed alike, but never restarted.
    steady: Shard,
    reference: Reference,
    index: u64,
    history: Vec<(Bytes, Entry)>,
    frozen: Option<(FrozenShard, Reference)>,
}

fn keys() -> Vec<String> {
    (0..KEYS).map(|number| format!("key-{number}")).collect()
}

impl Pair {
    /// Both know all collections.
    fn new() -> Self {
        let (shard, steady) = (Shard::new(OPTIONS), Shard::new(OPTIONS));
        let reference = Reference::default();
        let mut pair = Self { shard, steady, reference, index: 0, history: Vec::new(), frozen: None };
        COLLECTIONS.iter().for_each(|id| pair.run(Op::Fence(*id, SyncSlot(0), Generation(0))));
        pair
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Batch { origin, patches, from } => {
                for (entry, part) in parts(origin, &patches).into_iter().skip(from) {
                    self.deliver(entry, part);
                }
            }
            Op::Repeat(_) if self.history.is_empty() => {}
            Op::Repeat(which) => {
                let (bytes, entry) = which.get(&self.history).clone();
                self.deliver(bytes, entry);
            }
            Op::Freeze => {
                self.compare_frozen();
                self.frozen = Some((self.shard.freeze(), self.reference.clone()));
            }
            Op::Clean => self.shard.state.clean_all(),
            Op::Restart | Op::Rebuild => {
                let frozen = self.shard.freeze();
                let reader = self.shard.reader();
                let replace = if matches!(op, Op::Restart) { restore } else { rebuild };
                replace(&mut self.shard, &frozen);
                assert_eq!(reader.applied(), self.index);
            }
            Op::Fence(id, slot, generation) => self.deliver(fence(id, slot, generation), Entry::Other(op)),
            Op::Sweep((id, slot, generation), mode, chunk) => {
                self.deliver(sweep(id, slot, generation, mode, chunk), Entry::Other(op));
            }
            Op::ClearSync(id, slot) => self.deliver(clear_sync(id, slot), Entry::Other(op)),
            Op::Drop(id) => self.deliver(drop_collection(id), Entry::Other(op)),
            Op::DropRecords(id, chunk) => self.deliver(drop_records(id, chunk), Entry::Other(op)),
        }
    }

    fn deliver(&mut self, bytes: Bytes, entry: Entry) {
        self.index += 1;
        let index = self.index;
        let outcome = self.shard.apply(index, &bytes).unwrap();
        assert_eq!(self.steady.apply(index, &bytes).unwrap(), outcome);
        let reference = &mut self.reference;
        let expected = match &entry {
            Entry::Part { origin, part, patches } => reference.part(index, *origin, *part, patches),
            Entry::Other(Op::Fence(id, slot, generation)) => {
                reference.fence(*id, *slot, *generation).unwrap_or(Outcome::Done)
            }
            Entry::Other(Op::Sweep(whom, mode, chunk)) => reference.sweep(index, *whom, *mode, *chunk),
            Entry::Other(Op::ClearSync(id, slot)) => {
                reference.clear_sync(index, *id, *slot);
                Outcome::Done
            }
            Entry::Other(Op::Drop(id)) => {
                reference.drop_collection(*id);
                Outcome::Done
            }
            Entry::Other(Op::DropRecords(id, chunk)) => {
                reference.drop_records(*id, *chunk);
                Outcome::Done
            }
            Entry::Other(other) => panic!("{other:?} is no entry"),
        };
        assert_eq!(outcome, expected);
        self.history.push((bytes, entry));
    }

    fn compare(&self) {
        compare(&self.shard, &self.reference);
        let reader = self.shard.reader();
        assert_eq!(reader.applied(), self.index);
        let memory = reader.memory();
        assert_eq!(memory.bytes, COLLECTIONS.iter().map(|id| reader.stats(*id).bytes).sum::<u64>());
        let others = memory.batch_bytes + memory.dictionary_bytes;
        assert_eq!(memory.bytes, memory.content_bytes + memory.table_bytes + others);
        assert_eq!(memory.bytes, reader.bytes());
    }

    /// A replica that got the shard's snapshot, and one that never did, count what the shard has counted all along,
    /// wherever records are, and remember the same.
    fn compare_counts(&mut self) {
        let mut copy = Shard::new(OPTIONS);
        let frozen = self.shard.freeze();
        restore(&mut copy, &frozen);
        assert_eq!(self.shard.state.arena.stale(), copy.state.arena.stale());
        let collections = |meta: &[u8]| Meta::decode(meta).unwrap().collections;
        assert_eq!(collections(&self.steady.freeze().meta()), collections(&frozen.meta()));
        let mine = self.shard.reader();
        for theirs in [copy.reader(), self.steady.reader()] {
            assert_eq!(mine.memory().bytes, theirs.memory().bytes);
            COLLECTIONS.iter().for_each(|id| assert_eq!(mine.stats(*id), theirs.stats(*id)));
        }
    }

    /// Writes to some fields all but so many texts that they must have to get a pool.
    fn warm(&mut self, missing: u32) {
        for slot in (0..3).map(SyncSlot) {
            let origin = PatchOrigin { collection: COLLECTIONS[0], slot, generation: Generation(0), seq: 99, at: 0 };
            let text = |number: u32| Value::String(TEXTS[number as usize % 4].into());
            let fields = |number| vec![(FieldId(u16::from(slot.0)), Some(text(number)))];
            let patch = |number| (format!("key-{slot}"), Change::Upsert(fields(number)));
            self.run(Op::Batch { origin, patches: (missing..1024).map(patch).collect(), from: 0 });
        }
    }

    fn compare_frozen(&mut self) {
        if let Some((frozen, reference)) = self.frozen.take() {
            let mut copy = Shard::new(OPTIONS);
            restore(&mut copy, &frozen);
            compare(&copy, &reference);
            let again = copy.freeze();
            assert_eq!(again.meta(), frozen.meta());
            assert!(again.blocks().eq(frozen.blocks()), "a snapshot of a restored shard is the same snapshot");
        }
    }
}

/// The entries of a batch; small ones, so that there are several.
fn parts(origin: PatchOrigin, patches: &[(String, Change)]) -> Vec<(Bytes, Entry)> {
    let mut encoder = PatchEncoder::new(origin, 120);
    for (key, change) in patches {
        let key = Key::new(key).unwrap();
        match change {
            Change::Upsert(fields) => encoder.upsert(&key, fields),
            Change::Clear => encoder.clear(&key),
            Change::Delete => encoder.delete(&key),
        }
    }
    let mut rest = patches;
    let entries = encoder.finish().into_iter().enumerate();
    let entries = entries.map(|(part, bytes)| {
        let Command::Patches(decoded) = decode(&bytes).unwrap() else { panic!("not patches") };
        let (mine, others) = rest.split_at(decoded.iter().count());
        rest = others;
        (bytes.clone(), Entry::Part { origin, part, patches: mine.to_vec() })
    });
    entries.collect()
}

fn compare(shard: &Shard, reference: &Reference) {
    let reader = shard.reader();
    COLLECTIONS.iter().for_each(|id| reference.assert_same(&reader, *id, &keys()));
    assert_eq!(shard.collections(), reference.ids());
}

fn any_change() -> impl Strategy<Value = Change> {
    let value = prop_oneof![
        Just(Value::Null),
        (0i64..3).prop_map(Value::Int),
        "[ab\"]{0,18}".prop_map(Value::String),
        proptest::sample::select(&TEXTS[..]).prop_map(|text| Value::String(text.into())),
        any::<bool>().prop_map(Value::Bool),
    ];
    // Slots own fields by the remainder of their id, see `any_op`.
    let value = proptest::option::weighted(0.8, value);
    let fields = proptest::collection::vec((0u16..5, value), 0..4);
    prop_oneof![
        6 => fields.prop_map(|fields| Change::Upsert(fields.into_iter().map(|(id, v)| (FieldId(id), v)).collect())),
        1 => Just(Change::Clear),
        1 => Just(Change::Delete),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let collection = prop_oneof![4 => Just(COLLECTIONS[0]), 1 => Just(COLLECTIONS[1])];
    let whom = (collection, (0u8..3).prop_map(SyncSlot), (0u32..5).prop_map(Generation));
    let key = (0..KEYS).prop_map(|number| format!("key-{number}"));
    let patches = proptest::collection::vec((key, any_change()), 0..8);
    let from = prop_oneof![5 => Just(0usize), 1 => Just(1usize)];
    let batch = (whom.clone(), 0u32..3, 0i64..4_000_000_000_000_000, patches, from).prop_map(
        |((collection, slot, generation), seq, at, mut patches, from)| {
            for (id, _) in patches
                .iter_mut()
                .filter_map(|(_, change)| match change {
                    Change::Upsert(fields) => Some(fields),
                    _ => None,
                })
                .flatten()
            {
                id.0 = id.0 * 3 + u16::from(slot.0);
            }
            Op::Batch { origin: PatchOrigin { collection, slot, generation, seq, at }, patches, from }
        },
    );
    let mode = prop_oneof![Just(ExitMode::Keep), Just(ExitMode::Clear), Just(ExitMode::Delete)];
    let chunk = (1u32..5).prop_flat_map(|chunks| (0..chunks, Just(chunks)));
    prop_oneof![
        12 => batch,
        2 => whom.clone().prop_map(|(id, slot, generation)| Op::Fence(id, slot, generation)),
        3 => (whom.clone(), mode, chunk.clone()).prop_map(|(whom, mode, chunk)| Op::Sweep(whom, mode, chunk)),
        2 => whom.clone().prop_map(|(id, slot, _)| Op::ClearSync(id, slot)),
        1 => whom.clone().prop_map(|(id, _, _)| Op::Drop(id)),
        1 => (whom, chunk).prop_map(|((id, _, _), chunk)| Op::DropRecords(id, chunk)),
        4 => any::<prop::sample::Index>().prop_map(Op::Repeat),
        1 => Just(Op::Freeze),
        1 => Just(Op::Restart),
        1 => Just(Op::Rebuild),
        2 => Just(Op::Clean),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_shard_does_what_the_reference_does(ops in proptest::collection::vec(any_op(), 1..30)) {
        let mut pair = Pair::new();
        for op in ops {
            pair.run(op);
            pair.compare();
        }
        pair.compare_frozen();
        pair.compare_counts();
        let stale = pair.shard.state.arena.stale();
        pair.shard.state.clean_all();
        pair.compare();
        pair.compare_counts();
        prop_assert_eq!(pair.shard.state.arena.stale(), 0, "of {} bytes", stale);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn a_shard_that_interns_texts_does_what_the_reference_does(
        missing in 0u32..6,
        ops in proptest::collection::vec(any_op(), 1..30),
    ) {
        let mut pair = Pair::new();
        pair.warm(missing);
        for op in ops {
            pair.run(op);
            pair.compare();
        }
        pair.compare_frozen();
        pair.compare_counts();
    }
}

/// More clears than a group can count, with records that each number has touched.
#[test]
fn clears_beyond_what_a_group_can_count_stay_clears() {
    let mut pair = Pair::new();
    let (collection, slot, other) = (COLLECTIONS[0], SyncSlot(0), SyncSlot(1));
    for round in 0..600u32 {
        let at = 1_000_000 * i64::from(round);
        let origin = PatchOrigin { collection, slot, generation: Generation(1), seq: round, at };
        let set = |id: u16| Change::Upsert(vec![(FieldId(id), Some(Value::Int(round.into())))]);
        let key = |number: u32| format!("key-{}", number % 12);
        pair.run(Op::Batch { origin, patches: vec![(key(round), set(0)), (key(round / 9), set(3))], from: 0 });
        let origin = PatchOrigin { slot: other, ..origin };
        pair.run(Op::Batch { origin, patches: vec![(key(round / 50), set(1))], from: 0 });
        pair.run(Op::ClearSync(collection, slot));
        pair.compare();
        if round % 100 == 7 {
            pair.run(Op::Clean);
            pair.compare_counts();
        }
        if round == 254 || round == 400 {
            pair.run(Op::Restart);
            pair.run(Op::Freeze);
        }
    }
    pair.compare_frozen();
}
