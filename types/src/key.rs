//! Keys: the canonical bytes of one index value.
//!
//! A key is matched by its string form: the integer 12345 and the string "12345" are one key. The bytes are UTF-8.

use std::fmt;

use crate::limits::MAX_KEY_BYTES;
use crate::value::Value;

/// Why a value cannot be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is empty.
    #[error("a key must not be empty")]
    Empty,
    /// The value is null.
    #[error("a key must not be null")]
    Null,
    /// The text is longer than [`MAX_KEY_BYTES`].
    #[error("a key may be {MAX_KEY_BYTES} bytes long at most, this one has {0}")]
    TooLong(usize),
    /// The value has no canonical string form.
    #[error("a key must be a string, an integer, a decimal, a boolean, a date or a timestamp, not a {0}")]
    Kind(&'static str),
}

/// The canonical form of one index value: 1 to [`MAX_KEY_BYTES`] bytes of UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Box<str>);

impl Key {
    /// The key with this string form.
    ///
    /// # Errors
    /// When the text is empty or too long.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }

    /// Tells whether `text` could be a key, without making one.
    ///
    /// # Errors
    /// When the text is empty or too long.
    pub fn check(text: &str) -> Result<(), KeyError> {
        match text.len() {
            0 => Err(KeyError::Empty),
            len if len > MAX_KEY_BYTES => Err(KeyError::TooLong(len)),
            _ => Ok(()),
        }
    }

    /// The key of a value, by its string form. A float is none: its text depends on who prints it.
    ///
    /// # Errors
    /// When the value is null, nested, binary or a float, or its text is empty or too long.
    pub fn from_value(value: &Value) -> Result<Self, KeyError> {
        match value {
            Value::String(text) => Self::new(text),
            Value::Null => Err(KeyError::Null),
            Value::Float(_) | Value::Binary(_) | Value::List(_) | Value::Struct(_) => Err(KeyError::Kind(value.kind())),
            scalar => Self::new(&scalar.to_text()),
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key may be somebody's e-mail address, so debug output, which ends in logs, shows only its size.
        write!(f, "Key({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decimal::Decimal;

    #[test]
    fn integer_and_string_are_one_key() {
        let text = Key::new("12345").unwrap();
        assert_eq!(Key::from_value(&Value::Int(12345)).unwrap(), text);
        assert_eq!(Key::from_value(&Value::UInt(12345)).unwrap(), text);
        assert_eq!(Key::from_value(&Value::String("12345".into())).unwrap(), text);
    }

    #[test]
    fn length_is_limited() {
        assert!(Key::new(&"k".repeat(MAX_KEY_BYTES)).is_ok());
        assert_eq!(Key::new(&"k".repeat(MAX_KEY_BYTES + 1)), Err(KeyError::TooLong(MAX_KEY_BYTES + 1)));
        assert_eq!(Key::new(""), Err(KeyError::Empty));
    }

    #[test]
    fn values_without_one_text_are_refused() {
        assert_eq!(Key::from_value(&Value::Null), Err(KeyError::Null));
        assert_eq!(Key::from_value(&Value::Float(1.5)), Err(KeyError::Kind("float")));
        assert_eq!(Key::from_value(&Value::Decimal(Decimal::new(150, 2).unwrap())).unwrap().as_str(), "1.50");
    }

    #[test]
    fn debug_output_hides_the_key() {
        assert_eq!(format!("{:?}", Key::new("ann@example.com").unwrap()), "Key(15 bytes)");
    }
}
