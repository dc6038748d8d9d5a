//! Entries: their bytes, how batches are split, and what is refused.

use bytes::Bytes;
use larder_types::ids::FieldId;
use larder_types::key::Key;
use larder_types::patch::ExitMode;
use larder_types::value::Value;
use proptest::prelude::*;

use super::decode::{Change, Command, Patches, decode};
use super::*;
use crate::record::fields::Fields;

const ORIGIN: PatchOrigin = PatchOrigin {
    collection: CollectionId(5),
    slot: SyncSlot(2),
    generation: Generation(300),
    seq: 9,
    at: 1_760_000_000_000_000,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn patches(entry: &Bytes) -> Patches<'_> {
    match decode(entry).unwrap() {
        Command::Patches(patches) => patches,
        other => panic!("{other:?} holds no patches"),
    }
}

#[test]
fn a_field_without_a_value_is_one_byte_in_a_patch() {
    let mut encoder = PatchEncoder::new(ORIGIN, 1024);
    encoder.upsert(&key("k"), &[(FieldId(1), Some(Value::Null)), (FieldId(2), None)]);
    let entry = encoder.finish().remove(0);
    assert!(entry.ends_with(&[b'k', 4, 1, 2, 0, 3]), "{entry:02x?}");
    assert!(matches!(decode::decode(&entry), Ok(decode::Command::Patches(_))));
}

/// The format of entries in logs. If this fails, old logs can no longer be read.
#[test]
#[rustfmt::skip]
fn the_bytes_of_entries_are_fixed() {
    let mut encoder = PatchEncoder::new(ORIGIN, 1024);
    encoder.upsert(&key("42"), &[(FieldId(3), Value::Int(1)), (FieldId(4), Value::String("x".into()))]);
    encoder.clear(&key("a"));
    encoder.delete(&key("b"));
    let entries = encoder.finish();
    let expected = concat!(
        "01",
        "01",
        "05",
        "02",
        "ac02",
        "09",
        "00", // version, kind, collection, slot, generation, seq, part
        "8080f0ecbdada006",
        "00",
        "03", // time, first patch, number of patches
        "08",
        "3432",
        "06",
        "0302",
        "1102",
        "9178", // upsert of a key of 2 bytes: 6 bytes of fields
        "05",
        "61",
        "06",
        "62",
    );
    assert_eq!(entries.iter().map(|entry| hex(entry)).collect::<Vec<_>>(), [expected]);
    let (collection, slot, generation) = (ORIGIN.collection, ORIGIN.slot, ORIGIN.generation);
    assert_eq!(hex(&fence(collection, slot, generation)), "01020502ac02");
    assert_eq!(hex(&sweep(collection, slot, generation, ExitMode::Delete, (1, 200))), "01030502ac020201c801");
    assert_eq!(hex(&clear_sync(collection, slot)), "01040502");
    assert_eq!(hex(&drop_collection(CollectionId(128))), "01058001");
    assert_eq!(hex(&drop_records(collection, (1, 200))), "01060501c801");
}

#[test]
fn only_what_sets_fields_may_grow_records() {
    let entry = |fill: fn(&mut PatchEncoder)| {
        let mut encoder = PatchEncoder::new(ORIGIN, 1024);
        encoder.delete(&key("a"));
        encoder.clear(&key("b"));
        fill(&mut encoder);
        encoder.finish().remove(0)
    };
    assert!(!may_grow(&entry(|_| {})));
    assert!(may_grow(&entry(|encoder| encoder.upsert::<Value>(&key("c"), &[]))));
    let (collection, slot, generation) = (ORIGIN.collection, ORIGIN.slot, ORIGIN.generation);
    let others = [
        fence(collection, slot, generation),
        sweep(collection, slot, generation, ExitMode::Clear, (0, 1)),
        clear_sync(collection, slot),
        drop_collection(collection),
        drop_records(collection, (0, 1)),
    ];
    assert!(others.iter().all(|entry| !may_grow(entry)));
    assert!(may_grow(b"no entry"));
}

