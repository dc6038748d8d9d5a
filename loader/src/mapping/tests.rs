//! What rows become: tables of mappings, columns and templates.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder, MapBuilder, StringBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array, Decimal256Array,
    DictionaryArray, DurationSecondArray, FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array, Int32Array,
    Int64Array, NullArray, RecordBatch, StringArray, StringViewArray, StructArray, Time32SecondArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
};
use arrow_buffer::i256;
use arrow_schema::{DataType, Field, Schema};
use larder_types::patch::ExitMode;

use super::*;
use crate::project::schedule::Schedule;
use crate::project::{Expression, FieldMapping, Guard, Model, OnDuplicate};

pub(super) fn spec(fields: Vec<(&str, ValueType, Expression)>) -> SyncSpec {
    SyncSpec {
        name: SyncName::new("users").unwrap(),
        file: PathBuf::from("syncs/users.yml"),
        source: "s".into(),
        model: Model::Table("t".into()),
        key: "id".into(),
        collection: "c".parse().unwrap(),
        primary_index: None,
        destinations: Vec::new(),
        fields: fields
            .into_iter()
            .map(|(name, kind, from)| FieldMapping::new(FieldName::new(name).unwrap(), kind, from))
            .collect(),
        variables: BTreeMap::new(),
        on_exit: ExitMode::Keep,
        guard: Guard::default(),
        on_duplicate: OnDuplicate::Fail,
        tags: Vec::new(),
        diff: crate::project::DiffSpec::Local,
        schedule: Schedule::default(),
        timeout: None,
        alerts: crate::project::AlertPolicy::default(),
    }
}

fn template(text: &str) -> Expression {
    Expression::Template(text.into())
}

pub(super) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let rows = columns[0].1.len();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    let with_id = std::iter::once(("id", ids)).chain(columns);
    RecordBatch::try_from_iter_with_nullable(with_id.map(|(name, array)| (name, array, true))).unwrap()
}

fn mapped(spec: &SyncSpec, batch: &RecordBatch, row: usize) -> Result<Vec<Value>, FieldError> {
    let mapping = compile(spec, &batch.schema()).map_err(|problems| panic!("{}", problems[0])).unwrap();
    let mut bytes = Vec::new();
    mapping.reader(batch).unwrap().encode(row, &mut bytes);
    mapping.fields(&mapping.decode(&bytes).unwrap(), &mut Replaced::default())
}

