//! Keys of several columns, errors that reject no row, and what a changed mapping sends again.

use std::sync::Arc;

use arrow_array::{ArrayRef, Date32Array, Int64Array, RecordBatch, StringArray};
use larder_types::patch::Nulls;
use proptest::prelude::*;

use super::tests::{batch, spec};
use super::*;
use crate::project::{Expression, FieldMapping};

fn column(name: &str) -> Expression {
    Expression::Column(name.to_owned())
}

/// A sync whose fields are columns of the same name.
pub(crate) fn plain_sync(fields: &[(&str, ValueType)]) -> SyncSpec {
    spec(fields.iter().map(|(name, kind)| (*name, *kind, column(name))).collect())
}

fn texts(texts: Vec<Option<String>>) -> ArrayRef {
    Arc::new(StringArray::from(texts))
}

fn compiled(spec: &SyncSpec, batch: &RecordBatch) -> Mapping {
    compile(spec, &batch.schema()).map_err(|problems| panic!("{}", problems[0])).unwrap()
}

/// All rows' fields, and how often values were replaced.
fn all(spec: &SyncSpec, batch: &RecordBatch) -> (Vec<Result<Vec<Value>, FieldError>>, Replaced) {
    let mapping = compiled(spec, batch);
    let reader = mapping.reader(batch).unwrap();
    let mut replaced = Replaced::default();
    let rows = (0..batch.num_rows()).map(|row| {
        let mut bytes = Vec::new();
        reader.encode(row, &mut bytes);
        mapping.fields(&mapping.decode(&bytes).unwrap(), &mut replaced)
    });
    (rows.collect(), replaced)
}

fn keys(columns: Vec<(&str, ArrayRef)>) -> Vec<Result<String, KeyError>> {
    let mut spec = spec(vec![("f", ValueType::Any, column("id"))]);
    spec.key = KeySpec::of(columns.iter().map(|(name, _)| (*name).to_owned()).collect());
    let batch = batch(columns);
    let reader = compiled(&spec, &batch).reader(&batch).unwrap();
    (0..batch.num_rows()).map(|row| reader.key(row).map(|key| key.as_str().to_owned())).collect()
}

#[test]
fn a_key_of_several_columns_is_their_texts_with_a_separator() {
    let country = texts(vec![Some("NO".into()), Some("a:~".into()), None, Some("".into())]);
    let number: ArrayRef = Arc::new(Int64Array::from(vec![42, 1, 2, 3]));
    let day: ArrayRef = Arc::new(Date32Array::from(vec![0, 0, 0, 0]));
    assert_eq!(
        keys(vec![("country", country), ("number", number), ("day", day)]),
        [
            Ok("NO:42:1970-01-01".to_owned()),
            Ok("a~:~~:1:1970-01-01".to_owned()),
            Err(KeyError::Null),
            Err(KeyError::Empty)
        ]
    );
    let long = texts(vec![Some("x".repeat(600))]);
    assert_eq!(keys(vec![("a", long.clone()), ("b", long)]), [Err(KeyError::TooLong(1201))]);
}

#[test]
fn each_column_of_a_key_must_be_fit_for_one() {
    let floats: ArrayRef = Arc::new(arrow_array::Float64Array::from(vec![1.5]));
    let mut spec = spec(vec![("f", ValueType::Any, column("id"))]);
    spec.key = KeySpec::of(vec!["id".into(), "x".into(), "gone".into()]);
    let problems = compile(&spec, &batch(vec![("x", floats)]).schema()).err().unwrap();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(
        problems[0].contains("`x` has the type Float64") && problems[1].contains("`gone` is not in"),
        "{problems:?}"
    );
}

fn lenient(on_error: OnError) -> SyncSpec {
    let mut spec = spec(vec![("n", ValueType::Int, column("x")), ("x", ValueType::String, column("x"))]);
    spec.fields[0].on_error = on_error;
    spec
}

#[test]
fn errors_are_counted_by_field_and_only_for_rows_that_are_sent() {
    let rows = batch(vec![("x", texts(vec![Some("7".into()), Some("seven".into()), None]))]);
    let (found, replaced) = all(&lenient(OnError::Use(Value::Int(0))), &rows);
    let firsts: Vec<Value> = found.into_iter().map(|row| row.unwrap().remove(0)).collect();
    assert_eq!(firsts, [Value::Int(7), Value::Int(0), Value::Null]);
    assert_eq!(replaced.0.into_iter().collect::<Vec<_>>(), [(FieldName::new("n").unwrap(), 1)]);

    let (found, replaced) = all(&lenient(OnError::Reject), &rows);
    assert_eq!(found[1].as_ref().unwrap_err().code, "type_mismatch");
    assert!(replaced.0.is_empty());

    let mut spec = lenient(OnError::Use(Value::Null));
    spec.fields.push(FieldMapping::new(FieldName::new("strict").unwrap(), ValueType::Int, column("x")));
    let (found, replaced) = all(&spec, &rows);
    assert!(found[1].is_err() && replaced.0.is_empty(), "a row that another field rejects is no replaced value");
}

