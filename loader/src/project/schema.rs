//! JSON Schemas (2020-12) of the YAML files, made of the tables that the parser reads.
//!
//! A schema accepts what the parser accepts as far as the file alone can tell: keys, shapes, words. Wherever it names
//! words it also takes a text with a variable in it, as the parser does.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::keys::{Section, Shape, Variant};
use super::{cluster, source_file, sync_file};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The kinds of YAML files of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `larder.yml`.
    Settings,
    /// `sources/*.yml`.
    Source,
    /// `syncs/*.yml`.
    Sync,
}

impl FileKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Settings, Self::Source, Self::Sync];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "larder",
            Self::Source => "source",
            Self::Sync => "sync",
        }
    }

    pub(super) fn shape(self) -> Shape {
        match self {
            Self::Settings => Shape::Section(&cluster::SETTINGS),
            Self::Source => Shape::Variant(&source_file::SOURCE),
            Self::Sync => Shape::Section(&sync_file::SYNC),
        }
    }
}

/// The schema of a kind of file.
#[must_use]
pub fn schema(kind: FileKind) -> Value {
    let mut definitions = Definitions(BTreeMap::new());
    let root = definitions.of(&kind.shape(), false);
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!(DIALECT));
    schema.insert("title".to_owned(), json!(format!("Larder: {}", kind.as_str())));
    if let Value::Object(root) = root {
        schema.extend(root);
    }
    schema.insert("$defs".to_owned(), Value::Object(definitions.0.into_iter().collect()));
    Value::Object(schema)
}

/// The sections met so far by their ids. One that is still being written stands as null, so that it may hold itself.
struct Definitions(BTreeMap<String, Value>);

impl Definitions {
    /// `part` is true within what is laid over something else, where nothing is required.
    fn of(&mut self, shape: &Shape, part: bool) -> Value {
        match shape {
            Shape::Text => json!({ "type": "string" }),
            Shape::Span => json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$|\\$\\{" }),
            Shape::Bool => json!({ "type": "boolean" }),
            Shape::Count => json!({ "type": "integer", "minimum": 0 }),
            Shape::Percent => json!({ "type": "number", "minimum": 0, "maximum": 100 }),
            Shape::Scalar => json!({ "type": ["string", "number", "boolean", "null"] }),
            Shape::Null => json!({ "type": "null" }),
            Shape::Anything => json!({}),
            Shape::Word(words) => word(words),
            Shape::List(item) => json!({ "type": "array", "items": self.of(item, part) }),
            Shape::Map(value) => json!({ "type": "object", "additionalProperties": self.of(value, part) }),
            Shape::Section(section) => self.reference(section, part),
            Shape::Part(section) => self.reference(section, true),
            Shape::Variant(variant) => self.variant(variant),
            Shape::Either(shapes) => {
                json!({ "anyOf": shapes.iter().map(|shape| self.of(shape, part)).collect::<Vec<_>>() })
            }
        }
    }

    fn reference(&mut self, section: &'static Section, part: bool) -> Value {
        let id = if part { format!("part_of_{}", section.id) } else { section.id.to_owned() };
        if !self.0.contains_key(&id) {
            self.0.insert(id.clone(), Value::Null);
            let definition = self.section(section, part);
            self.0.insert(id.clone(), definition);
        }
        json!({ "$ref": format!("#/$defs/{id}") })
    }

    fn section(&mut self, section: &'static Section, part: bool) -> Value {
        let properties: Map<String, Value> = section
            .keys
            .iter()
            .map(|key| {
                let mut property = self.of(&key.shape, part);
                property["description"] = json!(key.about);
                (key.name.to_owned(), property)
            })
            .collect();
        let required: Vec<&str> =
            section.keys.iter().filter(|key| key.is_required && !part).map(|key| key.name).collect();
        let mut definition = json!({
            "type": "object",
            "description": section.about,
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        });
        if !section.one_of.is_empty() && !part {
            let forms: Vec<Value> = section.one_of.iter().map(|key| json!({ "required": [key] })).collect();
            definition["oneOf"] = Value::Array(forms);
        }
        definition
    }

    fn variant(&mut self, variant: &'static Variant) -> Value {
        let tag = variant.tag;
        let words: Vec<&str> = variant.cases.iter().map(|(word, _)| *word).collect();
        let mut cases: Vec<Value> = variant
            .cases
            .iter()
            .map(|(word, section)| {
                let is_case = json!({ "properties": { tag: { "const": word } }, "required": [tag] });
                json!({ "if": is_case, "then": self.reference(section, false) })
            })
            .collect();
        let mut tag_shape = word(&words);
        if let Some(other) = variant.other {
            let is_other = json!({ "properties": { tag: { "not": { "enum": words } } }, "required": [tag] });
            cases.push(json!({ "if": is_other, "then": self.reference(other, false) }));
            tag_shape = json!({ "anyOf": [{ "enum": words }, { "type": "string" }] });
        }
        json!({ "type": "object", "required": [tag], "properties": { tag: tag_shape }, "allOf": cases })
    }
}

fn word(words: &[&str]) -> Value {
    json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": "\\$\\{" }] })
}
