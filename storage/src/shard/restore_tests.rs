//! Snapshots of shards: what comes back, and what is refused although every checksum is right.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use larder_types::hash::KeyHash;
use larder_types::ids::{CollectionId, FieldId, Generation, GroupId, ShardId, SyncSlot};
use larder_types::key::Key;
use larder_types::patch::ExitMode;
use larder_types::value::Value;
use proptest::prelude::*;

use super::meta::Meta;
use super::{FrozenShard, Origin, RestoredShard, Shard, ShardError, ShardOptions};
use crate::command::{PatchEncoder, PatchOrigin, clear_sync, drop_collection, fence, sweep};
use crate::disk::{Disk as _, FakeDisk};
use crate::record::intern::FrozenTexts;
use crate::snapshot::{Snapshot, SnapshotError, SnapshotStore};
use crate::table::image::PAGE_IMAGE_BYTES;

const OPTIONS: ShardOptions = ShardOptions { id: ShardId(0), hash_seed: 3 };
const COLLECTIONS: [CollectionId; 2] = [CollectionId(1), CollectionId(2)];
const THREADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);
/// Where the fingerprint stands in a header.
const FINGERPRINT_AT: usize = 1;

/// What a snapshot holds.
#[derive(Debug, Clone)]
struct Content {
    meta: Vec<u8>,
    blocks: Vec<Vec<u8>>,
}

impl Content {
    fn of(frozen: &FrozenShard) -> Self {
        Self { meta: frozen.meta(), blocks: frozen.blocks().map(std::borrow::Cow::into_owned).collect() }
    }

    fn read(&self) -> Result<RestoredShard, ShardError> {
        self.read_of(Origin::Peer)
    }

    fn read_of(&self, origin: Origin) -> Result<RestoredShard, ShardError> {
        Shard::new(OPTIONS).read(&Snapshot::of(&self.meta, &self.blocks), origin, THREADS)
    }

    /// The same with another header.
    fn with(&self, change: impl FnOnce(&mut Meta)) -> Self {
        let mut meta = Meta::decode(&self.meta).unwrap();
        change(&mut meta);
        Self { meta: meta.encode(), blocks: self.blocks.clone() }
    }

    /// What is said when it is read.
    fn refusal(&self) -> String {
        let error = self.read().err().map(|error| error.to_string());
        error
            .and_then(|text| Some(text.strip_prefix("the snapshot cannot be decoded: ")?.to_owned()))
            .unwrap_or_default()
    }
}

/// Puts a snapshot in the place of a shard's state.
pub(super) fn restore(shard: &mut Shard, frozen: &FrozenShard) {
    replace(shard, &Content::of(frozen));
}

/// The same, but as if keys stood elsewhere in tables than they did when the snapshot was made.
pub(super) fn rebuild(shard: &mut Shard, frozen: &FrozenShard) {
    let mut content = Content::of(frozen);
    content.meta[FINGERPRINT_AT] ^= 1;
    replace(shard, &content);
}

fn replace(shard: &mut Shard, content: &Content) {
    let restored = shard.read(&Snapshot::of(&content.meta, &content.blocks), Origin::Own, THREADS).unwrap();
    shard.install(restored);
}

/// A shard that is fed with numbered entries.
struct Feed {
    shard: Shard,
    index: u64,
}

impl Feed {
    fn new() -> Self {
        let mut feed = Self { shard: Shard::new(OPTIONS), index: 0 };
        COLLECTIONS.iter().for_each(|id| feed.apply(&fence(*id, SyncSlot(0), Generation(0))));
        feed
    }

    fn apply(&mut self, entry: &[u8]) {
        self.index += 1;
        self.shard.apply(self.index, entry).unwrap();
    }

