//! Values while a template is rendered.
//!
//! The crate's own values have no decimals, no timestamps with a zone and no order of an object's members, so that a
//! row could come out changed or in another order when it is sent again. These do. Text of a row or of the template is
//! borrowed; lists and objects are shared, so a value is cheap to clone.

use std::borrow::Cow;
use std::rc::Rc;

use larder_types::json::{Fragment, write_string};
use larder_types::time::{write_date, write_timestamp};
use larder_types::value::Value as Field;

use super::error::Failure;
use super::json;
use super::number::Number;

/// A value that lives as long as the row and the template.
#[derive(Debug, Clone)]
pub(super) enum Value<'r> {
    Nil,
    Bool(bool),
    Number(Number),
    Text(Cow<'r, str>),
    /// Days since 1970-01-01.
    Date(i32),
    Moment(Moment),
    List(Rc<Vec<Value<'r>>>),
    Object(Rc<Object<'r>>),
    /// Whole numbers from the first to the last, both included.
    Range(i64, i64),
    /// The word `empty`.
    Empty,
    /// The word `blank`.
    Blank,
}

/// A point in time, and the offset from UTC in which it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub(super) micros: i64,
    /// Seconds east of UTC.
    pub(super) offset: i32,
}

/// Members in the order in which they were written.
#[derive(Debug, Clone, Default)]
pub(super) struct Object<'r>(pub(super) Vec<(Cow<'r, str>, Value<'r>)>);

impl<'r> Object<'r> {
    /// The member of a name; the last one, if the text had several.
    pub(super) fn get(&self, name: &str) -> Option<&Value<'r>> {
        self.0.iter().rev().find(|(member, _)| member == name).map(|(_, value)| value)
    }

    /// A member as the pair that a loop goes over.
    pub(super) fn pair(&self, at: usize) -> Option<Value<'r>> {
        let (name, value) = self.0.get(at)?;
        Some(Value::list(vec![Value::Text(name.clone()), value.clone()]))
    }
}

impl<'r> Value<'r> {
    pub(super) fn text_of(text: impl Into<Cow<'r, str>>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn whole(number: impl Into<i128>) -> Self {
        Self::Number(Number::Whole(number.into()))
    }

    pub(super) fn count(number: usize) -> Self {
        Self::Number(Number::Whole(number as i128))
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(Rc::new(items))
    }

