//! Faults: what a driver or database says went wrong, made fit to be shown.
//!
//! Invariants:
//! - no secret of the request is in a message, wherever the driver put it;
//! - the values that databases quote when data are at fault are not in it either.

use adbc_core::error::{Error, Status};
use arrow_schema::ArrowError;
use serde::{Deserialize, Serialize};

/// Longest message that is shown, in bytes.
const MAX_MESSAGE: usize = 2_000;
/// Longest message that a worker passes on: far longer, as one that is cut may end in a piece of a secret.
const MAX_TOLD: usize = 64 * 1024;
/// Shorter texts than this occur everywhere; a secret as short as that hides nothing.
const MIN_SECRET: usize = 4;

/// Classes of SQLSTATE in which messages quote data: data exceptions and violated constraints.
const QUOTING_CLASSES: [&str; 2] = ["22", "23"];
/// How such messages begin in databases that give no SQLSTATE.
const QUOTING_WORDS: [&str; 4] = ["Conversion Error", "Constraint Error", "Out of Range Error", "Invalid Input Error"];

/// What went wrong in a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fault {
    /// What it was about.
    pub(super) stage: Stage,
    pub(super) message: String,
    /// Five letters that say what kind of error it is, where the database gives them.
    pub(super) sqlstate: Option<String>,
    /// True if it came while rows were made, so that what it quotes may be data whatever kind it is.
    pub(super) among_rows: bool,
}

/// How far a worker had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// The library could not be loaded or is no driver.
    Driver,
    /// The database could not be reached or refused the login.
    Login,
    /// A statement was refused, or failed while it ran.
    Statement,
    /// The worker itself failed.
    Worker,
}

impl Fault {
    pub(super) fn new(stage: Stage, message: impl Into<String>) -> Self {
        Self { stage, message: message.into(), sqlstate: None, among_rows: false }
    }

    /// What an ADBC driver says.
    pub(super) fn adbc(stage: Stage, error: &Error) -> Self {
        let sqlstate: String = error.sqlstate.iter().filter_map(|c| u8::try_from(*c).ok()).map(char::from).collect();
        let known = sqlstate.len() == 5 && sqlstate.chars().all(|c| c.is_ascii_alphanumeric()) && sqlstate != "00000";
        let mut message = tidy(&error.message);
        if message.is_empty() {
            message = match error.status {
                Status::NotImplemented => "the driver does not support it".to_owned(),
                other => format!("the driver says only: {other:?}"),
            };
        }
        Self { stage, message, sqlstate: known.then_some(sqlstate), among_rows: false }
    }

    /// What the reader of a driver's rows says: the driver's own words, in those of the reader.
    pub(super) fn among_rows(error: &ArrowError) -> Self {
        let message = error.to_string();
        let said = message.split_once("Producer error: ").map_or(message.as_str(), |(_, said)| said);
        Self { among_rows: true, ..Self::new(Stage::Statement, tidy(said)) }
    }

    /// The message without what must not be shown, with its SQLSTATE.
    pub(super) fn shown(&self, secrets: &[String]) -> String {
        let class = self.sqlstate.as_deref().map(|state| &state[..2]);
        let quotes = match class {
            _ if self.among_rows => true,
            Some(class) => QUOTING_CLASSES.contains(&class),
            None => QUOTING_WORDS.iter().any(|word| self.message.contains(word)),
        };
        let message = if quotes { without_quoted(&self.message) } else { self.message.clone() };
        let mut message = redact(&message, secrets);
        cut(&mut message, MAX_MESSAGE);
        match &self.sqlstate {
            Some(state) if !message.contains(state.as_str()) => format!("{message} (SQLSTATE {state})"),
            _ => message,
        }
    }
}

/// One line of bounded length, without the driver's name in brackets before it.
fn tidy(message: &str) -> String {
    // PostgreSQL's driver repeats the whole statement.
    let message = message.split_once("Query was:").map_or(message, |(before, _)| before);
    let mut text = message.trim();
    while let Some((bracket, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        if bracket.len() > 40 {
            break;
        }
        text = rest.trim_start();
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut text = words.join(" ");
    cut(&mut text, MAX_TOLD);
    text
}

/// Cuts a text to so many bytes.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

/// Replaces what stands in quotes, and drops the details and lines of data that follow.
fn without_quoted(message: &str) -> String {
    let message = ["DETAIL:", "Detail:", "CONTEXT:", "LINE 1:"]
        .iter()
        .filter_map(|word| message.find(word))
        .min()
        .map_or(message, |end| message[..end].trim_end());
    let mut out = String::new();
    let mut quote = None;
    for c in message.chars() {
        match quote {
            Some(open) if c == open => {
                quote = None;
                out.push(c);
            }
            Some(_) => {}
            None => {
                out.push(c);
                if matches!(c, '"' | '\'') {
                    quote = Some(c);
                    out.push('…');
                }
            }
        }
    }
    out
}

/// Replaces every secret in a text, and whatever else stands where passwords do.
pub(super) fn redact(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= MIN_SECRET) {
        if text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), "***");
        }
    }
    without_passwords(&text)
}

