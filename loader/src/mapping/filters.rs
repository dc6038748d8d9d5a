//! Liquid filters that replace those of the `liquid` crate where it is silently wrong or slow for mapped data:
//! arithmetic (doubles, and whole division by a fraction), `date` (ignores numbers and most texts, and compiles
//! regular expressions for every row), `url_encode` (`%20` for a blank) and `default` (no `allow_false`).
//!
//! Null passes through all of them as null, as it does in SQL.

use std::fmt;

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::Offset;
use larder_types::time::parse_timestamp;
use liquid_core::model::State;
use liquid_core::parser::{FilterArguments, ParameterReflection};
use liquid_core::{Error, Expression, Filter, FilterReflection, ParseFilter, Result, Runtime, Value, ValueView};

use super::number::{DivisionByZero, Number};

/// Spellings of dates with the month as a word, beside ISO 8601. All-digit spellings other than ISO are ambiguous.
const WORDED_DATES: [&str; 6] =
    ["%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y", "%a, %d %b %Y %H:%M:%S %z", "%d %b %Y %H:%M:%S %z"];

/// All filters of this module.
pub(crate) fn all() -> Vec<Named> {
    let positional: [(&'static str, Kind); 8] = [
        ("plus", Kind::Arithmetic(|a, b| Ok(a.plus(b)))),
        ("minus", Kind::Arithmetic(|a, b| Ok(a.minus(b)))),
        ("times", Kind::Arithmetic(|a, b| Ok(a.times(b)))),
        ("divided_by", Kind::Arithmetic(Number::divided_by)),
        ("modulo", Kind::Arithmetic(Number::modulo)),
        ("date", Kind::Date),
        ("url_encode", Kind::UrlEncode),
        ("default", Kind::Default),
    ];
    positional.into_iter().map(|(name, kind)| Named { name, kind }).collect()
}

#[derive(Clone, Copy)]
enum Kind {
    Arithmetic(fn(Number, Number) -> std::result::Result<Number, DivisionByZero>),
    Date,
    UrlEncode,
    Default,
}

/// A filter by its name.
#[derive(Clone, Copy)]
pub(crate) struct Named {
    name: &'static str,
    kind: Kind,
}

/// A filter in a template, with its arguments.
struct Applied {
    filter: Named,
    argument: Option<Expression>,
    allow_false: Option<Expression>,
}

impl FilterReflection for Named {
    fn name(&self) -> &str {
        self.name
    }

    fn description(&self) -> &'static str {
        ""
    }

    fn positional_parameters(&self) -> &'static [ParameterReflection] {
        &[]
    }

    fn keyword_parameters(&self) -> &'static [ParameterReflection] {
        &[]
    }
}

impl ParseFilter for Named {
    fn parse(&self, arguments: FilterArguments<'_>) -> Result<Box<dyn Filter>> {
        let wanted = usize::from(!matches!(self.kind, Kind::UrlEncode));
        let mut positional: Vec<Expression> = arguments.positional.collect();
        if positional.len() != wanted {
            return Err(Error::with_msg(format!("`{}` takes {wanted} argument(s)", self.name)));
        }
        let mut allow_false = None;
        for (name, expression) in arguments.keyword {
            if name != "allow_false" || !matches!(self.kind, Kind::Default) {
                return Err(Error::with_msg(format!("`{}` takes no argument named `{name}`", self.name)));
            }
            allow_false = Some(expression);
        }
        let argument = positional.pop();
        if let (Kind::Date, Some(Expression::Literal(format))) = (self.kind, &argument) {
            format_date(Timestamp::UNIX_EPOCH, &format.to_kstr())?;
        }
        Ok(Box::new(Applied { filter: *self, argument, allow_false }))
    }

    fn reflection(&self) -> &dyn FilterReflection {
        self
    }
}

impl fmt::Debug for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.filter.name)
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.filter.name)
    }
}

