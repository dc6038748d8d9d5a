//! Filters over text. Anything else counts by the text that an output writes of it.

use std::borrow::Cow;

use super::super::error::Failure;
use super::super::limits::{MAX_MADE_BYTES, MAX_MADE_ITEMS};
use super::super::value::Value;
use super::{Call, Definition, Outcome, filter, seeing};

const DEFAULT_LENGTH: i64 = 50;
const DEFAULT_WORDS: i64 = 15;
const ELLIPSIS: &str = "...";

pub(super) const FILTERS: &[Definition] = &[
    seeing("append", 1, 1, |input, call| Ok(Value::text_of(format!("{}{}", input.to_text(), call.text(0))))),
    seeing("prepend", 1, 1, |input, call| Ok(Value::text_of(format!("{}{}", call.text(0), input.to_text())))),
    filter("capitalize", 0, 0, |input, _| Ok(Value::text_of(capitalized(&input.to_text())))),
    filter("newline_to_br", 0, 0, |input, _| {
        Ok(Value::text_of(input.to_text().replace("\r\n", "\n").replace('\n', "<br />\n")))
    }),
    filter("replace", 1, 2, |input, call| replace(&input.to_text(), &call.text(0), &call.text(1))),
    filter("replace_first", 1, 2, |input, call| Ok(replace_first(&input.to_text(), &call.text(0), &call.text(1)))),
    filter("replace_last", 2, 2, |input, call| Ok(replace_last(&input.to_text(), &call.text(0), &call.text(1)))),
    filter("remove", 1, 1, |input, call| replace(&input.to_text(), &call.text(0), "")),
    filter("remove_first", 1, 1, |input, call| Ok(replace_first(&input.to_text(), &call.text(0), ""))),
    filter("remove_last", 1, 1, |input, call| Ok(replace_last(&input.to_text(), &call.text(0), ""))),
    seeing("size", 0, 0, |input, _| Ok(size(&input))),
    filter("slice", 1, 2, slice),
    filter("split", 1, 1, |input, call| split(&input.to_text(), &call.text(0))),
    filter("truncate", 0, 2, truncate),
    filter("truncatewords", 0, 2, truncate_words),
    filter("url_encode", 0, 0, |input, _| Ok(Value::text_of(url_encoded(&input.to_text())))),
];

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect(),
        None => String::new(),
    }
}

fn replace<'r>(text: &str, search: &str, replacement: &str) -> Outcome<Value<'r>> {
    // Looked at beforehand: a row must not make the product of two long texts.
    if replacement.len() > search.len() {
        let found = text.matches(search).count();
        if found.saturating_mul(replacement.len()).saturating_add(text.len()) > 2 * MAX_MADE_BYTES {
            return Err(Failure::TooLarge);
        }
    }
    Ok(Value::text_of(text.replace(search, replacement)))
}

fn replace_first<'r>(text: &str, search: &str, replacement: &str) -> Value<'r> {
    replace_at(text.find(search), text, search, replacement)
}

fn replace_last<'r>(text: &str, search: &str, replacement: &str) -> Value<'r> {
    replace_at(text.rfind(search), text, search, replacement)
}

/// Replaces what stands at the place that was found.
fn replace_at<'r>(found: Option<usize>, text: &str, search: &str, replacement: &str) -> Value<'r> {
    Value::text_of(match found {
        Some(at) => [&text[..at], replacement, &text[at + search.len()..]].concat(),
        None => text.to_owned(),
    })
}

fn size<'r>(value: &Value<'r>) -> Value<'r> {
    match value {
        Value::Object(object) => Value::count(object.0.len()),
        other => match other.member("size") {
            Value::Nil => Value::count(0),
            size => size,
        },
    }
}

/// A part of a text by characters, or of a list by items; from the end if the first argument is negative.
fn slice<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let whole = |at: usize| match call.get(at) {
        Some(Value::Number(number))
            if number.truncated().is_none_or(|whole| *number != super::super::number::Number::Whole(whole.into())) =>
        {
            Err(call.refuse("a whole number", &call.argument(at)))
        }
        Some(Value::Nil) if at > 0 => Ok(None),
        _ => call.integer(at),
    };
    let start = whole(0)?.unwrap_or(0);
    let length = whole(1)?.unwrap_or(1);
    let (is_list, chars) = match &input {
        Value::List(items) => (Some(items), Vec::new()),
        other => (None, other.to_text().chars().collect::<Vec<char>>()),
    };
    let total = is_list.map_or(chars.len(), |items| items.len());
    let range = part(start, length, total);
    Ok(match is_list {
        Some(items) => Value::list(items[range].to_vec()),
        None => Value::text_of(chars[range].iter().collect::<String>()),
    })
}

/// The places of a part; empty where there is none.
fn part(start: i64, length: i64, total: usize) -> std::ops::Range<usize> {
    let total = i64::try_from(total).unwrap_or(i64::MAX);
    let start = if start < 0 { total.saturating_add(start) } else { start };
    if start < 0 || start > total || length <= 0 {
        return 0..0;
    }
    let end = start.saturating_add(length).min(total);
    usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0)
}

/// Parts between a separator; characters without one; words if it is a blank. Empty parts at the end are left out.
fn split<'r>(text: &str, separator: &str) -> Outcome<Value<'r>> {
    let owned = |part: &str| Value::text_of(part.to_owned());
    // One more than may be made: that is then refused, and no long text makes more.
    let most = MAX_MADE_ITEMS + 1;
    let mut parts: Vec<Value<'r>> = match separator {
        "" => text.chars().take(most).map(|c| Value::text_of(c.to_string())).collect(),
        " " => text.split_whitespace().take(most).map(owned).collect(),
        _ => text.split(separator).take(most).map(owned).collect(),
    };
    if parts.len() == most {
        return Err(Failure::TooLarge);
    }
    while parts.last().is_some_and(Value::is_empty) {
        parts.pop();
    }
    Ok(Value::list(parts))
}

/// A number that may be left out but must be one if given.
fn count(call: &Call<'_, '_>, default: i64) -> Outcome<usize> {
    let count = call.integer(0)?.unwrap_or(default);
    Ok(usize::try_from(count).unwrap_or(0))
}

fn ending<'c>(call: &'c Call<'_, '_>) -> Cow<'c, str> {
    if call.get(1).is_some() { call.text(1) } else { Cow::Borrowed(ELLIPSIS) }
}

fn truncate<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let (length, ending) = (count(call, DEFAULT_LENGTH)?, ending(call));
    let text = input.into_text();
    if text.chars().count() <= length {
        return Ok(Value::Text(text));
    }
    let kept = length.saturating_sub(ending.chars().count());
    Ok(Value::text_of(text.chars().take(kept).chain(ending.chars()).collect::<String>()))
}

fn truncate_words<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let (words, ending) = (count(call, DEFAULT_WORDS)?.max(1), ending(call));
    let text = input.into_text();
    if text.split_whitespace().nth(words).is_none() {
        return Ok(Value::Text(text));
    }
    let kept: Vec<&str> = text.split_whitespace().take(words).collect();
    Ok(Value::text_of(kept.join(" ") + &ending))
}

/// As HTML forms do it: a blank becomes `+`.
fn url_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'.' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => out.push(char::from(byte)),
            _ => {
                out.push('%');
                for digit in [byte >> 4, byte & 15] {
                    out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
                }
            }
        }
    }
    out
}
