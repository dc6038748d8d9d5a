//! What a shard promises, one promise at a time. The model tests check them all together.

use larder_types::hash::KeyHash;
use larder_types::ids::{CollectionId, FieldId, Generation, Micros};
use larder_types::key::Key;
use larder_types::limits::MAX_RECORD_BYTES;
use larder_types::patch::ExitMode;
use larder_types::value::Value;

use super::reference::names;
use super::restore_tests::restore;
use super::*;
use crate::command::{PatchEncoder, PatchOrigin, Patched, clear_sync, drop_collection, fence, sweep};

const SEED: u64 = 3;
const COLLECTION: CollectionId = CollectionId(1);
const SLOT: SyncSlot = SyncSlot(0);
const SECOND: Micros = 1_000_000;

/// A shard that knows the collection.
fn shard() -> Shard {
    let mut shard = Shard::new(ShardOptions { id: ShardId(0), hash_seed: SEED });
    shard.apply(0, &fence(COLLECTION, SLOT, Generation(0))).unwrap();
    shard
}

fn origin(generation: u32, seq: u32) -> PatchOrigin {
    let at = SECOND * i64::from(generation);
    PatchOrigin { collection: COLLECTION, slot: SLOT, generation: Generation(generation), seq, at }
}

fn batch(origin: PatchOrigin, fill: impl FnOnce(&mut PatchEncoder)) -> Vec<bytes::Bytes> {
    let mut encoder = PatchEncoder::new(origin, 64 * 1024);
    fill(&mut encoder);
    encoder.finish()
}

/// Sets one field of some records.
fn upsert(origin: PatchOrigin, keys: &[&str], value: i64) -> bytes::Bytes {
    let fields = [(FieldId(u16::from(origin.slot.0)), Value::Int(value))];
    let fill =
        |encoder: &mut PatchEncoder| keys.iter().for_each(|key| encoder.upsert(&Key::new(key).unwrap(), &fields));
    batch(origin, fill).remove(0)
}

fn get(shard: &Shard, key: &str) -> Option<(u64, String)> {
    shard.reader().get(COLLECTION, KeyHash::of(SEED, key.as_bytes()), key.as_bytes(), |view| {
        let mut json = Vec::new();
        view.write_json(&names(), None, &mut json);
        (view.version(), String::from_utf8(json).unwrap())
    })
}

fn shown(version: u64, json: &str) -> Option<(u64, String)> {
    Some((version, json.into()))
}

fn patched(added: u64, changed: u64, unchanged: u64, removed: u64) -> Outcome {
    Outcome::Patched(Patched { added, changed, unchanged, removed, too_large: Vec::new() })
}

#[test]
fn the_parts_of_a_shard_may_go_to_other_threads() {
    fn sendable<T: Send>() {}
    fn shareable<T: Send + Sync + Clone>() {}
    sendable::<Shard>();
    sendable::<FrozenShard>();
    shareable::<ShardReader>();
}

