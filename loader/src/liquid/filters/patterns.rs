//! Filters with regular expressions. A pattern stands in the template, is compiled once and is matched in linear time.

use regex::{Regex, RegexBuilder};

use super::super::error::{Failure, Problem};
use super::super::expression::Expression;
use super::super::limits::{MAX_MADE_BYTES, MAX_PATTERN_BYTES, MAX_WORK_BYTES};
use super::super::value::Value;
use super::{Call, Definition, Outcome, Prepared, filter};

pub(super) const FILTERS: &[Definition] = &[
    Definition {
        prepare,
        ..filter("regex_match", 1, 1, |input, call| Ok(Value::Bool(pattern(call)?.is_match(&input.to_text()))))
    },
    Definition { prepare, ..filter("regex_replace", 2, 2, replace) },
    Definition { prepare, ..filter("regex_extract", 1, 2, extract) },
];

fn prepare(arguments: &[Expression]) -> Result<Prepared, Problem> {
    let Some(pattern) = arguments.first().and_then(Expression::as_text) else {
        return Err(Problem::new("a pattern must be a text in quotes, so that it is compiled once"));
    };
    let built = RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES).build();
    built.map(Prepared::Pattern).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => Problem::new(format!("the pattern `{pattern}` is too large")),
        _ => Problem::new(format!("`{pattern}` is no regular expression")),
    })
}

fn pattern<'c>(call: &Call<'c, '_>) -> Outcome<&'c Regex> {
    match call.prepared {
        Prepared::Pattern(regex) => Ok(regex),
        _ => Err(Failure::refused(format!("`{}` has no pattern", call.name))),
    }
}

/// Every match replaced; `$1` and `${name}` stand for groups.
fn replace<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let (text, replacement) = (input.to_text(), call.text(1));
    let groups = replacement.matches('$').count();
    let mut out = String::new();
    let mut end = 0;
    for found in pattern(call)?.captures_iter(&text) {
        let Some(whole) = found.get(0) else { continue };
        out.push_str(&text[end..whole.start()]);
        // Looked at beforehand: a long match may stand in the replacement again and again.
        if whole.len().saturating_mul(groups) > MAX_WORK_BYTES {
            return Err(Failure::TooLarge);
        }
        found.expand(&replacement, &mut out);
        end = whole.end();
        if out.len() > MAX_MADE_BYTES {
            return Err(Failure::TooLarge);
        }
    }
    out.push_str(&text[end..]);
    Ok(Value::text_of(out))
}

/// The first match, or a group of it by number or name; null if there is none.
fn extract<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let text = input.to_text();
    let Some(found) = pattern(call)?.captures(&text) else { return Ok(Value::Nil) };
    let group = match call.get(1) {
        None => found.get(0),
        Some(group) => match group.to_integer().map(usize::try_from) {
            Some(Ok(number)) => found.get(number),
            _ => found.name(&group.to_text()),
        },
    };
    Ok(group.map_or(Value::Nil, |group| Value::text_of(group.as_str().to_owned())))
}
