//! Streams whole, cut, damaged and lying.

use std::collections::HashMap;

use arrow_array::builder::*;
use arrow_array::types::*;
use arrow_array::*;
use arrow_buffer::{NullBuffer, OffsetBuffer, i256};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_schema::TimeUnit;
use larder_types::decimal::Decimal;
use proptest::prelude::*;

use super::super::validate::Prepared;
use super::super::validate::tests::{collection, sorted};
use super::*;

fn stream_of(batches: &[RecordBatch], compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), batches[0].schema_ref(), options).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn stream(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    stream_of(
        &[RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()],
        None,
    )
}

fn keys(count: usize) -> ArrayRef {
    Arc::new(StringArray::from_iter_values((0..count).map(|key| format!("k{key}"))))
}

fn decoded(body: Vec<u8>) -> Result<Prepared, ApiError> {
    let (collection, sync) = collection(&[("n", ValueType::Int), ("x", ValueType::Any)]);
    let mut sorted = sorted();
    decode(body, &SyncFields::new(&collection, &sync), &mut sorted)?;
    Ok(sorted.finish())
}

/// All cells of a column that travelled as the field `x`.
fn cells(array: ArrayRef) -> Vec<Result<Value, &'static str>> {
    let rows = array.len();
    read_back(stream(vec![("_key", keys(rows)), ("x", array)]))
}

fn read_back(body: Vec<u8>) -> Vec<Result<Value, &'static str>> {
    let (collection, sync) = collection(&[("n", ValueType::Int), ("x", ValueType::Any)]);
    let fields = SyncFields::new(&collection, &sync);
    frames::check(&body).unwrap();
    let mut rest = Buffer::from_vec(body);
    let batch = StreamDecoder::new().decode(&mut rest).unwrap().unwrap();
    let columns = Columns::of(&batch.schema(), &fields).unwrap();
    let read = |row| match columns.read(&batch, row) {
        Row::Good(Patch { change: Change::Upsert(mut fields), .. }) => Ok(fields.remove(0).1.unwrap()),
        Row::Good(other) => panic!("{other:?}"),
        Row::Bad { fault, .. } => Err(fault.code),
    };
    (0..batch.num_rows()).map(read).collect()
}

