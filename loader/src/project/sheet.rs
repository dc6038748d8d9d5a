//! Reading a YAML tree key by key, collecting every mistake with its line.
//!
//! A reader returns `None` after it has reported why, so that the caller goes on and finds the next mistake too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::interpolate::{Variables, interpolate};
use super::node::{Content, Entry, Node};
use super::problem::Problem;
use super::span::parse_span;
use super::suggest::hint;

/// One file being read, and what was wrong with it so far.
pub(super) struct Sheet {
    file: PathBuf,
    problems: Vec<Problem>,
}

/// A mapping being read: keys are taken out of it, and what is left over is unknown.
pub(super) struct Fields {
    what: &'static str,
    line: u32,
    entries: Vec<Entry>,
    known: Vec<&'static str>,
}

impl Sheet {
    /// Starts on a file, named relative to the project's folder.
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_path_buf(), problems: Vec::new() }
    }

    /// Parses the file's text and puts the variables in.
    pub(super) fn parse(&mut self, text: &str, variables: Variables<'_>) -> Option<Node> {
        let mut node = match Node::parse(text) {
            Ok(node) => node,
            Err(error) => {
                self.problems.push(Problem { file: self.file.clone(), line: error.line, message: error.message });
                return None;
            }
        };
        node.visit_mut(&mut |node| {
            let Content::Text { text, .. } = &node.content else { return };
            match interpolate(text, variables) {
                Ok(done) => node.content = Content::Text { text: done.text, from_variable: done.has_variable },
                Err(faults) => {
                    faults.into_iter().for_each(|fault| self.report(node.line, fault));
                    node.content = Content::Broken;
                }
            }
        });
        Some(node)
    }

    /// Notes a mistake.
    pub(super) fn report(&mut self, line: u32, message: impl Into<String>) {
        self.problems.push(Problem::at(&self.file, line, message));
    }

    /// Everything that was noted, in the order of the lines.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.line);
        self.problems
    }

    /// True if nothing was noted.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Expects a mapping. `what` stands for it in sentences.
    pub(super) fn fields(&mut self, node: Node, what: &'static str) -> Option<Fields> {
        match node.content {
            Content::Map(entries) => Some(Fields { what, line: node.line, entries, known: Vec::new() }),
            _ => self.unexpected(&node, &format!("{what} must be a mapping")),
        }
    }

    /// Expects a mapping whose keys are free to choose.
    pub(super) fn entries(&mut self, node: Node, what: &str) -> Option<Vec<Entry>> {
        match node.content {
            Content::Map(entries) => Some(entries),
            _ => self.expected(&node, what, "a mapping"),
        }
    }

    /// Expects a list.
    pub(super) fn list(&mut self, node: Node, what: &str) -> Option<Vec<Node>> {
        match node.content {
            Content::List(items) => Some(items),
            _ => self.expected(&node, what, "a list"),
        }
    }

    /// Expects a text that is not empty.
    pub(super) fn text(&mut self, node: Node, what: &str) -> Option<String> {
        match node.content {
            Content::Text { text, .. } if !text.is_empty() => Some(text),
            Content::Text { .. } => {
                self.report(node.line, format!("`{what}` must not be empty"));
                None
            }
            _ => self.expected(&node, what, "a text"),
        }
    }

    /// Expects a text that a parser accepts; what the parser says against it is reported.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        node: Node,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let line = node.line;
        let text = self.text(node, what)?;
        match parse(&text) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.report(line, format!("`{what}`: {error}"));
                None
            }
        }
    }

    /// Expects one of a few words.
    pub(super) fn choice<T: Copy>(&mut self, node: Node, what: &str, choices: &[(&str, T)]) -> Option<T> {
        self.parsed(node, what, |text| {
            let found = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
            found.ok_or_else(|| format!("`{text}` is unknown; {}", hint(text, choices.iter().map(|(word, _)| *word))))
        })
    }

    /// Expects a span of time, for example `10m`.
    #[allow(dead_code, reason = "the sections that hold spans are being written")]
    pub(super) fn span(&mut self, node: Node, what: &str) -> Option<Duration> {
        self.parsed(node, what, parse_span)
    }

    /// Expects an integer that is not negative.
    pub(super) fn count(&mut self, node: Node, what: &str) -> Option<u64> {
        match node.content {
            Content::UInt(number) => Some(number),
            Content::Int(number) if number >= 0 => number.try_into().ok(),
            _ => self.expected_number(&node, what, "an integer that is not negative"),
        }
    }

    /// Expects a number from 0 to 100.
    pub(super) fn percent(&mut self, node: Node, what: &str) -> Option<f64> {
        let percent = match node.content {
            Content::Int(number) => i32::try_from(number).ok().map(f64::from),
            Content::Float(number) => Some(number),
            _ => None,
        };
        match percent.filter(|percent| (0.0..=100.0).contains(percent)) {
            Some(percent) => Some(percent),
            None => self.expected_number(&node, what, "a number from 0 to 100"),
        }
    }

    /// Notes that something else was expected of a key.
    pub(super) fn expected<T>(&mut self, node: &Node, key: &str, expected: &str) -> Option<T> {
        self.unexpected(node, &format!("`{key}` must be {expected}"))
    }

    /// Notes that another number was expected of a key. A number shows no secret: what variables bring are texts.
    fn expected_number<T>(&mut self, node: &Node, key: &str, expected: &str) -> Option<T> {
        let number = match node.content {
            Content::Int(number) => number.to_string(),
            Content::UInt(number) => number.to_string(),
            Content::Float(number) => number.to_string(),
            _ => return self.expected(node, key, expected),
        };
        self.report(node.line, format!("`{key}` must be {expected}, not {number}"));
        None
    }

    fn unexpected<T>(&mut self, node: &Node, rule: &str) -> Option<T> {
        if node.content != Content::Broken {
            self.report(node.line, format!("{rule}, not {}", node.kind()));
        }
        None
    }
}

impl Fields {
    /// The line on which the mapping begins.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    /// Takes a key's content out, if it is there. A key without content (`key:`) counts as there.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        let position = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(position).node)
    }

    /// Takes a key's content out; its absence is a mistake.
    pub(super) fn require(&mut self, key: &'static str, sheet: &mut Sheet) -> Option<Node> {
        let node = self.take(key);
        if node.is_none() {
            sheet.report(self.line, format!("{} lacks the key `{key}`", self.what));
        }
        node
    }

    /// Reports the keys that nobody took.
    pub(super) fn finish(self, sheet: &mut Sheet) {
        for entry in self.entries {
            let hint = hint(&entry.key, self.known.iter().copied());
            sheet.report(entry.line, format!("unknown key `{}` in {}; {hint}", entry.key, self.what));
        }
    }
}
