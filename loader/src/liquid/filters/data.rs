//! Filters over data: defaults, JSON, members of objects, types.

use larder_types::json::Fragment;
use larder_types::value::{Value as Field, ValueType};

use super::super::error::{Failure, Problem};
use super::super::expression::Expression;
use super::super::json;
use super::super::value::Value;
use super::{Call, Definition, Outcome, Prepared, filter, seeing};

/// Most arguments of a filter that takes many.
const MANY: usize = 32;

const TRUE: [&str; 6] = ["true", "t", "yes", "y", "on", "1"];
const FALSE: [&str; 6] = ["false", "f", "no", "n", "off", "0"];

pub(super) const FILTERS: &[Definition] = &[
    Definition { named: &["allow_false"], ..seeing("default", 0, 1, |input, call| Ok(default(input, call))) },
    seeing("coalesce", 1, MANY, |input, call| {
        let mut all = std::iter::once(&input).chain(call.arguments);
        Ok(all.find(|value| !value.is_nil()).cloned().unwrap_or(Value::Nil))
    }),
    seeing("present", 0, 0, |input, _| Ok(Value::Bool(matches!(input, Value::Bool(_)) || !input.is_blank()))),
    seeing("json", 0, 0, |input, _| {
        let mut out = String::new();
        input.write_json(&mut out);
        Ok(Value::text_of(out))
    }),
    filter("parse_json", 0, 0, parse_json),
    filter("keys", 0, 0, |input, call| members(&input, call, |name, _| name)),
    filter("values", 0, 0, |input, call| members(&input, call, |_, value| value)),
    filter("entries", 0, 0, |input, call| {
        members(&input, call, |name, value| Value::object(vec![("key".into(), name), ("value".into(), value)]))
    }),
    filter("pick", 1, MANY, |input, call| keep(&input, call, true)),
    filter("omit", 1, MANY, |input, call| keep(&input, call, false)),
    Definition { prepare: prepare_cast, ..filter("cast", 1, 1, cast) },
    filter("to_boolean", 0, 0, to_boolean),
];

fn default<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Value<'r> {
    let allows_false = call.named.iter().any(|(_, value)| value.is_truthy());
    let is_missing = match &input {
        Value::Nil | Value::Empty | Value::Blank => true,
        Value::Bool(false) => !allows_false,
        other => other.is_empty(),
    };
    if is_missing { call.argument(0) } else { input }
}

fn parse_json<'r>(input: Value<'r>, _: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let Value::Text(text) = input else { return Ok(input) };
    let bad = |error| Failure::refused(format!("`parse_json`: {error}"));
    let scalar = match text.trim_start().as_bytes().first() {
        Some(b'[' | b'{') => {
            let fragment = Fragment::parse(&text).map_err(bad)?;
            return Ok(json::read(fragment.as_str()).into_owned());
        }
        _ => Field::from_json(&text).map_err(bad)?,
    };
    Ok(Value::of_column(&scalar).into_owned())
}

fn members<'r>(
    input: &Value<'r>,
    call: &Call<'_, 'r>,
    made: impl Fn(Value<'r>, Value<'r>) -> Value<'r>,
) -> Outcome<Value<'r>> {
    let Value::Object(object) = input else { return Err(call.refuse("an object", input)) };
    Ok(Value::list(object.0.iter().map(|(name, value)| made(Value::Text(name.clone()), value.clone())).collect()))
}

/// The object with only the members that the arguments name, or without them.
fn keep<'r>(input: &Value<'r>, call: &Call<'_, 'r>, wanted: bool) -> Outcome<Value<'r>> {
    let Value::Object(object) = input else { return Err(call.refuse("an object", input)) };
    let is_named = |name: &str| call.arguments.iter().any(|argument| argument.to_text() == name);
    Ok(Value::object(object.0.iter().filter(|(name, _)| is_named(name) == wanted).cloned().collect()))
}

fn prepare_cast(arguments: &[Expression]) -> Result<Prepared, Problem> {
    let name = arguments.first().and_then(Expression::as_text);
    let known = name.and_then(|name| ValueType::ALL.into_iter().find(|kind| kind.as_str() == name));
    known.map(Prepared::Type).ok_or_else(|| {
        let names = ValueType::ALL.map(ValueType::as_str).join(", ");
        Problem::new(format!("`cast` needs one of these in quotes: {names}"))
    })
}

fn cast<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let Prepared::Type(kind) = call.prepared else { return Ok(input) };
    let field = input.to_field()?.convert(*kind);
    let field = field.map_err(|reason| Failure::refused(format!("`cast` got {reason}")))?;
    Ok(Value::of_column(&field).into_owned())
}

fn to_boolean<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    if let Value::Bool(_) = input {
        return Ok(input);
    }
    let text = match &input {
        Value::Text(_) | Value::Number(_) => input.to_text().trim().to_ascii_lowercase(),
        _ => return Err(call.refuse("a truth value, a number or a text", &input)),
    };
    match text.as_str() {
        text if TRUE.contains(&text) => Ok(Value::Bool(true)),
        text if FALSE.contains(&text) => Ok(Value::Bool(false)),
        _ => Err(Failure::refused("`to_boolean` needs true, false, yes, no, on, off, 1 or 0")),
    }
}
