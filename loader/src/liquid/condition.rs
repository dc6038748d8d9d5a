//! Conditions of `if`, `unless` and `elsif`: comparisons joined by `and` and `or`, read from right to left, as Shopify
//! does: `a and b or c` is `a and (b or c)`.

use std::cmp::Ordering;

use larder_types::time::{MICROS_PER_DAY, parse_timestamp};

use super::error::{Failure, Problem};
use super::expression::Expression;
use super::markup::{Markup, Token};
use super::names::Names;
use super::value::Value;

#[derive(Debug)]
pub(super) struct Condition {
    /// As it stands in the template, on one line, for messages.
    pub(super) source: String,
    pub(super) first: Comparison,
    /// What follows, in the order in which it is written.
    pub(super) rest: Vec<(Junction, Comparison)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Junction {
    And,
    Or,
}

/// One value, or two and an operator.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) left: Expression,
    pub(super) right: Option<(Operator, Expression)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Contains,
}

impl Condition {
    /// All of a markup as a condition.
    pub(super) fn parse(markup: &mut Markup<'_>, names: &mut Names) -> Result<Self, Problem> {
        let mark = markup.mark();
        let first = Comparison::parse(markup, names)?;
        let mut rest = Vec::new();
        loop {
            let junction = if markup.take_word("and") {
                Junction::And
            } else if markup.take_word("or") {
                Junction::Or
            } else {
                break;
            };
            rest.push((junction, Comparison::parse(markup, names)?));
        }
        markup.expect_end()?;
        Ok(Self { source: markup.source(mark), first, rest })
    }
}

impl Comparison {
    fn parse(markup: &mut Markup<'_>, names: &mut Names) -> Result<Self, Problem> {
        let left = Expression::parse(markup, names)?;
        let Some(operator) = operator(markup) else { return Ok(Self { left, right: None }) };
        Ok(Self { left, right: Some((operator, Expression::parse(markup, names)?)) })
    }
}

fn operator(markup: &mut Markup<'_>) -> Option<Operator> {
    let operator = match markup.peek()? {
        Token::Sign("==") => Operator::Equal,
        Token::Sign("!=" | "<>") => Operator::Unequal,
        Token::Sign("<") => Operator::Less,
        Token::Sign("<=") => Operator::LessOrEqual,
        Token::Sign(">") => Operator::Greater,
        Token::Sign(">=") => Operator::GreaterOrEqual,
        Token::Name("contains") => Operator::Contains,
        _ => return None,
    };
    markup.next();
    Some(operator)
}

impl Operator {
    /// Tells whether two values stand in this relation.
    ///
    /// # Errors
    /// When text and number are to be ordered.
    pub(super) fn holds(self, left: &Value<'_>, right: &Value<'_>) -> Result<bool, Failure> {
        Ok(match self {
            Self::Equal => are_equal(left, right),
            Self::Unequal => !are_equal(left, right),
            Self::Less => order(left, right)? == Some(Ordering::Less),
            Self::LessOrEqual => matches!(order(left, right)?, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => order(left, right)? == Some(Ordering::Greater),
            Self::GreaterOrEqual => matches!(order(left, right)?, Some(Ordering::Greater | Ordering::Equal)),
            Self::Contains => contains(left, right),
        })
    }
}

/// Numbers are equal by value, texts by their bytes, times by the moment, lists and objects item by item. Values of
/// different kinds are never equal, except a time and a text that is the same time.
pub(super) fn are_equal(left: &Value<'_>, right: &Value<'_>) -> bool {
    match (left, right) {
        (Value::Empty, Value::Empty) | (Value::Blank, Value::Blank) | (Value::Nil, Value::Nil) => true,
        (Value::Empty | Value::Blank, Value::Empty | Value::Blank) => false,
        (Value::Empty, other) | (other, Value::Empty) => other.is_empty(),
        (Value::Blank, other) | (other, Value::Blank) => other.is_blank(),
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Number(a), Value::Number(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => a == b,
        (Value::Range(a, b), Value::Range(c, d)) => (a, b) == (c, d),
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| are_equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            let has_all = || a.0.iter().all(|(name, value)| b.get(name).is_some_and(|other| are_equal(value, other)));
            a.0.len() == b.0.len() && has_all()
        }
        _ => moments(left, right).is_some_and(|(a, b)| a == b),
    }
}

/// The order of two values; none where there is no sense in one, which makes every comparison false.
pub(super) fn order(left: &Value<'_>, right: &Value<'_>) -> Result<Option<Ordering>, Failure> {
    Ok(match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.order(*b),
        (Value::Text(a), Value::Text(b)) => Some(a.as_ref().cmp(b.as_ref())),
        (Value::Number(_), Value::Text(_)) | (Value::Text(_), Value::Number(_)) => {
            let (left, right) = (left.kind(), right.kind());
            return Err(Failure::refused(format!("a {left} and a {right} have no order; use `to_number`")));
        }
        _ => moments(left, right).map(|(a, b)| a.cmp(&b)),
    })
}

/// Both values as microseconds, if one is a time and the other is one too or reads as one.
fn moments(left: &Value<'_>, right: &Value<'_>) -> Option<(i64, i64)> {
    let is_time = |value: &Value<'_>| matches!(value, Value::Date(_) | Value::Moment(_));
    if !is_time(left) && !is_time(right) {
        return None;
    }
    let micros = |value: &Value<'_>| match value {
        Value::Date(days) => i64::from(*days).checked_mul(MICROS_PER_DAY),
        Value::Moment(moment) => Some(moment.micros),
        Value::Text(text) => parse_timestamp(text),
        _ => None,
    };
    Some((micros(left)?, micros(right)?))
}

/// Part of a text, item of a list, member of an object. Nothing contains null or false.
fn contains(whole: &Value<'_>, part: &Value<'_>) -> bool {
    if !part.is_truthy() {
        return false;
    }
    match whole {
        Value::Text(text) => text.contains(part.to_text().as_ref()),
        Value::List(items) => items.iter().any(|item| are_equal(item, part)),
        Value::Object(object) => object.get(&part.to_text()).is_some(),
        Value::Range(first, last) => match part {
            Value::Number(_) => part.to_integer().is_some_and(|number| (*first..=*last).contains(&number)),
            _ => false,
        },
        _ => false,
    }
}
