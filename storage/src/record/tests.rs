//! Whole records: their bytes, their size, and what is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_types::decimal::Decimal;
use larder_types::ids::{FieldId, Generation, SyncSlot};
use larder_types::json::Fragment;
use larder_types::limits::{MAX_KEY_BYTES, MAX_RECORD_BYTES};
use larder_types::value::Value;
use proptest::prelude::*;

use super::clears::Clears;
use super::intern::Pools;
use super::row::{Group, Row, RowWriter, record_len, seconds_of};
use super::value::tests::any_value;
use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn group(slot: u8, fields: &[u8]) -> Group<'_> {
    Group { slot: SyncSlot(slot), clears: 0, generation: Generation(7), seconds: 1_760_000_000, fields }
}

fn record(key: &str, version: u64, groups: &[Group<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = RowWriter::new(key.as_bytes(), version, &mut out);
    groups.iter().for_each(|group| writer.group(group));
    writer.finish().unwrap();
    out
}

fn json(record: &[u8], names: &Dictionary, only: Option<&FieldSet>, clears: &Clears) -> String {
    let mut out = Vec::new();
    let pools = Arc::default();
    RecordView::new(Row::check(record, &pools).unwrap(), clears, &pools).write_json(names, only, &mut out);
    String::from_utf8(out).unwrap()
}

fn decimal(text: &str) -> Value {
    Value::Decimal(text.parse::<Decimal>().unwrap())
}

/// One value of every kind.
fn all_kinds() -> BTreeMap<u16, Value> {
    let values = [
        Value::Null,
        Value::Bool(true),
        Value::Int(-300),
        Value::UInt(u64::MAX),
        Value::Float(0.1),
        decimal("-0.005"),
        decimal("33.50"),
        Value::Timestamp(1_357_017_300_250_000),
        Value::Timestamp(1_357_017_300_000_000),
        Value::Date(15_706),
        Value::String("plain".into()),
        Value::String("with \"quotes\"".into()),
        Value::Binary(vec![0, 255]),
        Value::List(Fragment::parse("[1]").unwrap()),
        Value::Struct(Fragment::parse("{\"a\":1.50}").unwrap()),
    ];
    (0..).zip(values).collect()
}

/// The customer of the storage notes: 15 fields, 286 bytes as JSON.
fn customer() -> BTreeMap<u16, Value> {
    let text = |text: &str| Value::String(text.into());
    let values = [
        Value::Int(48_213_377),
        text("lindqvist@example.com"),
        text("Maria"),
        text("Lindqvist"),
        text("SE"),
        text("Lund"),
        text("pro"),
        text("active"),
        decimal("1249.50"),
        decimal("89.90"),
        Value::Int(7),
        Value::Float(0.8125),
        Value::Timestamp(1_583_020_800_000_000),
        Value::Timestamp(1_757_412_345_000_000),
        Value::Bool(true),
    ];
    (0..).zip(values).collect()
}

const CUSTOMER_NAMES: [&str; 15] = [
    "id",
    "email",
    "first",
    "last",
    "country",
    "city",
    "plan",
    "status",
    "ltv",
    "last_order",
    "orders",
    "score",
    "created_at",
    "seen_at",
    "opted_in",
];

/// The format of records on disk and in memory. If this fails, old snapshots can no longer be read.
#[test]
#[rustfmt::skip]
fn the_bytes_of_a_record_are_fixed() {
    let fields = fields::tests::write(&all_kinds());
    let second = fields::tests::write(&[(40, Value::Null), (300, Value::Int(1))].into());
    let bytes = record("42", 300, &[group(0, &fields), Group { clears: 2, ..group(9, &second) }]);
    let expected = concat!(
        "75000800", // 117 bytes, a key of 2
        "3432", // the key
        "ac02", // version 300
        "00", "00", "07", "0078e768", "55", // slot, clears, generation, time, 85 bytes of fields
        "00", "0f", // fields 0 to 14
        "00", // null
        "02", // true
        "12", "5702", // -300
        "28", "ffffffffffffffff", // u64::MAX
        "38", "3fb999999999999a", // 0.1
        "41", "03", "09", // -0.005
        "52", "2c1a", // 33.50
        "67", "205b456c66a409", // a timestamp with milliseconds
        "74", "a8e1c4a1", // a timestamp of whole seconds
        "82", "b47a", // a date
        "95", "706c61696e", // plain text
        "ad", "77697468202271756f74657322", // text with quotes
        "b2", "00ff", // bytes
        "c3", "5b315d", // a list
        "da", "7b2261223a312e35307d", // an object
        "09", "02", "07", "0078e768", "08", // the second group, 8 bytes of fields
        "28", "01", "00", // field 40: null
        "8302", "01", "1102", // field 300: 1
    );
    assert_eq!(hex(&bytes), expected);
}

#[test]
fn a_customer_takes_two_fifths_of_its_json() {
    let fields = fields::tests::write(&customer());
    let bytes = record("48213377", 1_250_000, &[group(0, &fields)]);
    let names = Dictionary::new((0..).map(FieldId).zip(CUSTOMER_NAMES));
    let json = json(&bytes, &names, None, &Clears::default());
    assert_eq!((json.len(), fields.len(), bytes.len()), (286, 88, 111), "{json}");
}

#[test]
fn the_header_counts_up_to_the_largest_key_and_record() {
    let key = "k".repeat(MAX_KEY_BYTES);
    let bytes = record(&key, u64::MAX, &[]);
    let row = Row::check(&bytes, &Pools::none()).unwrap();
    assert_eq!((row.key, row.version), (key.as_bytes(), u64::MAX));

    let largest = |len: usize| {
        let text = fields::tests::write(&[(0, Value::String("x".repeat(len)))].into());
        let mut out = Vec::new();
        let mut writer = RowWriter::new(b"k", 1, &mut out);
        writer.group(&group(0, &text));
        writer.finish().map(|()| out)
    };
    let overhead = largest(100_000).unwrap().len() - 100_000;
    let whole = largest(MAX_RECORD_BYTES - overhead).unwrap();
    assert_eq!(record_len(*whole.first_chunk().unwrap()), MAX_RECORD_BYTES);
    assert!(Row::check(&whole, &Pools::none()).is_ok());
    assert_eq!(largest(MAX_RECORD_BYTES - overhead + 1), None);
}

#[test]
fn fields_come_in_order_of_slot_and_id_and_only_as_asked() {
    let (low, high) = (fields::tests::write(&customer()), fields::tests::write(&[(20, Value::Int(1))].into()));
    let bytes = record("k", 1, &[group(2, &high), group(5, &low)]);
    let names = Dictionary::new([(FieldId(20), "first"), (FieldId(4), "second"), (FieldId(6), "third")]);
    let none = Clears::default();
    assert_eq!(json(&bytes, &names, None, &none), r#"{"first":1,"second":"SE","third":"pro"}"#);
    let only: FieldSet = [6, 20, 7].map(FieldId).into_iter().collect();
    assert_eq!(json(&bytes, &names, Some(&only), &none), r#"{"first":1,"third":"pro"}"#);
    assert_eq!(json(&bytes, &names, Some(&FieldSet::default()), &none), "{}");
    assert_eq!(json(&bytes, &Dictionary::default(), None, &none), "{}");
    let cleared = Clears::default().with(SyncSlot(2), vec![9]);
    assert_eq!(json(&bytes, &names, None, &cleared), r#"{"second":"SE","third":"pro"}"#);
    let pools = Arc::default();
    let view = RecordView::new(Row::check(&bytes, &pools).unwrap(), &cleared, &pools);
    assert_eq!(view.version(), 9);
    assert_eq!(
        view.groups().collect::<Vec<_>>(),
        [GroupInfo { slot: SyncSlot(5), generation: Generation(7), updated_at: 1_760_000_000_000_000 }]
    );
}

#[test]
fn times_that_no_record_holds_are_moved_to_the_nearest() {
    for (at, seconds) in [
        (0, 0),
        (-1, 0),
        (1_999_999, 1),
        (i64::MIN, 0),
        (4_294_967_295_999_999, u32::MAX),
        (4_294_967_296_000_000, u32::MAX),
        (i64::MAX, u32::MAX),
    ] {
        assert_eq!(seconds_of(at), seconds, "{at}");
    }
}

#[test]
fn records_that_break_the_format_are_refused() {
    let fields = fields::tests::write(&customer());
    let good = record("48213377", 5, &[group(0, &fields), group(3, &[])]);
    assert!(Row::check(&good, &Pools::none()).is_ok());
    let refused = |bytes: &[u8]| Row::check(bytes, &Pools::none()).unwrap_err().0;
    assert_eq!(refused(&good[..good.len() - 1]), "a record's length is wrong");
    assert_eq!(refused(&[]), "the bytes end too early");
    let flagged: Vec<_> = good.iter().enumerate().map(|(at, byte)| byte | u8::from(at == 3) << 5).collect();
    assert_eq!(refused(&flagged), "a record has flags of a newer version");
    let unsorted = record("48213377", 5, &[group(3, &fields), group(3, &[])]);
    assert_eq!(refused(&unsorted), "a record's groups are not in order");
    let mut no_text = good.clone();
    no_text[4] = 0xff;
    assert_eq!(refused(&no_text), "a key is not UTF-8");
}

#[test]
fn no_cut_and_no_flipped_bit_makes_the_decoder_panic() {
    let fields = fields::tests::write(&all_kinds());
    let good = record("48213377", 5, &[group(0, &fields)]);
    for len in 0..good.len() {
        assert!(Row::check(&good[..len], &Pools::none()).is_err(), "a record cut to {len} bytes was accepted");
    }
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        show_if_whole(&bytes);
    }
}

/// All fields: slot, id and value.
fn contents(row: Row<'_>) -> Vec<(u8, u16, Value)> {
    let fields =
        |group: Group<'_>| fields::tests::read(group.fields).into_iter().map(move |(id, v)| (group.slot.0, id, v));
    row.groups().flat_map(fields).collect()
}

/// Does with a record that passes the check whatever readers do.
fn show_if_whole(bytes: &[u8]) {
    let pools = Arc::default();
    let Ok(row) = Row::check(bytes, &pools) else { return };
    let names: Vec<_> = (0..50).map(|id| format!("f{id}")).collect();
    let names = Dictionary::new((0..).map(FieldId).zip(names.iter().map(String::as_str)));
    let clears = Clears::default();
    let view = RecordView::new(row, &clears, &pools);
    let mut json = Vec::new();
    view.write_json(&names, None, &mut json);
    assert!(std::str::from_utf8(&json).is_ok());
    drop(contents(row));
}

proptest! {
    #[test]
    fn records_survive(
        key in "[a-zé]{1,40}",
        version in any::<u64>(),
        slots in proptest::collection::btree_map(
            any::<u8>(), proptest::collection::btree_map(0u16..50, any_value(), 0..5), 0..4),
    ) {
        let written: Vec<_> = slots.iter().map(|(slot, fields)| (*slot, fields::tests::write(fields))).collect();
        let groups: Vec<_> = written.iter().map(|(slot, fields)| group(*slot, fields)).collect();
        let bytes = record(&key, version, &groups);
        let row = Row::check(&bytes, &Pools::none()).unwrap();
        prop_assert_eq!((row.key, row.version), (key.as_bytes(), version));
        prop_assert_eq!(row.groups().collect::<Vec<_>>(), groups);
        let expected = slots.iter().flat_map(|(slot, f)| f.iter().map(|(id, value)| (*slot, *id, value.clone())));
        prop_assert_eq!(contents(row), expected.collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        mut bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..4], 0..60),
        key_len in 1u32..4,
    ) {
        // With the right length in the header more of the decoder is reached.
        let len = u32::try_from(bytes.len()).unwrap();
        if len >= 4 {
            bytes[..4].copy_from_slice(&(len | (key_len - 1) << 19).to_le_bytes());
        }
        show_if_whole(&bytes);
    }
}
