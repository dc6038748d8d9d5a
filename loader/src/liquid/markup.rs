//! The inside of outputs and tags as tokens: names, texts, numbers, signs.

use super::error::Problem;
use super::number::Number;

/// Signs, longer ones first.
const SIGNS: [&str; 16] = ["==", "!=", "<>", "<=", ">=", "..", "<", ">", "|", ":", ",", ".", "[", "]", "(", ")"];

/// A filter whose argument is a secret, which no message may hold.
const SECRETIVE: &str = "hmac_sha256";

#[derive(Debug, Clone, Copy)]
pub(super) enum Token<'t> {
    /// Letters, digits, `_` and `-`, with a `?` at the end perhaps.
    Name(&'t str),
    /// The inside of a text in quotes.
    Text(&'t str),
    Number(Number),
    /// One of [`SIGNS`], or `=`.
    Sign(&'static str),
}

/// Reads tokens one after the other.
#[derive(Debug, Clone)]
pub(super) struct Markup<'t> {
    text: &'t str,
    tokens: Vec<(Token<'t>, usize, usize)>,
    at: usize,
}

impl<'t> Markup<'t> {
    /// Takes the inside of an output or tag apart.
    ///
    /// # Errors
    /// At the first character that no token begins with.
    pub(super) fn new(text: &'t str) -> Result<Self, Problem> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(first) = text[at..].chars().next() {
            if first.is_whitespace() {
                at += first.len_utf8();
                continue;
            }
            let (token, len) = token(&text[at..], first)
                .map_err(|problem| Problem::new(format!("{} in `{}`", problem.message, shown(text))))?;
            tokens.push((token, at, at + len));
            at += len;
        }
        Ok(Self { text, tokens, at: 0 })
    }

    pub(super) fn peek(&self) -> Option<Token<'t>> {
        self.tokens.get(self.at).map(|(token, _, _)| *token)
    }

    fn peek_second(&self) -> Option<Token<'t>> {
        self.tokens.get(self.at + 1).map(|(token, _, _)| *token)
    }

    pub(super) fn next(&mut self) -> Option<Token<'t>> {
        let token = self.peek();
        self.at += usize::from(token.is_some());
        token
    }

    /// Takes a sign if it is the next token.
    pub(super) fn take(&mut self, sign: &str) -> bool {
        let is_next = matches!(self.peek(), Some(Token::Sign(next)) if next == sign);
        self.at += usize::from(is_next);
        is_next
    }

    /// Takes a name if it is the next token.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let is_next = matches!(self.peek(), Some(Token::Name(next)) if next == word);
        self.at += usize::from(is_next);
        is_next
    }

    /// Takes `name:` if it is next.
    pub(super) fn take_label(&mut self) -> Option<&'t str> {
        match (self.peek(), self.peek_second()) {
            (Some(Token::Name(name)), Some(Token::Sign(":"))) => {
                self.at += 2;
                Some(name)
            }
            _ => None,
        }
    }

    pub(super) fn expect(&mut self, sign: &str) -> Result<(), Problem> {
        if self.take(sign) { Ok(()) } else { Err(self.unexpected(&format!("`{sign}`"))) }
    }

    /// The end of the markup.
    pub(super) fn expect_end(&self) -> Result<(), Problem> {
        if self.at == self.tokens.len() { Ok(()) } else { Err(self.unexpected("nothing more")) }
    }

    /// Tells what stands here instead of what was expected.
    pub(super) fn unexpected(&self, expected: &str) -> Problem {
        match self.tokens.get(self.at) {
            Some((_, start, end)) => Problem::new(format!(
                "expected {expected} instead of `{}` in `{}`",
                &self.text[*start..*end],
                self.line()
            )),
            None => Problem::new(format!("expected {expected} at the end of `{}`", self.line())),
        }
    }

    /// Where the next token begins, for [`Markup::source`].
    pub(super) fn mark(&self) -> usize {
        self.tokens.get(self.at).map_or(self.text.len(), |(_, start, _)| *start)
    }

    /// What stands between a mark and here, on one line.
    pub(super) fn source(&self, mark: usize) -> String {
        let end = self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(0, |(_, _, end)| *end);
        shown(&self.text[mark.min(end)..end])
    }

    fn line(&self) -> String {
        shown(self.text)
    }
}

/// A piece of a template on one line, for messages. What follows [`SECRETIVE`] is left out.
fn shown(text: &str) -> String {
    let (text, cut) = match text.find(SECRETIVE) {
        Some(at) => (&text[..at + SECRETIVE.len()], " …"),
        None => (text, ""),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ") + cut
}

fn token(rest: &str, first: char) -> Result<(Token<'_>, usize), Problem> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    if let '\'' | '"' = first {
        let len = rest[1..].find(first).ok_or_else(|| Problem::new(format!("a text has no closing `{first}`")))?;
        return Ok((Token::Text(&rest[1..=len]), len + 2));
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let len = len + usize::from(rest[len..].starts_with('?'));
        return Ok((Token::Name(&rest[..len]), len));
    }
    let sign = usize::from(first == '-');
    let whole = digits(&rest[sign..]);
    if whole > 0 {
        let mut len = sign + whole;
        let fraction = rest[len..].strip_prefix('.').map_or(0, digits);
        if fraction > 0 {
            len += 1 + fraction;
        }
        let number =
            Number::parse(&rest[..len]).ok_or_else(|| Problem::new(format!("`{}` is no number", &rest[..len])))?;
        return Ok((Token::Number(number), len));
    }
    if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
        return Ok((Token::Sign(sign), sign.len()));
    }
    if first == '=' {
        return Ok((Token::Sign("="), 1));
    }
    Err(Problem::new(format!("`{first}` means nothing")))
}
