//! The texts that ids in records stand for.

use std::sync::{Arc, OnceLock};

use larder_types::ids::FieldId;
use larder_types::json::{needs_escape, write_string};

use super::MAX_TEXTS;
use crate::chunks::Chunks;
use crate::record::padded_text::PaddedText;

/// The pools of all fields of a collection in one shard. Grows while others read it.
#[derive(Default)]
pub(crate) struct Pools(Chunks<OnceLock<Arc<Pool>>, 32, 12>);

type Slots = Chunks<OnceLock<Text>, 16, 9>;
const _: () = assert!(Slots::CAPACITY >= MAX_TEXTS as u64);

/// The texts of one field, by id.
#[derive(Default)]
pub(crate) struct Pool(Slots);

/// One text.
pub(crate) struct Text {
    /// As it stands in JSON, in quotes.
    json: PaddedText,
    /// The text itself, if it is not what stands between the quotes.
    unescaped: Option<Box<str>>,
}

impl Pools {
    /// No field has a pool.
    pub(crate) const fn none() -> Self {
        Self(Chunks::new())
    }

    /// The text that an id in the field's values stands for.
    pub(crate) fn text(&self, field: FieldId, id: u32) -> Option<&Text> {
        self.0.get(u32::from(field.0))?.get()?.text(id)
    }

    /// Makes a field's pool known, which is done once.
    pub(super) fn publish(&self, field: FieldId, pool: Arc<Pool>) {
        let published = self.0.grow_to(u32::from(field.0)).set(pool);
        assert!(published.is_ok(), "a field gets a pool once");
    }
}

impl Pool {
    pub(super) fn text(&self, id: u32) -> Option<&Text> {
        self.0.get(id)?.get()
    }

    /// Adds the text with the next id.
    pub(super) fn add(&self, id: u32, text: &str) -> &Text {
        assert!((id as usize) < MAX_TEXTS, "a full pool takes no more texts");
        let slot = self.0.grow_to(id);
        assert!(slot.get().is_none(), "an id is given once");
        slot.get_or_init(|| Text::new(text))
    }
}

impl Text {
    fn new(text: &str) -> Self {
        let mut json = String::with_capacity(text.len() + 2);
        write_string(text, &mut json);
        Self { json: PaddedText::new(&json), unescaped: needs_escape(text).then(|| text.into()) }
    }

    /// As it stands in JSON, in quotes.
    pub(crate) fn json(&self) -> &PaddedText {
        &self.json
    }

    /// The bytes of the text itself.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        let json = self.json.as_bytes();
        self.unescaped.as_ref().map_or(&json[1..json.len() - 1], |text| text.as_bytes())
    }

    /// Bytes that the text takes in memory, with its slot and its share of the writer's index. A number of its own, so
    /// that it is the same on all machines.
    pub(super) fn held_bytes(&self) -> u64 {
        let unescaped = self.unescaped.as_ref().map_or(0, |text| text.len());
        (64 + self.json.as_bytes().len().next_multiple_of(32) + unescaped) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_in_json_and_as_they_are() {
        let pool = Pool::default();
        for (id, text, json) in [(0, "plain", "\"plain\""), (1, "a\"b\n", r#""a\"b\n""#), (2, "é", "\"é\"")] {
            pool.add(id, text);
            let text_of = |id| pool.text(id).map(|text| (text.as_bytes(), text.json().as_bytes()));
            assert_eq!(text_of(id), Some((text.as_bytes(), json.as_bytes())));
        }
        assert!(pool.text(3).is_none() && pool.text(u32::MAX).is_none());
    }

    #[test]
    fn fields_have_pools_of_their_own() {
        let pools = Pools::default();
        for (field, text) in [(FieldId(0), "first"), (FieldId(u16::MAX), "last")] {
            assert!(pools.text(field, 0).is_none());
            let pool = Arc::new(Pool::default());
            pools.publish(field, pool.clone());
            assert!(pools.text(field, 0).is_none(), "the text is not there yet");
            pool.add(0, text);
            assert_eq!(pools.text(field, 0).map(Text::as_bytes), Some(text.as_bytes()));
        }
        assert!(pools.text(FieldId(1), 0).is_none());
    }
}