    /// Sets the sync's field in these records to texts of this length, or deletes the records.
    fn write(&mut self, collection: usize, slot: u8, keys: impl Iterator<Item = u32>, text: Option<usize>) {
        let seq = u32::try_from(self.index).unwrap();
        let slot = SyncSlot(slot);
        let origin =
            PatchOrigin { collection: COLLECTIONS[collection], slot, generation: Generation(1), seq, at: 1_000_000 };
        let mut encoder = PatchEncoder::new(origin, 64 * 1024);
        for key in keys.map(key) {
            match text {
                Some(length) => {
                    let text = Value::String("x".repeat(length));
                    encoder.upsert(&key, &[(FieldId(u16::from(slot.0)), text)]);
                }
                None => encoder.delete(&key),
            }
        }
        encoder.finish().iter().for_each(|entry| self.apply(entry));
    }
}

fn key(number: u32) -> Key {
    Key::new(&format!("key-{number}")).unwrap()
}

/// What is seen of a collection: records, bytes beside its tables, records of each sync, and the version of each key.
type Seen = (u64, u64, Vec<(SyncSlot, u64)>, Vec<Option<u64>>);

/// All that can be seen of a shard, but for how large its tables are.
fn seen(shard: &Shard, seed: u64, keys: u32) -> Vec<Seen> {
    let reader = shard.reader();
    let of = |id: &CollectionId| {
        let stats = reader.stats(*id);
        let version = |number| {
            let key = key(number);
            let bytes = key.as_str().as_bytes();
            reader.get(*id, KeyHash::of(seed, bytes), bytes, |view| {
                assert_eq!(view.copy().view().version(), view.version());
                view.version()
            })
        };
        let versions = (0..keys).map(version).collect();
        (stats.records, stats.bytes - stats.table_bytes, stats.records_of, versions)
    };
    COLLECTIONS.iter().map(of).collect()
}

/// A shard with two collections, dead records, an absent group, and a segment's worth of everything.
fn small() -> Feed {
    let mut feed = Feed::new();
    feed.write(0, 0, 0..6, Some(3));
    feed.write(1, 0, 2..4, Some(5));
    feed.write(0, 1, 1..5, Some(2));
    feed.write(0, 0, 5..6, None);
    feed.apply(&clear_sync(COLLECTIONS[0], SyncSlot(1)));
    feed.write(0, 1, 3..4, Some(4));
    feed
}

/// A shard with several pages and segments.
fn large() -> Feed {
    let mut feed = Feed::new();
    feed.write(0, 0, 0..9000, Some(150));
    feed.write(1, 0, 0..300, Some(90));
    feed.write(0, 1, (0..9000).step_by(3), Some(40));
    feed.write(0, 0, (0..9000).step_by(7), None);
    feed.apply(&clear_sync(COLLECTIONS[0], SyncSlot(1)));
    feed.write(0, 1, (1..9000).step_by(5), Some(30));
    feed.shard.state.clean_all();
    feed.write(0, 0, (0..9000).step_by(4), Some(170));
    feed
}

/// Applies more, cleans, and takes another snapshot, which must be as good as the first.
fn go_on(feed: &mut Feed) {
    feed.write(0, 0, 0..9, Some(8));
    feed.write(1, 1, 2..5, Some(1));
    feed.write(0, 0, 3..5, None);
    let sweep = sweep(COLLECTIONS[0], SyncSlot(0), Generation(2), ExitMode::Clear, (0, 2));
    feed.apply(&sweep);
    feed.apply(&clear_sync(COLLECTIONS[0], SyncSlot(0)));
    feed.shard.state.clean_all();
    seen(&feed.shard, OPTIONS.hash_seed, 9);
    let content = Content::of(&feed.shard.freeze());
    assert!(content.read().is_ok(), "what a shard writes can be read");
    feed.apply(&drop_collection(COLLECTIONS[0]));
    feed.shard.state.clean_all();
}

