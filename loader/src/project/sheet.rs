//! Reading a YAML tree key by key, collecting every mistake with its line.
//!
//! A reader returns `None` after it has reported why, so that the caller goes on and finds the next mistake too. Which
//! keys a mapping may have is in its [`Section`]: keys that are unknown or missing are reported before any is read.

#[cfg(test)]
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::interpolate::{Variables, interpolate};
use super::keys::{Section, Variant};
use super::node::{Content, Entry, Node};
use super::problem::Problem;
use super::span::parse_span;
use super::suggest::hint;

/// One file being read, and what was wrong with it so far.
pub(super) struct Sheet {
    file: PathBuf,
    problems: Vec<Problem>,
}

/// A mapping being read: its keys are known ones, and are taken out one by one.
pub(super) struct Fields {
    line: u32,
    entries: Vec<Entry>,
    section: &'static Section,
}

impl Sheet {
    /// Starts on a file, named relative to the project's folder.
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_path_buf(), problems: Vec::new() }
    }

    /// Parses the file's text.
    pub(super) fn parse(&mut self, text: &str) -> Option<Node> {
        match Node::parse(text) {
            Ok(node) => Some(node),
            Err(error) => {
                self.problems.push(Problem { file: self.file.clone(), line: error.line, message: error.message });
                None
            }
        }
    }

    /// Puts the variables in.
    pub(super) fn interpolate(&mut self, mut node: Node, variables: &Variables<'_>) -> Node {
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
        node
    }

    /// Parses a file's text with these variables, for tests of one section.
    #[cfg(test)]
    pub(super) fn parse_with(&mut self, text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Option<Node> {
        let node = self.parse(text)?;
        let variables = Variables { environment, fallback: BTreeMap::new(), root: Path::new(".") };
        Some(self.interpolate(node, &variables))
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

    /// Expects a mapping with the keys of a section; unknown and missing ones are reported.
    pub(super) fn fields(&mut self, node: Node, section: &'static Section) -> Option<Fields> {
        self.fields_of(node, section, section.what)
    }

    /// [`Self::fields`] of one of several mappings of this kind: `what` stands for it in sentences.
    pub(super) fn fields_of(&mut self, node: Node, section: &'static Section, what: &str) -> Option<Fields> {
        let Content::Map(entries) = node.content else {
            return self.unexpected(&node, &format!("{what} must be a mapping"));
        };
        let (known, unknown): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| section.keys.iter().any(|key| key.name == entry.key));
        for entry in unknown {
            let hint = hint(&entry.key, section.keys.iter().map(|key| key.name));
            self.report(entry.line, format!("unknown key `{}` in {what}; {hint}", entry.key));
        }
        let is_given = |name: &str| known.iter().any(|entry| entry.key == name);
        for key in section.keys.iter().filter(|key| key.is_required && !is_given(key.name)) {
            self.report(node.line, format!("{what} lacks the key `{}`", key.name));
        }
        let given: Vec<&str> = section.one_of.iter().copied().filter(|name| is_given(name)).collect();
        if given.len() > 1 {
            self.report(node.line, format!("{what} has {} at once; keep one", quoted(&given, " and ")));
        } else if given.is_empty() && !section.one_of.is_empty() {
            self.report(node.line, format!("{what} needs one of {}", quoted(section.one_of, ", ")));
        }
        Some(Fields { line: node.line, entries: known, section })
    }

    /// Expects a mapping whose keys depend on the word under one of them, and tells which case it is; `None` stands for
    /// another text, where that may be.
    pub(super) fn variant(&mut self, node: Node, variant: &'static Variant) -> Option<(Option<&'static str>, Fields)> {
        let Content::Map(entries) = &node.content else {
            return self.unexpected(&node, &format!("{} must be a mapping", variant.what));
        };
        let Some(tag) = entries.iter().find(|entry| entry.key == variant.tag) else {
            self.report(node.line, format!("{} lacks the key `{}`", variant.what, variant.tag));
            return None;
        };
        if let (Content::Text { text, .. }, Some(other)) = (&tag.node.content, variant.other)
            && variant.cases.iter().all(|case| case.0 != text)
        {
            return self.fields_of(node, other, variant.what).map(|fields| (None, fields));
        }
        let cases: Vec<(&str, _)> = variant.cases.iter().map(|case| (case.0, *case)).collect();
        let (word, section) = self.choice(tag.node.clone(), variant.tag, &cases)?;
        let mut fields = self.fields_of(node, section, variant.what)?;
        fields.take(variant.tag);
        Some((Some(word), fields))
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
    pub(super) fn span(&mut self, node: Node, what: &str) -> Option<Duration> {
        self.parsed(node, what, parse_span)
    }

    /// Expects `true` or `false`.
    pub(super) fn bool(&mut self, node: Node, what: &str) -> Option<bool> {
        match node.content {
            Content::Bool(value) => Some(value),
            _ => self.expected(&node, what, "`true` or `false`"),
        }
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
        let known = self.section.keys.iter().any(|known| known.name == key);
        assert!(known, "the key `{key}` is not in the table of {}", self.section.what);
        #[cfg(test)]
        taken::note(self.section.id, key);
        let position = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(position).node)
    }

    /// Takes the one of the section's `one_of` that is given; `None` if it is not exactly one, which was reported.
    pub(super) fn take_one(&mut self) -> Option<(&'static str, Node)> {
        let mut given: Vec<_> = self.section.one_of.iter().filter_map(|key| Some((*key, self.take(key)?))).collect();
        let last = given.pop();
        last.filter(|_| given.is_empty())
    }

    /// Takes a key's content and reads it, if it is there.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        sheet: &mut Sheet,
        read: impl FnOnce(Node, &mut Sheet) -> Option<T>,
    ) -> Option<T> {
        self.take(key).and_then(|node| read(node, sheet))
    }
}

fn quoted(names: &[&str], between: &str) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(between)
}

/// Which keys were asked for, so that a test finds those that no reader asks for.
#[cfg(test)]
pub(super) mod taken {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static TAKEN: RefCell<BTreeSet<(&'static str, &'static str)>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub(in crate::project) fn note(section: &'static str, key: &'static str) {
        TAKEN.with_borrow_mut(|taken| taken.insert((section, key)));
    }

    /// The pairs of section and key that were asked for on this thread.
    pub(in crate::project) fn all() -> BTreeSet<(&'static str, &'static str)> {
        TAKEN.with_borrow(Clone::clone)
    }
}