#[test]
fn a_batch_is_split_into_parts_that_fit() {
    let mut encoder = PatchEncoder::new(ORIGIN, 200);
    assert!(encoder.is_empty());
    for number in 0..100 {
        encoder.upsert(&key(&format!("key-{number}")), &[(FieldId(1), Value::Int(number))]);
    }
    encoder.upsert(&key("large"), &[(FieldId(1), Value::String("x".repeat(1000)))]);
    encoder.delete(&key("last"));
    assert!(!encoder.is_empty());
    let entries = encoder.finish();
    let (mut next, mut large) = (0, 0);
    for (number, entry) in (0..).zip(&entries) {
        let part = patches(entry);
        assert_eq!((part.origin, part.part), (ORIGIN, number));
        let count = part.iter().inspect(|(number, _)| assert_eq!(*number, std::mem::replace(&mut next, number + 1)));
        let count = count.count();
        if entry.len() > 200 {
            large += 1;
            assert_eq!(count, 1, "a patch that is too large stands alone");
        }
    }
    assert_eq!((next, large), (102, 1));
    assert!(entries.len() < 20, "{} entries", entries.len());
    assert!(PatchEncoder::new(ORIGIN, 200).finish().is_empty());
}

#[test]
fn of_a_field_named_twice_the_last_value_counts() {
    let mut encoder = PatchEncoder::new(ORIGIN, 200);
    let fields = [(9, 1), (3, 2), (9, 3), (3, 4), (9, 5)].map(|(id, number)| (FieldId(id), Value::Int(number)));
    encoder.upsert(&key("k"), &fields);
    let entries = encoder.finish();
    let part = patches(&entries[0]);
    let Some((0, decode::Patch { change: Change::Upsert(fields), .. })) = part.iter().next() else {
        panic!("not an upsert")
    };
    let mut fields = Fields::new(fields);
    let mut seen = Vec::new();
    while let Some((id, value)) = fields.step().unwrap() {
        seen.push((id.0, value.decode().unwrap()));
    }
    assert_eq!(seen, [(3, Value::Int(4)), (9, Value::Int(5))]);
}

#[test]
fn entries_that_break_the_format_are_refused() {
    for (bytes, what) in [
        (&[][..], "the bytes end too early"),
        (&[2, 5, 1], "the entry's version is unknown"),
        (&[1, 7, 1], "the entry's kind is unknown"),
        (&[1, 0, 1], "the entry's kind is unknown"),
        (&[1, 5, 1, 0], "the entry is longer than its content"),
        (&[1, 5, 0x80, 0x80, 0x80, 0x80, 0x10], "a number exceeds 32 bits"),
        (&[1, 3, 1, 0, 0, 3, 0, 1], "an exit mode is unknown"),
        (&[1, 3, 1, 0, 0, 1, 1, 1], "a chunk does not exist"),
        (&[1, 3, 1, 0, 0, 1, 0, 0], "a chunk does not exist"),
        (&[1, 6, 1, 2, 2], "a chunk does not exist"),
        (&[1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1], "a key's length is out of bounds"),
        (&[1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0x84, 0x20], "a key's length is out of bounds"),
        (&[1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 7, b'k'], "a patch does something unknown"),
        (&[1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 5, 0xff], "a key is not UTF-8"),
        (&[1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 5, b'k', 0], "the entry is longer than its content"),
        (&[1, 1, 1, 0, 0, 0, 0, 0, 0, 2, 5, b'k'], "the bytes end too early"),
        (&[1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 4, b'k', 2, 0, 0], "a run of fields is empty"),
        (
            &[1, 1, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 5, b'k'],
            "a batch has more patches than can be counted",
        ),
    ] {
        assert_eq!(decode(bytes).unwrap_err().0, what, "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(
        kind in 0u8..7,
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..8], 0..50),
    ) {
        let entry = [&[1, kind], &bytes[..]].concat();
        if let Ok(Command::Patches(patches)) = decode(&entry) {
            prop_assert!(patches.iter().all(|(_, patch)| !patch.key.is_empty()));
        }
    }
}