#[test]
fn a_restored_shard_goes_on_as_one_that_was_never_restored() {
    let (mut plain, mut restored) = (large(), large());
    for round in 0..4 {
        let frozen = restored.shard.freeze();
        // Applied to both after the freeze; the one forgets it again.
        let before = restored.index;
        restored.write(0, 2, 0..100, Some(9));
        restore(&mut restored.shard, &frozen);
        restored.index = before;
        for feed in [&mut plain, &mut restored] {
            feed.write(0, 0, (round..9000).step_by(11), Some(100 + round as usize));
            feed.write(1, 2, 0..2000 * round, Some(20));
            feed.apply(&clear_sync(COLLECTIONS[1], SyncSlot(2)));
        }
        assert_eq!(seen(&plain.shard, OPTIONS.hash_seed, 9000), seen(&restored.shard, OPTIONS.hash_seed, 9000));
        let stats = |feed: &Feed| COLLECTIONS.map(|id| feed.shard.reader().stats(id));
        assert_eq!(stats(&plain), stats(&restored));
        assert_eq!(plain.shard.state.arena.stale(), restored.shard.state.arena.stale());
    }
    go_on(&mut restored);
}

#[test]
fn a_snapshot_of_a_restored_shard_is_the_same_snapshot() {
    for feed in [small(), large()].iter_mut() {
        let frozen = feed.shard.freeze();
        let mut copy = Shard::new(OPTIONS);
        restore(&mut copy, &frozen);
        let again = copy.freeze();
        assert_eq!(again.meta(), frozen.meta());
        assert!(again.blocks().eq(frozen.blocks()));
    }
}

#[test]
fn a_shard_that_places_keys_elsewhere_builds_its_tables_anew() {
    let mut feed = large();
    let frozen = feed.shard.freeze();
    let before = seen(&feed.shard, OPTIONS.hash_seed, 9000);
    let mut other = Shard::new(ShardOptions { hash_seed: 4, ..OPTIONS });
    restore(&mut other, &frozen);
    assert_eq!(seen(&other, 4, 9000), before);
    assert_eq!(other.state.arena.stale(), feed.shard.state.arena.stale());
    rebuild(&mut feed.shard, &frozen);
    assert_eq!(seen(&feed.shard, OPTIONS.hash_seed, 9000), before);
    go_on(&mut feed);
}

#[test]
fn an_empty_shard_comes_back_empty() {
    let mut shard = Shard::new(OPTIONS);
    shard.advance(9);
    let frozen = shard.freeze();
    assert_eq!(frozen.blocks().count(), 0);
    let mut copy = Shard::new(OPTIONS);
    restore(&mut copy, &frozen);
    assert_eq!((copy.reader().applied(), copy.collections()), (9, vec![]));
}

#[test]
fn the_old_state_stays_until_the_new_one_is_installed() {
    let mut feed = small();
    let before = seen(&feed.shard, OPTIONS.hash_seed, 9);
    let content = Content::of(&Feed::new().shard.freeze());
    let restored = content.read().unwrap();
    assert_eq!(seen(&feed.shard, OPTIONS.hash_seed, 9), before);
    feed.shard.install(restored);
    assert_ne!(seen(&feed.shard, OPTIONS.hash_seed, 9), before);
}

