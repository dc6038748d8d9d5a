//! Exact arithmetic for templates: money must not pick up the dust of binary fractions (10.1 - 2.2 is 7.9).
//!
//! Numbers are calculated with as decimals of up to 38 digits; a double stands for the decimal that it prints as. Only
//! what does not fit falls back to doubles. Whole numbers stay whole, decimals stay decimals, and a double stays one as
//! long as it prints the exact result.

use std::cmp::Ordering;

use larder_types::decimal::Decimal;
use larder_types::json::write_float;

/// Digits after the point up to which a division is tried exactly.
const DIVISION_DIGITS: u8 = 18;
/// Decimals of so many digits survive the way through a double and back.
const DOUBLE_DIGITS: u32 = 15;

/// A number in a template.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    /// A whole number that was written as one.
    Whole(i128),
    /// A number with a point, exactly.
    Exact(Decimal),
    /// A double.
    Float(f64),
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("division by zero")]
pub(super) struct DivisionByZero;

impl Number {
    /// The number that is all of a text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(decimal) = text.parse::<Decimal>() {
            if decimal.scale() == 0 && !text.contains(['.', 'e', 'E']) {
                return Some(Self::Whole(decimal.mantissa()));
            }
            return Some(Self::Exact(decimal).as_double());
        }
        text.parse::<f64>().ok().filter(|float| float.is_finite()).map(Self::Float)
    }

    /// The number of a text as Shopify reads it: a whole text such as `12.5`, else the digits at its front, else zero.
    pub(super) fn leading(text: &str) -> Self {
        let text = text.trim();
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
        let is_fraction = unsigned[digits..]
            .strip_prefix('.')
            .is_some_and(|rest| digits > 0 && !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()));
        let end = if is_fraction { text.len() } else { text.len() - unsigned.len() + digits };
        Self::parse(&text[..end]).unwrap_or(Self::Whole(0))
    }

    /// A decimal of a column: whole if it has no digits after the point.
    pub(super) fn from_decimal(decimal: Decimal) -> Self {
        if decimal.scale() == 0 { Self::Whole(decimal.mantissa()) } else { Self::Exact(decimal) }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        self.combine(other, i128::checked_add, |a, b| a + b)
    }

    pub(super) fn minus(self, other: Self) -> Self {
        self.combine(other, i128::checked_sub, |a, b| a - b)
    }

    pub(super) fn times(self, other: Self) -> Self {
        let exact = || {
            let (a, b) = (self.decimal()?, other.decimal()?);
            let scale = a.scale().checked_add(b.scale())?;
            Some((a.mantissa().checked_mul(b.mantissa())?, scale))
        };
        self.result(other, exact(), |a, b| a * b)
    }

    /// Two whole numbers give the whole quotient, rounded down; any other pair gives the fraction.
    pub(super) fn divided_by(self, other: Self) -> Result<Self, DivisionByZero> {
        other.check_divisor()?;
        if let (Self::Whole(a), Self::Whole(b)) = (self, other) {
            let quotient = || {
                let down = i128::from(a.checked_rem(b)? != 0 && (a < 0) != (b < 0));
                Some(Self::Whole(a.checked_div(b)? - down))
            };
            return Ok(quotient().unwrap_or_else(|| Self::Float(self.to_f64() / other.to_f64())));
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
    pub(super) fn modulo(self, other: Self) -> Result<Self, DivisionByZero> {
        other.check_divisor()?;
        let remainder = |a: i128, b: i128| {
            let rest = a.checked_rem(b)?;
            if rest != 0 && (rest < 0) != (b < 0) { rest.checked_add(b) } else { Some(rest) }
        };
        Ok(self.combine(other, remainder, |a, b| a - b * (a / b).floor()))
    }

    pub(super) fn abs(self) -> Self {
        match self {
            Self::Whole(number) => Self::Whole(number.saturating_abs()),
            Self::Exact(decimal) => {
                Decimal::new(decimal.mantissa().saturating_abs(), decimal.scale()).map_or(self, Self::Exact)
            }
            Self::Float(float) => Self::Float(float.abs()),
        }
    }

    pub(super) fn floor(self) -> Self {
        self.to_whole(i128::div_euclid, f64::floor)
    }

    pub(super) fn ceil(self) -> Self {
        self.to_whole(
            |mantissa, unit| mantissa.div_euclid(unit) + i128::from(mantissa.rem_euclid(unit) != 0),
            f64::ceil,
        )
    }

    /// Rounded to so many digits after the point, halves away from zero. Without such digits it is whole.
    pub(super) fn round(self, digits: i64) -> Self {
        let half_up = |mantissa: i128, unit: i128| {
            let up = i128::from(mantissa.unsigned_abs() % unit.unsigned_abs() >= unit.unsigned_abs().div_ceil(2));
            mantissa / unit + if mantissa < 0 { -up } else { up }
        };
        let Ok(digits) = u8::try_from(digits.max(0)) else { return self };
        if digits == 0 {
            return self.to_whole(half_up, f64::round);
        }
        let rounded = || {
            let decimal = self.decimal()?;
            let cut = decimal.scale().checked_sub(digits).filter(|cut| *cut > 0)?;
            let unit = 10i128.checked_pow(u32::from(cut))?;
            Decimal::new(half_up(decimal.mantissa(), unit), digits).ok()
        };
        match (self, rounded()) {
            (Self::Exact(_), Some(decimal)) => Self::Exact(decimal),
            (Self::Float(_), Some(decimal)) => Self::Exact(decimal).as_double(),
            _ => self,
        }
    }

    /// Rounded to hundreds, thousands and so on.
    pub(super) fn round_to_power(self, power: u32) -> Self {
        let Self::Whole(whole) = self.round(0) else { return self };
        let Some(unit) = 10i128.checked_pow(power) else { return Self::Whole(0) };
        let up = i128::from(whole.unsigned_abs() % unit.unsigned_abs() >= unit.unsigned_abs() / 2);
        Self::Whole((whole / unit + if whole < 0 { -up } else { up }).saturating_mul(unit))
    }

    /// Without its fraction, where 64 bits hold it.
    pub(super) fn truncated(self) -> Option<i64> {
        match self.to_whole(|mantissa, unit| mantissa / unit, f64::trunc) {
            Self::Whole(whole) => i64::try_from(whole).ok(),
            _ => None,
        }
    }

    /// The order of two numbers, by their exact values; none for a double that is no number.
    pub(super) fn order(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => return Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => return a.partial_cmp(&b),
            _ => {}
        }
        let exact = || {
            let (a, b) = (self.decimal()?, other.decimal()?);
            let (a, b, _) = aligned(a, b)?;
            Some(a.cmp(&b))
        };
        exact().or_else(|| self.to_f64().partial_cmp(&other.to_f64()))
    }

    /// A total order for sorting: by the nearest doubles, then by the exact values where there are any.
    pub(super) fn rank(self, other: Self) -> Ordering {
        self.to_f64().total_cmp(&other.to_f64()).then_with(|| match (self.decimal(), other.decimal()) {
            (Some(a), Some(b)) => aligned(a, b).map_or(Ordering::Equal, |(a, b, _)| a.cmp(&b)),
            (a, b) => a.is_some().cmp(&b.is_some()),
        })
    }

    /// The nearest double.
    pub(super) fn to_f64(self) -> f64 {
        match self {
            #[allow(clippy::cast_precision_loss, reason = "the nearest double is what is asked for")]
            Self::Whole(number) => number as f64,
            Self::Exact(decimal) => decimal.to_f64(),
            Self::Float(float) => float,
        }
    }

    /// Appends the number as text, without zeros at the end of a fraction, but with one digit of it: `5.0`.
    pub(super) fn write(self, out: &mut String) {
        match self {
            Self::Whole(number) => push_whole(number, out),
            Self::Exact(decimal) => {
                let decimal = trimmed(decimal);
                out.push_str(&decimal.to_string());
                if decimal.scale() == 0 {
                    out.push_str(".0");
                }
            }
            Self::Float(float) => write_float(float, out),
        }
    }

    /// The same number as a double, if the double prints as exactly this number.
    fn as_double(self) -> Self {
        let Self::Exact(decimal) = self else { return self };
        let float = decimal.to_f64();
        if decimal.mantissa().unsigned_abs() < 10u128.pow(DOUBLE_DIGITS) {
            return Self::Float(float);
        }
        match shortest(float) {
            Some(back) if trimmed(back) == trimmed(decimal) => Self::Float(float),
            _ => self,
        }
    }

    fn to_whole(self, exact: impl Fn(i128, i128) -> i128, rough: impl Fn(f64) -> f64) -> Self {
        if let Self::Whole(_) = self {
            return self;
        }
        let by_decimal = || {
            let decimal = self.decimal()?;
            Some(exact(decimal.mantissa(), 10i128.checked_pow(u32::from(decimal.scale()))?))
        };
        #[allow(clippy::cast_possible_truncation, reason = "beyond 128 bits the nearest of them is the best there is")]
        by_decimal().map_or_else(|| Self::Whole(rough(self.to_f64()) as i128), Self::Whole)
    }

    fn check_divisor(self) -> Result<(), DivisionByZero> {
        let zero = match self {
            Self::Whole(number) => number == 0,
            Self::Exact(decimal) => decimal.mantissa() == 0,
            Self::Float(float) => float == 0.0,
        };
        if zero { Err(DivisionByZero) } else { Ok(()) }
    }

    fn decimal(self) -> Option<Decimal> {
        match self {
            Self::Whole(number) => Decimal::new(number, 0).ok(),
            Self::Exact(decimal) => Some(decimal),
            Self::Float(float) => shortest(float),
        }
    }

    /// Brings both to one scale and applies `exact` to the mantissas.
    fn combine(self, other: Self, exact: impl Fn(i128, i128) -> Option<i128>, rough: fn(f64, f64) -> f64) -> Self {
        if let (Self::Whole(a), Self::Whole(b)) = (self, other) {
            return exact(a, b).map_or_else(|| Self::Float(rough(self.to_f64(), other.to_f64())), Self::Whole);
        }
        let result = || {
            let (a, b, scale) = aligned(self.decimal()?, other.decimal()?)?;
            Some((exact(a, b)?, scale))
        };
        self.result(other, result(), rough)
    }

    fn result(self, other: Self, exact: Option<(i128, u8)>, rough: fn(f64, f64) -> f64) -> Self {
        let is_whole = matches!((self, other), (Self::Whole(_), Self::Whole(_)));
        let is_exact = matches!(self, Self::Exact(_)) || matches!(other, Self::Exact(_));
        match exact.map(|(mantissa, scale)| (mantissa, Decimal::new(mantissa, scale))) {
            Some((mantissa, _)) if is_whole => Self::Whole(mantissa),
            Some((_, Ok(decimal))) if is_exact => Self::Exact(trimmed(decimal)),
            Some((_, Ok(decimal))) => Self::Exact(trimmed(decimal)).as_double(),
            _ => Self::Float(rough(self.to_f64(), other.to_f64())),
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.order(*other) == Some(Ordering::Equal)
    }
}

/// The mantissas of two decimals at one scale, and the scale.
fn aligned(a: Decimal, b: Decimal) -> Option<(i128, i128, u8)> {
    let scale = a.scale().max(b.scale());
    let lift = |d: Decimal| d.mantissa().checked_mul(10i128.checked_pow(u32::from(scale - d.scale()))?);
    Some((lift(a)?, lift(b)?, scale))
}

/// The decimal that a double prints as.
fn shortest(float: f64) -> Option<Decimal> {
    let mut text = String::new();
    write_float(float, &mut text);
    text.parse().ok()
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

fn push_whole(number: i128, out: &mut String) {
    use std::fmt::Write as _;
    // Writing to a text does not fail.
    let _ = match i64::try_from(number) {
        Ok(small) => write!(out, "{small}"),
        Err(_) => write!(out, "{number}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    fn text(number: Number) -> String {
        let mut out = String::new();
        number.write(&mut out);
        out
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
            ("10", '-', "2.0", "8.0"),
        ] {
            let result = match op {
                '+' => n(a).plus(n(b)),
                '-' => n(a).minus(n(b)),
                '*' => n(a).times(n(b)),
                _ => n(a).modulo(n(b)).unwrap(),
            };
            assert_eq!(text(result), expected, "{a} {op} {b}");
        }
    }

    #[test]
    fn division_is_whole_only_between_whole_numbers() {
        for (a, b, expected) in [
            ("10", "4", "2"),
            ("-7", "2", "-4"),
            ("10", "2.0", "5.0"),
            ("10", "4.0", "2.5"),
            ("7.9", "2", "3.95"),
            ("0.3", "0.1", "3.0"),
            ("20", "7.0", "2.857142857142857"),
        ] {
            assert_eq!(text(n(a).divided_by(n(b)).unwrap()), expected, "{a} / {b}");
        }
        let least = Number::Whole(i128::MIN);
        assert!(matches!(least.divided_by(n("-1")), Ok(Number::Float(_))));
        assert!(least.modulo(n("-1")).is_ok());
        for zero in ["0", "0.00"] {
            assert_eq!(n("1").divided_by(n(zero)), Err(DivisionByZero));
            assert_eq!(n("1").modulo(n(zero)), Err(DivisionByZero));
        }
    }

    #[test]
    fn kinds_of_numbers_are_kept() {
        let money = Number::Exact("33.50".parse().unwrap());
        assert!(matches!(money.minus(n("3.2")), Number::Exact(_)));
        assert!(matches!(n("7").times(n("1.5")), Number::Float(float) if float == 10.5));
        assert!(matches!(n("12345678901234567890.12").plus(n("1")), Number::Exact(_)));
        assert!(matches!(n("1e300").plus(n("1")), Number::Float(_)));
        assert!(matches!(Number::Whole(i128::MAX).plus(n("1")), Number::Float(_)));
    }

    #[test]
    fn rounding_goes_away_from_zero() {
        for (number, digits, expected) in [
            ("5.666", 1, "5.7"),
            ("2.5", 0, "3"),
            ("-2.5", 0, "-3"),
            ("2.4999", 0, "2"),
            ("1.005", 2, "1.01"),
            ("7", 2, "7"),
            ("1.5", 3, "1.5"),
        ] {
            assert_eq!(text(n(number).round(digits)), expected, "{number}");
        }
        assert_eq!(text(n("-5.4").floor()), "-6");
        assert_eq!(text(n("-5.4").ceil()), "-5");
        assert_eq!(text(n("5.4").ceil()), "6");
        assert_eq!(text(n("1551").round_to_power(2)), "1600");
        assert_eq!(text(n("5.666").round_to_power(2)), "0");
    }

    #[test]
    fn order_is_by_exact_value() {
        assert_eq!(n("18446744073709551615").order(n("18446744073709551616")), Some(Ordering::Less));
        assert_eq!(n("1"), n("1.0"));
        assert_eq!(n("12345678901234567890.10"), n("12345678901234567890.1"));
        assert!(n("0.1") != Number::Float(f64::NAN));
    }

    #[test]
    fn texts_are_read_as_shopify_reads_them() {
        for (given, expected) in [
            ("12.5", "12.5"),
            (" -3 ", "-3"),
            ("12abc", "12"),
            ("12.5x", "12"),
            ("abc", "0"),
            ("", "0"),
            ("-", "0"),
            (".5", "0"),
        ] {
            assert_eq!(text(Number::leading(given)), expected, "{given}");
        }
        assert!(Number::parse("abc").is_none() && Number::parse("nan").is_none());
    }
}
