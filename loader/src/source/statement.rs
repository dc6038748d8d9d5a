//! Statements: a text of SQL with named parameters, as models write them whatever the database.
//!
//! A parameter is `:name`. Its value is never put into the text: the text gets the marker that the database knows, and
//! the value travels beside it. What stands in texts, quoted names and comments is no parameter, and neither is a colon
//! right after a name, a quote or a bracket, where it is a path, a slice or a cast (`a::date`, `v:path`, `a[lo:hi]`).

use std::collections::BTreeMap;

use larder_types::value::Value;

use super::dialect::{Dialect, Marker};
use super::{Model, SourceError};
use crate::project::suggest::hint;

/// A statement and what it is called in messages.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// The model, or the table that is read whole.
    pub(crate) name: String,
    /// The SQL, in which parameters are `:name`.
    pub(crate) text: String,
    /// The parameters' values; each is used.
    pub(crate) params: BTreeMap<String, Value>,
}

/// A statement as a database takes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bound {
    /// The SQL with the database's own markers.
    pub(crate) text: String,
    /// The parameters that the markers stand for, in the order in which they are bound.
    pub(crate) names: Vec<String>,
}

impl Statement {
    /// A statement without parameters.
    pub(crate) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), params: BTreeMap::new() }
    }

    /// The statement of a model: its SQL, or all columns of its table.
    pub(crate) fn of(model: &Model, dialect: Dialect) -> Self {
        match model {
            Model::Sql { name, text, params } => {
                Self { name: name.clone(), text: text.clone(), params: params.clone() }
            }
            Model::Table(table) => {
                let parts = table_parts(table).unwrap_or_else(|| vec![table.clone()]);
                Self::new(table, format!("SELECT * FROM {}", dialect.relation(&parts)))
            }
        }
    }

    /// Counts the rows of this statement, by running it inside another.
    pub(crate) fn counting(&self) -> Self {
        // The line's end closes a comment at the end of the text.
        let text = format!("SELECT count(*) AS n FROM (\n{}\n) AS larder_rows", without_semicolon(&self.text));
        Self { name: self.name.clone(), text, params: self.params.clone() }
    }

    pub(super) fn fault(&self, reason: impl Into<String>) -> SourceError {
        SourceError::Statement { model: self.name.clone(), reason: reason.into() }
    }

    /// Puts a database's markers where the parameters are.
    ///
    /// # Errors
    /// When the text names a parameter without a value, or not one that has a value.
    pub(crate) fn bind(&self, dialect: Dialect) -> Result<Bound, SourceError> {
        let marker = dialect.marker();
        let mut names: Vec<String> = Vec::new();
        let mut unknown = None;
        let text = replace(&self.text, dialect, |name| {
            if !self.params.contains_key(name) {
                unknown.get_or_insert_with(|| name.to_owned());
                return String::new();
            }
            let known = names.iter().position(|other| other == name);
            if known.is_none() || marker == Marker::Question {
                names.push(name.to_owned());
            }
            match marker {
                Marker::Named => format!(":{name}"),
                Marker::Numbered => format!("${}", known.unwrap_or(names.len() - 1) + 1),
                Marker::Question => "?".to_owned(),
            }
        });
        if let Some(name) = unknown {
            let hint = hint(&name, self.params.keys().map(String::as_str));
            return Err(self.fault(format!("the parameter `:{name}` has no value in the sync's `params`; {hint}")));
        }
        if let Some(name) = self.params.keys().find(|name| !names.contains(name)) {
            let reason = format!("`params` gives `{name}`, but the SQL has no `:{name}`; write it there or remove it");
            return Err(self.fault(reason));
        }
        Ok(Bound { text, names })
    }
}

/// The parts of a table's name as a project writes it: `schema.table`, where a part may stand in double quotes and then
/// hold dots. None if a part is empty, or its quotes are not closed.
pub(crate) fn table_parts(name: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = Some(name);
    while let Some(text) = rest {
        let part;
        (part, rest) = match text.strip_prefix('"') {
            Some(inside) => quoted_part(inside)?,
            None => match text.split_once('.') {
                Some((part, after)) => (part.to_owned(), Some(after)),
                None => (text.to_owned(), None),
            },
        };
        if part.is_empty() {
            return None;
        }
        parts.push(part);
    }
    Some(parts)
}

/// A part after its first quote, and what comes after the dot behind it.
fn quoted_part(text: &str) -> Option<(String, Option<&str>)> {
    let mut part = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        part.push_str(before);
        if let Some(after) = after.strip_prefix('"') {
            part.push('"');
            rest = after;
        } else if after.is_empty() {
            return Some((part, None));
        } else {
            return Some((part, Some(after.strip_prefix('.')?)));
        }
    }
}

/// The text without the semicolon that may end it.
pub(crate) fn without_semicolon(text: &str) -> &str {
    let trimmed = text.trim_end();
    trimmed.strip_suffix(';').unwrap_or(trimmed)
}

/// Writes what `marker` says in the place of each parameter.
pub(super) fn replace(text: &str, dialect: Dialect, mut marker: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        let end = match c {
            '\'' | '"' | '`' => quoted_end(rest, c, dialect, before),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment_end(rest),
            '$' if dialect.has_dollar_quotes() => dollar_end(rest).unwrap_or(1),
            ':' if !ends_value(before) => match parameter(&rest[1..]) {
                Some(name) => {
                    out.push_str(&marker(name));
                    rest = &rest[1 + name.len()..];
                    before = 'x';
                    continue;
                }
                None => 1,
            },
            c => c.len_utf8(),
        };
        out.push_str(&rest[..end]);
        before = rest[..end].chars().next_back().unwrap_or(before);
        rest = &rest[end..];
    }
    out
}