/// The one row that the template tests read.
fn sample() -> RecordBatch {
    let json = Field::new("json", DataType::Utf8, true)
        .with_metadata(HashMap::from([("ARROW:extension:name".to_owned(), "arrow.json".to_owned())]));
    let fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("first name", DataType::Utf8, true),
        Field::new("n", DataType::Int32, true),
        Field::new("price", DataType::Decimal128(10, 2), true),
        Field::new("rate", DataType::Float64, true),
        Field::new("at", DataType::Timestamp(arrow_schema::TimeUnit::Second, None), true),
        Field::new("nothing", DataType::Utf8, true),
        Field::new("ok", DataType::Boolean, true),
        json,
    ];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1])),
        Arc::new(StringArray::from(vec!["Ann é"])),
        Arc::new(Int32Array::from(vec![7])),
        Arc::new(Decimal128Array::from(vec![3350]).with_precision_and_scale(10, 2).unwrap()),
        Arc::new(Float64Array::from(vec![3.0])),
        Arc::new(TimestampSecondArray::from(vec![1_152_098_955])),
        Arc::new(StringArray::from(vec![None::<&str>])),
        Arc::new(BooleanArray::from(vec![false])),
        Arc::new(StringArray::from(vec![r#"{"b":[1,2.50,"x"],"a":null}"#])),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn rendered(text: &str, kind: ValueType) -> Result<Value, FieldError> {
    mapped(&spec(vec![("f", kind, template(text))]), &sample(), 0).map(|mut values| values.remove(0))
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

#[test]
fn a_single_output_keeps_its_type_and_anything_else_is_text() {
    let decimal = |text: &str| Value::Decimal(text.parse().unwrap());
    for (template, expected) in [
        ("{{ row.n }}", Value::Int(7)),
        (" {{- row['n'] -}} ", Value::Int(7)),
        ("{{ row.price }}", decimal("33.50")),
        ("{{ row.at }}", Value::Timestamp(1_152_098_955_000_000)),
        ("{{ row.ok }}", Value::Bool(false)),
        ("{{ row.nothing }}", Value::Null),
        ("{{ row.n | plus: 1 }}", Value::Int(8)),
        ("{{ row.n | times: 1.5 }}", Value::Float(10.5)),
        ("{{ row.price | minus: 3.2 }}", decimal("30.3")),
        ("{{ row.json.b }}", Value::List(Fragment::parse(r#"[1,2.5,"x"]"#).unwrap())),
        ("{{ row.json.a }}", Value::Null),
        ("{{ row.n | append: '' }}", text("7")),
        ("n={{ row.n }}", text("n=7")),
        ("{{ row.n }}{{ row.n }}", text("77")),
        ("a{{ row.nothing }}b", text("ab")),
        ("{{ row['first name'] | upcase }}!", text("ANN É!")),
        ("{% if row.price > 33 %}dear{% else %}cheap{% endif %}", text("dear")),
        ("{% for x in row.json.b %}{{ x }},{% endfor %}", text("1,2.5,x,")),
        ("x {%- if row.ok %} {%- endif -%} y", text("xy")),
        ("a {{- row.n -}} b", text("a7b")),
        ("plain", text("plain")),
    ] {
        assert_eq!(rendered(template, ValueType::Any), Ok(expected), "{template}");
    }
    assert_eq!(rendered("{{ row.n | plus: 1 }}", ValueType::String), Ok(text("8")));
    assert_eq!(rendered("{{ row.price | minus: 3.2 }}", ValueType::Decimal), Ok(decimal("30.3")));
}

#[test]
fn replaced_filters_do_what_liquid_promises() {
    for (template, expected) in [
        ("_{{ 10 | divided_by: 2.0 }}", "_5.0"),
        ("_{{ 10 | divided_by: 4 }}", "_2"),
        ("_{{ 10.1 | minus: 2.2 }}", "_7.9"),
        ("_{{ 0.1 | plus: 0.2 }}", "_0.3"),
        ("_{{ '1.10' | times: 3 }}", "_3.3"),
        ("_{{ 5.5 | modulo: 2 }}", "_1.5"),
        ("_{{ 1152098955 | date: '%m/%d/%Y' }}", "_07/05/2006"),
        ("_{{ row.at | date: '%Y-%m-%d %H:%M' }}", "_2006-07-05 11:29"),
        ("_{{ 'March 14, 2016' | date: '%b %d, %y' }}", "_Mar 14, 16"),
        ("_{{ '2016-03-14T10:00:00+02:00' | date: '%H' }}", "_08"),
        ("_{{ 'a@b.c x' | url_encode }}", "_a%40b.c+x"),
        ("_{{ row.nothing | default: 'none' }}", "_none"),
        ("_{{ '' | default: 'none' }}", "_none"),
        ("_{{ row.ok | default: 'none' }}", "_none"),
        ("_{{ row.ok | default: 'none', allow_false: true }}", "_false"),
        ("_{{ 0 | default: 'none' }}", "_0"),
        ("_{{ row.nothing | date: '%Y' }}{{ row.nothing | plus: 1 }}{{ row.nothing | url_encode }}", "_"),
        ("_{{ row.rate }} {{ row.price }}", "_3.0 33.5"),
    ] {
        assert_eq!(rendered(template, ValueType::Any), Ok(text(expected)), "{template}");
    }
}

#[test]
fn a_row_that_cannot_be_mapped_says_which_field_and_why() {
    let error = rendered("{{ row['first name'] | to_number }}", ValueType::Any).unwrap_err();
    assert_eq!((error.field.as_str(), error.code), ("f", "template_failed"));
    assert!(error.message.contains("`to_number` needs a number"), "{}", error.message);
    assert!(!error.message.contains("Ann"), "{}", error.message);
    let error = rendered("{{ row.n | divided_by: 0 }}", ValueType::Any).unwrap_err();
    assert!(error.message.contains("division by zero"), "{}", error.message);
    let error = rendered("{{ row['first name'] | date: '%Y' }}", ValueType::Any).unwrap_err();
    assert!(error.message.contains("`date` needs") && !error.message.contains("Ann"), "{}", error.message);
    let error = rendered("{{ row['first name'] }}", ValueType::Int).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        ("type_mismatch", "holds a string that cannot become a field of type int")
    );
}

#[test]
fn objects_keep_their_order_however_they_are_made_into_text() {
    let members: Vec<String> = (0..20).rev().map(|n| format!("\"m{n:02}\":{{\"z\":{n},\"a\":0.5}}")).collect();
    let json = Field::new("json", DataType::Utf8, true)
        .with_metadata(HashMap::from([("ARROW:extension:name".to_owned(), "arrow.json".to_owned())]));
    let fields = vec![Field::new("id", DataType::Int64, true), json];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1])),
        Arc::new(StringArray::from(vec![format!("{{{}}}", members.join(","))])),
    ];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let plain = format!("{{{}}}", members.join(","));
    let names: String = (0..20).rev().map(|n| format!("m{n:02}:{n}/z,a, ")).collect();
    let nested = "{% for m in o %}{{ m[0] }}:{{ m[1].z }}/{% for p in m[1] %}{{ p[0] }},{% endfor %} {% endfor %}";
    for (text, expected) in [
        ("_{{ row.json }}".to_owned(), format!("_{plain}")),
        ("{% assign o = row.json %}_{{ o }}".to_owned(), format!("_{plain}")),
        (format!("{{% assign o = row.json %}}{nested}"), names),
        ("{%- for m in row['json'] limit:2 reversed -%} {{ m[0] }} {%- endfor -%}".to_owned(), "m18m19".to_owned()),
        (
            "{% for m in row.json offset: 19 %}{{ m }}{% else %}-{% endfor %}".to_owned(),
            "m00{\"z\":0,\"a\":0.5}".to_owned(),
        ),
    ] {
        let spec = spec(vec![("f", ValueType::Any, template(&text))]);
        assert_eq!(mapped(&spec, &batch, 0), Ok(vec![Value::String(expected)]), "{text}");
    }
}

#[test]
fn an_error_names_its_place_in_the_template_and_no_value() {
    for (template, message) in [
        ("{{ row.n | divided_by: row.json.nope }}", "division by null in `row.n | divided_by: row.json.nope`"),
        ("x{{ row['first name'] |\n to_number | upcase }}", "none in `row['first name'] | to_number | upcase`"),
        ("{% assign x = row.json | parse_json | keys | keys %}", "in `row.json | parse_json | keys | keys`"),
        ("{% if row['first name'] > 1 %}{% endif %}", "no order; use `to_number` in `row['first name'] > 1`"),
        ("{% for x in row.json.b limit: row.json %}{% endfor %}", "`limit` needs a whole number and got a object"),
    ] {
        let error = rendered(template, ValueType::Any).unwrap_err();
        assert!(error.message.ends_with(message), "{template}: {}", error.message);
    }
}

#[test]
fn output_is_bounded() {
    let limit =
        "{% assign x = 'xxxxxxxxxxxxxxxx' %}".to_owned() + &"{% assign x = x | append: x %}".repeat(12) + "{{ x }}";
    assert_eq!(rendered(&limit, ValueType::Any), Ok(text(&"x".repeat(64 * 1024))));
    let error = rendered(&format!("{limit}y"), ValueType::Any).unwrap_err();
    assert_eq!(error.message, "its template wrote more than 65536 bytes");
}

#[test]
fn problems_are_found_before_any_row_and_all_at_once() {
    let fields = vec![
        ("a", ValueType::Any, Expression::Column("nme".into())),
        ("b", ValueType::Any, template("{{ row.nope }} {{ row['no pe'] }}")),
        ("c", ValueType::Any, template("{{ row.n | shout }}")),
        ("d", ValueType::Any, template("{{ row.n ")),
        ("e", ValueType::Int, Expression::Constant(text("x"))),
        ("f", ValueType::Any, Expression::Object(vec![("x".into(), Expression::Column("gone".into()))])),
        ("g", ValueType::Any, template("{{ n }}")),
        ("h", ValueType::Any, template("{{ row.n | date: '%Q%' }}")),
    ];
    let mut spec = spec(fields);
    spec.key = "ident".into();
    let problems: Vec<String> =
        compile(&spec, &sample().schema()).err().unwrap().iter().map(Problem::to_string).collect();
    for (start, word) in [
        ("sync `users`: ", "the key column `ident`"),
        (
            "sync `users`, field `a`: ",
            "the column `nme` is not in the query's result; its columns are: id, first name, n,",
        ),
        ("sync `users`, field `b`: ", "`nope`"),
        ("sync `users`, field `b`: ", "`no pe`"),
        ("sync `users`, field `c`: ", "shout"),
        ("sync `users`, field `d`: ", "not valid Liquid"),
        ("sync `users`, field `e`: ", "its constant is a string that cannot become a field of type int"),
        ("sync `users`, field `f`: ", "`gone`"),
        ("sync `users`, field `g`: ", "row.n"),
        ("sync `users`, field `h`: ", "bad format"),
    ] {
        assert!(problems.iter().any(|p| p.starts_with(start) && p.contains(word)), "{start}{word}: {problems:#?}");
    }
}

#[test]
fn every_arrow_type_becomes_a_value() {
    let mut list = ListBuilder::new(Int32Builder::new());
    list.append_value([Some(1), None]);
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("k");
    map.values().append_value(5);
    map.append(true).unwrap();
    let structure = StructArray::from(vec![
        (Arc::new(Field::new("x", DataType::Int32, true)), Arc::new(Int32Array::from(vec![1])) as ArrayRef),
        (Arc::new(Field::new("d", DataType::Utf8, true)), Arc::new(StringArray::from(vec!["q\""])) as ArrayRef),
    ]);
    let dictionary: DictionaryArray<Int32Type> = vec!["word"].into_iter().collect();
    let wide = Decimal256Array::from(vec![i256::from_i128(-5)]).with_precision_and_scale(50, 3).unwrap();
    let cases: Vec<(ArrayRef, Value)> = vec![
        (Arc::new(Int8Array::from(vec![-1])), Value::Int(-1)),
        (Arc::new(UInt64Array::from(vec![u64::MAX])), Value::UInt(u64::MAX)),
        (Arc::new(UInt64Array::from(vec![1])), Value::Int(1)),
        (Arc::new(Float32Array::from(vec![0.1])), Value::Float(0.1)),
        (Arc::new(StringViewArray::from(vec!["view"])), text("view")),
        (Arc::new(dictionary), text("word")),
        (Arc::new(BinaryArray::from_vec(vec![b"hi"])), Value::Binary(b"hi".to_vec())),
        (Arc::new(FixedSizeBinaryArray::try_from_iter([[1u8, 2]].iter()).unwrap()), Value::Binary(vec![1, 2])),
        (Arc::new(wide), Value::Decimal("-0.005".parse().unwrap())),
        (Arc::new(Date64Array::from(vec![86_400_000])), Value::Date(1)),
        (Arc::new(TimestampMillisecondArray::from(vec![1]).with_timezone("Europe/Paris")), Value::Timestamp(1000)),
        (Arc::new(TimestampNanosecondArray::from(vec![-1])), Value::Timestamp(-1)),
        (Arc::new(Time32SecondArray::from(vec![3_661])), text("01:01:01")),
        (Arc::new(list.finish()), Value::List(Fragment::parse("[1,null]").unwrap())),
        (Arc::new(map.finish()), Value::Struct(Fragment::parse("{\"k\":5}").unwrap())),
        (Arc::new(structure), Value::Struct(Fragment::parse("{\"x\":1,\"d\":\"q\\\"\"}").unwrap())),
        (Arc::new(NullArray::new(1)), Value::Null),
    ];
    for (array, expected) in cases {
        let kind = array.data_type().clone();
        let spec = spec(vec![("f", ValueType::Any, Expression::Column("x".into()))]);
        assert_eq!(mapped(&spec, &batch(vec![("x", array)]), 0), Ok(vec![expected]), "{kind}");
    }
}

#[test]
fn types_without_a_value_are_problems() {
    let batch = batch(vec![("x", Arc::new(DurationSecondArray::from(vec![1])) as ArrayRef)]);
    let spec = spec(vec![("f", ValueType::Any, Expression::Column("x".into()))]);
    let problems = compile(&spec, &batch.schema()).err().unwrap();
    assert!(problems[0].message.contains("cast it in SQL"), "{}", problems[0]);
}

#[test]
fn a_key_needs_a_type_with_one_text() {
    let floats = batch(vec![("x", Arc::new(Float64Array::from(vec![1.5])) as ArrayRef)]);
    let mut spec = spec(vec![("f", ValueType::Any, Expression::Column("x".into()))]);
    spec.key = "x".into();
    let problems = compile(&spec, &floats.schema()).err().unwrap();
    assert!(problems[0].message.contains("the key column `x` has the type Float64"), "{}", problems[0]);
}

#[test]
fn a_list_that_json_cannot_hold_is_no_null() {
    let mut list = ListBuilder::new(arrow_array::builder::Float64Builder::new());
    list.append_value([Some(1.5), Some(f64::NAN)]);
    let spec = spec(vec![("f", ValueType::Any, Expression::Column("x".into()))]);
    let error = mapped(&spec, &batch(vec![("x", Arc::new(list.finish()))]), 0).unwrap_err();
    assert_eq!(error.code, "invalid_value");
}

#[test]
fn one_bad_cell_rejects_one_row() {
    let batch = batch(vec![("x", Arc::new(TimestampSecondArray::from(vec![i64::MAX, 1])) as ArrayRef)]);
    let spec = spec(vec![("f", ValueType::Any, Expression::Column("x".into()))]);
    assert_eq!(mapped(&spec, &batch, 0).unwrap_err().code, "invalid_value");
    assert_eq!(mapped(&spec, &batch, 1), Ok(vec![Value::Timestamp(1_000_000)]));
}

#[test]
fn times_that_have_no_text_are_neither_keys_nor_text() {
    // As PostgreSQL's driver sends `infinity` and `-infinity`.
    let stamps = Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX, i64::MIN, 0])) as ArrayRef;
    let dates = Arc::new(Date32Array::from(vec![i32::MAX, i32::MIN, 0])) as ArrayRef;
    for times in [stamps, dates] {
        let batch = batch(vec![("x", times)]);
        for template in ["at {{ row.x }}", "{% if row.x > '2020-01-01' %}later{% endif %}"] {
            let spec = spec(vec![("f", ValueType::String, self::template(template))]);
            for row in 0..2 {
                let error = mapped(&spec, &batch, row).unwrap_err();
                assert!(error.message.contains("outside the years 0001 to 9999"), "{}", error.message);
            }
            assert!(mapped(&spec, &batch, 2).is_ok());
        }
        let mut spec = spec(vec![("f", ValueType::Any, Expression::Column("x".into()))]);
        spec.key = "x".into();
        let mapping = compile(&spec, &batch.schema()).ok().unwrap();
        let reader = mapping.reader(&batch).unwrap();
        assert!(reader.key(0).is_err() && reader.key(1).is_err() && reader.key(2).is_ok());
    }
}

