//! The names of a collection's fields, rendered once for the lookup path.

use larder_types::ids::FieldId;
use larder_types::json::write_string;

use super::padded_text::PaddedText;

/// The names of a collection's fields, rendered once for the lookup path. Built from the catalog.
///
/// Field ids are small and dense, so an array is the map; each name stands there as `,"name":`, ready to copy.
#[derive(Debug, Default)]
pub struct Dictionary {
    names: Vec<Option<PaddedText>>,
}

impl Dictionary {
    /// A dictionary of these fields. Fields that are not listed are not shown by lookups.
    #[must_use]
    pub fn new<'a>(fields: impl IntoIterator<Item = (FieldId, &'a str)>) -> Self {
        let mut names = Vec::new();
        for (id, name) in fields {
            let mut rendered = String::from(",");
            write_string(name, &mut rendered);
            rendered.push(':');
            let at = usize::from(id.0);
            if names.len() <= at {
                names.resize(at + 1, None);
            }
            names[at] = Some(PaddedText::new(&rendered));
        }
        Self { names }
    }

    /// The field's name with a comma before it, quotes and a colon, or `None` if it is not listed.
    pub(crate) fn rendered(&self, id: usize) -> Option<&PaddedText> {
        self.names.get(id)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_escaped() {
        let dictionary = Dictionary::new([(FieldId(2), "plain"), (FieldId(0), "a\"b")]);
        let rendered = |id| dictionary.rendered(id).map(PaddedText::as_bytes);
        assert_eq!(rendered(2), Some(&b",\"plain\":"[..]));
        assert_eq!(rendered(0), Some(&b",\"a\\\"b\":"[..]));
        assert_eq!(rendered(1), None);
        assert_eq!(rendered(usize::MAX), None);
    }
}
