//! Names that people choose: collections, indexes, syncs and fields.
//!
//! Invariant: a value of one of these types has passed its rules, so holders need not check again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_FIELD_NAME_BYTES, MAX_NAME_BYTES};

/// Why a text is not an acceptable name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a {0} must not be empty")]
    Empty(&'static str),
    /// The text is longer than its limit.
    #[error("a {what} may be {max} bytes long at most, this one has {len}")]
    TooLong {
        /// What was named.
        what: &'static str,
        /// The limit in bytes.
        max: usize,
        /// The length found in bytes.
        len: usize,
    },
    /// The text holds a character that such a name may not hold.
    #[error("a {what} may not hold the character {found:?}; allowed: {allowed}")]
    Character {
        /// What was named.
        what: &'static str,
        /// The first offending character.
        found: char,
        /// The allowed characters in words.
        allowed: &'static str,
    },
}

fn check_plain(what: &'static str, text: &str) -> Result<(), NameError> {
    check_length(what, text, MAX_NAME_BYTES)?;
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))) {
        Some(found) => Err(NameError::Character { what, found, allowed: "A-Z a-z 0-9 _ -" }),
        None => Ok(()),
    }
}

fn check_field(what: &'static str, text: &str) -> Result<(), NameError> {
    check_length(what, text, MAX_FIELD_NAME_BYTES)?;
    match text.chars().find(|c| c.is_control()) {
        Some(found) => Err(NameError::Character { what, found, allowed: "any but control characters" }),
        None => Ok(()),
    }
}

fn check_length(what: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty(what)),
        len if len > max => Err(NameError::TooLong { what, max, len }),
        _ => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Box<str>);

        impl $type {
            /// Checks `text` against the rules of this kind of name.
            ///
            /// # Errors
            /// [`NameError`] says which rule the text breaks.
            pub fn new(text: &str) -> Result<Self, NameError> {
                $check($what, text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.into()
            }
        }
    };
}

name!(
    /// The name of a collection: 1 to 64 of `A-Z a-z 0-9 _ -`.
    CollectionName, "collection name", check_plain
);
name!(
    /// The name of an index of a collection: 1 to 64 of `A-Z a-z 0-9 _ -`.
    IndexName, "name of an index", check_plain
);
name!(
    /// The name of a sync: 1 to 64 of `A-Z a-z 0-9 _ -`.
    SyncName, "sync name", check_plain
);
name!(
    /// The name of a field: 1 to 128 bytes of UTF-8 without control characters.
    FieldName, "field name", check_field
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_take_letters_digits_dash_and_underscore() {
        for good in ["a", "planes", "Plane_2-x", "0", &"x".repeat(64)] {
            assert_eq!(CollectionName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "é", "a.b", &"x".repeat(65)] {
            assert!(CollectionName::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn field_names_take_any_text_but_control_characters() {
        for good in ["2 digits first", "naïve", "a.b/c", "🙂", &"x".repeat(128)] {
            assert_eq!(FieldName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\nb", "\u{7f}", "\u{0}", &"x".repeat(129)] {
            assert!(FieldName::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn names_are_checked_when_deserialised() {
        assert!(serde_json::from_str::<SyncName>("\"ok\"").is_ok());
        let error = serde_json::from_str::<SyncName>("\"not ok\"").unwrap_err().to_string();
        assert!(error.contains("may not hold the character ' '"), "{error}");
    }
}
