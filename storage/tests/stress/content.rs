//! What the records hold.
//!
//! All fields of a sync in a record follow from the key and a serial number that no other patch has. So a record that
//! holds anything of another key, or of two versions, is not equal to what its own serials say it must be.

use larder_storage::record::Dictionary;
use larder_types::hash::KeyHash;
use larder_types::ids::{FieldId, SyncSlot};
use larder_types::key::Key;
use larder_types::value::Value;

use crate::OPTIONS;

/// Enough to split pages several times.
pub(crate) const KEYS: u64 = 9000;
/// Syncs with fields in the records.
pub(crate) const SLOTS: u8 = 3;

const FIELDS: u16 = 5;

/// A key, and what it is looked up by.
pub(crate) fn key(number: u64) -> (Key, KeyHash) {
    let key = Key::new(&format!("customer-{number}")).expect("a key");
    let hash = KeyHash::of(OPTIONS.hash_seed, key.as_bytes());
    (key, hash)
}

pub(crate) fn names() -> Dictionary {
    let names: Vec<_> = (0..u16::from(SLOTS) * FIELDS).map(|id| (FieldId(id), name(id))).collect();
    Dictionary::new(names.iter().map(|(id, name)| (*id, name.as_str())))
}

fn name(id: u16) -> String {
    format!("f{id}")
}

fn first_field(slot: SyncSlot) -> u16 {
    u16::from(slot.0) * FIELDS
}

/// What a sync writes into a record: values of many sizes, some of them of few different texts, some to be escaped.
pub(crate) fn fields(number: u64, slot: SyncSlot, serial: u64) -> Vec<(FieldId, Value)> {
    let size = usize::try_from(serial % 97).expect("a size");
    let values = [
        Value::Int(i64::try_from(serial).expect("a serial")),
        Value::Int(i64::try_from(number).expect("a number")),
        Value::String(["gold", "silver", "bronze", ""][size % 4].to_owned()),
        Value::String(if size % 2 == 0 { "x".repeat(size) } else { "\"\n".repeat(size) }),
        if size % 3 == 0 { Value::Null } else { Value::Bool(size % 3 == 1) },
    ];
    (first_field(slot)..).map(FieldId).zip(values).collect()
}

/// The serial of a sync's fields in a record.
fn serial(json: &str, slot: SyncSlot) -> Option<u64> {
    let name = format!("\"{}\":", name(first_field(slot)));
    let (_, rest) = json.split_once(&name)?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some(digits.parse().expect("a serial"))
}

/// The serials of all syncs in a record, which must be a whole one of this key.
pub(crate) fn check(number: u64, json: &[u8]) -> [Option<u64>; SLOTS as usize] {
    let json = std::str::from_utf8(json).unwrap_or_else(|_| panic!("key {number} is no text"));
    let serials = std::array::from_fn(|slot| serial(json, slot_at(slot)));
    let mut expected = String::new();
    for (slot, serial) in serials.into_iter().enumerate().filter_map(|(slot, serial)| Some((slot, serial?))) {
        for (id, value) in fields(number, slot_at(slot), serial) {
            expected.push(if expected.is_empty() { '{' } else { ',' });
            expected.push_str(&format!("\"{}\":", name(id.0)));
            value.write_json(&mut expected);
        }
    }
    expected.push_str(if expected.is_empty() { "{}" } else { "}" });
    assert_eq!(json, expected, "key {number} is torn or another's");
    serials
}

pub(crate) fn slot_at(position: usize) -> SyncSlot {
    SyncSlot(u8::try_from(position).expect("few slots"))
}