#[test]
fn headers_that_contradict_the_blocks_are_refused() {
    let content = Content::of(&small().shard.freeze());
    assert_eq!(content.refusal(), "");
    let refusal = |change: &dyn Fn(&mut Meta)| content.with(change).refusal();
    let blocks = "it has more or fewer blocks than it says";
    assert_eq!(refusal(&|meta| meta.segments.clear()), blocks);
    assert_eq!(refusal(&|meta| meta.collections[0].depths = vec![1; 64]), blocks);
    assert_eq!(refusal(&|meta| drop(meta.collections.pop())), "it has more pages than it says");
    assert_eq!(refusal(&|meta| meta.collections[0].depths = vec![1]), "a table has pages for some hashes only");
    assert_eq!(refusal(&|meta| meta.collections[0].depths = vec![1, 1]), "a table has pages that cannot be");
    let records = "a collection has more or fewer records than it says";
    assert_eq!(refusal(&|meta| meta.collections[1].records += 1), records);
    assert_eq!(refusal(&|meta| meta.applied = 2), "a record is newer than the snapshot");
    let clears = "a record has seen clears that never were";
    assert_eq!(refusal(&|meta| meta.collections[0].clears = Default::default()), clears);
    assert_eq!(refusal(&|meta| meta.open = 2), "the segment to append to is missing");
    let mine = |first| Arc::new(vec![(0, COLLECTIONS[0]), (first, COLLECTIONS[1])]);
    let owners = "a table has words that lead to none of its records";
    assert_eq!(refusal(&|meta| meta.segments[0] = mine(8)), owners);
    assert_eq!(refusal(&|meta| meta.segments[0] = mine(1 << 19)), "a segment has records of nobody");
    let meta = |meta: &[u8]| Content { meta: meta.to_vec(), ..content.clone() }.refusal();
    assert_eq!(meta(&[1]), "the version of its header is unknown");
    assert_eq!(meta(&[&content.meta[..], &[0]].concat()), "its header is longer than its content");
    for len in 0..content.meta.len() {
        assert_ne!(meta(&content.meta[..len]), "", "a header cut to {len} bytes was accepted");
    }
}

#[test]
fn texts_that_are_in_no_pool_are_refused() {
    let mut feed = small();
    // So often that it is interned.
    (0..180).for_each(|round| feed.write(0, 0, 0..6, Some(8 + round % 2)));
    let content = Content::of(&feed.shard.freeze());
    assert_eq!(content.refusal(), "");
    let without = content.with(|meta| meta.collections[0].texts = FrozenTexts::default());
    assert_eq!(without.refusal(), "an interned text is not in its field's pool");
    assert!(without.read_of(Origin::Own).is_ok(), "fields of one's own are not looked at");
}

/// The place of the words of a page that are not empty.
fn words(page: &[u8]) -> Vec<usize> {
    (0..PAGE_IMAGE_BYTES).step_by(8).filter(|at| page[*at..at + 6] != [0; 6]).collect()
}

#[test]
fn words_that_lead_astray_are_refused() {
    let content = Content::of(&small().shard.freeze());
    for rebuilds in [false, true] {
        let refusal = |change: &dyn Fn(&mut [u8], &[usize])| {
            let mut content = content.with(|meta| meta.fingerprint ^= u64::from(rebuilds));
            let words = words(&content.blocks[0]);
            change(&mut content.blocks[0], &words);
            content.refusal()
        };
        let found = |astray: &str| if rebuilds { astray.to_owned() } else { TO_NONE.to_owned() };
        const TO_NONE: &str = "a table has words that lead to none of its records";
        assert_eq!(refusal(&|page, words| page[words[0]] ^= 1), found("a table has words that lead to no record"));
        let far = found("a word leads to a segment that is missing");
        assert_eq!(refusal(&|page, words| page[words[0] + 4] ^= 1), far);
        assert_eq!(refusal(&|page, words| page.copy_within(words[0]..words[0] + 8, words[1])), {
            found("two words lead to one record")
        });
        // The record is there and the key is right, but no lookup would find it.
        let hidden = refusal(&|page, words| {
            page.copy_within(words[0]..words[0] + 8, (words[0] + 2048) % PAGE_IMAGE_BYTES);
            page[words[0]..words[0] + 8].fill(0);
        });
        assert_eq!(hidden, if rebuilds { "" } else { TO_NONE });
        let tag = refusal(&|page, words| page[words[0] + 7] ^= 1);
        assert_eq!(tag, if rebuilds { "" } else { TO_NONE });
        assert_ne!(refusal(&|page, words| page[words[0]..words[0] + 8].fill(0)), "", "a record is missing");
    }
}

