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

    /// The fields' names by id, each with a comma before it, quotes and a colon; `None` if it is not listed.
    pub(crate) fn rendered(&self) -> &[Option<PaddedText>] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_escaped() {
        let dictionary = Dictionary::new([(FieldId(2), "plain"), (FieldId(0), "a\"b")]);
        let rendered = dictionary.rendered().iter().map(|name| Some(name.as_ref()?.to_bytes()));
        let expected = [Some(&b",\"a\\\"b\":"[..]), None, Some(b",\"plain\":")];
        assert!(rendered.eq(expected.map(|name| name.map(<[u8]>::to_vec))));
    }
}
