//! Batches as NDJSON: one patch a line, `{"op":"upsert","key":"42","set":{…},"unset":["name"]}`.
//!
//! A line that is not JSON makes the whole body malformed, since nobody can tell what else is missing. A line that is
//! JSON and no patch is a bad row. Numbers never pass through a double.

use std::borrow::Cow;
use std::fmt;

use larder_types::error::ErrorCode;
use larder_types::ids::FieldId;
use larder_types::key::Key;
use larder_types::patch::{Change, Op, Patch};
use larder_types::value::Value;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::validate::{Fault, Row, Sorted, SyncFields, convert};
use crate::error::ApiError;

/// Reads a whole body.
///
/// # Errors
/// `invalid_request` naming the line that is not JSON, `invalid_encoding` for one that is not UTF-8,
/// `payload_too_large` for too many rows.
pub(super) fn decode(body: &[u8], fields: &SyncFields<'_>, sorted: &mut Sorted) -> Result<(), ApiError> {
    for (line, number) in body.split(|byte| *byte == b'\n').zip(1..) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let text = std::str::from_utf8(line).map_err(|_| {
            ApiError::new(ErrorCode::InvalidEncoding, format!("line {number} is not UTF-8; nothing was applied"))
        })?;
        sorted.push(read_line(text, number, fields)?)?;
    }
    Ok(())
}

fn read_line(text: &str, number: usize, fields: &SyncFields<'_>) -> Result<Row, ApiError> {
    let malformed = |error: serde_json::Error| {
        let message = format!("line {number} is not JSON (column {}); nothing was applied", error.column());
        ApiError::invalid(message)
    };
    match serde_json::from_str::<Members<'_>>(text) {
        Ok(members) => Ok(read_patch(&members, fields)),
        Err(error) if error.is_data() => {
            serde_json::from_str::<IgnoredAny>(text).map_err(malformed)?;
            Ok(Row::Bad { key: None, op: Op::Upsert, fault: Fault::patch("the line is no JSON object") })
        }
        Err(error) => Err(malformed(error)),
    }
}

fn read_patch(members: &Members<'_>, fields: &SyncFields<'_>) -> Row {
    let (mut op, mut key, mut set, mut unset) = (None, None, None, None);
    let mut fault = None;
    for (name, raw) in &members.0 {
        let slot = match name.0.as_ref() {
            "op" => &mut op,
            "key" => &mut key,
            "set" => &mut set,
            "unset" => &mut unset,
            _ => {
                fault = Some(Fault::patch("a patch has the members op, key, set and unset and no others"));
                continue;
            }
        };
        if slot.replace(*raw).is_some() {
            fault = Some(Fault::patch(format!("the member `{}` is given twice", name.0)));
        }
    }
    let op = op.map_or(Ok(Op::default()), read_op);
    let key = key.map_or_else(|| Err(Fault::patch("the member `key` is missing")), read_key);
    let read = || {
        let op = op.clone()?;
        let key = key.clone()?;
        fault.map_or(Ok(()), Err)?;
        Ok(Patch { key, change: read_change(op, (set, unset), fields)? })
    };
    read().map_or_else(|fault| Row::Bad { key: key.ok(), op: op.unwrap_or_default(), fault }, Row::Good)
}

fn read_op(raw: &RawValue) -> Result<Op, Fault> {
    let word: Option<Cow<'_, str>> = serde_json::from_str(raw.get()).ok();
    word.and_then(|word| Op::parse(&word)).ok_or_else(|| Fault::patch("`op` must be upsert, clear or delete"))
}

fn read_key(raw: &RawValue) -> Result<Key, Fault> {
    match Value::from_json(raw.get()) {
        Ok(value @ (Value::String(_) | Value::Int(_) | Value::UInt(_) | Value::Null)) => {
            Key::from_value(&value).map_err(Fault::key)
        }
        Ok(other) => {
            let message = format!("a key must be a string or a whole number of 64 bits, not a {}", other.kind());
            Err(Fault::new("invalid_key", message))
        }
        Err(error) => Err(Fault::new("invalid_key", error.to_string())),
    }
}

fn read_change(
    op: Op,
    (set, unset): (Option<&RawValue>, Option<&RawValue>),
    fields: &SyncFields<'_>,
) -> Result<Change, Fault> {
    match (op, set, unset) {
        (Op::Upsert, None, None) => Err(Fault::patch("an upsert needs the member `set`, `unset` or both")),
        (Op::Upsert, set, unset) => read_fields(set, unset, fields),
        (Op::Clear, None, None) => Ok(Change::Clear),
        (Op::Delete, None, None) => Ok(Change::Delete),
        _ => Err(Fault::patch("only an upsert takes the members `set` and `unset`")),
    }
}

