//! `key`: the columns whose values name a record.
//!
//! One column is the key as it is. Of several, the key is the texts of the columns in the order of `key`, with a
//! separator between them (`NO:42`). A separator or a `~` within a text has a `~` before it, so that two different
//! tuples never have one key: `a:` and `b` are `a~::b`, `a` and `:b` are `a:~:b`. No part is null or empty.

use std::fmt;

use super::keys::{Key, Section, Shape};
use super::node::{Content, Node};
use super::sheet::Sheet;

/// What stands before a separator, or before itself, within a part.
const ESCAPE: char = '~';
/// What may stand between parts: each is itself in the path of a URL, but for `|`, which clients write as `%7C`.
const SEPARATORS: &str = ":.-_,;=@|";
const DEFAULT_SEPARATOR: char = ':';

/// `key` as a mapping.
static KEY: Section = Section {
    what: "`key`",
    id: "key",
    about: "Columns that name a record together.",
    keys: &[
        Key::required("columns", Shape::List(&Shape::Text), "The columns, in the order in which the key has them."),
        Key::optional(
            "separator",
            Shape::Text,
            "What stands between their texts, one of `: . - _ , ; = @ |`. Default `:`.",
        ),
    ],
    one_of: &[],
};

/// What stands for a key: a column, a list of columns, or a mapping.
pub(super) static KEY_SHAPE: Shape = Shape::Either(&[Shape::Text, Shape::List(&Shape::Text), Shape::Section(&KEY)]);

/// The columns that hold the primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpec {
    /// At least one; none twice.
    columns: Vec<String>,
    separator: char,
}

impl From<&str> for KeySpec {
    /// A key of one column.
    fn from(column: &str) -> Self {
        Self { columns: vec![column.to_owned()], separator: DEFAULT_SEPARATOR }
    }
}

#[cfg(test)]
impl KeySpec {
    /// A key of these columns.
    pub(crate) fn of(columns: Vec<String>) -> Self {
        Self { columns, separator: DEFAULT_SEPARATOR }
    }
}

impl fmt::Display for KeySpec {
    /// The columns' names, as messages name them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.columns.join(", "))
    }
}

impl KeySpec {
    /// The columns in the order in which the key has them.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// What stands between the texts of several columns.
    #[must_use]
    pub fn separator(&self) -> char {
        self.separator
    }

    /// Appends one part of a key of several columns.
    pub(crate) fn put_part(separator: char, is_first: bool, part: &str, out: &mut String) {
        if !is_first {
            out.push(separator);
        }
        for letter in part.chars() {
            if letter == separator || letter == ESCAPE {
                out.push(ESCAPE);
            }
            out.push(letter);
        }
    }
}

/// Reads the key of a sync.
pub(super) fn read(node: Node, sheet: &mut Sheet) -> Option<KeySpec> {
    let line = node.line;
    let (columns, separator) = match node.content {
        Content::Text { .. } => return sheet.text(node, "key").map(|column| KeySpec::from(column.as_str())),
        Content::List(_) => (Some(node), None),
        Content::Map(_) => {
            let mut fields = sheet.fields(node, &KEY)?;
            let columns = fields.take("columns");
            let separator = fields.read("separator", sheet, |node, sheet| sheet.parsed(node, "separator", separator));
            (columns, separator)
        }
        _ => return sheet.expected(&node, "key", "a column's name or a list of columns"),
    };
    let columns = sheet.list(columns?, "key")?;
    let columns: Vec<String> = columns.into_iter().map(|node| sheet.text(node, "key")).collect::<Option<_>>()?;
    if columns.is_empty() {
        sheet.report(line, "`key` names no column");
        return None;
    }
    if let Some((_, twice)) = columns.iter().enumerate().find(|(at, column)| columns[..*at].contains(column)) {
        sheet.report(line, format!("`key` names the column `{twice}` twice"));
        return None;
    }
    Some(KeySpec { columns, separator: separator.unwrap_or(DEFAULT_SEPARATOR) })
}

fn separator(text: &str) -> Result<char, String> {
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if SEPARATORS.contains(letter) => Ok(letter),
        _ => Err(format!("must be one of the characters {SEPARATORS}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(separator: char, parts: &[String]) -> String {
        let mut out = String::new();
        for (at, part) in parts.iter().enumerate() {
            KeySpec::put_part(separator, at == 0, part, &mut out);
        }
        out
    }

    /// The parts of a key's text.
    fn parts(separator: char, text: &str) -> Vec<String> {
        let mut parts = vec![String::new()];
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                ESCAPE => parts.last_mut().unwrap().extend(letters.next()),
                _ if letter == separator => parts.push(String::new()),
                _ => parts.last_mut().unwrap().push(letter),
            }
        }
        parts
    }

    #[test]
    fn texts_are_those_of_the_documentation() {
        let key = |parts: &[&str]| text(':', &parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>());
        assert_eq!(key(&["NO", "42"]), "NO:42");
        assert_eq!(key(&["a:", "b"]), "a~::b");
        assert_eq!(key(&["a", ":b"]), "a:~:b");
        assert_eq!(key(&["a~", "b"]), "a~~:b");
    }

    proptest! {
        /// The parts can be read back, so no two tuples have one text.
        #[test]
        fn tuples_and_texts_are_one_to_one(
            tuple in proptest::collection::vec("[a:~|é.-]{1,6}", 2..4),
            separator in proptest::sample::select(SEPARATORS.chars().collect::<Vec<_>>()),
        ) {
            prop_assert_eq!(parts(separator, &text(separator, &tuple)), tuple);
        }
    }
}
