//! The head of an HTTP/1.1 answer, read from bytes that may not all have arrived yet.
//!
//! Answers must carry `Content-Length`; a body in chunks or up to the end of the connection is refused, because a
//! generator that copes with everything measures itself. Nothing here trusts the sender: every length is bounded.

/// Longest head that is accepted, in bytes.
pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Longest body that is accepted, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// What the head of an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// The status code, 200 to 599.
    pub(crate) status: u16,
    /// Bytes up to and with the blank line.
    pub(crate) head_bytes: usize,
    /// Bytes of the body.
    pub(crate) body_bytes: usize,
    /// The sender will close the connection after this answer.
    pub(crate) closes: bool,
}

/// Why bytes are not an answer that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the answer does not begin with an HTTP/1.1 status line")]
    StatusLine,
    #[error("a header line of the answer has no colon")]
    Header,
    #[error("the answer's Content-Length is missing, repeated or no number; chunked bodies are not read here")]
    Length,
    #[error("the answer is larger than {MAX_HEAD_BYTES} bytes of head or {MAX_BODY_BYTES} bytes of body")]
    TooLarge,
    #[error("bytes followed the answer that nobody asked for")]
    Unasked,
}

impl Head {
    /// Reads a head; `None` when more bytes are needed.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut lines = Lines { bytes, at: 0 };
        let Some(first) = lines.next() else { return unfinished(bytes) };
        let status = parse_status(first)?;
        let mut length = None;
        let mut closes = first.starts_with(b"HTTP/1.0");
        loop {
            let Some(line) = lines.next() else { return unfinished(bytes) };
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|&b| b == b':').ok_or(Malformed::Header)?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                let parsed = parse_length(value)?;
                if length.replace(parsed).is_some() {
                    return Err(Malformed::Length);
                }
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                return Err(Malformed::Length);
            } else if name.eq_ignore_ascii_case(b"connection") {
                closes = value.eq_ignore_ascii_case(b"close");
            }
        }
        let body_bytes = match (status, length) {
            (204 | 304, _) => 0,
            (_, Some(length)) => length,
            (_, None) => return Err(Malformed::Length),
        };
        if lines.at > MAX_HEAD_BYTES {
            return Err(Malformed::TooLarge);
        }
        Ok(Some(Self { status, head_bytes: lines.at, body_bytes, closes }))
    }
}

/// Lines of a head that have arrived whole, without their line ends.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&b| b == b'\n')?;
        self.at += end + 1;
        Some(rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]))
    }
}

fn unfinished(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    if bytes.len() >= MAX_HEAD_BYTES { Err(Malformed::TooLarge) } else { Ok(None) }
}

fn parse_status(line: &[u8]) -> Result<u16, Malformed> {
    let rest =
        line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 ")).ok_or(Malformed::StatusLine)?;
    match rest {
        [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9']
        | [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] => {
            Ok([a, b, c].iter().fold(0, |code, &&digit| code * 10 + u16::from(digit - b'0')))
        }
        _ => Err(Malformed::StatusLine),
    }
}

fn parse_length(value: &[u8]) -> Result<usize, Malformed> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::Length);
    }
    let mut length = 0_usize;
    for digit in value {
        length = length * 10 + usize::from(digit - b'0');
        if length > MAX_BODY_BYTES {
            return Err(Malformed::TooLarge);
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\nX-Other: y\r\n\r\nhello, world";

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let head = Head { status: 200, head_bytes: PLAIN.len() - 12, body_bytes: 12, closes: false };
        for end in 0..head.head_bytes {
            assert_eq!(Head::parse(&PLAIN[..end]), Ok(None), "after {end} bytes");
        }
        assert_eq!(Head::parse(&PLAIN[..head.head_bytes]), Ok(Some(head)));
        assert_eq!(Head::parse(PLAIN), Ok(Some(head)));
    }

    #[test]
    fn closing_is_noticed() {
        let closes = |text: &str| Head::parse(text.as_bytes()).unwrap().unwrap().closes;
        assert!(closes("HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
        assert!(closes("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(!closes("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"));
    }

    #[test]
    fn answers_without_a_body_need_no_length() {
        assert_eq!(Head::parse(b"HTTP/1.1 304 Not Modified\r\n\r\n").unwrap().unwrap().body_bytes, 0);
        assert_eq!(Head::parse(b"HTTP/1.1 200 OK\r\n\r\n"), Err(Malformed::Length));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for (bytes, error) in [
            ("SSH-2.0-x\r\n", Malformed::StatusLine),
            ("HTTP/1.1 20 OK\r\n", Malformed::StatusLine),
            ("HTTP/1.1 2000 OK\r\n", Malformed::StatusLine),
            ("HTTP/1.1 100 Continue\r\n", Malformed::StatusLine),
            ("HTTP/1.1 200 OK\r\nno colon\r\n", Malformed::Header),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: 67108865\r\n", Malformed::TooLarge),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n", Malformed::TooLarge),
        ] {
            assert_eq!(Head::parse(bytes.as_bytes()), Err(error), "{bytes}");
        }
        assert_eq!(Head::parse(&vec![b'x'; MAX_HEAD_BYTES]), Err(Malformed::TooLarge));
    }

    #[test]
    fn bodies_up_to_the_limit_are_accepted() {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {MAX_BODY_BYTES}\r\n\r\n");
        assert_eq!(Head::parse(text.as_bytes()).unwrap().unwrap().body_bytes, MAX_BODY_BYTES);
    }
}
