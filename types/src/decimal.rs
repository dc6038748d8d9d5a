//! Exact decimals: money must come out as it went in.
//!
//! A decimal is a mantissa and a scale, and keeps the scale it was written with: `33.50` stays `33.50`.

use std::fmt;
use std::str::FromStr;

use crate::limits::MAX_DECIMAL_SCALE;

/// The smallest mantissa with more than 38 digits, which is what decimals of warehouses have at most.
const TOO_LARGE: u128 = 10u128.pow(38);

/// `mantissa / 10^scale`. The scale is at most [`MAX_DECIMAL_SCALE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decimal {
    mantissa: i128,
    scale: u8,
}

/// Why a text or a pair of numbers is not a decimal that can be kept exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Not digits with an optional sign, point and exponent.
    #[error("not a decimal number")]
    Syntax,
    /// More digits than 38, or an exponent that needs as many.
    #[error("a decimal may have 38 digits at most")]
    TooLarge,
}

impl Decimal {
    /// The decimal `mantissa / 10^scale`.
    ///
    /// # Errors
    /// When the scale is above [`MAX_DECIMAL_SCALE`], or the mantissa has more than 38 digits.
    pub fn new(mantissa: i128, scale: u8) -> Result<Self, DecimalError> {
        if scale > MAX_DECIMAL_SCALE || mantissa.unsigned_abs() >= TOO_LARGE {
            return Err(DecimalError::TooLarge);
        }
        Ok(Self { mantissa, scale })
    }

    /// The digits as one integer.
    #[must_use]
    pub fn mantissa(self) -> i128 {
        self.mantissa
    }

    /// How many of the digits stand after the point.
    #[must_use]
    pub fn scale(self) -> u8 {
        self.scale
    }

    /// The value as an integer, if it is one.
    #[must_use]
    pub fn to_integer(self) -> Option<i128> {
        let unit = 10i128.checked_pow(u32::from(self.scale))?;
        (self.mantissa % unit == 0).then_some(self.mantissa / unit)
    }

    /// The nearest double.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        // By way of the text: parsing rounds correctly, dividing two rounded doubles does not.
        self.to_string().parse().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scale == 0 {
            return write!(f, "{}", self.mantissa);
        }
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let scale = usize::from(self.scale);
        let digits = format!("{:0>width$}", self.mantissa.unsigned_abs(), width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

impl FromStr for Decimal {
    type Err = DecimalError;

    /// Reads `-12.50`, `7`, `.5`, `1.5e3`; the scale is the number of digits written after the point, less the
    /// exponent.
    fn from_str(text: &str) -> Result<Self, DecimalError> {
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i32>().map_err(|_| DecimalError::Syntax)?),
            None => (text, 0),
        };
        let (negative, digits) = match number.as_bytes() {
            [b'-', ..] => (true, &number[1..]),
            [b'+', ..] => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(DecimalError::Syntax);
        }
        let mut mantissa: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            if !digit.is_ascii_digit() {
                return Err(DecimalError::Syntax);
            }
            mantissa = shift(mantissa)?.checked_add(i128::from(digit - b'0')).ok_or(DecimalError::TooLarge)?;
        }
        let mut scale = i64::try_from(fraction.len()).map_err(|_| DecimalError::TooLarge)? - i64::from(exponent);
        while scale < 0 {
            mantissa = shift(mantissa)?;
            scale += 1;
            if mantissa == 0 {
                scale = 0;
            }
        }
        let scale = u8::try_from(scale).map_err(|_| DecimalError::TooLarge)?;
        Self::new(if negative { -mantissa } else { mantissa }, scale)
    }
}

fn shift(mantissa: i128) -> Result<i128, DecimalError> {
    mantissa.checked_mul(10).ok_or(DecimalError::TooLarge)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_kept_as_written() {
        for text in ["0", "-0.05", "33.50", "12345678901234567890.123456789", "0.000", "100"] {
            assert_eq!(text.parse::<Decimal>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn exponents_move_the_point() {
        for (text, plain) in [("1.5e3", "1500"), ("1.5e-3", "0.0015"), ("+.5", "0.5"), ("5.", "5"), ("0e30", "0")] {
            assert_eq!(text.parse::<Decimal>().unwrap().to_string(), plain);
        }
    }

    #[test]
    fn what_cannot_be_kept_exactly_is_refused() {
        for bad in ["", ".", "-", "1a", "1.2.3", "e5", "1e", "--1", "NaN"] {
            assert_eq!(bad.parse::<Decimal>(), Err(DecimalError::Syntax), "{bad}");
        }
        assert!("9".repeat(38).parse::<Decimal>().is_ok());
        let one_more = format!("1{}", "0".repeat(38));
        for large in ["1e38", "1e-39", one_more.as_str(), "9".repeat(40).as_str(), "1e2000000000"] {
            assert_eq!(large.parse::<Decimal>(), Err(DecimalError::TooLarge), "{large}");
        }
    }

    #[test]
    fn integers_are_recognised() {
        assert_eq!("12.00".parse::<Decimal>().unwrap().to_integer(), Some(12));
        assert_eq!("12.01".parse::<Decimal>().unwrap().to_integer(), None);
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(mantissa in any::<i64>(), scale in 0u8..=38) {
            let decimal = Decimal::new(i128::from(mantissa), scale).unwrap();
            prop_assert_eq!(decimal.to_string().parse::<Decimal>().unwrap(), decimal);
        }
    }
}
