//! JSON text as values. Numbers stay exact, and members keep the order in which they were written.
//!
//! The text comes from a [`Fragment`](larder_types::json::Fragment), which is known to be valid and not too deep.
//! Anything else reads as null from the place of the damage on, and never panics.

use std::borrow::Cow;

use super::number::Number;
use super::value::Value;

/// Reads a valid JSON text.
pub(super) fn read(text: &str) -> Value<'_> {
    Reader { text, at: 0 }.value()
}

struct Reader<'r> {
    text: &'r str,
    at: usize,
}

impl<'r> Reader<'r> {
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or_default()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Value<'r> {
        self.skip_space();
        match self.peek() {
            b'[' => self.list(),
            b'{' => self.object(),
            b'"' => Value::Text(self.string()),
            b't' => self.word(4, Value::Bool(true)),
            b'f' => self.word(5, Value::Bool(false)),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.word(4, Value::Nil),
        }
    }

    fn word(&mut self, len: usize, value: Value<'r>) -> Value<'r> {
        self.at += len;
        value
    }

    /// Whether another item follows in a list or object, whose end is `close`.
    fn goes_on(&mut self, close: u8) -> bool {
        self.skip_space();
        if self.peek() == b',' {
            self.at += 1;
            self.skip_space();
        }
        if self.peek() == close {
            self.at += 1;
            return false;
        }
        self.at < self.text.len()
    }

    fn list(&mut self) -> Value<'r> {
        self.at += 1;
        let mut items = Vec::new();
        while self.goes_on(b']') {
            items.push(self.value());
        }
        Value::list(items)
    }

    fn object(&mut self) -> Value<'r> {
        self.at += 1;
        let mut members = Vec::new();
        while self.goes_on(b'}') {
            let name = self.string();
            self.skip_space();
            self.at += 1;
            members.push((name, self.value()));
        }
        Value::object(members)
    }

    fn number(&mut self) -> Value<'r> {
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        self.at += len;
        Number::parse(&rest[..len]).map_or(Value::Nil, Value::Number)
    }

    fn string(&mut self) -> Cow<'r, str> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut is_plain = true;
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'"' => break,
                b'\\' => {
                    is_plain = false;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
        }
        let end = self.at.min(bytes.len());
        self.at += 1;
        if is_plain {
            return Cow::Borrowed(self.text.get(start + 1..end).unwrap_or_default());
        }
        let quoted = self.text.get(start..self.at.min(bytes.len())).unwrap_or_default();
        Cow::Owned(serde_json::from_str(quoted).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_back_as_they_were_written() {
        for text in [
            r#"{"z":1,"a":[true,false,null],"q\"é":"x\ny"}"#,
            r#"[1,-2.5,12345678901234567890.123,18446744073709551615,[],{}]"#,
            r#"["\u00e9\ud83d\ude00",""]"#,
        ] {
            let mut out = String::new();
            read(text).write_json(&mut out);
            let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(parse(&out), parse(text));
        }
        let mut out = String::new();
        read(r#"{"b":12345678901234567890.123,"a":1e2}"#).write_json(&mut out);
        assert_eq!(out, r#"{"b":12345678901234567890.123,"a":100.0}"#);
    }

    #[test]
    fn damaged_text_ends_and_does_not_panic() {
        for text in ["", "[", "{", "[1,", "{\"a", "{\"a\":", "\"\\", "[[[[", "{\"é\\\":[-"] {
            let _ = read(text);
        }
    }
}