#[test]
fn widths_and_encodings_do_not_change_a_rows_bytes() {
    let spec = spec(vec![
        ("a", ValueType::Any, Expression::Column("x".into())),
        ("b", ValueType::Any, Expression::Column("y".into())),
    ]);
    let encoded = |x: ArrayRef, y: ArrayRef| {
        let batch = batch(vec![("x", x), ("y", y)]);
        let mapping = compile(&spec, &batch.schema()).ok().unwrap();
        let mut bytes = Vec::new();
        mapping.reader(&batch).unwrap().encode(0, &mut bytes);
        bytes
    };
    let narrow = encoded(Arc::new(Int32Array::from(vec![5])), Arc::new(StringArray::from(vec!["a"])));
    let wide = encoded(Arc::new(Int64Array::from(vec![5])), Arc::new(StringViewArray::from(vec!["a"])));
    assert_eq!(narrow, wide);
}

#[test]
fn the_fingerprint_follows_the_mapping_and_not_the_columns() {
    let of = |spec: &SyncSpec| compile(spec, &sample().schema()).ok().unwrap().fingerprint();
    let base = spec(vec![("a", ValueType::Int, Expression::Column("n".into()))]);
    assert_eq!(of(&base), of(&base.clone()));
    let others = [
        spec(vec![("b", ValueType::Int, Expression::Column("n".into()))]),
        spec(vec![("a", ValueType::Any, Expression::Column("n".into()))]),
        spec(vec![("a", ValueType::Int, Expression::Column("id".into()))]),
        spec(vec![("a", ValueType::Int, template("{{ row.n }}"))]),
        spec(vec![("a", ValueType::Int, Expression::Constant(Value::Int(1)))]),
    ];
    for other in &others {
        assert_ne!(of(&base), of(other));
    }
}

#[test]
fn objects_and_lists_nest() {
    let from = Expression::Object(vec![
        ("name".into(), Expression::Column("first name".into())),
        ("tags".into(), Expression::List(vec![template("{{ row.n }}"), Expression::Constant(Value::Null)])),
        ("raw".into(), Expression::Column("json".into())),
    ]);
    let values = mapped(&spec(vec![("f", ValueType::Struct, from)]), &sample(), 0).unwrap();
    let expected = r#"{"name":"Ann é","tags":[7,null],"raw":{"b":[1,2.50,"x"],"a":null}}"#;
    assert_eq!(values, vec![Value::Struct(Fragment::parse(expected).unwrap())]);
}