fn json(text: &str) -> Value {
    Value::from_json(text).unwrap()
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

#[test]
fn numbers_are_kept_exactly() {
    let ints: [(ArrayRef, i64); 8] = [
        (Arc::new(Int8Array::from(vec![i8::MIN])), i64::from(i8::MIN)),
        (Arc::new(Int16Array::from(vec![i16::MIN])), i64::from(i16::MIN)),
        (Arc::new(Int32Array::from(vec![i32::MIN])), i64::from(i32::MIN)),
        (Arc::new(Int64Array::from(vec![i64::MIN])), i64::MIN),
        (Arc::new(UInt8Array::from(vec![u8::MAX])), i64::from(u8::MAX)),
        (Arc::new(UInt16Array::from(vec![u16::MAX])), i64::from(u16::MAX)),
        (Arc::new(UInt32Array::from(vec![u32::MAX])), i64::from(u32::MAX)),
        (Arc::new(UInt64Array::from(vec![7])), 7),
    ];
    for (array, expected) in ints {
        assert_eq!(cells(array), [Ok(Value::Int(expected))]);
    }
    assert_eq!(cells(Arc::new(UInt64Array::from(vec![u64::MAX]))), [Ok(Value::UInt(u64::MAX))]);
    assert_eq!(cells(Arc::new(Float32Array::from(vec![1.5, f32::NAN]))), [Ok(Value::Float(1.5)), Err("invalid_value")]);
    assert_eq!(cells(Arc::new(Float64Array::from(vec![Some(0.1), None]))), [Ok(Value::Float(0.1)), Ok(Value::Null)]);
    let half = Float16Builder::new().finish();
    assert_eq!(cells(Arc::new(half)), []);
    assert_eq!(cells(Arc::new(BooleanArray::from(vec![true, false]))), [Ok(Value::Bool(true)), Ok(Value::Bool(false))]);
}

#[test]
fn decimals_are_kept_exactly() {
    let decimal = |mantissa, scale| Ok(Value::Decimal(Decimal::new(mantissa, scale).unwrap()));
    let d32 = Decimal32Array::from(vec![150]).with_precision_and_scale(9, 2).unwrap();
    let d64 = Decimal64Array::from(vec![-150]).with_precision_and_scale(18, 2).unwrap();
    let d128 = Decimal128Array::from(vec![12_345]).with_precision_and_scale(38, 3).unwrap();
    let thousands = Decimal128Array::from(vec![12]).with_precision_and_scale(5, -3).unwrap();
    let d256 = Decimal256Array::from(vec![i256::from_i128(7), i256::MAX]).with_precision_and_scale(76, 1).unwrap();
    assert_eq!(cells(Arc::new(d32)), [decimal(150, 2)]);
    assert_eq!(cells(Arc::new(d64)), [decimal(-150, 2)]);
    assert_eq!(cells(Arc::new(d128)), [decimal(12_345, 3)]);
    assert_eq!(cells(Arc::new(thousands)), [decimal(12_000, 0)]);
    assert_eq!(cells(Arc::new(d256)), [decimal(7, 1), Err("invalid_value")]);
}

#[test]
fn texts_and_bytes_of_every_layout_are_read() {
    let texts: [ArrayRef; 3] = [
        Arc::new(StringArray::from(vec![Some("é"), None])),
        Arc::new(LargeStringArray::from(vec![Some("é"), None])),
        Arc::new(StringViewArray::from(vec![Some("é"), None])),
    ];
    for array in texts {
        assert_eq!(cells(array), [Ok(text("é")), Ok(Value::Null)]);
    }
    let bytes: [ArrayRef; 4] = [
        Arc::new(BinaryArray::from(vec![b"\xff\x00".as_slice()])),
        Arc::new(LargeBinaryArray::from(vec![b"\xff\x00".as_slice()])),
        Arc::new(BinaryViewArray::from(vec![b"\xff\x00".as_slice()])),
        Arc::new(FixedSizeBinaryArray::try_from_iter([b"\xff\x00"].into_iter()).unwrap()),
    ];
    for array in bytes {
        assert_eq!(cells(array), [Ok(Value::Binary(vec![0xff, 0]))]);
    }
}

#[test]
fn times_of_every_unit_are_read() {
    let timestamps: [ArrayRef; 5] = [
        Arc::new(TimestampSecondArray::from(vec![-1])),
        Arc::new(TimestampMillisecondArray::from(vec![-1000])),
        Arc::new(TimestampMicrosecondArray::from(vec![-1_000_000]).with_timezone("+02:00")),
        Arc::new(TimestampNanosecondArray::from(vec![-1_000_000_000]).with_timezone("UTC")),
        Arc::new(TimestampNanosecondArray::from(vec![-999_999_001])),
    ];
    for array in timestamps {
        assert_eq!(cells(array), [Ok(Value::Timestamp(-1_000_000))]);
    }
    assert_eq!(cells(Arc::new(TimestampSecondArray::from(vec![i64::MAX]))), [Err("invalid_value")]);
    assert_eq!(cells(Arc::new(Date32Array::from(vec![-1, i32::MAX]))), [Ok(Value::Date(-1)), Err("invalid_value")]);
    assert_eq!(cells(Arc::new(Date64Array::from(vec![-86_400_000]))), [Ok(Value::Date(-1))]);
    let times: [ArrayRef; 4] = [
        Arc::new(Time32SecondArray::from(vec![18_900])),
        Arc::new(Time32MillisecondArray::from(vec![18_900_000])),
        Arc::new(Time64MicrosecondArray::from(vec![18_900_000_000])),
        Arc::new(Time64NanosecondArray::from(vec![18_900_000_000_000])),
    ];
    for array in times {
        assert_eq!(cells(array), [Ok(text("05:15:00"))]);
    }
    assert_eq!(cells(Arc::new(Time32SecondArray::from(vec![86_400]))), [Err("invalid_value")]);
}

#[test]
fn nested_values_become_json() {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])]);
    assert_eq!(cells(Arc::new(list)), [Ok(json("[1,null]")), Ok(Value::Null), Ok(json("[]"))]);
    let large = LargeListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(i64::MAX)])]);
    assert_eq!(cells(Arc::new(large)), [Ok(json("[9223372036854775807]"))]);
    let fixed = FixedSizeListArray::from_iter_primitive::<UInt8Type, _, _>(vec![Some(vec![Some(1), Some(2)])], 2);
    assert_eq!(cells(Arc::new(fixed)), [Ok(json("[1,2]"))]);
    let days: ArrayRef = Arc::new(Date32Array::from(vec![Some(0), None]));
    let names: ArrayRef = Arc::new(StringArray::from(vec!["q\"", "b"]));
    let members = vec![
        (Arc::new(Field::new("day", DataType::Date32, true)), days),
        (Arc::new(Field::new("na me", DataType::Utf8, true)), names),
    ];
    let object = StructArray::from(members);
    let expected = [Ok(json(r#"{"day":"1970-01-01","na me":"q\""}"#)), Ok(json(r#"{"day":null,"na me":"b"}"#))];
    assert_eq!(cells(Arc::new(object)), expected);
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("a");
    map.values().append_value(1);
    map.append(true).unwrap();
    assert_eq!(cells(Arc::new(map.finish())), [Ok(json(r#"{"a":1}"#))]);
    let floats = ListArray::from_iter_primitive::<Float64Type, _, _>(vec![Some(vec![Some(f64::INFINITY)])]);
    assert_eq!(cells(Arc::new(floats)), [Err("invalid_value")]);
}

#[test]
fn an_object_that_names_a_member_twice_rejects_its_row() {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for names in [["a", "a"], ["a", "b"]] {
        map.keys().append_value(names[0]);
        map.values().append_value(1);
        map.keys().append_value(names[1]);
        map.values().append_value(2);
        map.append(true).unwrap();
    }
    assert_eq!(cells(Arc::new(map.finish())), [Err("invalid_value"), Ok(json(r#"{"a":1,"b":2}"#))]);
    let member =
        || (Arc::new(Field::new("a", DataType::Date32, true)), Arc::new(Date32Array::from(vec![0])) as ArrayRef);
    assert_eq!(cells(Arc::new(StructArray::from(vec![member(), member()]))), [Err("invalid_value")]);
}

#[test]
fn dictionaries_and_nulls_are_read() {
    let dictionary: DictionaryArray<Int8Type> = vec![Some("a"), None, Some("b"), Some("a")].into_iter().collect();
    let expected = [Ok(text("a")), Ok(Value::Null), Ok(text("b")), Ok(text("a"))];
    assert_eq!(cells(Arc::new(dictionary)), expected);
    let wide: DictionaryArray<UInt64Type> = vec![Some("a")].into_iter().collect();
    assert_eq!(cells(Arc::new(wide)), [Ok(text("a"))]);
    assert_eq!(cells(Arc::new(NullArray::new(2))), [Ok(Value::Null), Ok(Value::Null)]);
}

#[test]
fn json_texts_become_what_they_say() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("[1.50]"), Some("\"s\""), None, Some("{")]));
    let metadata = HashMap::from([(EXTENSION.to_owned(), ARROW_JSON.to_owned())]);
    let field = Field::new("x", DataType::Utf8, true).with_metadata(metadata);
    let schema = Schema::new(vec![Field::new("_key", DataType::Utf8, false), field]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![keys(4), texts]).unwrap();
    let expected = [Ok(json("[1.50]")), Ok(text("s")), Ok(Value::Null), Err("invalid_value")];
    assert_eq!(read_back(stream_of(&[batch], None)), expected);
}

#[test]
fn nulls_of_a_column_mean_what_its_metadata_say() {
    let (collection, sync) = collection(&[("n", ValueType::Int), ("x", ValueType::Any)]);
    let fields = SyncFields::new(&collection, &sync);
    let columns = |word: &str| {
        let metadata = HashMap::from([(ARROW_NULLS.to_owned(), word.to_owned())]);
        let field = Field::new("x", DataType::Int64, true).with_metadata(metadata);
        let schema = Schema::new(vec![Field::new("_key", DataType::Utf8, false), field]);
        let batch =
            RecordBatch::try_new(Arc::new(schema), vec![keys(2), Arc::new(Int64Array::from(vec![Some(1), None]))]);
        let batch = batch.unwrap();
        Columns::of(&batch.schema(), &fields).map(|columns| [columns.read(&batch, 0), columns.read(&batch, 1)])
    };
    let row = |key: &str, fields: Vec<(FieldId, Option<Value>)>| {
        Row::Good(Patch { key: Key::new(key).unwrap(), change: Change::Upsert(fields) })
    };
    for (word, null) in
        [("write", vec![(FieldId(2), Some(Value::Null))]), ("skip", vec![]), ("clear", vec![(FieldId(2), None)])]
    {
        let one = row("k0", vec![(FieldId(2), Some(Value::Int(1)))]);
        assert_eq!(columns(word).unwrap(), [one, row("k1", null)], "{word}");
    }
    let error = columns("drop").unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidRequest);
    assert!(error.message().contains("write, skip or clear"), "{}", error.message());
}

#[test]
fn operations_and_keys_are_read_row_by_row() {
    let ops: ArrayRef =
        Arc::new(StringArray::from(vec![Some("upsert"), None, Some("clear"), Some("delete"), Some("x")]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]));
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![Some(-1), Some(2), Some(3), None, Some(5)]));
    let prepared = decoded(stream(vec![("n", numbers), ("_op", ops), ("_key", keys)])).unwrap();
    assert_eq!(prepared.rows, 5);
    let rejected: Vec<_> = prepared.rejected.iter().map(|r| (r.row.row, r.row.code.as_str(), r.op)).collect();
    assert_eq!(rejected, [(3, "invalid_key", Op::Delete), (4, "invalid_patch", Op::Upsert)]);
    let mut placed: Vec<_> = prepared.shards.iter().flat_map(|(_, _, rows)| rows).collect();
    placed.sort_by_key(|row| row.row);
    let placed: Vec<_> = placed.iter().map(|row| (row.key.as_str(), row.op)).collect();
    assert_eq!(placed, [("-1", Op::Upsert), ("2", Op::Upsert), ("3", Op::Clear)]);
}

#[test]
fn a_bad_cell_rejects_its_row_alone() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["1", "one", "3"]));
    let prepared = decoded(stream(vec![("_key", keys(3)), ("n", texts)])).unwrap();
    assert_eq!(prepared.rejected.len(), 1);
    let row = &prepared.rejected[0].row;
    assert_eq!((row.row, row.key.as_deref(), row.code.as_str()), (1, Some("k1"), "type_mismatch"));
    assert_eq!(row.field.as_deref(), Some("n"));
}

