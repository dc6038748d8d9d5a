//! Filters over numbers. Text counts as Shopify reads it: as the number that it begins with, else zero; `to_number`
//! in front makes such text an error. Null stays null, also as the other operand.

use super::super::error::Failure;
use super::super::number::{DivisionByZero, Number};
use super::super::value::Value;
use super::{Call, Definition, Outcome, filter};

pub(super) const FILTERS: &[Definition] = &[
    filter("abs", 0, 0, |input, _| Ok(Value::Number(input.to_number().abs()))),
    filter("ceil", 0, 0, |input, _| Ok(Value::Number(input.to_number().ceil()))),
    filter("floor", 0, 0, |input, _| Ok(Value::Number(input.to_number().floor()))),
    filter("round", 0, 1, round),
    filter("plus", 1, 1, |input, call| combine(&input, call, |a, b| Ok(a.plus(b)))),
    filter("minus", 1, 1, |input, call| combine(&input, call, |a, b| Ok(a.minus(b)))),
    filter("times", 1, 1, |input, call| combine(&input, call, |a, b| Ok(a.times(b)))),
    filter("divided_by", 1, 1, |input, call| divide(&input, call, Number::divided_by)),
    filter("modulo", 1, 1, |input, call| divide(&input, call, Number::modulo)),
    filter("at_least", 1, 1, |input, call| Ok(bound(&input, call, std::cmp::Ordering::Less))),
    filter("at_most", 1, 1, |input, call| Ok(bound(&input, call, std::cmp::Ordering::Greater))),
    filter("to_number", 0, 0, to_number),
];

type Operation = fn(Number, Number) -> Result<Number, DivisionByZero>;

fn combine<'r>(input: &Value<'r>, call: &Call<'_, 'r>, operation: Operation) -> Outcome<Value<'r>> {
    let other = call.argument(0);
    if other.is_nil() {
        return Ok(Value::Nil);
    }
    let result = operation(input.to_number(), other.to_number());
    result.map(Value::Number).map_err(|error| Failure::refused(format!("`{}`: {error}", call.name)))
}

/// Dividing by null is no better than dividing by zero.
fn divide<'r>(input: &Value<'r>, call: &Call<'_, 'r>, operation: Operation) -> Outcome<Value<'r>> {
    let other = call.argument(0);
    if other.is_nil() {
        return Err(Failure::refused(format!("`{}`: division by null", call.name)));
    }
    combine(input, call, operation)
}

fn bound<'r>(input: &Value<'r>, call: &Call<'_, 'r>, beyond: std::cmp::Ordering) -> Value<'r> {
    let (number, bound) = (input.to_number(), call.argument(0).to_number());
    Value::Number(if number.order(bound) == Some(beyond) { bound } else { number })
}

fn round<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    let digits = call.argument(0).to_number().truncated().unwrap_or(0);
    let number = input.to_number();
    Ok(Value::Number(match u32::try_from(digits.saturating_neg()) {
        Ok(power) if power > 0 => number.round_to_power(power),
        _ => number.round(digits),
    }))
}

fn to_number<'r>(input: Value<'r>, call: &Call<'_, 'r>) -> Outcome<Value<'r>> {
    match &input {
        Value::Number(_) => Ok(input),
        Value::Text(text) => Number::parse(text)
            .map(Value::Number)
            .ok_or_else(|| Failure::refused("`to_number` needs a number, and the text is none")),
        _ => Err(call.refuse("a number or a text that is one", &input)),
    }
}
