//! A template as pieces: text, outputs `{{ }}` and tags `{% %}`. What is never parsed (`raw`, `comment`, `doc` and `#`
//! comments) is dealt with here, and so are the dashes that trim white space.

use std::ops::Range;

use super::error::Problem;

/// Tags that cannot stand inside a `liquid` tag, because they hold text as it is.
const VERBATIM: [&str; 2] = ["raw", "doc"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    Text(&'t str),
    /// The inside of a `raw` block: text that counts as output.
    Raw(&'t str),
    Output {
        markup: &'t str,
        line: usize,
    },
    Tag {
        name: &'t str,
        markup: &'t str,
        line: usize,
    },
}

/// Takes a template apart.
///
/// # Errors
/// When an output, a tag, or a block that is not parsed is not closed, or a tag has no name.
pub(super) fn pieces(template: &str) -> Result<Vec<Piece<'_>>, Problem> {
    let mut lexer = Lexer { template, at: 0, pieces: Vec::new(), trims: false };
    while lexer.at < template.len() {
        lexer.next()?;
    }
    Ok(lexer.pieces)
}

struct Lexer<'t> {
    template: &'t str,
    at: usize,
    pieces: Vec<Piece<'t>>,
    /// Whether the last mark trims the white space after it.
    trims: bool,
}

/// Where an output or tag stands, and what is in it.
struct Marked {
    whole: Range<usize>,
    inner: Range<usize>,
    is_tag: bool,
    trims_before: bool,
    trims_after: bool,
}

impl<'t> Lexer<'t> {
    fn line(&self) -> usize {
        line_of(self.template, self.at)
    }

    fn next(&mut self) -> Result<(), Problem> {
        let Some(marked) = find_mark(self.template, self.at)? else {
            self.text(self.template.len(), false);
            self.at = self.template.len();
            return Ok(());
        };
        self.text(marked.whole.start, marked.trims_before);
        self.at = marked.whole.start;
        let line = self.line();
        self.at = marked.whole.end;
        self.trims = marked.trims_after;
        let inner = self.template[marked.inner].trim();
        if !marked.is_tag {
            self.pieces.push(Piece::Output { markup: inner, line });
            return Ok(());
        }
        self.tag(inner, line).map_err(|problem| problem.at(line))
    }

    fn tag(&mut self, inner: &'t str, line: usize) -> Result<(), Problem> {
        let Some((name, markup)) = name_of_tag(inner)? else { return Ok(()) };
        match name {
            "comment" => self.skip_comment(),
            "raw" => {
                let inner = self.until("raw", markup)?;
                self.pieces.push(Piece::Raw(&self.template[inner]));
                Ok(())
            }
            "doc" => {
                let inner = self.until("doc", markup)?;
                let is_nested = end_of(self.template, inner, "doc").is_some();
                if is_nested { Err(Problem::new("a `doc` cannot stand in a `doc`")) } else { Ok(()) }
            }
            _ => {
                self.pieces.push(Piece::Tag { name, markup, line });
                Ok(())
            }
        }
    }

    /// The text up to here.
    fn text(&mut self, end: usize, trims_end: bool) {
        let mut text = &self.template[self.at..end];
        if self.trims {
            text = text.trim_start();
        }
        if trims_end {
            text = text.trim_end();
        }
        self.trims = false;
        if !text.is_empty() {
            self.pieces.push(Piece::Text(text));
        }
    }

    /// What stands up to the end of a block of text.
    fn until(&mut self, name: &str, markup: &str) -> Result<Range<usize>, Problem> {
        if !markup.is_empty() {
            return Err(Problem::new(format!("the tag `{name}` takes nothing")));
        }
        let rest = self.at..self.template.len();
        let Some(end) = end_of(self.template, rest.clone(), &format!("end{name}")) else {
            return Err(Problem::new(format!("`{name}` has no `end{name}`")));
        };
        self.at = end.whole.end;
        self.trims = end.trims_after;
        Ok(rest.start..end.whole.start)
    }