/// A text in which `scheme://user:password@host` and `password=…` have stars for the password.
fn without_passwords(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`')).unwrap_or(after.len());
        rest = after;
        // A password may hold a slash, so the last `@` counts.
        if let Some(host) = after[..end].rfind('@') {
            let user = after[..host].split(':').next().unwrap_or_default();
            out.push_str(user);
            if user.len() < host {
                out.push_str(":***");
            }
            rest = &after[host..];
        }
    }
    out.push_str(rest);
    without_assigned(&out)
}

fn without_assigned(text: &str) -> String {
    const NAMES: [&str; 5] = ["password=", "passwd=", "pwd=", "token=", "secret="];
    let lower = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some((start, name)) =
        NAMES.iter().filter_map(|name| Some((lower[at..].find(name)? + at, name))).min_by_key(|(start, _)| *start)
    {
        let value = start + name.len();
        let is_end = |c: char| c.is_whitespace() || matches!(c, '&' | ';' | '"' | '\'' | ',' | ')');
        let end = text[value..].find(is_end).map_or(text.len(), |length| value + length);
        out.push_str(&text[at..value]);
        out.push_str("***");
        at = end;
    }
    out.push_str(&text[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(message: &str, sqlstate: Option<&str>) -> String {
        let sqlstate = sqlstate.map(str::to_owned);
        let fault = Fault { sqlstate, ..Fault::new(Stage::Statement, tidy(message)) };
        fault.shown(&["hunter2!".to_owned(), "ab".to_owned()])
    }

    #[test]
    fn values_that_a_database_quotes_are_not_shown() {
        assert_eq!(
            fault(
                "[libpq] ERROR:  invalid input syntax for type integer: \"bob@x.org\"\nCONTEXT: COPY t",
                Some("22P02")
            ),
            "ERROR: invalid input syntax for type integer: \"…\" (SQLSTATE 22P02)"
        );
        assert_eq!(
            fault("duplicate key\nDETAIL: Key (id)=(7) exists", Some("23505")),
            "duplicate key (SQLSTATE 23505)"
        );
        assert_eq!(
            fault("Conversion Error: Could not convert string 'bob' to INT32", None),
            "Conversion Error: Could not convert string '…' to INT32"
        );
        assert_eq!(
            fault("relation \"users\" does not exist", Some("42P01")),
            "relation \"users\" does not exist (SQLSTATE 42P01)"
        );
    }

    #[test]
    fn secrets_are_not_shown_wherever_they_stand() {
        for (message, expected) in [
            ("bad hunter2! and ab", "bad *** and ab"),
            ("no postgresql://me:p@host/db, none", "no postgresql://me:***@host/db, none"),
            ("no postgresql://me:p/a@s:s@host:1/db", "no postgresql://me:***@host:1/db"),
            ("see https://example.org/a:b and x://me@h", "see https://example.org/a:b and x://me@h"),
            ("dsn host=h password=x sslmode=on", "dsn host=h password=*** sslmode=on"),
            ("https://h/?user=a&Password=x&b=c", "https://h/?user=a&Password=***&b=c"),
        ] {
            assert_eq!(fault(message, None), expected);
        }
    }

    #[test]
    fn long_messages_are_cut_between_letters() {
        let text = fault(&"é".repeat(5_000), None);
        assert!(text.len() <= MAX_MESSAGE + 3 && text.ends_with('…'));
        let text = tidy(&"é".repeat(MAX_TOLD));
        assert!(text.len() <= MAX_TOLD + 3 && text.ends_with('…'));
    }

    #[test]
    fn a_secret_at_the_end_of_what_is_shown_is_not_cut_but_hidden() {
        for before in MAX_MESSAGE - 10..=MAX_MESSAGE {
            let text = fault(&format!("{}hunter2! and more", "x".repeat(before)), None);
            assert!(!text.contains("hun"), "{before}");
        }
    }
}
