//! Records: their compact encoding.
//!
//! CONTRACT STUB (only `Dictionary` is used by other crates).

use larder_types::ids::FieldId;

/// The names of a collection's fields, rendered once for the lookup path. Built from the catalog.
#[derive(Debug, Default)]
pub struct Dictionary {}

impl Dictionary {
    /// A dictionary of these fields. Fields that are not listed are not shown by lookups.
    #[must_use]
    pub fn new<'a>(fields: impl IntoIterator<Item = (FieldId, &'a str)>) -> Self {
        todo!()
    }
}