#[test]
fn lists_of_objects_keep_their_nulls() {
    let object = |name: &str| {
        Expression::Object(vec![("v".into(), column(name)), ("c".into(), Expression::Constant(Value::Int(1)))])
    };
    let spec = spec(vec![("f", ValueType::List, Expression::List(vec![object("x"), object("id")]))]);
    let (found, _) = all(&spec, &batch(vec![("x", texts(vec![None]))]));
    let mut json = String::new();
    found[0].as_ref().unwrap()[0].write_json(&mut json);
    assert_eq!(json, r#"[{"v":null,"c":1},{"v":0,"c":1}]"#);
}

#[test]
fn a_fingerprint_follows_all_that_decides_what_rows_become() {
    let rows = batch(vec![("x", texts(vec![None]))]);
    let of = |spec: &SyncSpec| compiled(spec, &rows).fingerprint();
    let mut base = lenient(OnError::Reject);
    base.variables.insert("region".into(), Value::Int(1));
    base.fields.push(FieldMapping::new(
        FieldName::new("t").unwrap(),
        ValueType::Any,
        Expression::Template("{{ vars.region }}".into()),
    ));
    let differs = |edit: &dyn Fn(&mut SyncSpec)| {
        let mut spec = base.clone();
        edit(&mut spec);
        of(&spec) != of(&base)
    };
    assert!(differs(&|spec| spec.fields[0].kind = ValueType::Float));
    assert!(differs(&|spec| spec.fields[0].nulls = Nulls::Skip));
    assert!(differs(&|spec| spec.fields[0].on_error = OnError::Use(Value::Null)));
    assert!(differs(&|spec| spec.fields.truncate(1)));
    assert!(differs(&|spec| spec.key = "x".into()));
    assert!(differs(&|spec| drop(spec.variables.insert("region".into(), Value::Int(2)))), "a template reads it");
    assert!(!differs(&|spec| drop(spec.variables.insert("other".into(), Value::Int(2)))), "nothing reads it");
    assert!(!differs(&|spec| spec.fields.reverse()));
}

#[test]
fn templates_read_variables_and_the_sync() {
    let rows = batch(vec![("x", texts(vec![Some("a".into())]))]);
    let mut base = spec(vec![("f", ValueType::Any, Expression::Constant(Value::Null))]);
    base.variables.insert("rate".into(), Value::Float(1.5));
    base.variables.insert("where".into(), Value::Struct(Fragment::parse(r#"{"city":"Oslo"}"#).unwrap()));
    let mut rendered = |text: &str| {
        base.fields[0].from = Expression::Template(text.into());
        let problems = compile(&base, &rows.schema()).err();
        if let Some(problems) = problems {
            return Err(problems[0].message.clone());
        }
        Ok(all(&base, &rows).0.remove(0).unwrap().remove(0))
    };
    let text = |text: &str| Ok(Value::String(text.into()));
    assert_eq!(rendered("{{ vars.rate }}"), Ok(Value::Float(1.5)));
    assert_eq!(rendered("{{ vars['where'].city | upcase }}-{{ row.x }}"), text("OSLO-a"));
    assert_eq!(rendered("{{ sync.name }} {{ sync.model }} {{ sync.collection }}"), text("users t c"));
    let found = rendered("{{ vars.rat }}").unwrap_err();
    assert!(found.contains("there is no `vars.rat`; there is `vars.rate`"), "{found}");
    assert!(rendered("{{ vars }}").unwrap_err().contains("there is no `vars`"));
    assert!(rendered("{% assign vars = 1 %}").unwrap_err().contains("`vars` is given to the template"));
}

proptest! {
    /// Different tuples have different keys, and equal ones the same.
    #[test]
    fn keys_tell_tuples_apart(
        tuples in proptest::collection::vec(("[a:~é]{0,3}", proptest::option::of("[a:~é]{0,3}")), 1..12),
    ) {
        let first = tuples.iter().map(|(first, _)| Some(first.clone())).collect();
        let second = tuples.iter().map(|(_, second)| second.clone()).collect();
        let found = keys(vec![("a", texts(first)), ("b", texts(second))]);
        for (at, one) in tuples.iter().enumerate() {
            let usable = !one.0.is_empty() && one.1.as_ref().is_some_and(|part| !part.is_empty());
            prop_assert_eq!(found[at].is_ok(), usable);
            for (other_at, other) in tuples.iter().enumerate().filter(|(other, _)| found[at].is_ok() && found[*other].is_ok()) {
                prop_assert_eq!(found[at] == found[other_at], one == other);
            }
        }
    }

    /// With a default no row is rejected, and every value that does not fit is counted.
    #[test]
    fn a_default_takes_the_place_of_every_error(cells in proptest::collection::vec("[0-9]{1,3}|[a-z]{1,3}", 1..20)) {
        let rows = batch(vec![("x", texts(cells.iter().cloned().map(Some).collect()))]);
        let (found, replaced) = all(&lenient(OnError::Use(Value::Int(-1))), &rows);
        let mut bad = 0;
        for (row, cell) in found.iter().zip(&cells) {
            let expected = cell.parse::<i64>().unwrap_or(-1);
            bad += u64::from(expected == -1);
            prop_assert_eq!(&row.as_ref().unwrap()[0], &Value::Int(expected));
        }
        prop_assert_eq!(replaced.0.values().sum::<u64>(), bad);
    }
}
