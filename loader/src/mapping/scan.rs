//! What a Liquid template refers to, found out when it is compiled.
//!
//! The `liquid` crate keeps its syntax tree to itself, so this reads the tokens of outputs and tags, which are enough
//! for three questions: which columns of `row` are used, is any name used that nothing defines, and is the template
//! one single output. It runs only on templates that the crate has already accepted.

use std::collections::BTreeSet;
use std::ops::Range;

/// Words that are no variables.
const KEYWORDS: [&str; 13] =
    ["true", "false", "nil", "null", "empty", "blank", "and", "or", "contains", "in", "reversed", "continue", "with"];
/// Variables that loops define.
const LOOP_VARIABLES: [&str; 3] = ["forloop", "tablerowloop", "tablerow"];
/// Tags whose first name is defined by them.
const DEFINING_TAGS: [&str; 6] = ["assign", "capture", "for", "tablerow", "increment", "decrement"];
/// Tags that need files, which a mapping has not.
const FILE_TAGS: [&str; 2] = ["include", "render"];

/// Largest end of a range. The crate makes a list of a whole range before it loops, so a row must not choose its size.
const MAX_RANGE: i64 = 10_000;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Columns read as `row.x` or `row['x']`.
    pub(crate) columns: BTreeSet<String>,
    /// What cannot work, in sentences.
    pub(crate) problems: Vec<String>,
    /// The outputs `{{ … }}`.
    pub(crate) outputs: Vec<Output>,
    /// The loops over a variable.
    pub(crate) loops: Vec<Loop>,
}

/// One output: where it stands, where its expression stands, and whether it trims white space before and after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) whole: Range<usize>,
    pub(crate) expression: Range<usize>,
}

/// A loop: where its tag begins, and where the variable stands that it goes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loop {
    pub(crate) start: usize,
    pub(crate) over: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Name(&'a str),
    Text(&'a str),
    Number(&'a str),
    Mark(char),
}

/// Reads a template.
pub(crate) fn scan(template: &str) -> Scan {
    let mut found = Scan::default();
    let mut locals: BTreeSet<&str> = LOOP_VARIABLES.into_iter().collect();
    let mut expressions: Vec<Vec<Token<'_>>> = Vec::new();
    let mut at = 0;
    while let Some((start, is_tag)) = next_opening(template, at) {
        let Some(end) = closing(template, start + 2, is_tag) else { break };
        let inner = trimmed(template, start + 2..end);
        let mut tokens = tokens(&template[inner.clone()]);
        at = end + 2;
        if !is_tag {
            found.outputs.push(Output { whole: start..at, expression: inner });
            expressions.push(tokens);
            continue;
        }
        let Some(Token::Name(tag)) = tokens.first().copied() else { continue };
        tokens.remove(0);
        if let "raw" | "comment" = tag {
            at = end_of_block(template, at, tag);
            continue;
        }
        if let ("for" | "tablerow", Some(over)) = (tag, variable_of_loop(&template[inner.clone()])) {
            found.loops.push(Loop { start, over: inner.start + over.start..inner.start + over.end });
        }
        if FILE_TAGS.contains(&tag) {
            found.problems.push(format!("the tag `{tag}` is not available in mappings"));
        }
        if let (true, Some(Token::Name(name))) = (DEFINING_TAGS.contains(&tag), tokens.first().copied()) {
            locals.insert(name);
            tokens.remove(0);
        }
        expressions.push(tokens);
    }
    for tokens in &expressions {
        check(tokens, &locals, &mut found);
    }
    found
}

/// Where the variable stands in the inside of a loop's tag; none if the loop goes over a range or a literal.
fn variable_of_loop(tag: &str) -> Option<Range<usize>> {
    // The tag's name, the name that it defines, and `in`.
    let mut rest = tag.trim_start();
    for _ in 0..3 {
        rest = rest[rest.find(char::is_whitespace)?..].trim_start();
    }
    let start = tag.len() - rest.len();
    if !rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return None;
    }
    let (mut depth, mut quote) = (0, None);
    let is_end = |c: char| match (quote, c) {
        (Some(open), _) => {
            if c == open {
                quote = None;
            }
            false
        }
        (None, '\'' | '"') => {
            quote = Some(c);
            false
        }
        (None, '[') => {
            depth += 1;
            false
        }
        (None, ']') => {
            depth -= 1;
            false
        }
        _ => depth == 0 && (c.is_whitespace() || c == ','),
    };
    let len = rest.find(is_end).unwrap_or(rest.len());
    Some(start..start + len)
}

/// The template's expression, if the template is one output and nothing else.
pub(crate) fn single_output<'a>(template: &'a str, scan: &Scan) -> Option<&'a str> {
    let [output] = scan.outputs.as_slice() else { return None };
    let outside = template[..output.whole.start].trim().is_empty() && template[output.whole.end..].trim().is_empty();
    outside.then(|| &template[output.expression.clone()])
}

