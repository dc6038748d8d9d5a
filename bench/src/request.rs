//! Requests as bytes: a template made once, into which only the looked-up key is copied.

use std::ops::Range;

use anyhow::{Context, ensure};

use crate::random::Random;
use crate::target::Target;

/// The place in a path where the key goes.
const HOLE: &str = "{}";

/// The keys that a run chooses from, each with equal chance.
#[derive(Debug, Clone)]
pub(crate) enum Keys {
    /// The decimal numbers of a range, which is not empty.
    Numbers(Range<u64>),
    /// A list, which is not empty; every key is percent-encoded already.
    List(Vec<String>),
}

impl Keys {
    /// Reads `A..B`: A included, B left out.
    pub(crate) fn parse_range(text: &str) -> Result<Range<u64>, String> {
        let (from, to) = text.split_once("..").ok_or_else(|| format!("`{text}` is no range; write it as 0..100000"))?;
        let number = |part: &str| part.parse::<u64>().map_err(|_| format!("`{part}` is not a number"));
        let range = number(from)?..number(to)?;
        if range.is_empty() { Err(format!("the range {text} is empty")) } else { Ok(range) }
    }

    /// Reads one key a line; empty lines are skipped.
    pub(crate) fn from_lines(text: &str) -> anyhow::Result<Self> {
        let keys: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(percent_encode).collect();
        ensure!(!keys.is_empty(), "the key file holds no keys; it needs one a line");
        Ok(Self::List(keys))
    }

    fn append_one(&self, random: &mut Random, out: &mut Vec<u8>) {
        match self {
            Self::Numbers(range) => {
                let number = range.start + random.below(range.end - range.start);
                out.extend_from_slice(number.to_string().as_bytes());
            }
            Self::List(keys) => {
                let at = usize::try_from(random.below(keys.len() as u64)).unwrap_or_default();
                out.extend_from_slice(keys[at].as_bytes());
            }
        }
    }
}

/// A GET request with at most one hole for a key.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    before: Vec<u8>,
    after: Vec<u8>,
    keys: Option<Keys>,
}

impl Template {
    /// A template for `path`, which holds `{}` if and only if there are keys to put there.
    pub(crate) fn new(target: &Target, path: &str, api_key: Option<&str>, keys: Option<Keys>) -> anyhow::Result<Self> {
        ensure!(path.starts_with('/'), "the path must begin with /");
        ensure!(
            path.bytes().all(|b| b.is_ascii_graphic()),
            "the path may hold visible ASCII characters only; percent-encode the others"
        );
        let (left, right) = match (path.split_once(HOLE), &keys) {
            (Some(parts), Some(_)) => parts,
            (None, None) => (path, ""),
            (Some(_), None) => anyhow::bail!("the path has a place for a key, {HOLE}; give --range or --keys too"),
            (None, Some(_)) => anyhow::bail!("the path needs {HOLE} where the key goes"),
        };
        ensure!(!right.contains(HOLE), "the path may hold {HOLE} once only");
        let headers = headers(target, api_key)?;
        Ok(Self {
            before: format!("GET {left}").into_bytes(),
            after: format!("{right} HTTP/1.1\r\n{headers}\r\n").into_bytes(),
            keys,
        })
    }

    /// Replaces `out` with one request for a random key.
    pub(crate) fn fill(&self, random: &mut Random, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.before);
        if let Some(keys) = &self.keys {
            keys.append_one(random, out);
        }
        out.extend_from_slice(&self.after);
    }
}

/// A request with a body.
pub(crate) fn with_body(
    target: &Target,
    line: &str,
    api_key: Option<&str>,
    media_type: &str,
    body: &[u8],
) -> anyhow::Result<Vec<u8>> {
    let headers = headers(target, api_key)?;
    let mut out =
        format!("{line} HTTP/1.1\r\n{headers}Content-Type: {media_type}\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    out.extend_from_slice(body);
    Ok(out)
}

fn headers(target: &Target, api_key: Option<&str>) -> anyhow::Result<String> {
    let mut headers = format!("Host: {}\r\nUser-Agent: larder-bench\r\n", target.authority);
    if let Some(key) = api_key {
        let visible = !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic());
        visible.then_some(()).context("the API key may hold visible ASCII characters only")?;
        headers.push_str(&format!("Authorization: Bearer {key}\r\n"));
    }
    Ok(headers)
}

/// Encodes one path segment: everything but the unreserved characters of RFC 3986.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target::at("127.0.0.1:8080".parse().unwrap())
    }

    fn filled(template: &Template) -> String {
        let mut out = b"left over".to_vec();
        template.fill(&mut Random::new(1), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_key_goes_into_the_hole() {
        let keys = Keys::from_lines("a/b@c d\n\n").unwrap();
        let template = Template::new(&target(), "/r/{}?x=1", Some("secret"), Some(keys)).unwrap();
        assert_eq!(
            filled(&template),
            "GET /r/a%2Fb%40c%20d?x=1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: larder-bench\r\n\
             Authorization: Bearer secret\r\n\r\n"
        );
        let template = Template::new(&target(), "/r/{}", None, Some(Keys::Numbers(41..42))).unwrap();
        assert!(filled(&template).starts_with("GET /r/41 HTTP/1.1\r\nHost"));
    }

    #[test]
    fn a_hole_and_keys_belong_together() {
        let numbers = || Some(Keys::Numbers(0..9));
        assert!(Template::new(&target(), "/r/{}", None, None).is_err());
        assert!(Template::new(&target(), "/r", None, numbers()).is_err());
        assert!(Template::new(&target(), "/r/{}/{}", None, numbers()).is_err());
        assert!(Template::new(&target(), "/r", None, None).is_ok());
    }

    #[test]
    fn nothing_can_smuggle_a_header() {
        assert!(Template::new(&target(), "/r HTTP/1.1\r\nX: y", None, None).is_err());
        assert!(Template::new(&target(), "/r", Some("a\r\nX: y"), None).is_err());
    }

    #[test]
    fn ranges_leave_their_end_out() {
        assert_eq!(Keys::parse_range("3..7"), Ok(3..7));
        for bad in ["3", "7..7", "8..7", "a..b", "..", "1..=3"] {
            assert!(Keys::parse_range(bad).is_err(), "{bad}");
        }
    }
}
