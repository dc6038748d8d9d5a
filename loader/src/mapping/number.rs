//! Exact arithmetic for templates: money must not pick up the dust of binary fractions (10.1 - 2.2 is 7.9).
//!
//! Numbers are taken by their shortest decimal text and calculated with as decimals of up to 38 digits; only what does
//! not fit falls back to doubles. Whole numbers stay whole.

use larder_types::decimal::Decimal;
use larder_types::json::write_float;

/// Digits after the point up to which a division is tried exactly.
const DIVISION_DIGITS: u8 = 18;

/// A number in a template.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// A whole number that was written as one.
    Whole(i128),
    /// A number with a point.
    Exact(Decimal),
    /// A number that no decimal of 38 digits holds.
    Rough(f64),
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("division by zero")]
pub(crate) struct DivisionByZero;

impl Number {
    /// The number written in a text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(decimal) = text.parse::<Decimal>() {
            let whole = decimal.scale() == 0 && !text.contains(['.', 'e', 'E']);
            return Some(if whole { Self::Whole(decimal.mantissa()) } else { Self::Exact(decimal) });
        }
        text.parse::<f64>().ok().filter(|float| float.is_finite()).map(Self::Rough)
    }

    /// The number that a double prints as.
    pub(crate) fn from_float(float: f64) -> Option<Self> {
        let mut text = String::new();
        write_float(float, &mut text);
        let exact = text.parse().map(Self::Exact);
        exact.ok().or_else(|| float.is_finite().then_some(Self::Rough(float)))
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        self.combine(other, i128::checked_add, |a, b| a + b)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        self.combine(other, i128::checked_sub, |a, b| a - b)
    }

    pub(crate) fn times(self, other: Self) -> Self {
        let exact = || {
            let (a, b) = (self.decimal()?, other.decimal()?);
            let scale = a.scale().checked_add(b.scale())?;
            Some((a.mantissa().checked_mul(b.mantissa())?, scale))
        };
        self.result(other, exact(), |a, b| a * b)
    }

    /// Two whole numbers give the whole quotient, rounded down; any other pair gives the fraction.
    pub(crate) fn divided_by(self, other: Self) -> Result<Self, DivisionByZero> {
        other.check_divisor()?;
        if let (Self::Whole(a), Self::Whole(b)) = (self, other) {
            let down = i128::from(a % b != 0 && (a < 0) != (b < 0));
            return Ok(Self::Whole(a / b - down));
        }
        let exact = || {
            let (a, b) = (self.decimal()?, other.decimal()?);
            for extra in 0..=DIVISION_DIGITS {
                let lift = extra.checked_add(b.scale())?.checked_sub(a.scale());
                let Some(lift) = lift else { continue };
                let dividend = a.mantissa().checked_mul(10i128.checked_pow(u32::from(lift))?)?;
                if dividend % b.mantissa() == 0 {
                    return Some((dividend / b.mantissa(), extra));
                }
            }
            None
        };
        Ok(self.result(other, exact(), |a, b| a / b))
    }

    /// The remainder; it has the sign of `other`.
    pub(crate) fn modulo(self, other: Self) -> Result<Self, DivisionByZero> {
        other.check_divisor()?;
        let remainder = |a: i128, b: i128| {
            let rest = a.checked_rem(b)?;
            if rest != 0 && (rest < 0) != (b < 0) { rest.checked_add(b) } else { Some(rest) }
        };
        Ok(self.combine(other, remainder, |a, b| a - b * (a / b).floor()))
    }

    /// The nearest double.
    pub(crate) fn to_f64(self) -> f64 {
        match self {
            #[allow(clippy::cast_precision_loss, reason = "the nearest double is what is asked for")]
            Self::Whole(number) => number as f64,
            Self::Exact(decimal) => decimal.to_f64(),
            Self::Rough(float) => float,
        }
    }

    /// The number as text, without zeros at the end of a fraction.
    pub(crate) fn to_text(self) -> String {
        match self {
            Self::Whole(number) => number.to_string(),
            Self::Exact(decimal) => trimmed(decimal).to_string(),
            Self::Rough(float) => {
                let mut text = String::new();
                write_float(float, &mut text);
                text
            }
        }
    }

    /// The double that stands for exactly this number, if there is one.
    pub(crate) fn as_exact_f64(self) -> Option<f64> {
        let float = self.to_f64();
        match (self, Self::from_float(float)) {
            (Self::Exact(decimal), Some(Self::Exact(back))) => (trimmed(decimal) == trimmed(back)).then_some(float),
            (Self::Rough(_), _) => Some(float),
            _ => None,
        }
    }

    fn check_divisor(self) -> Result<(), DivisionByZero> {
        let zero = match self {
            Self::Whole(number) => number == 0,
            Self::Exact(decimal) => decimal.mantissa() == 0,
            Self::Rough(float) => float == 0.0,
        };
        if zero { Err(DivisionByZero) } else { Ok(()) }
    }

    fn decimal(self) -> Option<Decimal> {
        match self {
            Self::Whole(number) => Decimal::new(number, 0).ok(),
            Self::Exact(decimal) => Some(decimal),
            Self::Rough(_) => None,
        }
    }

    /// Brings both to one scale and applies `exact` to the mantissas.
    fn combine(self, other: Self, exact: impl Fn(i128, i128) -> Option<i128>, rough: fn(f64, f64) -> f64) -> Self {
        let aligned = || {
            let (a, b) = (self.decimal()?, other.decimal()?);
            let scale = a.scale().max(b.scale());
            let lift = |d: Decimal| d.mantissa().checked_mul(10i128.checked_pow(u32::from(scale - d.scale()))?);
            Some((exact(lift(a)?, lift(b)?)?, scale))
        };
        self.result(other, aligned(), rough)
    }

    fn result(self, other: Self, exact: Option<(i128, u8)>, rough: fn(f64, f64) -> f64) -> Self {
        match exact {
            Some((mantissa, 0)) if self.is_whole() && other.is_whole() => Self::Whole(mantissa),
            Some((mantissa, scale)) => Decimal::new(mantissa, scale)
                .map_or_else(|_| Self::Rough(rough(self.to_f64(), other.to_f64())), Self::Exact),
            None => Self::Rough(rough(self.to_f64(), other.to_f64())),
        }
    }

    fn is_whole(self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

/// The same decimal without zeros at the end of its fraction.
fn trimmed(decimal: Decimal) -> Decimal {
    let (mut mantissa, mut scale) = (decimal.mantissa(), decimal.scale());
    while scale > 0 && mantissa % 10 == 0 {
        mantissa /= 10;
        scale -= 1;
    }
    Decimal::new(mantissa, scale).unwrap_or(decimal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    #[test]
    fn sums_and_products_are_exact() {
        for (a, op, b, expected) in [
            ("10.1", '-', "2.2", "7.9"),
            ("0.1", '+', "0.2", "0.3"),
            ("1.10", '*', "3", "3.3"),
            ("12345678901234567890.10", '+', "0.01", "12345678901234567890.11"),
            ("9223372036854775807", '+', "1", "9223372036854775808"),
            ("7", '%', "3", "1"),
            ("-7", '%', "3", "2"),
            ("5.5", '%', "2", "1.5"),
        ] {
            let result = match op {
                '+' => n(a).plus(n(b)),
                '-' => n(a).minus(n(b)),
                '*' => n(a).times(n(b)),
                _ => n(a).modulo(n(b)).unwrap(),
            };
            assert_eq!(result.to_text(), expected, "{a} {op} {b}");
        }
    }

    #[test]
    fn division_is_whole_only_between_whole_numbers() {
        for (a, b, expected) in [
            ("10", "4", "2"),
            ("-7", "2", "-4"),
            ("10", "2.0", "5"),
            ("10", "4.0", "2.5"),
            ("7.9", "2", "3.95"),
            ("0.3", "0.1", "3"),
        ] {
            assert_eq!(n(a).divided_by(n(b)).unwrap().to_text(), expected, "{a} / {b}");
        }
        assert_eq!(n("1").divided_by(n("3.0")).unwrap(), Number::Rough(1.0 / 3.0));
        for zero in ["0", "0.00"] {
            assert_eq!(n("1").divided_by(n(zero)), Err(DivisionByZero));
            assert_eq!(n("1").modulo(n(zero)), Err(DivisionByZero));
        }
    }

    #[test]
    fn what_decimals_cannot_hold_is_rough() {
        assert_eq!(n("1e300").plus(n("1")), Number::Rough(1e300));
        assert_eq!(Number::parse("abc"), None);
        assert_eq!(Number::parse("nan"), None);
        assert_eq!(n("0.12345678901234567890").as_exact_f64(), None);
        assert_eq!(n("33.50").as_exact_f64(), Some(33.5));
    }
}
