//! Ids of requests: the client's own if it sends a fit one, else made here.

use std::cell::Cell;

use hyper::HeaderMap;
use hyper::header::HeaderValue;

use crate::error::REQUEST_ID;

/// Longest id that is taken from a client, in bytes.
const MAX: usize = 128;

/// Makes ids on one core: a random start and a step that visits every number, so that ids neither repeat nor tell how
/// many requests there were.
pub(crate) struct RequestIds {
    next: Cell<u64>,
}

impl RequestIds {
    pub(crate) fn new(seed: u64) -> Self {
        Self { next: Cell::new(seed) }
    }

    /// The id of a request with these headers.
    pub(crate) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(REQUEST_ID) {
            Some(id) if is_fit(id.as_bytes()) => id.clone(),
            _ => self.make(),
        }
    }

    fn make(&self) -> HeaderValue {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let number = self.next.get();
        self.next.set(number.wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut text = [0; 16];
        for (place, nibble) in text.iter_mut().zip((0..16).rev()) {
            *place = HEX[(number >> (4 * nibble) & 15) as usize];
        }
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("none"))
    }
}

/// Letters, digits and a few marks: what is safe in any log.
fn is_fit(id: &[u8]) -> bool {
    (1..=MAX).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(sent: &'static str) -> HeaderValue {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static(sent));
        RequestIds::new(7).of(&headers)
    }

    #[test]
    fn fit_ids_are_kept_and_others_replaced() {
        assert_eq!(id_of("abc-123"), "abc-123");
        for unfit in ["", "a b", "a\"b", "<x>"] {
            assert_eq!(id_of(unfit), "0000000000000007", "{unfit}");
        }
    }

    #[test]
    fn made_ids_differ() {
        let ids = RequestIds::new(u64::MAX);
        let (one, two) = (ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
        assert_ne!(one, two);
        assert_eq!(one.len(), 16);
    }
}