    /// Comments may stand in each other, and what is raw in them ends none.
    fn skip_comment(&mut self) -> Result<(), Problem> {
        let mut depth = 1;
        while let Some(start) = self.template[self.at..].find("{%").map(|found| self.at + found) {
            // Quotes mean nothing here: it may be prose.
            let Some(len) = self.template[start + 2..].find("%}") else { break };
            let marked = marked(self.template, start..start + 2 + len + 2, true);
            self.at = marked.whole.end;
            match self.template[marked.inner].split_whitespace().next() {
                Some("comment") => depth += 1,
                Some("raw") => {
                    if let Some(end) = end_of(self.template, self.at..self.template.len(), "endraw") {
                        self.at = end.whole.end;
                    }
                }
                Some("endcomment") => {
                    depth -= 1;
                    if depth == 0 {
                        self.trims = marked.trims_after;
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        Err(Problem::new("`comment` has no `endcomment`"))
    }
}

/// The line of a place, counted from 1.
fn line_of(template: &str, at: usize) -> usize {
    1 + template[..at].matches('\n').count()
}

/// The next output or tag.
fn find_mark(template: &str, from: usize) -> Result<Option<Marked>, Problem> {
    let rest = &template[from..];
    let (Some(start), is_tag) = (match (rest.find("{{"), rest.find("{%")) {
        (Some(output), Some(tag)) => (Some(output.min(tag)), tag < output),
        (output, tag) => (output.or(tag), tag.is_some()),
    }) else {
        return Ok(None);
    };
    let start = from + start;
    let (open, close) = if is_tag { ("{%", "%}") } else { ("{{", "}}") };
    let Some(end) = closing(template, start + 2, close) else {
        let problem = Problem::new(format!("`{open}` is not closed by `{close}`"));
        return Err(problem.at(line_of(template, start)));
    };
    Ok(Some(marked(template, start..end, is_tag)))
}

fn marked(template: &str, whole: Range<usize>, is_tag: bool) -> Marked {
    let inner = &template[whole.start + 2..whole.end - 2];
    let trims_before = inner.starts_with('-');
    let trims_after = inner.len() > usize::from(trims_before) && inner.ends_with('-');
    let inner = whole.start + 2 + usize::from(trims_before)..whole.end - 2 - usize::from(trims_after);
    Marked { whole, inner, is_tag, trims_before, trims_after }
}

/// The end of the first closing mark that stands in no text; of the first one at all, if a text is not closed.
fn closing(template: &str, from: usize, mark: &str) -> Option<usize> {
    let first = from + template[from..].find(mark)? + 2;
    if template[from..].trim_start_matches('-').trim_start().starts_with('#') {
        return Some(first);
    }
    let bytes = template.as_bytes();
    let mut at = from;
    while at + 1 < bytes.len() {
        match bytes[at] {
            quote @ (b'\'' | b'"') => match template[at + 1..].find(char::from(quote)) {
                Some(len) => at += 1 + len,
                None => return Some(first),
            },
            _ if bytes[at..].starts_with(mark.as_bytes()) => return Some(at + 2),
            _ => {}
        }
        at += 1;
    }
    Some(first)
}

/// The first tag in a range that is this name alone, whatever else stands before it.
fn end_of(template: &str, within: Range<usize>, name: &str) -> Option<Marked> {
    let mut at = within.start;
    while let Some(start) = template[at..within.end].find("{%").map(|found| at + found) {
        let end = start + 2 + template[start + 2..within.end].find("%}")? + 2;
        let marked = marked(template, start..end, true);
        if template[marked.inner.clone()].trim() == name {
            return Some(marked);
        }
        at = start + 2;
    }
    None
}

/// A tag's name and the rest of it; none for a comment.
fn name_of_tag(inner: &str) -> Result<Option<(&str, &str)>, Problem> {
    if inner.starts_with('#') {
        let is_comment = inner.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'));
        let problem = || Problem::new("every line of a `#` comment must begin with `#`");
        return if is_comment { Ok(None) } else { Err(problem()) };
    }
    let len = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
    if len == 0 {
        return Err(Problem::new("a tag begins with its name, as in `{% if … %}`"));
    }
    Ok(Some((&inner[..len], inner[len..].trim())))
}

/// The tags of a `liquid` tag, one a line.
///
/// # Errors
/// When a line begins with no name, or with a tag that holds text as it is.
pub(super) fn lines(markup: &str, first_line: usize) -> Result<Vec<Piece<'_>>, Problem> {
    let mut pieces = Vec::new();
    let mut comments = 0;
    for (number, text) in markup.split('\n').enumerate() {
        let (text, line) = (text.trim(), first_line + number);
        if text.is_empty() {
            continue;
        }
        if comments > 0 {
            match text.split_whitespace().next() {
                Some("comment") => comments += 1,
                Some("endcomment") => comments -= 1,
                _ => {}
            }
            continue;
        }
        let Some((name, markup)) = name_of_tag(text).map_err(|problem| problem.at(line))? else { continue };
        if VERBATIM.contains(&name) {
            return Err(Problem::new(format!("`{name}` cannot stand in a `liquid` tag")).at(line));
        }
        if name == "comment" {
            comments = 1;
        } else {
            pieces.push(Piece::Tag { name, markup, line });
        }
    }
    if comments > 0 { Err(Problem::new("`comment` has no `endcomment`").at(first_line)) } else { Ok(pieces) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(template: &str) -> String {
        let piece = |piece: &Piece<'_>| match piece {
            Piece::Text(text) => format!("T({text})"),
            Piece::Raw(text) => format!("R({text})"),
            Piece::Output { markup, .. } => format!("O({markup})"),
            Piece::Tag { name, markup, .. } => format!("G({name}|{markup})"),
        };
        pieces(template).map_or_else(|problem| problem.to_string(), |found| found.iter().map(piece).collect())
    }

    #[test]
    fn templates_are_taken_apart() {
        for (template, expected) in [
            ("a {{ b }} c", "T(a )O(b)T( c)"),
            ("a {{- b -}} c", "T(a)O(b)T(c)"),
            ("{{-}}{{}}", "O()O()"),
            ("{{ '}}' }}!", "O('}}')T(!)"),
            ("{{ it's }}!", "O(it's)T(!)"),
            ("{% if a %}x{%endif%}", "G(if|a)T(x)G(endif|)"),
            ("{%# don't %}{% # b %}x", "T(x)"),
            ("{% raw %}{{ a }}{% b {% endraw %}c", "R({{ a }}{% b )T(c)"),
            (
                "{% comment %}{% comment %}{% raw %}{% endcomment %}{% endraw %}{% endcomment %}{% endcomment -%}\n x",
                "T(x)",
            ),
            ("{% doc %}{{ a {% enddoc %}x", "T(x)"),
        ] {
            assert_eq!(shown(template), expected, "{template}");
        }
    }

    #[test]
    fn what_is_not_closed_is_a_problem_with_its_line() {
        for (template, expected) in [
            ("a\n{{ b", "line 2: `{{` is not closed by `}}`"),
            ("{% if", "line 1: `{%` is not closed by `%}`"),
            ("{% raw %}", "line 1: `raw` has no `endraw`"),
            ("{% comment %}{% comment %}{% endcomment %}", "line 1: `comment` has no `endcomment`"),
            ("{% doc x %}{% enddoc %}", "line 1: the tag `doc` takes nothing"),
            ("{% %}", "line 1: a tag begins with its name, as in `{% if … %}`"),
        ] {
            assert_eq!(shown(template), expected, "{template}");
        }
    }
}