impl Filter for Applied {
    fn evaluate(&self, input: &dyn ValueView, runtime: &dyn Runtime) -> Result<Value> {
        let argument = self.argument.as_ref().map(|expression| expression.evaluate(runtime)).transpose()?;
        let argument: &dyn ValueView = argument.as_ref().map_or(&Value::Nil, |value| value.as_view());
        if let Kind::Default = self.filter.kind {
            let allow_false = match &self.allow_false {
                Some(expression) => expression.evaluate(runtime)?.query_state(State::Truthy),
                None => false,
            };
            return Ok(default(input, argument, allow_false));
        }
        if input.is_nil() {
            return Ok(Value::Nil);
        }
        match self.filter.kind {
            Kind::Arithmetic(_) if argument.is_nil() => Ok(Value::Nil),
            Kind::Arithmetic(apply) => {
                let result = apply(number(input, self.filter.name)?, number(argument, self.filter.name)?);
                result.map(number_value).map_err(|error| Error::with_msg(format!("`{}`: {error}", self.filter.name)))
            }
            Kind::Date => date(input, &argument.to_kstr()),
            Kind::UrlEncode => Ok(Value::scalar(url_encode(&input.to_kstr()))),
            Kind::Default => Ok(input.to_value()),
        }
    }
}

fn default(input: &dyn ValueView, otherwise: &dyn ValueView, allow_false: bool) -> Value {
    let is_false = input.as_scalar().and_then(|scalar| scalar.to_bool()) == Some(false);
    let is_empty = input.is_nil()
        || input.as_scalar().is_some_and(|scalar| scalar.type_name() == "string" && scalar.to_kstr().is_empty())
        || input.as_array().is_some_and(|array| array.size() == 0)
        || input.as_object().is_some_and(|object| object.size() == 0);
    if is_empty || (is_false && !allow_false) { otherwise.to_value() } else { input.to_value() }
}

fn number(value: &dyn ValueView, filter: &str) -> Result<Number> {
    let parsed = value.as_scalar().and_then(|scalar| match scalar.type_name() {
        "boolean" => None,
        "fractional number" => scalar.to_float().and_then(Number::from_float),
        _ => Number::parse(&scalar.to_kstr()),
    });
    parsed.ok_or_else(|| Error::with_msg(format!("`{filter}` needs numbers, and got a {}", value.type_name())))
}

/// A number in the form that templates compare best: whole, double, and text only where neither is exact.
fn number_value(number: Number) -> Value {
    if let Number::Whole(whole) = number {
        return i64::try_from(whole).map_or_else(|_| Value::scalar(whole.to_string()), Value::scalar);
    }
    number.as_exact_f64().map_or_else(|| Value::scalar(number.to_text()), Value::scalar)
}

fn date(input: &dyn ValueView, format: &str) -> Result<Value> {
    if format.is_empty() {
        return Ok(input.to_value());
    }
    let text = input.to_kstr();
    let moment = moment(&text).ok_or_else(|| {
        Error::with_msg("`date` needs a timestamp, seconds since 1970, or a date such as 2016-03-14 or March 14, 2016")
    })?;
    format_date(moment, format).map(Value::scalar)
}

fn moment(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Some(micros) = parse_timestamp(text) {
        return Timestamp::from_microsecond(micros).ok();
    }
    if let Some(number) = Number::parse(text) {
        return Timestamp::from_duration(jiff::SignedDuration::try_from_secs_f64(number.to_f64()).ok()?).ok();
    }
    WORDED_DATES.iter().find_map(|format| {
        let parsed = strtime::parse(format, text).ok()?;
        let midnight = || Offset::UTC.to_timestamp(parsed.to_date().ok()?.at(0, 0, 0, 0)).ok();
        parsed.to_timestamp().ok().or_else(midnight)
    })
}

fn format_date(moment: Timestamp, format: &str) -> Result<String> {
    strtime::format(format, moment).map_err(|error| Error::with_msg(format!("`date`: bad format `{format}`: {error}")))
}

/// As HTML forms do it, and Shopify: a blank becomes `+`.
fn url_encode(text: &str) -> String {
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
