//! Filters over lists. A list in a list is flattened, as Shopify does; a value that is no list is a list of it alone.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::super::condition::{are_equal, order};
use super::super::error::Failure;
use super::super::number::Number;
use super::super::value::Value;
use super::{Call, Definition, Outcome, filter, seeing};

pub(super) const FILTERS: &[Definition] = &[
    filter("first", 0, 0, |input, _| Ok(end(&input, "first"))),
    filter("last", 0, 0, |input, _| Ok(end(&input, "last"))),
    filter("join", 0, 1, join),
    filter("reverse", 0, 0, |input, _| {
        let mut items = input.items()?;
        items.reverse();
        Ok(Value::list(items))
    }),
    seeing("concat", 1, 1, concat),
    filter("compact", 0, 1, compact),
    filter("uniq", 0, 1, uniq),
    filter("map", 1, 1, map),
    filter("sort", 0, 1, sort),
    filter("sort_natural", 0, 1, sort_natural),
    seeing("sum", 0, 1, sum),
    filter("where", 1, 2, |input, call| select(&input, call, |found| found)),
    filter("reject", 1, 2, |input, call| select(&input, call, |found| !found)),
    filter("find", 1, 2, |input, call| found(&input, call, |items, at| at.map_or(Value::Nil, |at| items[at].clone()))),
    filter("find_index", 1, 2, |input, call| found(&input, call, |_, at| at.map_or(Value::Nil, Value::count))),
    filter("has", 1, 2, |input, call| found(&input, call, |_, at| Value::Bool(at.is_some()))),
];

fn end<'r>(input: &Value<'r>, which: &str) -> Value<'r> {
    match input {
        Value::Object(object) if which == "first" => object.pair(0).unwrap_or(Value::Nil),
        Value::Object(_) => Value::Nil,
        other => other.member(which),
    }
}

fn join<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let separator = if call.get(0).is_some() { call.text(0) } else { " ".into() };
    let mut out = String::new();
    for (at, item) in input.items()?.iter().enumerate() {
        if at > 0 {
            out.push_str(&separator);
        }
        item.write(&mut out);
        if out.len() > super::MAX_MADE_BYTES {
            return Err(Failure::TooLarge);
        }
    }
    Ok(Value::text_of(out))
}

fn concat<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let other = call.argument(0);
    if !matches!(other, Value::List(_) | Value::Range(..)) {
        return Err(call.refuse("a list as argument", &other));
    }
    let mut items = input.items()?;
    items.extend(other.items()?);
    Ok(Value::list(items))
}

fn compact<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let mut kept = Vec::new();
    for item in input.items()? {
        if !key_of(&item, call)?.is_nil() {
            kept.push(item);
        }
    }
    Ok(Value::list(kept))
}

fn uniq<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let (mut seen, mut kept) = (HashSet::new(), Vec::new());
    for item in input.items()? {
        let mut key = String::new();
        key_of(&item, call)?.write_json(&mut key);
        if seen.insert(key) {
            kept.push(item);
        }
    }
    Ok(Value::list(kept))
}

/// What a filter looks at in an item: the member that it was given the name of, or the item.
fn key_of<'r>(item: &Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    match call.get(0) {
        None | Some(Value::Nil) => Ok(item.clone()),
        Some(name) => Ok(property(item, name, call)?.unwrap_or(Value::Nil)),
    }
}

/// A member of an item. Of a text it is the part that it is given, if it has it. None if the item is null or a truth
/// value, which have no members at all.
fn property<'r>(item: &Value<'r>, name: &Value<'r>, call: &Call<'_, 'r>) -> Outcome<Option<Value<'r>>> {
    Ok(match (item, name) {
        (Value::Object(object), _) => Some(object.get(&name.to_text()).cloned().unwrap_or(Value::Nil)),
        (Value::Text(text), Value::Text(part)) => {
            Some(if text.contains(part.as_ref()) { name.clone() } else { Value::Nil })
        }
        // A bit of the number, as in Ruby: it is there, whatever it is.
        (Value::Number(_), Value::Number(_)) => Some(Value::whole(0)),
        (Value::Number(_) | Value::Date(_) | Value::Moment(_), _) => {
            return Err(call.refuse("items with members", item));
        }
        _ => None,
    })
}