/// The column, if an expression is nothing but `row.column` or `row['column']`.
pub(crate) fn plain_column(expression: &str) -> Option<&str> {
    match tokens(expression).as_slice() {
        [Token::Name("row"), Token::Mark('.'), Token::Name(column)]
        | [Token::Name("row"), Token::Mark('['), Token::Text(column), Token::Mark(']')] => Some(column),
        _ => None,
    }
}

fn next_opening(template: &str, from: usize) -> Option<(usize, bool)> {
    let rest = &template[from..];
    let output = rest.find("{{").map(|at| (from + at, false));
    let tag = rest.find("{%").map(|at| (from + at, true));
    match (output, tag) {
        (Some(output), Some(tag)) => Some(output.min(tag)),
        (output, tag) => output.or(tag),
    }
}

/// Where the closing mark stands, skipping texts in quotes.
fn closing(template: &str, from: usize, is_tag: bool) -> Option<usize> {
    let mark: &[u8] = if is_tag { b"%}" } else { b"}}" };
    let bytes = template.as_bytes();
    let mut at = from;
    while at + 1 < bytes.len() {
        match bytes[at] {
            quote @ (b'\'' | b'"') => at += 1 + template[at + 1..].find(char::from(quote))?,
            _ if &bytes[at..at + 2] == mark => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Without the dashes that trim white space.
fn trimmed(template: &str, inner: Range<usize>) -> Range<usize> {
    let text = &template[inner.clone()];
    let front = usize::from(text.starts_with('-'));
    let back = usize::from(text.len() > front && text.ends_with('-'));
    inner.start + front..inner.end - back
}

fn end_of_block(template: &str, from: usize, tag: &str) -> usize {
    let mut at = from;
    while let Some(start) = template[at..].find("{%").map(|found| at + found) {
        let Some(end) = template[start..].find("%}").map(|found| start + found) else { break };
        let name = template[start + 2..end].trim_matches(|c: char| c.is_whitespace() || c == '-');
        at = end + 2;
        if name.strip_prefix("end") == Some(tag) {
            return at;
        }
    }
    template.len()
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let len = if matches!(first, '\'' | '"') {
            let end = rest[1..].find(first).map_or(rest.len(), |at| at + 2);
            tokens.push(Token::Text(rest[1..end].trim_end_matches(first)));
            end
        } else if is_name(first) {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            if !first.is_ascii_digit() && first != '-' {
                tokens.push(Token::Name(&rest[..end]));
            } else {
                tokens.push(Token::Number(&rest[..end]));
            }
            end
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Mark(first));
            }
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    tokens
}

/// A range `(a..b)` must have ends that are written in the template.
fn check_range(tokens: &[Token<'_>], found: &mut Scan) {
    let Some(dots) = tokens.windows(2).position(|pair| pair == [Token::Mark('.'), Token::Mark('.')]) else { return };
    let is_small = |at: Option<usize>| match at.and_then(|at| tokens.get(at)) {
        Some(Token::Number(number)) => number.parse::<i64>().is_ok_and(|number| number.abs() <= MAX_RANGE),
        _ => false,
    };
    if !is_small(dots.checked_sub(1)) || !is_small(Some(dots + 2)) {
        let message = format!("a range must run between two whole numbers of at most {MAX_RANGE}, as in (1..5)");
        found.problems.push(message);
    }
}

fn check(tokens: &[Token<'_>], locals: &BTreeSet<&str>, found: &mut Scan) {
    check_range(tokens, found);
    for (at, token) in tokens.iter().enumerate() {
        let Token::Name(name) = *token else { continue };
        let before = at.checked_sub(1).map(|at| tokens[at]);
        let is_member = before == Some(Token::Mark('.'));
        let is_filter = before == Some(Token::Mark('|'));
        let is_argument_name = tokens.get(at + 1) == Some(&Token::Mark(':'));
        if is_member || is_filter || is_argument_name || KEYWORDS.contains(&name) || locals.contains(name) {
            continue;
        }
        if name != "row" {
            found.problems.push(format!("unknown variable `{name}`; a column is written row.{name} or row['{name}']"));
            continue;
        }
        match (tokens.get(at + 1), tokens.get(at + 2), tokens.get(at + 3)) {
            (Some(Token::Mark('.')), Some(Token::Name(column)), _)
            | (Some(Token::Mark('[')), Some(Token::Text(column)), Some(Token::Mark(']'))) => {
                found.columns.insert((*column).to_owned());
            }
            _ => found.problems.push("`row` can only be used as row.column or row['column']".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(template: &str) -> Vec<String> {
        let found = scan(template);
        assert_eq!(found.problems, Vec::<String>::new(), "{template}");
        found.columns.into_iter().collect()
    }

    #[test]
    fn columns_are_found_wherever_they_are_used() {
        for (template, expected) in [
            ("{{ row.a }}", vec!["a"]),
            ("{{row['a b']}} {{ row[\"c\"] | append: row.d }}", vec!["a b", "c", "d"]),
            ("{%- if row.a > 1 and row.b contains 'row.z' -%}x{%- elsif row.c -%}{% endif %}", vec!["a", "b", "c"]),
            ("{% for x in row.list limit:2 %}{{ x.row }}{{ forloop.index }}{% endfor %}", vec!["list"]),
            ("{% assign t = row.a | plus: 1 %}{{ t }}", vec!["a"]),
            (
                "{% raw %}{{ row.no }}{% endraw %}{% comment %}{{ row.no }}{% endcomment %}row.no {{ '}} row.no' }}",
                vec![],
            ),
            ("{{ row.a | default: 1, allow_false: true }}", vec!["a"]),
            ("{{ row.list[0].x }}", vec!["list"]),
            ("{% for n in (1..5) %}{{ n }}{{ row.a }}{% endfor %}", vec!["a"]),
            ("{% case row.a %}{% when 'x' or 'y' %}1{% else %}2{% endcase %}", vec!["a"]),
        ] {
            assert_eq!(columns(template), expected, "{template}");
        }
    }

    #[test]
    fn what_cannot_work_is_a_problem() {
        for (template, word) in [
            ("{{ nobody }}", "row.nobody"),
            ("{% if nobody %}{% endif %}", "row.nobody"),
            ("{% for pair in row %}{% endfor %}", "row.column"),
            ("{{ row[row.a] }}", "row.column"),
            ("{% include 'x' %}", "include"),
            ("{% for n in (1..row.a) %}{% endfor %}", "range"),
            ("{% for n in (1..10001) %}{% endfor %}", "range"),
            ("{% assign n = 9 %}{% for x in (n..9) %}{% endfor %}", "range"),
        ] {
            let problems = scan(template).problems;
            assert!(problems.iter().any(|problem| problem.contains(word)), "{template}: {problems:?}");
        }
    }

    #[test]
    fn loops_over_variables_are_found() {
        for (template, expected) in [
            ("{% for x in row.a %}{% endfor %}", vec!["row.a"]),
            ("{%- for x in row.a[ 'b c' ].d limit:2 -%}{%- endfor -%}", vec!["row.a[ 'b c' ].d"]),
            (
                "{% tablerow x in row['a]'], cols:2 %}{% for y in x%}{% endfor %}{% endtablerow %}",
                vec!["row['a]']", "x"],
            ),
            ("{% for x in (1..5) %}{% endfor %}{% for x in 'text' %}{% endfor %}", vec![]),
            ("{% raw %}{% for x in row.a %}{% endraw %}", vec![]),
        ] {
            let found: Vec<&str> = scan(template).loops.into_iter().map(|found| &template[found.over]).collect();
            assert_eq!(found, expected, "{template}");
        }
    }

    #[test]
    fn a_single_output_is_recognised() {
        let single = |template: &'static str| single_output(template, &scan(template)).map(str::trim);
        assert_eq!(single("{{ row.a | plus: 1 }}"), Some("row.a | plus: 1"));
        assert_eq!(single("\n{{- row.a -}}\n"), Some("row.a"));
        assert_eq!(single("{{ '}}' }}"), Some("'}}'"));
        assert_eq!(single("{{ row.a }}!"), None);
        assert_eq!(single("{{ row.a }}{{ row.b }}"), None);
        assert_eq!(single("{% if row.a %}{{ row.a }}{% endif %}"), None);
    }
}