fn read_fields(set: Option<&RawValue>, unset: Option<&RawValue>, fields: &SyncFields<'_>) -> Result<Change, Fault> {
    let mut values = set.map_or_else(|| Ok(Vec::new()), |set| read_set(set, fields))?;
    if let Some(unset) = unset {
        let names: Vec<Name<'_>> =
            serde_json::from_str(unset.get()).map_err(|_| Fault::patch("`unset` must be a list of names of fields"))?;
        for name in names {
            values.push((fields.own(&name.0)?.0, None));
        }
    }
    let mut ids: Vec<_> = values.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Fault::patch("`set` and `unset` name a field twice"));
    }
    Ok(Change::Upsert(values))
}

fn read_set(set: &RawValue, fields: &SyncFields<'_>) -> Result<Vec<(FieldId, Option<Value>)>, Fault> {
    let members: Members<'_> =
        serde_json::from_str(set.get()).map_err(|_| Fault::patch("`set` must be an object of fields"))?;
    let mut values = Vec::with_capacity(members.0.len());
    for (name, raw) in &members.0 {
        let (id, kind) = fields.own(&name.0)?;
        let value = Value::from_json(raw.get())
            .map_err(|error| Fault::new("invalid_value", error.to_string()).in_field(&name.0))?;
        values.push((id, Some(convert(value, kind, &name.0)?)));
    }
    Ok(values)
}

