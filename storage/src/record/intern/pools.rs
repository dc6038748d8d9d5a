//! The texts that ids in records stand for.

use std::sync::OnceLock;

use larder_types::ids::FieldId;
use larder_types::json::write_string;

use super::MAX_TEXTS;
use crate::chunks::Chunks;
use crate::record::padded_text::PaddedText;

/// The pools of all fields of a collection in one shard. Grows while others read it.
#[derive(Default)]
pub(crate) struct Pools(Chunks<Pool, 8, 14>);

/// The texts of one field, by id.
type Pool = Chunks<OnceLock<Text>, 16, 9>;
const _: () = assert!(Pool::CAPACITY >= MAX_TEXTS as u64);

/// One text.
pub(crate) struct Text {
    /// As it stands in JSON, in quotes.
    json: PaddedText,
    text: Box<str>,
}

impl Pools {
    /// No field has a text.
    #[cfg(test)]
    pub(crate) const fn none() -> Self {
        Self(Chunks::new())
    }

    /// The text that an id in the field's values stands for.
    pub(crate) fn text(&self, field: FieldId, id: u32) -> Option<&Text> {
        self.0.get(u32::from(field.0))?.get(id)?.get()
    }

    /// Adds the text with the field's next id.
    pub(super) fn add(&self, field: FieldId, id: u32, text: &str) -> &Text {
        assert!((id as usize) < MAX_TEXTS, "a full pool takes no more texts");
        let slot = self.0.grow_to(u32::from(field.0)).grow_to(id);
        assert!(slot.get().is_none(), "an id is given once");
        slot.get_or_init(|| Text::new(text))
    }
}

impl Text {
    fn new(text: &str) -> Self {
        let mut json = String::with_capacity(text.len() + 2);
        write_string(text, &mut json);
        Self { json: PaddedText::new(&json), text: text.into() }
    }

    /// As it stands in JSON, in quotes.
    pub(crate) fn json(&self) -> &PaddedText {
        &self.json
    }

    /// The text itself.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Bytes that the text takes in memory, with its slot and its share of the writer's index. A number of its own, so
    /// that it is the same on all machines.
    pub(super) fn held_bytes(&self) -> u64 {
        96 + self.text.len().next_multiple_of(16) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_in_json_and_as_they_are() {
        let pools = Pools::default();
        for (id, text, json) in [(0, "plain", "\"plain\""), (1, "a\"b\n", r#""a\"b\n""#), (2, "é", "\"é\"")] {
            pools.add(FieldId(3), id, text);
            let added = pools.text(FieldId(3), id).unwrap();
            assert_eq!((added.as_str(), added.json()), (text, &PaddedText::new(json)));
        }
        assert!(pools.text(FieldId(3), 3).is_none() && pools.text(FieldId(3), u32::MAX).is_none());
    }

    #[test]
    fn fields_have_pools_of_their_own() {
        let pools = Pools::default();
        for (field, text) in [(FieldId(0), "first"), (FieldId(u16::MAX), "last")] {
            assert!(pools.text(field, 0).is_none());
            pools.add(field, 0, text);
            assert_eq!(pools.text(field, 0).map(Text::as_str), Some(text));
        }
        assert!(pools.text(FieldId(1), 0).is_none());
    }
}
