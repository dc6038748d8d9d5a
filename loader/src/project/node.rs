//! A YAML file as a tree that knows its lines.
//!
//! Files are not deserialised straight into structs: that would stop at the first mistake of a file. The tree is read
//! key by key instead ([`super::sheet`]), and every mistake is reported with its line.
//!
//! Spelling is kept: only `true` and `false` are truth values (not `no` or `on`), and numbers with leading zeros or
//! underscores are texts.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A value and the line it begins on, counted from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) content: Content,
}

/// What stands in a place of a YAML file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer above `i64::MAX`.
    UInt(u64),
    Float(f64),
    Text {
        text: String,
        /// True once a variable has been put in.
        from_variable: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// A text whose interpolation failed, which has been reported: readers treat it as absent.
    Broken,
}

/// A key of a mapping and what it holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u32,
    pub(super) node: Node,
}

/// Why a file is not YAML: the line, where known, and what is wrong.
pub(super) struct SyntaxError {
    pub(super) line: Option<u32>,
    pub(super) message: String,
}

impl Node {
    /// Parses a file that holds one YAML document. An empty file is null.
    pub(super) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let options = serde_saphyr::options! {
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            reject_unsupported_tags: true,
            with_snippet: false,
        };
        if text.trim().is_empty() {
            return Ok(Self { line: 1, content: Content::Null });
        }
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let message = match &error {
                // The parser's own words name its options.
                serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
                    format!("the key `{key}` is there twice")
                }
                serde_saphyr::Error::DuplicateMappingKey { .. } => "a key is there twice".to_owned(),
                serde_saphyr::Error::BinaryNotUtf8 { .. } => "what `!!binary` holds is no text".to_owned(),
                _ => error.to_string(),
            };
            let Some(place) = error.location() else { return SyntaxError { line: None, message } };
            // The parser ends its messages with the place, which is reported beside the message.
            let suffix = format!(" at line {}, column {}", place.line(), place.column());
            let message = message.strip_suffix(suffix.as_str()).unwrap_or(&message).to_owned();
            SyntaxError { line: line_number(place.line()), message }
        })
    }

    /// What this is, in a word for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.content {
            Content::Null => "nothing",
            Content::Bool(_) => "a truth value",
            Content::Int(_) | Content::UInt(_) => "an integer",
            Content::Float(_) => "a number",
            Content::Text { .. } | Content::Broken => "a text",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }

    /// Calls `visit` on every node of the tree.
    pub(super) fn visit_mut(&mut self, visit: &mut dyn FnMut(&mut Self)) {
        visit(self);
        match &mut self.content {
            Content::List(items) => items.iter_mut().for_each(|item| item.visit_mut(visit)),
            Content::Map(entries) => entries.iter_mut().for_each(|entry| entry.node.visit_mut(visit)),
            _ => {}
        }
    }
}

/// A line as this module counts it; zero stands for "unknown" in the parser.
fn line_number(line: u64) -> Option<u32> {
    u32::try_from(line).ok().filter(|line| *line > 0)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self { line: line_number(spanned.referenced.line()).unwrap_or(1), content: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Content, E> {
        Ok(Content::Bool(yes))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Content, E> {
        Ok(Content::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Content, E> {
        Ok(i64::try_from(number).map_or(Content::UInt(number), Content::Int))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Content, E> {
        // An integer of more than 64 bits arrives here with its low digits lost.
        const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
        if number.abs() >= TWO_TO_63 {
            return Err(E::custom(
                "a number that 64 bits do not hold exactly; put it in quotes and give the field a type",
            ));
        }
        Ok(Content::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text { text: text.to_owned(), from_variable: false })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Content::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<Content>>()? {
            let Content::Text { text, .. } = key.value else {
                return Err(A::Error::custom("a key must be a text; put it in quotes"));
            };
            let line = line_number(key.referenced.line()).unwrap_or(1);
            entries.push(Entry { key: text, line, node: access.next_value()? });
        }
        Ok(Content::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Content {
        Node::parse(text).map_err(|e| e.message).unwrap().content
    }

    fn text(text: &str) -> Content {
        Content::Text { text: text.to_owned(), from_variable: false }
    }

    #[test]
    fn scalars_keep_what_was_written() {
        for (yaml, expected) in [
            ("~", Content::Null),
            ("true", Content::Bool(true)),
            ("no", text("no")),
            ("\"1\"", text("1")),
            ("007", text("007")),
            ("1_000", text("1_000")),
            ("2013-01-01", text("2013-01-01")),
            ("-9223372036854775808", Content::Int(i64::MIN)),
            ("18446744073709551615", Content::UInt(u64::MAX)),
            ("1.5", Content::Float(1.5)),
        ] {
            assert_eq!(parse(yaml), expected, "{yaml}");
        }
        let error = Node::parse("a: 18446744073709551616").map_err(|e| e.message).unwrap_err();
        assert!(error.contains("64 bits"), "{error}");
    }

    #[test]
    fn lines_of_keys_and_values_are_known() {
        let Content::Map(entries) = parse("# note\na: 1\nb:\n  - x\n  - {c: y}\n") else { panic!("not a map") };
        assert_eq!((entries[0].line, entries[1].line), (2, 3));
        let Content::List(items) = &entries[1].node.content else { panic!("not a list") };
        assert_eq!((items[0].line, items[1].line), (4, 5));
    }

    #[test]
    fn messages_do_not_speak_of_the_parser() {
        for (yaml, expected) in [
            ("a: 1\nb: 2\na: 3\n", "the key `a` is there twice"),
            ("x: {a: 1, a: 2}", "the key `a` is there twice"),
            ("a: !!binary \"/w==\"\n", "what `!!binary` holds is no text"),
        ] {
            let error = Node::parse(yaml).map(|_| ()).unwrap_err();
            assert_eq!(error.message, expected);
        }
    }

    #[test]
    fn mistakes_of_syntax_are_errors_with_a_line() {
        for (yaml, line) in [("a: 1\na: 2\n", 2), ("a: [1\nb: 2\n", 2), ("a: 1\nb: !secret x\n", 2)] {
            let error = Node::parse(yaml).map(|_| ()).unwrap_err();
            assert_eq!(error.line, Some(line), "{yaml}: {}", error.message);
            assert!(!error.message.contains("at line"), "{}", error.message);
        }
        assert!(Node::parse("a: 1\n---\nb: 2\n").is_err(), "a second document was ignored");
    }
}
