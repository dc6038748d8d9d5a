//! What is not shown: values of redacted fields, and keys where hashes stand for them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::records::Record;
use crate::project::log::Redaction;
use crate::state::requests::KeySalt;

/// What is shown in place of a value.
const HIDDEN: &str = "\"***\"";

/// Covers what a project does not want to be seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Veil<'a> {
    pub(crate) redaction: &'a Redaction,
    pub(crate) salt: KeySalt,
}

impl Veil<'_> {
    /// A key as it may be shown.
    pub(crate) fn key<'k>(&self, key: &'k str) -> Cow<'k, str> {
        if self.redaction.keys { Cow::Owned(self.salt.pseudonym(key)) } else { Cow::Borrowed(key) }
    }

    /// A field's value as it may be shown.
    pub(crate) fn value(&self, field: &str, value: Box<RawValue>) -> Box<RawValue> {
        if self.redaction.shows(field) {
            return value;
        }
        RawValue::from_string(HIDDEN.to_owned()).unwrap_or(value)
    }

    /// Fields or columns as they may be shown.
    pub(crate) fn fields(&self, fields: BTreeMap<String, Box<RawValue>>) -> BTreeMap<String, Box<RawValue>> {
        fields.into_iter().map(|(name, value)| (name.clone(), self.value(&name, value))).collect()
    }

    /// A record as it may be shown.
    pub(crate) fn record(&self, record: Record) -> Record {
        match record {
            Record::Found { fields } => Record::Found { fields: self.fields(fields) },
            other => other,
        }
    }
}
