//! Filters by name. A filter is a plain function over values; what it takes is checked when a template is parsed.
//!
//! Null goes through a filter as null, as it does in SQL, unless the filter is made for it ([`Null::Seen`]).

mod data;
mod dates;
mod encoding;
mod lists;
mod numbers;
mod patterns;
mod stock;
mod text;

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use jiff::tz::TimeZone;
use larder_types::value::ValueType;
use regex::Regex;

use self::dates::Format;
use super::error::{Failure, Problem};
use super::expression::Expression;
use super::limits::{MAX_MADE_BYTES, MAX_MADE_ITEMS};
use super::value::Value;

type Outcome<T> = Result<T, Failure>;
type Apply = for<'r> fn(Value<'r>, &Call<'_, 'r>) -> Outcome<Value<'r>>;
type Prepare = fn(&[Expression]) -> Result<Prepared, Problem>;

/// What a filter does with null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Null {
    /// Null in, null out.
    Passes,
    /// The filter looks at it.
    Seen,
}

/// A filter as it is known by name.
struct Definition {
    name: &'static str,
    /// Fewest and most arguments.
    arity: (usize, usize),
    /// Named arguments.
    named: &'static [&'static str],
    null: Null,
    prepare: Prepare,
    apply: Apply,
}

/// What a filter makes of its arguments once, when the template is parsed.
#[derive(Debug)]
enum Prepared {
    Nothing,
    Pattern(Regex),
    Format(Format),
    Zone(TimeZone),
    Type(ValueType),
}

/// A filter in a template.
pub(super) struct Filter(Kind);

enum Kind {
    Own(&'static Definition, Prepared),
    /// One of the crate's.
    Stock(Box<dyn liquid_core::Filter>),
}

/// The arguments of a filter for one row.
struct Call<'c, 'r> {
    name: &'static str,
    arguments: &'c [Value<'r>],
    named: &'c [(&'c str, Value<'r>)],
    prepared: &'c Prepared,
}

/// A filter of so many arguments that passes null on.
const fn filter(name: &'static str, least: usize, most: usize, apply: Apply) -> Definition {
    Definition { name, arity: (least, most), named: &[], null: Null::Passes, prepare: nothing, apply }
}

/// A filter that looks at null.
const fn seeing(name: &'static str, least: usize, most: usize, apply: Apply) -> Definition {
    Definition { null: Null::Seen, ..filter(name, least, most, apply) }
}

fn nothing(_: &[Expression]) -> Result<Prepared, Problem> {
    Ok(Prepared::Nothing)
}

static OWN: LazyLock<HashMap<&'static str, &'static Definition>> = LazyLock::new(|| {
    [
        numbers::FILTERS,
        text::FILTERS,
        lists::FILTERS,
        dates::FILTERS,
        data::FILTERS,
        encoding::FILTERS,
        patterns::FILTERS,
    ]
    .into_iter()
    .flatten()
    .map(|definition| (definition.name, definition))
    .collect()
});

/// The filter of a name, made ready for its arguments.
///
/// # Errors
/// When there is no such filter, or it does not take these arguments.
pub(super) fn prepare(name: &str, arguments: &[Expression], named: &[(String, Expression)]) -> Result<Filter, Problem> {
    let Some(definition) = OWN.get(name).copied() else {
        let filter = stock::prepare(name)?;
        check(name, (0, 0), &[], arguments, named)?;
        return Ok(filter);
    };
    check(name, definition.arity, definition.named, arguments, named)?;
    Ok(Filter(Kind::Own(definition, (definition.prepare)(arguments)?)))
}

/// The names of all filters, each with the fewest arguments that it takes.
#[cfg(test)]
pub(super) fn names() -> Vec<(&'static str, usize)> {
    let own = OWN.values().map(|definition| (definition.name, definition.arity.0));
    let mut names: Vec<_> = own.chain(stock::names().map(|name| (name, 0))).collect();
    names.sort_unstable();
    names
}

fn check(
    name: &str,
    (least, most): (usize, usize),
    labels: &[&str],
    arguments: &[Expression],
    named: &[(String, Expression)],
) -> Result<(), Problem> {
    if let Some((label, _)) = named.iter().find(|(label, _)| !labels.contains(&label.as_str())) {
        return Err(Problem::new(format!("`{name}` takes no argument named `{label}`")));
    }
    let given = arguments.len();
    if (least..=most).contains(&given) {
        return Ok(());
    }
    let wanted = match (least, most) {
        (0, 0) => "no argument".to_owned(),
        (1, 1) => "one argument".to_owned(),
        (least, most) if least == most => format!("{least} arguments"),
        (least, most) => format!("{least} to {most} arguments"),
    };
    Err(Problem::new(format!("`{name}` takes {wanted}, and was given {given}")))
}

impl Filter {
    /// The value of a filter for one row.
    pub(super) fn apply<'r>(
        &'r self,
        input: Value<'r>,
        arguments: &[Value<'r>],
        named: &[(&str, Value<'r>)],
    ) -> Outcome<Value<'r>> {
        match &self.0 {
            Kind::Own(definition, _) if definition.null == Null::Passes && input.is_nil() => Ok(Value::Nil),
            Kind::Own(definition, prepared) => {
                (definition.apply)(input, &Call { name: definition.name, arguments, named, prepared }).and_then(bounded)
            }
            Kind::Stock(filter) => stock::apply(filter.as_ref(), &input).and_then(bounded),
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Own(definition, _) => f.write_str(definition.name),
            Kind::Stock(filter) => write!(f, "{filter}"),
        }
    }
}

/// The value, unless it is too large to have been made.
fn bounded(value: Value<'_>) -> Outcome<Value<'_>> {
    let fits = match &value {
        // What is borrowed was not made.
        Value::Text(std::borrow::Cow::Owned(text)) => text.len() <= MAX_MADE_BYTES,
        Value::List(items) => items.len() <= MAX_MADE_ITEMS,
        _ => true,
    };
    if fits { Ok(value) } else { Err(Failure::TooLarge) }
}

impl<'r> Call<'_, 'r> {
    fn get(&self, at: usize) -> Option<&Value<'r>> {
        self.arguments.get(at)
    }

    /// An argument; null if it was not given.
    fn argument(&self, at: usize) -> Value<'r> {
        self.get(at).cloned().unwrap_or(Value::Nil)
    }

    /// An argument as text; empty if it was not given or is null.
    fn text(&self, at: usize) -> std::borrow::Cow<'_, str> {
        self.get(at).map(Value::to_text).unwrap_or_default()
    }

    /// An argument as a whole number; none if it was not given.
    ///
    /// # Errors
    /// When it was given and is none.
    fn integer(&self, at: usize) -> Outcome<Option<i64>> {
        let Some(value) = self.get(at) else { return Ok(None) };
        value.to_integer().map(Some).ok_or_else(|| self.refuse("a whole number as argument", value))
    }

    /// The failure of a filter that needs something else.
    fn refuse(&self, wanted: &str, got: &Value<'_>) -> Failure {
        Failure::refused(format!("`{}` needs {wanted} and got a {}", self.name, got.kind()))
    }
}
