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

/// The words that begin statements that read.
const QUERY_WORDS: [&str; 5] = ["SELECT", "WITH", "FROM", "VALUES", "TABLE"];

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
    pub(crate) fn counting(&self, dialect: Dialect) -> Self {
        // The line's end closes a comment at the end of the text.
        let text = format!("SELECT count(*) AS n FROM (\n{}\n) AS larder_rows", without_semicolon(&self.text, dialect));
        Self { name: self.name.clone(), text, params: self.params.clone() }
    }

    pub(super) fn fault(&self, reason: impl Into<String>) -> SourceError {
        SourceError::Statement { model: self.name.clone(), reason: reason.into() }
    }

    /// Checks that this is one statement that reads, as far as its text tells.
    ///
    /// # Errors
    /// When it is none, more than one, or begins with another word than those that begin queries.
    pub(crate) fn check_reads(&self, dialect: Dialect) -> Result<(), SourceError> {
        const EXPECTED: &str = "a model is one SELECT statement";
        let mut code = String::new();
        for piece in (Pieces { rest: &self.text, dialect, before: ' ' }) {
            match piece {
                Piece::Code(text) => code.push_str(text),
                Piece::Quoted(_) | Piece::Parameter(_) => code.push('x'),
                Piece::Comment(_) => code.push(' '),
            }
        }
        let code = code.trim();
        let code = code.strip_suffix(';').unwrap_or(code).trim();
        if code.is_empty() {
            return Err(self.fault(format!("{EXPECTED}, and this is none")));
        }
        if code.contains(';') {
            return Err(self.fault(format!("{EXPECTED}, and this is more than one")));
        }
        let code = code.trim_start_matches(|c: char| c == '(' || c.is_whitespace());
        let word: String = code.chars().take_while(char::is_ascii_alphabetic).collect();
        if QUERY_WORDS.iter().any(|known| known.eq_ignore_ascii_case(&word)) {
            return Ok(());
        }
        Err(self.fault(format!("{EXPECTED} that only reads, and this begins with `{word}`")))
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

/// The text without the semicolon that may end it, before comments perhaps.
pub(crate) fn without_semicolon(text: &str, dialect: Dialect) -> String {
    let (mut at, mut last) = (0, None);
    for piece in (Pieces { rest: text, dialect, before: ' ' }) {
        let length = match piece {
            Piece::Code(";") => {
                last = Some(at);
                1
            }
            Piece::Comment(comment) => comment.len(),
            Piece::Code(code) if code.trim().is_empty() => code.len(),
            Piece::Code(other) | Piece::Quoted(other) => {
                last = None;
                other.len()
            }
            Piece::Parameter(name) => {
                last = None;
                1 + name.len()
            }
        };
        at += length;
    }
    match last {
        Some(at) => format!("{}{}", &text[..at], &text[at + 1..]),
        None => text.to_owned(),
    }
}

/// Writes what `marker` says in the place of each parameter.
pub(super) fn replace(text: &str, dialect: Dialect, mut marker: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in (Pieces { rest: text, dialect, before: ' ' }) {
        match piece {
            Piece::Parameter(name) => out.push_str(&marker(name)),
            Piece::Code(text) | Piece::Quoted(text) | Piece::Comment(text) => out.push_str(text),
        }
    }
    out
}

/// A piece of SQL.
enum Piece<'a> {
    /// A character that means something.
    Code(&'a str),
    /// A text or name with its quotes.
    Quoted(&'a str),
    Comment(&'a str),
    /// The name of a parameter, without its colon.
    Parameter(&'a str),
}

/// SQL taken into pieces.
struct Pieces<'a> {
    rest: &'a str,
    dialect: Dialect,
    /// The last character before `rest`.
    before: char,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let text = self.rest;
        let c = text.chars().next()?;
        if c == ':'
            && !ends_value(self.before)
            && let Some(name) = parameter(&text[1..])
        {
            (self.rest, self.before) = (&text[1 + name.len()..], 'x');
            return Some(Piece::Parameter(name));
        }
        let (end, wrap): (usize, fn(&'a str) -> Piece<'a>) = match c {
            '\'' | '"' | '`' => (quoted_end(text, c, self.dialect, self.before), Piece::Quoted),
            '-' if text.starts_with("--") => (text.find('\n').unwrap_or(text.len()), Piece::Comment),
            '/' if text.starts_with("/*") => (comment_end(text), Piece::Comment),
            '$' if self.dialect.has_dollar_quotes() => match dollar_end(text) {
                Some(end) => (end, Piece::Quoted),
                None => (1, Piece::Code),
            },
            c => (c.len_utf8(), Piece::Code),
        };
        let (piece, rest) = text.split_at(end);
        self.before = piece.chars().next_back().unwrap_or(self.before);
        self.rest = rest;
        Some(wrap(piece))
    }
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
    fn only_one_statement_that_reads_is_a_model() {
        for text in [
            "SELECT 1",
            "-- one\n/* ; */ (select ';' /* ; */) ; -- end",
            "WITH a AS (SELECT 1) SELECT * FROM a;",
            "FROM 'x.parquet'",
            "SELECT $$;$$",
        ] {
            assert!(statement(text, &[]).check_reads(Dialect::DuckDb).is_ok(), "{text}");
        }
        for (text, expected) in [
            ("", "this is none"),
            (" ; -- x", "this is none"),
            ("SELECT 1; SELECT 2", "more than one"),
            ("SELECT 'a'; DROP TABLE t;", "more than one"),
            ("DELETE FROM t", "begins with `DELETE`"),
            ("/* SELECT */ COPY t TO 'f'", "begins with `COPY`"),
            ("'SELECT'", "begins with `x`"),
        ] {
            let error = statement(text, &[]).check_reads(Dialect::Postgres).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
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
        for (text, inside) in [
            ("SELECT 1 -- one\n;  ", "SELECT 1 -- one\n  "),
            ("SELECT ':;' ; -- all;", "SELECT ':;'  -- all;"),
            ("SELECT 1", "SELECT 1"),
        ] {
            let text = statement(text, &[]).counting(Dialect::Postgres).text;
            assert_eq!(text, format!("SELECT count(*) AS n FROM (\n{inside}\n) AS larder_rows"));
        }
    }
}