/// The members of an object in their order, names that are given twice included, which maps would hide.
struct Members<'a>(Vec<(Name<'a>, &'a RawValue)>);

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use larder_types::decimal::Decimal;
    use larder_types::value::ValueType;
    use proptest::prelude::*;

    use super::super::validate::tests::{collection, sorted};
    use super::*;

    fn row(line: &str) -> Row {
        let (collection, sync) = collection(&[("n", ValueType::Int), ("x", ValueType::Any), ("a\"b", ValueType::Any)]);
        read_line(line, 1, &SyncFields::new(&collection, &sync)).unwrap()
    }

    fn fault(line: &str) -> (Option<String>, &'static str) {
        match row(line) {
            Row::Bad { key, fault, .. } => (key.map(|key| key.as_str().to_owned()), fault.code),
            Row::Good(patch) => panic!("{line} became {patch:?}"),
        }
    }

    fn upsert(key: &str, fields: Vec<(u16, Value)>) -> Row {
        let fields = fields.into_iter().map(|(id, value)| (FieldId(id), Some(value))).collect();
        Row::Good(Patch { key: Key::new(key).unwrap(), change: Change::Upsert(fields) })
    }

    #[test]
    fn patches_are_read() {
        assert_eq!(row(r#"{"op":"upsert","key":"42","set":{"n":"7"}}"#), upsert("42", vec![(1, Value::Int(7))]));
        assert_eq!(row(r#"{"key":42,"set":{}}"#), upsert("42", vec![]));
        assert_eq!(row(r#"{"set":{"x":null},"key":"k"}"#), upsert("k", vec![(2, Value::Null)]));
        assert_eq!(row(r#"{"key":"k","set":{"a\"b":true}}"#), upsert("k", vec![(3, Value::Bool(true))]));
        let exact = Value::Decimal(Decimal::new(12_345_678_901_234_567_890, 10).unwrap());
        assert_eq!(row(r#"{"key":"k","set":{"x":1234567890.1234567890}}"#), upsert("k", vec![(2, exact)]));
        let key = Key::new("18446744073709551615").unwrap();
        assert_eq!(
            row(r#" {"op":"delete","key":18446744073709551615} "#),
            Row::Good(Patch { key: key.clone(), change: Change::Delete })
        );
        assert_eq!(
            row(r#"{"op":"clear","key":18446744073709551615}"#),
            Row::Good(Patch { key, change: Change::Clear })
        );
    }

    #[test]
    fn fields_are_taken_out_beside_others_that_are_set() {
        let change = |fields: Vec<(u16, Option<Value>)>| {
            let fields = fields.into_iter().map(|(id, value)| (FieldId(id), value)).collect();
            Row::Good(Patch { key: Key::new("k").unwrap(), change: Change::Upsert(fields) })
        };
        assert_eq!(
            row(r#"{"key":"k","set":{"n":1},"unset":["x"]}"#),
            change(vec![(1, Some(Value::Int(1))), (2, None)])
        );
        assert_eq!(row(r#"{"key":"k","unset":["a\"b"]}"#), change(vec![(3, None)]));
        assert_eq!(row(r#"{"key":"k","unset":[]}"#), change(vec![]));
        for (line, code) in [
            (r#"{"key":"k","set":{"n":1},"unset":["n"]}"#, "invalid_patch"),
            (r#"{"key":"k","unset":["n","n"]}"#, "invalid_patch"),
            (r#"{"key":"k","unset":"n"}"#, "invalid_patch"),
            (r#"{"key":"k","unset":{"n":1}}"#, "invalid_patch"),
            (r#"{"op":"clear","key":"k","unset":["n"]}"#, "invalid_patch"),
            (r#"{"key":"k","unset":["nope"]}"#, "unknown_field"),
            (r#"{"key":"k","unset":["foreign"]}"#, "field_owned_by_other_sync"),
        ] {
            assert_eq!(fault(line), (Some("k".to_owned()), code), "{line}");
        }
    }

    #[test]
    fn bad_rows_say_why() {
        for (line, key, code) in [
            (r#"42"#, None, "invalid_patch"),
            (r#"[]"#, None, "invalid_patch"),
            (r#"{}"#, None, "invalid_patch"),
            (r#"{"op":"explode","key":"k","set":{}}"#, Some("k"), "invalid_patch"),
            (r#"{"op":7,"key":"k","set":{}}"#, Some("k"), "invalid_patch"),
            (r#"{"key":"k"}"#, Some("k"), "invalid_patch"),
            (r#"{"key":"k","set":[]}"#, Some("k"), "invalid_patch"),
            (r#"{"op":"clear","key":"k","set":{}}"#, Some("k"), "invalid_patch"),
            (r#"{"key":"k","key":"l","set":{}}"#, Some("l"), "invalid_patch"),
            (r#"{"key":"k","set":{},"sets":{}}"#, Some("k"), "invalid_patch"),
            (r#"{"key":"k","set":{"n":1,"x":2,"n":1}}"#, Some("k"), "invalid_patch"),
            (r#"{"key":"","set":{}}"#, None, "invalid_key"),
            (r#"{"key":null,"set":{}}"#, None, "invalid_key"),
            (r#"{"key":1.5,"set":{}}"#, None, "invalid_key"),
            (r#"{"key":true,"set":{}}"#, None, "invalid_key"),
            (r#"{"key":["k"],"set":{}}"#, None, "invalid_key"),
            (r#"{"key":"\ud800","set":{}}"#, None, "invalid_key"),
            (r#"{"key":"k","set":{"nope":1}}"#, Some("k"), "unknown_field"),
            (r#"{"key":"k","set":{"foreign":1}}"#, Some("k"), "field_owned_by_other_sync"),
            (r#"{"key":"k","set":{"n":"x"}}"#, Some("k"), "type_mismatch"),
            (r#"{"key":"k","set":{"x":"\ud800"}}"#, Some("k"), "invalid_value"),
            (r#"{"key":"k","set":{"x":1e999}}"#, Some("k"), "invalid_value"),
        ] {
            assert_eq!(fault(line), (key.map(str::to_owned), code), "{line}");
        }
        for line in [r#"{"key":18446744073709551616,"set":{}}"#, r#"{"key":true,"set":{}}"#] {
            let Row::Bad { fault, .. } = row(line) else { panic!("{line} is good") };
            assert!(fault.message.starts_with("a key must be a string or a whole number of 64 bits, not a"), "{line}");
        }
        let deep = format!(r#"{{"key":"k","set":{{"x":{}{}}}}}"#, "[".repeat(50_000), "]".repeat(50_000));
        assert_eq!(fault(&deep).1, "invalid_value");
    }

    #[test]
    fn a_line_that_is_not_json_fails_the_body_and_is_named() {
        let (collection, sync) = collection(&[("n", ValueType::Int)]);
        let fields = SyncFields::new(&collection, &sync);
        let good = r#"{"key":"k","set":{"n":1}}"#;
        for bad in ["{\"op\":\"upsert\",", "nonsense", "{\"key\":\"k\"}}", "\u{feff}{}", "42 43", "{\"a\":tru}"] {
            let body = format!("{good}\n\r\n{bad}\n{good}");
            let error = decode(body.as_bytes(), &fields, &mut sorted()).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest, "{bad}");
            assert!(error.message().contains("line 3"), "{bad}: {}", error.message());
        }
        let error = decode(b"{}\n\xff\n", &fields, &mut sorted()).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidEncoding);
    }

    #[test]
    fn blank_lines_are_no_rows() {
        let (collection, sync) = collection(&[("n", ValueType::Int)]);
        let mut sorted = sorted();
        let body = b"\n{\"key\":\"a\",\"set\":{}}\r\n\n  \n{\"key\":\"\",\"set\":{}}";
        decode(body, &SyncFields::new(&collection, &sync), &mut sorted).unwrap();
        let prepared = sorted.finish();
        assert_eq!((prepared.rows, prepared.rejected.len(), prepared.rejected[0].row.row), (2, 1, 1));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in "([{}\\[\\]:,\"a-z0-9\\\\\n]|\"key\":|\"set\":|\"n\"){0,80}") {
            let (collection, sync) = collection(&[("n", ValueType::Int)]);
            let _ = decode(body.as_bytes(), &SyncFields::new(&collection, &sync), &mut sorted());
        }
    }
}