#[test]
fn columns_that_do_not_fit_fail_the_body() {
    let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let durations: ArrayRef = Arc::new(DurationSecondArray::from(vec![1]));
    type Case<'a> = (Vec<(&'a str, ArrayRef)>, ErrorCode, &'a str);
    let cases: Vec<Case<'_>> = vec![
        (vec![("_key", keys(1)), ("nope", one.clone())], ErrorCode::UnknownField, "`nope`"),
        (vec![("_key", keys(1)), ("foreign", one.clone())], ErrorCode::FieldOwnedByOtherSync, "`theirs`"),
        (vec![("n", one.clone())], ErrorCode::InvalidRequest, "`_key`"),
        (vec![("_key", floats)], ErrorCode::InvalidRequest, "`_key`"),
        (vec![("_key", keys(1)), ("_op", one.clone())], ErrorCode::InvalidRequest, "`_op`"),
        (vec![("_key", keys(1)), ("n", one.clone()), ("n", one)], ErrorCode::InvalidRequest, "twice"),
        (vec![("_key", keys(1)), ("x", durations)], ErrorCode::InvalidRequest, "type"),
    ];
    for (columns, code, word) in cases {
        let error = decoded(stream(columns)).err().unwrap();
        assert_eq!(error.code, code, "{}", error.message());
        assert!(error.message().contains(word), "{}", error.message());
    }
}