    pub(super) fn object(members: Vec<(Cow<'r, str>, Self)>) -> Self {
        Self::Object(Rc::new(Object(members)))
    }

    /// The value of a column. Bytes are their base64 text.
    pub(super) fn of_column(value: &'r Field) -> Self {
        match value {
            Field::Null => Self::Nil,
            Field::Bool(yes) => Self::Bool(*yes),
            Field::Int(number) => Self::whole(*number),
            Field::UInt(number) => Self::whole(*number),
            Field::Float(float) => Self::Number(Number::Float(*float)),
            Field::Decimal(decimal) => Self::Number(Number::from_decimal(*decimal)),
            Field::String(text) => Self::Text(Cow::Borrowed(text)),
            Field::Binary(_) => Self::Text(Cow::Owned(value.to_text())),
            Field::Date(days) => Self::Date(*days),
            Field::Timestamp(micros) => Self::Moment(Moment { micros: *micros, offset: 0 }),
            Field::List(fragment) | Field::Struct(fragment) => json::read(fragment.as_str()),
        }
    }

    /// The value with its type, for a field.
    ///
    /// # Errors
    /// When lists and objects stand too deep in each other.
    pub(super) fn to_field(&self) -> Result<Field, Failure> {
        let too_deep = |_| Failure::refused("the result is nested too deep");
        Ok(match self {
            Self::Nil => Field::Null,
            Self::Bool(yes) => Field::Bool(*yes),
            Self::Number(number) => number_field(*number),
            Self::Text(text) => Field::String(text.clone().into_owned()),
            Self::Date(days) => Field::Date(*days),
            Self::Moment(moment) => Field::Timestamp(moment.micros),
            Self::List(items) => {
                let items = items.iter().map(Self::to_nested_field).collect::<Result<Vec<_>, _>>()?;
                Field::List(Fragment::list(&items).map_err(too_deep)?)
            }
            Self::Range(..) => {
                let items = self.items()?.iter().map(Self::to_field).collect::<Result<Vec<_>, _>>()?;
                Field::List(Fragment::list(&items).map_err(too_deep)?)
            }
            Self::Object(object) => {
                let members = object
                    .0
                    .iter()
                    .map(|(name, value)| Ok((name.as_ref(), value.to_nested_field()?)))
                    .collect::<Result<Vec<_>, Failure>>()?;
                let members = members.iter().map(|(name, value)| (*name, value));
                Field::Struct(Fragment::object(members).map_err(too_deep)?)
            }
            Self::Empty | Self::Blank => Field::String(String::new()),
        })
    }

    /// The value with its type, where it becomes part of a JSON text.
    fn to_nested_field(&self) -> Result<Field, Failure> {
        match self.to_field()? {
            Field::Float(float) if !float.is_finite() => {
                Err(Failure::refused("the result holds a number that JSON cannot hold"))
            }
            field => Ok(field),
        }
    }

    /// The word for its kind in messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::Text(_) => "text",
            Self::Date(_) => "date",
            Self::Moment(_) => "timestamp",
            Self::List(_) => "list",
            Self::Object(_) => "object",
            Self::Range(..) => "range",
            Self::Empty => "`empty`",
            Self::Blank => "`blank`",
        }
    }

    pub(super) fn is_nil(&self) -> bool {
        matches!(self, Self::Nil)
    }

    /// Everything is true but null and false.
    pub(super) fn is_truthy(&self) -> bool {
        !matches!(self, Self::Nil | Self::Bool(false))
    }

    /// What `== empty` tells.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Object(object) => object.0.is_empty(),
            _ => false,
        }
    }

    /// What `== blank` tells.
    pub(super) fn is_blank(&self) -> bool {
        match self {
            Self::Nil | Self::Bool(false) => true,
            Self::Text(text) => text.trim().is_empty(),
            _ => self.is_empty(),
        }
    }

    /// The text that an output writes.
    pub(super) fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Nil | Self::Empty | Self::Blank => Cow::Borrowed(""),
            _ => {
                let mut out = String::new();
                self.write(&mut out);
                Cow::Owned(out)
            }
        }
    }

    /// As [`Value::to_text`], without a copy where it is text already.
    pub(super) fn into_text(self) -> Cow<'r, str> {
        match self {
            Self::Text(text) => text,
            other => Cow::Owned(other.to_text().into_owned()),
        }
    }

    /// Appends the text that an output writes: lists one item after the other, objects as JSON.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Nil | Self::Empty | Self::Blank => {}
            Self::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
            Self::Number(number) => number.write(out),
            Self::Text(text) => out.push_str(text),
            Self::Date(days) => write_date(*days, out),
            Self::Moment(moment) => moment.write(out),
            Self::List(items) => items.iter().for_each(|item| item.write(out)),
            Self::Range(first, last) => out.push_str(&format!("{first}..{last}")),
            Self::Object(_) => self.write_json(out),
        }
    }

    /// Appends the value as JSON.
    pub(super) fn write_json(&self, out: &mut String) {
        match self {
            Self::Nil => out.push_str("null"),
            Self::Bool(_) => self.write(out),
            Self::Number(Number::Float(float)) if !float.is_finite() => out.push_str("null"),
            Self::Number(number) => number.write(out),
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write_json(out);
                }
                out.push(']');
            }
            Self::Object(object) => {
                out.push('{');
                for (at, (name, value)) in object.0.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    write_string(name, out);
                    out.push(':');
                    value.write_json(out);
                }
                out.push('}');
            }
            _ => write_string(&self.to_text(), out),
        }
    }

    /// A number: numbers as they are, texts as Shopify reads them, anything else counts zero.
    pub(super) fn to_number(&self) -> Number {
        match self {
            Self::Number(number) => *number,
            Self::Text(text) => Number::leading(text),
            _ => Number::Whole(0),
        }
    }

    /// A whole number where one is needed: of a number or a text that is one.
    pub(super) fn to_integer(&self) -> Option<i64> {
        match self {
            Self::Number(number) => number.truncated(),
            Self::Text(text) => Number::parse(text)?.truncated(),
            _ => None,
        }
    }

    /// The items that list filters see: lists within lists are flattened, null is no item, anything else is one.
    pub(super) fn items(&self) -> Result<Vec<Self>, Failure> {
        let mut items = Vec::new();
        self.collect(&mut items)?;
        Ok(items)
    }

    fn collect(&self, into: &mut Vec<Self>) -> Result<(), Failure> {
        match self {
            Self::Nil => {}
            Self::List(items) => {
                for item in items.iter() {
                    match item {
                        Self::List(_) => item.collect(into)?,
                        other => into.push(other.clone()),
                    }
                }
            }
            Self::Range(first, last) => {
                if last.saturating_sub(*first) >= super::limits::MAX_MADE_ITEMS as i64 {
                    return Err(Failure::TooLarge);
                }
                into.extend((*first..=*last).map(Self::whole));
            }
            other => into.push(other.clone()),
        }
        Ok(())
    }

    /// A member by its name, or what `size`, `first` and `last` give.
    pub(super) fn member(&self, name: &str) -> Self {
        let pick = |found: Option<&Self>| found.cloned().unwrap_or(Self::Nil);
        match (self, name) {
            (Self::Object(object), _) => match (object.get(name), name) {
                (Some(value), _) => value.clone(),
                (None, "size") => Self::count(object.0.len()),
                (None, "first") => object.pair(0).unwrap_or(Self::Nil),
                _ => Self::Nil,
            },
            (Self::List(items), "size") => Self::count(items.len()),
            (Self::List(items), "first") => pick(items.first()),
            (Self::List(items), "last") => pick(items.last()),
            (Self::Range(first, last), "size") => Self::whole((i128::from(*last) - i128::from(*first) + 1).max(0)),
            (Self::Range(first, _), "first") => Self::whole(*first),
            (Self::Range(_, last), "last") => Self::whole(*last),
            (Self::Text(text), "size") => Self::count(text.chars().count()),
            _ => Self::Nil,
        }
    }

    /// An item by its place, from the end if negative; an object's member of that name.
    pub(super) fn item(&self, at: i64) -> Self {
        match self {
            Self::List(items) => place(at, items.len()).map_or(Self::Nil, |at| items[at].clone()),
            Self::Range(first, last) => {
                let number = if at < 0 { last.checked_add(at + 1) } else { first.checked_add(at) };
                number.filter(|number| (first..=last).contains(&number)).map_or(Self::Nil, Self::whole)
            }
            Self::Object(object) => object.get(&at.to_string()).cloned().unwrap_or(Self::Nil),
            _ => Self::Nil,
        }
    }

    /// What `value[index]` gives.
    pub(super) fn at(&self, index: &Self) -> Self {
        match index {
            Self::Text(name) => self.member(name),
            Self::Number(number) => number.truncated().map_or(Self::Nil, |at| self.item(at)),
            _ => Self::Nil,
        }
    }

    /// The same value, borrowing nothing.
    pub(super) fn into_owned(self) -> Value<'static> {
        match self {
            Self::Nil => Value::Nil,
            Self::Bool(yes) => Value::Bool(yes),
            Self::Number(number) => Value::Number(number),
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::Date(days) => Value::Date(days),
            Self::Moment(moment) => Value::Moment(moment),
            Self::List(items) => Value::list(items.iter().map(|item| item.clone().into_owned()).collect()),
            Self::Object(object) => Value::object(
                object
                    .0
                    .iter()
                    .map(|(name, value)| (name.clone().into_owned().into(), value.clone().into_owned()))
                    .collect(),
            ),
            Self::Range(first, last) => Value::Range(first, last),
            Self::Empty => Value::Empty,
            Self::Blank => Value::Blank,
        }
    }

    /// About how many bytes a filter looks at, for the limits.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Text(text) => 16 + text.len(),
            Self::List(items) => 16 + 100 * items.len(),
            Self::Object(object) => 16 + 100 * object.0.len(),
            _ => 16,
        }
    }
}