/// Whether a colon after this belongs to what is before it. A second colon makes a cast.
fn ends_value(before: char) -> bool {
    before.is_alphanumeric() || matches!(before, ':' | '_' | '"' | '`' | '\'' | ']' | ')' | '}')
}

fn parameter(text: &str) -> Option<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts.then(|| &text[..end])
}

/// The length of a text or name in quotes. A doubled quote within is read as an end and a new beginning, which comes to
/// the same.
fn quoted_end(text: &str, quote: char, dialect: Dialect, before: char) -> usize {
    let escapes = quote == '\''
        && (dialect.escapes_with_backslash()
            || (matches!(before, 'e' | 'E') && matches!(dialect, Dialect::Postgres | Dialect::Redshift)));
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if escapes && c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// The length of a comment; comments nest.
fn comment_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (at, depth) = (at + 2, depth + 1),
            b"*/" => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of a text between dollar signs, if one begins here.
fn dollar_end(text: &str) -> Option<usize> {
    let tag = text[1..].find('$')? + 2;
    let inside = &text[1..tag - 1];
    let is_tag =
        inside.chars().all(|c| c.is_alphanumeric() || c == '_') && !inside.starts_with(|c: char| c.is_ascii_digit());
    let end = text[tag..].find(&text[..tag])?;
    is_tag.then_some(tag + end + tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(text: &str, names: &[&str]) -> Statement {
        let params = names.iter().map(|name| ((*name).to_owned(), Value::Int(1))).collect();
        Statement { name: "m".to_owned(), text: text.to_owned(), params }
    }

    fn bound(text: &str, names: &[&str], dialect: Dialect) -> (String, Vec<String>) {
        let bound = statement(text, names).bind(dialect).unwrap();
        (bound.text, bound.names)
    }

    #[test]
    fn markers_are_those_of_the_database() {
        let text = "SELECT :a, :b, :a";
        for (dialect, expected, names) in [
            (Dialect::Sqlite, "SELECT :a, :b, :a", &["a", "b"][..]),
            (Dialect::Postgres, "SELECT $1, $2, $1", &["a", "b"]),
            (Dialect::Snowflake, "SELECT ?, ?, ?", &["a", "b", "a"]),
        ] {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(bound(text, &["a", "b"], dialect), (expected.to_owned(), names), "{dialect:?}");
        }
    }

    #[test]
    fn only_what_is_a_parameter_is_taken_for_one() {
        for (text, dialect) in [
            ("SELECT ':a', \":a\", x::a, v:a, f(x):a, l[lo:a], 12:30", Dialect::Postgres),
            ("SELECT 'it''s :a' -- :a\n /* :a /* :a */ :a */", Dialect::Postgres),
            ("SELECT $$ :a $$, $x$ :a $$ :a $x$", Dialect::Postgres),
            (r"SELECT E'\' :a', '\'", Dialect::Postgres),
            (r"SELECT '\' :a'", Dialect::BigQuery),
            ("SELECT `:a`, {'k':a}, @v:=a, :", Dialect::MySql),
            ("SELECT 'never closed :a", Dialect::Postgres),
            ("SELECT /* never closed :a", Dialect::Postgres),
            ("SELECT é:a", Dialect::Postgres),
        ] {
            assert_eq!(bound(text, &[], dialect).0, text);
        }
        assert_eq!(bound("x>:a::date AND '\\'=:a", &["a"], Dialect::Postgres).0, "x>$1::date AND '\\'=$1");
        assert_eq!(bound("$1 :a $", &["a"], Dialect::Postgres).0, "$1 $1 $");
    }

    #[test]
    fn names_and_values_must_match() {
        let error = statement("SELECT :sicne", &["since"]).bind(Dialect::Postgres).unwrap_err().to_string();
        assert!(error.contains("`:sicne`") && error.contains("did you mean `since`"), "{error}");
        let error = statement("SELECT ':since'", &["since"]).bind(Dialect::Postgres).unwrap_err().to_string();
        assert!(error.contains("has no `:since`"), "{error}");
    }

    #[test]
    fn table_names_are_split_at_dots_outside_quotes() {
        for (name, parts) in [
            ("users", &["users"][..]),
            ("app.users", &["app", "users"]),
            (r#"db."my.schema"."say ""hi""""#, &["db", "my.schema", "say \"hi\""]),
            ("odd \"name", &["odd \"name"]),
        ] {
            assert_eq!(table_parts(name).unwrap(), parts, "{name}");
        }
        for name in ["", ".a", "a.", "a..b", "\"a", "\"a\"b", "\"\"", "\"a\"."] {
            assert_eq!(table_parts(name), None, "{name}");
        }
    }

    #[test]
    fn rows_are_counted_whatever_ends_the_statement() {
        let text = statement("SELECT 1 -- one\n;  ", &[]).counting().text;
        assert_eq!(text, "SELECT count(*) AS n FROM (\nSELECT 1 -- one\n\n) AS larder_rows");
    }
}
