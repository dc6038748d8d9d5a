//! The names of a collection's fields, rendered once for the lookup path.

use std::ops::Range;

use larder_types::ids::FieldId;
use larder_types::json::write_string;

/// The names of a collection's fields, rendered once for the lookup path. Built from the catalog.
///
/// Field ids are small and dense, so an array is the map; each name stands in one buffer as `"name":`, ready to copy.
#[derive(Debug, Default)]
pub struct Dictionary {
    rendered: String,
    ranges: Vec<Range<usize>>,
}

impl Dictionary {
    /// A dictionary of these fields. Fields that are not listed are not shown by lookups.
    #[must_use]
    pub fn new<'a>(fields: impl IntoIterator<Item = (FieldId, &'a str)>) -> Self {
        let mut dictionary = Self::default();
        for (id, name) in fields {
            let start = dictionary.rendered.len();
            write_string(name, &mut dictionary.rendered);
            dictionary.rendered.push(':');
            let at = usize::from(id.0);
            if dictionary.ranges.len() <= at {
                dictionary.ranges.resize(at + 1, 0..0);
            }
            dictionary.ranges[at] = start..dictionary.rendered.len();
        }
        dictionary
    }

    /// The field's name with quotes and colon, or `None` if it is not listed.
    pub(crate) fn rendered(&self, id: FieldId) -> Option<&[u8]> {
        let range = self.ranges.get(usize::from(id.0)).filter(|range| !range.is_empty())?;
        Some(&self.rendered.as_bytes()[range.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_escaped() {
        let dictionary = Dictionary::new([(FieldId(2), "plain"), (FieldId(0), "a\"b")]);
        assert_eq!(dictionary.rendered(FieldId(2)), Some(&b"\"plain\":"[..]));
        assert_eq!(dictionary.rendered(FieldId(0)), Some(&b"\"a\\\"b\":"[..]));
        assert_eq!(dictionary.rendered(FieldId(1)), None);
        assert_eq!(dictionary.rendered(FieldId(u16::MAX)), None);
    }
}