fn sample(compression: Option<CompressionType>) -> Vec<u8> {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>((0..3).map(|n| Some(vec![Some(n); 20])));
    let names: DictionaryArray<Int8Type> = vec![Some("aaaa"), None, Some("aaaa")].into_iter().collect();
    let schema = Schema::new(vec![
        Field::new("_key", DataType::Utf8, false),
        Field::new("n", DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)), true),
        Field::new("x", list.data_type().clone(), true),
    ]);
    let columns: Vec<ArrayRef> = vec![keys(3), Arc::new(names), Arc::new(list)];
    let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    stream_of(&[batch.clone(), batch], compression)
}

const COMPRESSIONS: [Option<CompressionType>; 3] =
    [None, Some(CompressionType::ZSTD), Some(CompressionType::LZ4_FRAME)];

#[test]
fn compressed_buffers_are_read() {
    for compression in COMPRESSIONS {
        let prepared = decoded(sample(compression)).unwrap();
        assert_eq!((prepared.rows, prepared.rejected.len()), (6, 4), "{compression:?}");
    }
}

#[test]
fn a_stream_cut_anywhere_is_refused() {
    for compression in COMPRESSIONS {
        let whole = sample(compression);
        for cut in 0..whole.len() {
            let error = decoded(whole[..cut].to_vec()).err();
            assert_eq!(error.map(|e| e.code), Some(ErrorCode::InvalidRequest), "cut at {cut}, {compression:?}");
        }
        let longer = [whole.as_slice(), b"more"].concat();
        assert!(decoded(longer).is_err());
    }
}