#[test]
fn words_of_another_collection_are_refused() {
    let content = Content::of(&small().shard.freeze());
    for rebuilds in [0, 1] {
        let mut content = content.with(|meta| meta.fingerprint ^= rebuilds);
        let (mine, others) = content.blocks[0].split_at_mut(PAGE_IMAGE_BYTES);
        let (one, other) = (words(mine)[0], words(others)[0]);
        mine[one..one + 8].swap_with_slice(&mut others[other..other + 8]);
        assert_ne!(content.refusal(), "");
    }
}

#[test]
fn a_key_that_comes_twice_is_refused() {
    let mut feed = small();
    // Its first version is dead, and then is not.
    feed.write(0, 0, 2..3, Some(3));
    let content = Content::of(&feed.shard.freeze());
    let key = key(2);
    let hash = KeyHash::of(OPTIONS.hash_seed, key.as_str().as_bytes());
    let page = &content.blocks[0][..PAGE_IMAGE_BYTES];
    let bucket = (hash.0 >> 16) as usize % 512 * 64;
    assert!(page[bucket..bucket + 8] != [0; 8] && page[bucket + 8..bucket + 16] == [0; 8], "it stands there alone");
    let at = content.blocks[1].windows(5).position(|bytes| bytes == key.as_str().as_bytes()).unwrap() - 4;
    for rebuilds in [0, 1] {
        let mut content = content.with(|meta| {
            meta.fingerprint ^= rebuilds;
            meta.collections[0].records += 1;
        });
        let mut word = content.blocks[0][bucket..bucket + 8].to_vec();
        let first = ((1u64 << 17) | (at as u64 / 8)).to_le_bytes();
        word[..5].copy_from_slice(&first[..5]);
        content.blocks[0][bucket + 8..bucket + 16].copy_from_slice(&word);
        assert_eq!(content.refusal(), "a record comes twice");
    }
}

#[test]
fn no_flipped_bit_is_more_than_refused_or_harmless() {
    let content = Content::of(&small().shard.freeze());
    let survive = |content: &Content| {
        if let Ok(restored) = content.read() {
            let mut feed = Feed { shard: Shard::new(OPTIONS), index: 1000 };
            feed.shard.install(restored);
            go_on(&mut feed);
        }
    };
    let flip = |bytes: &mut [u8], bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
    for bit in (0..content.meta.len() * 8).step_by(3) {
        let mut content = content.clone();
        flip(&mut content.meta, bit);
        survive(&content);
    }
    for bit in (0..content.blocks[1].len() * 8).step_by(17) {
        let mut content = content.clone();
        flip(&mut content.blocks[1], bit);
        survive(&content);
    }
    for word in words(&content.blocks[0][..PAGE_IMAGE_BYTES]) {
        for bit in (word * 8..word * 8 + 64).step_by(7) {
            let mut content = content.clone();
            flip(&mut content.blocks[0], bit);
            survive(&content);
        }
    }
}

#[test]
fn damage_to_any_byte_of_the_file_is_refused() {
    let mut feed = small();
    feed.apply(&drop_collection(COLLECTIONS[1]));
    let (frozen, disk, group) = (feed.shard.freeze(), FakeDisk::new(), GroupId(1));
    let store = SnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots")).unwrap();
    store.write(group, 1, b"head", &frozen.meta(), frozen.blocks()).unwrap();
    let path = Path::new("snapshots").join(&disk.list(Path::new("snapshots")).unwrap()[0]);
    let read = || feed.shard.read(&store.load(group)?.unwrap(), Origin::Own, NonZeroUsize::MIN);
    assert!(read().is_ok());
    for at in 0..disk.used() {
        let bit = 1 << (at % 8);
        disk.corrupt(&path, at, bit);
        assert!(matches!(read(), Err(ShardError::File(SnapshotError::Damaged(_)))), "byte {at}");
        disk.corrupt(&path, at, bit);
    }
}

/// A change of one place.
#[derive(Debug, Clone)]
enum Stroke {
    Set(prop::sample::Index, u8),
    Copy(prop::sample::Index, prop::sample::Index, usize),
    Cut(prop::sample::Index),
}