#[test]
fn a_record_that_is_confirmed_keeps_its_version_but_not_its_generation() {
    let mut shard = shard();
    assert_eq!(shard.apply(5, &upsert(origin(1, 0), &["a", "b"], 1)).unwrap(), patched(2, 0, 0, 0));
    assert_eq!(shard.apply(6, &upsert(origin(2, 0), &["a"], 1)).unwrap(), patched(0, 0, 1, 0));
    assert_eq!(get(&shard, "a"), shown(5, r#"{"f0":1}"#));
    let hash = KeyHash::of(SEED, b"a");
    let group = shard.reader().get(COLLECTION, hash, b"a", |view| view.groups().next().unwrap()).unwrap();
    assert_eq!((group.generation, group.updated_at), (Generation(2), 2 * SECOND));
    let sweep = sweep(COLLECTION, SLOT, Generation(2), ExitMode::Delete, (0, 1));
    assert_eq!(shard.apply(7, &sweep).unwrap(), Outcome::Swept { records: 1 });
    assert_eq!((get(&shard, "a").is_some(), get(&shard, "b").is_some()), (true, false));
    assert_eq!(shard.apply(8, &sweep).unwrap(), Outcome::Swept { records: 0 });
}

#[test]
fn many_records_are_shown_in_the_order_of_their_keys() {
    let mut shard = shard();
    let names: Vec<String> = (0..100).map(|number| format!("key-{number}")).collect();
    let present: Vec<&str> = names.iter().step_by(3).map(String::as_str).collect();
    shard.apply(5, &upsert(origin(1, 0), &present, 1)).unwrap();
    let many = |names: &[String]| {
        let keys: Vec<_> = names.iter().map(|name| (KeyHash::of(SEED, name.as_bytes()), name.as_bytes())).collect();
        let mut shown = Vec::new();
        shard.reader().get_many(COLLECTION, &keys, |at, view| shown.push((at, view.map(|view| view.version()))));
        shown
    };
    // Around the size of a group, and twice the same key.
    for count in [0, 1, 2, 15, 16, 17, 32, 100] {
        let expected: Vec<_> = (0..count).map(|at| (at, (at % 3 == 0).then_some(5))).collect();
        assert_eq!(many(&names[..count]), expected);
    }
    assert_eq!(many(&[names[3].clone(), names[3].clone()]), [(0, Some(5)), (1, Some(5))]);
    let key = names[0].as_bytes();
    let mut shown = Vec::new();
    let keys = [(KeyHash::of(SEED, key), key)];
    shard.reader().get_many(CollectionId(9), &keys, |at, view| shown.push((at, view.is_some())));
    assert_eq!(shown, [(0, false)], "a collection that the shard does not know");
}

#[test]
fn a_copy_shows_what_the_lookup_has_shown() {
    let mut shard = shard();
    shard.apply(1, &upsert(origin(1, 0), &["a"], 1)).unwrap();
    let other = PatchOrigin { slot: SyncSlot(1), ..origin(1, 0) };
    shard.apply(2, &upsert(other, &["a"], 2)).unwrap();
    shard.apply(3, &clear_sync(COLLECTION, SLOT)).unwrap();
    let copy = shard.reader().get(COLLECTION, KeyHash::of(SEED, b"a"), b"a", |view| view.copy()).unwrap();
    shard.apply(4, &drop_collection(COLLECTION)).unwrap();
    let mut json = Vec::new();
    copy.view().write_json(&names(), None, &mut json);
    assert_eq!((copy.key(), copy.view().version(), json), (&b"a"[..], 3, br#"{"f1":2}"#.to_vec()));
}

#[test]
fn a_repeated_part_changes_nothing_and_says_what_it_did_first() {
    let mut shard = shard();
    let first = upsert(origin(1, 0), &["a"], 1);
    shard.apply(1, &first).unwrap();
    shard.apply(2, &upsert(origin(1, 1), &["a"], 2)).unwrap();
    assert_eq!(shard.apply(3, &first).unwrap(), patched(1, 0, 0, 0));
    assert_eq!(get(&shard, "a"), shown(2, r#"{"f0":2}"#));
}

#[test]
fn other_patches_under_a_used_batch_number_are_refused() {
    let mut shard = shard();
    shard.apply(1, &upsert(origin(1, 0), &["a"], 1)).unwrap();
    assert_eq!(shard.apply(2, &upsert(origin(1, 0), &["b"], 1)).unwrap(), Outcome::OtherBody);
    assert_eq!(get(&shard, "b"), None);
    let mut restored = self::shard();
    restore(&mut restored, &shard.freeze());
    let later = PatchOrigin { at: 7 * SECOND, ..origin(1, 0) };
    assert_eq!(restored.apply(3, &upsert(later, &["a"], 2)).unwrap(), Outcome::OtherBody);
    assert_eq!(restored.apply(4, &upsert(later, &["a"], 1)).unwrap(), patched(1, 0, 0, 0));
}

#[test]
fn patches_do_not_bring_a_dropped_collection_back() {
    let mut shard = shard();
    shard.apply(1, &upsert(origin(1, 0), &["a"], 1)).unwrap();
    shard.apply(2, &drop_collection(COLLECTION)).unwrap();
    assert_eq!(shard.apply(3, &upsert(origin(1, 1), &["b"], 1)).unwrap(), Outcome::OutOfOrder);
    assert_eq!(shard.collections(), []);
}

#[test]
fn a_later_part_waits_for_the_earlier_ones() {
    let mut shard = shard();
    let mut encoder = PatchEncoder::new(origin(1, 0), 60);
    let fields = [(FieldId(0), Value::Int(7))];
    ["a", "b", "c", "d", "e"].iter().for_each(|key| encoder.upsert(&Key::new(key).unwrap(), &fields));
    let parts = encoder.finish();
    assert!(parts.len() > 1);
    assert_eq!(shard.apply(1, &parts[1]).unwrap(), Outcome::OutOfOrder);
    assert_eq!(shard.reader().stats(COLLECTION).records, 0);
    for (index, part) in (2..).zip(&parts) {
        assert!(matches!(shard.apply(index, part).unwrap(), Outcome::Patched(_)));
    }
    assert_eq!(shard.reader().stats(COLLECTION).records, 5);
}

#[test]
fn a_superseded_run_is_refused_in_all_it_does() {
    let mut shard = shard();
    shard.apply(1, &upsert(origin(1, 0), &["a"], 1)).unwrap();
    assert_eq!(shard.apply(2, &fence(COLLECTION, SLOT, Generation(4))).unwrap(), Outcome::Done);
    assert_eq!(shard.apply(3, &fence(COLLECTION, SLOT, Generation(4))).unwrap(), Outcome::Done);
    let stale = Outcome::Stale { newest: Generation(4) };
    assert_eq!(shard.apply(4, &upsert(origin(3, 0), &["a"], 2)).unwrap(), stale);
    assert_eq!(shard.apply(5, &fence(COLLECTION, SLOT, Generation(3))).unwrap(), stale);
    let sweep = sweep(COLLECTION, SLOT, Generation(3), ExitMode::Delete, (0, 1));
    assert_eq!(shard.apply(6, &sweep).unwrap(), stale);
    assert_eq!(get(&shard, "a"), shown(1, r#"{"f0":1}"#));
    let other = PatchOrigin { slot: SyncSlot(1), ..origin(1, 0) };
    assert_eq!(shard.apply(7, &upsert(other, &["a"], 2)).unwrap(), patched(1, 0, 0, 0), "other syncs go on");
}

#[test]
fn batches_are_remembered_and_counted_until_their_run_is_fenced() {
    let mut shard = shard();
    let bytes = |shard: &Shard| shard.reader().stats(COLLECTION).batch_bytes;
    assert_eq!(bytes(&shard), 0);
    shard.apply(1, &upsert(origin(1, 0), &["a"], 1)).unwrap();
    let of_one = bytes(&shard);
    let all = shard.reader().memory().bytes;
    shard.apply(2, &upsert(origin(1, 1), &["a"], 1)).unwrap();
    assert_eq!(bytes(&shard), 2 * of_one);
    assert_eq!(shard.reader().memory().bytes, all + of_one, "nothing else has changed");
    shard.apply(3, &fence(COLLECTION, SLOT, Generation(2))).unwrap();
    assert_eq!(bytes(&shard), 0);
    let late = shard.apply(4, &upsert(origin(1, 1), &["a"], 1)).unwrap();
    assert_eq!(late, Outcome::Stale { newest: Generation(2) }, "a late repeat is refused");
    assert_eq!(shard.apply(5, &upsert(origin(2, 1), &["a"], 2)).unwrap(), patched(0, 1, 0, 0), "the next run goes on");
}

#[test]
fn a_cleared_record_stays_as_an_empty_one() {
    let mut shard = shard();
    shard.apply(1, &upsert(origin(1, 0), &["a"], 1)).unwrap();
    let clear = |seq| {
        batch(origin(1, seq), |encoder| {
            encoder.clear(&Key::new("a").unwrap());
            encoder.clear(&Key::new("never was").unwrap());
        })
    };
    assert_eq!(shard.apply(2, &clear(1)[0]).unwrap(), patched(0, 0, 1, 1));
    assert_eq!(get(&shard, "a"), shown(2, "{}"));
    assert_eq!(shard.apply(3, &clear(2)[0]).unwrap(), patched(0, 0, 2, 0));
    assert_eq!(get(&shard, "a"), shown(2, "{}"));
    let stats = shard.reader().stats(COLLECTION);
    assert_eq!((stats.records, stats.records_of), (1, vec![]));
    assert_eq!(get(&shard, "never was"), None);
}

#[test]
fn a_record_that_would_be_too_large_is_refused_and_the_rest_is_not() {
    let mut shard = shard();
    let text = |id: u16| (FieldId(id), Value::String("x".repeat(MAX_RECORD_BYTES / 2)));
    let entries = batch(origin(1, 0), |encoder| {
        let key = |key| Key::new(key).unwrap();
        encoder.upsert(&key("half"), &[text(0)]);
        encoder.upsert(&key("whole"), &[text(0), text(1)]);
        encoder.upsert(&key("half"), &[text(1)]);
        encoder.upsert(&key("small"), &[(FieldId(0), Value::Null)]);
        encoder.delete(&key("whole"));
    });
    let mut sum = Patched::default();
    for (index, entry) in (1..).zip(&entries) {
        let Outcome::Patched(part) = shard.apply(index, entry).unwrap() else { panic!("not applied") };
        sum.added += part.added;
        sum.unchanged += part.unchanged;
        sum.too_large.extend(part.too_large);
    }
    assert_eq!((sum.added, sum.unchanged, sum.too_large), (2, 1, vec![1, 2]));
    assert_eq!(get(&shard, "whole"), None);
    assert_eq!(get(&shard, "half").unwrap().0, 1);
}

#[test]
fn clearing_a_sync_is_seen_as_a_change_of_the_records_that_had_its_fields() {
    let mut shard = shard();
    shard.apply(1, &upsert(origin(1, 0), &["a", "b"], 1)).unwrap();
    let other = PatchOrigin { slot: SyncSlot(1), ..origin(1, 0) };
    shard.apply(2, &upsert(other, &["b", "c"], 2)).unwrap();
    assert_eq!(shard.apply(3, &clear_sync(COLLECTION, SLOT)).unwrap(), Outcome::Done);
    assert_eq!(get(&shard, "a"), shown(3, "{}"));
    assert_eq!(get(&shard, "b"), shown(3, r#"{"f1":2}"#));
    assert_eq!(get(&shard, "c"), shown(2, r#"{"f1":2}"#));
    assert_eq!(shard.reader().stats(COLLECTION).records_of, [(SyncSlot(1), 2)]);
    shard.apply(4, &upsert(PatchOrigin { seq: 1, ..other }, &["b"], 2)).unwrap();
    assert_eq!(get(&shard, "b"), shown(3, r#"{"f1":2}"#), "what only confirms does not undo the clear's version");
    shard.apply(5, &upsert(origin(1, 1), &["a"], 1)).unwrap();
    assert_eq!(get(&shard, "a"), shown(5, r#"{"f0":1}"#));
}

#[test]
fn a_dropped_collection_leaves_nothing() {
    let mut shard = shard();
    shard.apply(1, &upsert(origin(3, 0), &["a"], 1)).unwrap();
    assert_eq!(shard.apply(2, &drop_collection(COLLECTION)).unwrap(), Outcome::Done);
    assert_eq!(shard.apply(3, &drop_collection(COLLECTION)).unwrap(), Outcome::Done);
    assert_eq!((get(&shard, "a"), shard.collections()), (None, vec![]));
    assert_eq!(shard.reader().stats(COLLECTION), CollectionStats::default());
    shard.apply(4, &fence(COLLECTION, SLOT, Generation(0))).unwrap();
    assert_eq!(shard.apply(5, &upsert(origin(1, 0), &["a"], 1)).unwrap(), patched(1, 0, 0, 0));
}

#[test]
fn bytes_that_are_no_entry_change_nothing() {
    let mut shard = shard();
    let entry = upsert(origin(1, 0), &["a", "b"], 1);
    let cut = shard.apply(9, &entry[..entry.len() - 1]);
    assert_eq!(cut.unwrap_err().to_string(), "log entry 9 cannot be decoded: the bytes end too early");
    assert_eq!((shard.reader().applied(), shard.reader().stats(COLLECTION).records), (0, 0));
    assert_eq!(shard.apply(9, &entry).unwrap(), patched(2, 0, 0, 0));
}

#[test]
fn the_applied_index_follows_every_entry() {
    let mut shard = shard();
    let reader = shard.reader();
    shard.apply(4, &upsert(origin(1, 0), &["a"], 1)).unwrap();
    assert_eq!(reader.applied(), 4);
    shard.advance(5);
    assert_eq!((reader.applied(), shard.freeze().applied()), (5, 5));
}