/// Streams with one column of each layout that the decoder reads in its own way.
fn samples() -> Vec<Vec<u8>> {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for _ in 0..3 {
        map.keys().append_value("a");
        map.values().append_value(1);
        map.append(true).unwrap();
    }
    let fixed = vec![Some(vec![Some(1), Some(2)]), None, None];
    let members: Vec<(Arc<Field>, ArrayRef)> = vec![
        (Arc::new(Field::new("d", DataType::Date32, true)), Arc::new(Date32Array::from(vec![Some(0), None, None]))),
        (
            Arc::new(Field::new("b", DataType::Boolean, true)),
            Arc::new(BooleanArray::from(vec![Some(true), None, None])),
        ),
        (Arc::new(Field::new("n", DataType::Null, true)), Arc::new(NullArray::new(3))),
    ];
    let columns: [ArrayRef; 6] = [
        Arc::new(StringViewArray::from(vec![Some("longer than twelve bytes"), None, Some("b")])),
        Arc::new(FixedSizeListArray::from_iter_primitive::<UInt8Type, _, _>(fixed, 2)),
        Arc::new(map.finish()),
        Arc::new(FixedSizeBinaryArray::try_from_iter([b"abc"; 3].into_iter()).unwrap()),
        Arc::new(Decimal256Array::from(vec![i256::from_i128(7); 3]).with_precision_and_scale(76, 1).unwrap()),
        Arc::new(StructArray::from(members)),
    ];
    let plain = columns.into_iter().map(|column| stream(vec![("_key", keys(3)), ("x", column)]));
    plain.chain(COMPRESSIONS.map(sample)).collect()
}