fn any_stroke() -> impl Strategy<Value = (usize, Stroke)> {
    let index = any::<prop::sample::Index>;
    let stroke = prop_oneof![
        4 => (index(), any::<u8>()).prop_map(|(at, byte)| Stroke::Set(at, byte)),
        4 => (index(), index(), 1usize..4).prop_map(|(from, to, count)| Stroke::Copy(from, to, count * 8)),
        1 => index().prop_map(Stroke::Cut),
    ];
    (0usize..3, stroke)
}

/// Changes bytes that matter: words that are not empty, and whatever is no page.
fn change(bytes: &mut Vec<u8>, stroke: &Stroke) {
    let is_page = bytes.len() >= PAGE_IMAGE_BYTES;
    let words = if is_page { words(bytes) } else { (0..bytes.len() / 8 * 8).step_by(8).collect() };
    if words.is_empty() {
        return;
    }
    match stroke {
        Stroke::Set(at, byte) => {
            let place = at.index(words.len() * 8);
            bytes[words[place / 8] + place % 8] = *byte;
        }
        Stroke::Copy(from, to, count) => {
            let (from, to) = (*from.get(&words), *to.get(&words));
            let count = (*count).min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + count, to);
        }
        Stroke::Cut(at) => bytes.truncate(at.index(bytes.len()).max(1)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_content_makes_a_shard_go_astray(strokes in proptest::collection::vec(any_stroke(), 1..6), rebuilds: bool) {
        let mut content = Content::of(&small().shard.freeze());
        content.meta[FINGERPRINT_AT] ^= u8::from(rebuilds);
        for (part, stroke) in &strokes {
            match part {
                0 => change(&mut content.meta, stroke),
                part => change(&mut content.blocks[part - 1], stroke),
            }
        }
        if let Ok(restored) = content.read() {
            let mut feed = Feed { shard: Shard::new(OPTIONS), index: 1000 };
            feed.shard.install(restored);
            go_on(&mut feed);
        }
        // Fields that nobody has checked may end in a panic, and in nothing worse: that is for AddressSanitizer to see.
        if let Ok(restored) = content.read_of(Origin::Own) {
            let _ = std::panic::catch_unwind(move || {
                let mut feed = Feed { shard: Shard::new(OPTIONS), index: 1000 };
                feed.shard.install(restored);
                go_on(&mut feed);
            });
        }
    }
}

/// The format of a snapshot's header. If this fails, old snapshots can no longer be read.
#[test]
#[rustfmt::skip]
fn the_bytes_of_a_snapshots_header_are_fixed() {
    let mut feed = Feed::new();
    feed.write(0, 0, 0..3, Some(1));
    feed.apply(&clear_sync(COLLECTIONS[0], SyncSlot(0)));
    feed.write(1, 0, 0..1, Some(1));
    let hex: String = feed.shard.freeze().meta().iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = concat!(
        "03",
        "d3a129e50ac2eb95", // version and fingerprint
        "05",
        "01", // applied index, segment 1 is open
        "01",
        "02",
        "00",
        "01",
        "09",
        "02", // one segment: from 0 on collection 1's, from 72 on collection 2's
        "02", // two collections
        "01",
        "03",
        "01",
        "00", // the first: three records, one page of depth 0
        "01",
        "00",
        "01",
        "04", // slot 0 cleared once, at 4
        "01",
        "00",
        "01",
        "01",
        "02",
        "01",
        "f3b7aeead5e2ffbfe8",
        "01", // one run of slot 0: generation 1, batch 2, one part with these patches
        "0300000000", // which have added three records
        "00", // no texts
        "02",
        "01",
        "01",
        "00",
        "00",
        "01",
        "00",
        "01",
        "01",
        "04",
        "01",
        "fbe1daac9fa8c4eb8d01",
        "0100000000",
        "00",
    );
    assert_eq!(hex, expected);
}