fn map<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let name = call.argument(0);
    let items = input.items()?;
    let values = items.iter().map(|item| Ok(property(item, &name, call)?.unwrap_or(Value::Nil)));
    values.collect::<Outcome<Vec<_>>>().map(Value::list)
}

/// Sorted by what the argument names, nulls last; items of equal rank keep their order.
fn sort<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let (mut keyed, nulls) = keyed(&input, call)?;
    let first = keyed.first().map(|(key, _)| key.clone()).unwrap_or(Value::Nil);
    let is_like_first = |(key, _): &(Value<'r>, Value<'r>)| {
        matches!(
            (&first, key),
            (Value::Number(_), Value::Number(_))
                | (Value::Text(_), Value::Text(_))
                | (Value::Date(_) | Value::Moment(_), Value::Date(_) | Value::Moment(_))
        )
    };
    if keyed.len() > 1
        && let Some((other, _)) = keyed.iter().find(|keyed| !is_like_first(keyed))
    {
        return Err(Failure::refused(format!("`sort` cannot order a {} and a {}", first.kind(), other.kind())));
    }
    // Like with like, so that this is a total order.
    keyed.sort_by(|(a, _), (b, _)| match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.rank(*b),
        _ => order(a, b).ok().flatten().unwrap_or(Ordering::Equal),
    });
    Ok(Value::list(keyed.into_iter().map(|(_, item)| item).chain(nulls).collect()))
}

/// Sorted by the text of what the argument names, whatever the case of its letters, nulls last.
fn sort_natural<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let (keyed, nulls) = keyed(&input, call)?;
    let mut keyed: Vec<(String, Value<'r>)> =
        keyed.into_iter().map(|(key, item)| (key.to_text().to_lowercase(), item)).collect();
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Value::list(keyed.into_iter().map(|(_, item)| item).chain(nulls).collect()))
}

type Keyed<'r> = Vec<(Value<'r>, Value<'r>)>;

/// The items with what they are sorted by, and those for which that is null.
fn keyed<'r>(input: &Value<'r>, call: &Call<'_, 'r>) -> Outcome<(Keyed<'r>, Vec<Value<'r>>)> {
    let (mut keyed, mut nulls) = (Vec::new(), Vec::new());
    for item in input.items()? {
        let key = key_of(&item, call)?;
        if key.is_nil() {
            nulls.push(item);
        } else {
            keyed.push((key, item));
        }
    }
    Ok((keyed, nulls))
}

fn sum<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let mut sum = Number::Whole(0);
    for item in input.items()? {
        sum = sum.plus(key_of(&item, call)?.to_number());
    }
    Ok(Value::Number(sum))
}

/// Whether an item has the member, and its value if one is given; none if the item can have no members.
fn fits<'r>(item: &Value<'r>, call: &Call<'_, 'r>) -> Outcome<Option<bool>> {
    let Some(value) = property(item, &call.argument(0), call)? else { return Ok(None) };
    Ok(Some(match call.get(1) {
        None | Some(Value::Nil) => value.is_truthy(),
        Some(wanted) => are_equal(&value, wanted),
    }))
}

/// The items that fit, or the others; null if an item can have no members.
fn select<'r>(input: &Value<'r>, call: &Call<'_, 'r>, wanted: fn(bool) -> bool) -> Outcome<Value<'r>> {
    let mut kept = Vec::new();
    for item in input.items()? {
        match fits(&item, call)? {
            Some(found) if wanted(found) => kept.push(item),
            Some(_) => {}
            None => return Ok(Value::Nil),
        }
    }
    Ok(Value::list(kept))
}

type Found<'r> = fn(&[Value<'r>], Option<usize>) -> Value<'r>;

/// What is made of the first item that fits; null if an item before it can have no members.
fn found<'r>(input: &Value<'r>, call: &Call<'_, 'r>, made: Found<'r>) -> Outcome<Value<'r>> {
    let items = input.items()?;
    for (at, item) in items.iter().enumerate() {
        match fits(item, call)? {
            Some(true) => return Ok(made(&items, Some(at))),
            Some(false) => {}
            None => return Ok(Value::Nil),
        }
    }
    Ok(made(&items, None))
}