#[test]
fn no_damaged_byte_makes_the_reader_panic() {
    // Single bytes of lengths, counts and offsets are where decoders break: zero, one, sign bit, all bits, next.
    for whole in samples() {
        for at in 0..whole.len() {
            for value in [0x00, 0xff, whole[at] ^ 0x80, whole[at].wrapping_add(1)] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = decoded(damaged);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_damage_makes_the_reader_panic(
        which in 0usize..9,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut damaged = samples().swap_remove(which);
        for (at, value) in damage {
            *at.get_mut(&mut damaged) = value;
        }
        let _ = decoded(damaged);
    }
}

#[test]
fn types_of_impossible_sizes_are_refused() {
    let whole = stream(vec![
        ("_key", keys(3)),
        ("x", Arc::new(FixedSizeBinaryArray::try_from_iter([b"abcdefg"; 3].into_iter()).unwrap())),
    ]);
    // The byte width, a 7 of four bytes in the schema, made negative.
    let at = whole.windows(4).position(|window| window == 7i32.to_le_bytes()).unwrap();
    let mut lying = whole;
    lying[at..at + 4].copy_from_slice(&(-7i32).to_le_bytes());
    assert_eq!(decoded(lying).err().map(|e| e.code), Some(ErrorCode::InvalidRequest));
}

#[test]
fn a_buffer_that_claims_to_swell_beyond_the_cap_is_refused() {
    let whole = sample(Some(CompressionType::ZSTD));
    let zstd_frame = [0x28, 0xb5, 0x2f, 0xfd];
    let at = whole.windows(4).position(|window| window == zstd_frame).unwrap();
    let mut lying = whole;
    lying[at - 8..at].copy_from_slice(&(1i64 << 40).to_le_bytes());
    assert_eq!(decoded(lying).err().map(|e| e.code), Some(ErrorCode::PayloadTooLarge));
}

#[test]
fn rows_that_share_a_large_value_are_bounded() {
    let large = "x".repeat(200_000);
    let dictionary: DictionaryArray<Int32Type> = (0..5000).map(|_| Some(large.as_str())).collect();
    let error = decoded(stream(vec![("_key", keys(5000)), ("x", Arc::new(dictionary))])).err();
    assert_eq!(error.map(|e| e.code), Some(ErrorCode::PayloadTooLarge));
}

#[test]
fn a_list_made_of_nothing_is_bounded() {
    let count = 1 << 24;
    let item = Arc::new(Field::new("item", DataType::Null, true));
    let offsets = OffsetBuffer::from_lengths([count]);
    let nulls: Option<NullBuffer> = None;
    let list = ListArray::new(item, offsets, Arc::new(NullArray::new(count)), nulls);
    assert_eq!(cells(Arc::new(list)), [Err("record_too_large")]);
}

#[test]
fn rows_beyond_the_limit_are_refused() {
    let limit = larder_types::limits::MAX_BATCH_ROWS;
    assert_eq!(decoded(stream(vec![("_key", keys(limit))])).unwrap().rows, limit as u64);
    let error = decoded(stream(vec![("_key", keys(limit + 1))])).err();
    assert_eq!(error.map(|e| e.code), Some(ErrorCode::PayloadTooLarge));
}

#[test]
fn units_are_told_apart() {
    // Guards the table above against a unit that is read as another.
    let second = TimestampSecondArray::from(vec![1]);
    assert_eq!(second.data_type(), &DataType::Timestamp(TimeUnit::Second, None));
    assert_eq!(cells(Arc::new(second)), [Ok(Value::Timestamp(1_000_000))]);
}