impl Moment {
    /// Appends RFC 3339, in UTC or with the offset.
    fn write(self, out: &mut String) {
        if self.offset == 0 {
            return write_timestamp(self.micros, out);
        }
        write_timestamp(self.micros.saturating_add(i64::from(self.offset) * 1_000_000), out);
        out.pop();
        let (sign, offset) = if self.offset < 0 { ('-', -self.offset) } else { ('+', self.offset) };
        out.push_str(&format!("{sign}{:02}:{:02}", offset / 3600, offset / 60 % 60));
    }
}

/// The place in a list of so many items, counted from the end if negative.
pub(super) fn place(at: i64, len: usize) -> Option<usize> {
    let from_front = if at < 0 { i64::try_from(len).ok()?.checked_add(at)? } else { at };
    usize::try_from(from_front).ok().filter(|at| *at < len)
}

fn number_field(number: Number) -> Field {
    match number {
        Number::Whole(whole) => match (i64::try_from(whole), u64::try_from(whole)) {
            (Ok(whole), _) => Field::Int(whole),
            (_, Ok(whole)) => Field::from_u64(whole),
            _ => larder_types::decimal::Decimal::new(whole, 0)
                .map_or_else(|_| Field::Float(number.to_f64()), Field::Decimal),
        },
        Number::Exact(decimal) => Field::Decimal(decimal),
        Number::Float(float) => Field::Float(float),
    }
}
